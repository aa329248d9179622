"""Every planted bug is noticed by the test that it names. (`plants.py` says how to plant one by hand.)"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from doorward_server.core.errors import DoorwardError
from doorward_server.store import Store
from tests import databases
from tests.store import (
    hands,
    plants,
    test_changes,
    test_changes_by_hand,
    test_concurrency,
    test_facts,
    test_fills,
    test_kill,
    test_nesting,
    test_retention,
    test_revisions,
    test_tail,
    values,
)
from tests.store.tails import Follower, following

Check = Callable[[str], None]


def membership_is_logged(url: str) -> None:
    with hands.at(url) as prompt:
        test_changes.check_every_change_is_logged(prompt, test_changes.CASES["membership"])


def relations_are_logged(url: str) -> None:
    with hands.at(url) as prompt:
        test_changes.check_every_change_is_logged(prompt, test_changes.CASES["relation"])


def with_store(check: Callable[[Store], None]) -> Check:
    """A check of a store."""

    def opened(url: str) -> None:
        store = databases.open_store(url)
        try:
            check(store)
        finally:
            store.close()

    return opened


def with_both(check: Callable[[Store, str], None]) -> Check:
    """A check of a store that goes behind its back."""
    return lambda url: with_store(lambda store: check(store, url))(url)


def with_follower(check: Callable[[Store, Follower], None]) -> Check:
    """A check of a store that a replica follows."""

    def followed(store: Store) -> None:
        with following(store) as follower:
            check(store, follower)

    return with_store(followed)


def another_store_is_noticed(url: str) -> None:
    with hands.at(url) as prompt:
        with_follower(lambda *its: test_tail.check_a_restored_store_is_another_one(its[0], its[1], prompt))(url)


def triggers_survive_a_rebuild(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scripts = test_changes_by_hand.rebuilding(Path(folder))
        test_changes_by_hand.check_a_rebuilt_table_keeps_its_triggers(url, scripts)


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
    "forgotten-facts": relations_are_logged,
    "no-snapshot": with_both(test_facts.check_record_and_facts_are_of_one_moment),
    "endless-groups": with_store(test_nesting.check_circles_are_refused),
    "no-lock": with_store(test_concurrency.check_no_update_is_lost),
    "sequence": with_follower(test_tail.check_nothing_is_missed),
    "data-version-pooled": with_follower(test_tail.check_what_this_process_writes_is_told),
    "head-apart": with_follower(test_tail.check_nothing_is_missed),
    "two-statements": with_both(test_fills.check_fills_are_of_one_moment),
    "counter-apart": with_both(test_fills.check_fills_are_of_one_moment),
    "revision-at-start": with_both(test_revisions.check_whoever_finds_it_done_waits_for_it),
    "not-made-anew": triggers_survive_a_rebuild,
    "unsealed-checkpoint": with_both(test_retention.check_a_forged_checkpoint_is_found),
    "unverified-pruning": with_both(test_retention.check_what_is_pruned_is_verified_first),
    "any-head": with_both(test_retention.check_a_chain_that_was_cut_back_lacks_the_head),
    "any-history": another_store_is_noticed,
}
CASES = [
    (backend, name) for name in CHECKS for backend in databases.BACKENDS if plants.ONLY_ON.get(name, backend) == backend
]


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


@pytest.mark.parametrize(
    ("backend", "planted_url", "name"),
    [(backend, name, name) for backend, name in CASES],
    indirect=["backend", "planted_url"],
)
def test_a_planted_bug_is_noticed(planted_url: str, name: str) -> None:
    with pytest.raises((AssertionError, DoorwardError)):
        CHECKS[name](planted_url)


@pytest.mark.parametrize(
    ("backend", "planted_url", "name"),
    [(backend, "", name) for backend, name in CASES],
    indirect=["backend", "planted_url"],
)
def test_the_sound_store_passes_the_same_check(planted_url: str, name: str) -> None:
    CHECKS[name](planted_url)
