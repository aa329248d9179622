"""Does the proof notice? Looks for one planted bug, in the scenario in which it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.limits_proof.fleet import Fleet, fleet
from tests.limits_proof.plants import PLANTS
from tests.limits_proof.scenarios import Report, comes_back, drains, edges, pays, pays_killed

WINDOWS = (2, 3, 5, 8, 12)
"""Seconds; one after the other, until the bug was noticed: a busy machine needs longer cells to hit the right one."""
DRAINS = 8


def look_for(plant: str, backend: str, folder: Path, windows: Sequence[int] = WINDOWS) -> list[Report]:
    """Plant a bug; return what came of each attempt to notice it. The last one did, or none."""
    tried: list[Report] = []
    with fleet(backend, folder, 1 if PLANTS[plant].scenario == "edges" else 2, plant) as planted:
        for attempt in _attempts(planted, PLANTS[plant].scenario, windows):
            tried.append(attempt)
            if attempt.wrong:
                break
    return tried


def _attempts(planted: Fleet, scenario: str, windows: Sequence[int]) -> Iterator[Report]:
    if scenario == "edges":
        return (edges(planted, window) for window in windows)
    if scenario == "pays_killed":
        return (pays_killed(planted, seed) for seed in range(DRAINS))
    again = {"drains": drains, "pays": pays, "comes_back": comes_back}[scenario]
    return (again(planted) for _ in range(DRAINS))
