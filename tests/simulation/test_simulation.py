"""The freshness protocol under thousands of seeded worlds: nobody is ever answered from before what was promised.

`DOORWARD_SEEDS` says how many seeds (2,000). A failure names its seed: `DOORWARD_SEED=<seed> pytest
tests/simulation/test_simulation.py -k replay` runs that one alone. `DOORWARD_PLANT` plants a bug (plants.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.plants import planted
from tests.simulation.world import Violation, World, simulate

ROOT = Path(__file__).parents[2]
SEEDS = int(os.environ.get("DOORWARD_SEEDS", "2000"))
SEED = int(os.environ.get("DOORWARD_SEED", "0"))
PLANT = os.environ.get("DOORWARD_PLANT", "")
CHUNKS = 8
pytestmark = pytest.mark.timeout(1200)

ENOUGH = {
    "checked": 100,
    "hits": 40,
    "negative hits": 5,
    "client hits": 15,
    "filled": 30,
    "joined": 10,
    "read again": 5,
    "changes": 5,
    "no changes": 1,
    "typed": 0.5,
    "polls": 50,
    "invalidations": 15,
    "client invalidations": 3,
    "pongs": 7,
    "streams": 1.5,
    "waits ACKNOWLEDGED": 3,
    "waits EXPIRED": 2,
    "condemned": 2,
    "rows deleted": 0.5,
    "restores": 0.03,
    "reset OTHER_HISTORY": 0.1,
    "reset PRUNED": 0.03,
    "reset UNREGISTERED": 0.1,
    "served stale": 0.1,
}
"""What must happen in a seed, on average, for a run to prove anything."""


def lacking(counts: Counter[str], seeds: int) -> list[str]:
    """Return what happened too seldom in so many seeds."""
    return [f"{what}: {counts[what]}" for what, least in ENOUGH.items() if counts[what] < least * seeds]


def run(seeds: range) -> tuple[Counter[str], int]:
    """Run *seeds*; return what happened, and the longest that anybody was answered from before a change. Raises
    Violation.
    """
    counts: Counter[str] = Counter()
    window = 0
    for seed in seeds:
        world = simulate(seed, planted(PLANT))
        counts += world.counts
        window = max(window, world.largest_window)
    return counts, window


def summary(world: World) -> str:
    """Say what happened so exactly that two runs that say the same were the same."""
    return f"{sorted(world.counts.items())} {world.scheduler.events} {world.scheduler.random.random()}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nobody_is_answered_from_before_what_was_promised(chunk: int) -> None:
    each = -(-SEEDS // CHUNKS)
    counts, window = run(range(chunk * each, (chunk + 1) * each))
    print(f"{each} seeds, {counts['checked']} answers checked, largest window {window / 1e9:.3f} s: {dict(counts)}")
    if each >= 200:  # fewer are too few for what is rare
        assert not lacking(counts, each)


class FairWeather(World):
    """A world in which nothing goes wrong."""

    def _go_wrong(self) -> None:
        self.lossy = 0.0


def test_where_nothing_goes_wrong_every_wait_is_acknowledged() -> None:
    counts: Counter[str] = Counter()
    for seed in range(40):
        world = FairWeather(seed, planted(PLANT))
        world.run()
        counts += world.counts
    assert counts["waits ACKNOWLEDGED"] > 400
    assert not [what for what in counts if what in ("waits EXPIRED", "condemned") or what.startswith("reset")]


def test_replay() -> None:
    simulate(SEED, planted(PLANT))


def test_a_run_that_did_too_little_proves_nothing() -> None:
    counts, _ = run(range(5))
    assert lacking(counts, 5 * 1000) == [f"{what}: {counts[what]}" for what in ENOUGH]


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Also where strings hash otherwise."""
    code = (
        "from tests.simulation.test_simulation import summary; from tests.simulation.world import simulate\n"
        "for seed in range(20): print(summary(simulate(seed)))"
    )
    path = os.pathsep.join((str(ROOT), str(ROOT / "client"), str(ROOT / "server")))
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_a_violation_is_the_same_again() -> None:

    def violation(seed: int) -> str:
        try:
            simulate(seed, planted("error-cached"))
        except Violation as violation:
            return str(violation)
        return ""

    said = {seed: violation(seed) for seed in range(20)}
    assert any(said.values())
    for seed, words in said.items():
        assert violation(seed) == words
        assert not words or words.startswith(f"seed {seed}: ")
