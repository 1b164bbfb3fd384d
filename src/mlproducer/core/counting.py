"""Figures that add up: over hours, restarts and instances, in any order.

Everything is a whole number under a `CountKey`, and the only operation is addition. So a distribution is a histogram,
with a count for each bucket that anything fell into; its average is a sum of microseconds over the count of all
buckets; money is a sum of nanos (10⁻⁹). What is no sum, such as a percentile, is made of sums when somebody asks.

A bucket goes by its upper bound, spelled as Prometheus does. Histograms with other bounds can therefore be added to
those of yesterday: a quantile is as fine as the bounds that are there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final, TypeVar

from mlproducer.rows import CountKey, Counts

Key = TypeVar("Key")

HOUR: Final = 3_600
"""Seconds."""
MICROS: Final = 1_000_000
"""In a second."""


class Kind(StrEnum):
    """What `CountKey.kind` may be; in brackets the label."""

    ACCEPTED = "accepted"
    CONFIRMED = "confirmed"
    """By the time since acceptance (bucket)."""
    CONFIRMED_MICROS = "confirmed_micros"
    """The sum of those times."""
    PUBLISHED = "published"
    """Attempts that were confirmed, by their duration (bucket)."""
    PUBLISHED_MICROS = "published_micros"
    SPOOLED = "spooled"
    """(cause)"""
    RETRIED = "retried"
    """Attempts from the spool (why the task was there)."""
    DEAD = "dead"
    """(reason)"""
    REFUSED = "refused"
    """(reason)"""
    FINISHED = "finished"
    """Results of workers (status)."""
    WORKED = "worked"
    """Results that tell how long the work took (bucket)."""
    WORKED_MICROS = "worked_micros"
    COST = "cost"
    """A sum of nanos (model)."""
    CHARGED = "charged"
    """How many reports that sum is of (model)."""


PUBLISH_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. A confirm of a local quorum queue takes a few ms; the whole publish is bounded by 5 s by default."""
ACCEPT_BOUNDS: Final = (*PUBLISH_BOUNDS, 60.0, 300.0, 900.0, 3600.0)
"""Seconds, up to an hour's outage spent in the spool."""
WORK_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds: from an embedding's API call to the transcription of a long recording."""


def hour_of(seconds: float) -> int:
    """The hour of a Unix time."""
    return int(seconds // HOUR)


def bucket_of(value: float, bounds: tuple[float, ...]) -> str:
    """The label of the bucket of `value`: an observation equal to a bound belongs to it."""
    at = bisect_left(bounds, value)
    return str(bounds[at]) if at < len(bounds) else "+Inf"


def merged(parts: Iterable[Mapping[Key, int]]) -> dict[Key, int]:
    """The sums of all parts."""
    sums: dict[Key, int] = {}
    for part in parts:
        for key, number in part.items():
            sums[key] = sums.get(key, 0) + number
    return sums


def growth(before: Mapping[Key, int], after: Mapping[Key, int]) -> dict[Key, int]:
    """What was added between two readings of sums that only grow; without what stayed."""
    return {key: number - before.get(key, 0) for key, number in after.items() if number != before.get(key, 0)}


def over_all_hours(counts: Counts, hour: int) -> dict[CountKey, int]:
    """The sums over the hours, as if all were of `hour`."""
    return merged({CountKey(hour, key.task_type, key.kind, key.label): number} for key, number in counts.items())


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, in seconds. None where nothing was observed.

    Percentiles are as fine as the buckets; above the highest bound, they are that bound.
    """

    count: int
    average: float | None
    p50: float | None
    p95: float | None
    p99: float | None


def spread_of(buckets: Mapping[str, int], micros: int, bounds: Iterable[float]) -> Spread:
    """`buckets`: upper bound as text → observations in that bucket alone; those of `bounds` that are empty may lack."""
    found = {**dict.fromkeys(bounds, 0), inf: 0, **{float(bound): number for bound, number in buckets.items()}}
    cumulative, count = {}, 0
    for bound in sorted(found):
        count += found[bound]
        cumulative[bound] = float(count)
    average = micros / MICROS / count if count else None
    return Spread(count, average, *(quantile(cumulative, q) for q in (0.5, 0.95, 0.99)))


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """The `q` quantile of cumulative `buckets` (upper bound → count), as Prometheus's `histogram_quantile` has it:
    linear within the bucket, the lowest starting at 0; the highest finite bound for what lies above it.

    None if nothing was observed.
    """
    rank = q * buckets.get(inf, 0.0)
    if not rank:
        return None
    bound = min(each for each, count in buckets.items() if count >= rank)
    low = max((each for each in buckets if each < bound), default=0.0)
    if bound == inf:
        return low
    below = buckets.get(low, 0.0)
    return min(bound, low + (bound - low) * (rank - below) / (buckets[bound] - below))
