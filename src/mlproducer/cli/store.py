"""The spool as an operator's tool sees it: beside a running producer, or with none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from msgspec.structs import replace

from mlproducer.core.facts import Room
from mlproducer.delivery.replay import Replayer
from mlproducer.delivery.spool_time import SpoolTime
from mlproducer.ports import CountingSpool, Spool
from mlproducer.rows import DeadFilter, SpoolSize
from mlproducer.settings import Settings
from mlproducer.wiring import SystemClock, gate_for, spool_for


@asynccontextmanager
async def looking_at(settings: Settings) -> AsyncIterator[CountingSpool]:
    """The spool of these settings, not owned: a producer that runs keeps its leases. Raises: SpoolUnavailable."""
    spool = spool_for(settings, owner=False)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


async def replayer(spool: Spool, sleep: Callable[[float], Awaitable[None]]) -> Replayer:
    """Replays and purges through the spool itself; a running service finds what came back at its next poll."""
    return Replayer(spool, await time_of(spool), sleep)


async def time_of(spool: Spool) -> SpoolTime:
    """The time that dead letters have theirs of: on a server not that of this host."""
    clock = SpoolTime(SystemClock())
    asked = clock.monotonic()
    at = (await spool.measure()).at
    if at is not None:
        clock.heard(at, asked)
    return clock


def in_time(where: DeadFilter, clock: SpoolTime) -> DeadFilter:
    """With its ages, which were counted back from this host's present, counted back from the spool's."""
    moments = {"older_than": where.older_than, "newer_than": where.newer_than}
    return replace(where, **{name: at - clock.apart for name, at in moments.items() if at is not None})


def room_of(size: SpoolSize, settings: Settings, late: float) -> Room:
    """What a spool has that nobody is known to fill; `late`: seconds for which a task has waited untold."""
    gate = gate_for(settings)
    limit, fill = gate.nearest(size.tasks, size.bytes, late)
    closed = gate.refuses(size.tasks, size.bytes, late)
    return Room(size.tasks, size.bytes, fill, limit, closed=closed, late=late, dead=size.dead)
