"""Counts of several processes, told as one."""

from __future__ import annotations

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from doorward_server.wire.scraping import Combined, dump

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Process:
    """What one worker counted."""

    def __init__(self, calls: float, age: float) -> None:
        self.calls, self.age = calls, age

    def collect(self) -> list[Metric]:
        calls = CounterMetricFamily("calls", "Calls.", labels=("method",))
        calls.add_metric(("Authorize",), self.calls)
        seconds = HistogramMetricFamily("seconds", "Seconds.")
        seconds.add_metric((), [("0.1", self.calls), ("+Inf", self.calls)], self.calls / 10)
        age = GaugeMetricFamily("lease_age", "Seconds.")
        age.add_metric((), self.age)
        return [calls, seconds, age]


def found(combined: Combined) -> Found:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in combined.collect()
        for sample in metric.samples
    }


def took(combined: Combined, worker: int, calls: float, age: float = 0.0) -> None:
    combined.update(worker, dump(Process(calls, age)))


def test_counters_are_added_and_gauges_told_apart() -> None:
    combined = Combined()
    took(combined, 0, 3, age=0.5)
    took(combined, 1, 4, age=0.25)
    values = found(combined)
    assert values["calls_total", (("method", "Authorize"),)] == 7
    assert values["seconds_bucket", (("le", "0.1"),)] == 7
    assert values["seconds_sum", ()] == pytest.approx(0.7)
    assert values["lease_age", (("worker", "0"),)] == 0.5
    assert values["lease_age", (("worker", "1"),)] == 0.25


def test_a_newer_count_takes_the_place_of_the_older() -> None:
    combined = Combined()
    took(combined, 0, 3)
    took(combined, 0, 5)
    assert found(combined)["calls_total", (("method", "Authorize"),)] == 5


def test_no_sum_goes_down_when_a_worker_dies_and_another_takes_its_number() -> None:
    combined = Combined()
    took(combined, 0, 3)
    took(combined, 1, 4)
    combined.end(0)
    assert found(combined)["calls_total", (("method", "Authorize"),)] == 7
    assert ("lease_age", (("worker", "0"),)) not in found(combined)
    took(combined, 0, 1)
    assert found(combined)["calls_total", (("method", "Authorize"),)] == 8


def test_a_worker_that_was_never_asked_ends_without_a_trace() -> None:
    combined = Combined()
    combined.end(2)
    assert found(combined) == {}
