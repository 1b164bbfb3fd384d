"""The producer in a FastAPI application: made when it starts, drained when it stops, handed out by `Depends`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from fastapi import FastAPI, Request

from mlproducer.envelope.types import TaskType
from mlproducer.http.console.pulse import Pulse
from mlproducer.http.sessions import Sessions
from mlproducer.ports import Listener
from mlproducer.settings import Settings
from mlproducer.shares.processor import ShareProcessor
from mlproducer.wiring import GetCredentials, Producer

_NAME: Final = "mlproducer"


def lifespan_for(
    settings: Settings | None = None,
    *,
    task_types: Sequence[TaskType] = (),
    listeners: Sequence[Listener] = (),
    credentials: GetCredentials | None = None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan with these settings, or, if None, with those of the environment when the application starts.

    The rest is as for `Producer`. Within a lifespan of one's own: `async with lifespan(app): ...; yield`.

    Raises, when the application starts: SettingsError, SpoolUnavailable. A broker that is down is no error.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Producer(settings, task_types=task_types, listeners=listeners, credentials=credentials) as running:
            attach(app, running)
            try:
                yield
            finally:
                detach(app)

    return lifespan


lifespan = lifespan_for()
"""`FastAPI(lifespan=lifespan)`: with the settings of the environment."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an application holds. One share processor a producer, because it remembers what it published."""

    producer: Producer
    shares: ShareProcessor
    pulse: Pulse
    sessions: Sessions = field(default_factory=Sessions)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the service begins to stop: calls that could go on for ever end then."""


def attach(app: FastAPI, producer: Producer) -> None:
    """Give an application a producer that somebody else starts and stops."""
    shares = ShareProcessor.from_settings(producer.publish, producer.settings, producer.task_types)
    setattr(app.state, _NAME, Held(producer, shares, Pulse(producer)))


def detach(app: FastAPI) -> None:
    _of(app).pulse.stop()
    delattr(app.state, _NAME)


def tell_stopping(app: FastAPI) -> None:
    """The service begins to stop."""
    _of(app).stopping.set()
    _of(app).pulse.stop()


def start_pulse(app: FastAPI) -> None:
    """Sample for the console from now on, so that who opens it sees what was before. Else it begins with the first."""
    _of(app).pulse.start()


async def get_producer(request: Request) -> Producer:
    """The application's producer, for `Depends(get_producer)`.

    Raises: RuntimeError, if the application runs without our lifespan.
    """
    return _held(request).producer


async def get_processor(request: Request) -> ShareProcessor:
    """The share processor over the application's producer. Raises: as `get_producer`."""
    return _held(request).shares


async def get_stopping(request: Request) -> asyncio.Event:
    """Set when the service begins to stop. Raises: as `get_producer`."""
    return _held(request).stopping


async def get_pulse(request: Request) -> Pulse:
    """What consoles are told of the producer. Raises: as `get_producer`."""
    return _held(request).pulse


async def get_sessions(request: Request) -> Sessions:
    """Who is signed in at the console. Raises: as `get_producer`."""
    return _held(request).sessions


def _held(request: Request) -> Held:
    return _of(request.app)


def _of(app: FastAPI) -> Held:
    held = getattr(app.state, _NAME, None)
    if not isinstance(held, Held):
        raise RuntimeError(  # noqa: TRY004  # not about a type: the wiring is missing
            "this application has no producer: make it with FastAPI(lifespan=mlproducer.http.lifespan), or enter "
            "`async with mlproducer.http.lifespan(app):` in your own lifespan; with httpx.ASGITransport, enter "
            "app.router.lifespan_context(app) first, because that transport runs no lifespan"
        )
    return held
