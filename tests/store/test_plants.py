"""Every planted bug is noticed by the test that it names. (`plants.py` says how to plant one by hand.)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from doorward_server.core.errors import DoorwardError
from tests import databases
from tests.store import hands, plants, test_changes, test_concurrency, test_facts, test_kill, test_nesting, values

Check = Callable[[str], None]


def membership_is_logged(url: str) -> None:
    with hands.at(url) as prompt:
        test_changes.check_every_change_is_logged(prompt, test_changes.CASES["membership"])


def relations_are_logged(url: str) -> None:
    with hands.at(url) as prompt:
        test_changes.check_every_change_is_logged(prompt, test_changes.CASES["relation"])


def one_moment(url: str) -> None:
    store = databases.open_store(url)
    try:
        test_facts.check_record_and_facts_are_of_one_moment(store, url)
    finally:
        store.close()


def circles_are_refused(url: str) -> None:
    store = databases.open_store(url)
    try:
        test_nesting.check_circles_are_refused(store)
    finally:
        store.close()


def no_update_is_lost(url: str) -> None:
    store = databases.open_store(url)
    try:
        test_concurrency.check_no_update_is_lost(store)
    finally:
        store.close()


def no_half_change(url: str) -> None:
    acknowledged = test_kill.run_killing(url, "after", "add")
    store = databases.open_store(url)
    try:
        with hands.at(url) as prompt:
            test_kill.check_nothing_is_half(store, prompt, acknowledged)
    finally:
        store.close()


CHECKS: dict[str, Check] = {
    "event-outside": no_half_change,
    "no-trigger": membership_is_logged,
    "no-lock": no_update_is_lost,
    "forgotten-facts": relations_are_logged,
    "no-snapshot": one_moment,
    "endless-groups": circles_are_refused,
}


@pytest.fixture
def planted_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, empty_store_url: str) -> str:
    """A store that was made and is used with the bug in it."""
    if request.param:
        monkeypatch.setenv("DOORWARD_PLANT", request.param)
        plants.PLANTS[request.param](monkeypatch)
    store = databases.open_store(empty_store_url)
    store.migrate()
    store.check()
    values.populate(store, "acme", "umbra")
    store.close()
    return empty_store_url


def test_every_plant_has_its_check() -> None:
    assert CHECKS.keys() == plants.PLANTS.keys()


@pytest.mark.parametrize(("planted_url", "name"), [(name, name) for name in CHECKS], indirect=["planted_url"])
def test_a_planted_bug_is_noticed(planted_url: str, name: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, DoorwardError)):
        CHECKS[name](planted_url)


@pytest.mark.parametrize(("planted_url", "name"), [("", name) for name in CHECKS], indirect=["planted_url"])
def test_the_sound_store_passes_the_same_check(planted_url: str, name: str) -> None:
    CHECKS[name](planted_url)
