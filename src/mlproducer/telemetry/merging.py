"""What several processes count, made into one scrape. Pure: floats in, floats out.

Counters and histograms add up, those of processes that are gone too: else a total would fall when a worker is
replaced, and a rate over it would be wrong. A gauge is of a process that lives: one series each with its `pid`, or,
where the values are of one thing, their sum or the highest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isnan
from operator import add

from mlproducer.telemetry.cells import Family

PID = "pid"

Series = dict[tuple[str, ...], list[float]]
Merged = dict[Family, Series]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which series the floats of a process are, in their order. Processes of one program share the object."""

    families: tuple[tuple[Family, tuple[tuple[str, ...], ...]], ...]

    @property
    def width(self) -> int:
        return sum(family.width * len(keys) for family, keys in self.families)


@dataclass(frozen=True, slots=True)
class Part:
    """The floats of one process. `pid` None: it is gone."""

    layout: Layout
    values: Sequence[float]
    pid: str | None


def merge(parts: Iterable[Part]) -> Merged:
    """A family that two programs define with other labels or another type is the first one's alone."""
    merged: Merged = {}
    shown: dict[str, Family] = {}
    groups: dict[int, list[Part]] = {}
    for part in parts:
        groups.setdefault(id(part.layout), []).append(part)
    for group in groups.values():
        total: Sequence[float] = group[0].values
        for part in group[1:]:  # a thousand floats at once, where one by one would take a millisecond a process
            total = list(map(add, total, part.values))
        at = 0
        for family, keys in group[0].layout.families:
            end = at + family.width * len(keys)
            target = _target(family, shown, merged)
            if target is not None and family.kind != "gauge":
                _add_up(target, family, keys, total[at:end])
            elif target is not None:
                for part in group:
                    if part.pid is not None:
                        _gauges(target[1], family, keys, part.values[at:end], part.pid)
            at = end
    return merged


def _target(family: Family, shown: dict[str, Family], merged: Merged) -> tuple[Family, Series] | None:
    ours = replace(family, labels=(*family.labels, PID)) if family.merge == "pid" else family
    found = shown.setdefault(family.name, ours)
    if (found.kind, found.labels, found.merge) != (ours.kind, ours.labels, ours.merge):
        return None
    return found, merged.setdefault(found, {})


def _add_up(
    target: tuple[Family, Series], family: Family, keys: Iterable[tuple[str, ...]], values: Sequence[float]
) -> None:
    (found, series), at = target, 0
    for labels in keys:
        end = at + family.width
        cells = list(values[at:end])
        if family.bounds != found.bounds:
            cells = _rebucketed(cells, family.bounds, found.bounds)
        known = series.get(labels)
        series[labels] = cells if known is None else list(map(add, known, cells))
        at = end


def _rebucketed(cells: Sequence[float], theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Another version's buckets into ours: each into the lowest that surely holds it."""
    *counts, beyond, total = cells
    made = [0.0] * (len(ours) + 2)
    for bound, count in zip(theirs, counts, strict=True):
        made[bisect_left(ours, bound)] += count
    made[-2] += beyond
    made[-1] = total
    return made


def _gauges(series: Series, family: Family, keys: Iterable[tuple[str, ...]], values: Sequence[float], pid: str) -> None:
    for labels, value in zip(keys, values, strict=True):
        match family.merge:
            case "pid":
                series[*labels, pid] = [value]
            case "sum":
                series.setdefault(labels, [0.0])[0] += value
            case "max" if not isnan(value):
                series[labels] = [max(value, *series.get(labels, [value]))]
            case "max":
                pass  # it has no series there
