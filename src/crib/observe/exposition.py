"""The metrics as text, for an HTTP request. All of it runs in a thread: it takes milliseconds.

Only here prometheus_client is imported, with the first request: who asks for no metrics pays for none.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import accumulate
from typing import cast

from prometheus_client import CollectorRegistry, GCCollector, MetricsHandler, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from crib.model.tallies import BOUNDS
from crib.observe.reading import DaemonMetric, Series, Taken, Values

_EDGES = (*map(str, BOUNDS), "+Inf")


class _Families(Collector):
    """What was read, as prometheus_client wants it."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken

    def collect(self) -> Iterator[Metric]:
        return (_metric(family, values) for family, values in self._taken)


class _Exchange(MetricsHandler):
    """One request and its answer, without the connection between them."""

    def __init__(self, request: bytes, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.rfile = BytesIO(request)
        self.wfile = self.written = BytesIO()
        self.client_address = ("", 0)
        self.handle()


def answer(request: bytes, taken: Taken) -> bytes:
    """The whole answer to a whole request."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(taken))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return _Exchange(request, registry).written.getvalue()


def _metric(family: DaemonMetric, values: Values | Series) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, spread in cast(Series, values).items():
            counts = map(float, accumulate(spread.buckets))
            histogram.add_metric(labels, list(zip(_EDGES, counts, strict=True)), spread.seconds)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in cast(Values, values).items():
        metric.add_metric(labels, value)
    return metric
