"""Scenario: a connection that is dead and does not say so, as a firewall or a NAT that forgot it leaves behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final, Self
from urllib.parse import urlsplit

from mlproducer.events import HealthChecked
from mlproducer.reliability.stage import Stage

SETTINGS: Final[Mapping[str, float]] = {"ml_health_interval": 1.0, "ml_health_timeout": 1.0}
_CHUNK: Final = 65_536


class Relay:
    """A TCP relay on loopback. `freeze` keeps every open connection open and forwards nothing of it any more; those
    that come later are forwarded as before. An async context manager.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._frozen: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # nobody at a frozen end would take what is left
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the relay is not entered")
        return int(self._server.sockets[0].getsockname()[1])

    def freeze(self) -> int:
        """How many connections are silent from now on."""
        frozen = [pump for pump in self._pumps if not pump.done()]
        for pump in frozen:
            pump.cancel()  # the sockets stay open: the kernel goes on taking bytes, and nobody reads them
        return len(frozen) // 2

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._writers.add(far_writer)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass  # the other end is gone: so is this one
    sink.close()  # not reached by a frozen pump, which is cancelled


async def health_check(stage: Stage) -> None:
    """A relay between producer and broker stops forwarding and keeps the sockets open; nobody publishes meanwhile."""
    book, few = stage.book, stage.scale.few
    there = urlsplit(stage.url)
    async with Relay(there.hostname or "127.0.0.1", there.port or 5672) as relay:
        through = there._replace(netloc=f"{there.username}:{there.password}@127.0.0.1:{relay.port}").geturl()
        async with stage.trial(stage.settings(rabbitmq_url=through, **SETTINGS)) as trial:
            book.step(f"{few} tasks through a relay between producer and broker")
            await trial.burst(few)
            await trial.heard(HealthChecked, 0.0, "a good health check", lambda event: event.ok)
            book.step("the relay stops forwarding and keeps the sockets open; nobody publishes")
            frozen = relay.freeze()
            silent = time.monotonic()
            believed = trial.producer.status().connection
            found = await trial.heard(HealthChecked, silent, "a failed health check", lambda event: not event.ok)
            book.time_to_detect = found - silent
            error = next(event.text for event in trial.told(HealthChecked, silent) if not event.ok)
            book.step("found; tasks are spooled while the producer connects again")
            await trial.burst(few)
            book.time_to_recover = await stage.drained(trial) - found
            await trial.is_whole()
    book.saw(
        "the connection was dead, and to TCP it looked alive",
        ok=frozen == 1 and believed == "connected",
        instead=f"{frozen} connections fell silent, and the producer was {believed}",
    )
    book.saw(f"the health check found it after {book.time_to_detect:.1f} s: {error.partition(': ')[2]}", ok=True)
