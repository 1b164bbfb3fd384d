"""Which line each event makes, at which level.

A line about a task has its `task_id` and its `attempt`, which counts from 1, or, where it is about no attempt, the
`attempts` that were spent so far. A refused task has neither: nobody attempted it.

| level | facts |
|---|---|
| debug | a task confirmed, a retry started, an attempt that did not succeed, a good health check |
| info | a task spooled, dead letters replayed, the connection's ordinary changes |
| warning | a task refused or buried, a connection lost, an alarm, an open breaker, a failed health check, a listener |
|         | that is slow |
| error | reconnect attempts used up, the spool unusable, the application's own code failed, an error that |
|         | nobody thought of |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import structlog

from mlproducer.core.retry import cause_of
from mlproducer.events import (
    AnsweredLate,
    AttemptSettled,
    BlockedChanged,
    BreakerChanged,
    BreakerState,
    CallbackFailed,
    CallbackSlow,
    ClockJumped,
    ConfirmsTimedOut,
    ConfirmWaitChanged,
    ConnectionChanged,
    ConnectionFailed,
    ConnectionState,
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
    RouteState,
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
from mlproducer.outcome import Confirmed, Nacked, NotSent, Returned, Unsure
from mlproducer.redact import clean
from mlproducer.telemetry.labels import STATUS_OF
from mlproducer.telemetry.logger import LOGGER, configure_logging, event_logger

__all__ = ["LogListener", "configure_logging"]

DEBUG: Final = logging.DEBUG
INFO: Final = logging.INFO

SILENT: Final[Mapping[type[Event], str]] = MappingProxyType(
    {
        TaskAccepted: "the task is confirmed or spooled as well, which says more",
        SpoolMeasured: "a metric: ml_producer_retry_queue_size and its like",
        FlightMeasured: "a metric: ml_producer_in_flight and its like",
        QueueMeasured: "a metric: ml_producer_queue_depth",
        TrafficMeasured: "a metric: ml_producer_queue_unacked and its like",
        Judged: "a metric: ml_producer_cause, and each cause has events of its own",
        QueueMissing: "a metric: the depth has no series; TopologyDiffers says it once",
    }
)
"""What makes no line, and why."""


class LogListener:
    """Called with each event. A confirmed task costs one level check unless debug lines are wanted.

    `handlers` has what each type of event leads to, for who tells many events and would rather look that up once;
    what makes no line is not in it.
    """

    def __init__(self, logger: structlog.stdlib.BoundLogger | None = None) -> None:
        self._log = event_logger() if logger is None else logger
        # The standard library's own check, which remembers its answer until somebody sets a level anywhere.
        self._enabled = logging.getLogger(LOGGER).isEnabledFor if logger is None else logger.isEnabledFor
        self.handlers: Final[Mapping[type[Event], Callable[[Any], None]]] = MappingProxyType(self._all())

    def _all(self) -> dict[type[Event], Callable[[Any], None]]:
        return {
            AttemptSettled: self._settled,
            TaskConfirmed: self._confirmed,
            TaskSpooled: self._spooled,
            TaskRetried: self._retried,
            TaskDeadLettered: self._dead_lettered,
            TaskRefused: self._refused,
            TasksReplayed: lambda e: self._log.info("dead letters replayed", count=e.count),
            TasksPurged: lambda e: self._log.info("dead letters purged", count=e.count),
            ConnectionChanged: self._connection,
            ConnectionFailed: self._connection_failed,
            ReconnectScheduled: self._reconnect,
            ReconnectsExhausted: self._exhausted,
            BlockedChanged: self._blocked,
            BreakerChanged: self._breaker,
            RouteChanged: self._route,
            ConfirmsTimedOut: self._timed_out,
            AnsweredLate: self._answered_late,
            ConfirmWaitChanged: self._confirm_wait,
            HealthChecked: self._health,
            SpoolFailed: lambda e: self._log.error("the spool failed; it is tried again", text=e.text),
            TrafficUnknown: self._traffic_unknown,
            TasksLeft: self._left,
            SpoolChanged: self._spool_changed,
            ClockJumped: self._clock_jumped,
            PartFailed: self._part_failed,
            TopologyDiffers: self._topology,
            CallbackFailed: self._callback_failed,
            CallbackSlow: self._callback_slow,
        }

    def __call__(self, event: Event) -> None:
        handler = self.handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _clock_jumped(self, event: ClockJumped) -> None:
        self._log.warning(
            "a clock jumped; tasks wait and leases last as long as they should all the same",
            clock=event.clock,
            seconds=round(event.seconds, 3),
        )

    def _settled(self, event: AttemptSettled) -> None:
        if type(event.outcome) is Confirmed or not self._enabled(DEBUG):
            return
        self._log.debug(
            "attempt did not succeed",
            task_id=event.task_id,
            task_type=event.task_type,
            status=STATUS_OF[type(event.outcome)],
            attempt=event.attempt,
            **_why(event),
            seconds=round(event.duration, 6),
        )

    def _confirmed(self, event: TaskConfirmed) -> None:
        if self._enabled(DEBUG):
            self._log.debug(
                "task confirmed",
                task_id=event.task_id,
                task_type=event.task_type,
                attempt=event.attempt,
                seconds_since_accept=round(event.since_accept, 6),
            )

    def _spooled(self, event: TaskSpooled) -> None:
        if self._enabled(INFO):
            self._log.info(
                "task spooled",
                task_id=event.task_id,
                task_type=event.task_type,
                attempts=event.attempts,
                cause=event.cause,
            )

    def _retried(self, event: TaskRetried) -> None:
        if self._enabled(DEBUG):
            self._log.debug("task retried", task_id=event.task_id, task_type=event.task_type, attempt=event.attempt)

    def _dead_lettered(self, event: TaskDeadLettered) -> None:
        self._log.warning(
            "task dead-lettered; `mlproducer dlq show` has it whole",
            task_id=event.task_id,
            task_type=event.task_type,
            attempts=event.attempts,
            cause=event.reason,
            text=event.text,
        )

    def _refused(self, event: TaskRefused) -> None:
        self._log.warning(
            "task refused; it is nowhere", task_id=event.task_id, task_type=event.task_type, cause=event.reason
        )

    def _connection(self, event: ConnectionChanged) -> None:
        lost = event.state is ConnectionState.DISCONNECTED
        line = self._log.warning if lost else self._log.info
        reason = {"reason": event.reason} if event.reason and event.state is not ConnectionState.CONNECTED else {}
        line(f"connection {event.state.name.lower()}", node=event.node, **reason)

    def _connection_failed(self, event: ConnectionFailed) -> None:
        self._log.warning("connection failed", error_type=event.error_type.value, node=event.node, text=event.text)

    def _reconnect(self, event: ReconnectScheduled) -> None:
        self._log.info("reconnect scheduled", attempt=event.attempt, seconds=round(event.delay, 3))

    def _exhausted(self, event: ReconnectsExhausted) -> None:
        self._log.error(
            "reconnect attempts used up; one is made at each health check (RABBITMQ_URL, ML_RECONNECT_ATTEMPTS)",
            attempts=event.attempts,
        )

    def _blocked(self, event: BlockedChanged) -> None:
        if event.blocked:
            self._log.warning("broker blocks publishers (memory or disk alarm); tasks are spooled", reason=event.reason)
        else:
            self._log.info("broker takes messages again")

    def _breaker(self, event: BreakerChanged) -> None:
        line = self._log.warning if event.state is BreakerState.OPEN else self._log.info
        line(f"circuit breaker {event.state.name.lower().replace('_', '-')}", failures=event.failures)

    def _route(self, event: RouteChanged) -> None:
        match event.state:
            case RouteState.OPEN:
                self._log.info("route open again", route=event.route)
            case RouteState.FAILING:
                text = "route has failed for longer than ML_ROUTE_PATIENCE; its tasks spend attempts"
                self._log.error(text, route=event.route, reason=event.reason, text=event.text)
            case _:
                text = "route held: it takes nothing; its tasks wait in the spool, the others go on"
                wait = round(event.wait, 3)
                self._log.warning(text, route=event.route, reason=event.reason, text=event.text, probe_in=wait)

    def _timed_out(self, event: ConfirmsTimedOut) -> None:
        self._log.warning("confirms timed out; the tasks are unsure (ML_CONFIRM_TIMEOUT)", count=event.count)

    def _answered_late(self, event: AnsweredLate) -> None:
        if self._enabled(DEBUG):
            outcome, seconds = cause_of(event.outcome), round(event.duration, 3)
            self._log.debug("answered late", task_id=event.task_id, outcome=outcome, seconds=seconds)

    def _confirm_wait(self, event: ConfirmWaitChanged) -> None:
        wait = round(event.wait, 3)
        if event.late:
            text = "the broker answers late; its confirms are waited for longer (up to ML_CONFIRM_CAP)"
            self._log.warning(text, route=event.route, wait=wait)
        else:
            self._log.info("the broker answers in time again", route=event.route, wait=wait)

    def _health(self, event: HealthChecked) -> None:
        if not event.ok:
            self._log.warning("health check failed", seconds=round(event.duration, 3), text=event.text)
        elif self._enabled(DEBUG):
            self._log.debug("health check passed", seconds=round(event.duration, 3))

    def _spool_changed(self, event: SpoolChanged) -> None:
        if event.available:
            self._log.info("the spool works again", seconds=round(event.lasted, 3))
        else:
            self._log.error("the spool cannot be used: new tasks that are not confirmed are refused", text=event.text)

    def _part_failed(self, event: PartFailed) -> None:
        clean(event.error)
        self._log.error(
            "an error in mlproducer, or in code that it called; please report it",
            part=event.part,
            text=f"{type(event.error).__name__}: {event.error}",
            exc_info=event.error,
        )

    def _topology(self, event: TopologyDiffers) -> None:
        self._log.warning("broker has it with other arguments; publishing goes on", name=event.name, text=event.text)

    def _traffic_unknown(self, event: TrafficUnknown) -> None:
        self._log.warning("what passes through the broker's queues is not known", text=event.text)

    def _left(self, event: TasksLeft) -> None:
        if event.durable:
            text, what = "tasks stay in the spool", "the next producer on it publishes them, or `mlproducer drain`"
        else:
            text, what = "tasks are gone with this process", "ML_SPOOL_URL names a spool that no disk keeps"
        self._log.warning(text, count=event.count, reason=event.reason, then=what)

    def _callback_failed(self, event: CallbackFailed) -> None:
        if event.traceback:  # one of its kind was said
            self._log.error(
                "code of the application raised an error; no task is touched by it (said once a kind)",
                callback=event.callback,
                name=event.name,
                error=event.error,
                text=event.text,
                exception=event.traceback,
            )

    def _callback_slow(self, event: CallbackSlow) -> None:
        if event.first:
            self._log.warning(
                "a listener took long, and the event loop stood still meanwhile (said once each)",
                name=event.name,
                told=event.event,
                seconds=round(event.seconds, 3),
            )


def _why(event: AttemptSettled) -> dict[str, object]:
    match event.outcome:
        case Returned(code=code, text=text):
            return {"cause": "returned", "code": code, "text": text}
        case Unsure(cause=unsure, text=text):
            return {"cause": unsure.value, "text": text}
        case NotSent(cause=not_sent, text=text):
            return {"cause": not_sent.value, "text": text}
        case Nacked():
            return {"cause": "nacked"}
        case Confirmed():
            return {"cause": "confirmed"}
