"""The JSON view: a scrape, arranged for a reader. Pure; it knows nothing but the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from math import inf
from operator import add
from typing import Final

from mlproducer.core.counting import quantile
from mlproducer.events import BreakerState, ConnectionState
from mlproducer.telemetry.cells import Family
from mlproducer.telemetry.exposition import Scrape

_PREFIX: Final = "ml_producer_"
_Labels = tuple[tuple[str, str], ...]
Document = dict[str, object]


class Samples:
    """Values by name and labels. A name that is not there reads as nothing: empty, 0, None."""

    def __init__(self, scrape: Scrape, pid: str | None = None) -> None:
        """With `pid`, of the gauges of several processes only that one's are taken."""
        self._values: dict[str, dict[_Labels, float]] = {}
        self._histograms: dict[str, dict[_Labels, tuple[Family, list[float]]]] = {}
        for family, series in scrape:
            for one in series:
                labels = dict(zip(family.labels, one.labels, strict=True))
                if labels.pop("pid", pid) != pid:
                    continue
                key, cells = tuple(labels.items()), list(one.cells)
                if family.kind == "histogram":
                    self._histograms.setdefault(family.name, {})[key] = family, cells
                else:
                    name = f"{family.name}_total" if family.kind == "counter" else family.name
                    self._values.setdefault(name, {})[key] = cells[0]

    def value(self, name: str) -> float:
        """The series without labels; 0.0 if there is none."""
        return self._values.get(name, {}).get((), 0.0)

    def count(self, name: str) -> int:
        return int(self.value(_PREFIX + name))

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Sums by the given labels, over all others."""
        sums: dict[tuple[str, ...], float] = {}
        for found, value in self._values.get(_PREFIX + name, {}).items():
            key = tuple(dict(found)[label] for label in labels)
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def counts(self, name: str, label: str) -> dict[str, int]:
        return {key[0]: int(value) for key, value in self.by(name, label).items()}

    def nested(self, name: str, outer: str, inner: str) -> dict[str, dict[str, int]]:
        table: dict[str, dict[str, int]] = {}
        for (row, column), value in self.by(name, outer, inner).items():
            table.setdefault(row, {})[column] = int(value)
        return table

    def histograms(self, name: str) -> dict[str, Document]:
        """By task type: count, average and quantiles."""
        sums: dict[str, list[float]] = {}
        bounds: tuple[float, ...] = ()
        for labels, (family, cells) in self._histograms.get(_PREFIX + name, {}).items():
            kind, bounds = dict(labels)["task_type"], (*family.bounds, inf)
            sums[kind] = list(map(add, sums[kind], cells)) if kind in sums else cells
        return {
            kind: _summary(dict(zip(bounds, accumulate(cells[:-1]), strict=True)), cells[-1])
            for kind, cells in sums.items()
        }


def as_document(
    scrape: Scrape, now: float, *, process_started: float | None = None, pid: str | None = None
) -> Document:
    """Durations and ages in seconds, sizes in bytes, times in Unix seconds; null where nothing was observed yet. `pid`
    names the process whose gauges are shown, where the scrape has those of several.
    """
    samples = Samples(scrape, pid)
    return {
        "timestamp": round(now, 3),
        "uptime_seconds": round(samples.value(f"{_PREFIX}uptime_seconds"), 3),
        "process_start_time_seconds": process_started,
        "pid": pid,
        "connection": {
            "state": ConnectionState(samples.count("connection_state")).name.lower(),
            "blocked": bool(samples.count("connection_blocked")),
            "reconnect_attempts": samples.count("reconnect_attempts"),
            "max_attempts_reached": samples.count("max_attempts_reached_total"),
            "errors": samples.counts("connection_errors_total", "error_type"),
        },
        "circuit_breaker": {
            "state": BreakerState(samples.count("circuit_breaker_state")).name.lower(),
            "failures": samples.count("circuit_breaker_failures"),
            "trips": samples.count("circuit_breaker_trips_total"),
        },
        "tasks": _tasks(samples),
        "publish_duration_seconds": samples.histograms("task_publish_duration_seconds"),
        "accept_to_confirm_seconds": samples.histograms("accept_to_confirm_seconds"),
        "message_size_bytes": samples.histograms("message_size_bytes"),
        "in_flight": samples.count("in_flight"),
        "last_confirm_timestamp_seconds": samples.value(f"{_PREFIX}last_confirm_timestamp_seconds") or None,
        "confirm_timeouts": samples.count("confirm_timeouts_total"),
        "health_check_failures": samples.count("health_check_failures_total"),
        "retry_queue": {
            "size": samples.count("retry_queue_size"),
            "bytes": samples.count("retry_queue_bytes"),
            "oldest_age_seconds": samples.value(f"{_PREFIX}retry_queue_oldest_age_seconds"),
            "errors": samples.count("spool_errors_total"),
            "left": samples.count("tasks_left"),
        },
        "dlq": {"size": samples.count("dlq_size")},
        "queues": samples.counts("queue_depth", "queue_name"),
        "listeners": {
            "errors": samples.counts("listener_errors_total", "callback"),
            "slow": samples.count("listener_slow_total"),
        },
        "log_lines_dropped": samples.count("log_lines_dropped_total"),
        "topology_differences": samples.count("topology_differences_total"),
        **_known(samples),
    }


def _known(samples: Samples) -> Document:
    """A part of the facts once more, under the names that clients of the known service read."""
    return {
        "connectionState": ConnectionState(samples.count("connection_state")).name,
        "reconnectAttempts": samples.count("reconnect_attempts"),
        "consecutiveFailures": samples.count("circuit_breaker_failures"),
        "circuitBreakerOpen": samples.count("circuit_breaker_state") == BreakerState.OPEN,
        "retryQueueSize": samples.count("retry_queue_size"),
        "pendingConfirms": samples.count("in_flight"),
    }


def _tasks(samples: Samples) -> Document:
    return {
        "accepted": samples.count("tasks_accepted_total"),
        "refused": samples.nested("tasks_refused_total", "task_type", "reason"),
        "sent": samples.nested("tasks_sent_total", "task_type", "status"),
        "spooled": samples.counts("tasks_spooled_total", "cause"),
        "retries": samples.counts("task_retries_total", "task_type"),
        "dead_lettered": samples.nested("tasks_dead_lettered_total", "task_type", "reason"),
        "replayed": samples.count("tasks_replayed_total"),
        "purged": samples.count("tasks_purged_total"),
        "confirmed": samples.count("tasks_confirmed_total"),
        "at_start": samples.count("tasks_at_start"),
    }


def _summary(buckets: Mapping[float, float], total: float) -> Document:
    count = buckets.get(inf, 0.0)
    quantiles = {f"p{round(q * 100)}": quantile(buckets, q) for q in (0.5, 0.95, 0.99)}
    return {"count": int(count), "average": total / count if count else None, **quantiles}
