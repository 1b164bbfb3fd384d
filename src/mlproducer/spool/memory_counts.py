"""Counters in memory: gone with the process. Beside the spool in memory, and beside a spool that keeps none."""

from __future__ import annotations

from collections.abc import Sequence

from mlproducer.core.counting import merged, over_all_hours
from mlproducer.rows import CountKey, Counts, Tally


class MemoryCounters:
    """`ports.Counters` over dicts; each call is whole, since none of them waits."""

    def __init__(self) -> None:
        self._sums: dict[CountKey, int] = {}
        self._counted_ids: dict[str, float] = {}

    async def count(self, tallies: Sequence[Tally]) -> Sequence[bool]:
        return [self._count(tally) for tally in tallies]

    async def counts(self, *, since: int, until: int, hourly: bool) -> Counts:
        found = {key: number for key, number in self._sums.items() if since <= key.hour < until}
        return found if hourly else over_all_hours(found, since)

    async def forget_counts(self, *, now: float, before: int, limit: int) -> int:
        self._sums = {key: number for key, number in self._sums.items() if key.hour >= before}
        over = [known for known, keep_until in self._counted_ids.items() if keep_until <= now][:limit]
        for each in over:
            del self._counted_ids[each]
        return len(over)

    def _count(self, tally: Tally) -> bool:
        if tally.id in self._counted_ids:
            return False
        self._counted_ids[tally.id] = tally.keep_until
        self._sums = merged([self._sums, tally.counts])
        return True
