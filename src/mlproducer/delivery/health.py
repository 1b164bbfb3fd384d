"""Two clocks' work: the health check (every 30 s) and the gauges (every second)."""

from __future__ import annotations

import asyncio
from typing import Final

from mlproducer.core.supervisor import SupervisorState
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.link import LinkKeeper
from mlproducer.errors import BrokerError, SpoolUnavailable
from mlproducer.events import FlightMeasured, HealthChecked, QueueMeasured, SpoolFailed, SpoolMeasured
from mlproducer.ports import Broker, Clock, Listener, Spool, SpoolSize

GAUGE_INTERVAL: Final = 1.0
"""Seconds. A scraper asks every 5 to 60 s; one second keeps the console honest and costs one indexed read."""


class HealthCheck:
    """A passive declare on a channel of its own; a failure hands over to the link keeper."""

    def __init__(self, broker: Broker, link: LinkKeeper, clock: Clock, tell: Listener, interval: float) -> None:
        self._broker = broker
        self._link = link
        self._clock = clock
        self._tell = tell
        self._interval = interval
        self.last: HealthChecked | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self.check()

    async def check(self) -> None:
        """One round: check a connected link, or give an exhausted one its slow probe."""
        if self._link.state is not SupervisorState.CONNECTED:
            self._report(ok=False, duration=0.0, text=self._link.last_error or "not connected")
            self._link.probe()
            return
        started = self._clock.monotonic()
        try:
            await self._broker.check()
            depths = await self._broker.queue_depths()
        except BrokerError as error:
            self._report(ok=False, duration=self._clock.monotonic() - started, text=str(error))
            await self._link.abandon(error)
            return
        self._report(ok=True, duration=self._clock.monotonic() - started, text="")
        for queue, depth in depths.items():
            self._tell(QueueMeasured(queue, depth))

    def _report(self, *, ok: bool, duration: float, text: str) -> None:
        self.last = HealthChecked(ok, duration, text)
        self._tell(self.last)


class Gauges:
    """Measures what has a size, once a second, and keeps the last spool size for admission."""

    def __init__(
        self, broker: Broker, spool: Spool, link: LinkKeeper, guard: Guard, clock: Clock, tell: Listener
    ) -> None:
        self._broker = broker
        self._spool = spool
        self._link = link
        self._guard = guard
        self._clock = clock
        self._tell = tell
        self._added_tasks = 0
        self._added_bytes = 0
        self.size = SpoolSize(0, 0, None, 0, None)
        self.spool_error = ""

    async def run(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(GAUGE_INTERVAL)

    def added(self, size: int) -> None:
        """A row was put since the last measurement."""
        self._added_tasks += 1
        self._added_bytes += size

    @property
    def spooled_tasks(self) -> int:
        """An upper estimate between two measurements: rows drained meanwhile still count."""
        return self.size.tasks + self._added_tasks

    @property
    def spooled_bytes(self) -> int:
        return self.size.bytes + self._added_bytes

    async def measure(self) -> None:
        # Race: a put lands while we read; it is in the reading and stays in `added`: counted twice for one second,
        # on the safe side. So what was added before the reading is taken off, not reset.
        tasks, size = self._added_tasks, self._added_bytes
        try:
            self.size = await self._spool.measure()
        except SpoolUnavailable as error:
            self.spool_error = str(error)
            self._tell(SpoolFailed(self.spool_error))
            return
        self.spool_error = ""
        self._added_tasks -= tasks
        self._added_bytes -= size
        oldest = self.size.oldest_accepted_at
        age = 0.0 if oldest is None else max(0.0, self._clock.now() - oldest)
        self._tell(SpoolMeasured(self.size.tasks, self.size.bytes, age, self.size.dead))
        self._tell(FlightMeasured(self._broker.view().in_flight, self._guard.failures, self._link.attempts))
