"""Taking credits: a call is told that it is allowed once what it takes is committed, and not before.

Calls that come while the store is being asked share the next transaction. Where that cannot be done, as a server that
hangs has one of their accounts locked, each account is asked for by itself. A call whose server is killed over it
may have been charged; none is charged twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from doorward_server.core.credits import Debited, Holder
from doorward_server.core.errors import Overloaded, StoreUnavailable
from doorward_server.service.guard import Clock
from doorward_server.service.pool import Pool
from doorward_server.store import Debit, Store

AT_ONCE = 200
"""Debits in one transaction."""
MOST_WAITING = 400
"""Calls whose debits wait, or are on their way; more are refused at once. Others than those that pay must be served."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """One call, and all that it takes, of one account."""

    debits: Sequence[Debit]
    done: asyncio.Future[list[Debited]] = field(repr=False)

    @property
    def holder(self) -> Holder:
        return self.debits[0].holder


class Debiting:
    """Takes credits for calls. Belongs to the event loop; the store is asked on *pool*, of several threads."""

    def __init__(self, store: Store, pool: Pool, clock: Clock) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._queue: deque[_Waiter] = deque()
        self._waiting = 0
        self._asking: asyncio.Task[None] | None = None
        self._alone: dict[Holder, asyncio.Task[None]] = {}
        self._queues: dict[Holder, deque[_Waiter]] = {}

    async def debit(self, debits: Sequence[Debit]) -> list[Debited]:
        """Take what each of *debits*, all of one account, asks for, or nothing where there is not so much.

        In order, and committed by then. Raises StoreUnavailable, whose `outcome_known` tells whether that may be so all
        the same, and Overloaded: then nothing was taken.
        """
        if self._waiting >= MOST_WAITING:
            raise Overloaded
        return await self._wait_for(debits)

    async def undo(self, debits: Sequence[Debit]) -> None:
        """Give back what *debits*, all of one account, have taken, however many wait. Raises as `debit` does."""
        await self._wait_for([it.undone for it in debits])

    async def _wait_for(self, debits: Sequence[Debit]) -> list[Debited]:
        waiter = _Waiter(debits, asyncio.get_running_loop().create_future())
        self._waiting += 1
        waiter.done.add_done_callback(self._left)
        if waiter.holder in self._alone:
            self._queues[waiter.holder].append(waiter)
        else:
            self._queue.append(waiter)
            if self._asking is None or self._asking.done():
                self._asking = asyncio.get_running_loop().create_task(self._ask_together())
        return await waiter.done

    def _left(self, _: asyncio.Future[list[Debited]]) -> None:
        self._waiting -= 1

    async def _ask_together(self) -> None:
        while self._queue:
            waiters = _taken(self._queue)
            problem = await self._ask(waiters) if waiters else None
            if problem is None:
                continue
            several = len({it.holder for it in waiters}) > 1
            if several and isinstance(problem, StoreUnavailable) and problem.locked:
                for waiter in waiters:
                    self._ask_alone(waiter)
            else:
                _fail(waiters, problem)

    def _ask_alone(self, waiter: _Waiter) -> None:
        """Ask for one account by itself, also for what comes meanwhile."""
        holder = waiter.holder
        self._queues.setdefault(holder, deque()).append(waiter)
        if holder not in self._alone:
            self._alone[holder] = asyncio.get_running_loop().create_task(self._ask_on(holder))

    async def _ask_on(self, holder: Holder) -> None:
        queue = self._queues[holder]
        while queue:
            waiters = _taken(queue)
            problem = await self._ask(waiters) if waiters else None
            if problem is not None:
                _fail(waiters, problem)
        del self._alone[holder], self._queues[holder]

    async def _ask(self, waiters: Sequence[_Waiter]) -> StoreUnavailable | Overloaded | None:
        """Ask the store, and hand out what it said; or return why it could not be asked."""
        debits = [debit for waiter in waiters for debit in waiter.debits]
        try:
            debited = await self._pool.run(self._store.credits.debit, debits, self._clock)
        except (StoreUnavailable, Overloaded) as problem:
            return problem
        except Exception as problem:  # noqa: BLE001  # handed over to whoever waits
            _fail(waiters, problem)
        else:
            _hand_out(waiters, debited)
        return None


def _taken(queue: deque[_Waiter]) -> list[_Waiter]:
    """Take from *queue* what goes into one transaction; who has given up by now is not charged."""
    waiters, count = list[_Waiter](), 0
    while queue and (not waiters or count + len(queue[0].debits) <= AT_ONCE):
        waiter = queue.popleft()
        if not waiter.done.done():
            waiters.append(waiter)
            count += len(waiter.debits)
    return waiters


def _hand_out(waiters: Iterable[_Waiter], debited: Sequence[Debited]) -> None:
    each = iter(debited)
    for waiter in waiters:
        mine = [next(each) for _ in waiter.debits]
        if not waiter.done.done():
            waiter.done.set_result(mine)


def _fail(waiters: Iterable[_Waiter], problem: Exception) -> None:
    for waiter in waiters:
        if not waiter.done.done():
            waiter.done.set_exception(problem)
