"""The same numbers as families of prometheus-client: for an application's own registry.

Names, labels, HELP and samples are those that the library's own counters and histograms would have; a test compares
the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, Sample

from mlproducer.telemetry.cells import Family, read
from mlproducer.telemetry.exposition import Scrape, Shown


class BoardCollector:
    """A custom collector, as prometheus-client calls it. `created` as for `Exposition.text`."""

    def __init__(self, scrape: Callable[[], Scrape], created: Callable[[], float | None]) -> None:
        self._scrape = scrape
        self._created = created

    def describe(self) -> list[Metric]:
        """The families without samples: by their names the registry refuses a second producer."""
        return [_metric(family, (), None) for family, _ in self._scrape()]

    def collect(self) -> list[Metric]:
        created = self._created()
        return [_metric(family, series, created) for family, series in self._scrape()]


def _metric(family: Family, series: Iterable[Shown], created: float | None) -> Metric:
    match family.kind:
        case "counter":
            counter = CounterMetricFamily(family.name, family.words, labels=family.labels, unit=family.unit)
            for one in series:
                counter.add_metric(one.labels, one.cells[0], created)
            return counter
        case "gauge":
            gauge = GaugeMetricFamily(family.name, family.words, labels=family.labels, unit=family.unit)
            for one in series:
                gauge.add_metric(one.labels, one.cells[0])
            return gauge
        case "histogram":
            histogram = HistogramMetricFamily(family.name, family.words, labels=family.labels, unit=family.unit)
            for one in series:
                reading = read(family.bounds, one.cells)
                histogram.add_metric(one.labels, reading.buckets, reading.sum)
                if created is not None:  # which `add_metric` of a histogram does not take, unlike a counter's
                    labels = dict(zip(family.labels, one.labels, strict=True))
                    histogram.samples.append(Sample(f"{family.name}_created", labels, created))
            return histogram


class Creation:
    """When the series began. Asked of the library each time, because an application may change its mind."""

    def __init__(self) -> None:
        self._probe: Final = Counter("probe", "Began with our series.", registry=CollectorRegistry())

    def __call__(self) -> float | None:
        """Unix seconds; None if the application wants no `_created` samples (`PROMETHEUS_DISABLE_CREATED_SERIES`,
        `disable_created_metrics()`), which only the library's own metrics show.
        """
        samples = (sample for family in self._probe.collect() for sample in family.samples)
        return next((sample.value for sample in samples if sample.name.endswith("_created")), None)
