"""Running the service: bind, start the producer, serve, and on a signal stop in order.

Order of a stop: no new connections, and no new tasks from those there are (503); what is in flight may be confirmed
within `ML_SHUTDOWN_TIMEOUT`; the rest is spooled, and all of their callers get their answers. A second signal skips
the wait for clients, not the one for tasks.
"""

from __future__ import annotations

import asyncio
import errno
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from mlproducer.errors import SettingsError
from mlproducer.http.app import create_app
from mlproducer.http.auth import refuse_open_door
from mlproducer.http.fast import loop_name, parser_name
from mlproducer.http.holder import start_pulse, tell_stopping
from mlproducer.loggers import get_logger
from mlproducer.settings import Settings
from mlproducer.wiring import Producer

_log = get_logger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Service:
    """One run of the HTTP service. The address is bound at once; `port` tells it where `ML_PORT` is 0.

    `producer` is one that is not started yet, such as one with task types of its own; None makes one of the settings.
    It lives as long as the service.

    Raises: SettingsError, naming ML_HOST or ML_PORT if the address cannot be bound, and ML_API_KEYS if the service
        would stand open to the network.
    """

    def __init__(self, settings: Settings, producer: Producer | None = None) -> None:
        refuse_open_door(settings)
        self._settings = settings
        self._producer = Producer(settings) if producer is None else producer
        self._socket = bind(settings.ml_host, settings.ml_port)
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        host = self._settings.ml_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def run(self, *, ready: asyncio.Event | None = None, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set, or without it until SIGINT or SIGTERM. `ready` is set once requests are taken.

        Does not wait for the broker: until it answers, tasks are spooled.

        Raises: SettingsError; SpoolUnavailable, if the spool cannot be opened.
        """
        with self._socket:
            async with self._producer:
                await self._serve(ready, stop)

    async def _serve(self, ready: asyncio.Event | None, stop: asyncio.Event | None) -> None:
        app = create_app(self._settings, self._producer)
        config = self._config(app)
        start_pulse(app)

        def started() -> None:
            _log.info("listening on %s (event loop: %s; HTTP parser: %s)", self.url, loop_name(), parser_name(config))
            if ready is not None:
                ready.set()

        async def drain() -> None:
            tell_stopping(app)
            await self._producer.stop()

        server = _Server(config, started, drain)
        if stop is not None:
            watch = asyncio.get_running_loop().create_task(_stop_on(server, stop))
            try:
                await server.serve(sockets=[self._socket])
            finally:
                watch.cancel()
        else:
            with _signals(server):
                await server.serve(sockets=[self._socket])

    def _config(self, app: FastAPI) -> uvicorn.Config:
        # Clients get their answers as the producer settles its tasks: at most the shutdown timeout, and then the time
        # of a commit to the spool. Who has not sent its request or read its answer a second later is let go.
        patience = self._settings.ml_shutdown_timeout + self._settings.ml_confirm_timeout + 1
        return uvicorn.Config(
            app,
            lifespan="off",  # the producer is started above, where its errors reach the caller as they are
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=math.ceil(patience),
        )


async def serve(
    settings: Settings,
    producer: Producer | None = None,
    *,
    ready: asyncio.Event | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until told to stop; see `Service`. Raises: SettingsError, SpoolUnavailable."""
    await Service(settings, producer).run(ready=ready, stop=stop)


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises: SettingsError, naming the setting to change."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise SettingsError(f"ML_HOST: {host} is no name or address of this machine ({error.strerror})") from error
    bound = socket.socket(family, kind, protocol)
    try:
        # A port whose last connections are still winding down (TIME_WAIT) may be bound again; one in use may not.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Listening already here, because of two sockets that are only bound so, the second to listen fails.
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise SettingsError(_why_unbound(error, host, port)) from error
    return bound


def _why_unbound(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"ML_PORT: port {port} of {host} is in use by another program, perhaps another mlproducer; stop it, or "
                "set ML_PORT to a free port (0 takes any)"
            )
        case errno.EACCES:
            return f"ML_PORT: this user may not bind port {port}; ports below 1024 need root, so set a higher one"
        case errno.EADDRNOTAVAIL:
            return f"ML_HOST: {host} is no address of this machine; 127.0.0.1 serves this machine, 0.0.0.0 the network"
        case _:
            return f"ML_HOST, ML_PORT: cannot bind port {port} of {host}: {error.strerror}"


class _Server(uvicorn.Server):
    """uvicorn with a drain beside its own stop, and without its signal handlers, which would end the process by the
    signal after the stop.
    """

    def __init__(
        self, config: uvicorn.Config, on_started: Callable[[], None], drain: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._drain = drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Beside it and not before it: the listeners are closed first, which needs no await; then the drain settles
        # the tasks for whose answers uvicorn waits.
        draining = asyncio.ensure_future(self._drain())
        await super().shutdown(sockets)
        await draining


async def _stop_on(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True


@contextmanager
def _signals(server: uvicorn.Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for each in _SIGNALS:
        loop.add_signal_handler(each, on_signal)
    try:
        yield
    finally:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
