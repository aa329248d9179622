"""Keeping a cache of decisions fresh: the `Lease` stream, once for threads and once for asyncio.

Decisions may come from any replica and the lease from another one. That is right all the same: a revision is the
store's, so it means the same on both. An answer of a replica that is behind the stream is below the stream's floor, or
older than an invalidation that was told and has left its tombstone: it is not kept (`doorward.leases`). An answer of
one that is ahead has seen every change up to its revision, so what the stream will tell of those may pass it by; of
each later one the stream tells before it proves anything newer, and whoever made that change, on whatever replica,
waits for this client's acknowledgement or the end of its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc

from doorward import status
from doorward.cache import DecisionCache
from doorward.channels import PATHS, Connection, Pool
from doorward.config import Cache, Settings
from doorward.errors import CallFailed
from doorward.model import CacheInfo
from doorward.v1 import authz_pb2 as pb

SHORTEST, LONGEST = 0.05, 1.0
"""Seconds between two streams: doubled each time that none came about, and never in step with other clients."""
REFUSALS = frozenset(("UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "UNIMPLEMENTED"))
"""What will be the answer the next time, too, until somebody changes something."""
REFUSED = 10.0
"""Seconds until it is tried again where the caller may not have a lease."""
MOMENT = 0.2
"""Seconds that the last hits get to leave before a fork."""
FAREWELL = 1.0
"""Seconds that the last hits get to leave when a client closes."""
_log = logging.getLogger("doorward")
Metadata = Callable[[], list[tuple[str, str | bytes]]]


class _Pause:
    """How long to wait before the next stream, and what to say of the end of the last."""

    def __init__(self, cache: DecisionCache) -> None:
        self._cache = cache
        self._seconds = SHORTEST
        self._said = False

    def began(self) -> None:
        """Take note that the server has answered."""
        self._seconds, self._said = SHORTEST, False

    def after(self, failed: CallFailed | None) -> float:
        """Return for how many seconds to wait. A refusal is logged, once: nothing is answered from memory then."""
        if failed is not None and failed.code in REFUSALS:
            self._cache.refused()
            if not self._said:
                _log.warning(
                    "decisions are not cached, every question goes to the server: %s Give the client's key the role "
                    "`backend` on every keyspace it asks about, or name those it may lease: Cache(keyspaces=[...])",
                    failed.message,
                )
            self._said = True
            return REFUSED
        seconds, self._seconds = self._seconds, min(LONGEST, self._seconds * 2)
        return seconds * random.uniform(0.5, 1)  # noqa: S311  # nothing secret


def _stream(connection: Connection[Any]) -> Any:
    return connection.channel.stream_stream(
        PATHS["doorward.v1.LeaseRequest"],
        request_serializer=pb.LeaseRequest.SerializeToString,
        response_deserializer=pb.LeaseResponse.FromString,
    )


class LeaseThread:
    """Holds the lease of a cache for threads: one thread of its own, started by the first question.

    It must not outlive the client that nobody closed, so it knows nothing of it.
    """

    def __init__(
        self, cache: DecisionCache, connect: Callable[[], Connection[grpc.Channel]], metadata: Metadata
    ) -> None:
        self._cache = cache
        self._connect = connect
        self._metadata = metadata
        self._starting = threading.Lock()
        self.forget()
        _KEEPERS.add(self)

    def forget(self) -> None:
        """Be as new: the thread is not there in a forked child, and has ended in its parent."""
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._call: Any = None
        self._stopping = threading.Event()  # the last: from here on another thread may start it

    def start(self) -> None:
        """Have a lease soon. Does nothing if that is being seen to, unless in vain: no ping leaves where a server has
        stopped reading, and so none is asked for that would notice.
        """
        if self._thread is None:
            with self._starting:
                begun = self._thread is not None
                if not (begun or self._stopping.is_set() or _Forking.under_way):
                    self._thread = threading.Thread(target=self._run, name="doorward-lease", daemon=True)
                    self._thread.start()
        elif self._cache.overdue():
            self._give_up()

    def _give_up(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopping.set()
        self._woken.set()
        self._give_up()

    def close(self) -> None:
        """End the thread, once the last hits have been reported or `FAREWELL` has passed."""
        with self._starting:
            self._stopping.set()
            thread = self._thread
        self._woken.set()
        if thread is not None:
            thread.join(FAREWELL)
        self.stop()
        self._cache.close()

    def rest(self) -> bool:
        """End the stream for a moment, as a fork needs it; tell whether there was one. `forget`, then `start`, go on.

        Measured on grpcio 1.78: where a child is made while a thread waits in a stream, calls of the child fail, and
        the parent can crash. Not so with GRPC_POLL_STRATEGY=poll: it seems that both wait on one epoll set.
        """
        with self._starting:  # whoever is starting it is done then, and nobody does during a fork
            thread = self._thread
            if thread is None or self._stopping.is_set():
                return False
            self._stopping.set()
        self._woken.set()
        thread.join(MOMENT)
        self.stop()
        thread.join(FAREWELL)
        return True

    def _run(self) -> None:
        pause = _Pause(self._cache)
        while not self._stopping.is_set():
            failed: CallFailed | None = None
            try:
                self._converse(pause)
            except grpc.RpcError as error:
                failed = status.read(error)
            except (RuntimeError, ValueError):  # the connections were closed under it, or no thread can be made
                self._thread = None  # the next answer begins another, if there is one
                return
            self._stopping.wait(pause.after(failed))
            while not (self._cache.wanted or self._stopping.is_set()):
                self._stopping.wait(LONGEST)

    def _converse(self, pause: _Pause) -> None:
        over, woken = threading.Event(), threading.Event()
        self._cache.connected()
        call = _stream(self._connect())(self._pings(over, woken), metadata=self._metadata())
        self._woken, self._call = woken, call
        try:
            for told in call:
                pause.began()
                if self._cache.received(told):
                    woken.set()
            if self._stopping.is_set():
                self._cache.finished()
        finally:
            over.set()
            woken.set()
            call.cancel()

    def _pings(self, over: threading.Event, woken: threading.Event) -> Iterator[pb.LeaseRequest]:
        """What to send; gRPC asks for it on a thread of its own."""
        while not over.is_set():
            yield self._cache.ping()
            if self._stopping.is_set() and not self._cache.reports():
                return
            woken.wait(0 if self._stopping.is_set() else self._cache.pause)
            woken.clear()
            if not over.is_set() and self._cache.overdue():
                self._give_up()
                return


class LeaseTask:
    """Holds the lease of a cache for asyncio: one task on the event loop of its first question."""

    def __init__(
        self, cache: DecisionCache, connect: Callable[[], Connection[grpc.aio.Channel]], metadata: Metadata
    ) -> None:
        self._cache = cache
        self._connect = connect
        self._metadata = metadata
        self._task: asyncio.Task[None] | None = None
        self._overdue: Callable[[], object] = lambda: None
        self._stopping = False
        self._woken = asyncio.Event()

    def start(self) -> None:
        """Have a lease soon, as `LeaseThread.start`."""
        if self._task is None:
            if not self._stopping:
                self._task = asyncio.get_running_loop().create_task(self._run(), name="doorward-lease")
        elif self._cache.overdue():
            self._overdue()

    async def close(self) -> None:
        """End the task, once the last hits have been reported or `FAREWELL` has passed."""
        self._stopping = True
        self._woken.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=FAREWELL)
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._cache.close()

    def abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the task, which is *loop*'s, from wherever this is called, without waiting for it."""
        self._stopping = True
        self._cache.close()
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed, and the task ended with it
                loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        pause = _Pause(self._cache)
        while not self._stopping:
            failed: CallFailed | None = None
            try:
                await self._converse(pause)
            except grpc.RpcError as error:
                failed = status.read(error)
            except (RuntimeError, grpc.aio.UsageError):  # the connections were closed under it
                self._task = None  # as `LeaseThread._run`
                return
            await self._rest(pause.after(failed))
            while not (self._cache.wanted or self._stopping):
                await self._rest(LONGEST)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._stopping:
                    await self._woken.wait()
                    self._woken.clear()

    async def _converse(self, pause: _Pause) -> None:
        self._cache.connected()
        call = _stream(self._connect())(self._pings(), metadata=self._metadata())
        self._overdue = call.cancel
        try:
            async for told in call:
                pause.began()
                if self._cache.received(told):
                    self._woken.set()
            if self._stopping:
                self._cache.finished()
        except asyncio.CancelledError:
            # A call that is given up says so in the same way as a task that is to end.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        finally:
            call.cancel()

    async def _pings(self) -> AsyncIterator[pb.LeaseRequest]:
        while True:
            yield self._cache.ping()
            if self._stopping:
                if not self._cache.reports():
                    return
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._cache.pause):
                    await self._woken.wait()
            self._woken.clear()
            if self._cache.overdue():
                self._overdue()
                return


class LeasedByThread:
    """A cache of decisions for threads, and what keeps it fresh as long as somebody holds on to this."""

    def __init__(self, pool: Pool[grpc.Channel], settings: Settings, caching: Cache) -> None:
        self._decisions = DecisionCache(caching.size, keyspaces=caching.keyspaces)
        self._keeper = LeaseThread(self._decisions, pool.next, lambda: [bearer(settings)])
        self.start = self._keeper.start
        self.close = self._keeper.close
        weakref.finalize(self, self._keeper.stop)

    def decisions(self) -> DecisionCache:
        """Return the cache."""
        return self._decisions

    def info(self) -> CacheInfo:
        """Return what became of the questions so far."""
        return self._decisions.info()


class LeasedByTask:
    """A cache of decisions for asyncio, and what keeps it fresh: anew in each event loop, as the connections are."""

    def __init__(self, pool: Pool[grpc.aio.Channel], settings: Settings, caching: Cache) -> None:
        self._pool = pool
        self._settings = settings
        self._caching = caching
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: LeaseTask
        self._decisions = DecisionCache(caching.size, keyspaces=caching.keyspaces)

    def decisions(self) -> DecisionCache:
        """Return the cache of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                self._keeper.abandon(self._loop)
            self._loop = loop
            self._decisions = DecisionCache(self._caching.size, keyspaces=self._caching.keyspaces)
            self._keeper = LeaseTask(self._decisions, self._pool.next, lambda: [bearer(self._settings)])
        return self._decisions

    def start(self) -> None:
        """Have a lease soon."""
        self._keeper.start()

    def info(self) -> CacheInfo:
        """Return what became of the questions so far."""
        return self._decisions.info()

    async def close(self) -> None:
        """End what keeps it fresh; only if it belongs to the running event loop, with a last report."""
        if self._loop is asyncio.get_running_loop():
            await self._keeper.close()
        elif self._loop is not None:
            self._keeper.abandon(self._loop)


def bearer(settings: Settings) -> tuple[str, str | bytes]:
    """Return the metadata by which the client shows its own key."""
    return "authorization", f"Bearer {settings.key.reveal()}"


_KEEPERS: weakref.WeakSet[LeaseThread] = weakref.WeakSet()


class _Forking:
    """The fork of this process that is under way. Others wait: one that came while streams end, or begin again after
    another, would find them open.
    """

    turn = threading.RLock()
    under_way = False
    resting: tuple[LeaseThread, ...] = ()


def _before_fork() -> None:
    _Forking.turn.acquire()
    _Forking.under_way = True
    _Forking.resting = tuple(keeper for keeper in list(_KEEPERS) if keeper.rest())


def _after_fork_in_parent() -> None:
    resting, _Forking.resting, _Forking.under_way = _Forking.resting, (), False
    for keeper in resting:
        keeper.forget()
        keeper.start()
    _Forking.turn.release()


def _after_fork_in_child() -> None:
    _Forking.resting, _Forking.under_way = (), False
    for keeper in list(_KEEPERS):
        keeper._starting = threading.Lock()  # whoever had it is not here
        keeper.forget()
    _Forking.turn.release()  # the thread that is left has it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
