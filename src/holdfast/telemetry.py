"""Metrics with conventional names. Each server has a registry of its own, so that many can live in one process."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class _Total(Collector):
    """One counter without labels, read when it is shown."""

    def __init__(self, name: str, help_text: str, count: Callable[[], float]) -> None:
        self._name = name
        self._help = help_text
        self._count = count

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._help, value=self._count())


class RouteMetrics:
    """What is counted of one route, from one event loop: the registry's own counters cost more than a small answer."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.answers: dict[int, int] = {}
        self.buckets = [0] * (len(_SECONDS) + 1)
        self.seconds = 0.0

    def answered(self, status: int) -> None:
        self.answers[status] = self.answers.get(status, 0) + 1

    def took(self, seconds: float) -> None:
        self.buckets[bisect.bisect_left(_SECONDS, seconds)] += 1
        self.seconds += seconds


class _Routes(Collector):
    """The requests of all routes that were asked for."""

    def __init__(self) -> None:
        self.routes: dict[str, RouteMetrics] = {}

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily("holdfast_http_requests", "Requests answered.", labels=["route", "code"])
        took = HistogramMetricFamily(
            "holdfast_http_request_duration_seconds",
            "Time from the request's header to the end of its answer.",
            labels=["route"],
        )
        for route in self.routes.values():
            for status, count in route.answers.items():
                requests.add_metric([route.label, str(status)], count)
            if any(route.buckets):
                sums = itertools.accumulate(route.buckets)
                bounds = [*map(str, map(float, _SECONDS)), "+Inf"]
                took.add_metric([route.label], list(zip(bounds, sums, strict=True)), route.seconds)
        yield requests
        yield took


class Metrics:
    """One server's registry and the metrics that every server has."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        self._routes = _Routes()
        self.registry.register(self._routes)
        self.role = role

    def route(self, label: str) -> RouteMetrics:
        """What is counted of the requests for ``label``."""
        return self._routes.routes.setdefault(label, RouteMetrics(label))

    def gauge(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, help_text, labels, registry=self.registry)

    def counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def total(self, name: str, help_text: str, count: Callable[[], float]) -> None:
        """A counter that somebody else counts; ``count`` is asked whenever it is shown."""
        self.registry.register(_Total(name, help_text, count))

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self.registry)
