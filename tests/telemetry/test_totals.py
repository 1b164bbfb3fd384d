"""Sums for curves: what came since a moment before."""

from __future__ import annotations

from mlproducer.events import TaskAccepted, TaskConfirmed
from mlproducer.telemetry.metrics import Metrics


def test_totals_add_up_over_task_types_and_quantiles_are_of_the_time_between() -> None:
    metrics = Metrics(("a", "b"), ())
    for _ in range(100):
        metrics(TaskAccepted("t", "a", 100))
        metrics(TaskConfirmed("t", "a", 60.0))
    before = metrics.totals()
    assert (before.accepted, before.confirmed) == (100, 100)
    for kind in ("a", "b", "nobody knows"):
        metrics(TaskAccepted("t", kind, 100))
        metrics(TaskConfirmed("t", kind, 0.004))
    after = metrics.totals()
    assert (after.accepted, after.confirmed) == (103, 103)
    half, most = after.quantiles(before, 0.5, 0.99)
    assert half is not None
    assert most is not None
    assert 0.0025 < half < most <= 0.005, "the slow ones were before"
    assert after.quantiles(after, 0.5) == (None,)
