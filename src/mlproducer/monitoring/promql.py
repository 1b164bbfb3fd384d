"""The expressions that the dashboards are made of, with Grafana's variables in them."""

from __future__ import annotations

from typing import Final

WINDOW: Final = "$__rate_interval"
"""Grafana makes it at least four scrapes long, so that a rate never falls between two of them."""
RANGE: Final = "$__range"
"""What the dashboard shows from left to right."""

OBJECTIVE: Final = 0.999
"""The share of accepted tasks that are confirmed in time; the alerts burn the same budget."""
IN_TIME: Final = "60.0"
"""Seconds, as the bucket's label has them."""


def series(name: str, *more: str) -> str:
    """One metric of ours, of the jobs and instances that the reader chose; `more` are label matchers."""
    return "ml_producer_" + chosen(name, *more)


def chosen(name: str, *more: str) -> str:
    labels = ",".join(('job=~"$job"', 'instance=~"$instance"', *more))
    return f"{name}{{{labels}}}"


def latest(name: str, *by: str) -> str:
    """A gauge, the highest where several processes tell it."""
    return f"max{_by(by)} ({series(name)})"


def per_second(name: str, *more: str, by: tuple[str, ...] = ()) -> str:
    return f"sum{_by(by)} (rate({series(name, *more)}[{WINDOW}]))"


def count(name: str, *more: str, by: tuple[str, ...] = ()) -> str:
    """How often within one step of the graph."""
    return f"sum{_by(by)} (increase({series(name, *more)}[{WINDOW}]))"


def quantile(share: float, name: str, *more: str, by: tuple[str, ...] = ()) -> str:
    return f"histogram_quantile({share:g}, sum{_by(('le', *by))} (rate({series(name + '_bucket', *more)}[{WINDOW}])))"


def in_time(window: str, *by: str) -> str:
    """The delivery ratio: of the tasks that should be confirmed by now, the share that was within a minute of its
    acceptance. A task that waits, is dead or was lost is late. Those with an eta wait on purpose and do not count.
    Nothing where no task was accepted. Cut at 1: a task may be accepted before the window and confirmed within it.
    """
    within, accepted, later = (
        f"sum{_by(by)} (increase({each}[{window}]))"
        for each in (
            series("accept_to_confirm_seconds_bucket", f'le="{IN_TIME}"'),
            series("tasks_accepted_total"),
            series("tasks_spooled_total", 'cause="eta"'),
        )
    )
    return f"clamp_max({within} / ({accepted} - {later} > 0), 1)"


def budget_left(window: str) -> str:
    """The share of the error budget that is left, 1 down to 0."""
    return f"clamp_min(1 - (1 - {in_time(window)}) / {1 - OBJECTIVE:.4g}, 0)"


def with_silent(expr: str) -> str:
    """And -1 for each instance that Prometheus cannot scrape: its own series are gone then."""
    return f"{expr} or max by (instance) ({chosen('up')} == 0) - 1"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
