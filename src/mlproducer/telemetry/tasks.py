"""Metrics of tasks and attempts. The hot path: several events a task, tens of thousands of tasks a second.

So what is told of every task is counted in plain numbers (`telemetry.cells`), 0.2 to 0.3 µs an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from mlproducer.core.counting import ACCEPT_BOUNDS, PUBLISH_BOUNDS
from mlproducer.events import (
    AttemptSettled,
    TaskAccepted,
    TaskConfirmed,
    TaskDeadLettered,
    TaskRefused,
    TaskRetried,
    TaskSpooled,
    TasksReplayed,
)
from mlproducer.outcome import Outcome
from mlproducer.telemetry.cells import PREFIX, Board, Exemplar, Family, Histogram, Number
from mlproducer.telemetry.exposition import Scrape, Shown
from mlproducer.telemetry.labels import DEAD_REASONS, OTHER, REFUSED_REASONS, SPOOL_CAUSES, STATUS_OF, UNKNOWN

PUBLISH_BUCKETS: Final = PUBLISH_BOUNDS
ACCEPT_BUCKETS: Final = ACCEPT_BOUNDS
SIZE_BUCKETS: Final = tuple(float(256 * 4**power) for power in range(9))
"""Bytes: 256 B to 16 MiB, RabbitMQ 4's own limit."""


_DURATION: Final = "task_publish_duration_seconds"
_SIZE: Final = "message_size_bytes"
_CONFIRM: Final = "accept_to_confirm_seconds"
_SENT: Final = Family(f"{PREFIX}tasks_sent", "counter", "Attempts that have an outcome.", ("task_type", "status"))
_ACCEPTED: Final = Family(f"{PREFIX}tasks_accepted", "counter", "Tasks given a receipt: confirmed or spooled.")
_CONFIRMED: Final = Family(
    f"{PREFIX}tasks_confirmed", "counter", "Tasks that the broker confirmed, at once or from the spool."
)


@dataclass(slots=True)
class Series:
    """What is counted of one task type."""

    size: Histogram
    accept_to_confirm: Histogram
    attempts: dict[type[Outcome], Histogram]
    """How long attempts took, by their outcome."""
    retries: Number


class TaskCounts:
    """Told events by one thread, read by any. `now` gives Unix seconds.

    Accepted and confirmed tasks and settled attempts have no counters of their own: each of them is one observation of
    its size or its duration, and that histogram's count is the number (`with_counts`).
    """

    def __init__(self, task_types: Iterable[str], now: Callable[[], float], board: Board) -> None:
        self._now = now
        kinds = tuple(dict.fromkeys((*task_types, UNKNOWN)))
        durations = board.histograms(
            _DURATION,
            "From the start of an attempt to its outcome.",
            PUBLISH_BUCKETS,
            task_type=kinds,
            status=tuple(STATUS_OF.values()),
        )
        sizes = board.histograms(_SIZE, "Body and properties of accepted tasks.", SIZE_BUCKETS, task_type=kinds)
        confirms = board.histograms(
            _CONFIRM,
            "From acceptance to the broker's confirm, time in the spool included.",
            ACCEPT_BUCKETS,
            task_type=kinds,
        )
        retries = board.counters("task_retries", "Attempts that started from the spool.", task_type=kinds)
        self.by_type = {
            kind: Series(
                sizes[(kind,)],
                confirms[(kind,)],
                {outcome: durations[kind, status] for outcome, status in STATUS_OF.items()},
                retries[(kind,)],
            )
            for kind in kinds
        }
        self._unknown = self.by_type[UNKNOWN]
        spooled = board.counters("tasks_spooled", "Tasks accepted into the spool, by cause.", cause=SPOOL_CAUSES)
        self._by_cause = {cause: number for (cause,), number in spooled.items()}
        self._last_confirm = board.gauge(
            "last_confirm_timestamp_seconds", "Unix time of the last confirm; 0: none yet.", merge="max"
        )

    def accepted(self, event: TaskAccepted) -> None:
        self.by_type.get(event.task_type, self._unknown).size.observe(event.size)

    def settled(self, event: AttemptSettled) -> None:
        self.by_type.get(event.task_type, self._unknown).attempts[type(event.outcome)].observe(event.duration)

    def confirmed(self, event: TaskConfirmed) -> None:
        self.by_type.get(event.task_type, self._unknown).accept_to_confirm.observe(event.since_accept)
        self._last_confirm.cells[0] = self._now()

    def spooled(self, event: TaskSpooled) -> None:
        self._by_cause.get(event.cause, self._by_cause[OTHER]).inc()

    def owed(self) -> float:
        """Accepted, less confirmed."""
        series = self.by_type.values()
        return sum(each.size.read().count - each.accept_to_confirm.read().count for each in series)

    def retried(self, event: TaskRetried) -> None:
        self.by_type.get(event.task_type, self._unknown).retries.inc()

    def attempt_traced(self, task_type: str, outcome: Outcome, exemplar: Exemplar) -> None:
        """A sampled trace of an attempt; its value is the attempt's duration in seconds."""
        self.by_type.get(task_type, self._unknown).attempts[type(outcome)].exemplify(exemplar)

    def confirm_traced(self, task_type: str, exemplar: Exemplar) -> None:
        """A sampled trace of a confirmed task; its value is the time since its acceptance in seconds."""
        self.by_type.get(task_type, self._unknown).accept_to_confirm.exemplify(exemplar)


def with_counts(scrape: Scrape) -> Iterator[tuple[Family, Iterable[Shown]]]:
    """Adds what is counted by the histograms: attempts sent, tasks accepted, tasks confirmed.

    Accepted before confirmed, as the board has their histograms: a scrape from another thread then never shows a task
    as owed that is not.
    """
    for family, found in scrape:
        series = list(found)
        if family.name == PREFIX + _DURATION:
            yield _SENT, [Shown(one.labels, [_count(one)], {}) for one in series]
        elif family.name == PREFIX + _SIZE:
            yield _ACCEPTED, [Shown((), [sum(map(_count, series))], {})]
        elif family.name == PREFIX + _CONFIRM:
            yield _CONFIRMED, [Shown((), [sum(map(_count, series))], {})]
        yield family, series


def _count(histogram: Shown) -> float:
    *counts, _ = list(histogram.cells)
    return sum(counts)


class RareTaskMetrics:
    """Refusals, burials and replays."""

    def __init__(self, task_types: Iterable[str], board: Board) -> None:
        kinds = tuple(dict.fromkeys((*task_types, UNKNOWN)))
        self._dead = board.counters("tasks_dead_lettered", "Tasks buried.", task_type=kinds, reason=DEAD_REASONS)
        self._refused = board.counters(
            "tasks_refused", "Tasks refused before acceptance.", task_type=kinds, reason=REFUSED_REASONS
        )
        self._replayed = board.counter("tasks_replayed", "Dead letters that were put back into the spool.")

    def dead_lettered(self, event: TaskDeadLettered) -> None:
        _inc(self._dead, event.task_type, event.reason)

    def refused(self, event: TaskRefused) -> None:
        _inc(self._refused, event.task_type, event.reason)

    def replayed(self, event: TasksReplayed) -> None:
        self._replayed.inc(event.count)


def _inc(counters: dict[tuple[str, ...], Number], task_type: str, reason: str) -> None:
    """Fold what is not known: such a label would be a series that somebody else chose."""
    kind = task_type if (task_type, OTHER) in counters else UNKNOWN
    counters[kind, reason if (kind, reason) in counters else OTHER].inc()
