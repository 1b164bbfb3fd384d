from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import use_span

from mlproducer.errors import ErrorType
from mlproducer.events import (
    ALL_EVENTS,
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
from mlproducer.outcome import Confirmed, Nacked, NotSent, NotSentCause, Outcome, Returned, Unsure, UnsureCause
from mlproducer.telemetry.logger import event_logger
from mlproducer.telemetry.logs import SILENT, LogListener, configure_logging

NAMES = ("mlproducer", "uvicorn", "asyncio", "opentelemetry")


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    kept = [(log := logging.getLogger(name), list(log.handlers), log.level, log.propagate) for name in NAMES]
    yield
    for log, handlers, level, propagate in kept:
        log.handlers[:] = handlers
        log.setLevel(level)
        log.propagate = propagate


class Lines:
    """What a listener writes as JSON, read back."""

    def __init__(self, level: Any = "debug") -> None:
        self.stream = io.StringIO()
        configure_logging(level, "json", self.stream)
        self.tell = LogListener()

    def of(self, *events: Event) -> list[dict[str, Any]]:
        for event in events:
            self.tell(event)
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


TASK_LINES: list[tuple[Event, str, str | None]] = [
    (TaskConfirmed("t-1", "embed_vectors", 0.004, 2), "debug", None),
    (TaskSpooled("t-1", "embed_vectors", "blocked", 2), "info", "blocked"),
    (TaskRetried("t-1", "embed_vectors", 2), "debug", None),
    (TaskDeadLettered("t-1", "embed_vectors", "returned", "312 NO_ROUTE", 2), "warning", "returned"),
]
OTHER_LINES: list[tuple[Event, str]] = [
    (TaskRefused("embed_vectors", "SpoolFull", "t-1"), "warning"),
    (TasksReplayed(7), "info"),
    (TasksPurged(2), "info"),
    (ConnectionChanged(ConnectionState.CONNECTED, "localhost:5672"), "info"),
    (ConnectionChanged(ConnectionState.DISCONNECTED, "localhost:5672", "reset by peer"), "warning"),
    (ConnectionFailed(ErrorType.AUTH, "localhost:5672", "wrong password: check RABBITMQ_URL"), "warning"),
    (ReconnectScheduled(3, 2.0), "info"),
    (ReconnectsExhausted(10), "error"),
    (BlockedChanged(blocked=True, reason="low on memory"), "warning"),
    (BlockedChanged(blocked=False), "info"),
    (RouteChanged("ml.embed", RouteState.HELD, "nacked", 1.0), "warning"),
    (RouteChanged("#", RouteState.FAILING, "channel_refused", text="403 ACCESS_REFUSED"), "error"),
    (RouteChanged("ml.embed", RouteState.OPEN), "info"),
    (BreakerChanged(BreakerState.OPEN, 10), "warning"),
    (BreakerChanged(BreakerState.HALF_OPEN, 10), "info"),
    (BreakerChanged(BreakerState.CLOSED, 0), "info"),
    (ConfirmsTimedOut(5), "warning"),
    (AnsweredLate("t-1", "embed_vectors", Confirmed(), 7.0), "debug"),
    (ConfirmWaitChanged("ml.embed", 12.0, late=True), "warning"),
    (ConfirmWaitChanged("ml.embed", 5.0, late=False), "info"),
    (HealthChecked(ok=False, duration=0.1, text="timeout"), "warning"),
    (HealthChecked(ok=True, duration=0.1), "debug"),
    (SpoolFailed("disk full"), "error"),
    (SpoolChanged(available=False, text="disk full"), "error"),
    (SpoolChanged(available=True, lasted=2.5), "info"),
    (ClockJumped("host", -3_600.0), "warning"),
    (PartFailed("drain", RuntimeError("a bug")), "error"),
    (TopologyDiffers("ml.embed", "x-queue-type differs"), "warning"),
    (TrafficUnknown("the management API refuses the login"), "warning"),
    (TasksLeft(3, "not connected"), "warning"),
    (CallbackFailed("listener", "app.listen", "KeyError", "gone", "Traceback: here"), "error"),
    (CallbackSlow("app.listen", "TaskConfirmed", 0.3, first=True), "warning"),
]
OUTCOMES: list[tuple[Outcome, str, str]] = [
    (Nacked(), "nacked", "nacked"),
    (Returned(312, "NO_ROUTE"), "returned", "returned"),
    (Unsure(UnsureCause.CONFIRM_TIMEOUT), "unsure", "confirm_timeout"),
    (NotSent(NotSentCause.TOO_LARGE, text="over 16 MiB"), "not_sent", "too_large"),
]


@pytest.mark.parametrize(("event", "level", "cause"), TASK_LINES, ids=lambda x: type(x).__name__)
def test_a_tasks_line_has_its_id_its_attempt_and_its_cause(event: Event, level: str, cause: str | None) -> None:
    (line,) = Lines().of(event)
    assert line["level"] == level
    assert line["task_id"] == "t-1"
    assert line["task_type"] == "embed_vectors"
    assert line.get("cause") == cause
    assert line.get("attempt", line.get("attempts")) == 2


def test_a_refused_tasks_line_has_its_id_and_no_attempt_because_there_was_none() -> None:
    (line,) = Lines().of(TaskRefused("embed_vectors", "SpoolFull", "t-1"))
    assert (line["task_id"], line["cause"]) == ("t-1", "SpoolFull")
    assert "attempt" not in line


@pytest.mark.parametrize(("event", "level"), OTHER_LINES, ids=lambda x: type(x).__name__)
def test_a_fact_is_one_line_at_its_level(event: Event, level: str) -> None:
    (line,) = Lines().of(event)
    assert line["level"] == level
    assert line["logger"] == "mlproducer"
    assert line["timestamp"].endswith("+00:00")


@pytest.mark.parametrize(("outcome", "status", "cause"), OUTCOMES)
def test_an_attempt_that_did_not_succeed_says_why(outcome: Outcome, status: str, cause: str) -> None:
    (line,) = Lines().of(AttemptSettled("t-1", "embed_vectors", outcome, 0.02, 10, 3))
    assert (line["level"], line["task_id"], line["status"], line["cause"]) == ("debug", "t-1", status, cause)
    assert line["attempt"] == 3


SAMPLES: dict[type[Event], Event] = {
    **{type(event): event for event, _, _ in TASK_LINES},
    **{type(event): event for event, _ in OTHER_LINES},
    AttemptSettled: AttemptSettled("t-1", "embed_vectors", Nacked(), 0.02, 10, 2),
}


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("kind", ALL_EVENTS, ids=lambda kind: kind.__name__)
def test_each_event_has_one_line_or_a_reason_to_have_none(kind: type[Event], form: Any) -> None:
    if kind in SILENT:
        assert kind not in SAMPLES
        assert len(SILENT[kind]) > 10
        return
    stream = io.StringIO()
    configure_logging("debug", form, stream)
    LogListener()(SAMPLES[kind])
    line, *traceback = stream.getvalue().splitlines()
    assert bool(traceback) is (kind in {CallbackFailed, PartFailed} and form == "console")
    if "task_id" in kind.__struct_fields__:
        assert ('"task_id": "t-1"' if form == "json" else "task_id=t-1") in line


@pytest.mark.parametrize(
    "event",
    [
        TaskAccepted("t-1", "embed_vectors", 10),
        SpoolMeasured(1, 2, 3.0, 4),
        FlightMeasured(1, 2, 3),
        QueueMeasured("ml.embed", 1),
        TrafficMeasured("ml.embed", 7),
        Judged(0, (("unread", 1),)),
        QueueMissing("ml.embed"),
        AttemptSettled("t-1", "embed_vectors", Confirmed(), 0.01, 10),
    ],
)
def test_what_another_line_or_a_metric_says_better_makes_none(event: Event) -> None:
    assert Lines().of(event) == []


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_level_hides_what_is_below_it_and_nothing_else(level: str) -> None:
    told = [*((event, at) for event, at, _ in TASK_LINES), *OTHER_LINES]
    severity = ("debug", "info", "warning", "error").index
    expected = [at for _, at in told if severity(at) >= severity(level)]
    assert [line["level"] for line in Lines(level).of(*(event for event, _ in told))] == expected


def test_a_line_within_a_span_has_its_ids_and_one_outside_has_none() -> None:
    lines = Lines("info")
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("a caller's")
    with use_span(span, end_on_exit=True):
        lines.tell(TasksReplayed(1))
        logging.getLogger("uvicorn.error").warning("another's")
    lines.tell(TasksReplayed(2))
    inside, foreign, outside = lines.of()
    ids = {"trace_id": f"{span.get_span_context().trace_id:032x}", "span_id": f"{span.get_span_context().span_id:016x}"}
    for line in (inside, foreign):
        assert {name: line[name] for name in ids} == ids
    assert not set(outside) & set(ids)


def test_an_applications_own_handler_sees_the_ids_of_the_span_too(caplog: pytest.LogCaptureFixture) -> None:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("a caller's")
    with caplog.at_level(logging.INFO, "mlproducer"), use_span(span, end_on_exit=True):
        LogListener()(TasksReplayed(1))
    assert f"trace_id={span.get_span_context().trace_id:032x}" in caplog.text


def test_a_level_that_changes_at_run_time_counts_from_the_next_event_on() -> None:
    lines = Lines("info")
    for level, expected in (("DEBUG", 2), ("INFO", 2), ("DEBUG", 4)):
        logging.getLogger("mlproducer").setLevel(level)
        told = lines.of(
            TaskConfirmed("t-1", "embed_vectors", 0.004),
            AttemptSettled("t-1", "embed_vectors", Nacked(), 0.02, 10),
        )
        assert len(told) == expected


def test_logging_disabled_altogether_hides_debug_lines() -> None:
    lines = Lines("debug")
    logging.disable(logging.CRITICAL)
    try:
        assert lines.of(TaskConfirmed("t-1", "embed_vectors", 0.004)) == []
    finally:
        logging.disable(logging.NOTSET)
    assert len(lines.of(TaskConfirmed("t-1", "embed_vectors", 0.004))) == 1


def test_the_handler_of_an_event_does_what_a_call_with_it_does() -> None:
    events: list[Event] = [event for event, *_ in TASK_LINES]
    events += [event for event, _ in OTHER_LINES]
    events += [AttemptSettled("t-1", "embed_vectors", outcome, 0.02, 10) for outcome, *_ in OUTCOMES]
    called = [without_time(line) for line in Lines().of(*events)]
    lines = Lines()
    assert set(lines.tell.handlers) == set(ALL_EVENTS) - set(SILENT)
    for event in events:
        lines.tell.handlers[type(event)](event)
    assert [without_time(line) for line in lines.of()] == called


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "timestamp"}


def test_a_password_in_an_error_never_reaches_a_line() -> None:
    text = "refused: amqp://ml:hunter22@localhost:5672/ password=hunter22"
    (line,) = Lines().of(ConnectionFailed(ErrorType.AUTH, "localhost:5672", text))
    assert "hunter22" not in json.dumps(line)
    assert "amqp://ml:***@localhost:5672/" in line["text"]


def test_a_line_break_in_a_brokers_text_starts_no_line() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    LogListener()(TaskDeadLettered("t-1", "embed_vectors", "returned", "NO_ROUTE\n2026-01-01 [info] forged"))
    assert stream.getvalue().count("\n") == 1


def test_console_lines_are_for_people() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    LogListener()(TaskSpooled("t-1", "embed_vectors", "blocked"))
    line = stream.getvalue()
    assert "task spooled" in line
    assert "task_id=t-1" in line
    assert "cause=blocked" in line
    assert "\x1b" not in line, "colours are for terminals"


def test_configuring_twice_writes_each_line_once_and_to_the_last() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", "json", first)
    configure_logging("info", "json", second)
    LogListener()(TasksReplayed(1))
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_other_loggers_of_the_service_share_its_form_and_its_redaction() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    error = OSError("amqp://ml:hunter22@h/")
    logging.getLogger("uvicorn.error").error("failed with %s", "password=hunter22", exc_info=error)
    line = json.loads(stream.getvalue())
    assert line["logger"] == "uvicorn.error"
    assert line["event"] == "failed with password=***"
    assert "OSError" in line["exception"]
    assert "hunter22" not in stream.getvalue()


def test_configuring_leaves_the_root_logger_and_structlog_to_the_application() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, structlog.get_config())
    configure_logging("debug", "json", io.StringIO())
    assert (list(root.handlers), root.level, structlog.get_config()) == before


def test_an_applications_plain_handler_gets_readable_redacted_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mlproducer"):
        LogListener()(ConnectionFailed(ErrorType.LOST, "h:5672", "amqp://ml:hunter22@h:5672/ is gone"))
    (record,) = caplog.records
    assert record.getMessage() == ("connection failed error_type=lost node=h:5672 text='amqp://ml:***@h:5672/ is gone'")


def test_a_logger_of_ones_own_can_be_given(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "my.app"):
        LogListener(event_logger("my.app"))(TasksReplayed(2))
    assert [(r.name, r.getMessage()) for r in caplog.records] == [("my.app", "dead letters replayed count=2")]


def test_a_logger_of_ones_own_has_its_own_level(caplog: pytest.LogCaptureFixture) -> None:
    tell = LogListener(event_logger("my.app"))
    with caplog.at_level(logging.DEBUG, "mlproducer"), caplog.at_level(logging.INFO, "my.app"):
        tell(TaskConfirmed("t-1", "embed_vectors", 0.004))
    with caplog.at_level(logging.DEBUG, "my.app"):
        tell(TaskConfirmed("t-2", "embed_vectors", 0.004))
    assert [r.getMessage().split()[2] for r in caplog.records] == ["task_id=t-2"]


def test_a_library_user_who_configures_nothing_sees_nothing() -> None:
    code = (
        "import logging\n"
        "from mlproducer.telemetry.logs import LogListener\n"
        "from mlproducer.events import SpoolFailed\n"
        "LogListener()(SpoolFailed('disk full'))\n"
        "assert logging.getLogger().handlers == []\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
