"""From this process's facts to the store's counters, every few seconds and at the end.

The hot facts are counted already, for the metrics: `totals` reads those sums, and what they grew by since the last look
is what happened. Only rare facts are counted here. Nothing of it is in the way of a task.

A flush is a tally with an id. Where its answer is lost, the same tally is told again, and the store knows whether it
has it. So a figure is never counted twice, and what a killed process loses is what it did not flush yet.

While the store is away, sums go on growing in memory: a few hundred numbers for each hour, of `MOST_HOURS` hours.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final

from mlproducer.core.counting import HOUR, Kind, growth, hour_of
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import Event, SpoolFailed, TaskDeadLettered, TaskRefused, TaskRetried, TaskSpooled
from mlproducer.outcome import NotSentCause, UnsureCause
from mlproducer.ports import Clock, Counters, Listener
from mlproducer.rows import CountKey, Tally

MOST_HOURS: Final = 72
"""Of a store that is away; the oldest go first."""
RETENTION_HOURS: Final = 720 + 24
"""The longest window that may be asked for, and a day."""
FLUSH_KEPT: Final = 86_400.0
"""Seconds that the store knows a flush: far longer than one whose answer was lost is told again."""
FORGET_INTERVAL: Final = 300.0
FORGET_BATCH: Final = 5_000
OTHER: Final = "other"
UNKNOWN: Final = "unknown"

_CAUSES: Final = frozenset(map(str, (*NotSentCause, *UnsureCause, "nacked", "returned", "eta", "outbox", "replayed")))

Totals = Mapping[tuple[str, str, str], int]
"""By task type, kind and label."""


class Counting:
    """A listener of events, and a loop. `interval`: seconds between two flushes."""

    def __init__(
        self,
        store: Counters,
        totals: Callable[[], Totals],
        task_types: tuple[str, ...],
        clock: Clock,
        tell: Listener,
        *,
        interval: float,
    ) -> None:
        self._store = store
        self._totals = totals
        self._types = frozenset(task_types)
        self._clock = clock
        self._tell = tell
        self._interval = interval
        self._before: Totals = {}
        self._rare: dict[tuple[str, str, str], int] = {}
        self._hour: int | None = None
        self._pending: dict[CountKey, int] = {}
        self._told: Tally | None = None
        """What the store was told and did not answer yet; told again as it is."""
        self._ids = (f"flush:{prefix}-{n}" for prefix in [secrets.token_hex(8)] for n in count(1))
        self._forget_at = 0.0
        self._began = clock.now() - clock.monotonic()
        self.handlers: Final[dict[type[Event], Callable[[Any], None]]] = {
            TaskSpooled: self._spooled,
            TaskRetried: self._retried,
            TaskDeadLettered: self._dead_lettered,
            TaskRefused: self._refused,
        }

    def __call__(self, event: Event) -> None:
        handler = self.handlers.get(type(event))
        if handler is not None:
            handler(event)

    async def run(self) -> None:
        while True:
            try:
                await self.flush()
                await self._forget()
            except SpoolUnavailable:
                pass  # the watch over the spool tells of it; what is pending stays
            await asyncio.sleep(min(self._interval, HOUR - self._clock.now() % HOUR))

    async def stop(self, limit: float) -> None:
        """The last flush, in at most `limit` seconds. What cannot be stored then is gone, and told of."""
        try:
            async with asyncio.timeout(limit):
                await self.flush()
        except (SpoolUnavailable, TimeoutError) as error:
            lost = len(self._pending) + (len(self._told.counts) if self._told is not None else 0)
            self._tell(
                SpoolFailed(f"{lost} figures of the analytics were not stored at the end: {error or 'no answer'}")
            )

    async def flush(self) -> None:
        """Store what happened until now. Raises: SpoolUnavailable; then it is kept, and stored by a later one."""
        self._take()
        while self._told is not None or self._pending:
            if self._told is None:
                self._told = Tally(next(self._ids), FLUSH_KEPT, self._pending)
                self._pending = {}
            await self._store.count([self._told])
            self._told = None

    def _take(self) -> None:
        """What happened since the last look is of the hour of that look: the loop looks as each hour ends."""
        now = hour_of(self._clock.now())
        hour = self._hour if self._hour is not None else now
        self._hour = now
        totals = self._totals()
        for part in (growth(self._before, totals), self._rare):
            for (task_type, kind, label), number in part.items():
                key = CountKey(hour, task_type, kind, label)
                self._pending[key] = self._pending.get(key, 0) + number
        self._before, self._rare = totals, {}
        if len({key.hour for key in self._pending}) > MOST_HOURS:
            oldest = min(key.hour for key in self._pending)
            self._pending = {key: number for key, number in self._pending.items() if key.hour != oldest}

    async def _forget(self) -> None:
        now = self._clock.monotonic()
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_INTERVAL
        # A wall clock that was set forward by months, perhaps by mistake, makes nothing old that cannot be had again.
        before = hour_of(min(self._clock.now(), self._began + now)) - RETENTION_HOURS
        while await self._store.forget_counts(before=before, limit=FORGET_BATCH) == FORGET_BATCH:
            pass

    def _spooled(self, event: TaskSpooled) -> None:
        self._add(event.task_type, Kind.SPOOLED, event.cause if event.cause in _CAUSES else OTHER)

    def _retried(self, event: TaskRetried) -> None:
        self._add(event.task_type, Kind.RETRIED, event.cause if event.cause in _CAUSES else OTHER)

    def _dead_lettered(self, event: TaskDeadLettered) -> None:
        self._add(event.task_type, Kind.DEAD, event.reason)

    def _refused(self, event: TaskRefused) -> None:
        self._add(event.task_type, Kind.REFUSED, event.reason)

    def _add(self, task_type: str, kind: Kind, label: str) -> None:
        key = (task_type if task_type in self._types else UNKNOWN, kind, label)
        self._rare[key] = self._rare.get(key, 0) + 1
