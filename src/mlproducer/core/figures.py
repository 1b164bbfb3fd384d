"""What people and tools read, made of the sums: by task type, by reason, by hour, and what it cost.

The **delivery ratio** is `confirmed / max(accepted, confirmed + dead lettered)`. Tasks that still wait lower it, so an
outage shows while it lasts. Tasks confirmed in the window that were accepted before it, or put by the outbox (which
nobody sees accept them), cannot raise it above 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from mlproducer.core.counting import (
    ACCEPT_BOUNDS,
    HOUR,
    PUBLISH_BOUNDS,
    WORK_BOUNDS,
    Kind,
    Spread,
    spread_of,
)
from mlproducer.core.results import ResultStatus, amount_of
from mlproducer.rows import CountKey, Counts

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Window:
    """Whole hours of UTC, as Unix seconds; the last is the running one."""

    since: float
    until: float
    hours: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one task type, or of all. `pending`: accepted, neither confirmed nor dead yet, as far as the window tells."""

    accepted: int
    confirmed: int
    dead_lettered: int
    pending: int
    refused: int
    spooled: int
    retries: int
    delivery_ratio: float | None
    """None if nothing was accepted or came to an end."""
    accept_to_confirm: Spread
    succeeded: int
    failed: int
    revoked: int
    work: Spread
    """How long workers say that they worked."""
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Summary:
    window: Window
    total: Figures
    by_type: dict[str, Figures]


@dataclass(frozen=True, slots=True)
class Delivered:
    """Of one task type, or of all, with the reasons."""

    accepted: int
    confirmed: int
    dead_lettered: int
    pending: int
    delivery_ratio: float | None
    spooled: dict[str, int]
    """Why tasks were accepted into the spool."""
    retries: dict[str, int]
    """Attempts from the spool, by why the task was there."""
    dead_letters: dict[str, int]
    refused: dict[str, int]
    """Not accepted at all."""


@dataclass(frozen=True, slots=True)
class Delivery:
    window: Window
    total: Delivered
    by_type: dict[str, Delivered]


@dataclass(frozen=True, slots=True)
class Latencies:
    """`publish`: attempts that were confirmed. `accept_to_confirm`: with the time in the spool. `work`: of workers."""

    publish: Spread
    accept_to_confirm: Spread
    work: Spread


@dataclass(frozen=True, slots=True)
class Latency:
    window: Window
    total: Latencies
    by_type: dict[str, Latencies]


@dataclass(frozen=True, slots=True)
class Hour:
    """`at` is the hour's start, in Unix seconds."""

    at: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Hourly:
    """Every hour of the window, also those in which nothing happened; the oldest first."""

    window: Window
    task_type: str | None
    hours: list[Hour]


@dataclass(frozen=True, slots=True)
class Cost:
    """`reports`: how many costs were reported; `average` is of one."""

    cost: Decimal
    reports: int
    average: Decimal | None


@dataclass(frozen=True, slots=True)
class HourCost:
    at: float
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Costs:
    """No currency: amounts are in the one that workers report in."""

    window: Window
    total: Cost
    by_type: dict[str, Cost]
    by_model: dict[str, Cost]
    """By `task type/model`; costs without a model are of the type alone."""
    by_hour: list[HourCost]
    """Hours in which something was spent."""


def window_of(hour: int, hours: int) -> Window:
    """The running hour and the `hours - 1` before it."""
    return Window((hour - hours + 1) * HOUR, (hour + 1) * HOUR, hours)


def summary_of(counts: Counts, window: Window) -> Summary:
    found = _Sums(counts)
    return Summary(window, found.figures(), {name: part.figures() for name, part in found.by_type().items()})


def delivery_of(counts: Counts, window: Window) -> Delivery:
    found = _Sums(counts)
    return Delivery(window, found.delivered(), {name: part.delivered() for name, part in found.by_type().items()})


def latency_of(counts: Counts, window: Window) -> Latency:
    found = _Sums(counts)
    return Latency(window, found.latencies(), {name: part.latencies() for name, part in found.by_type().items()})


def hourly_of(counts: Counts, window: Window, task_type: str | None) -> Hourly:
    """`counts` by hour."""
    chosen = {key: n for key, n in counts.items() if task_type is None or key.task_type == task_type}
    parts = _Sums(chosen).split(lambda key: key.hour)
    first = int(window.since // HOUR)
    hours = [Hour(at * HOUR, parts.get(at, _Sums({})).figures()) for at in range(first, first + window.hours)]
    return Hourly(window, task_type, hours)


def costs_of(counts: Counts, window: Window, wanted: Callable[[str], bool] = lambda _: True) -> Costs:
    """`counts` by hour; of the task types that are `wanted`."""
    kinds = {Kind.COST, Kind.CHARGED}
    found = _Sums({key: n for key, n in counts.items() if key.kind in kinds and wanted(key.task_type)})
    models = found.split(lambda key: f"{key.task_type}/{key.label}" if key.label else key.task_type)
    hours = found.split(lambda key: key.hour)
    return Costs(
        window,
        found.cost(),
        {name: part.cost() for name, part in found.by_type().items()},
        {name: models[name].cost() for name in sorted(models)},
        [HourCost(hour * HOUR, hours[hour].cost().cost) for hour in sorted(hours)],
    )


class _Sums:
    """Counts by kind and label; of all hours and types that are in them."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._by_kind: dict[str, dict[str, int]] = {}
        for key, number in counts.items():
            labels = self._by_kind.setdefault(key.kind, {})
            labels[key.label] = labels.get(key.label, 0) + number

    def split(self, by: Callable[[CountKey], Part]) -> dict[Part, _Sums]:
        parts: dict[Part, dict[CountKey, int]] = {}
        for key, number in self._counts.items():
            parts.setdefault(by(key), {})[key] = number
        return {name: _Sums(part) for name, part in parts.items()}

    def by_type(self) -> dict[str, _Sums]:
        parts = self.split(lambda key: key.task_type)
        return {name: parts[name] for name in sorted(parts)}

    def labels(self, kind: Kind) -> dict[str, int]:
        """The largest first."""
        found = self._by_kind.get(kind, {})
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def total(self, kind: Kind) -> int:
        return sum(self._by_kind.get(kind, {}).values())

    def spread(self, kind: Kind, micros: Kind, bounds: Iterable[float]) -> Spread:
        return spread_of(self.labels(kind), self.total(micros), bounds)

    @property
    def pending(self) -> int:
        return max(0, self.total(Kind.ACCEPTED) - self.total(Kind.CONFIRMED) - self.total(Kind.DEAD))

    @property
    def ratio(self) -> float | None:
        confirmed = self.total(Kind.CONFIRMED)
        of = max(self.total(Kind.ACCEPTED), confirmed + self.total(Kind.DEAD))
        return confirmed / of if of else None

    def figures(self) -> Figures:
        finished = self.labels(Kind.FINISHED)
        return Figures(
            accepted=self.total(Kind.ACCEPTED),
            confirmed=self.total(Kind.CONFIRMED),
            dead_lettered=self.total(Kind.DEAD),
            pending=self.pending,
            refused=self.total(Kind.REFUSED),
            spooled=self.total(Kind.SPOOLED),
            retries=self.total(Kind.RETRIED),
            delivery_ratio=self.ratio,
            accept_to_confirm=self.latencies().accept_to_confirm,
            succeeded=finished.get(ResultStatus.SUCCEEDED, 0),
            failed=finished.get(ResultStatus.FAILED, 0),
            revoked=finished.get(ResultStatus.REVOKED, 0),
            work=self.latencies().work,
            cost=self.cost().cost,
        )

    def delivered(self) -> Delivered:
        return Delivered(
            accepted=self.total(Kind.ACCEPTED),
            confirmed=self.total(Kind.CONFIRMED),
            dead_lettered=self.total(Kind.DEAD),
            pending=self.pending,
            delivery_ratio=self.ratio,
            spooled=self.labels(Kind.SPOOLED),
            retries=self.labels(Kind.RETRIED),
            dead_letters=self.labels(Kind.DEAD),
            refused=self.labels(Kind.REFUSED),
        )

    def latencies(self) -> Latencies:
        return Latencies(
            publish=self.spread(Kind.PUBLISHED, Kind.PUBLISHED_MICROS, PUBLISH_BOUNDS),
            accept_to_confirm=self.spread(Kind.CONFIRMED, Kind.CONFIRMED_MICROS, ACCEPT_BOUNDS),
            work=self.spread(Kind.WORKED, Kind.WORKED_MICROS, WORK_BOUNDS),
        )

    def cost(self) -> Cost:
        number, reports = self.total(Kind.COST), self.total(Kind.CHARGED)
        return Cost(amount_of(number), reports, amount_of(number // reports) if reports else None)
