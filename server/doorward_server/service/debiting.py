"""Taking credits: a call is told that it is allowed once what it takes is committed, and not before.

Calls that come while the store is being asked share the next transaction, which waits for nobody: of accounts that
somebody else has locked just then it takes nothing, and they are asked for again soon. So an account that a hanging
server has locked holds up only its own calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from doorward_server.core.credits import Debited
from doorward_server.core.errors import DoorwardError, Overloaded, StoreUnavailable
from doorward_server.service.guard import Clock
from doorward_server.service.pool import Pool
from doorward_server.store import Debit, Store

AT_ONCE = 200
"""Debits in one transaction."""
MOST_WAITING = 400
"""Calls whose debits wait, or are on their way; more are refused at once. Others than those that pay must be served."""
PAUSE = 0.002
"""Seconds before accounts are asked for again that were locked, if there is nothing else to ask for."""
PATIENCE = 5.0
"""Seconds after which an account that is still locked counts as one that cannot be reached."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """One call, and all that it takes, of one account."""

    debits: Sequence[Debit]
    done: asyncio.Future[list[Debited]] = field(repr=False)
    until: float
    """When it gives up, by the event loop's clock."""


class Debiting:
    """Takes credits for calls. Belongs to the event loop; the store is asked on *pool*, once at a time."""

    def __init__(self, store: Store, pool: Pool, clock: Clock) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._queue: deque[_Waiter] = deque()
        self._waiting = 0
        self._asking: asyncio.Task[None] | None = None

    async def debit(self, debits: Sequence[Debit]) -> list[Debited]:
        """Take what each of *debits*, all of one account, asks for, or nothing where there is not so much.

        In order, and committed by then. Raises StoreUnavailable, whose `outcome_known` tells whether that may be so all
        the same, and Overloaded: then nothing was taken.
        """
        if self._waiting >= MOST_WAITING:
            raise Overloaded
        return await self._enqueue(debits)

    async def undo(self, paid: Sequence[Debit]) -> None:
        """Give back what was *paid* by one account, however many wait, and also if the caller waits no more.

        Raises as `debit` does.
        """
        await asyncio.shield(self._enqueue(paid))

    def _enqueue(self, debits: Sequence[Debit]) -> asyncio.Future[list[Debited]]:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(debits, loop.create_future(), loop.time() + PATIENCE)
        self._waiting += 1
        waiter.done.add_done_callback(self._left)
        self._queue.append(waiter)
        if self._asking is None or self._asking.done():
            self._asking = loop.create_task(self._ask_on())
        return waiter.done

    def _left(self, done: asyncio.Future[list[Debited]]) -> None:
        self._waiting -= 1
        if not done.cancelled():
            done.exception()  # whoever gave up waiting does not fetch it, and asyncio would complain

    async def _ask_on(self) -> None:
        while self._queue:
            waiters = _taken(self._queue)
            locked = await self._ask(waiters) if waiters else []
            late = [it for it in locked if asyncio.get_running_loop().time() >= it.until]
            _fail(late, StoreUnavailable())
            if locked and not self._queue:
                await asyncio.sleep(PAUSE)
            self._queue.extend(it for it in locked if not it.done.done())

    async def _ask(self, waiters: Sequence[_Waiter]) -> list[_Waiter]:
        """Ask the store, hand out what it said, and return those whose account was locked."""
        debits = [debit for waiter in waiters for debit in waiter.debits]
        try:
            debited = await self._pool.run(self._store.credits.debit, debits, self._clock)
        except DoorwardError as problem:
            _fail(waiters, problem)
        except Exception as problem:  # noqa: BLE001  # handed over to whoever waits
            if len(waiters) > 1:  # it is about one of them
                return [it for waiter in waiters for it in await self._ask([waiter])]
            _fail(waiters, problem)
        else:
            return _hand_out(waiters, debited)
        return []


def _taken(queue: deque[_Waiter]) -> list[_Waiter]:
    """Take from *queue* what goes into one transaction; who has given up by now is not charged."""
    waiters, count = list[_Waiter](), 0
    while queue and (not waiters or count + len(queue[0].debits) <= AT_ONCE):
        waiter = queue.popleft()
        if not waiter.done.done():
            waiters.append(waiter)
            count += len(waiter.debits)
    return waiters


def _hand_out(waiters: Iterable[_Waiter], debited: Sequence[Debited | None]) -> list[_Waiter]:
    each, locked = iter(debited), []
    for waiter in waiters:
        mine = [next(each) for _ in waiter.debits]
        taken = [it for it in mine if it is not None]
        if len(taken) < len(mine):
            locked.append(waiter)
        elif not waiter.done.done():
            waiter.done.set_result(taken)
    return locked


def _fail(waiters: Iterable[_Waiter], problem: Exception) -> None:
    for waiter in waiters:
        if not waiter.done.done():
            waiter.done.set_exception(problem)
