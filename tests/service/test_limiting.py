"""Units of a lease: which are good for how long, and how many are asked for."""

from __future__ import annotations

from doorward_server.core.limits import Grant, Meter, Room
from doorward_server.core.model import SECOND
from doorward_server.service.freshness import MICROSECOND
from doorward_server.service.limiting import _Bucket

CELL = 6 * SECOND
METER = Meter("acme", "shop", "key:key_1", "per-minute", 1_000, 10 * CELL)


def leased(bucket: _Bucket, asked_at: int, granted_at: int, units: int) -> None:
    """Take a lease; by both clocks, which run alike here, cells end at multiples of their length."""
    at = asked_at * MICROSECOND, granted_at * MICROSECOND
    bucket.take(Grant(units, granted_at - granted_at % CELL + CELL, granted_at, ()), 1, *at)


def spendable(bucket: _Bucket, now: int) -> int:
    """How many calls of one unit get through."""
    spent = 0
    while bucket.spend(1, now * MICROSECOND):
        spent += 1
    return spent


def test_units_of_a_new_cell_are_there_although_those_of_the_old_were_not_spent() -> None:
    bucket = _Bucket((METER,))
    leased(bucket, 0, 0, 5)
    leased(bucket, CELL - 1, CELL + 1, 7)  # asked in the old cell, granted in the new one
    assert spendable(bucket, CELL + 2) == 7


def test_units_of_one_cell_add_up() -> None:
    bucket = _Bucket((METER,))
    leased(bucket, 0, SECOND, 5)  # the answer was on its way for long, so the cell seems to end early
    leased(bucket, SECOND, SECOND, 7)
    assert spendable(bucket, CELL - 1) == 12
    leased(bucket, 2 * SECOND, 3 * SECOND, 1)
    assert spendable(bucket, CELL) == 0


def test_leases_get_smaller_towards_the_end_of_a_cell() -> None:
    bucket = _Bucket((METER,))
    leased(bucket, 0, 0, 40)
    assert spendable(bucket, 0) == 40
    asked = [bucket.wanted(1, at * SECOND * MICROSECOND) for at in (1, 2, 3, 4, 5)]
    assert asked == [40, 40, 20, 10, 4]


def test_a_key_that_was_idle_begins_with_one_unit() -> None:
    bucket = _Bucket((METER,))
    leased(bucket, 0, 0, 40)
    spendable(bucket, 0)
    assert bucket.wanted(1, (2 * CELL + 1) * MICROSECOND) == 1
    assert bucket.wanted(3, (2 * CELL + 1) * MICROSECOND) == 3


def test_units_of_a_cell_that_is_over_are_not_told_of_as_left() -> None:
    """Else who is refused would read that its call fits, and not when to come back."""
    bucket = _Bucket((METER,))
    leased(bucket, 0, 0, 5)
    over, full = CELL + 1, Room(METER, left=2, retry_at=3 * CELL, reset_at=12 * CELL)
    bucket.take(Grant(0, 2 * CELL, over, (full,)), 4, over * MICROSECOND, over * MICROSECOND)
    assert not bucket.spend(4, over * MICROSECOND)
    (status,) = bucket.statuses(4, over * MICROSECOND)
    assert (status.remaining, status.retry_after) == (2, 2 * CELL - 1)


def test_units_that_are_too_few_for_a_call_are_told_of_as_left() -> None:
    bucket = _Bucket((METER,))
    leased(bucket, 0, 0, 5)
    full = Room(METER, left=2, retry_at=3 * CELL, reset_at=12 * CELL)
    bucket.take(Grant(0, CELL, 1, (full,)), 8, 1 * MICROSECOND, 1 * MICROSECOND)
    (status,) = bucket.statuses(8, 1 * MICROSECOND)
    assert (status.remaining, status.retry_after) == (7, 3 * CELL - 1)


def test_who_comes_back_when_it_is_told_to_does_not_come_too_early() -> None:
    """However long the answer of the store was on its way: its clock was read at any time of that."""
    bucket = _Bucket((METER,))
    full = Room(METER, left=0, retry_at=3 * CELL, reset_at=12 * CELL)
    bucket.take(Grant(0, CELL, SECOND, (full,)), 1, 0, 4 * SECOND * MICROSECOND)
    (status,) = bucket.statuses(1, 5 * SECOND * MICROSECOND)
    assert (status.retry_after, status.reset_after) == (3 * CELL - 2 * SECOND, 12 * CELL - 2 * SECOND)
