"""`TaskCounts` as sums of `core.counting`: since the start of the process, by task type, kind and label.

So what happens to every task is counted once, for metrics and analytics alike, and costs the hot path nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlproducer.core.counting import MICROS, Kind
from mlproducer.outcome import Confirmed
from mlproducer.telemetry.cells import Histogram
from mlproducer.telemetry.tasks import TaskCounts

TaskTotals = dict[tuple[str, str, str], int]


def task_totals(counts: TaskCounts) -> TaskTotals:
    """They never shrink. Of what did not happen there is nothing, or 0."""
    totals: TaskTotals = {}
    for name, series in counts.by_type.items():
        totals[name, Kind.ACCEPTED, ""] = int(series.size.read().count)
        for kind, micros, histogram in (
            (Kind.CONFIRMED, Kind.CONFIRMED_MICROS, series.accept_to_confirm),
            (Kind.PUBLISHED, Kind.PUBLISHED_MICROS, series.attempts[Confirmed]),
        ):
            totals[name, micros, ""] = round(histogram.read().sum * MICROS)
            totals |= {(name, kind, bound): count for bound, count in _buckets(histogram)}
    return totals


def _buckets(histogram: Histogram) -> Iterator[tuple[str, int]]:
    """Each bucket's own observations: Prometheus's buckets hold those of all below them too."""
    below = 0.0
    for bound, count in histogram.read().buckets:
        yield bound, int(count - below)
        below = count
