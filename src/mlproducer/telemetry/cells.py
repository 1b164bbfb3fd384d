"""The numbers behind the metrics: what is counted, under which name, in plain floats.

A counter, gauge or histogram holds its floats in `cells`: a list, or a piece of a file that other processes read
(`telemetry.shared`). The code that counts is the same for both, and as cheap as adding to a list. prometheus-client's
own objects take a lock for each number, about 1 µs an observation; these take 0.15 µs, on one thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from math import inf, nan
from typing import Final, Literal, NamedTuple, Protocol

from prometheus_client import utils

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "pid"]

PREFIX: Final = "ml_producer_"
NO_SERIES: Final = nan
"""The value of a gauge whose thing is not there: its series is left out of each scrape, until it has one again."""
_UNITS: Final = ("seconds", "bytes")


class Cells(Protocol):
    """A list of floats, or a view of a file's."""

    def __getitem__(self, place: int, /) -> float: ...
    def __setitem__(self, place: int, value: float, /) -> None: ...
    def __iter__(self) -> Iterator[float]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name` is without the `_total` of a counter; `bounds` are a histogram's, in ascending order.

    `merge` says what the values of several processes make together: their sum, the highest, or each its own series
    with a label `pid`.
    """

    name: str
    kind: Kind
    words: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    merge: Merge = "sum"

    @property
    def unit(self) -> str:
        """As OpenMetrics wants it told: the suffix of the name."""
        last = self.name.rpartition("_")[2]
        return last if last in _UNITS else ""

    @property
    def width(self) -> int:
        """Floats of one series: a histogram has one for each bucket, `+Inf` among them, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


class Number:
    """A counter or a gauge."""

    __slots__ = ("cells",)

    def __init__(self) -> None:
        self.cells: Cells = [0.0]

    def inc(self, amount: float = 1.0) -> None:
        self.cells[0] += amount

    def set(self, value: float) -> None:
        self.cells[0] = float(value)

    def get(self) -> float:
        return self.cells[0]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a histogram held at one moment."""

    buckets: list[tuple[str, float]]
    """Upper bound in Prometheus's spelling, and the observations up to it; the last is `+Inf`."""
    sum: float

    @property
    def count(self) -> float:
        return self.buckets[-1][1]


class Exemplar(NamedTuple):
    """One observation to look at: the trace that it belongs to (32 hex digits), its value, its Unix time."""

    trace_id: str
    value: float
    at: float


class Histogram:
    """`bounds` are upper bounds in ascending order; an observation equal to one belongs to its bucket.

    Observed by one thread, read by any.
    """

    __slots__ = ("_bounds", "cells", "exemplars")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self.cells: Cells = [0.0] * (len(self._bounds) + 2)
        self.exemplars: dict[int, Exemplar] = {}
        """The last one of a bucket, by its place."""

    def observe(self, value: float) -> None:
        cells = self.cells
        cells[bisect_left(self._bounds, value)] += 1.0  # not cumulative: an observation changes one of them
        cells[-1] += value

    def exemplify(self, exemplar: Exemplar) -> None:
        """Remember a trace of an observation; the observation itself is told by `observe`."""
        self.exemplars[bisect_left(self._bounds, exemplar.value)] = exemplar

    def read(self) -> Reading:
        return read(self._bounds, self.cells)


def read(bounds: Sequence[float], cells: Cells) -> Reading:
    # A scrape runs in another thread or process, perhaps between the two lines of `observe`. It copies the cells
    # first, which within a process is one step under the interpreter's lock, and makes everything of the copy: the
    # buckets ascend, and the count is the highest of them. The sum may lack an observation that the buckets have. None
    # of the numbers ever goes back, an average is off by those few observations, and the next scrape has them.
    # prometheus-client locks each number by itself, and promises less.
    *counts, total = list(cells)
    return Reading(list(zip(spelled(bounds), accumulate(counts), strict=True)), total)


def spelled(bounds: Sequence[float]) -> list[str]:
    """Upper bounds as Prometheus writes them, with the last one, `+Inf`."""
    return [go_float(bound) for bound in (*bounds, inf)]


def go_float(value: float) -> str:
    text: str = utils.floatToGoString(value)  # type: ignore[no-untyped-call]  # it has no annotations
    return text


@dataclass(slots=True)
class Board:
    """Every family of one producer and its series, in the order in which they are shown.

    All of them are declared before the first scrape; `name` is without the prefix and the `_total`.
    """

    series: dict[Family, dict[tuple[str, ...], Number | Histogram]] = field(default_factory=dict)

    def gauge(self, name: str, words: str, *, merge: Merge = "pid") -> Number:
        return self._numbers(Family(PREFIX + name, "gauge", words, merge=merge), ())[()]

    def gauges(
        self, name: str, words: str, *, merge: Merge = "pid", **labels: Sequence[str]
    ) -> dict[tuple[str, ...], Number]:
        """One for each combination of the labels' values."""
        return self._numbers(Family(PREFIX + name, "gauge", words, tuple(labels), merge=merge), tuple(labels.values()))

    def counter(self, name: str, words: str) -> Number:
        return self._numbers(Family(PREFIX + name, "counter", words), ())[()]

    def counters(self, name: str, words: str, **labels: Sequence[str]) -> dict[tuple[str, ...], Number]:
        """One for each combination of the labels' values."""
        return self._numbers(Family(PREFIX + name, "counter", words, tuple(labels)), tuple(labels.values()))

    def histograms(
        self, name: str, words: str, bounds: Sequence[float], **labels: Sequence[str]
    ) -> dict[tuple[str, ...], Histogram]:
        """One for each combination of the labels' values."""
        family = Family(PREFIX + name, "histogram", words, tuple(labels), tuple(bounds))
        made = {key: Histogram(bounds) for key in _keys(tuple(labels.values()))}
        self.series[family] = dict(made)
        return made

    @property
    def width(self) -> int:
        """Floats in all."""
        return sum(family.width * len(found) for family, found in self.series.items())

    def move(self, cells: memoryview[float] | None) -> None:
        """Go on counting in `cells`, of `width` floats; None: in lists of our own again."""
        at = 0
        for found in self.series.values():
            for one in found.values():
                end = at + len(one.cells)
                values = list(one.cells)
                if cells is None:
                    one.cells = values
                else:
                    view = cells[at:end]
                    for place, value in enumerate(values):
                        view[place] = value
                    one.cells = view
                at = end

    def _numbers(self, family: Family, values: Sequence[Sequence[str]]) -> dict[tuple[str, ...], Number]:
        made = {key: Number() for key in _keys(values)}
        self.series[family] = dict(made)
        return made


def _keys(values: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(product(*values)))
