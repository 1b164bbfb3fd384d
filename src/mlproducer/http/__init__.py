"""The HTTP service, and the wiring of a producer into somebody's own FastAPI application.

app = FastAPI(lifespan=lifespan)
app.include_router(router)  # if you want our calls, too
app.add_exception_handler(MLProducerError, problem_response)  # a full spool in a route of yours is then a 503


@app.post("/articles")
async def article(producer: Annotated[Producer, Depends(get_producer)]) -> ...: ...
"""

from mlproducer.http.app import create_app, router
from mlproducer.http.holder import get_producer, lifespan, lifespan_for
from mlproducer.http.problems import problem_response

__all__ = ["create_app", "get_producer", "lifespan", "lifespan_for", "problem_response", "router"]
