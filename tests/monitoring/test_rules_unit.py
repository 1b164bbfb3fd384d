"""Each alert is made to fire and to stay silent, by promtool, without a server.

A case is what Prometheus scraped of one producer, a sample a minute in promtool's own notation, and whether the alert
fires at a time. Series that a case does not name are those of a producer that is well and has nothing to do.
"""

from __future__ import annotations

import json
from bisect import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from mlproducer.monitoring.expressions import Durations
from mlproducer.monitoring.rules import SHIPPED, alerts, document
from promtool import promtool

P: Final = "ml_producer_"
WELL: Final = {
    "connection_state": "2",
    "connection_blocked": "0",
    "reconnects_exhausted": "0",
    "circuit_breaker_state": "0",
    "confirm_timeouts_total": "0",
    "retry_queue_size": "0",
    "retry_queue_max_tasks": "1000",
    "retry_queue_bytes": "0",
    "retry_queue_max_bytes": "1000",
    "retry_queue_oldest_age_seconds": "0",
    "retry_queue_max_age_seconds": "604800",
    "retry_queue_overdue_seconds": "0",
    "dlq_size": "0",
    'tasks_sent_total{status="returned",task_type="embed_vectors"}': "0",
    "tasks_accepted_total": "0",
    "tasks_confirmed_total": "0",
    "tasks_purged_total": "0",
    "tasks_at_start": "0",
    'tasks_spooled_total{cause="blocked"}': "0",
    'tasks_spooled_total{cause="eta"}': "0",
    'task_retries_total{task_type="embed_vectors"}': "0",
    'accept_to_confirm_seconds_bucket{le="60.0",task_type="embed_vectors"}': "0",
    "uptime_seconds": "0+60",
    "spool_errors_total": "0",
    "spool_unavailable": "0",
    'tasks_refused_total{reason="SpoolFull",task_type="embed_vectors"}': "0",
    'tasks_refused_total{reason="InvalidTask",task_type="embed_vectors"}': "0",
    'queue_depth{queue_name="ml.embed"}': "0",
    'queue_consumers{queue_name="ml.embed"}': "1",
    'cause{cause="unread"}': "0",
    'queue_missing{queue_name="ml.embed"}': "0",
    'route_state{routing_key="ml.embed"}': "0",
    'spool_info{store="sqlite",shared="false",spool="SPOOL"}': "1",
}
GOOD: Final = 'accept_to_confirm_seconds_bucket{le="60.0",task_type="embed_vectors"}'
RETURNED: Final = 'tasks_sent_total{status="returned",task_type="embed_vectors"}'
SPOOLED: Final = 'tasks_spooled_total{cause="blocked"}'
BY_ETA: Final = 'tasks_spooled_total{cause="eta"}'
RETRIED: Final = 'task_retries_total{task_type="embed_vectors"}'
DEPTH: Final = 'queue_depth{queue_name="ml.embed"}'
CONSUMERS: Final = 'queue_consumers{queue_name="ml.embed"}'
UNREAD: Final = 'cause{cause="unread"}'
MISSING: Final = 'queue_missing{queue_name="ml.embed"}'
REFUSED: Final = 'tasks_refused_total{reason="SpoolFull",task_type="embed_vectors"}'
INVALID: Final = 'tasks_refused_total{reason="InvalidTask",task_type="embed_vectors"}'
HELD: Final = 'route_state{routing_key="ml.embed"}'
OTHER_HELD: Final = 'route_state{routing_key="ml.other"}'
ALL_HELD: Final = 'route_state{routing_key="#"}'
SHARED: Final = 'spool_info{store="postgresql",shared="true",spool="SPOOL"}'
OWN: Final = 'spool_info{store="sqlite",shared="false",spool="SPOOL"}'


@dataclass(frozen=True)
class Case:
    """`at` in promtool's notation. `also` are the series of a second producer on the same spool."""

    alert: str
    about: str
    fires: bool
    at: str
    series: dict[str, str] = field(default_factory=dict)
    also: dict[str, str] | None = None
    step: int = 1
    """Minutes between two samples, and two evaluations."""

    @property
    def samples(self) -> int:
        hours, _, minutes = self.at.removesuffix("m").rpartition("h")
        return (int(hours or 0) * 60 + int(minutes or 0)) // self.step + 2

    @property
    def name(self) -> str:
        return f"{self.alert} {'fires' if self.fires else 'is silent'} - {self.about}"


def shared(**given: str) -> dict[str, str]:
    return {SHARED: "1", OWN: "_", **given}


PER_PROCESS: Final = (
    "retry_queue_size",
    "retry_queue_max_tasks",
    "retry_queue_bytes",
    "retry_queue_max_bytes",
    "retry_queue_oldest_age_seconds",
    "retry_queue_max_age_seconds",
    "retry_queue_overdue_seconds",
    "dlq_size",
    "tasks_at_start",
    "uptime_seconds",
)


def together(given: dict[str, str]) -> dict[str, str]:
    """As a scrape of two processes that count together (`ML_METRICS_DIR`) has it: their gauges have a `pid` each."""
    gauges = {name: given.get(name, WELL[name]) for name in PER_PROCESS}
    each = {f'{name}{{pid="{pid}"}}': values for name, values in gauges.items() for pid in (17, 18)}
    return {**given, **dict.fromkeys(PER_PROCESS, "_"), **each}


CASES: Final = (
    Case("MLProducerDisconnected", "no connection for 3 min", True, "13m", {"connection_state": "2x10 0x10"}),
    Case("MLProducerDisconnected", "between tries it connects", True, "14m", {"connection_state": "2x10 0 1 0 1 0"}),
    Case("MLProducerDisconnected", "for a minute only", False, "13m", {"connection_state": "2x10 0 2x10"}),
    Case("MLProducerReconnectsExhausted", "at once", True, "5m", {"reconnects_exhausted": "0x4 1x10"}),
    Case("MLProducerReconnectsExhausted", "hours later, too", True, "110m", {"reconnects_exhausted": "0x4 1x900"}),
    Case("MLProducerReconnectsExhausted", "connected again", False, "8m", {"reconnects_exhausted": "0 1x5 0x10"}),
    Case(
        "MLProducerCircuitBreakerOpen",
        "open and half-open in turn",
        True,
        "5m",
        {"circuit_breaker_state": "0 1 2 1 2 1"},
    ),
    Case(
        "MLProducerCircuitBreakerOpen", "closed at the first probe", False, "5m", {"circuit_breaker_state": "0 1 0x9"}
    ),
    Case("MLProducerBlocked", "for 2 min", True, "7m", {"connection_blocked": "0x4 1x10"}),
    Case("MLProducerBlocked", "for a moment", False, "7m", {"connection_blocked": "0x4 1 0x10"}),
    Case("MLProducerRouteHeld", "for 4 min", True, "8m", {'route_state{routing_key="ml.embed"}': "0x4 1x10"}),
    Case("MLProducerRouteHeld", "for a moment", False, "8m", {'route_state{routing_key="ml.embed"}': "0x4 1 0x10"}),
    Case("MLProducerConfirmTimeouts", "five of them", True, "6m", {"confirm_timeouts_total": "0x4 5x10"}),
    Case("MLProducerConfirmTimeouts", "one of them", False, "6m", {"confirm_timeouts_total": "0x4 1x10"}),
    Case("MLProducerConfirmTimeouts", "five, long ago", False, "20m", {"confirm_timeouts_total": "0x4 5x30"}),
    Case("MLProducerNoConsumers", "for 10 min", True, "20m", {DEPTH: "2000x30", CONSUMERS: "0x30", UNREAD: "1x30"}),
    Case(
        "MLProducerNoConsumers",
        "workers restart",
        False,
        "20m",
        {DEPTH: "2000x30", CONSUMERS: "1x8 0x3 1x30", UNREAD: "0x8 1x3 0x30"},
    ),
    Case("MLProducerNoConsumers", "nothing waits", False, "20m", {DEPTH: "0x30", CONSUMERS: "0x30"}),
    Case(
        "MLProducerNoConsumers",
        "copies of dead letters wait for a person",
        False,
        "20m",
        {DEPTH: "9x30", CONSUMERS: "0x30"},
    ),
    Case("MLProducerQueueBacklog", "workers are too slow", True, "60m", {DEPTH: "1000+10x70"}),
    Case("MLProducerQueueBacklog", "they catch up", False, "60m", {DEPTH: "5000-10x70"}),
    Case("MLProducerQueueBacklog", "a few hundred", False, "60m", {DEPTH: "100+1x70"}),
    Case("MLProducerQueueMissing", "for 5 min", True, "10m", {MISSING: "0x4 1x10"}),
    Case("MLProducerQueueMissing", "made again at once", False, "10m", {MISSING: "0x4 1 0x10"}),
    Case("MLProducerQueueMissing", "its route is held", False, "10m", {MISSING: "0x4 1x10", HELD: "0x4 1x10"}),
    Case(
        "MLProducerQueueMissing", "no route takes anything", False, "10m", {MISSING: "0x4 1x10", ALL_HELD: "0x4 1x10"}
    ),
    Case("MLProducerQueueMissing", "another route is held", True, "10m", {MISSING: "0x4 1x10", OTHER_HELD: "1x15"}),
    Case("MLProducerQueueMissing", "no broker", False, "10m", {MISSING: "0x4 1x10", "connection_state": "2x4 0x10"}),
    Case("MLProducerRefusing", "4 a minute", True, "12m", {REFUSED: "0x3 0+4x12"}),
    Case("MLProducerRefusing", "a few", False, "12m", {REFUSED: "0x3 5x12"}),
    Case("MLProducerRefusing", "wrong tasks are their callers' fault", False, "12m", {INVALID: "0+100x15"}),
    Case("MLProducerSpoolErrors", "one a minute", True, "12m", {"spool_errors_total": "0x3 0+1x12"}),
    Case("MLProducerSpoolErrors", "one", False, "12m", {"spool_errors_total": "0x3 1x12"}),
    Case("MLProducerSpoolUnavailable", "for 2 min", True, "7m", {"spool_unavailable": "0x4 1x10"}),
    Case("MLProducerSpoolUnavailable", "for a moment", False, "7m", {"spool_unavailable": "0x4 1 0x10"}),
    Case(
        "MLProducerRetryQueueGrowing",
        "10 a minute",
        True,
        "35m",
        {"retry_queue_size": "100+10x40", "retry_queue_overdue_seconds": "0+60x40"},
    ),
    Case(
        "MLProducerRetryQueueGrowing",
        "10 a minute, each with an eta of tomorrow",
        False,
        "35m",
        {"retry_queue_size": "100+10x40", "retry_queue_overdue_seconds": "0x40"},
    ),
    Case(
        "MLProducerRetryQueueGrowing",
        "it drains",
        False,
        "35m",
        {"retry_queue_size": "1000-10x40", "retry_queue_overdue_seconds": "0+60x40"},
    ),
    Case(
        "MLProducerRetryQueueGrowing",
        "a handful",
        False,
        "35m",
        {"retry_queue_size": "0+1x40", "retry_queue_overdue_seconds": "0+60x40"},
    ),
    Case(
        "MLProducerRetryQueueOld",
        "due and not published",
        True,
        "20m",
        {"retry_queue_oldest_age_seconds": "0+60x30", "retry_queue_overdue_seconds": "0+60x30"},
    ),
    Case(
        "MLProducerRetryQueueOld", "it waits for its eta", False, "20m", {"retry_queue_oldest_age_seconds": "0+60x30"}
    ),
    Case("MLProducerSpoolNearlyFull", "by tasks", True, "6m", {"retry_queue_size": "0x3 801x9"}),
    Case("MLProducerSpoolNearlyFull", "by bytes", True, "6m", {"retry_queue_bytes": "0x3 801x9"}),
    Case("MLProducerSpoolNearlyFull", "by age", True, "6m", {"retry_queue_oldest_age_seconds": "600000x9"}),
    Case(
        "MLProducerSpoolNearlyFull", "at 80 %", False, "6m", {"retry_queue_size": "800x9", "retry_queue_bytes": "800x9"}
    ),
    Case(
        "MLProducerSpoolNearlyFull",
        "no limit is never reached",
        False,
        "6m",
        {"retry_queue_size": "99999x9", "retry_queue_max_tasks": "Inf Inf Inf Inf Inf Inf Inf Inf"},
    ),
    Case("MLProducerSpoolNearlyFull", "of two processes", True, "6m", together({"retry_queue_size": "0x3 801x9"})),
    Case(
        "MLProducerRetryQueueOld",
        "of two processes",
        True,
        "20m",
        together({"retry_queue_oldest_age_seconds": "0+60x30", "retry_queue_overdue_seconds": "0+60x30"}),
    ),
    Case(
        "MLProducerTasksMissing",
        "the counts of a process that ended stay, and its start goes",
        False,
        "20m",
        together(
            {
                "tasks_accepted_total": "0 7x30",
                SPOOLED: "0 7x30",
                "tasks_at_start": "0x5 7x30",
                "retry_queue_size": "0 7x30",
            }
        ),
    ),
    Case(
        "MLProducerTasksMissing",
        "of two processes' shared spool a row is gone",
        True,
        "100m",
        together(
            shared(
                **{"tasks_accepted_total": "0x10 50x120", SPOOLED: "0x10 50x120"},
                retry_queue_size="0x10 50x74 49x90",
            )
        ),
    ),
    Case("MLProducerDeadLetters", "one", True, "6m", {"dlq_size": "0x3 1x9"}),
    Case("MLProducerDeadLetters", "replayed at once", False, "6m", {"dlq_size": "0x3 1 0x9"}),
    Case("MLProducerUnroutable", "one returned", True, "6m", {RETURNED: "0x4 1x9"}),
    Case("MLProducerUnroutable", "an hour ago", False, "66m", {RETURNED: "0x4 1x90"}),
    Case(
        "MLProducerNoConfirms",
        "all are spooled",
        True,
        "25m",
        {"tasks_accepted_total": "0+60x30", "tasks_confirmed_total": "0+60x10 600x30"},
    ),
    Case("MLProducerNoConfirms", "nothing to do", False, "25m"),
    Case(
        "MLProducerNoConfirms",
        "one in a while is confirmed",
        False,
        "25m",
        {"tasks_accepted_total": "0+60x30", "tasks_confirmed_total": "0+1x30"},
    ),
    Case(
        "MLProducerDeliveryBudgetBurnsFast",
        "2 % late for an hour",
        True,
        "70m",
        {"tasks_accepted_total": "0+600x80", GOOD: "0+588x80"},
    ),
    Case(
        "MLProducerDeliveryBudgetBurnsFast",
        "0.8 % late for six hours",
        True,
        "370m",
        {"tasks_accepted_total": "0+1000x40", GOOD: "0+992x40"},
        step=10,
    ),
    Case(
        "MLProducerDeliveryBudgetBurnsFast",
        "an outage of 10 min is over for 40 min, and drained late",
        False,
        "170m",
        {"tasks_accepted_total": "0+600x170", GOOD: "0+600x119 71400x9 72000+600x45"},
    ),
    Case(
        "MLProducerDeliveryBudgetBurnsFast",
        "1 % late is not that fast within an hour",
        False,
        "20m",
        {"tasks_accepted_total": "0+6000x30", GOOD: "0+5970x30"},
    ),
    Case(
        "MLProducerDeliveryBudgetBurnsFast",
        "all wait for their eta",
        False,
        "70m",
        {"tasks_accepted_total": "0+600x80", GOOD: "0+500x80", BY_ETA: "0+100x80"},
    ),
    Case(
        "MLProducerDeliveryBudgetBurnsSlowly",
        "0.2 % late for days",
        True,
        "73h",
        {"tasks_accepted_total": "0+1000x150", GOOD: "0+998x150"},
        step=30,
    ),
    Case(
        "MLProducerDeliveryBudgetBurnsSlowly",
        "0.05 % late is within the objective",
        False,
        "73h",
        {"tasks_accepted_total": "0+2000x150", GOOD: "0+1999x150"},
        step=30,
    ),
    Case("MLProducerDeliveryBudgetBurnsSlowly", "nothing to do", False, "73h", step=30),
    Case(
        "MLProducerTasksMissing",
        "one of seven is not there",
        True,
        "20m",
        {"tasks_accepted_total": "0 7x30", SPOOLED: "0 7x30", "retry_queue_size": "0 6x30"},
    ),
    Case(
        "MLProducerTasksMissing",
        "seven are",
        False,
        "20m",
        {"tasks_accepted_total": "0 7x30", SPOOLED: "0 7x30", "retry_queue_size": "0 4x30", "dlq_size": "0 3x30"},
    ),
    Case(
        "MLProducerTasksMissing",
        "what was there at the start is gone",
        True,
        "20m",
        {"tasks_at_start": "5x30", "retry_queue_size": "5x3 2x30"},
    ),
    Case(
        "MLProducerTasksMissing",
        "what was there at the start is confirmed, dead, purged",
        False,
        "20m",
        {
            "tasks_at_start": "5x30",
            "retry_queue_size": "5x3 0x30",
            "dlq_size": "0x3 2x30",
            "tasks_confirmed_total": "0x3 2x30",
            "tasks_purged_total": "0x3 1x30",
            RETRIED: "0x3 2x30",
        },
    ),
    Case(
        "MLProducerTasksMissing",
        "the sizes lag behind an outage's inflow",
        False,
        "20m",
        {
            "tasks_accepted_total": "0+600x30",
            SPOOLED: "0+600x30",
            "retry_queue_size": "0 0+600x30",
        },
    ),
    Case(
        "MLProducerTasksMissing",
        "a restart begins a new count",
        False,
        "20m",
        {
            "tasks_accepted_total": "0 90x5 0x20",
            "tasks_confirmed_total": "0 40x5 0x20",
            SPOOLED: "0 50x5 0x20",
            "tasks_at_start": "0x5 50x20",
            "retry_queue_size": "0 50x30",
        },
    ),
    Case(
        "MLProducerTasksMissing",
        "one of two producers on a spool drains the other's tasks",
        False,
        "110m",
        shared(**{"tasks_accepted_total": "0x70 50x120", SPOOLED: "0x70 50x120"}),
        shared(**{"tasks_confirmed_total": "0x70 50x120", RETRIED: "0x70 50x120"}),
    ),
    Case(
        "MLProducerTasksMissing",
        "of two producers' spool a row is gone",
        True,
        "100m",
        shared(
            **{"tasks_accepted_total": "0x10 50x120", SPOOLED: "0x10 50x120", "retry_queue_size": "0x10 50x74 49x90"}
        ),
        shared(retry_queue_size="0x10 50x74 49x90"),
    ),
    Case(
        "MLProducerTasksMissing",
        "one of two producers ended, and its counts with it",
        False,
        "100m",
        shared(**{"tasks_confirmed_total": "0x10 50x120", RETRIED: "0x10 50x120"}),
        {name: f"{value} _x200" for name, value in {**WELL, **shared()}.items()}
        | {"tasks_accepted_total": "0x10 50x70 _x200", SHARED: "1x80 _x200", "uptime_seconds": "0+60x80 _x200"},
    ),
    Case(
        "MLProducerTasksMissing",
        "one of two producers restarted",
        False,
        "100m",
        shared(
            **{"tasks_confirmed_total": "0x10 50x60 0x90", RETRIED: "0x10 50x120", "uptime_seconds": "0+60x70 0+60x90"}
        ),
        shared(tasks_accepted_total="0x10 50x160"),
    ),
    Case(
        "MLProducerTasksMissing",
        "the outbox adds tasks, and they are confirmed",
        False,
        "100m",
        shared(**{"retry_queue_size": "0x70 9x5 0x90", "tasks_confirmed_total": "0x75 9x90", RETRIED: "0x75 9x90"}),
        shared(retry_queue_size="0x70 9x5 0x90"),
    ),
    Case(
        "MLProducerTasksMissing",
        "somebody purges from the command line",
        False,
        "100m",
        shared(dlq_size="9x70 0x90", tasks_purged_total="0x70 9x90", tasks_at_start="9x160"),
        shared(dlq_size="9x70 0x90", tasks_purged_total="0x70 9x90", tasks_at_start="9x160"),
    ),
)


def series_of(case: Case, name: str) -> list[dict[str, str]]:
    """Each case is a job of its own, and a spool, so that all of them are one run of promtool."""
    found: list[dict[str, str]] = []
    for instance, given in (("one:3001", case.series), ("two:3001", case.also)):
        for series, values in {} if given is None else {**WELL, **given}.items():
            metric, _, labels = series.partition("{")
            told = f'job="{name}",instance="{instance}",{labels.rstrip("}")}'.replace("SPOOL", name).rstrip(",")
            steady = values if "x" in values or " " in values else f"{values}x{case.samples}"
            found.append({"series": f"{P}{metric}{{{told}}}", "values": steady})
    return found


def check_of(case: Case, name: str) -> dict[str, Any]:
    firing = f'ALERTS{{alertname="{case.alert}", alertstate="firing"'
    return {
        "expr": f'group by (alertname) ({firing}, job="{name}"}} or {firing}, spool="{name}"}})',
        "eval_time": case.at,
        "exp_samples": [{"labels": f'{{alertname="{case.alert}"}}', "value": 1}] * case.fires,
    }


WAITS: Final = {
    "retry_queue_max_tasks": "100000",
    "retry_queue_size": "0x5 0+60x60",
    SPOOLED: "0x5 0+60x60",
    "retry_queue_overdue_seconds": "0x5 0+60x60",
    "tasks_accepted_total": "0+60x60",
    "tasks_confirmed_total": "0+60x5 300x60",
}
"""What follows where nothing passes."""

ONE_CAUSE: Final = {
    "no broker": (
        "MLProducerDisconnected",
        WAITS | {"connection_state": "2x5 0x60", "circuit_breaker_state": "0x5 1x60"},
    ),
    "no broker for long": (
        "MLProducerReconnectsExhausted",
        WAITS | {"connection_state": "2x5 0x60", "reconnects_exhausted": "0x8 1x60"},
    ),
    "an alarm": ("MLProducerBlocked", WAITS | {"connection_blocked": "0x5 1x60"}),
    "a frozen broker": (
        "MLProducerCircuitBreakerOpen",
        WAITS | {"circuit_breaker_state": "0x5 1x60", "confirm_timeouts_total": "0x5 10+1x60", HELD: "0x5 1x60"},
    ),
    "a deleted queue": (
        "MLProducerRouteHeld",
        WAITS | {HELD: "0x5 1x60", MISSING: "0x5 1x60", RETURNED: "0x5 1+1x60"},
    ),
    "a spool that fails": (
        "MLProducerSpoolUnavailable",
        {"spool_unavailable": "0x5 1x60", "spool_errors_total": "0x5 0+9x60", REFUSED: "0x5 0+60x60"},
    ),
    "no worker": ("MLProducerNoConsumers", {DEPTH: "2000+10x60", CONSUMERS: "0x70", UNREAD: "1x70"}),
    "a full spool": ("MLProducerRefusing", {"retry_queue_size": "0x5 1000x60", REFUSED: "0x5 0+60x60"}),
}


def test_one_cause_fires_one_alert(tmp_path: Path) -> None:
    """But for those of the budget, which tell how much it cost."""
    cases = {cause: Case(alert, cause, True, "40m", given) for cause, (alert, given) in ONE_CAUSE.items()}
    checks = [
        {
            "expr": 'group by (alertname) (ALERTS{alertname!~"MLProducerDelivery.*", alertstate="firing", '
            f'job="{cause}"}})',
            "eval_time": case.at,
            "exp_samples": [{"labels": f'{{alertname="{case.alert}"}}', "value": 1}],
        }
        for cause, case in cases.items()
    ]
    series = [each for cause, case in cases.items() for each in series_of(case, cause)]
    whole = {
        "rule_files": [str(SHIPPED)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checks}],
    }
    file = tmp_path / "one_cause_test.json"
    file.write_text(json.dumps(whole))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def _run_of(case: Case) -> tuple[int, int]:
    """Step, and how long it is: a run of promtool evaluates all of its cases for as long as the longest of them."""
    return case.step, bisect((80, 240), case.samples)


@pytest.mark.parametrize(("step", "length"), sorted({_run_of(case) for case in CASES}))
def test_every_alert_fires_when_it_should_and_is_silent_when_not(tmp_path: Path, step: int, length: int) -> None:
    cases = {case.name: case for case in CASES if _run_of(case) == (step, length)}
    test = {
        "interval": f"{step}m",
        "input_series": [series for name, case in cases.items() for series in series_of(case, name)],
        "promql_expr_test": [check_of(case, name) for name, case in cases.items()],
    }
    whole = {
        "rule_files": [str(SHIPPED)],
        "evaluation_interval": f"{step}m",
        # Else promtool takes the groups in any order, and an alert may see a recorded value as it was a step ago: longer
        # than a value lives, where a step is more than 5 minutes.
        "group_eval_order": [group["name"] for group in document()["groups"]],
        "tests": [test],
    }
    file = tmp_path / "rules_test.json"  # JSON is YAML
    file.write_text(json.dumps(whole))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_of_a_queue_names_it() -> None:
    by = {"queue_name", "routing_key"}
    for alert in alerts(Durations()):
        if "Broker" in alert.name or not any(word in alert.name for word in ("Queue", "Route", "Consumers")):
            continue
        if "RetryQueue" in alert.name:
            continue  # the spool's
        told = {label for label in by if f"$labels.{label}" in alert.description}
        assert told, alert.name
        assert all(f", {label})" in alert.expr for label in told), alert.expr


@pytest.mark.parametrize("alert", [alert.name for alert in alerts(Durations())])
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    assert {case.fires for case in CASES if case.alert == alert} == {True, False}
