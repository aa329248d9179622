"""No interval of a window's length has more than the limit, however many replicas lease and spend."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward_server.core import limits
from doorward_server.core.limits import CELLS, NEVER, Cell, Grant, Meter, cell_of, grant, horizon
from doorward_server.core.model import DAY, SECOND
from doorward_server.core.reasons import Reason

MINUTE = 60 * SECOND


def meter(limit: int = 10, window: int = MINUTE, name: str = "per-minute") -> Meter:
    return Meter("acme", "shop", "key:key_1", name, limit, window)


@dataclass
class Counts:
    """A store that keeps cells, and does with them what the real one does."""

    cells: dict[Meter, dict[tuple[int, int], int]] = field(default_factory=lambda: defaultdict(dict))

    def charge(self, meters: Sequence[Meter], cost: int, wanted: int, now: int) -> Grant:
        charged = [
            [Cell(*span, units) for span, units in self.cells[it].items() if span[1] > horizon(it, now)]
            for it in meters
        ]
        granted = grant(meters, charged, cost, wanted, now)
        if granted.units:
            for it in meters:
                span = cell_of(it, granted.now)
                self.cells[it][span] = self.cells[it].get(span, 0) + granted.units
        return granted


@dataclass
class Replica:
    """Leases units and spends them until their cell ends; its answers from the store take their time."""

    store: Counts
    meters: Sequence[Meter]
    spent: dict[Meter, list[tuple[int, int]]]
    units: int = 0
    until: int = 0

    def call(self, cost: int, wanted: int, now: int, delay: int) -> None:
        """Somebody calls at *now*; a lease, if one is needed, takes *delay* to the store, and as long back."""
        if self.units < cost or now >= self.until:
            granted = self.store.charge(self.meters, cost, wanted, now + delay)
            if not granted.units:
                return
            # By the clock from before asking: what the store says of its cell, counted from then.
            ends = now + granted.ends - granted.now
            live = self.units if now < self.until else 0
            self.units, self.until = live + granted.units, min(ends, self.until) if live else ends
            now += 2 * delay
            if now >= self.until:
                return
        self.units -= cost
        for it in self.meters:
            self.spent[it].append((now, cost))


def most_in_a_window(spent: list[tuple[int, int]], window: int) -> int:
    """The most units in any half-open interval of *window*: the largest begins at some call."""
    spent = sorted(spent)
    most = held = first = 0
    for at, units in spent:
        held += units
        while spent[first][0] <= at - window:
            held -= spent[first][1]
            first += 1
        most = max(most, held)
    return most


def world(seed: int, calls: int = 400) -> list[tuple[Meter, int]]:
    """Several replicas in one store, with calls in bursts; return the most of each meter."""
    dice = Random(seed)
    meters = [meter(dice.randint(1, 60), dice.choice((SECOND, 7 * SECOND, MINUTE)), f"m{n}") for n in range(2)]
    store, spent = Counts(), defaultdict[Meter, list[tuple[int, int]]](list)
    groups = [meters, meters[:1], meters[1:]]
    replicas = [Replica(store, groups[n % 3], spent) for n in range(dice.randint(1, 6))]
    now = dice.randint(0, 10**9)
    pace = dice.choice((20_000, 200_000, 2 * SECOND))
    for _ in range(calls):
        now += int(dice.expovariate(1 / pace))
        dice.choice(replicas).call(
            dice.choice((1, 1, 1, 3)), dice.choice((1, 5, 100)), now, dice.choice((0, 0, 30_000))
        )
    return [(it, most_in_a_window(spent[it], it.window)) for it in meters]


def holds() -> None:
    """The promise, in many worlds."""
    for seed in range(150):
        for it, most in world(seed):
            assert most <= it.limit, f"seed {seed}: {most} of {it.limit}"


def test_no_interval_of_the_windows_length_has_more_than_the_limit() -> None:
    holds()


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(1000, 10**9))
def test_no_interval_of_the_windows_length_has_more_than_the_limit_whatever_happens(seed: int) -> None:
    for it, most in world(seed):
        assert most <= it.limit


def two_cells(patch: pytest.MonkeyPatch) -> None:
    """Only the current cell and the one before count."""
    patch.setattr(limits, "CELLS", 1)
    patch.setattr(Meter, "cell", property(lambda self: self.window // 10))
    patch.setattr("tests.core.test_limits.horizon", lambda it, now: now - now % it.cell - it.cell)


def spent_in_the_next_cell(patch: pytest.MonkeyPatch) -> None:
    """A lease goes on after its cell."""

    def late(*given: Any) -> Grant:
        found = grant_(*given)
        return Grant(found.units, found.ends + 9 * min(it.cell for it in given[0]), found.now, found.rooms)

    grant_ = limits.grant
    patch.setattr("tests.core.test_limits.grant", late)


def charged_one_by_one(patch: pytest.MonkeyPatch) -> None:
    """Each window is charged what fits into it, and a call goes through if the first had room."""

    def first_only(meters: Sequence[Meter], charged: Any, *more: Any) -> Grant:
        return grant_(meters[:1], charged[:1], *more)

    grant_ = limits.grant
    patch.setattr("tests.core.test_limits.grant", first_only)


@pytest.mark.parametrize("plant", [two_cells, spent_in_the_next_cell, charged_one_by_one])
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        holds()


def test_at_full_load_ten_elevenths_get_through() -> None:
    it, store = meter(110), Counts()
    spent = defaultdict[Meter, list[tuple[int, int]]](list)
    replica = Replica(store, [it], spent)
    cells = 110
    for turn in range(cells * 60):
        replica.call(1, 1, turn * it.cell // 60, 0)
    windows = cells / CELLS
    assert sum(units for _, units in spent[it]) >= 10 / 11 * it.limit * (windows - 1.1)
    assert most_in_a_window(spent[it], it.window) <= it.limit


def test_all_or_none() -> None:
    wide, narrow, store = meter(100, name="wide"), meter(2, name="narrow"), Counts()
    both = [wide, narrow]
    assert [store.charge(both, 1, 1, n).units for n in range(3)] == [1, 1, 0]
    assert {name.name: sum(cells.values()) for name, cells in store.cells.items()} == {"wide": 2, "narrow": 2}
    refused = store.charge(both, 1, 1, 3)
    assert [room.left for room in refused.rooms] == [98, 0]


def test_a_lease_leaves_something_for_others() -> None:
    it, store = meter(80), Counts()
    assert store.charge([it], 1, 1000, 0).units == 10
    assert store.charge([it], 1, 1000, 0).units == 8
    assert store.charge([it], 50, 50, 0).units == 50
    assert store.charge([it], 13, 13, 0).units == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 4)), max_size=30), st.integers(1, 6), st.integers(200, 230)
)
def test_who_comes_back_when_told_finds_room(taken: list[tuple[int, int]], cost: int, at: int) -> None:
    it, store = meter(6), Counts()
    for second, units in sorted(taken):
        store.charge([it], units, units, second * SECOND)
    refused = store.charge([it], cost, cost, at * SECOND)
    if refused.units:
        return
    again = refused.rooms[0].retry_at
    assert again > at * SECOND
    if again - at * SECOND > 1:
        assert not store.charge([it], cost, cost, again - 1).units
    assert store.charge([it], cost, cost, again).units == cost


def test_what_is_more_than_the_limit_never_fits() -> None:
    assert Counts().charge([meter(5)], 6, 6, 0).rooms[0].retry_at == NEVER


def test_a_reset_finds_all_of_it() -> None:
    it, store = meter(5), Counts()
    granted = store.charge([it], 5, 5, 17 * SECOND)
    reset = granted.rooms[0].reset_at
    assert not store.charge([it], 5, 5, reset - 1).units
    assert store.charge([it], 5, 5, reset).units == 5


def test_a_changed_limit_goes_on_from_what_was_counted() -> None:
    store, before = Counts(), meter(10)
    store.charge([before], 8, 8, 0)
    cells = [Cell(*span, units) for span, units in store.cells[before].items()]
    higher, lower, longer = meter(12), meter(5), meter(10, 2 * MINUTE)
    assert grant([higher], [cells], 1, 1, SECOND).rooms[0].left == 3
    assert grant([lower], [cells], 1, 1, SECOND).units == 0
    assert horizon(longer, 30 * SECOND) < cells[0].ends
    assert grant([longer], [cells], 3, 3, 30 * SECOND).units == 0


def test_a_clock_that_is_set_back_opens_nothing() -> None:
    it, store = meter(5), Counts()
    hour = 3600 * SECOND
    assert store.charge([it], 5, 5, hour).units == 5
    assert store.charge([it], 1, 1, hour - 30 * SECOND).units == 0


def test_what_comes_back_within_a_day_is_a_rate_and_the_rest_a_quota() -> None:
    assert meter(window=DAY - SECOND).reason is Reason.RATE_LIMITED
    assert meter(window=DAY).reason is Reason.QUOTA_EXCEEDED
