"""Keeping a cache of decisions fresh: the `Lease` stream, once for threads and once for asyncio.

Decisions may come from any replica and the lease from another one. That is right all the same: a change that was waited
for has been acknowledged by every replica, each of them for the caches that it leases, and an answer that is older than
what its stream has told is not kept (`doorward.leases`).
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
from doorward.config import Settings
from doorward.errors import CallFailed, PermissionDenied, Unauthenticated
from doorward.model import CacheInfo
from doorward.v1 import authz_pb2 as pb

SHORTEST, LONGEST = 0.05, 1.0
"""Seconds between two streams: doubled each time that none came about, and never in step with other clients."""
REFUSED = 10.0
"""Seconds until it is tried again where the caller may not have a lease."""
FAREWELL = 1.0
"""Seconds that the last hits get to leave when a client closes."""
_log = logging.getLogger("doorward")
Metadata = Callable[[], list[tuple[str, str | bytes]]]


class _Pause:
    """How long to wait before the next stream, and what to say of the end of the last."""

    def __init__(self) -> None:
        self._seconds = SHORTEST
        self._said = False

    def began(self) -> None:
        """Take note that the server has answered."""
        self._seconds, self._said = SHORTEST, False

    def after(self, failed: CallFailed | None) -> float:
        """Return for how many seconds to wait. A refusal is logged, once: nothing is answered from memory then."""
        if isinstance(failed, PermissionDenied | Unauthenticated):
            if not self._said:
                _log.warning("decisions are not cached, every question goes to the server: %s", failed.message)
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
        self.forget()
        _KEEPERS.add(self)

    def forget(self) -> None:
        """Start anew in a forked child, where the thread is not."""
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._call: Any = None

    def start(self) -> None:
        """Have a lease soon. Does nothing if that is being seen to."""
        if self._thread is None:
            with self._starting:
                begun = self._thread is not None
                if not begun and not self._stopping.is_set():
                    self._thread = threading.Thread(target=self._run, name="doorward-lease", daemon=True)
                    self._thread.start()

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopping.set()
        self._woken.set()
        call = self._call
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """End the thread, once the last hits have been reported or `FAREWELL` has passed."""
        self._stopping.set()
        self._woken.set()
        thread = self._thread
        if thread is not None:
            thread.join(FAREWELL)
        self.stop()

    def _run(self) -> None:
        pause = _Pause()
        while not self._stopping.is_set():
            failed: CallFailed | None = None
            try:
                self._converse(pause)
            except grpc.RpcError as error:
                failed = status.read(error)
            except (RuntimeError, ValueError):  # the connections were closed under it
                return
            self._stopping.wait(pause.after(failed))

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
        finally:
            over.set()
            call.cancel()

    def _pings(self, over: threading.Event, woken: threading.Event) -> Iterator[pb.LeaseRequest]:
        """What to send; gRPC asks for it on a thread of its own."""
        while not over.is_set():
            yield self._cache.ping()
            if self._stopping.is_set() and not self._cache.reports():
                return
            woken.wait(0 if self._stopping.is_set() else self._cache.pause)
            woken.clear()
            if self._cache.overdue():
                call = self._call
                if call is not None:
                    call.cancel()
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
        self._stopping = False
        self._woken = asyncio.Event()

    def start(self) -> None:
        """Have a lease soon. Does nothing if that is being seen to."""
        if self._task is None and not self._stopping:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="doorward-lease")

    async def close(self) -> None:
        """End the task, once the last hits have been reported or `FAREWELL` has passed."""
        self._stopping = True
        self._woken.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=FAREWELL)
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        pause = _Pause()
        while not self._stopping:
            failed: CallFailed | None = None
            try:
                await self._converse(pause)
            except grpc.RpcError as error:
                failed = status.read(error)
            except (RuntimeError, grpc.aio.UsageError):  # the connections were closed under it
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause.after(failed)):
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

    def __init__(self, pool: Pool[grpc.Channel], settings: Settings, capacity: int) -> None:
        self._decisions = DecisionCache(capacity)
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

    def __init__(self, pool: Pool[grpc.aio.Channel], settings: Settings, capacity: int) -> None:
        self._pool = pool
        self._settings = settings
        self._capacity = capacity
        self._loop: asyncio.AbstractEventLoop | None = None
        self._decisions = DecisionCache(capacity)

    def decisions(self) -> DecisionCache:
        """Return the cache of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._decisions = DecisionCache(self._capacity)
            self._keeper = LeaseTask(self._decisions, self._pool.next, lambda: [bearer(self._settings)])
        return self._decisions

    def start(self) -> None:
        """Have a lease soon."""
        self._keeper.start()

    def info(self) -> CacheInfo:
        """Return what became of the questions so far."""
        return self._decisions.info()

    async def close(self) -> None:
        """End what keeps it fresh, if it belongs to the running event loop; else that ended with its own."""
        if self._loop is asyncio.get_running_loop():
            await self._keeper.close()


def bearer(settings: Settings) -> tuple[str, str | bytes]:
    """Return the metadata by which the client shows its own key."""
    return "authorization", f"Bearer {settings.key.reveal()}"


_KEEPERS: weakref.WeakSet[LeaseThread] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for keeper in list(_KEEPERS):
        keeper.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
