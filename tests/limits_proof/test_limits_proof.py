"""Whatever several servers let through, callers never see more in any interval than the limit says: on both stores.

`make limits-proof` is the long one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.limits_proof import scenarios
from tests.limits_proof.fleet import Fleet, fleet
from tests.limits_proof.planting import look_for
from tests.limits_proof.scenarios import Enough

SEED = 20261130


@pytest.fixture(scope="module", params=databases.BACKENDS)
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(str(request.param), tmp_path_factory.mktemp("fleet"), 2) as made:
        yield made


@pytest.mark.timeout(300)
def test_the_last_unit_is_there_and_no_more(two: Fleet) -> None:
    assert scenarios.drains(two).wrong == []


@pytest.mark.timeout(300)
def test_where_cells_meet_windows_do_not_add_up(two: Fleet) -> None:
    assert scenarios.edges(two, 2).wrong == []


@pytest.mark.timeout(300)
def test_a_kill_costs_what_was_leased_and_gives_nothing_back(two: Fleet) -> None:
    assert scenarios.killed(two, SEED).wrong == []


@pytest.mark.timeout(300)
def test_no_interval_has_more_than_the_limit_while_servers_are_killed_and_stopped(two: Fleet) -> None:
    report = scenarios.sliding(two, Enough(admitted=150, refused=50, faults=2), SEED)
    assert report.wrong == []


@pytest.mark.timeout(300)
def test_each_credit_is_there_for_one_call_and_for_no_other(two: Fleet) -> None:
    assert scenarios.pays(two).wrong == []


@pytest.mark.timeout(300)
def test_there_is_never_an_allow_too_many_when_servers_are_killed(two: Fleet) -> None:
    assert scenarios.pays_killed(two, SEED).wrong == []


@pytest.mark.timeout(300)
def test_what_comes_back_comes_once(two: Fleet) -> None:
    assert scenarios.comes_back(two).wrong == []


FOUND = [
    ("two-cells", "sqlite"), ("next-cell", "sqlite"), ("one-by-one", "sqlite"), ("again-and-again", "sqlite"),
    ("answered-before-it-is-paid", "sqlite"), ("no-turns-of-credits", "postgresql"),
]  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("plant", "backend"), FOUND)
def test_a_planted_bug_is_noticed(plant: str, backend: str, tmp_path: Path) -> None:
    """Else what is above would show nothing."""
    assert look_for(plant, backend, tmp_path)[-1].wrong
