"""Counters in memory: gone with the process. Beside the spool in memory, and beside a spool that keeps none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mlproducer.core.counting import merged, over_all_hours
from mlproducer.rows import CountKey, Counts, Tally


class MemoryCounters:
    """`ports.Counters` over dicts; each call is whole, since none of them waits. `now`: seconds that never go back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._sums: dict[CountKey, int] = {}
        self._counted_ids: dict[str, float] = {}

    async def count(self, tallies: Sequence[Tally]) -> Sequence[bool]:
        return [self._count(tally) for tally in tallies]

    async def counts(self, *, since: int, until: int, hourly: bool) -> Counts:
        found = {key: number for key, number in self._sums.items() if since <= key.hour < until}
        return found if hourly else over_all_hours(found, since)

    async def forget_counts(self, *, before: int, limit: int) -> int:
        now = self._now()
        self._sums = {key: number for key, number in self._sums.items() if key.hour >= before}
        over = [known for known, keep_until in self._counted_ids.items() if keep_until <= now][:limit]
        for each in over:
            del self._counted_ids[each]
        return len(over)

    def _count(self, tally: Tally) -> bool:
        if tally.id in self._counted_ids:
            return False
        self._counted_ids[tally.id] = self._now() + tally.keep
        self._sums = merged([self._sums, tally.counts])
        return True
