from __future__ import annotations

from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlproducer import errors
from mlproducer.errors import ErrorType, RefusedTask
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
from mlproducer.outcome import (
    Confirmed,
    Nacked,
    NotSent,
    NotSentCause,
    Outcome,
    Returned,
    Unsure,
    UnsureCause,
)
from mlproducer.telemetry.labels import REFUSED_REASONS, SPOOL_CAUSES, STATUS_OF
from mlproducer.telemetry.metrics import Metrics

TYPES = ("summarize_llm", "embed_vectors")
QUEUES = ("ml.summarize", "ml.embed")
UPTIME = "ml_producer_uptime_seconds"
NOW = 1_700_000_000.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(TYPES, QUEUES, now=lambda: NOW)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"ml_producer_{name}", labels)


DESIGNED = {
    "ml_producer_connection_state": "gauge",
    "ml_producer_reconnect_attempts": "gauge",
    "ml_producer_circuit_breaker_state": "gauge",
    "ml_producer_circuit_breaker_trips_total": "counter",
    "ml_producer_circuit_breaker_failures": "gauge",
    "ml_producer_task_retries_total": "counter",
    "ml_producer_connection_errors_total": "counter",
    "ml_producer_tasks_sent_total": "counter",
    "ml_producer_task_publish_duration_seconds": "histogram",
    "ml_producer_message_size_bytes": "histogram",
    "ml_producer_queue_depth": "gauge",
    "ml_producer_retry_queue_size": "gauge",
    "ml_producer_retry_queue_bytes": "gauge",
    "ml_producer_retry_queue_oldest_age_seconds": "gauge",
    "ml_producer_dlq_size": "gauge",
    "ml_producer_confirm_timeouts_total": "counter",
    "ml_producer_late_confirms_total": "counter",
    "ml_producer_route_late": "gauge",
    "ml_producer_health_check_failures_total": "counter",
    "ml_producer_tasks_accepted_total": "counter",
    "ml_producer_tasks_dead_lettered_total": "counter",
    "ml_producer_accept_to_confirm_seconds": "histogram",
    "ml_producer_in_flight": "gauge",
    "ml_producer_connection_blocked": "gauge",
    "ml_producer_last_confirm_timestamp_seconds": "gauge",
    "ml_producer_uptime_seconds": "gauge",
}


def test_every_designed_metric_is_there_under_its_name_and_type(metrics: Metrics) -> None:
    kinds = {}
    for line in metrics.prometheus()[0].decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
    assert {name: kinds.get(name) for name in DESIGNED} == DESIGNED


def test_the_process_start_is_told(metrics: Metrics) -> None:
    started = metrics.registry.get_sample_value("process_start_time_seconds")
    assert started is not None
    assert started > NOW


def test_every_labelled_series_is_0_before_the_first_event(metrics: Metrics) -> None:
    for kind in (*TYPES, "unknown"):
        for status in ("confirmed", "nacked", "returned", "unsure", "not_sent"):
            assert value(metrics, "tasks_sent_total", task_type=kind, status=status) == 0
            assert value(metrics, "task_publish_duration_seconds_count", task_type=kind, status=status) == 0
        for reason in ("nacked", "returned", "channel_refused", "too_large", "expired", "other"):
            assert value(metrics, "tasks_dead_lettered_total", task_type=kind, reason=reason) == 0
        assert value(metrics, "task_retries_total", task_type=kind) == 0
        assert value(metrics, "message_size_bytes_count", task_type=kind) == 0
        assert value(metrics, "accept_to_confirm_seconds_count", task_type=kind) == 0
    for error in ErrorType:
        assert value(metrics, "connection_errors_total", error_type=error.value) == 0
    for queue in QUEUES:
        assert value(metrics, "queue_depth", queue_name=queue) == 0


def test_a_queue_that_is_gone_has_no_depth_and_one_that_is_back_has(metrics: Metrics) -> None:
    metrics(QueueMeasured("ml.embed", 7))
    metrics(QueueMeasured("ml.summarize", 3))
    metrics(QueueMissing("ml.embed"))
    metrics(QueueMissing("never heard of"))
    assert value(metrics, "queue_depth", queue_name="ml.embed") is None
    told = metrics.prometheus("application/openmetrics-text")[0].decode().splitlines()
    of_it = [line for line in told if 'queue_name="ml.embed"' in line]
    assert of_it == ['ml_producer_queue_missing{queue_name="ml.embed"} 0.0'], "which the verdict tells"
    assert metrics.registry.get_sample_value("ml_producer_queue_depth", {"queue_name": "ml.embed"}) is None
    assert value(metrics, "queue_depth", queue_name="ml.summarize") == 3
    assert value(metrics, "queue_depth", queue_name="other") == 0
    queues = metrics.json()["queues"]
    assert isinstance(queues, dict)
    assert "ml.embed" not in queues
    metrics(QueueMeasured("ml.embed", 0))
    assert value(metrics, "queue_depth", queue_name="ml.embed") == 0


def test_the_label_sets_hold_every_cause_and_outcome_there_is() -> None:
    assert set(STATUS_OF) == set(get_args(Outcome))
    assert set(NotSentCause) | set(UnsureCause) <= set(SPOOL_CAUSES)
    refusals = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, RefusedTask) and kind is not RefusedTask
    }
    refusals -= {errors.SpoolNotMade.__name__}  # which only those meet who look, and they publish nothing
    assert refusals == set(REFUSED_REASONS) - {"other"}


EXAMPLES: dict[type[Event], Event] = {
    type(event): event
    for event in (
        TaskAccepted("t1", "embed_vectors", 1_000),
        TaskRefused("embed_vectors", "SpoolFull"),
        AttemptSettled("t1", "embed_vectors", Confirmed(), 0.004, 1_000),
        TaskConfirmed("t1", "embed_vectors", 0.004),
        TaskSpooled("t1", "embed_vectors", "blocked"),
        TaskRetried("t1", "embed_vectors", 1),
        TaskDeadLettered("t1", "embed_vectors", "returned", "312 NO_ROUTE"),
        TasksReplayed(7),
        TasksPurged(3),
        ConnectionChanged(ConnectionState.CONNECTED, "localhost:5672"),
        ConnectionFailed(ErrorType.AUTH, "localhost:5672", "refused"),
        ReconnectScheduled(3, 2.0),
        ReconnectsExhausted(10),
        BlockedChanged(blocked=True, reason="low on memory"),
        BreakerChanged(BreakerState.OPEN, 10),
        ConfirmsTimedOut(5),
        AnsweredLate("t1", "embed_vectors", Confirmed(), 7.0),
        ConfirmWaitChanged("ml.embed", 12.0, late=True),
        RouteChanged("ml.embed", RouteState.HELD, "nacked", 1.0),
        HealthChecked(ok=False, duration=0.1, text="timeout"),
        SpoolFailed("disk full"),
        SpoolChanged(available=False, text="disk full"),
        ClockJumped("host", -3_600.0),
        PartFailed("drain", RuntimeError("a bug")),
        TopologyDiffers("ml.embed", "x-queue-type"),
        SpoolMeasured(12, 3_456, 7.5, 2),
        FlightMeasured(11, 4, 6),
        QueueMeasured("ml.embed", 42, 3),
        TrafficMeasured("ml.embed", 7, 3.5, 2.0, 1.25),
        TrafficUnknown("no answer"),
        Judged(0, (("unread", 1),)),
        QueueMissing("ml.embed"),
        TasksLeft(3, "not connected"),
        CallbackFailed("listener", "app.listen", "KeyError", "gone"),
        CallbackSlow("app.listen", "TaskConfirmed", 0.3),
    )
}

CHANGES: dict[type[Event], tuple[str, dict[str, str], float | None]] = {
    TaskAccepted: ("tasks_accepted_total", {}, 1),
    TaskRefused: ("tasks_refused_total", {"task_type": "embed_vectors", "reason": "SpoolFull"}, 1),
    AttemptSettled: ("tasks_sent_total", {"task_type": "embed_vectors", "status": "confirmed"}, 1),
    TaskConfirmed: ("last_confirm_timestamp_seconds", {}, NOW),
    TaskSpooled: ("tasks_spooled_total", {"cause": "blocked"}, 1),
    TaskRetried: ("task_retries_total", {"task_type": "embed_vectors"}, 1),
    TaskDeadLettered: ("tasks_dead_lettered_total", {"task_type": "embed_vectors", "reason": "returned"}, 1),
    TasksReplayed: ("tasks_replayed_total", {}, 7),
    TasksPurged: ("tasks_purged_total", {}, 3),
    ConnectionChanged: ("connection_state", {}, 2),
    ConnectionFailed: ("connection_errors_total", {"error_type": "auth"}, 1),
    ReconnectScheduled: ("reconnect_attempts", {}, 3),
    ReconnectsExhausted: ("max_attempts_reached_total", {}, 1),
    BlockedChanged: ("connection_blocked", {}, 1),
    BreakerChanged: ("circuit_breaker_trips_total", {}, 1),
    AnsweredLate: ("late_confirms_total", {}, 1),
    ConfirmWaitChanged: ("route_late", {"routing_key": "ml.embed"}, 1),
    ConfirmsTimedOut: ("confirm_timeouts_total", {}, 5),
    RouteChanged: ("route_state", {"routing_key": "ml.embed"}, 1),
    HealthChecked: ("health_check_failures_total", {}, 1),
    SpoolFailed: ("spool_errors_total", {}, 1),
    SpoolChanged: ("spool_unavailable", {}, 1),
    ClockJumped: ("clock_jumps_total", {"clock": "host"}, 1),
    PartFailed: ("internal_errors_total", {"part": "drain"}, 1),
    TopologyDiffers: ("topology_differences_total", {}, 1),
    SpoolMeasured: ("retry_queue_size", {}, 12),
    FlightMeasured: ("in_flight", {}, 11),
    QueueMeasured: ("queue_depth", {"queue_name": "ml.embed"}, 42),
    TrafficMeasured: ("queue_unacked", {"queue_name": "ml.embed"}, 7),
    TrafficUnknown: ("queue_unacked", {"queue_name": "ml.embed"}, None),
    Judged: ("cause", {"cause": "unread"}, 1),
    QueueMissing: ("queue_depth", {"queue_name": "ml.embed"}, None),
    TasksLeft: ("tasks_left", {}, 3),
    CallbackFailed: ("listener_errors_total", {"callback": "listener"}, 1),
    CallbackSlow: ("listener_slow_total", {}, 1),
}


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
def test_every_event_there_is_changes_its_metric(metrics: Metrics, kind: type[Event]) -> None:
    name, labels, expected = CHANGES[kind]
    metrics(TrafficMeasured("ml.embed", 0))  # what only the management API tells has no series before it did
    assert value(metrics, name, **labels) == 0
    metrics(EXAMPLES[kind])
    assert value(metrics, name, **labels) == expected


def test_a_queue_that_tasks_cannot_get_to_is_named_until_they_can(metrics: Metrics) -> None:
    metrics(Judged(0, (("queue_missing", 1),), missing=("ml.embed", "never heard of")))
    assert value(metrics, "queue_missing", queue_name="ml.embed") == 1
    assert value(metrics, "queue_missing", queue_name="ml.summarize") == 0
    assert value(metrics, "queue_missing", queue_name="other") == 1
    metrics(Judged(0, ()))
    assert value(metrics, "queue_missing", queue_name="ml.embed") == 0


def test_a_queue_shows_who_reads_it_beside_what_is_ready(metrics: Metrics) -> None:
    metrics(QueueMeasured("ml.embed", 42, 3))
    assert value(metrics, "queue_consumers", queue_name="ml.embed") == 3


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Confirmed(), "confirmed"),
        (Nacked(), "nacked"),
        (Returned(312, "NO_ROUTE"), "returned"),
        (Unsure(UnsureCause.CONFIRM_TIMEOUT), "unsure"),
        (NotSent(NotSentCause.TOO_LARGE), "not_sent"),
    ],
)
def test_an_attempt_counts_under_its_outcome_alone(metrics: Metrics, outcome: Outcome, status: str) -> None:
    metrics(AttemptSettled("t1", "summarize_llm", outcome, 0.02, 10))
    for each in STATUS_OF.values():
        expected = 1 if each == status else 0
        assert value(metrics, "tasks_sent_total", task_type="summarize_llm", status=each) == expected
        assert value(metrics, "task_publish_duration_seconds_count", task_type="summarize_llm", status=each) == expected


def test_an_hour_in_the_spool_still_falls_into_a_bucket(metrics: Metrics) -> None:
    metrics(TaskConfirmed("t1", "embed_vectors", 3_599.0))
    name = "accept_to_confirm_seconds_bucket"
    assert value(metrics, name, task_type="embed_vectors", le="900.0") == 0
    assert value(metrics, name, task_type="embed_vectors", le="3600.0") == 1


def test_an_unknown_label_is_folded_and_never_becomes_a_series(metrics: Metrics) -> None:
    before = metrics.prometheus()[0].count(b"\n")
    wild = "x" * 40
    metrics(TaskAccepted("t1", wild, 10))
    metrics(TaskRefused(wild, wild))
    metrics(AttemptSettled("t1", wild, Confirmed(), 0.1, 10))
    metrics(TaskConfirmed("t1", wild, 0.1))
    metrics(TaskSpooled("t1", wild, wild))
    metrics(TaskRetried("t1", wild, 1))
    metrics(TaskDeadLettered("t1", wild, wild, ""))
    metrics(QueueMeasured(wild, 3))
    text = metrics.prometheus()[0]
    assert wild.encode() not in text
    assert b"t1" not in text
    assert text.count(b"\n") == before
    assert value(metrics, "tasks_sent_total", task_type="unknown", status="confirmed") == 1
    assert value(metrics, "tasks_refused_total", task_type="unknown", reason="other") == 1
    assert value(metrics, "tasks_dead_lettered_total", task_type="unknown", reason="other") == 1
    assert value(metrics, "tasks_spooled_total", cause="other") == 1
    assert value(metrics, "queue_depth", queue_name="other") == 3


def test_no_label_holds_a_task_id_or_a_text(metrics: Metrics) -> None:
    for event in EXAMPLES.values():
        metrics(event)
    labels = {name for family in metrics.registry.collect() for sample in family.samples for name in sample.labels}
    assert labels == {
        "task_type",
        "status",
        "reason",
        "cause",
        "error_type",
        "queue_name",
        "routing_key",
        "part",
        "callback",
        "clock",
        "le",
    } | {
        "store",
        "shared",
        "spool",
    }


def test_a_new_connection_ends_the_reconnect_cycle(metrics: Metrics) -> None:
    metrics(ReconnectScheduled(4, 1.0))
    metrics(ConnectionChanged(ConnectionState.CONNECTED, "localhost:5672"))
    assert value(metrics, "reconnect_attempts") == 0


def test_a_lost_connection_ends_its_alarm(metrics: Metrics) -> None:
    metrics(BlockedChanged(blocked=True))
    metrics(ConnectionChanged(ConnectionState.DISCONNECTED, "localhost:5672"))
    assert value(metrics, "connection_blocked") == 0


def test_only_an_opening_breaker_counts_as_a_trip(metrics: Metrics) -> None:
    for state in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.OPEN, BreakerState.HALF_OPEN):
        metrics(BreakerChanged(state, 10))
    metrics(BreakerChanged(BreakerState.CLOSED, 0))
    assert value(metrics, "circuit_breaker_trips_total") == 2
    assert value(metrics, "circuit_breaker_state") == 0
    assert value(metrics, "circuit_breaker_failures") == 0


def test_a_good_health_check_is_no_failure(metrics: Metrics) -> None:
    metrics(HealthChecked(ok=True, duration=0.1))
    assert value(metrics, "health_check_failures_total") == 0


def test_plain_text_is_the_default_and_parses(metrics: Metrics) -> None:
    body, content_type = metrics.prometheus(None)
    assert content_type.startswith("text/plain")
    names = {family.name for family in parse_text(body.decode())}
    assert "ml_producer_tasks_sent" in names


def test_openmetrics_is_given_to_who_accepts_it(metrics: Metrics) -> None:
    body, content_type = metrics.prometheus("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]  # it has no annotations
    assert "ml_producer_tasks_sent" in {family.name for family in families}


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", "text/plain; version=", "*/*", ";;,,="])
def test_an_odd_accept_header_still_gets_metrics(metrics: Metrics, accept: str) -> None:
    assert b"ml_producer_tasks_sent_total" in metrics.prometheus(accept)[0]


def test_two_producers_of_one_process_count_apart() -> None:
    one, other = Metrics(TYPES, QUEUES), Metrics(TYPES, QUEUES)
    one(TaskAccepted("t1", "embed_vectors", 1))
    assert value(one, "tasks_accepted_total") == 1
    assert value(other, "tasks_accepted_total") == 0


def test_an_applications_own_registry_is_used() -> None:
    registry = CollectorRegistry()
    Metrics(TYPES, QUEUES, registry)
    assert registry.get_sample_value("ml_producer_tasks_accepted_total") == 0


def test_uptime_runs_on_the_given_clock() -> None:
    time = [100.0]
    metrics = Metrics(TYPES, QUEUES, monotonic=lambda: time[0])
    time[0] = 142.5
    assert value(metrics, "uptime_seconds") == 42.5
    assert metrics.json()["uptime_seconds"] == 42.5


def test_the_handler_of_an_event_does_what_a_call_with_it_does(metrics: Metrics) -> None:
    assert set(metrics.handlers) == set(get_args(Event))
    for kind, event in EXAMPLES.items():
        metrics.handlers[kind](event)
    called = Metrics(TYPES, QUEUES, now=lambda: NOW)
    for event in EXAMPLES.values():
        called(event)
    assert counted(metrics) == counted(called)


def counted(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every value but those that move with the clock."""
    samples = (s for family in metrics.registry.collect() for s in family.samples if family.name != UPTIME)
    return {
        (s.name, *s.labels.values()): s.value
        for s in samples
        if not s.name.startswith("process_") and not s.name.endswith("_created")
    }


def test_the_handlers_cannot_be_replaced(metrics: Metrics) -> None:
    with pytest.raises(TypeError):
        metrics.handlers[TaskAccepted] = print  # type: ignore[index]  # what the type says, the object keeps


def test_the_events_of_this_test_are_all_that_there_are() -> None:
    assert set(EXAMPLES) == set(CHANGES) == set(get_args(Event))


def test_an_exemplar_is_shown_in_openmetrics_alone_in_its_bucket(metrics: Metrics) -> None:
    for seconds, trace in ((0.004, "a" * 32), (0.0045, "b" * 32), (7.0, "c" * 32)):
        metrics(AttemptSettled("t1", "embed_vectors", Confirmed(), seconds, 10))
        metrics.attempt_traced("embed_vectors", Confirmed(), seconds, trace)
    metrics(TaskConfirmed("t1", "embed_vectors", 99_999.0))
    metrics.confirm_traced("embed_vectors", 99_999.0, "d" * 32)
    body = metrics.prometheus("application/openmetrics-text")[0].decode()
    families = parse_openmetrics(body)  # type: ignore[no-untyped-call]  # it has no annotations
    found = {
        (sample.name.removeprefix("ml_producer_"), sample.labels["le"]): (*sample.exemplar.labels.items(), sample.exemplar.value, float(sample.exemplar.timestamp))
        for family in families
        for sample in family.samples
        if sample.exemplar
    }  # fmt: skip
    assert found == {
        ("task_publish_duration_seconds_bucket", "0.005"): (("trace_id", "b" * 32), 0.0045, NOW),
        ("task_publish_duration_seconds_bucket", "10.0"): (("trace_id", "c" * 32), 7.0, NOW),
        ("accept_to_confirm_seconds_bucket", "+Inf"): (("trace_id", "d" * 32), 99_999.0, NOW),
    }
    assert b"trace_id" not in metrics.prometheus()[0]


def test_units_are_told_where_the_name_has_one(metrics: Metrics) -> None:
    text = metrics.prometheus("application/openmetrics-text")[0].decode()
    units = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# UNIT ")}
    assert units["ml_producer_message_size_bytes"] == "bytes"
    for name in DESIGNED:
        if name.endswith(("_seconds", "_bytes")):
            assert units[name] == name.rpartition("_")[2]


def test_a_label_with_quotes_and_newlines_is_escaped_as_the_parsers_read_it() -> None:
    odd = 'a"b\\c\nd'
    metrics = Metrics((), (odd,))
    for accept, parse in (("", parse_text), ("application/openmetrics-text", parse_openmetrics)):
        families = {each.name: each for each in parse(metrics.prometheus(accept)[0].decode())}
        assert odd in {each.labels["queue_name"] for each in families["ml_producer_queue_depth"].samples}
