"""Taking credits: bounded, and one account that cannot be served is nothing to the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from doorward_server.core.credits import Account, Debited, Holder, Terms
from doorward_server.core.errors import Overloaded, StoreUnavailable
from doorward_server.service import debiting
from doorward_server.service.debiting import Debiting
from doorward_server.service.pool import Pool
from doorward_server.store import Debit

ACME, GLOBEX = Holder("acme", "shop", "organization"), Holder("globex", "shop", "organization")
Say = Callable[[Sequence[Debit]], None]


class Kept:
    """A store that takes all that it is asked for, unless it is told what to say first."""

    def __init__(self) -> None:
        self.credits = self
        self.asked: list[list[Debit]] = []
        self.say: Say = lambda _: None
        self.locked: set[Holder] = set()

    def debit(self, debits: Sequence[Debit], clock: Any) -> list[Debited | None]:
        self.asked.append(list(debits))
        self.say(debits)
        taken = Debited(True, Account(0, 0, None), 0)
        return [None if it.holder in self.locked else taken for it in debits]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool("debits", threads=4, backlog=400)
    yield made
    made.close()


def of(holder: Holder, cost: int = 1) -> list[Debit]:
    return [Debit(holder, Terms(), cost)]


class Gate:
    """Holds up whoever asks for the first time, until it is opened."""

    def __init__(self) -> None:
        self.reached, self._open = threading.Event(), threading.Event()

    def __call__(self, _: Sequence[Debit]) -> None:
        self.reached.set()
        assert self._open.wait(60)

    def open(self) -> None:
        self._open.set()


def test_what_comes_while_the_store_is_asked_shares_the_next_transaction(kept: Kept, pool: Pool) -> None:
    gate = kept.say = Gate()

    async def several() -> None:
        charged = Debiting(kept, pool, lambda: 0)  # type: ignore[arg-type]  # a store as far as this goes
        first = asyncio.create_task(charged.debit(of(ACME)))
        await asyncio.to_thread(gate.reached.wait, 60)
        rest = [asyncio.create_task(charged.debit(of(it, 2))) for it in (ACME, GLOBEX, ACME)]
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, *rest)

    asyncio.run(several())
    assert [[it.cost for it in debits] for debits in kept.asked] == [[1], [2, 2, 2]]


def test_more_than_can_wait_is_refused_at_once_and_who_has_given_up_waits_no_more(
    kept: Kept, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debiting, "MOST_WAITING", 3)
    gate = kept.say = Gate()

    async def several() -> None:
        charged = Debiting(kept, pool, lambda: 0)  # type: ignore[arg-type]  # a store as far as this goes
        tasks = [asyncio.create_task(charged.debit(of(ACME)))]
        await asyncio.to_thread(gate.reached.wait, 60)
        tasks += [asyncio.create_task(charged.debit(of(ACME, cost))) for cost in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await charged.debit(of(ACME, 4))
        tasks[2].cancel()
        await asyncio.wait(tasks[2:])
        last = asyncio.create_task(charged.debit(of(ACME, 5)))
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*tasks[:2], last)

    asyncio.run(several())
    assert sorted(it.cost for debits in kept.asked for it in debits) == [1, 2, 5], "who gave up is not charged"


def test_an_account_that_is_locked_holds_up_only_its_own_calls(kept: Kept, pool: Pool) -> None:
    kept.locked = {ACME}

    async def several() -> None:
        charged = Debiting(kept, pool, lambda: 0)  # type: ignore[arg-type]  # a store as far as this goes
        waiting = asyncio.create_task(charged.debit(of(ACME)))
        for _ in range(3):
            assert (await charged.debit(of(GLOBEX)))[0].taken
        assert not waiting.done()
        kept.locked = set()
        assert (await waiting)[0].taken

    asyncio.run(several())


def test_an_account_that_stays_locked_cannot_be_reached(
    kept: Kept, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debiting, "PATIENCE", 0.0)
    kept.locked = {ACME}

    async def one() -> None:
        charged = Debiting(kept, pool, lambda: 0)  # type: ignore[arg-type]  # a store as far as this goes
        with pytest.raises(StoreUnavailable) as lost:
            await charged.debit(of(ACME))
        assert lost.value.outcome_known

    asyncio.run(one())


def test_what_is_given_back_is_so_although_the_caller_waits_no_more(kept: Kept, pool: Pool) -> None:
    gate = kept.say = Gate()

    async def several() -> None:
        charged = Debiting(kept, pool, lambda: 0)  # type: ignore[arg-type]  # a store as far as this goes
        first = asyncio.create_task(charged.debit(of(GLOBEX)))
        await asyncio.to_thread(gate.reached.wait, 60)
        undoing = asyncio.create_task(charged.undo(of(ACME, 7)))
        await asyncio.sleep(0)
        undoing.cancel()
        await asyncio.wait([undoing])
        gate.open()
        await first
        await charged.debit(of(GLOBEX, 2))

    asyncio.run(several())
    assert [it.cost for debits in kept.asked for it in debits] == [1, 7, 2]


def test_a_defect_about_one_account_is_nothing_to_the_others(kept: Kept, pool: Pool) -> None:
    gate = Gate()

    def defect(debits: Sequence[Debit]) -> None:
        if len(kept.asked) == 1:
            gate(debits)
        elif any(it.holder == ACME for it in debits):
            raise ZeroDivisionError

    async def several() -> None:
        charged = Debiting(kept, pool, lambda: 0)  # type: ignore[arg-type]  # a store as far as this goes
        first = asyncio.create_task(charged.debit(of(GLOBEX)))
        await asyncio.to_thread(gate.reached.wait, 60)
        broken, served = (asyncio.create_task(charged.debit(of(it))) for it in (ACME, GLOBEX))
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, served)
        with pytest.raises(ZeroDivisionError):
            await broken

    kept.say = defect
    asyncio.run(several())


@pytest.mark.parametrize("known", [True, False])
def test_with_a_lost_store_nothing_is_tried_again(kept: Kept, pool: Pool, known: bool) -> None:
    gate = Gate()

    def unknown(debits: Sequence[Debit]) -> None:
        if len(kept.asked) == 1:
            gate(debits)
        else:
            raise StoreUnavailable(outcome_known=known)

    async def several() -> None:
        charged = Debiting(kept, pool, lambda: 0)  # type: ignore[arg-type]  # a store as far as this goes
        first = asyncio.create_task(charged.debit(of(GLOBEX)))
        await asyncio.to_thread(gate.reached.wait, 60)
        rest = [asyncio.create_task(charged.debit(of(it))) for it in (ACME, GLOBEX)]
        await asyncio.sleep(0)
        gate.open()
        await first
        for it in rest:
            with pytest.raises(StoreUnavailable):
                await it

    kept.say = unknown
    asyncio.run(several())
    assert len(kept.asked) == 2
