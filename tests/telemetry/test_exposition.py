"""What a scrape shows is what prometheus-client's own counters and histograms would show of the same events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    enable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from mlproducer.events import (
    AttemptSettled,
    Event,
    TaskAccepted,
    TaskConfirmed,
    TaskDeadLettered,
    TaskRefused,
    TaskRetried,
    TaskSpooled,
    TasksReplayed,
)
from mlproducer.outcome import Confirmed, Nacked, NotSent, NotSentCause, Outcome, Returned, Unsure, UnsureCause
from mlproducer.telemetry.cells import Histogram as OurHistogram
from mlproducer.telemetry.labels import DEAD_REASONS, REFUSED_REASONS, SPOOL_CAUSES, STATUS_OF, STATUSES
from mlproducer.telemetry.metrics import Metrics
from mlproducer.telemetry.tasks import ACCEPT_BUCKETS, PUBLISH_BUCKETS, SIZE_BUCKETS

TYPES: Final = ("embed_vectors", "summarize_llm")
KINDS: Final = (*TYPES, "unknown")
NOW: Final = 1_700_000_000.25
BEGUN: Final = 1_690_000_000.5
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"

OUTCOMES: Final[tuple[Outcome, ...]] = (
    Confirmed(),
    Nacked(),
    Returned(312, "NO_ROUTE"),
    Unsure(UnsureCause.CONFIRM_TIMEOUT),
    NotSent(NotSentCause.BLOCKED),
)


class ByTheClient:
    """The metrics of tasks, each a metric of prometheus-client's own: slow, and what is right by definition."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.sent = Counter(
            "ml_producer_tasks_sent", "Attempts that have an outcome.", ["task_type", "status"], registry=registry
        )
        self.duration = Histogram(
            "ml_producer_task_publish_duration_seconds",
            "From the start of an attempt to its outcome.",
            ["task_type", "status"],
            buckets=PUBLISH_BUCKETS,
            unit="seconds",
            registry=registry,
        )
        self.size = Histogram(
            "ml_producer_message_size_bytes",
            "Body and properties of accepted tasks.",
            ["task_type"],
            buckets=SIZE_BUCKETS,
            unit="bytes",
            registry=registry,
        )
        self.accept_to_confirm = Histogram(
            "ml_producer_accept_to_confirm_seconds",
            "From acceptance to the broker's confirm, time in the spool included.",
            ["task_type"],
            buckets=ACCEPT_BUCKETS,
            unit="seconds",
            registry=registry,
        )
        self.retries = Counter(
            "ml_producer_task_retries", "Attempts that started from the spool.", ["task_type"], registry=registry
        )
        self.dead = Counter(
            "ml_producer_tasks_dead_lettered", "Tasks buried.", ["task_type", "reason"], registry=registry
        )
        self.refused = Counter(
            "ml_producer_tasks_refused", "Tasks refused before acceptance.", ["task_type", "reason"], registry=registry
        )
        self.accepted = Counter(
            "ml_producer_tasks_accepted", "Tasks given a receipt: confirmed or spooled.", registry=registry
        )
        self.last_confirm = Gauge(
            "ml_producer_last_confirm_timestamp_seconds",
            "Unix time of the last confirm; 0: none yet.",
            unit="seconds",
            registry=registry,
        )
        self.spooled = Counter(
            "ml_producer_tasks_spooled", "Tasks accepted into the spool, by cause.", ["cause"], registry=registry
        )
        self.replayed = Counter(
            "ml_producer_tasks_replayed", "Dead letters that were put back into the spool.", registry=registry
        )
        self._start_at_0()

    def _start_at_0(self) -> None:
        for kind in KINDS:
            for status in STATUSES:
                self.sent.labels(kind, status)
                self.duration.labels(kind, status)
            self.size.labels(kind)
            self.accept_to_confirm.labels(kind)
            self.retries.labels(kind)
            for reason in DEAD_REASONS:
                self.dead.labels(kind, reason)
            for reason in REFUSED_REASONS:
                self.refused.labels(kind, reason)
        for cause in SPOOL_CAUSES:
            self.spooled.labels(cause)

    def __call__(self, event: Event) -> None:
        match event:
            case TaskAccepted():
                self.accepted.inc()
                self.size.labels(_kind(event.task_type)).observe(event.size)
            case AttemptSettled():
                labels = (_kind(event.task_type), STATUS_OF[type(event.outcome)])
                self.sent.labels(*labels).inc()
                self.duration.labels(*labels).observe(event.duration)
            case TaskConfirmed():
                self.accept_to_confirm.labels(_kind(event.task_type)).observe(event.since_accept)
                self.last_confirm.set(NOW)
            case TaskSpooled():
                self.spooled.labels(event.cause if event.cause in SPOOL_CAUSES else "other").inc()
            case TaskRetried():
                self.retries.labels(_kind(event.task_type)).inc()
            case TaskDeadLettered():
                self.dead.labels(
                    _kind(event.task_type), event.reason if event.reason in DEAD_REASONS else "other"
                ).inc()
            case TaskRefused():
                self.refused.labels(
                    _kind(event.task_type), event.reason if event.reason in REFUSED_REASONS else "other"
                ).inc()
            case TasksReplayed():
                self.replayed.inc(event.count)
            case _:
                raise AssertionError(event)


def _kind(task_type: str) -> str:
    return task_type if task_type in KINDS else "unknown"


@pytest.fixture(autouse=True, scope="module")
def one_moment_of_creation() -> Iterator[None]:
    """Every `_created` sample has the same time, whichever series was made first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: BEGUN)
        yield


def both() -> tuple[Metrics, ByTheClient]:
    return Metrics(TYPES, (), now=lambda: NOW), ByTheClient()


def families(registry: CollectorRegistry, of: ByTheClient) -> dict[str, Metric]:
    """Name, HELP, type, unit and samples in their order: all that a family has, and `Metric.__eq__` compares."""
    names = {family.name for family in of.registry.collect()}
    return {family.name: family for family in registry.collect() if family.name in names}


def blocks(text: str, of: ByTheClient) -> dict[str, list[str]]:
    """The lines of a text by the family that its HELP line names."""
    names = {family.name for family in of.registry.collect()}
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            lines = found.setdefault(line.split()[2], [])
        if line != "# EOF":
            lines.append(line)
    return {
        name: lines for name, lines in found.items() if name.removesuffix("_total").removesuffix("_created") in names
    }


ON_A_BOUND = (0.0, 0.001, 0.0025, 30.0, 3600.0)
FIXED: Final[tuple[Event, ...]] = (
    *(TaskAccepted("t", kind, size) for kind in (*TYPES, "wild") for size in (1, 256, 257, 1_400, 2**24, 2**24 + 1)),
    *(
        AttemptSettled("t", kind, outcome, seconds, 10)
        for kind in (*TYPES, "wild")
        for outcome in OUTCOMES
        for seconds in (*ON_A_BOUND, 0.0004, 0.1 + 0.2, 4_000.0)
    ),
    *(TaskConfirmed("t", kind, seconds) for kind in (*TYPES, "wild") for seconds in (*ON_A_BOUND, 0.0042, 99_999.5)),
    *(TaskSpooled("t", "embed_vectors", cause) for cause in (*SPOOL_CAUSES, "wild", "nacked")),
    TaskRetried("t", "embed_vectors", 1),
    TaskRetried("t", "embed_vectors", 2),
    TaskRetried("t", "wild", 1),
    TaskDeadLettered("t", "summarize_llm", "expired", "late"),
    TaskDeadLettered("t", "wild", "wild", "odd"),
    TaskRefused("summarize_llm", "SpoolFull"),
    TaskRefused("wild", "wild"),
    TasksReplayed(7),
)

names = st.sampled_from((*TYPES, "unknown", "wild"))
seconds = st.floats(0, 4_000, allow_nan=False) | st.sampled_from(ACCEPT_BUCKETS)
events = st.one_of(
    st.builds(TaskAccepted, st.just("t"), names, st.integers(0, 2**25)),
    st.builds(AttemptSettled, st.just("t"), names, st.sampled_from(OUTCOMES), seconds, st.integers(0, 2**25)),
    st.builds(TaskConfirmed, st.just("t"), names, seconds),
    st.builds(TaskSpooled, st.just("t"), names, st.sampled_from((*SPOOL_CAUSES, "wild"))),
    st.builds(TaskRetried, st.just("t"), names, st.integers(1, 3)),
    st.builds(TaskDeadLettered, st.just("t"), names, st.sampled_from((*DEAD_REASONS, "wild")), st.just("")),
    st.builds(TaskRefused, names, st.sampled_from((*REFUSED_REASONS, "wild"))),
    st.builds(TasksReplayed, st.integers(0, 9)),
)


def test_the_fixed_sequence_has_every_outcome_there_is() -> None:
    assert {type(outcome) for outcome in OUTCOMES} == set(get_args(Outcome))


@pytest.mark.parametrize("sequence", [(), FIXED], ids=["before the first event", "after many"])
def test_families_are_those_that_prometheus_client_would_show(sequence: tuple[Event, ...]) -> None:
    ours, theirs = both()
    for event in sequence:
        ours(event)
        theirs(event)
    expected = {family.name: family for family in theirs.registry.collect()}
    assert len(expected) == 11
    assert families(ours.registry, theirs) == expected


@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "OpenMetrics"])
def test_a_scrape_has_the_lines_that_prometheus_client_would_write(accept: str) -> None:
    ours, theirs = both()
    for event in FIXED:
        ours(event)
        theirs(event)
    encode, _ = choose_encoder(accept)
    expected = blocks(encode(theirs.registry).decode(), theirs)
    assert any("_created" in line for lines in expected.values() for line in lines)
    assert blocks(ours.prometheus(accept)[0].decode(), theirs) == expected


@given(st.lists(events, max_size=30))
def test_whatever_happens_the_families_stay_the_same(sequence: list[Event]) -> None:
    ours, theirs = both()
    for event in sequence:
        ours(event)
        theirs(event)
    assert families(ours.registry, theirs) == {family.name: family for family in theirs.registry.collect()}


def test_an_application_that_wants_no_created_samples_gets_none() -> None:
    ours, theirs = both()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
    try:
        assert families(ours.registry, theirs) == {family.name: family for family in theirs.registry.collect()}
        assert b"ml_producer_tasks_sent_created" not in ours.prometheus()[0]
    finally:
        enable_created_metrics()  # type: ignore[no-untyped-call]  # see above
    assert b"ml_producer_tasks_sent_created" in ours.prometheus()[0]


def test_two_producers_in_one_registry_clash_at_once() -> None:
    ours, theirs = both()
    taken = {sample.name for family in theirs.registry.collect() for sample in family.samples}
    assert "ml_producer_task_publish_duration_seconds_bucket" in taken
    for name in taken:
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            Gauge(name, "", registry=ours.registry)


def test_a_scrape_in_the_middle_of_an_observation_shows_whole_buckets_and_the_sum_later() -> None:
    histogram, seen = OurHistogram((1.0, 2.0)), []

    class Slow(float):
        """Another thread scrapes when the observation has its bucket and is not in the sum yet."""

        def __radd__(self, other: float) -> float:
            seen.append(histogram.read())
            return other + float(self)

    histogram.observe(0.5)
    histogram.observe(Slow(1.5))
    (between,), after = seen, histogram.read()
    assert between.buckets == after.buckets == [("1.0", 1.0), ("2.0", 2.0), ("+Inf", 2.0)]
    assert (between.count, between.sum, after.sum) == (2.0, 0.5, 2.0)


def test_a_reading_does_not_change_any_more() -> None:
    histogram = OurHistogram((1.0,))
    before = histogram.read()
    histogram.observe(0.5)
    assert (before.buckets, before.sum) == ([("1.0", 0.0), ("+Inf", 0.0)], 0.0)
