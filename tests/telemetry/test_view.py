from __future__ import annotations

import json
from bisect import bisect_left
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.counting import quantile
from mlproducer.errors import ErrorType
from mlproducer.events import (
    AttemptSettled,
    BlockedChanged,
    BreakerChanged,
    BreakerState,
    ConnectionChanged,
    ConnectionFailed,
    ConnectionState,
    FlightMeasured,
    QueueMeasured,
    SpoolMeasured,
    TaskAccepted,
    TaskConfirmed,
    TaskDeadLettered,
    TaskRetried,
    TaskSpooled,
)
from mlproducer.outcome import Confirmed, Nacked
from mlproducer.telemetry.metrics import Metrics
from mlproducer.telemetry.tasks import PUBLISH_BUCKETS

NOW = 1_700_000_000.0


def document(metrics: Metrics) -> Any:
    """As a reader gets it: through JSON."""
    return json.loads(json.dumps(metrics.json(), allow_nan=False))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(("embed_vectors",), ("ml.embed",), now=lambda: NOW)


def test_a_fresh_producer_has_a_whole_document_without_numbers_it_cannot_know(metrics: Metrics) -> None:
    found = document(metrics)
    assert found["connection"]["state"] == "disconnected"
    assert found["connection"]["errors"] == {kind.value: 0 for kind in ErrorType}
    assert found["circuit_breaker"] == {"state": "closed", "failures": 0, "trips": 0}
    assert found["last_confirm_timestamp_seconds"] is None
    empty = {"count": 0, "average": None, "p50": None, "p95": None, "p99": None}
    assert found["publish_duration_seconds"] == {"embed_vectors": empty, "unknown": empty}
    assert found["tasks"]["sent"]["embed_vectors"] == {
        "confirmed": 0, "nacked": 0, "returned": 0, "unsure": 0, "not_sent": 0,
    }  # fmt: skip


def test_the_document_tells_what_the_events_told(metrics: Metrics) -> None:
    for event in (
        ConnectionChanged(ConnectionState.CONNECTED, "localhost:5672"),
        BlockedChanged(blocked=True),
        ConnectionFailed(ErrorType.DNS, "localhost:5672", "no such host"),
        BreakerChanged(BreakerState.OPEN, 10),
        BreakerChanged(BreakerState.HALF_OPEN, 10),
        TaskAccepted("t1", "embed_vectors", 1_000),
        TaskAccepted("t2", "embed_vectors", 3_000),
        AttemptSettled("t1", "embed_vectors", Confirmed(), 0.004, 1_000),
        AttemptSettled("t2", "embed_vectors", Nacked(), 0.006, 3_000),
        TaskConfirmed("t1", "embed_vectors", 0.004),
        TaskSpooled("t2", "embed_vectors", "nacked"),
        TaskRetried("t2", "embed_vectors", 2),
        TaskDeadLettered("t2", "embed_vectors", "nacked", ""),
        SpoolMeasured(5, 600, 7.5, 1),
        FlightMeasured(3, 9, 2),
        QueueMeasured("ml.embed", 42),
    ):
        metrics(event)
    found = document(metrics)
    assert found["timestamp"] == found["last_confirm_timestamp_seconds"] == NOW
    assert found["connection"]["state"] == "connected"
    assert found["connection"]["blocked"] is True
    assert found["connection"]["reconnect_attempts"] == 2
    assert found["connection"]["errors"]["dns"] == 1
    assert found["circuit_breaker"] == {"state": "half_open", "failures": 9, "trips": 1}
    assert found["tasks"]["accepted"] == 2
    assert found["tasks"]["sent"]["embed_vectors"]["confirmed"] == 1
    assert found["tasks"]["sent"]["embed_vectors"]["nacked"] == 1
    assert found["tasks"]["spooled"]["nacked"] == 1
    assert found["tasks"]["retries"] == {"embed_vectors": 1, "unknown": 0}
    assert found["tasks"]["dead_lettered"]["embed_vectors"]["nacked"] == 1
    assert found["publish_duration_seconds"]["embed_vectors"]["count"] == 2
    assert found["publish_duration_seconds"]["embed_vectors"]["average"] == pytest.approx(0.005)
    assert found["message_size_bytes"]["embed_vectors"]["average"] == 2_000
    assert found["accept_to_confirm_seconds"]["embed_vectors"]["count"] == 1
    assert found["retry_queue"] == {"size": 5, "bytes": 600, "oldest_age_seconds": 7.5, "errors": 0, "left": 0}
    assert found["dlq"] == {"size": 1}
    assert found["queues"] == {"ml.embed": 42, "other": 0}
    assert found["in_flight"] == 3


def cumulative(values: list[float]) -> dict[float, float]:
    counts = [0] * (len(PUBLISH_BUCKETS) + 1)
    for value in values:
        counts[bisect_left(PUBLISH_BUCKETS, value)] += 1
    return {bound: float(sum(counts[: i + 1])) for i, bound in enumerate((*PUBLISH_BUCKETS, inf))}


@given(st.lists(st.floats(0, 30), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    found = quantile(cumulative(values), q)
    ordered = sorted(values)
    # The first value at which the share of values up to it reaches q.
    true = next(v for i, v in enumerate(ordered, start=1) if i >= q * len(ordered))
    at = bisect_left(PUBLISH_BUCKETS, true)
    assert found is not None
    assert (PUBLISH_BUCKETS[at - 1] if at else 0.0) <= found <= PUBLISH_BUCKETS[at]


@given(st.lists(st.floats(0, 100), min_size=1))
def test_quantiles_are_in_order(values: list[float]) -> None:
    buckets = cumulative(values)
    p50, p95, p99 = (quantile(buckets, q) for q in (0.5, 0.95, 0.99))
    assert p50 is not None
    assert p95 is not None
    assert p99 is not None
    assert p50 <= p95 <= p99


def test_a_quantile_above_all_buckets_is_the_highest_bound() -> None:
    assert quantile(cumulative([1_000.0]), 0.5) == PUBLISH_BUCKETS[-1]


def test_a_quantile_is_linear_within_its_bucket() -> None:
    assert quantile({1.0: 0.0, 2.0: 10.0, inf: 10.0}, 0.5) == 1.5
