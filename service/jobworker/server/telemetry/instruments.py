"""Counters and histograms for the event loop's thread alone, and how prometheus-client reads them.

The library's own take a lock, and a histogram's goes through its bounds one by one: 6 us with an exemplar, three times
a job. With these all that is counted of a job takes 2 to 4. Nobody but the loop's thread may change them; they are also
read there (exposition.py).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.core import Metric

    from jobworker.server.telemetry.names import Spec

T = TypeVar("T")


class Counter:
    """Only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, count: int = 1) -> None:
        """So much more."""
        self.value += count


class Histogram:
    """Counts by bucket, and for each bucket the last exemplar: (correlation id, value, Unix seconds)."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: list[tuple[str, float, float] | None] = [None] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """`times` values, all the same."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def observe_of(self, correlation_id: str, value: float, at: float, times: int = 1) -> None:
        """The same, of a batch, at a Unix time."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += times
        self.sum += value * times
        self.exemplars[bucket] = (correlation_id, value, at)


class Family(Generic[T]):
    """A metric with all its label values; each is made once, and then held by who uses it."""

    def __init__(self, spec: Spec, make: Callable[[], T]) -> None:
        self.spec = spec
        self._make = make
        self.children: dict[tuple[str, ...], T] = {}

    def of(self, *labels: str) -> T:
        """The one with these label values."""
        child = self.children.get(labels)
        if child is None:
            child = self.children[labels] = self._make()
        return child


class Instruments:
    """A prometheus-client Collector of what was made here."""

    def __init__(self) -> None:
        self._counters: list[Family[Counter]] = []
        self._histograms: list[Family[Histogram]] = []

    def counter(self, spec: Spec) -> Family[Counter]:
        """A new counter."""
        family = Family(spec, Counter)
        self._counters.append(family)
        return family

    def histogram(self, spec: Spec) -> Family[Histogram]:
        """A new histogram."""
        family = Family(spec, lambda: Histogram(spec.buckets))
        self._histograms.append(family)
        return family

    def collect(self) -> Iterable[Metric]:
        """As they are now."""
        for counters in self._counters:
            spec = counters.spec
            metric = CounterMetricFamily(spec.name, spec.help, labels=spec.label_names)
            for labels, counter in counters.children.items():
                metric.add_metric(labels, counter.value)
            yield metric
        for histograms in self._histograms:
            spec = histograms.spec
            names = [*map(floatToGoString, spec.buckets), "+Inf"]
            histogram_metric = HistogramMetricFamily(spec.name, spec.help, labels=spec.label_names)
            for labels, histogram in histograms.children.items():
                histogram_metric.add_metric(labels, list(_buckets(names, histogram)), histogram.sum)
            yield histogram_metric


def _buckets(names: list[str], histogram: Histogram) -> Iterable[tuple[str, float] | tuple[str, float, Exemplar]]:
    below = 0
    for name, count, exemplar in zip(names, histogram.counts, histogram.exemplars, strict=True):
        below += count
        if exemplar is None:
            yield name, below
        else:
            correlation_id, value, at = exemplar
            yield name, below, Exemplar({"trace_id": correlation_id.replace("-", "")}, value, at)
