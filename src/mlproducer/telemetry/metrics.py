"""The metrics of a producer: a listener of events, and their two views.

Every series exists from the start at 0, so that rates and alerts work before the first event; no label is a task id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isnan
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from mlproducer.events import (
    AnsweredLate,
    AttemptSettled,
    BlockedChanged,
    BreakerChanged,
    CallbackFailed,
    CallbackSlow,
    ClockJumped,
    ConfirmsTimedOut,
    ConfirmWaitChanged,
    ConnectionChanged,
    ConnectionFailed,
    Event,
    FlightMeasured,
    HealthChecked,
    Judged,
    PartFailed,
    QueueMeasured,
    QueueMissing,
    ReconnectScheduled,
    ReconnectsExhausted,
    RouteChanged,
    SpoolChanged,
    SpoolFailed,
    SpoolMeasured,
    TaskAccepted,
    TaskConfirmed,
    TaskDeadLettered,
    TaskRefused,
    TaskRetried,
    TasksLeft,
    TaskSpooled,
    TasksPurged,
    TasksReplayed,
    TopologyDiffers,
    TrafficMeasured,
    TrafficUnknown,
)
from mlproducer.outcome import Outcome
from mlproducer.telemetry.books import BookMetrics, SpoolFacts
from mlproducer.telemetry.cells import Board, Exemplar, Histogram, Number
from mlproducer.telemetry.collector import BoardCollector, Creation
from mlproducer.telemetry.exposition import OPENMETRICS, TEXT, Exposition, Scrape, Shown
from mlproducer.telemetry.judged import VerdictMetrics
from mlproducer.telemetry.link import LinkMetrics, StoreMetrics
from mlproducer.telemetry.shared import Shared
from mlproducer.telemetry.surroundings import Surroundings
from mlproducer.telemetry.task_totals import task_totals
from mlproducer.telemetry.tasks import RareTaskMetrics, TaskCounts, with_counts
from mlproducer.telemetry.totals import Totals, totals_of
from mlproducer.telemetry.view import as_document

_Handler = Callable[[Any], None]
"""Takes the one event type that it is registered for."""


class Metrics:
    """Call it with events, from one thread; read it with `prometheus()` and `json()`, from any.

    `handlers` has what each type of event leads to, for who tells many events and would rather look that up once.

    `registry` is one of prometheus-client's in which an application wants our families too; by default an own one,
    never the library's global one: two producers in one process would clash there. `now` gives Unix seconds,
    `monotonic` seconds that never go back.
    """

    def __init__(
        self,
        task_types: Sequence[str],
        queues: Sequence[str],
        registry: CollectorRegistry | None = None,
        *,
        spool: SpoolFacts | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._now = now
        self._monotonic = monotonic
        self._started = monotonic()
        self._board = board = Board()
        self._uptime = board.gauge("uptime_seconds", "Since this producer was made.")
        self._counts = counts = TaskCounts(task_types, now, board)
        rare = RareTaskMetrics(task_types, board)
        link, store = LinkMetrics(board), StoreMetrics(queues, board)
        verdict = VerdictMetrics(queues, board)
        books = BookMetrics(board, spool or SpoolFacts(), counts.owed)
        self._around = around = Surroundings(board)
        self._created = Creation()
        self._exposition = Exposition()
        self._shared: Shared | None = None
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        ProcessCollector(registry=self.registry)
        self.task_totals: Final = partial(task_totals, counts)
        self.registry.register(BoardCollector(self._own, self._created))
        self.handlers: Final[Mapping[type[Event], _Handler]] = MappingProxyType(
            _handlers(counts, rare, link, store, verdict, books, around) | {FlightMeasured: self._measured(link)}
        )

    def __call__(self, event: Event) -> None:
        # A dictionary, not a `match`: this may run several times a task, and a `match` over 21 classes tries them in
        # turn. That every event has its handler is what a test checks in place of `assert_never`.
        self.handlers[type(event)](event)

    def prometheus(self, accept: str | None = None) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics, with exemplars, if the `Accept` header asks for it; else
        plain text. With a folder that processes share it is that of all of them.

        Raises: OSError, if that folder cannot be read.
        """
        scrape, created = self._scrape()
        process = self._process if self._shared is None else CollectorRegistry()  # whose of several would it be?
        if _wants_openmetrics(accept):
            rest: bytes = generate_openmetrics(process)  # type: ignore[no-untyped-call]  # it has no annotations
            return self._exposition.openmetrics(scrape, created).encode() + rest, OPENMETRICS
        return self._exposition.text(scrape, created).encode() + generate_latest(process), TEXT

    def follow_log(self, dropped: Callable[[], int]) -> None:
        """Show the log lines that were dropped; `dropped` gives their number so far."""
        self._around.dropped_lines = dropped

    def totals(self) -> Totals:
        """What was accepted and confirmed so far, cheap enough to ask every second."""
        return totals_of(self._counts)

    def json(self) -> dict[str, object]:
        """The same facts for people and tools without a Prometheus; see `telemetry.view`. With a folder that processes
        share, counts are those of all, and gauges those of this process.
        """
        scrape, _ = self._scrape()
        pid = None if self._shared is None else self._shared.pid
        started = self._process.get_sample_value("process_start_time_seconds")
        return as_document(scrape, self._now(), process_started=started, pid=pid)

    def share(self, folder: Path) -> None:
        """Count in a file of `folder` from now on, and show what all producers there count (docs/adr/0008).

        Raises: SettingsError, if the folder cannot be used.
        """
        shared = Shared(folder, self._board)
        shared.join()
        self._shared = shared

    def unshare(self) -> None:
        """Count for ourselves again. What was counted stays in the folder, for the processes that go on."""
        if self._shared is not None:
            self._shared.leave()
            self._shared = None

    def attempt_traced(self, task_type: str, outcome: Outcome, seconds: float, trace_id: str) -> None:
        """An exemplar for the duration of attempts. Told by who traces, of sampled spans only, beside the event: so
        that nothing is asked per task where nobody traces. `trace_id` is 32 hex digits.
        """
        self._counts.attempt_traced(task_type, outcome, Exemplar(trace_id, seconds, self._now()))

    def confirm_traced(self, task_type: str, seconds: float, trace_id: str) -> None:
        """The same for the time from acceptance to confirm."""
        self._counts.confirm_traced(task_type, Exemplar(trace_id, seconds, self._now()))

    def _scrape(self) -> tuple[Scrape, float | None]:
        if self._shared is None:
            return self._own(), self._created()
        self._look()
        return with_counts(self._shared.scrape()), None  # the series of several processes have no one beginning

    def _own(self) -> Scrape:
        self._look()
        return with_counts(
            (family, [Shown(labels, one.cells, _exemplars(one)) for labels, one in series.items() if _is_there(one)])
            for family, series in self._board.series.items()
        )

    def _look(self) -> None:
        self._uptime.set(self._monotonic() - self._started)
        self._around.look()

    def _measured(self, link: LinkMetrics) -> _Handler:
        def handle(event: FlightMeasured) -> None:
            self._look()  # for the scrapes of other processes
            link.flight(event)

        return handle


def _is_there(one: Number | Histogram) -> bool:
    return isinstance(one, Histogram) or not isnan(one.get())


def _exemplars(one: Number | Histogram) -> Mapping[int, Exemplar]:
    return dict(one.exemplars) if isinstance(one, Histogram) else {}


def _wants_openmetrics(accept: str | None) -> bool:
    try:
        _, content_type = choose_encoder(accept or "")
    except (TypeError, ValueError):  # a version that is no number, as prometheus-client meets it
        return False
    return content_type.startswith("application/openmetrics-text")


def _handlers(
    counts: TaskCounts,
    rare: RareTaskMetrics,
    link: LinkMetrics,
    store: StoreMetrics,
    verdict: VerdictMetrics,
    books: BookMetrics,
    around: Surroundings,
) -> dict[type[Event], _Handler]:
    def spool_measured(event: SpoolMeasured) -> None:
        store.spool(event)
        books.measured(event)

    return {
        TaskAccepted: counts.accepted,
        AttemptSettled: counts.settled,
        TaskConfirmed: counts.confirmed,
        TaskSpooled: counts.spooled,
        TaskRetried: counts.retried,
        TaskDeadLettered: rare.dead_lettered,
        TaskRefused: rare.refused,
        TasksReplayed: rare.replayed,
        TasksPurged: books.purged,
        TasksLeft: store.left,
        ConnectionChanged: link.connection,
        ConnectionFailed: link.connection_failed,
        ReconnectScheduled: link.reconnect,
        ReconnectsExhausted: link.exhausted,
        BlockedChanged: link.blocked,
        BreakerChanged: link.breaker,
        ConfirmsTimedOut: link.confirms_timed_out,
        AnsweredLate: link.answered_late,
        ConfirmWaitChanged: store.confirm_wait,
        HealthChecked: link.health,
        PartFailed: link.part_failed,
        TopologyDiffers: link.topology,
        SpoolMeasured: spool_measured,
        SpoolFailed: store.spool_failed,
        SpoolChanged: store.spool_changed,
        ClockJumped: store.clock_jumped,
        QueueMeasured: store.queue,
        TrafficMeasured: store.traffic,
        TrafficUnknown: store.traffic_unknown,
        Judged: verdict.judged,
        QueueMissing: store.queue_missing,
        RouteChanged: store.route,
        CallbackFailed: around.callback_failed,
        CallbackSlow: around.callback_slow,
    }
