"""Scenario: a connection that is dead and does not say so, as a firewall or a NAT that forgot it leaves behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Self
from urllib.parse import urlsplit

from mlproducer.events import HealthChecked
from mlproducer.reliability.stage import Stage

SETTINGS: Final[Mapping[str, float]] = {"ml_health_interval": 1.0, "ml_health_timeout": 1.0}
_CHUNK: Final = 65_536


class Relay:
    """A TCP relay on loopback. `freeze` keeps every open connection open and forwards nothing of it any more; those
    that come later are forwarded as before. What the target says arrives `late` seconds after it. An async context
    manager.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._frozen: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.late = 0.0

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

    @classmethod
    def to(cls, url: str) -> Self:
        """To the host of a URL."""
        there = urlsplit(url)
        return cls(there.hostname or "127.0.0.1", there.port or 5672)

    def url(self, url: str) -> str:
        """The same URL, through here."""
        there = urlsplit(url)
        return there._replace(netloc=f"{there.username}:{there.password}@127.0.0.1:{self.port}").geturl()

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

    def cut(self) -> None:
        """As a router that restarts does: both ends of each connection are told."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._writers.add(far_writer)
        for source, sink, late in ((reader, far_writer, _in_time), (far_reader, writer, lambda: self.late)):
            pump = asyncio.create_task(_pump(source, sink, late))
            self._pumps.add(pump)


def _in_time() -> float:
    return 0.0


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, late: Callable[[], float]) -> None:
    arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    carrier = asyncio.create_task(_carry(arrived, sink))
    try:
        while data := await source.read(_CHUNK):
            arrived.put_nowait((time.monotonic() + late(), data))
    except ConnectionError:
        pass  # the other end is gone: so is this one
    except asyncio.CancelledError:
        carrier.cancel()  # frozen: the sink stays open
        raise
    arrived.put_nowait((0.0, b""))
    await asyncio.gather(carrier, return_exceptions=True)
    sink.close()


async def _carry(arrived: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
    """In order, each at its moment, until the empty one."""
    while True:
        at, data = await arrived.get()
        if not data:
            return
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        sink.write(data)
        await sink.drain()


async def health_check(stage: Stage) -> None:
    """A relay between producer and broker stops forwarding and keeps the sockets open; nobody publishes meanwhile."""
    book, few = stage.book, stage.scale.few
    async with (
        Relay.to(stage.url) as relay,
        stage.trial(stage.settings(rabbitmq_url=relay.url(stage.url), **SETTINGS)) as trial,
    ):
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
