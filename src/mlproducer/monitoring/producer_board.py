"""The dashboard *ML Producer Monitoring*: are tasks getting through, and why not."""

from __future__ import annotations

from typing import Any, Final

from mlproducer.events import BreakerState, ConnectionState
from mlproducer.monitoring import promql
from mlproducer.monitoring.expressions import OBJECTIVE
from mlproducer.monitoring.panels import Names, Panel, Query, Steps, Words, board, graph, tile, timeline
from mlproducer.monitoring.promql import count, latest, per_second, quantile

UID: Final = "ml-producer-monitoring"

CONNECTION: Final[Names] = {
    ConnectionState.CONNECTED: ("Connected", "green"),
    ConnectionState.CONNECTING: ("Connecting", "yellow"),
    ConnectionState.DISCONNECTED: ("Disconnected", "red"),
    ConnectionState.CLOSING: ("Closing", "orange"),
    ConnectionState.CLOSED: ("Closed", "purple"),
    -1: ("No answer", "dark-red"),
}
BREAKER: Final[Names] = {
    BreakerState.CLOSED: ("Closed", "green"),
    BreakerState.HALF_OPEN: ("Half-open", "yellow"),
    BreakerState.OPEN: ("Open", "red"),
}
BLOCKED: Final[Names] = {0: ("No alarm", "green"), 1: ("Blocked", "red")}
OUTCOMES: Final = {
    "confirmed": "green",
    "returned": "orange",
    "nacked": "red",
    "unsure": "yellow",
    "not_sent": "purple",
}
QUANTILES: Final = ((0.5, "p50", "green"), (0.95, "p95", "yellow"), (0.99, "p99", "red"))
OBJECTIVE_STEPS: Final[Steps] = ((None, "red"), (0.99, "yellow"), (OBJECTIVE, "green"))


def build(*, datasource: str, runbooks: str) -> dict[str, Any]:
    """Grafana's JSON. Needs `grafana-foundation-sdk`."""
    return board(
        UID,
        "ML Producer Monitoring",
        "Are ML tasks getting through to RabbitMQ, and if not, why: one instance of mlproducer or several.",
        (
            ("Connection health", _connection()),
            ("Is it getting through?", _delivery()),
            ("Queues", _queues()),
            ("Latency and size", _latency()),
            ("Errors by type", _errors()),
        ),
        datasource=datasource,
        runbooks=runbooks,
    )


def _connection() -> list[Panel]:
    return [*_connection_tiles(), *_connection_history()]


def _connection_tiles() -> list[Panel]:
    state = promql.with_silent(latest("connection_state", "instance"))
    ago = f"time() - max({promql.series('last_confirm_timestamp_seconds')} > 0)"
    return [
        tile(
            Words(
                "Connection",
                "The link of each instance to RabbitMQ. While it is down, tasks are accepted into the spool. "
                "No answer: Prometheus cannot scrape the instance.",
                "MLProducerDisconnected",
            ),
            Query("{{instance}}", state),
            names=CONNECTION,
            nothing="Not scraped",
        ),
        tile(
            Words(
                "Reconnect attempts",
                "Failed attempts of the present cycle. At 10 (ML_RECONNECT_ATTEMPTS) readiness is false and the broker "
                "is probed slowly.",
                "MLProducerReconnectsExhausted",
            ),
            Query("", latest("reconnect_attempts")),
            steps=((None, "green"), (1, "yellow"), (10, "red")),
        ),
        tile(
            Words(
                "Circuit breaker",
                "Open: the broker is left alone for 30 s and tasks go to the spool at once. Half-open: one probe.",
                "MLProducerCircuitBreakerOpen",
            ),
            Query("{{instance}}", latest("circuit_breaker_state", "instance")),
            names=BREAKER,
        ),
        tile(
            Words(
                "Consecutive failures",
                "The breaker opens at 10 (ML_BREAKER_FAILURES); a confirm sets them back to 0.",
                "MLProducerCircuitBreakerOpen",
            ),
            Query("", latest("circuit_breaker_failures")),
            steps=((None, "green"), (1, "yellow"), (10, "red")),
        ),
        tile(
            Words("Broker alarm", "RabbitMQ blocks publishers: too little memory or disk.", "MLProducerBlocked"),
            Query("", latest("connection_blocked")),
            names=BLOCKED,
        ),
        tile(
            Words("Last confirm", "How long ago a task was confirmed. Old is fine if nobody publishes."),
            Query("", ago),
            unit="s",
            steps=((None, "blue"),),
            decimals=0,
            nothing="None yet",
        ),
    ]


def _connection_history() -> list[Panel]:
    return [
        timeline(
            Words("Connection over time", "The state of each instance's link.", "MLProducerDisconnected"),
            Query("{{instance}}", promql.with_silent(latest("connection_state", "instance"))),
            names=CONNECTION,
        ),
        timeline(
            Words("Circuit breaker over time", "The state of each instance's breaker.", "MLProducerCircuitBreakerOpen"),
            Query("{{instance}}", latest("circuit_breaker_state", "instance")),
            names=BREAKER,
        ),
    ]


def _delivery() -> list[Panel]:
    return [
        tile(
            Words(
                "Confirmed within a minute",
                "Of the tasks accepted in the time shown, the share that RabbitMQ confirmed within a minute. The "
                "objective is 99.9 %.",
                "MLProducerDeliveryBudgetBurnsFast",
            ),
            Query("", promql.in_time(promql.RANGE)),
            unit="percentunit",
            steps=OBJECTIVE_STEPS,
            decimals=3,
            nothing="No tasks",
        ),
        tile(
            Words(
                "Error budget left",
                "Of the 0.1 % of tasks that may be late in the time shown. At 0 % the objective is missed.",
                "MLProducerDeliveryBudgetBurnsSlowly",
            ),
            Query("", promql.budget_left(promql.RANGE)),
            unit="percentunit",
            steps=((None, "red"), (0.001, "yellow"), (0.5, "green")),
            decimals=1,
            nothing="No tasks",
        ),
        tile(
            Words("In flight", "Attempts that wait for their confirm now, at most 5 s each."),
            Query("", f"sum({promql.series('in_flight')})"),
            steps=((None, "blue"),),
        ),
        tile(
            Words("Accepted", "Tasks given a receipt in the time shown: confirmed or spooled."),
            Query("", f"sum(increase({promql.series('tasks_accepted_total')}[{promql.RANGE}]))"),
            steps=((None, "blue"),),
            decimals=0,
        ),
        tile(
            Words("Confirmed", "Tasks that RabbitMQ confirmed in the time shown, at once or from the spool."),
            Query("", f"sum(increase({promql.series('accept_to_confirm_seconds_count')}[{promql.RANGE}]))"),
            steps=((None, "blue"),),
            decimals=0,
        ),
        tile(
            Words(
                "Dead-lettered",
                "Tasks that spent their attempts in the time shown, or expired.",
                "MLProducerDeadLetters",
            ),
            Query("", f"sum(increase({promql.series('tasks_dead_lettered_total')}[{promql.RANGE}]))"),
            steps=((None, "green"), (0.5, "red")),
            decimals=0,
        ),
        *_delivery_history(),
    ]


def _delivery_history() -> list[Panel]:
    return [
        graph(
            Words(
                "Accepted and confirmed",
                "Tasks a second. Accepted above confirmed: tasks gather in the spool. Below: the spool drains.",
                "MLProducerNoConfirms",
            ),
            Query("accepted", per_second("tasks_accepted_total")),
            Query("confirmed", per_second("accept_to_confirm_seconds_count")),
            Query("of which accepted into the spool", per_second("tasks_spooled_total")),
            unit="ops",
            colours={"accepted": "blue", "confirmed": "green", "of which accepted into the spool": "orange"},
        ),
        graph(
            Words(
                "Confirmed within a minute, over time",
                "The delivery ratio in each step; the dashed lines are 99 % and the objective, 99.9 %.",
                "MLProducerDeliveryBudgetBurnsFast",
            ),
            Query("delivery ratio", promql.in_time(promql.WINDOW)),
            unit="percentunit",
            steps=OBJECTIVE_STEPS,
            colours={"delivery ratio": "blue"},
            most=1,
        ),
        graph(
            Words(
                "From accept to confirm",
                "Time in the spool included: after an outage the tasks that waited show here.",
            ),
            *(Query(name, quantile(share, "accept_to_confirm_seconds")) for share, name, _ in QUANTILES),
            unit="s",
            colours={name: colour for _, name, colour in QUANTILES},
        ),
        graph(
            Words(
                "Attempts by outcome",
                "Unsure: the confirm did not come, and the task is published again with the same id. "
                "Returned: no queue is bound for it.",
                "MLProducerUnroutable",
            ),
            Query("{{status}}", per_second("tasks_sent_total", by=("status",))),
            unit="ops",
            look="stack",
            colours=OUTCOMES,
            span=12,
        ),
        graph(
            Words("Accepted by task type", "Tasks a second."),
            Query("{{task_type}}", per_second("message_size_bytes_count", by=("task_type",))),
            unit="ops",
            look="stack",
            span=12,
        ),
    ]


def _queues() -> list[Panel]:
    each = "Instances that share a spool each show all of it."
    return [
        graph(
            Words("Retry queue", f"Tasks that wait in the spool. {each}", "MLProducerRetryQueueGrowing"),
            Query("{{instance}}", latest("retry_queue_size", "instance")),
            span=8,
        ),
        graph(
            Words("Retry queue, bytes", f"What those tasks take. {each}", "MLProducerSpoolNearlyFull"),
            Query("{{instance}}", latest("retry_queue_bytes", "instance")),
            unit="bytes",
        ),
        graph(
            Words(
                "Retry queue, oldest task",
                "Since it was first due: at its acceptance, its eta or its replay. The alert begins at 15 minutes.",
                "MLProducerRetryQueueOld",
            ),
            Query("{{instance}}", latest("retry_queue_oldest_age_seconds", "instance")),
            unit="s",
        ),
        graph(
            Words(
                "Dead letter queue",
                f"Tasks kept until a person replays or removes them. {each}",
                "MLProducerDeadLetters",
            ),
            Query("{{instance}}", latest("dlq_size", "instance")),
            span=24,
        ),
        graph(
            Words(
                "Broker queues",
                "Messages that are ready in RabbitMQ: work that no worker has taken yet. With RABBITMQ_MANAGEMENT_URL "
                "also those that workers hold.",
                "MLProducerQueueMissing",
            ),
            Query("{{queue_name}}", latest("queue_depth", "queue_name")),
            Query("{{queue_name}}, held by workers", latest("queue_unacked", "queue_name")),
            span=8,
        ),
        graph(
            Words(
                "Consumers of broker queues",
                "Who reads each queue. 0 while messages are ready: nobody works on them.",
                "MLProducerNoConsumers",
            ),
            Query("{{queue_name}}", latest("queue_consumers", "queue_name")),
            span=8,
        ),
        graph(
            Words(
                "Held routes",
                "1 held, 2 probed, 3 failing past its patience: its tasks wait in the spool, others go on.",
                "MLProducerRouteHeld",
            ),
            Query("{{routing_key}}", latest("route_state", "routing_key")),
            span=8,
        ),
    ]


def _latency() -> list[Panel]:
    duration, confirmed = "task_publish_duration_seconds", 'status="confirmed"'
    size = "message_size_bytes"
    average = f"{per_second(size + '_sum', by=('task_type',))} / ({per_second(size + '_count', by=('task_type',))} > 0)"
    return [
        graph(
            Words("Publish duration", "Of confirmed attempts: one way to RabbitMQ and its confirm back."),
            *(Query(name, quantile(share, duration, confirmed)) for share, name, _ in QUANTILES),
            unit="s",
            colours={name: colour for _, name, colour in QUANTILES},
        ),
        graph(
            Words("Publish duration p95, by task type", "Of confirmed attempts."),
            Query("{{task_type}}", quantile(0.95, duration, confirmed, by=("task_type",)) + " >= 0"),
            unit="s",
        ),
        graph(
            Words("Message size, average by task type", "Body and properties. Above 8 MiB a task is refused."),
            Query("{{task_type}}", average),
            unit="bytes",
        ),
    ]


def _errors() -> list[Panel]:
    return [
        graph(
            Words(
                "Connection errors", "Connects that failed and connections that were lost.", "MLProducerDisconnected"
            ),
            Query("{{error_type}}", count("connection_errors_total", by=("error_type",))),
            look="bars",
        ),
        graph(
            Words(
                "Confirm timeouts, health checks, breaker, spool",
                "Times within one step of the graph.",
                "MLProducerConfirmTimeouts",
            ),
            Query("confirm timeouts", count("confirm_timeouts_total")),
            Query("failed health checks", count("health_check_failures_total")),
            Query("breaker opened", count("circuit_breaker_trips_total")),
            Query("reconnects exhausted", count("max_attempts_reached_total")),
            Query("spool errors", count("spool_errors_total")),
            look="bars",
        ),
        graph(
            Words("Retries by task type", "Attempts that started from the spool.", "MLProducerRetryQueueGrowing"),
            Query("{{task_type}}", count("task_retries_total", by=("task_type",))),
            look="bars",
        ),
        graph(
            Words("Dead letters by reason", "Tasks buried within one step of the graph.", "MLProducerDeadLetters"),
            Query("{{reason}}", count("tasks_dead_lettered_total", by=("reason",))),
            look="bars",
            span=12,
        ),
        graph(
            Words(
                "Refused by reason",
                "Calls that were answered with an error: nothing was accepted.",
                "MLProducerRefusing",
            ),
            Query("{{reason}}", count("tasks_refused_total", by=("reason",))),
            look="bars",
            span=12,
        ),
    ]
