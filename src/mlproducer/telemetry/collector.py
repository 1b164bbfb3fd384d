"""What a scrape makes of `TaskCounts`: a custom collector, as prometheus-client calls it.

Names, labels, HELP and samples are those that the library's own counters and histograms would have; a test compares
the two.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, Sample

from mlproducer.telemetry.histogram import Reading
from mlproducer.telemetry.labels import STATUS_OF
from mlproducer.telemetry.tasks import TaskCounts


class TaskCollector:
    """`created` gives the Unix time at which the series began, or None to leave the `_created` samples out."""

    def __init__(self, counts: TaskCounts, created: Callable[[], float | None]) -> None:
        self._counts = counts
        self._created = created

    def describe(self) -> list[Metric]:
        """The families without samples: by their names the registry refuses a second producer."""
        return _Families().all()

    def collect(self) -> list[Metric]:
        families, created, accepted = _Families(), self._created(), 0.0
        confirmed = 0.0
        for name, series in self._counts.by_type.items():
            for kind, status in STATUS_OF.items():
                attempts = series.attempts[kind].read()
                families.sent.add_metric((name, status), attempts.count, created)
                _add(families.duration, {"task_type": name, "status": status}, attempts, created)
            size = series.size.read()
            accepted += size.count
            _add(families.size, {"task_type": name}, size, created)
            # Read after what was accepted: a scrape from another thread then never shows a task as owed that is not.
            confirms = series.accept_to_confirm.read()
            confirmed += confirms.count
            _add(families.accept_to_confirm, {"task_type": name}, confirms, created)
            families.retries.add_metric((name,), float(series.retries), created)
        families.accepted.add_metric((), accepted, created)
        families.confirmed.add_metric((), confirmed, created)
        families.last_confirm.add_metric((), self._counts.last_confirm)
        for cause, count in self._counts.by_cause.items():
            families.spooled.add_metric((cause,), float(count), created)
        return families.all()


def _add(family: HistogramMetricFamily, labels: dict[str, str], reading: Reading, created: float | None) -> None:
    family.add_metric(tuple(labels.values()), reading.buckets, reading.sum)
    if created is not None:  # which `add_metric` of a histogram does not take, unlike a counter's
        family.samples.append(Sample(f"{family.name}_created", labels, created))


class _Families:
    """The families of one scrape, in the order in which they are shown."""

    def __init__(self) -> None:
        self.sent = _counter("tasks_sent", "Attempts that have an outcome.", "task_type", "status")
        self.duration = _histogram(
            "task_publish_duration_seconds", "From the start of an attempt to its outcome.", "task_type", "status"
        )
        self.size = _histogram("message_size_bytes", "Body and properties of accepted tasks.", "task_type")
        self.accept_to_confirm = _histogram(
            "accept_to_confirm_seconds",
            "From acceptance to the broker's confirm, time in the spool included.",
            "task_type",
        )
        self.retries = _counter("task_retries", "Attempts that started from the spool.", "task_type")
        self.accepted = _counter("tasks_accepted", "Tasks given a receipt: confirmed or spooled.")
        self.confirmed = _counter("tasks_confirmed", "Tasks that the broker confirmed, at once or from the spool.")
        self.last_confirm = GaugeMetricFamily(
            "ml_producer_last_confirm_timestamp_seconds", "Unix time of the last confirm; 0: none yet."
        )
        self.spooled = _counter("tasks_spooled", "Tasks accepted into the spool, by cause.", "cause")

    def all(self) -> list[Metric]:
        return list(vars(self).values())


def _counter(name: str, words: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"ml_producer_{name}", words, labels=labels)


def _histogram(name: str, words: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"ml_producer_{name}", words, labels=labels)
