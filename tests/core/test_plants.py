"""Every safety test has a planted bug that turns it red: here each is planted, and the test must fail.

What a plant is, and which test must notice, stands in plants.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.plants import PLANTS

pytestmark = pytest.mark.timeout(900)
"""Seconds: many examples, on machines that may be slow."""

ROOT = Path(__file__).parents[2]
HURRIED = "10"
"""Percent of the examples: enough to notice each, and for the right core to pass."""


def run(plant: str, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run *tests* with *plant* ("" for none) in a process of their own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"DOORWARD_PLANT": plant, "DOORWARD_EXAMPLES": HURRIED}
    # Plain assertions: where CI is set, pytest would explain, for minutes, how two large sets differ.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "--assert=plain"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist"]
    paths = [f"tests/core/{test}" for test in tests]
    return subprocess.run([*command, *paths], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def test_without_a_plant_they_pass() -> None:
    """Else their failing would show nothing."""
    done = run("", sorted({test for test, _ in PLANTS.values()}))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_noticed(plant: str) -> None:
    test, _ = PLANTS[plant]
    done = run(plant, [test])
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"FAILED tests/core/{test}" in done.stdout
    assert "1 failed" in done.stdout
    broken = [word for word in ("TypeError", "AttributeError", "NameError", "ImportError") if word in done.stdout]
    assert not broken, f"the plant itself is broken: {done.stdout}"


def test_a_plant_that_is_not_there_is_an_error() -> None:
    done = run("no-such-plant", ["test_policy.py"])
    assert done.returncode not in (0, 1)
    assert "no-such-plant" in done.stdout + done.stderr


def test_the_product_knows_nothing_of_plants() -> None:
    for folder in ("client", "server"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "DOORWARD_PLANT" not in path.read_text(), path
