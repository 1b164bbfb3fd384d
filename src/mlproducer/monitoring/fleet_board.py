"""The dashboard of many instances: which of them is in trouble."""

from __future__ import annotations

from typing import Any, Final

from mlproducer.monitoring import producer_board, promql
from mlproducer.monitoring.panels import Panel, Query, Words, board, graph, tile, timeline, to_instance
from mlproducer.monitoring.promql import chosen, count, latest, per_second, quantile, series

UID: Final = "ml-producer-fleet"
_EACH: Final = ("instance",)


def build(*, datasource: str, runbooks: str) -> dict[str, Any]:
    """Grafana's JSON. Needs `grafana-foundation-sdk`."""
    return board(
        UID,
        "ML Producer Fleet",
        "All instances of mlproducer side by side. A click on a series opens the dashboard of its instance.",
        (
            ("The fleet", _whole()),
            ("Each instance", _delivery()),
            ("Spools", _spools()),
            ("Errors and resources", _errors()),
        ),
        datasource=datasource,
        runbooks=runbooks,
    )


def _whole() -> list[Panel]:
    none_is_good = ((None, "green"), (1, "red"))
    return [
        tile(
            Words("Instances that answer", "Prometheus can scrape them."),
            Query("", f"sum({chosen('up')})"),
            steps=((None, "red"), (1, "green")),
            span=3,
        ),
        tile(
            Words("No answer", "Prometheus cannot scrape them."),
            Query("", f"sum({chosen('up')} == bool 0)"),
            steps=none_is_good,
            span=3,
        ),
        tile(
            Words("Not connected", "Instances without a link to RabbitMQ.", "MLProducerDisconnected"),
            Query("", f"sum({latest('connection_state', *_EACH)} != bool 2)"),
            steps=none_is_good,
            span=3,
        ),
        tile(
            Words("Breakers not closed", "Open or half-open.", "MLProducerCircuitBreakerOpen"),
            Query("", f"sum({latest('circuit_breaker_state', *_EACH)} != bool 0)"),
            steps=none_is_good,
            span=3,
        ),
        tile(
            Words("Blocked", "Instances that RabbitMQ takes nothing from: it has an alarm.", "MLProducerBlocked"),
            Query("", f"sum({latest('connection_blocked', *_EACH)})"),
            steps=none_is_good,
            span=3,
        ),
        tile(
            Words(
                "Confirmed within a minute",
                "Of all tasks accepted in the time shown. The objective is 99.9 %.",
                "MLProducerDeliveryBudgetBurnsFast",
            ),
            Query("", promql.in_time(promql.RANGE)),
            unit="percentunit",
            decimals=3,
            nothing="No tasks",
            steps=producer_board.OBJECTIVE_STEPS,
            span=3,
        ),
        tile(
            Words(
                "Error budget left",
                "Of the 0.1 % of tasks that may be late in the time shown.",
                "MLProducerDeliveryBudgetBurnsSlowly",
            ),
            Query("", promql.budget_left(promql.RANGE)),
            unit="percentunit",
            decimals=1,
            nothing="No tasks",
            steps=((None, "red"), (0.001, "yellow"), (0.5, "green")),
            span=3,
        ),
        tile(
            Words("Confirmed", "Tasks a second, all instances together."),
            Query("", per_second("accept_to_confirm_seconds_count")),
            unit="ops",
            decimals=1,
            steps=((None, "blue"),),
            span=3,
        ),
    ]


def _delivery() -> list[Panel]:
    link = to_instance(producer_board.UID)
    return [
        timeline(
            Words("Connection", "Each instance's link to RabbitMQ.", "MLProducerDisconnected"),
            Query("{{instance}}", promql.with_silent(latest("connection_state", *_EACH))),
            names=producer_board.CONNECTION,
            link=link,
        ),
        timeline(
            Words("Circuit breaker", "Each instance's.", "MLProducerCircuitBreakerOpen"),
            Query("{{instance}}", latest("circuit_breaker_state", *_EACH)),
            names=producer_board.BREAKER,
            link=link,
        ),
        graph(
            Words("Accepted", "Tasks a second."),
            Query("{{instance}}", per_second("tasks_accepted_total", by=_EACH)),
            unit="ops",
            link=link,
        ),
        graph(
            Words(
                "Confirmed",
                "Tasks a second. With a shared spool, one instance drains what others accepted.",
                "MLProducerNoConfirms",
            ),
            Query("{{instance}}", per_second("accept_to_confirm_seconds_count", by=_EACH)),
            unit="ops",
            link=link,
        ),
        graph(
            Words("From accept to confirm, p99", "Time in the spool included."),
            Query("{{instance}}", quantile(0.99, "accept_to_confirm_seconds", by=_EACH) + " >= 0"),
            unit="s",
            link=link,
        ),
    ]


def _spools() -> list[Panel]:
    link, each = to_instance(producer_board.UID), "Instances that share a spool each show all of it."
    return [
        graph(
            Words("Retry queue", f"Tasks that wait in the spool. {each}", "MLProducerRetryQueueGrowing"),
            Query("{{instance}}", latest("retry_queue_size", *_EACH)),
            link=link,
        ),
        graph(
            Words("Retry queue, oldest task", "Since it was first due.", "MLProducerRetryQueueOld"),
            Query("{{instance}}", latest("retry_queue_oldest_age_seconds", *_EACH)),
            unit="s",
            link=link,
        ),
        graph(
            Words("Dead letter queue", f"Tasks kept for a person. {each}", "MLProducerDeadLetters"),
            Query("{{instance}}", latest("dlq_size", *_EACH)),
            link=link,
        ),
    ]


def _errors() -> list[Panel]:
    link = to_instance(producer_board.UID)
    return [
        graph(
            Words("Connection errors", "Within one step of the graph.", "MLProducerDisconnected"),
            Query("{{instance}}", count("connection_errors_total", by=_EACH)),
            look="bars",
            link=link,
        ),
        graph(
            Words("Tasks refused", "Calls that were answered with an error: nothing was accepted."),
            Query("{{instance}}", count("tasks_refused_total", by=_EACH)),
            look="bars",
            link=link,
        ),
        graph(
            Words("Confirm timeouts", "Attempts that became unsure within one step.", "MLProducerConfirmTimeouts"),
            Query("{{instance}}", count("confirm_timeouts_total", by=_EACH)),
            look="bars",
            link=link,
        ),
        graph(
            Words("Processor", "Share of one core."),
            Query("{{instance}}", f"sum by (instance) (rate({chosen('process_cpu_seconds_total')}[{promql.WINDOW}]))"),
            unit="percentunit",
            link=link,
        ),
        graph(
            Words("Memory", "Resident."),
            Query("{{instance}}", f"sum by (instance) ({chosen('process_resident_memory_bytes')})"),
            unit="bytes",
            link=link,
        ),
        graph(
            Words("Uptime", "Since the producer was made. A fall to 0 is a restart."),
            Query("{{instance}}", f"min by (instance) ({series('uptime_seconds')})"),
            unit="s",
            link=link,
        ),
    ]
