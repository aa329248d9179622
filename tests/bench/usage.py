"""How long sums over a key take in a store of a thousand cells and of a million, and what counting a decision costs."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from doorward_server.core.reasons import Reason
from doorward_server.core.usage import HOUR, AddressCell, Cell, Cells, Dimension, Scope
from doorward_server.service.catalog import Catalog
from doorward_server.service.counting import Counting
from doorward_server.service.pool import Pool
from doorward_server.service.reports import DEFAULT_GROUPS, Group
from doorward_server.store import Store
from tests import databases

DAYS = 90
OF_THE_KEY = 500
"""Cells of the key that is asked about, in either store."""
ROUNDS = 30
CHUNK = 3_000


@dataclass(frozen=True)
class Figures:
    """Seconds, medians."""

    few: float
    """A report of a key over 90 days, in a store of a thousand cells."""
    many: float
    """The same, in a store of *cells*."""
    cells: int
    counting: float
    """One decision, counted in memory."""

    @property
    def ratio(self) -> float:
        return self.many / self.few


def measure(backend: str = "sqlite", cells: int = 1_000_000) -> Figures:
    """Measure on a store of either kind."""
    with tempfile.TemporaryDirectory() as folder, databases.fresh(backend, Path(folder)) as url:
        store = databases.open_store(url)
        try:
            _fill(store, 0, OF_THE_KEY, keys=1)
            _fill(store, 1, 1_000 - OF_THE_KEY, keys=10)
            few = _report(store)
            _fill(store, 2, cells - 1_000, keys=1_000)
            return Figures(few, _report(store), cells, _counting(store))
        finally:
            store.close()


def _fill(store: Store, first: int, count: int, keys: int) -> None:
    """Add cells of *keys* keys, spread over the days; the first key of all is the one that is asked about."""
    for start in range(0, count, CHUNK):
        cells = Cells(Counter(), Counter(), Counter())
        for i in range(start, min(start + CHUNK, count)):
            key, hour = f"key_{first}_{i % keys:06}", i // keys * 7 % (DAYS * 24) * HOUR
            more = i // keys // (DAYS * 24)
            cells.cells[Cell("acme", key, hour, "aiia", "", "flows:read", f"flows/{i % 50}/{more}", "ALLOWED")] = 1
            if i % 5 == 0:
                cells.addresses[AddressCell("acme", key, hour, "aiia", "", f"192.0.2.{more % 50}", "ALLOWED")] = 1
        store.usage.add(f"fill {first}", start + 1, cells, 0)


def _report(store: Store) -> float:
    """The median time of what GetUsage asks the store for by default."""
    scope = Scope("acme", 0, DAYS * 24 * HOUR, key="key_0_000000")
    groups = [Dimension.HOUR, *(group.value for group in DEFAULT_GROUPS if group is not Group.DAY)]
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for dimension in groups:
            assert store.usage.sum_by(scope, dimension, 20_000)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _counting(store: Store) -> float:
    counting = Counting(store, Catalog(store), Pool("bench", threads=1, backlog=1), lambda: 0, "bench")
    paths = [("flows", f"f{i}") for i in range(100)]
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for i in range(1_000):
            path = paths[i % 100]
            counting.decided(None, None, "aiia", "flows:read", path, Reason.KEY_UNKNOWN, "192.0.2.1", "aiia", i)
        rounds.append((time.perf_counter() - started) / 1_000)
    return statistics.median(rounds)


def main(backend: str = "sqlite") -> None:
    """Print the figures."""
    it = measure(backend)
    print(f"report of a key over {DAYS} days, {backend}, p50: {it.few * 1000:.2f} ms of 1,000 cells")
    print(f"the same of {it.cells:,}: {it.many * 1000:.2f} ms, {it.ratio:.2f} times that")
    print(f"counting a decision: {it.counting * 1e6:.2f} µs")


if __name__ == "__main__":
    main(*sys.argv[1:])
