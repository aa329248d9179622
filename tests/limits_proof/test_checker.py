"""The checker is right: by hand, against the dullest checker there is, and on histories that were spoilt."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from tests.limits_proof.checker import ALLOWED, UNANSWERED, Call, Limit, check, most_within


def allowed(sent: int, answered: int, cost: int = 1, action: str = "") -> Call:
    return Call(sent, answered, ALLOWED, cost, action)


BY_HAND = {
    "nothing": ((), 0),
    "one": ((allowed(0, 1),), 1),
    "two at its ends": ((allowed(0, 1), allowed(9, 10)), 2),
    "one a moment too late": ((allowed(0, 1), allowed(9, 11)), 1),
    "one that may have been let through before or after": ((allowed(0, 1), allowed(2, 12), allowed(3, 13)), 1),
    "longer than the interval": ((allowed(0, 20), allowed(5, 6)), 1),
    "what was denied or not answered": ((allowed(0, 1), Call(1, 2, "RATE_LIMITED"), Call(1, 2, UNANSWERED)), 1),
    "what costs more": ((allowed(0, 1, 5), allowed(4, 6, 3), allowed(12, 13, 4)), 8),
    "a later interval": ((allowed(0, 1), allowed(20, 21), allowed(25, 26), allowed(29, 30)), 3),
    "one within another": ((allowed(0, 10), allowed(1, 9), allowed(2, 8)), 3),
}


@pytest.mark.parametrize(("calls", "most"), BY_HAND.values(), ids=BY_HAND)
def test_the_most_for_sure_in_ten(calls: tuple[Call, ...], most: int) -> None:
    assert most_within(calls, 10)[0] == most


def dull(calls: list[Call], window: int) -> int:
    """Try every set of calls."""
    through = [it for it in calls if it.reason == ALLOWED]
    most = 0
    for size in range(1, len(through) + 1):
        for some in combinations(through, size):
            if max(it.answered for it in some) - min(it.sent for it in some) <= window:
                most = max(most, sum(it.cost for it in some))
    return most


def test_agrees_with_trying_every_set() -> None:
    results = set()
    for seed in range(300):
        dice = Random(seed)
        calls = []
        for _ in range(dice.randint(0, 9)):
            sent = dice.randint(0, 40)
            reason = ALLOWED if dice.random() < 0.9 else "RATE_LIMITED"
            calls.append(Call(sent, sent + dice.randint(0, 15), reason, dice.randint(1, 3)))
        expected = dull(calls, 20)
        assert most_within(calls, 20)[0] == expected, f"seed {seed}"
        results.add(expected)
    assert len(results) > 8


def kept(dice: Random, limit: Limit, length: int) -> list[Call]:
    """A history that keeps the limit, as full as it goes: what is let through is known, and widened afterwards."""
    at: list[int] = []
    for moment in range(length):
        if sum(it >= moment - limit.window for it in at) < limit.units:
            at.append(moment)
    return [allowed(it - dice.randint(0, 3), it + dice.randint(0, 3)) for it in at]


def test_what_keeps_a_limit_passes_and_one_call_more_does_not() -> None:
    limit = Limit("ten", 10, 50)
    for seed in range(50):
        dice = Random(seed)
        calls = kept(dice, limit, 500)
        assert len(calls) >= 90
        assert check(calls, [limit]) == []
        _, began = most_within(calls, limit.window)
        full = [it for it in calls if began <= it.sent and it.answered <= began + limit.window]
        more = [allowed(began, began)] * (limit.units + 1 - len(full))
        (excess,) = check([*calls, *more], [limit])
        assert (excess.limit, excess.units, excess.promised) == ("ten", 11, 10)


def test_each_limit_counts_its_own_actions() -> None:
    calls = [allowed(0, 1, action="read"), allowed(1, 2, action="write"), allowed(2, 3, action="read")]
    limits = [Limit("all", 2, 10), Limit("reads", 2, 10, frozenset({"read"}))]
    assert [it.limit for it in check(calls, limits)] == ["all"]
