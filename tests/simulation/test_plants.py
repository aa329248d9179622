"""Every clause of the protocol has a planted bug that the simulation finds, and finds soon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.plants import PLANTS, planted
from tests.simulation.world import Violation, simulate

ROOT = Path(__file__).parents[2]
MOST = 2000
"""Seeds, as many as CI runs: a bug that all of them leave alone is one that the simulation cannot see."""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str) -> None:
    for seed in range(MOST):
        try:
            simulate(seed, planted(plant))
        except Violation as violation:
            print(f"{plant}: {violation}")
            return
    pytest.fail(f"{MOST} seeds did not show {plant}")


def test_a_plant_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="no-such-plant"):
        planted("no-such-plant")
