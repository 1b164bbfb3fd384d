"""Prometheus's rules, as plain data: what to record, and when to wake whom.

One cause fires one alert: what follows from a lost broker, a held route or a spool that fails is silent while the alert
of that tells it (`unless`). The budget's alerts are apart: they tell how much it cost.

`rules.yml` beside this module is what `document()` gives; a test keeps the two equal. Every alert has a section of its
own name in docs/operations.md. Rates and windows are those of a scrape interval of up to a minute.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlproducer.monitoring.dashboards import RUNBOOKS
from mlproducer.monitoring.expressions import (
    AWAY,
    BACKLOG_FROM,
    BURN_WINDOWS,
    EXPLAINED,
    FEW,
    FULL,
    GROWING_FROM,
    HELD,
    MANY,
    NAMED_BY_ROUTE,
    OLD_SECONDS,
    SAME,
    Durations,
    burning,
    fill_ratio,
    late_ratio,
    late_record,
    missing,
    missing_shared,
    moves,
    refusals,
    shared_level,
    shared_producers,
)

SHIPPED: Final = Path(__file__).with_name("rules.yml")

Document = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    expr: str


@dataclass(frozen=True, slots=True)
class Alert:
    """`after` is how long it must hold before anybody is told, in seconds."""

    name: str
    expr: str
    after: float
    severity: str
    summary: str
    description: str


def document(*, runbooks: str = RUNBOOKS, scale: float = 1.0) -> Document:
    """The rules as Prometheus reads them. `scale` shortens every window and wait: tests have no three days."""
    lasts = Durations(scale)
    recorded = [{"record": each.name, "expr": each.expr} for each in records(lasts)]
    alerting = [_as_rule(each, lasts, runbooks) for each in alerts(lasts)]
    return {
        "groups": [
            {"name": "ml_producer_records", "rules": recorded},
            {"name": "ml_producer_alerts", "rules": alerting},
        ]
    }


def anchor(alert: str) -> str:
    """Of the alert's section in the runbooks, as GitHub and MkDocs make it of a heading."""
    return alert.lower()


def records(lasts: Durations) -> list[Record]:
    return [
        Record("instance:ml_producer_retry_queue_fill:ratio", fill_ratio()),
        *(Record(late_record(window), late_ratio(lasts(window))) for window in BURN_WINDOWS),
        Record("instance:ml_producer_spool_moves:increase2m", moves(lasts)),
        Record("instance:ml_producer_tasks_missing:sum", missing()),
        Record("spool:ml_producer_producers:count", shared_producers()),
        Record("spool:ml_producer_tasks_level:sum", shared_level()),
    ]


def alerts(lasts: Durations) -> list[Alert]:
    return [
        *_link_alerts(lasts),
        *_queue_alerts(lasts),
        *_refusal_alerts(lasts),
        *_spool_alerts(lasts),
        *_delivery_alerts(lasts),
    ]


def _link_alerts(lasts: Durations) -> list[Alert]:
    return [
        Alert(
            "MLProducerDisconnected",
            f"ml_producer_connection_state != 2 unless {SAME} ml_producer_reconnects_exhausted == 1",
            120,
            "critical",
            "No connection to RabbitMQ",
            "{{ $labels.instance }} has had no connection for 2 minutes. Tasks are accepted into the spool.",
        ),
        Alert(
            "MLProducerReconnectsExhausted",
            "ml_producer_reconnects_exhausted == 1",
            0,
            "critical",
            "All reconnect attempts failed",
            "{{ $labels.instance }} used up its reconnect attempts, is not ready, and probes RabbitMQ slowly.",
        ),
        Alert(
            "MLProducerCircuitBreakerOpen",
            f"ml_producer_circuit_breaker_state > 0 unless {SAME} ml_producer_connection_state != 2",
            60,
            "critical",
            "The circuit breaker is open",
            "RabbitMQ did not answer {{ $labels.instance }} many times in a row. Tasks are accepted into the spool.",
        ),
        Alert(
            "MLProducerBlocked",
            "ml_producer_connection_blocked == 1",
            60,
            "critical",
            "RabbitMQ blocks publishers",
            "RabbitMQ has a memory or disk alarm and takes nothing from {{ $labels.instance }}.",
        ),
        Alert(
            "MLProducerRouteHeld",
            f"max by (job, instance, routing_key) (ml_producer_route_state) > 0\nunless {SAME} {AWAY}",
            120,
            "critical",
            "A queue takes nothing",
            "For 2 minutes nothing was taken on the route {{ $labels.routing_key }} of {{ $labels.instance }}. Its "
            "tasks wait in the spool, the others go on; past ML_ROUTE_PATIENCE they spend their attempts.",
        ),
        Alert(
            "MLProducerConfirmTimeouts",
            # A broker that answers nothing, or a route that confirms nothing, has an alert of its own.
            f"increase(ml_producer_confirm_timeouts_total[{lasts(300)}]) > {FEW}{EXPLAINED}",
            0,
            "warning",
            "Confirms do not come in time",
            "About {{ $value | humanize }} attempts of {{ $labels.instance }} had no confirm in time within 5 minutes.",
        ),
    ]


def _queue_alerts(lasts: Durations) -> list[Alert]:
    """Of a queue, whichever instances see it: one alert."""
    ready, readers = (f"max by (job, queue_name) (ml_producer_queue_{name})" for name in ("depth", "consumers"))
    unread = 'max by (job) (ml_producer_cause{cause="unread"}) > 0'
    return [
        Alert(
            "MLProducerNoConsumers",
            f"{ready} > 0\nand {readers} == 0\nand on (job) {unread}",
            300,
            "critical",
            "Nobody reads a queue",
            "{{ $value | humanize }} tasks wait in {{ $labels.queue_name }}, and no worker has read it for 5 minutes.",
        ),
        Alert(
            "MLProducerQueueBacklog",
            f"{ready} > {BACKLOG_FROM}\n"
            f"and max by (job, queue_name) (delta(ml_producer_queue_depth[{lasts(1800)}])) > 0\nand {readers} > 0",
            600,
            "warning",
            "Workers are too slow for a queue",
            "{{ $value | humanize }} tasks wait in {{ $labels.queue_name }}, more than half an hour ago.",
        ),
        Alert(
            "MLProducerQueueMissing",
            f"max by (job, queue_name) (ml_producer_queue_missing unless {SAME} {AWAY}) > 0{NAMED_BY_ROUTE}",
            120,
            "critical",
            "A queue is missing",
            "Tasks cannot get to {{ $labels.queue_name }}: it is not there, or not bound by its name.",
        ),
    ]


def _refusal_alerts(lasts: Durations) -> list[Alert]:
    return [
        Alert(
            "MLProducerRefusing",
            f"{refusals(lasts)} > {MANY}\nunless {SAME} ml_producer_spool_unavailable == 1",
            60,
            "critical",
            "New tasks are refused",
            "About {{ $value | humanize }} calls were refused by {{ $labels.instance }} within 5 minutes.",
        ),
        Alert(
            "MLProducerSpoolErrors",
            f"increase(ml_producer_spool_errors_total[{lasts(300)}]) > {FEW}\n"
            f"unless {SAME} ml_producer_spool_unavailable == 1",
            60,
            "warning",
            "The spool fails now and then",
            "About {{ $value | humanize }} calls of {{ $labels.instance }} met a spool that failed within 5 minutes.",
        ),
    ]


def _spool_alerts(lasts: Durations) -> list[Alert]:
    return [
        Alert(
            "MLProducerSpoolUnavailable",
            "ml_producer_spool_unavailable == 1",
            60,
            "critical",
            "The spool fails",
            "The spool of {{ $labels.instance }} cannot be used. What RabbitMQ does not confirm at once is refused.",
        ),
        Alert(
            "MLProducerRetryQueueGrowing",
            # Tasks that wait as told, for their eta, are not overdue.
            f"ml_producer_retry_queue_size > {GROWING_FROM} and delta(ml_producer_retry_queue_size[{lasts(600)}]) > 0"
            f" and ml_producer_retry_queue_overdue_seconds > {60 * lasts.scale:g}{EXPLAINED}",
            600,
            "warning",
            "The retry queue grows",
            "{{ $value | humanize }} tasks wait in the spool of {{ $labels.instance }}, more than 10 minutes ago.",
        ),
        Alert(
            "MLProducerRetryQueueOld",
            # One that is retried at the broker is old too, but somebody is at it.
            f"ml_producer_retry_queue_oldest_age_seconds > {OLD_SECONDS * lasts.scale:g}"
            f" and ml_producer_retry_queue_overdue_seconds > {60 * lasts.scale:g}{EXPLAINED}",
            60,
            "warning",
            "Tasks wait for long",
            "A task in the spool of {{ $labels.instance }} was first due {{ $value | humanizeDuration }} ago.",
        ),
        Alert(
            "MLProducerSpoolNearlyFull",
            f"instance:ml_producer_retry_queue_fill:ratio > {FULL}\nunless {SAME} {refusals(lasts)} > {MANY}",
            60,
            "critical",
            "The spool is nearly full",
            "The spool of {{ $labels.instance }} is {{ $value | humanizePercentage }} full by its limit of "
            "{{ $labels.limit }}. At 100% new tasks are refused.",
        ),
        Alert(
            "MLProducerDeadLetters",
            "ml_producer_dlq_size > 0",
            60,
            "warning",
            "Dead letters wait for somebody",
            "{{ $value | humanize }} tasks of {{ $labels.instance }} are in the dead letter queue.",
        ),
        Alert(
            "MLProducerUnroutable",
            'sum without (task_type, status) (increase(ml_producer_tasks_sent_total{status="returned"}'
            f"[{lasts(300)}])) > 0\nunless {SAME} {HELD}",
            0,
            "warning",
            "RabbitMQ has no queue for some tasks",
            "About {{ $value | humanize }} attempts of {{ $labels.instance }} were returned within 5 minutes.",
        ),
    ]


def _delivery_alerts(lasts: Durations) -> list[Alert]:
    return [
        Alert(
            "MLProducerNoConfirms",
            f"rate(ml_producer_tasks_accepted_total[{lasts(300)}]) > 0"
            f" and rate(ml_producer_tasks_confirmed_total[{lasts(300)}]) == 0{EXPLAINED}",
            300,
            "critical",
            "Tasks are accepted, none is confirmed",
            "{{ $labels.instance }} accepts {{ $value | humanize }} tasks a second and had no confirm for 5 minutes.",
        ),
        Alert(
            "MLProducerDeliveryBudgetBurnsFast",
            f"{burning(14.4, '1h', '5m')}\nor\n{burning(6, '6h', '30m')}",
            0,
            "critical",
            "The month's delivery budget is gone within days",
            "{{ $value | humanizePercentage }} of the tasks of {{ $labels.job }} are not confirmed within a minute; "
            "the objective is that 99.9% are.",
        ),
        Alert(
            "MLProducerDeliveryBudgetBurnsSlowly",
            burning(1, "3d", "6h"),
            0,
            "warning",
            "The delivery budget will not last the month",
            "{{ $value | humanizePercentage }} of the tasks of {{ $labels.job }} are not confirmed within a minute; "
            "the objective is that 99.9% are.",
        ),
        Alert(
            "MLProducerTasksMissing",
            "instance:ml_producer_tasks_missing:sum > instance:ml_producer_spool_moves:increase2m"
            f"\nor\n{missing_shared(lasts)}",
            300,
            "critical",
            "Accepted tasks are nowhere",
            "{{ $value | humanize }} accepted tasks are neither confirmed nor in the spool nor dead.",
        ),
    ]


def _as_rule(alert: Alert, lasts: Durations, runbooks: str) -> dict[str, Any]:
    wait = {"for": lasts.of(alert.after)} if alert.after else {}
    return {
        "alert": alert.name,
        "expr": alert.expr,
        **wait,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{runbooks}#{anchor(alert.name)}",
        },
    }


def as_yaml(rules: Document) -> str:
    """YAML for people: long expressions as blocks. Its strings are JSON's, which YAML reads."""
    lines = ["# Made by `mlproducer rules export`.", "groups:"]
    for group in rules["groups"]:
        lines += [f"  - name: {group['name']}", "    rules:"]
        for rule in group["rules"]:
            first, *rest = (line for key, value in rule.items() for line in _entry(key, value))
            lines += ["", f"      - {first}", *(f"        {line}" for line in rest)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _entry(key: str, value: object) -> list[str]:
    match value:
        case dict():
            return [f"{key}:", *(f"  {line}" for name, each in value.items() for line in _entry(name, each))]
        case str() if key == "expr":
            return [f"{key}: |-", *(f"  {line}" for line in value.splitlines())]
        case str() if value.replace(":", "").replace("_", "").isalnum():
            return [f"{key}: {value}"]
        case _:
            return [f"{key}: {json.dumps(value, ensure_ascii=False)}"]
