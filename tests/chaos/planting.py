"""Does chaos notice? Every planted bug, on every store that it concerns: `python -m tests.chaos.planting [NAME …]`.

A bug is looked for in rounds, the next one only if those before have missed it, for a minute at most. `slow`, which is
no bug, must stay unnoticed for that long. Prints a table, and writes build/chaos-plants.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.fleet import ROOT
from tests.chaos.plants import PLANTS
from tests.chaos.run import BACKENDS, Settings, run

ROUNDS = (15.0, 20.0, 25.0)
"""Seconds that each goes on."""
HARMLESS = "slow"


@dataclass(frozen=True)
class Noticed:
    """What came of one planted bug on one store."""

    plant: str
    store: str
    seconds: float
    """How long it was looked for, in all."""
    violations: int
    false_allows: int
    example: str
    problems: tuple[str, ...]
    """What went wrong with the runs themselves."""

    @property
    def as_it_should(self) -> bool:
        """Whether a bug was noticed, or none was where there is none."""
        return bool(self.violations) == (self.plant != HARMLESS) and not self.problems


def look_for(plant: str, backend: str, rounds: Iterable[float] = ROUNDS) -> Noticed:
    """Plant a bug, and see whether the checker notices."""
    seconds, problems = 0.0, list[str]()
    for number, length in enumerate(rounds):
        report = run(backend, Settings(length, 0, length, seed=100 + number, plant=plant, only=PLANTS[plant].faults))
        seconds += report.seconds
        problems += report.problems
        found = report.verdict.violations
        if found:
            break
    example = str(found[0]) if found else ""
    return Noticed(plant, report.store, seconds, len(found), report.verdict.false_allows, example, tuple(problems))


def table(all_noticed: Sequence[Noticed]) -> str:
    """Return a table, as docs/reliability.md has it."""
    rows = [(it.plant, it.store, f"{it.seconds:.0f} s", str(it.violations), str(it.false_allows)) for it in all_noticed]
    head = ("bug", "store", "looked for", "violations", "of them ALLOWs")
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


def main() -> None:
    """Look for the bugs that are named, or for all. Exits with 1 if any goes unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plants", nargs="*", choices=[*PLANTS, []])
    parser.add_argument("--store", choices=BACKENDS, action="append")
    given = parser.parse_args()
    noticed = []
    for plant in given.plants or PLANTS:
        for backend in PLANTS[plant].backends:
            if given.store is None or backend in given.store:
                noticed.append(look_for(plant, backend))
                print(f"{plant} on {backend}: {noticed[-1]}", flush=True)
    print(table(noticed))
    _write(ROOT / "build", noticed)
    sys.exit(0 if all(it.as_it_should for it in noticed) else 1)


def _write(build: Path, noticed: Sequence[Noticed]) -> None:
    build.mkdir(exist_ok=True)
    (build / "chaos-plants.json").write_text(json.dumps([asdict(it) for it in noticed], indent=2), "utf-8")


if __name__ == "__main__":
    main()
