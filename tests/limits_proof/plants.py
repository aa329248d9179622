"""Planted bugs: wrong ways of counting, put into the servers of a run. Only the tests know them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from doorward_server.core.credits import Account, Debited, Terms, opened
from doorward_server.core.limits import Cell, Grant, Meter, cell_of, grant, horizon
from doorward_server.service.debiting import Debiting
from doorward_server.service.freshness import MICROSECOND
from doorward_server.service.limiting import _Bucket
from doorward_server.store import Debit, limits
from doorward_server.store.dialect import Postgresql
from tests.chaos.plants import put

BOTH = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Plant:
    """A mistake that somebody could make."""

    clause: str
    """What it does, against design.md section 7."""
    scenario: str
    """In which it shows."""
    backends: tuple[str, ...]
    plant: Callable[[], None]


PLANTS: dict[str, Plant] = {}
"""By name."""


def plant(clause: str, scenario: str, *, on: tuple[str, ...] = BOTH) -> Callable[[Callable[[], None]], None]:
    """Register a plant under the name of its function."""

    def register(spoil: Callable[[], None]) -> None:
        PLANTS[spoil.__name__.replace("_", "-")] = Plant(clause, scenario, on, spoil)

    return register


@plant("only the current cell and the one before it count, instead of ten", "edges")
def two_cells() -> None:
    def too_near(meter: Meter, now: int) -> int:
        return now - now % meter.cell - meter.cell

    put(limits, "horizon", too_near)


@plant("a lease is good for one cell more than the one it was charged to", "edges")
def next_cell() -> None:
    right = _Bucket.take

    def take(self: _Bucket, grant: Grant, cost: int, asked_at: int, told_at: int) -> None:
        right(self, grant, cost, asked_at, told_at)
        if grant.units:
            self.until += min(it.cell for it in self.meters) * MICROSECOND

    put(_Bucket, "take", take)


@plant("windows are charged one by one, and what one was charged stays when the next has no room", "drains")
def one_by_one() -> None:
    def charge_one(tx: Any, charge: limits.Charge, now: int) -> Grant:
        grants = [_charge_alone(tx, it, charge, now) for it in charge.meters]
        return min(grants, key=lambda it: it.units)

    put(limits, "_charge_one", charge_one)


def _charge_alone(tx: Any, meter: Meter, charge: limits.Charge, now: int) -> Grant:
    identity = meter.organization, meter.keyspace, meter.subject, meter.name
    cells = [Cell(*row) for row in tx.ask(limits._CELLS, *identity, horizon(meter, now))]
    granted = grant([meter], [cells], charge.cost, charge.cost, now)
    if granted.units:
        tx.change(limits._CHARGED, *identity, *cell_of(meter, granted.now), granted.units)
    return granted


@plant("who charges the same count at the same time does not wait for the other", "drains", on=("postgresql",))
def no_turns() -> None:
    _let_all_in()


def _let_all_in() -> None:
    def in_turn(self: Postgresql, names: Sequence[str], clock: Callable[[], int]) -> int:
        return clock()

    def at_once(self: Postgresql, names: Sequence[str], clock: Callable[[], int]) -> tuple[set[str], int]:
        return set(names), clock()

    put(Postgresql, "in_turn", in_turn)
    put(Postgresql, "at_once", at_once)


@plant("who takes credits of the same account at the same time does not wait for the other", "pays", on=("postgresql",))
def no_turns_of_credits() -> None:
    _let_all_in()


@plant("a call is told that it is allowed before its credits are taken", "pays_killed")
def answered_before_it_is_paid() -> None:
    right, after = Debiting.debit, set[asyncio.Task[Any]]()

    async def debit(self: Debiting, debits: Sequence[Debit]) -> list[Debited]:
        now = self._clock()
        (first,) = debits
        found = await self._pool.run(self._store.credits.find, first.holder)
        account = opened(first.terms, now) if found is None else found.at(first.terms, now)
        left = account.take(first.cost)
        after.add(asyncio.ensure_future(right(self, debits)))
        return [Debited(left is not None, left or account, now)]

    put(Debiting, "debit", debit)


@plant("what has come back is not kept, and comes back again", "comes_back")
def again_and_again() -> None:
    right = Account.at

    def at(self: Account, terms: Terms, now: int) -> Account:
        return replace(right(self, terms, now), since=self.since)

    put(Account, "at", at)
