"""An application of its own that publishes tasks, with mlproducer's calls beside its routes.

uvicorn examples.fastapi_app:app      # then: curl -d '{"text": "…"}' -H 'Content-Type: application/json' \
                                      #            http://127.0.0.1:8000/articles/7

The settings are those of the environment (RABBITMQ_URL, ML_SPOOL_URL, ML_API_KEYS …). Without a broker the articles
are accepted all the same: their tasks wait in the spool.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from mlproducer import MLProducerError, Producer
from mlproducer.http import get_producer, lifespan, problem_response, router

app = FastAPI(title="articles", lifespan=lifespan)  # starts the producer, and drains it when the application stops
app.include_router(router)  # /api/ml/…, guarded by ML_API_KEYS; leave it out if nobody is to call it
app.add_exception_handler(MLProducerError, problem_response)  # a wrong task is a 422, a full spool a 503


class Article(BaseModel):
    text: str


@app.post("/articles/{article_id}", status_code=202)
async def save(
    article_id: str, article: Article, producer: Annotated[Producer, Depends(get_producer)]
) -> dict[str, str]:
    """Keep an article, and have it embedded. When this answers, the task is with RabbitMQ or in the spool."""
    receipt = await producer.publish_embedding_task(article_id, article.text)
    return {"task_id": receipt.task_id, "state": receipt.state}
