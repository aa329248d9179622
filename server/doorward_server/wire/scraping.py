"""What Prometheus asks over HTTP, of one process or of several as one.

Of several, counters are added up, and gauges told apart by the label `worker`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

GAUGE = "gauge"

Labels = tuple[tuple[str, str], ...]
Values = dict[tuple[str, Labels], float]
"""By the sample's name and labels."""


def serve_metrics(collector: Collector, address: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve `/metrics` over HTTP from a thread of its own; returns the port and how to stop. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(port, address, registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop


def dump(collector: Collector) -> str:
    """Return what *collector* has counted, as one line of text for `Combined.update`."""
    return json.dumps(
        [
            [metric.name, metric.documentation, metric.type, [[s.name, s.labels, s.value] for s in metric.samples]]
            for metric in collector.collect()
        ]
    )


class Combined(Collector):
    """What all workers counted. A worker that has died keeps its counts, so that no sum goes down."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str]] = {}
        self._workers: dict[int, dict[str, Values]] = {}
        self._ended: dict[str, Values] = {}

    def update(self, worker: int, dumped: str) -> None:
        """Take what *worker* has counted since it started. Raises ValueError for what `dump` did not write."""
        counted: dict[str, Values] = {}
        for name, documentation, type, samples in json.loads(dumped):
            self._families[name] = documentation, type
            counted[name] = {(sample, tuple(sorted(labels.items()))): value for sample, labels, value in samples}
        self._workers[worker] = counted

    def end(self, worker: int) -> None:
        """Keep the last counts of *worker*, whose process is gone; another may take its number."""
        for name, values in self._workers.pop(worker, {}).items():
            if self._families[name][1] != GAUGE:
                _add(self._ended.setdefault(name, {}), values)

    def collect(self) -> Iterator[Metric]:
        """Yield each family once."""
        for name, (documentation, type) in list(self._families.items()):
            metric = Metric(name, documentation, type)
            values = self._told_apart(name) if type == GAUGE else self._summed(name)
            metric.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in values.items()]
            yield metric

    def _summed(self, name: str) -> Values:
        total = dict(self._ended.get(name, {}))
        for counted in list(self._workers.values()):
            _add(total, counted.get(name, {}))
        return total

    def _told_apart(self, name: str) -> Values:
        return {
            (sample, (*labels, ("worker", str(worker)))): value
            for worker, counted in list(self._workers.items())
            for (sample, labels), value in counted.get(name, {}).items()
        }


def _add(total: Values, values: Values) -> None:
    for key, value in values.items():
        total[key] = total.get(key, 0.0) + value
