"""Following the log: a thread that polls, and hands what it found to the event loop.

Nothing else runs on this thread or its connection, so no other work can hold up a poll. What a poll means is decided on
the loop (`core.freshness.Tail`), where the cache is: first all rows are applied, then the lease is extended, and only
then this thread acknowledges.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import structlog

from doorward_server.core.errors import DoorwardError, StoreUnavailable
from doorward_server.core.freshness import Joined, Poll, Reset, Taken
from doorward_server.service.freshness import MICROSECOND, Freshness
from doorward_server.service.replica import Membership
from doorward_server.store import Store, TailConnection

T = TypeVar("T")
EVERY = 0.05
"""Seconds between polls, where nothing hints that there is something new."""
SOONEST = 0.004
"""Seconds between polls at least: hints come with every ping and every change."""
AGAIN = 0.1
"""Seconds until the store is asked again after it did not answer."""
log = structlog.get_logger("doorward")


class Tailing:
    """The thread. `start` it on the event loop that the cache belongs to, once this replica has registered.

    *forget* is called, on the loop, when the store turns out to have another history.
    """

    def __init__(self, store: Store, membership: Membership, freshness: Freshness, forget: Callable[[], None]) -> None:
        self.polls: Counter[str] = Counter()
        """By what became of them: taken, reset, failed."""
        self._store = store
        self._membership = membership
        self._freshness = freshness
        self._tail = freshness.tail
        self._forget = forget
        self._connection: TailConnection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="doorward-tail", daemon=True)
        self._joined: asyncio.Future[None]

    def start(self) -> None:
        """Begin to follow."""
        self._loop = asyncio.get_running_loop()
        self._joined = self._loop.create_future()
        self._register(self._membership.id)
        self._thread.start()

    async def joined(self) -> None:
        """Wait until the first poll has brought a lease. Raises what the first poll raised."""
        await asyncio.shield(self._joined)

    def hint(self) -> None:
        """Poll soon: there may be something new. From any thread."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError, ValueError):  # it was closed meanwhile
                connection.hint()

    async def stop(self) -> None:
        """Stop following, and answer nothing from the cache any more."""
        self._stopping.set()
        self.hint()
        if self._thread.ident is not None:  # else it never began
            await asyncio.to_thread(self._thread.join)
        self._tail.leave()

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception as problem:  # noqa: BLE001  # a thread that ended would be missed when it is too late
                self._lost(problem)
                self._stopping.wait(AGAIN)
        self._close()

    def _turn(self) -> None:
        """Poll once, and wait until it is time for the next one."""
        if not self._tail.replica:
            id = self._membership.register()
            self._on_loop(lambda: self._register(id))
        connection = self._connection
        if connection is None:
            connection = self._connection = self._store.open_tail(self._membership.max_staleness)
        began = self._freshness.boot()
        poll = connection.poll(self._tail.replica, self._tail.revision, began)
        taken, acknowledged, pause = self._on_loop(lambda: self._take(poll))
        if isinstance(taken, Reset):
            log.warning("the cache begins anew", why=taken.reason.value)
            return
        if taken is not None:
            connection.acknowledge(poll.replica, acknowledged)
        connection.wait_for_hint(pause)
        self._stopping.wait(max(0.0, SOONEST - (self._freshness.boot() - began) / 1e9))

    def _lost(self, problem: Exception) -> None:
        self.polls["failed"] += 1
        if self._freshness.store_answers:
            what = problem.message if isinstance(problem, DoorwardError) else type(problem).__name__
            log.warning("the change log cannot be followed", why=what)
        self._freshness.store_answers = False
        self._close()
        self._loop.call_soon_threadsafe(self._not_joined, problem)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is of no use any more, whatever is wrong with it
                connection.close()

    def _on_loop(self, work: Callable[[], T]) -> T:
        """Run *work* on the event loop, and wait for it."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as problem:  # noqa: BLE001  # handed over
                done.set_exception(problem)

        self._loop.call_soon_threadsafe(run)
        return done.result()

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _take(self, poll: Poll) -> tuple[Joined | Taken | Reset | None, int, float]:
        """Return what became of *poll*, what may be acknowledged by now, and for how many seconds to wait then."""
        taken = self._tail.take(poll)
        self._freshness.store_answers = True
        if isinstance(taken, Reset):
            self.polls["reset"] += 1
            self._forget()
        else:
            self.polls["taken"] += 1
            if isinstance(taken, Joined) and not self._joined.done():
                self._joined.set_result(None)
        now = self._freshness.boot()
        return taken, self._tail.acknowledged(now), self._pause(now)

    def _pause(self, now: int) -> float:
        """Return how long to wait: no longer than until a lease that holds back what is acknowledged runs out."""
        until = self._tail.held_back_until(now)
        return EVERY if until is None else min(EVERY, max(0.0, (until - now) / 1e9))

    def _register(self, id: str) -> None:
        membership = self._membership
        self._tail.registered(id, membership.max_staleness * MICROSECOND, membership.serve_stale_for * MICROSECOND)

    def _not_joined(self, problem: Exception) -> None:
        if not self._joined.done():
            self._joined.set_exception(problem if isinstance(problem, DoorwardError) else StoreUnavailable())
