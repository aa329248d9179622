"""Real replicas under real faults keep the promise: a run on each store that is short enough for every day.

`make chaos` is the long one, `make chaos-plants` shows that it would notice.
"""

from __future__ import annotations

import os

import pytest

from tests.chaos.checker import Verdict
from tests.chaos.planting import look_for
from tests.chaos.report import Report, told
from tests.chaos.run import BACKENDS, Settings, run

SEED = int(os.environ.get("CHAOS_SEED", "20261122"))
EVERY_DAY = Settings(seconds=30, questions=1500, longest=120, seed=SEED, changes=30, faults=8)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_answer_is_staler_than_promised(backend: str) -> None:
    report = run(backend, EVERY_DAY)
    print(told(report))
    assert report.verdict.violations == []
    assert report.problems == []
    assert EVERY_DAY.lacking(report) == []


@pytest.mark.timeout(400)
def test_a_change_that_waits_for_nobody_is_noticed() -> None:
    """Else the run above would show nothing."""
    assert look_for("waiting-off", "sqlite", rounds=(8, 15, 30)).violations


@pytest.mark.timeout(400)
def test_a_cache_in_a_caller_that_drops_nothing_is_noticed() -> None:
    assert look_for("client-drops-nothing", "sqlite", rounds=(8, 15, 30)).violations


def test_a_run_that_did_too_little_is_no_proof() -> None:
    idle = Report(
        store="none", seed=0, verdict=Verdict(checked=1499), seconds=1, allowed=1499, unanswered=0, hits=0, full=0,
        changes={}, unknown=0, manners={}, faults={}, waits={},
    )  # fmt: skip
    assert len(EVERY_DAY.lacking(idle)) == 5
