"""`make limits-proof`: for minutes, on both stores, and with every planted bug; a table, and build/limits-proof.json.

What a limit lets through at full load is measured here, and not asserted: it depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests import databases
from tests.chaos.fleet import ROOT
from tests.limits_proof.fleet import fleet
from tests.limits_proof.planting import look_for
from tests.limits_proof.plants import PLANTS
from tests.limits_proof.scenarios import (
    Enough,
    Report,
    comes_back,
    drains,
    edges,
    full_load,
    killed,
    pays,
    pays_killed,
    sliding,
)

SERVERS = (1, 2, 4)
"""At full load."""
LOADS = ((50, 1), (500, 2))
"""Units, and in how many seconds."""


@dataclass
class Row:
    """One line of what came of it."""

    store: str
    what: str
    calls: int
    seconds: float
    came_of_it: str
    as_it_should: bool
    outcomes: dict[str, int] = field(repr=False, default_factory=dict)

    def __str__(self) -> str:
        cells = (self.store, self.what, str(self.calls), f"{self.seconds:.0f} s", self.came_of_it)
        return "| " + " | ".join(cells) + " |" + ("" if self.as_it_should else " WRONG")


def proven(backend: str, seed: int, much: int) -> Iterator[Row]:
    """Hold a fleet of four servers to everything."""
    with tempfile.TemporaryDirectory() as folder, fleet(backend, Path(folder), max(SERVERS)) as made:
        for _ in range(5):
            yield row(backend, "the last unit, and no more", drains(made))
        for turn in range(much):
            yield row(backend, "drawn out while all servers are killed", killed(made, seed + turn))
        for window in (1, 2, 3, 5):
            yield row(backend, f"where cells of a window of {window} s meet", edges(made, window))
        for turn in range(much):
            yield row(backend, "credits", pays(made))
            yield row(backend, "credits, while all servers are killed", pays_killed(made, seed + turn))
        yield row(backend, "credits that come back", comes_back(made, 10))
        report = sliding(made, Enough(100 * much, 100 * much, 2 * much), seed, PATIENCE * much)
        yield row(backend, f"any interval, with {report.faults}", report)


PATIENCE = 20.0
"""Seconds for each two faults."""


def loaded(backend: str, seconds: float) -> Iterator[Row]:
    """Measure what is let through at full load by one server and by several."""
    for servers in SERVERS:
        with tempfile.TemporaryDirectory() as folder, fleet(backend, Path(folder), servers) as made:
            for units, window in LOADS:
                report, let_through = full_load(made, units, window, seconds)
                told = row(backend, f"full load on {servers} servers, {units} units in {window} s", report)
                told.came_of_it = f"{let_through:.3f} of the limit; {told.came_of_it}"
                yield told


def noticed(backend: str) -> Iterator[Row]:
    """Look for every planted bug."""
    for name, plant in PLANTS.items():
        if backend in plant.backends:
            with tempfile.TemporaryDirectory() as folder:
                tried = look_for(name, backend, Path(folder))
            seconds, calls = sum(it.seconds for it in tried), sum(len(it.calls) for it in tried)
            found = tried[-1].wrong
            came = f"noticed: {found[0]}" if found else "NOT NOTICED"
            yield Row(backend, f"planted: {plant.clause}", calls, seconds, came, bool(found))


def row(store: str, what: str, report: Report) -> Row:
    """Put a report in one line."""
    came = "; ".join(report.wrong) or "holds"
    return Row(store, what, len(report.calls), report.seconds, came, not report.wrong, report.outcomes)


def main() -> None:
    """Run all on both stores. Exits with 1 if anything does not hold, or goes unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=databases.BACKENDS, action="append")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--much", type=int, default=10, help="how many pairs of faults")
    parser.add_argument("--seconds", type=float, default=15, help="for how long at full load")
    parser.add_argument("--without-plants", action="store_true")
    given = parser.parse_args()
    print(f"seed {given.seed}", "| store | what | calls | took | came of it |", "|---|---|---|---|---|", sep="\n")
    rows = []
    for backend in given.store or databases.BACKENDS:
        parts = [proven(backend, given.seed, given.much), loaded(backend, given.seconds)]
        for part in parts if given.without_plants else [*parts, noticed(backend)]:
            for told in part:
                rows.append(told)
                print(told, flush=True)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "limits-proof.json").write_text(json.dumps([vars(it) for it in rows], indent=2), "utf-8")
    sys.exit(0 if all(it.as_it_should for it in rows) else 1)


if __name__ == "__main__":
    main()
