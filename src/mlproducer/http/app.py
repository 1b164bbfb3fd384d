"""The service as a FastAPI application."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlproducer.http import analytics, dead_letters, docs, operations, shares, tasks
from mlproducer.http.auth import refuse_open_door
from mlproducer.http.console import routes as console
from mlproducer.http.holder import attach, lifespan_for
from mlproducer.http.problems import problem_of, problem_response
from mlproducer.loggers import get_logger
from mlproducer.settings import Settings
from mlproducer.wiring import Producer

_log = get_logger(__name__)

router: Final = APIRouter()
"""All calls under /api, to mount into an application of one's own, which then needs our lifespan."""
for _each in (
    tasks.router,
    shares.router,
    operations.open_router,
    operations.router,
    dead_letters.router,
    analytics.router,
):
    router.include_router(_each)


def create_app(settings: Settings, producer: Producer | None = None) -> FastAPI:
    """The whole service. `producer` is one that the caller starts and stops; None makes one that lives with the app.

    Raises: SettingsError, if it would stand open to the network without keys.
    """
    refuse_open_door(settings)
    app = FastAPI(
        title="mlproducer",
        version=version("mlproducer"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan_for(settings) if producer is None else None,
        # Not by include_router, which builds the schemas of all routes anew for each application.
        routes=[*router.routes, *docs.router.routes, *console.router.routes],
    )
    if producer is not None:
        attach(app, producer)
    app.add_middleware(Outermost)
    app.add_exception_handler(HTTPException, problem_response)
    app.add_exception_handler(RequestValidationError, problem_response)
    return app


class Outermost:
    """Turns what nobody foresaw into a problem that says nothing of it, and a log entry that says all.

    Not an exception handler of Starlette: after that, Starlette raises again, and the server logs a second time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_safely)
        except Exception as error:
            _log.exception("a request failed: %s %s", scope["method"], scope["path"])
            if started:
                raise  # the head is out: all that is left is to break the connection off
            await problem_of(error).response()(scope, receive, send_safely)
