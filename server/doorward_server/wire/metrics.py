"""What Prometheus may ask: counted in plain dictionaries by the event loop's thread, so that a call takes no lock."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import grpc
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from doorward_server.service.freshness import Freshness

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class _Handled:
    """The finished calls of one method."""

    __slots__ = ("buckets", "codes", "labels", "seconds")

    def __init__(self, method: str) -> None:
        _, service, name = method.split("/")
        self.labels = (service, name)
        self.codes: dict[str, int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def count(self, code: grpc.StatusCode, seconds: float) -> None:
        word = "OK" if code is grpc.StatusCode.OK else code.name  # an enum's own look-up costs more than all of this
        self.codes[word] = self.codes.get(word, 0) + 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Metrics(Collector):
    """Calls by method and code, their durations, and decisions by keyspace and reason: all labels are closed sets."""

    def __init__(self) -> None:
        self._handled: dict[str, _Handled] = {}
        self._decisions: Counter[tuple[str, str]] = Counter()
        self._hits: Counter[str] = Counter()
        self._waits: dict[str, list[int]] = {}
        self._waited: Counter[str] = Counter()
        self._losses: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
        self._freshness: Freshness | None = None
        self._polls: Mapping[str, int] = {}

    def handled(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Count one finished call of `/service/method`."""
        handled = self._handled.get(method)
        if handled is None:
            handled = self._handled[method] = _Handled(method)
        handled.count(code, seconds)

    def decided(self, keyspace: str, reason: str) -> None:
        """Count one decision."""
        self._decisions[keyspace, reason] += 1

    def hit(self, reason: str, count: int) -> None:
        """Count answers that a client gave from its cache."""
        self._hits[reason] += count

    def waited(self, outcome: str, seconds: float) -> None:
        """Count one change that was held back until it had reached everybody."""
        buckets = self._waits.setdefault(outcome, [0] * (len(BUCKETS) + 1))
        buckets[bisect_left(BUCKETS, seconds)] += 1
        self._waited[outcome] += seconds  # type: ignore[assignment]  # a Counter of seconds is not of ints

    def watch(self, freshness: Freshness, polls: Mapping[str, int]) -> None:
        """Tell of *freshness*, and of *polls* by what became of them, whenever somebody asks."""
        self._freshness, self._polls = freshness, polls

    def watch_losses(self, losses: Callable[[], tuple[int, int, int]]) -> None:
        """Tell of *losses*, whenever somebody asks: of decisions not counted, records not kept, alerts not noted."""
        self._losses = losses

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted, under the names that dashboards for gRPC servers know."""
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls completed.", labels=("grpc_service", "grpc_method", "grpc_code")
        )
        methods = list(self._handled.values())
        for method in methods:
            for code, count in list(method.codes.items()):
                handled.add_metric((*method.labels, code), count)
        yield handled
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Seconds from call to answer.", labels=("grpc_service", "grpc_method")
        )
        for method in methods:
            seconds.add_metric(method.labels, _cumulative(method.buckets), method.seconds)
        yield seconds
        decisions = CounterMetricFamily("doorward_decisions", "Decisions made.", labels=("keyspace", "reason"))
        for decision, count in list(self._decisions.items()):
            decisions.add_metric(decision, count)
        yield decisions
        hits = CounterMetricFamily("doorward_client_hits", "Decisions given by clients' caches.", labels=("reason",))
        for reason, count in list(self._hits.items()):
            hits.add_metric((reason,), count)
        yield hits
        waits = HistogramMetricFamily(
            "doorward_wait_seconds", "Seconds until a change had reached every cache.", labels=("outcome",)
        )
        for outcome, buckets in list(self._waits.items()):
            waits.add_metric((outcome,), _cumulative(buckets), self._waited[outcome])
        yield waits
        uncounted, unrecorded, unnoted = self._losses()
        yield CounterMetricFamily("doorward_usage_dropped", "Decisions missing in usage.", uncounted)
        yield CounterMetricFamily("doorward_decisions_dropped", "Sampled decisions missing in the log.", unrecorded)
        yield CounterMetricFamily("doorward_alerts_dropped", "Failures and alerts there was no room for.", unnoted)
        if self._freshness is not None:
            yield from _cached(self._freshness, self._polls)


def _cached(freshness: Freshness, polls: Mapping[str, int]) -> Iterator[Metric]:
    left = (freshness.lease.until - freshness.boot()) / 1e9
    yield _gauge("doorward_lease_seconds", "Seconds for which answers may come from the cache; below 0: none do.", left)
    yield _gauge("doorward_cache_entries", "Things remembered.", len(freshness.cache))
    yield _gauge("doorward_lease_streams", "Open Lease streams.", len(freshness.clients))
    lookups = CounterMetricFamily("doorward_cache_lookups", "Looks into the cache.", labels=("result",))
    lookups.add_metric(("hit",), freshness.hits)
    lookups.add_metric(("miss",), freshness.misses)
    yield lookups
    polled = CounterMetricFamily("doorward_polls", "Polls of the change log.", labels=("outcome",))
    for outcome, count in list(polls.items()):
        polled.add_metric((outcome,), count)
    yield polled


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total, rows = 0, []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
        total += count
        rows.append((bound, float(total)))
    return rows
