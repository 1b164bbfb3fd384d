"""The metrics of a producer: a listener of events, and their two views.

Every series exists from the start at 0, so that rates and alerts work before the first event; no label is a task id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder

from mlproducer.events import (
    AttemptSettled,
    BlockedChanged,
    BreakerChanged,
    ConfirmsTimedOut,
    ConnectionChanged,
    ConnectionFailed,
    Event,
    FlightMeasured,
    HealthChecked,
    QueueMeasured,
    ReconnectScheduled,
    ReconnectsExhausted,
    SpoolFailed,
    SpoolMeasured,
    TaskAccepted,
    TaskConfirmed,
    TaskDeadLettered,
    TaskRefused,
    TaskRetried,
    TaskSpooled,
    TasksReplayed,
    TopologyDiffers,
)
from mlproducer.telemetry.collector import TaskCollector
from mlproducer.telemetry.link import LinkMetrics, StoreMetrics
from mlproducer.telemetry.tasks import RareTaskMetrics, TaskCounts
from mlproducer.telemetry.totals import task_totals
from mlproducer.telemetry.view import as_document

_Handler = Callable[[Any], None]
"""Takes the one event type that it is registered for."""


class Metrics:
    """Call it with events, from one thread; read it with `prometheus()` and `json()`, from any.

    `handlers` has what each type of event leads to, for who tells many events and would rather look that up once.

    `registry` is an own one by default, never prometheus-client's global one: two producers in one process would
    clash there. `now` gives Unix seconds, `monotonic` seconds that never go back.
    """

    def __init__(
        self,
        task_types: Sequence[str],
        queues: Sequence[str],
        registry: CollectorRegistry | None = None,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._now = now
        started = monotonic()
        uptime = Gauge("ml_producer_uptime_seconds", "Since this producer was made.", registry=self.registry)
        uptime.set_function(lambda: monotonic() - started)
        ProcessCollector(registry=self.registry)
        counts, rare = TaskCounts(task_types, now), RareTaskMetrics(task_types, self.registry)
        self.task_totals: Final = partial(task_totals, counts)
        self.registry.register(TaskCollector(counts, rare.created))
        link, store = LinkMetrics(self.registry), StoreMetrics(queues, self.registry)
        self.handlers: Final[Mapping[type[Event], _Handler]] = MappingProxyType(_handlers(counts, rare, link, store))

    def __call__(self, event: Event) -> None:
        # A dictionary, not a `match`: this may run several times a task, and a `match` over 21 classes tries them in
        # turn. That every event has its handler is what a test checks in place of `assert_never`.
        self.handlers[type(event)](event)

    def prometheus(self, accept: str | None = None) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics if the `Accept` header asks for it, else plain text."""
        try:
            encode, content_type = choose_encoder(accept or "")
        except (TypeError, ValueError):  # a version that is no number, as prometheus-client meets it
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def json(self) -> dict[str, object]:
        """The same facts for people and tools without a Prometheus; see `telemetry.view`."""
        return as_document(self.registry.collect(), self._now())


def _handlers(
    counts: TaskCounts, rare: RareTaskMetrics, link: LinkMetrics, store: StoreMetrics
) -> dict[type[Event], _Handler]:
    return {
        TaskAccepted: counts.accepted,
        AttemptSettled: counts.settled,
        TaskConfirmed: counts.confirmed,
        TaskSpooled: counts.spooled,
        TaskRetried: counts.retried,
        TaskDeadLettered: rare.dead_lettered,
        TaskRefused: rare.refused,
        TasksReplayed: rare.replayed,
        ConnectionChanged: link.connection,
        ConnectionFailed: link.connection_failed,
        ReconnectScheduled: link.reconnect,
        ReconnectsExhausted: link.exhausted,
        BlockedChanged: link.blocked,
        BreakerChanged: link.breaker,
        ConfirmsTimedOut: link.confirms_timed_out,
        HealthChecked: link.health,
        TopologyDiffers: link.topology,
        FlightMeasured: link.flight,
        SpoolMeasured: store.spool,
        SpoolFailed: store.spool_failed,
        QueueMeasured: store.queue,
    }
