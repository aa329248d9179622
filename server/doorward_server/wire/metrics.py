"""What Prometheus may ask: counted in plain dictionaries by the event loop's thread, so that a call takes no lock."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

import grpc
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics(Collector):
    """Calls by method and code, their durations, and decisions by keyspace and reason: all labels are closed sets."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str, str]] = Counter()
        self._buckets: dict[tuple[str, str], list[int]] = {}
        self._seconds: Counter[tuple[str, str]] = Counter()
        self._decisions: Counter[tuple[str, str]] = Counter()

    def handled(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Count one finished call of `/service/method`."""
        _, service, name = method.split("/")
        self._calls[service, name, code.name] += 1
        buckets = self._buckets.get((service, name))
        if buckets is None:
            buckets = self._buckets[service, name] = [0] * (len(BUCKETS) + 1)
        buckets[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[service, name] += seconds  # type: ignore[assignment]  # a Counter of seconds is not of ints

    def decided(self, keyspace: str, reason: str) -> None:
        """Count one decision."""
        self._decisions[keyspace, reason] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted, under the names that dashboards for gRPC servers know."""
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls completed.", labels=("grpc_service", "grpc_method", "grpc_code")
        )
        for labels, count in list(self._calls.items()):
            handled.add_metric(labels, count)
        yield handled
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Seconds from call to answer.", labels=("grpc_service", "grpc_method")
        )
        for method, buckets in list(self._buckets.items()):
            seconds.add_metric(method, _cumulative(buckets), self._seconds[method])
        yield seconds
        decisions = CounterMetricFamily("doorward_decisions", "Decisions made.", labels=("keyspace", "reason"))
        for decision, count in list(self._decisions.items()):
            decisions.add_metric(decision, count)
        yield decisions

    def serve(self, address: str, port: int) -> tuple[int, Callable[[], None]]:
        """Serve `/metrics` over HTTP from a thread of its own; returns the port and how to stop."""
        registry = CollectorRegistry()
        registry.register(self)
        server, thread = start_http_server(port, address, registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, stop


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total, rows = 0, []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
        total += count
        rows.append((bound, float(total)))
    return rows
