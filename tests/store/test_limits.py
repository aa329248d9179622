"""Charging limits in the store: all windows or none, one after the other, by the store's clock. On both stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from doorward_server.core import limits
from doorward_server.core.limits import Grant, Meter
from doorward_server.core.model import SECOND
from doorward_server.store import Charge, Store
from doorward_server.store.limits import _identity
from tests.databases import open_store
from tests.fakes import FakeClock
from tests.store.values import NOW

HOUR = 3600 * SECOND


def meter(limit: int = 10, window: int = HOUR, name: str = "per-hour", subject: str = "key:key_1") -> Meter:
    return Meter("acme", "shop", subject, name, limit, window)


@pytest.fixture
def clock() -> FakeClock:
    made = FakeClock()
    made.now = NOW
    return made


def charge(store: Store, clock: Callable[[], int], *meters: Meter, cost: int = 1, wanted: int = 1) -> Grant:
    while (granted := store.limits.charge([Charge(meters, cost, wanted)], clock)[0]) is None:
        pass
    return granted


def test_all_windows_are_charged_or_none(store: Store, clock: FakeClock) -> None:
    wide, narrow = meter(10, name="wide"), meter(2, name="narrow")
    assert [charge(store, clock, wide, narrow).units for _ in range(3)] == [1, 1, 0]
    assert charge(store, clock, wide).rooms[0].left == 7


def test_each_subject_and_name_has_a_count_of_its_own(store: Store, clock: FakeClock) -> None:
    assert charge(store, clock, meter(1)).units == 1
    assert charge(store, clock, meter(1)).units == 0
    assert charge(store, clock, meter(1, subject="key:key_2")).units == 1
    assert charge(store, clock, meter(1, name="other")).units == 1


def test_a_changed_limit_does_not_reset_its_count(store: Store, clock: FakeClock) -> None:
    charge(store, clock, meter(10), cost=8)
    assert charge(store, clock, meter(8)).units == 0
    assert charge(store, clock, meter(12)).rooms[0].left == 3
    assert charge(store, clock, meter(12, 2 * HOUR)).rooms[0].left == 2


def test_several_charges_in_one_transaction_see_each_other(store: Store, clock: FakeClock) -> None:
    asked = [Charge((meter(3), meter(5, name="other")), 2, 2), Charge((meter(3),), 2, 2), Charge((meter(3),), 1, 1)]
    assert [it.units for it in store.limits.charge(asked, clock) if it is not None] == [2, 0, 1]


def admitted(store_url: str, clock: FakeClock) -> int:
    """What many threads of several stores get out of two limits together."""
    stores = [open_store(store_url) for _ in range(3)]
    both = meter(40, name="wide"), meter(25, name="narrow")

    def take(number: int) -> int:
        mine = both if number % 2 else both[::-1]
        return sum(charge(stores[number % 3], clock, *mine, wanted=3).units for _ in range(8))

    with ThreadPoolExecutor(8) as threads:
        taken = sum(threads.map(take, range(8)))
    for it in stores:
        it.close()
    return taken


def test_who_charges_at_the_same_time_does_not_get_more_together(store_url: str, clock: FakeClock) -> None:
    assert admitted(store_url, clock) == 25


def test_charging_without_turns_would_be_found(
    store_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees none of the others' cells, as it would if it did not wait for them."""
    right = limits.grant

    def blind(meters: Sequence[Meter], charged: Sequence[object], *more: int) -> Grant:
        return right(meters, [() for _ in charged], *more)

    monkeypatch.setattr("doorward_server.store.limits.grant", blind)
    assert admitted(store_url, clock) > 25


def test_what_somebody_else_is_charging_is_told_at_once_and_nothing_is_charged(
    empty: Store, store_url: str, clock: FakeClock
) -> None:
    if not store_url.startswith("postgresql"):
        pytest.skip("SQLite has one writer")
    mine, shared = meter(subject="key:key_2"), meter(subject="organization", name="all")
    name = "/".join(_identity(shared))
    with psycopg.connect(store_url) as somebody:
        somebody.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
        asked = [Charge((mine,), 1, 1), Charge((mine, shared), 1, 1), Charge((mine,), 1, 1)]
        granted = empty.limits.charge(asked, clock)
    assert [it and it.rooms[0].left for it in granted] == [9, None, 8]
    assert charge(empty, clock, mine, shared).rooms[0].left == 7


def test_a_charge_makes_no_revision(store: Store, clock: FakeClock) -> None:
    before = store.revision()
    charge(store, clock, meter())
    assert store.revision() == before


def test_what_is_long_over_is_removed(store: Store) -> None:
    short = meter(5, SECOND)
    granted = charge(store, FakeClock(), short, cost=5)
    assert store.limits.prune(granted.now) == 0
    assert store.limits.prune(granted.now + 2 * SECOND, 1) == 0
    assert store.limits.prune(granted.now + 4 * SECOND) == 1
    assert store.limits.prune(granted.now + 4 * SECOND) == 0
