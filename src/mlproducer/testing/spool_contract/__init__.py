"""What every spool must do: subclass `SpoolContract` in a test module and give it a `make_spool` fixture.

It needs pytest with pytest-asyncio. The same sentences hold for every store; what is special to one is tested apart.

A store has one time, its own, and the contract moves it: the `clock` fixture is a `StoreClock` that begins at `NOW`.
For a store that takes a `ports.Clock` it is a `ManualClock`, the default; for a server, something that sets its clock.
"""

from __future__ import annotations

import time

import pytest

from mlproducer.testing.clock import ManualClock
from mlproducer.testing.spool_contract.examples import (
    DONE,
    HISTORY,
    NOW,
    MakeSpool,
    SetHost,
    StoreClock,
    audit,
    claim,
    confirm,
    confirmed,
    dead_entry,
    entry,
    held,
    is_as_put,
    is_confirmed,
    row,
    settle,
    waits,
)
from mlproducer.testing.spool_contract.of_dead_letters import OfDeadLetters
from mlproducer.testing.spool_contract.of_ids import OfIds
from mlproducer.testing.spool_contract.of_routes import OfRoutes, OfTenants
from mlproducer.testing.spool_contract.of_rows import OfRows
from mlproducer.testing.spool_contract.of_time import OfTime

__all__ = [
    "DONE",
    "HISTORY",
    "NOW",
    "MakeSpool",
    "SetHost",
    "SpoolContract",
    "StoreClock",
    "audit",
    "claim",
    "confirm",
    "confirmed",
    "dead_entry",
    "entry",
    "held",
    "is_as_put",
    "is_confirmed",
    "row",
    "settle",
    "waits",
]


class SpoolContract(OfRows, OfRoutes, OfTenants, OfDeadLetters, OfIds, OfTime):
    """The sentences. Each test gets a spool of its own, open and empty."""

    @pytest.fixture
    def clock(self) -> StoreClock:
        return ManualClock(NOW)

    @pytest.fixture
    def set_host(self, clock: StoreClock, monkeypatch: pytest.MonkeyPatch) -> SetHost:
        """Sets the wall clock of the host forward by some seconds, or back; no time passes."""

        def set_(by: float) -> None:
            wall = time.time
            monkeypatch.setattr(time, "time", lambda: wall() + by)
            if isinstance(clock, ManualClock):
                clock.set_wall(by)

        return set_

    @pytest.fixture
    async def spool(self, make_spool: MakeSpool, clock: StoreClock):  # type: ignore[no-untyped-def]  # noqa: ANN201  # a fixture
        del clock  # it stands still from before the spool is open
        spool = make_spool()
        await spool.open()
        yield spool
        await spool.close()
