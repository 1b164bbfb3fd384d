"""Metrics of tasks and attempts. The hot path: several events a task, tens of thousands of tasks a second.

So what happens to every task is counted in plain numbers (`TaskCounts`), 0.2 to 0.3 µs an event, and becomes families
of prometheus-client when somebody scrapes (`telemetry.collector`). What is rare stays with the library's own counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter

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
from mlproducer.telemetry.histogram import Histogram
from mlproducer.telemetry.labels import DEAD_REASONS, OTHER, REFUSED_REASONS, SPOOL_CAUSES, STATUS_OF, UNKNOWN

PUBLISH_BUCKETS: Final = PUBLISH_BOUNDS
ACCEPT_BUCKETS: Final = ACCEPT_BOUNDS
SIZE_BUCKETS: Final = tuple(float(256 * 4**power) for power in range(9))
"""Bytes: 256 B to 16 MiB, RabbitMQ 4's own limit."""


@dataclass(slots=True)
class Series:
    """What is counted of one task type."""

    size: Histogram = field(default_factory=lambda: Histogram(SIZE_BUCKETS))
    accept_to_confirm: Histogram = field(default_factory=lambda: Histogram(ACCEPT_BUCKETS))
    attempts: dict[type[Outcome], Histogram] = field(
        default_factory=lambda: {kind: Histogram(PUBLISH_BUCKETS) for kind in STATUS_OF}
    )
    """How long attempts took, by their outcome."""
    retries: int = 0


class TaskCounts:
    """Told events by one thread, read by any. `now` gives Unix seconds.

    Accepted tasks and settled attempts have no counters of their own: each of them is one observation of its size or
    its duration, and that histogram's count is the number.
    """

    def __init__(self, task_types: Iterable[str], now: Callable[[], float]) -> None:
        self._now = now
        self.by_type = {name: Series() for name in dict.fromkeys((*task_types, UNKNOWN))}
        self._unknown = self.by_type[UNKNOWN]
        self.by_cause = dict.fromkeys(map(str, SPOOL_CAUSES), 0)
        """Tasks accepted into the spool."""
        self.last_confirm = 0.0

    def accepted(self, event: TaskAccepted) -> None:
        self.by_type.get(event.task_type, self._unknown).size.observe(event.size)

    def settled(self, event: AttemptSettled) -> None:
        self.by_type.get(event.task_type, self._unknown).attempts[type(event.outcome)].observe(event.duration)

    def confirmed(self, event: TaskConfirmed) -> None:
        self.by_type.get(event.task_type, self._unknown).accept_to_confirm.observe(event.since_accept)
        self.last_confirm = self._now()

    def spooled(self, event: TaskSpooled) -> None:
        self.by_cause[event.cause if event.cause in self.by_cause else OTHER] += 1

    def retried(self, event: TaskRetried) -> None:
        self.by_type.get(event.task_type, self._unknown).retries += 1


class RareTaskMetrics:
    """Refusals, burials and replays. Every series is made at the start and held here, never asked of `labels()`."""

    def __init__(self, task_types: Iterable[str], registry: CollectorRegistry) -> None:
        kinds = tuple(dict.fromkeys((*task_types, UNKNOWN)))
        dead = Counter("ml_producer_tasks_dead_lettered", "Tasks buried.", ["task_type", "reason"], registry=registry)
        refused = Counter(
            "ml_producer_tasks_refused", "Tasks refused before acceptance.", ["task_type", "reason"], registry=registry
        )
        self._dead = {kind: {reason: dead.labels(kind, reason) for reason in DEAD_REASONS} for kind in kinds}
        self._refused = {kind: {reason: refused.labels(kind, reason) for reason in REFUSED_REASONS} for kind in kinds}
        self._replayed = Counter(
            "ml_producer_tasks_replayed", "Dead letters that were put back into the spool.", registry=registry
        )

    def dead_lettered(self, event: TaskDeadLettered) -> None:
        dead = self._dead.get(event.task_type, self._dead[UNKNOWN])
        dead.get(event.reason, dead[OTHER]).inc()

    def refused(self, event: TaskRefused) -> None:
        refused = self._refused.get(event.task_type, self._refused[UNKNOWN])
        refused.get(event.reason, refused[OTHER]).inc()

    def replayed(self, event: TasksReplayed) -> None:
        self._replayed.inc(event.count)

    def created(self) -> float | None:
        """When the series began, in Unix seconds; None if the application wants no `_created` samples
        (`PROMETHEUS_DISABLE_CREATED_SERIES`, `disable_created_metrics()`), which only the library's own metrics show.
        """
        samples = (sample for family in self._replayed.collect() for sample in family.samples)
        return next((sample.value for sample in samples if sample.name.endswith("_created")), None)
