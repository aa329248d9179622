"""Balances in the store: never more is taken than is there, whoever takes it. On both stores."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from doorward_server.core.credits import Account, Debited, Holder, Refill, Terms
from doorward_server.core.errors import NotFound, RequestIdReused
from doorward_server.core.model import DAY, Event, Replay
from doorward_server.store import Debit, Store
from tests.databases import open_store
from tests.fakes import FakeClock
from tests.store.values import NOW, event, replay

ACME = Holder("acme", "shop", "key:key_1")
TEN = Terms(initial=10)


@pytest.fixture
def clock() -> FakeClock:
    made = FakeClock()
    made.now = NOW
    return made


def debit(store: Store, clock: FakeClock, *costs: int, holder: Holder = ACME, terms: Terms = TEN) -> list[bool]:
    return [it.taken for it in debited(store, clock, *costs, holder=holder, terms=terms)]


def debited(store: Store, clock: FakeClock, *costs: int, holder: Holder = ACME, terms: Terms = TEN) -> list[Debited]:
    while None in (found := store.credits.debit([Debit(holder, terms, cost) for cost in costs], clock)):
        pass  # somebody else has it just now
    return [it for it in found if it is not None]


def changed(store: Store, clock: FakeClock, amount: int, once: Replay | None = None) -> tuple[Account, bool]:
    def add(before: Account, now: int) -> tuple[Account, Event]:
        return before.add(amount), event(action="credits:add")

    written = store.credits.update(ACME, TEN, add, clock, once)
    return written.value, written.replayed


def test_each_call_takes_what_it_costs_or_nothing(store: Store, clock: FakeClock) -> None:
    assert store.credits.find(ACME) is None
    assert debit(store, clock, 4, 7, 6, 1) == [True, False, True, False]
    left = store.credits.find(ACME)
    assert left is not None
    assert (left.balance, left.refills_at()) == (0, None)


def test_each_answer_has_the_balance_after_it(store: Store, clock: FakeClock) -> None:
    assert [it.account.balance for it in debited(store, clock, 4, 7, 6)] == [6, 6, 0]


def test_each_holder_has_a_balance_of_its_own(store: Store, clock: FakeClock) -> None:
    others = [replace(ACME, organization="globex"), replace(ACME, keyspace="other"), replace(ACME, whom="owner:key_1")]
    assert debit(store, clock, 10) == [True]
    assert [debit(store, clock, 10, holder=it) for it in others] == [[True]] * 3
    assert debit(store, clock, 1) == [False]


def test_one_transaction_serves_several_holders(store: Store, clock: FakeClock) -> None:
    other = replace(ACME, whom="organization")
    asked = [Debit(ACME, TEN, 6), Debit(other, TEN, 6), Debit(ACME, TEN, 6), Debit(other, TEN, 4)]
    assert [it and it.taken for it in store.credits.debit(asked, clock)] == [True, True, False, True]


def test_what_has_come_back_is_there_at_the_next_debit_and_kept(store: Store, clock: FakeClock) -> None:
    terms = Terms(initial=1, refill=Refill(3, 10 * DAY))

    def last_week_but_one(before: Account, now: int) -> tuple[Account, Event]:
        return replace(before, since=before.since - 13 * DAY), event()

    assert debit(store, clock, 1, 1, terms=terms) == [True, False]
    began = store.credits.update(ACME, terms, last_week_but_one, clock).value.since
    assert debit(store, clock, 3, 1, terms=terms) == [True, False]
    assert store.credits.find(ACME) == Account(0, began + 10 * DAY, Refill(3, 10 * DAY))


def test_never_more_than_is_there_whoever_takes_it_at_the_same_time(
    store: Store, store_url: str, clock: FakeClock
) -> None:
    """Through stores of their own, as replicas have them."""
    costs, much = (3, 2, 1), Terms(initial=1000)

    def spend(one: Store) -> int:
        taken = [debit(one, clock, *costs, terms=much) for _ in range(60)]
        return sum(cost for each in taken for cost, it in zip(costs, each, strict=True) if it)

    stores = [open_store(store_url) for _ in range(4)]
    try:
        with ThreadPoolExecutor(len(stores)) as pool:
            spent = sum(pool.map(spend, stores))
    finally:
        for it in stores:
            it.close()
    left = store.credits.find(ACME)
    assert left is not None
    assert (spent, left.balance) == (1000, 0)


def test_a_debit_waits_for_nobody(store: Store, store_url: str, clock: FakeClock, backend: str) -> None:
    if backend != "postgresql":
        pytest.skip("one writer has them all")
    held, let_go, other = threading.Event(), threading.Event(), replace(ACME, organization="umbra")

    def hold(before: Account, now: int) -> tuple[Account, Event]:
        held.set()
        assert let_go.wait(60)
        return before, event(action="credits:set")

    with ThreadPoolExecutor(1) as pool, closing(open_store(store_url)) as elsewhere:
        holding = pool.submit(elsewhere.credits.update, ACME, TEN, hold, clock)
        try:
            assert held.wait(60)
            locked, served = store.credits.debit([Debit(ACME, TEN, 1), Debit(other, TEN, 1)], clock)
            assert locked is None
            assert served is not None
            assert served.taken
        finally:
            let_go.set()
        holding.result(60)
    assert debit(store, clock, 10) == [True]


def test_a_change_comes_with_its_event_and_makes_no_revision(store: Store, clock: FakeClock) -> None:
    revision = store.revision()
    account, replayed = changed(store, clock, 5)
    assert (account.balance, replayed) == (15, False)
    assert debit(store, clock, 15, 1) == [True, False]
    assert store.list_events("acme", 0, 10)[-1].event.action == "credits:add"
    assert store.revision() == revision


def test_a_repeat_adds_nothing_and_tells_the_balance_as_it_is(store: Store, clock: FakeClock) -> None:
    once = replay(method="AddCredits")
    assert changed(store, clock, 5, once)[0].balance == 15
    debit(store, clock, 2)
    account, replayed = changed(store, clock, 5, once)
    assert (account.balance, replayed) == (13, True)
    with pytest.raises(RequestIdReused):
        changed(store, clock, 6, replay(method="AddCredits", digest=b"6" * 32))
    assert [it.event.action for it in store.list_events("acme", 0, 10)].count("credits:add") == 1


def test_of_nobody_nothing_is_changed(empty: Store, clock: FakeClock) -> None:
    with pytest.raises(NotFound):
        changed(empty, clock, 5)
    assert empty.credits.find(ACME) is None


def test_accounts_are_listed_by_whom_one_page_after_the_other(store: Store, clock: FakeClock) -> None:
    for whom in ("key:b", "organization", "key:a", "owner:z"):
        debit(store, clock, 1, holder=replace(ACME, whom=whom))
    debit(store, clock, 1, holder=Holder("globex", "shop", "key:c"))
    first = store.credits.list_some("acme", "shop", "", 3)
    rest = store.credits.list_some("acme", "shop", first[-1][0].whom, 3)
    assert [holder.whom for holder, _ in (*first, *rest)] == ["key:a", "key:b", "organization", "owner:z"]
