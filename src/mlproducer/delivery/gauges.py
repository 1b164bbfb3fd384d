"""What has a size, measured once a second; and old records, forgotten once a minute."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from mlproducer.delivery.guard import Guard
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.purges import Purges
from mlproducer.delivery.spool_time import SpoolTime
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import ClockJumped, FlightMeasured, SpoolMeasured, TasksPurged
from mlproducer.ports import Broker, Listener, Spool
from mlproducer.rows import SpoolSize

GAUGE_INTERVAL: Final = 1.0
"""Seconds. A scraper asks every 5 to 60 s; one second keeps the console honest and costs one indexed read."""
AUDIT_INTERVAL: Final = 10.0
"""Seconds between two looks for purges that others made: nobody but the loss check waits for them."""
GROWTH_SPAN: Final = 60
"""Measurements, about a minute: long enough that a batch more or less is no trend."""
FORGET_INTERVAL: Final = 60.0
FORGET_BATCH: Final = 5_000
"""Records removed in one transaction: a few tens of milliseconds, which nobody waits for."""


class Gauges:
    """Keeps the last spool size for admission."""

    def __init__(
        self, broker: Broker, spool: Spool, link: LinkKeeper, guard: Guard, clock: SpoolTime, tell: Listener
    ) -> None:
        self._broker = broker
        self._spool = spool
        self._link = link
        self._guard = guard
        self._clock = clock
        self._tell = tell
        # Since the last measurement: rows on their way or there, and those of them that are over.
        self._put_tasks = self._put_bytes = 0
        self._over_tasks = self._over_bytes = 0
        self._purges = Purges(spool, lambda count: tell(TasksPurged(count)))
        self._audit_at = 0.0
        self._forget_at = 0.0
        self._measured = asyncio.Event()
        self._sizes: deque[tuple[float, int, int]] = deque(maxlen=GROWTH_SPAN)
        self.size = SpoolSize(0, 0, None, 0, None)
        self.seconds: float | None = None
        """What the last measurement took."""

    async def run(self) -> None:
        while True:
            await self.measure()
            await self._forget()
            await asyncio.sleep(GAUGE_INTERVAL)

    def putting(self, size: int) -> None:
        """A row is on its way into the spool. Then `put`, or `not_put`."""
        self._put_tasks += 1
        self._put_bytes += size

    def put(self, size: int) -> None:
        """It is there, or may be: the next measurement that begins sees it."""
        self._over_tasks += 1
        self._over_bytes += size

    def not_put(self, size: int) -> None:
        self._put_tasks -= 1
        self._put_bytes -= size

    @property
    def spooled_tasks(self) -> int:
        """An upper estimate between two measurements: rows drained meanwhile still count."""
        return self.size.tasks + self._put_tasks

    @property
    def spooled_bytes(self) -> int:
        return self.size.bytes + self._put_bytes

    def oldest_age(self) -> float:
        """Seconds for which a task has waited that it was not told to wait; 0 if none has. See `SpoolSize`."""
        due = self.size.first_due_at
        return 0.0 if due is None else max(0.0, self._clock.now() - due)

    def growth(self) -> tuple[float, float]:
        """Tasks and bytes per second by which what waits grew within the last minute; less than 0 where it shrank."""
        if len(self._sizes) < 2:  # noqa: PLR2004  # a line has two ends
            return 0.0, 0.0
        (first, tasks, size), (last, tasks_now, size_now) = self._sizes[0], self._sizes[-1]
        seconds = max(last - first, 1e-3)
        return (tasks_now - tasks) / seconds, (size_now - size) / seconds

    async def next(self, limit: float) -> None:
        """Wait for the next measurement, at most `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._measured.wait()
        except TimeoutError:
            pass

    def wake(self) -> None:
        """Let who waits for the next measurement look again."""
        self._measured.set()
        self._measured = asyncio.Event()

    def overdue(self) -> float:
        """Seconds since the first task that nobody is publishing became due; 0 if none is."""
        due = self.size.next_due_at
        return 0.0 if due is None else max(0.0, self._clock.now() - due)

    async def measure(self, *, audits: bool = False) -> None:
        """`audits`: a purge was made just now, so look for it."""
        # Race: a put lands while we read, and is in the reading or is not. So only those that were over before it are
        # taken to be in it; the others may count twice for one second, on the safe side, and never not at all.
        tasks, over = self._over_tasks, self._over_bytes
        self._say_jump(self._clock.look())
        try:
            # Before the sizes: what is purged between the two looks purged a moment too late, never too early.
            await self._look_for_purges(now=audits)
            started = self._clock.monotonic()
            self.size = await self._spool.measure()
            if self.size.at is not None:
                self._say_jump(self._clock.heard(self.size.at, started))
        except SpoolUnavailable:
            return  # the watch over the spool knows of it
        finally:
            self.wake()
        self.seconds = self._clock.monotonic() - started
        self._put_tasks -= tasks
        self._over_tasks -= tasks
        self._put_bytes -= over
        self._over_bytes -= over
        size = self.size
        self._sizes.append((self._clock.monotonic(), size.tasks, size.bytes))
        oldest, overdue = self.oldest_age(), self.overdue()
        self._tell(
            SpoolMeasured(size.tasks, size.bytes, oldest, size.dead, overdue, size.met_others, self._clock.apart)
        )
        self._tell(FlightMeasured(self._broker.view().in_flight, self._guard.failures, self._link.attempts))

    def clock_note(self) -> str:
        """See `SpoolTime.note`."""
        return self._clock.note()

    def _say_jump(self, jump: ClockJumped | None) -> None:
        if jump is not None:
            self._tell(jump)

    async def _look_for_purges(self, *, now: bool) -> None:
        moment = self._clock.monotonic()
        if now or moment >= self._audit_at:
            await self._purges.look()
            self._audit_at = moment + AUDIT_INTERVAL

    async def _forget(self) -> None:
        now = self._clock.monotonic()
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_INTERVAL
        try:
            while await self._spool.forget(limit=FORGET_BATCH) == FORGET_BATCH:
                pass
        except SpoolUnavailable:
            pass
