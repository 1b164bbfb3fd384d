"""The longer expressions of the rules, and why they are as they are.

**The objective.** 99.9 % of accepted tasks are confirmed within a minute, over 30 days. What is late counts at once: a
task that is accepted and not confirmed is late whether it waits, is dead or was lost. Tasks with an eta are late on
purpose and do not count. The burn rates and their pairs of windows are those of Google's SRE workbook, chapter 5
(https://sre.google/workbook/alerting-on-slos/): the long window says that it is much, the short one that it still goes
on.

**The loss check.** Of one producer on a spool of its own, `telemetry.books` has the equation; what is missing in it is
missing. But its terms are not of one moment: the sizes are measured once a second, a commit is counted after it was
made. So as many may be missing for a moment as moved through the spool, and only more than moved in the last two
minutes are said to be missing. A spool at rest is exact, and what was lost while it moved is still missing then.

Producers that share a spool drain each other's tasks, so only their sum adds up. Its *level* is what is stored less
what they owe together. It changes for three reasons only: a producer starts or ends (its counts begin at 0), the outbox
adds a task (up), a task is lost (down). So a level that is lower than it was, with the same producers all the while,
is a loss. It is recorded while the spool is at rest only, and every producer on the spool must be scraped: what another
one has drained would look lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlproducer.outcome import EVERY_ROUTE

OBJECTIVE: Final = 0.999
"""The share of accepted tasks that are confirmed in time; the dashboards show the budget that the alerts burn."""
IN_TIME: Final = "60.0"
"""Seconds, as the bucket's label has them."""
BURN_WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")
OLD_SECONDS: Final = 900
"""Longer than a broker's restart or a cluster's election takes."""
GROWING_FROM: Final = 100
"""Tasks: fewer wait now and then because of a single slow confirm or a full window."""
FULL: Final = 0.8
MEMORY: Final = 3_600
"""Seconds that the level of a shared spool is compared with."""

FEW: Final = 2
"""Of what happens now and then on a broker or a store that is well."""
MANY: Final = 9
"""Refusals within five minutes: fewer may be one unlucky caller."""
BACKLOG_FROM: Final = 1_000
"""Tasks in a queue: workers that take some seconds each always have a few hundred before them."""

SAME: Final = "on (job, instance)"
AWAY: Final = (
    "(ml_producer_connection_state != 2 or ml_producer_connection_blocked == 1"
    " or ml_producer_circuit_breaker_state > 0)"
)
"""The broker takes nothing: an alert of its own says why."""
HELD: Final = "(max by (job, instance) (ml_producer_route_state) > 0)"
EXPLAINED: Final = f"\nunless {SAME} {AWAY}\nunless {SAME} {HELD}"
"""Silent where one of these tells it."""
_HELD_KEYS: Final = "max by (job, routing_key) (ml_producer_route_state) > 0"
_HELD_QUEUES: Final = f'label_replace({_HELD_KEYS}, "queue_name", "$1", "routing_key", "(.+)")'
NAMED_BY_ROUTE: Final = (
    f"\nunless on (job, queue_name) {_HELD_QUEUES}"
    f'\nunless on (job) max by (job) (ml_producer_route_state{{routing_key="{EVERY_ROUTE}"}}) > 0'
)
"""Of an alert that names a queue. Its tasks come back, and then its route is held: that alert names it, too. A queue is
bound by its name; a route that is held hides no other queue.
"""

_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SHARED: Final = '* on (job, instance) group_left (spool) (ml_producer_spool_info{shared="true"} == 1)'


@dataclass(frozen=True, slots=True)
class Durations:
    """Prometheus's spelling of a duration, shortened by `scale`."""

    scale: float = 1.0

    def __call__(self, window: str | float) -> str:
        return self.of(window if isinstance(window, int | float) else int(window[:-1]) * _UNITS[window[-1]])

    def of(self, seconds: float) -> str:
        milliseconds = max(1, round(seconds * self.scale * 1_000))
        if milliseconds % 1_000:
            return f"{milliseconds}ms"
        whole = milliseconds // 1_000
        unit, size = next((unit, size) for unit, size in _UNITS.items() if whole % size == 0)
        return f"{whole // size}{unit}"


def refusals(lasts: Durations) -> str:
    """Calls refused within five minutes, for reasons that are not the caller's own."""
    reasons = "SpoolFull|SpoolUnavailable|BlobStoreUnavailable|NotInTime|NotAccepting"
    return (
        "sum without (task_type, reason)"
        f' (increase(ml_producer_tasks_refused_total{{reason=~"{reasons}"}}[{lasts(300)}]))'
    )


def fill_ratio() -> str:
    """How full, by each of the limits at which new tasks are refused."""
    parts = (
        ("tasks", "size", "max_tasks"),
        ("bytes", "bytes", "max_bytes"),
        ("age", "oldest_age_seconds", "max_age_seconds"),
    )
    return "\nor\n".join(
        f'label_replace(ml_producer_retry_queue_{now} / ml_producer_retry_queue_{most}, "limit", "{name}", "", "")'
        for name, now, most in parts
    )


def late_record(window: str) -> str:
    return f"job:ml_producer_tasks_late:ratio_rate{window}"


def late_ratio(window: str) -> str:
    """The share of accepted tasks that were not confirmed within a minute; nothing where none was accepted."""
    return (
        "clamp_min(\n"
        f'  1 - sum by (job) (rate(ml_producer_accept_to_confirm_seconds_bucket{{le="{IN_TIME}"}}[{window}]))\n'
        f"    / (sum by (job) (rate(ml_producer_tasks_accepted_total[{window}]))\n"
        f'       - sum by (job) (rate(ml_producer_tasks_spooled_total{{cause="eta"}}[{window}]))),\n'
        "  0\n"
        ")"
    )


def burning(rate: float, long: str, short: str) -> str:
    """The budget is spent at `rate` times the speed that would use it up in 30 days."""
    most = f"{rate * (1 - OBJECTIVE):.4g}"
    return f"({late_record(long)} > {most} and {late_record(short)} > {most})"


def moves(lasts: Durations) -> str:
    """Into the spool and out of it, in the last two minutes."""
    window = lasts("2m")
    return (
        f"sum without (cause) (increase(ml_producer_tasks_spooled_total[{window}]))\n"
        f"+ sum without (task_type) (increase(ml_producer_task_retries_total[{window}]))\n"
        f"+ increase(ml_producer_tasks_purged_total[{window}])"
    )


def missing() -> str:
    """Of a producer with a spool of its own."""
    return (
        "(\n"
        "  ml_producer_tasks_at_start + ml_producer_tasks_accepted_total\n"
        "  - ml_producer_tasks_confirmed_total - ml_producer_tasks_purged_total\n"
        "  - ml_producer_retry_queue_size - ml_producer_dlq_size\n"
        ")\n"
        'and on (job, instance) ml_producer_spool_info{shared="false"} == 1'
    )


def shared_producers() -> str:
    return 'count by (spool) (ml_producer_spool_info{shared="true"} == 1)'


def shared_level() -> str:
    """Of a spool that several producers may use, while nothing moves."""
    return (
        f"(\n  max by (spool) ((ml_producer_retry_queue_size + ml_producer_dlq_size) {_SHARED})\n"
        f"  + max by (spool) (ml_producer_tasks_purged_total {_SHARED})\n"
        f"  - sum by (spool) ((ml_producer_tasks_accepted_total - ml_producer_tasks_confirmed_total) {_SHARED})\n)\n"
        f"and sum by (spool) (instance:ml_producer_spool_moves:increase2m {_SHARED}) == 0"
    )


def missing_shared(lasts: Durations) -> str:
    """How much lower the level is than at its highest, with the same producers all the while."""
    window = lasts(MEMORY)
    return (
        f"(max_over_time(spool:ml_producer_tasks_level:sum[{window}]) - spool:ml_producer_tasks_level:sum > 0\n"
        f"  and changes(spool:ml_producer_producers:count[{window}]) == 0\n"
        f"  and min by (spool) (ml_producer_uptime_seconds {_SHARED}) > {MEMORY * lasts.scale:g})"
    )
