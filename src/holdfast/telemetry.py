"""Metrics with conventional names. Each server has a registry of its own, so that many can live in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
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


class Metrics:
    """One server's registry and the metrics that every server has. Safe to use from several threads."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "holdfast_http_requests_total", "Requests answered.", ["route", "code"], registry=self.registry
        )
        self.seconds = Histogram(
            "holdfast_http_request_duration_seconds",
            "Time from the request's header to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.role = role

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
