"""Sums over all task types at one moment, and what happened between two: for who draws a curve of his own."""

from __future__ import annotations

from math import inf
from typing import Final

from msgspec import Struct

from mlproducer.core.counting import quantile
from mlproducer.telemetry.tasks import ACCEPT_BUCKETS, TaskCounts

_BOUNDS: Final = (*ACCEPT_BUCKETS, inf)


class Totals(Struct, frozen=True):
    accepted: int
    confirm_times: tuple[float, ...]
    """Confirmed tasks by how long it took from acceptance, cumulative as Prometheus has it; the last is all."""

    @property
    def confirmed(self) -> int:
        return int(self.confirm_times[-1])

    def quantiles(self, earlier: Totals, *wanted: float) -> tuple[float | None, ...]:
        """Seconds from acceptance to confirm, of the tasks confirmed since `earlier`; None where there are none."""
        buckets = {
            bound: now - then
            for bound, now, then in zip(_BOUNDS, self.confirm_times, earlier.confirm_times, strict=True)
        }
        return tuple(quantile(buckets, each) for each in wanted)


def totals_of(counts: TaskCounts) -> Totals:
    """About 0.1 ms: no families are made, as a scrape would."""
    accepted, times = 0, [0.0] * len(_BOUNDS)
    for series in counts.by_type.values():
        accepted += int(series.size.read().count)
        for place, (_, count) in enumerate(series.accept_to_confirm.read().buckets):
            times[place] += count
    return Totals(accepted, tuple(times))
