"""Metrics of tasks and attempts. The hot path: several events a task, tens of thousands of tasks a second.

So every series is made once, at the start, and held here: an event costs one or two dictionary look-ups and the
increments themselves, never `labels()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
from mlproducer.telemetry.labels import (
    DEAD_REASONS,
    OTHER,
    REFUSED_REASONS,
    SPOOL_CAUSES,
    STATUS_OF,
    UNKNOWN,
)

PUBLISH_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. A confirm of a local quorum queue takes a few ms; the whole publish is bounded by 5 s by default."""
ACCEPT_BUCKETS: Final = (*PUBLISH_BUCKETS, 60.0, 300.0, 900.0, 3600.0)
"""Seconds, up to an hour's outage spent in the spool."""
SIZE_BUCKETS: Final = tuple(float(256 * 4**power) for power in range(9))
"""Bytes: 256 B to 16 MiB, RabbitMQ 4's own limit."""

Count = Callable[[], None]
Observe = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class _Series:
    """The series of one task type, as the bound methods that change them."""

    size: Observe
    accept_to_confirm: Observe
    retry: Count
    attempts: dict[type[Outcome], tuple[Count, Observe]]
    dead: dict[str, Count]
    refused: dict[str, Count]


class TaskMetrics:
    """`now` gives Unix seconds."""

    def __init__(self, task_types: Iterable[str], registry: CollectorRegistry, now: Callable[[], float]) -> None:
        self._now = now
        self._make_labelled(registry)
        self._series = {name: self._of(name) for name in dict.fromkeys((*task_types, UNKNOWN))}
        self._unknown = self._series[UNKNOWN]
        self._accepted = Counter(
            "ml_producer_tasks_accepted", "Tasks given a receipt: confirmed or spooled.", registry=registry
        ).inc
        self._last_confirm = Gauge(
            "ml_producer_last_confirm_timestamp_seconds",
            "Unix time of the last confirm; 0: none yet.",
            registry=registry,
        ).set
        spooled = Counter(
            "ml_producer_tasks_spooled", "Tasks accepted into the spool, by cause.", ["cause"], registry=registry
        )
        self._spooled: dict[str, Count] = {cause: spooled.labels(cause).inc for cause in SPOOL_CAUSES}
        self._replayed = Counter(
            "ml_producer_tasks_replayed", "Dead letters that were put back into the spool.", registry=registry
        )

    def _make_labelled(self, registry: CollectorRegistry) -> None:
        self._sent = Counter(
            "ml_producer_tasks_sent", "Attempts that have an outcome.", ["task_type", "status"], registry=registry
        )
        self._duration = Histogram(
            "ml_producer_task_publish_duration_seconds",
            "From the start of an attempt to its outcome.",
            ["task_type", "status"],
            buckets=PUBLISH_BUCKETS,
            registry=registry,
        )
        self._size = Histogram(
            "ml_producer_message_size_bytes",
            "Body and properties of accepted tasks.",
            ["task_type"],
            buckets=SIZE_BUCKETS,
            registry=registry,
        )
        self._accept_to_confirm = Histogram(
            "ml_producer_accept_to_confirm_seconds",
            "From acceptance to the broker's confirm, time in the spool included.",
            ["task_type"],
            buckets=ACCEPT_BUCKETS,
            registry=registry,
        )
        self._retries = Counter(
            "ml_producer_task_retries", "Attempts that started from the spool.", ["task_type"], registry=registry
        )
        self._dead = Counter(
            "ml_producer_tasks_dead_lettered", "Tasks buried.", ["task_type", "reason"], registry=registry
        )
        self._refused = Counter(
            "ml_producer_tasks_refused", "Tasks refused before acceptance.", ["task_type", "reason"], registry=registry
        )

    def _of(self, name: str) -> _Series:
        return _Series(
            size=self._size.labels(name).observe,
            accept_to_confirm=self._accept_to_confirm.labels(name).observe,
            retry=self._retries.labels(name).inc,
            attempts={
                kind: (self._sent.labels(name, status).inc, self._duration.labels(name, status).observe)
                for kind, status in STATUS_OF.items()
            },
            dead={reason: self._dead.labels(name, reason).inc for reason in DEAD_REASONS},
            refused={reason: self._refused.labels(name, reason).inc for reason in REFUSED_REASONS},
        )

    def accepted(self, event: TaskAccepted) -> None:
        self._accepted()
        self._series.get(event.task_type, self._unknown).size(event.size)

    def settled(self, event: AttemptSettled) -> None:
        count, observe = self._series.get(event.task_type, self._unknown).attempts[type(event.outcome)]
        count()
        observe(event.duration)

    def confirmed(self, event: TaskConfirmed) -> None:
        self._series.get(event.task_type, self._unknown).accept_to_confirm(event.since_accept)
        self._last_confirm(self._now())

    def spooled(self, event: TaskSpooled) -> None:
        self._spooled.get(event.cause, self._spooled[OTHER])()

    def retried(self, event: TaskRetried) -> None:
        self._series.get(event.task_type, self._unknown).retry()

    def dead_lettered(self, event: TaskDeadLettered) -> None:
        dead = self._series.get(event.task_type, self._unknown).dead
        dead.get(event.reason, dead[OTHER])()

    def refused(self, event: TaskRefused) -> None:
        refused = self._series.get(event.task_type, self._unknown).refused
        refused.get(event.reason, refused[OTHER])()

    def replayed(self, event: TasksReplayed) -> None:
        self._replayed.inc(event.count)
