"""Balances: what a call takes, what comes back, and when. Held against a store of coins that is counted one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward_server.core.credits import MOST, Account, Holder, Refill, Terms, opened
from doorward_server.core.limits import Per
from doorward_server.core.model import DAY, SECOND

NOW = 1_800_000_000 * SECOND
ADDS = Terms(initial=10, refill=Refill(5, DAY, most=12))
RESETS = Terms(initial=10, refill=Refill(5, DAY, reset=True))
NEVER = Terms(initial=10)


def test_an_account_is_opened_with_what_the_file_says_and_waits_a_whole_period() -> None:
    account = opened(ADDS, NOW)
    assert (account.balance, account.refills_at()) == (10, NOW + DAY)
    assert opened(NEVER, NOW).refills_at() is None


def test_a_call_takes_all_that_it_costs_or_nothing() -> None:
    account = opened(NEVER, NOW)
    left = account.take(10)
    assert left is not None
    assert left.balance == 0
    assert account.take(11) is None
    assert left.take(1) is None


@pytest.mark.parametrize(
    ("terms", "balance", "days", "expected"),
    [
        (ADDS, 3, 0.999, 3),
        (ADDS, 3, 1, 8),
        (ADDS, 3, 1.999, 8),
        (ADDS, 3, 2, 12),  # not 13: no further than most
        (ADDS, 3, 1000, 12),
        (ADDS, 40, 3, 40),  # what somebody added stays, and does not grow
        (RESETS, 3, 1, 5),
        (RESETS, 40, 1, 5),
        (RESETS, 3, 7, 5),
        (NEVER, 3, 1000, 3),
    ],
)
def test_what_comes_back(terms: Terms, balance: int, days: float, expected: int) -> None:
    account = replace(opened(terms, NOW), balance=balance)
    assert account.at(terms, NOW + round(days * DAY)).balance == expected


def test_an_account_may_have_an_amount_of_its_own() -> None:
    account = replace(opened(RESETS, NOW), own=700)
    assert account.at(RESETS, NOW + DAY).balance == 700
    assert replace(account, own=0).at(RESETS, NOW + DAY).balance == 0


def test_periods_go_on_from_when_they_began_not_from_when_somebody_looked() -> None:
    seen = opened(ADDS, NOW).at(ADDS, NOW + DAY + DAY // 2)
    assert seen.refills_at() == NOW + 2 * DAY


SLOW = Terms(initial=10, refill=Refill(5, 30 * DAY))


def test_a_period_that_was_changed_gives_nothing_for_the_past() -> None:
    """Else a file that says `1d` instead of `30d`, or begins to say it, would give a month's worth at once."""
    hourly = Terms(refill=Refill(5, DAY // 24))
    for before in (opened(SLOW, NOW), opened(NEVER, NOW)):
        after = before.at(hourly, NOW + 29 * DAY)
        assert (after.balance, after.refills_at()) == (10, NOW + 29 * DAY + DAY // 24)


def test_periods_that_have_ended_give_what_the_file_said_then() -> None:
    later, past = NOW + 3 * DAY, opened(Terms(initial=0, refill=Refill(1, DAY)), NOW)
    assert past.at(Terms(refill=Refill(1_000_000, DAY)), later).balance == 3
    assert past.at(Terms(refill=Refill(1, 2 * DAY)), later).balance == 3
    assert past.at(Terms(refill=Refill(9, DAY, reset=True)), later).balance == 3
    dropped = past.at(NEVER, later)
    assert (dropped.balance, dropped.refills_at()) == (3, None)
    assert dropped.at(ADDS, later + 9 * DAY).balance == 3, "nothing was promised meanwhile"
    raised = past.at(Terms(refill=Refill(1_000_000, DAY)), later + DAY // 2)
    assert raised.refills_at() == later + DAY, "a period goes on where only its amount is another"
    assert raised.at(Terms(refill=Refill(1_000_000, DAY)), later + DAY).balance == 1_000_003


def test_a_clock_that_was_set_back_brings_nothing_twice() -> None:
    seen = opened(ADDS, NOW).take(10)
    assert seen is not None
    seen = seen.at(ADDS, NOW + DAY)
    back = seen.at(ADDS, NOW - 30 * DAY)
    assert back == seen
    assert back.at(ADDS, NOW + DAY) == seen


@pytest.mark.parametrize(
    ("terms", "days", "expected"),
    [
        (NEVER, 0, 7),
        (ADDS, 0.5, 7),
        (ADDS, 1, 12),  # 4 + 5 + 3, no further than most
        (RESETS, 0.5, 7),
        (RESETS, 1, 5),  # a new balance: what was taken before is gone with the old one
    ],
)
def test_what_is_given_back_comes_back_where_it_was_taken(terms: Terms, days: float, expected: int) -> None:
    taken = replace(opened(terms, NOW), balance=7).take(3)
    assert taken is not None
    later = taken.at(terms, NOW + round(days * DAY))
    assert later.give_back(3, NOW).balance == expected
    assert replace(later, balance=0, since=NOW + 17).give_back(3, NOW).balance == 0, "set since then"


def test_a_holder_tells_whose_it_is() -> None:
    assert [(it.key, it.owner) for it in (Holder("a", "k", w) for w in ("key:x", "owner:y", "organization"))] == [
        ("x", ""), ("", "y"), ("", ""),
    ]  # fmt: skip


def test_adding_ends_at_the_bounds() -> None:
    account = opened(NEVER, NOW)
    assert account.add(5).balance == 15
    assert account.add(-11).balance == 0
    assert account.add(MOST).balance == MOST


@pytest.mark.parametrize(
    ("terms", "balance", "cost", "periods"),
    [
        (ADDS, 3, 8, 1),
        (ADDS, 3, 9, 2),
        (ADDS, 3, 12, 2),
        (ADDS, 3, 13, None),  # it never grows so far
        (RESETS, 3, 5, 1),
        (RESETS, 3, 6, None),
        (NEVER, 3, 4, None),
    ],
)
def test_when_it_fits(terms: Terms, balance: int, cost: int, periods: int | None) -> None:
    account = replace(opened(terms, NOW), balance=balance)
    at = account.fits_at(cost)
    assert at == (None if periods is None else NOW + periods * DAY)
    if at is not None:
        assert account.at(terms, at).take(cost) is not None
        assert account.at(terms, at - 1).take(cost) is None


refills = st.builds(
    lambda amount, period, reset, most: Refill(amount, period, reset, MOST if reset else most),
    st.integers(1, 50), st.integers(1, 40), st.booleans(), st.integers(0, 120),
)  # fmt: skip


@given(refills, st.integers(0, 100), st.lists(st.tuples(st.integers(0, 90), st.integers(1, 60)), max_size=30))
def test_it_never_gives_more_than_coins_that_are_counted_one_by_one(
    rule: Refill, initial: int, calls: list[tuple[int, int]]
) -> None:
    """Looked at now and then, or refilled at every moment: it comes to the same."""
    terms = Terms(Per.KEY, initial, rule)
    account, coins, now = opened(terms, 0), initial, 0
    for pause, cost in calls:
        for moment in range(now + 1, now + pause + 1):
            if moment % rule.period == 0:
                coins = rule.amount if rule.reset else max(coins, min(coins + rule.amount, rule.most))
        now += pause
        account = account.at(terms, now)
        assert account.balance == coins
        left = account.take(cost)
        assert (left is not None) == (cost <= coins)
        if left is not None:
            account, coins = left, coins - cost


@given(refills, st.integers(0, 100), st.integers(1, 200), st.integers(0, 500))
def test_what_is_told_of_the_wait_is_true(rule: Refill, balance: int, cost: int, since: int) -> None:
    terms = Terms(refill=rule)
    account = Account(balance, since, rule)
    at = account.fits_at(cost) if cost > balance else None
    later = [account.at(terms, since + n * rule.period).balance for n in range(1, 260)]
    first = next((since + (n + 1) * rule.period for n, it in enumerate(later) if it >= cost), None)
    if cost > balance:
        assert at == first
