"""Taking credits: a call is told that it is allowed once what it takes is committed, and not before.

Calls that come while the store is being asked share the next transaction. A call whose server is killed over it may
have been charged; none is charged twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from doorward_server.core.credits import Debited
from doorward_server.service.guard import Clock
from doorward_server.service.pool import Pool
from doorward_server.store import Debit, Store

AT_ONCE = 200
"""Debits in one transaction, or those of one call if that has more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """One call, and all that it takes."""

    debits: Sequence[Debit]
    done: asyncio.Future[list[Debited]] = field(repr=False)


class Debiting:
    """Takes credits for calls. Belongs to the event loop; the store is asked on *pool*."""

    def __init__(self, store: Store, pool: Pool, clock: Clock) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._queue: list[_Waiter] = []
        self._asking: asyncio.Task[None] | None = None

    async def debit(self, debits: Sequence[Debit]) -> list[Debited]:
        """Take what each of *debits* asks for, or nothing where there is not so much; in order, and committed by then.

        Raises StoreUnavailable and Overloaded: then all may have been taken, or nothing.
        """
        waiter = _Waiter(debits, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask_on())
        return await waiter.done

    async def _ask_on(self) -> None:
        while self._queue:
            waiters = self._next()
            debits = [debit for waiter in waiters for debit in waiter.debits]
            try:
                debited = await self._pool.run(self._store.credits.debit, debits, self._clock)
            except Exception as problem:  # noqa: BLE001  # handed over to whoever waits
                _fail(waiters, problem)
            else:
                _hand_out(waiters, debited)

    def _next(self) -> list[_Waiter]:
        """Take from the queue what goes into one transaction; who has given up by now is not charged."""
        waiters, count = list[_Waiter](), 0
        while self._queue and (not waiters or count + len(self._queue[0].debits) <= AT_ONCE):
            waiter = self._queue.pop(0)
            if not waiter.done.done():
                waiters.append(waiter)
                count += len(waiter.debits)
        return waiters


def _hand_out(waiters: Sequence[_Waiter], debited: Sequence[Debited]) -> None:
    each = iter(debited)
    for waiter in waiters:
        mine = [next(each) for _ in waiter.debits]
        if not waiter.done.done():
            waiter.done.set_result(mine)


def _fail(waiters: Sequence[_Waiter], problem: Exception) -> None:
    for waiter in waiters:
        if not waiter.done.done():
            waiter.done.set_exception(problem)
