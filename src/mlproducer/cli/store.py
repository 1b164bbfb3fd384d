"""The spool as an operator's tool sees it: beside a running producer, or with none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from mlproducer.delivery.replay import Replayer
from mlproducer.ports import CountingSpool, Spool
from mlproducer.settings import Settings
from mlproducer.wiring import SystemClock, spool_for


@asynccontextmanager
async def looking_at(settings: Settings) -> AsyncIterator[CountingSpool]:
    """The spool of these settings, not owned: a producer that runs keeps its leases. Raises: SpoolUnavailable."""
    spool = spool_for(settings, owner=False)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


def replayer(spool: Spool, sleep: Callable[[float], Awaitable[None]]) -> Replayer:
    """Replays and purges through the spool itself; a running service finds what came back at its next poll."""
    return Replayer(spool, SystemClock(), sleep)
