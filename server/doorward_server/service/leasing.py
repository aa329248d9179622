"""Keeping the caches inside callers fresh: the `Lease` stream, without its transport."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace

from doorward_server.core.errors import Overloaded
from doorward_server.core.fields import check_id
from doorward_server.core.freshness import LeaseStream
from doorward_server.core.model import SECOND, Instant
from doorward_server.core.reasons import Reason
from doorward_server.service.freshness import Freshness, everything
from doorward_server.service.guard import AUTHORIZE, Caller, Clock, Guard, decisions, reach

OLDEST = 3600 * SECOND
"""Microseconds for which a client can have kept what it answered."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Answers of one kind that a client gave from its cache, all about one question, as the client tells."""

    organization: str
    keyspace: str
    key: str
    secret: str
    action: str
    resource: str
    reason: Reason
    count: int
    last_at: Instant


@dataclass(frozen=True, slots=True)
class Ping:
    """A client asks for a longer lease, for what it caches of these keyspaces."""

    sequence: int
    applied: int
    organization: str
    keyspaces: tuple[str, ...]
    """Empty: of any."""
    hits: tuple[Hit, ...] = ()


@dataclass(frozen=True, slots=True)
class Invalidation:
    """What a client must drop: all answers of a lower revision that depend on any of *dropped*, or, with None, all."""

    revision: int
    dropped: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping: all up to *revision* was told."""

    sequence: int
    revision: int
    max_staleness: int
    """Nanoseconds from when the ping was sent."""


class Leasing:
    """Serves `Lease` streams. Belongs to the event loop. *hint* has the tail look at once; *count* is told each hit of
    a caller that may ask such questions: within the last hour, and not ahead.
    """

    def __init__(
        self,
        freshness: Freshness,
        guard: Guard,
        hint: Callable[[], None],
        count: Callable[[Hit], None],
        clock: Clock,
    ) -> None:
        self._freshness = freshness
        self._clients = freshness.clients
        self._guard = guard
        self._hint = hint
        self._count = count
        self._clock = clock
        self._open: set[asyncio.Event] = set()
        self._closing = False

    async def converse(self, pings: AsyncIterator[tuple[Ping, Caller]]) -> AsyncGenerator[Invalidation | Pong, None]:
        """Yield what the holder of a cache must be told, until it ends the stream or this process does.

        Raises Overloaded if the stream was cut off, and what the guard raises at a ping.
        """
        woken = asyncio.Event()
        stream = self._clients.open(woken.set)
        self._open.add(woken)
        reading = asyncio.get_running_loop().create_task(self._read(pings, stream))
        reading.add_done_callback(lambda _: woken.set())
        try:
            while not self._closing:
                await woken.wait()
                woken.clear()
                for told in self._fetched(stream):
                    yield told
                if reading.done():
                    reading.result()
                    return
                if not stream.open:
                    raise Overloaded
        finally:
            self._open.discard(woken)
            stream.close()
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading

    def close(self) -> None:
        """End all streams: their clients open others, elsewhere."""
        self._closing = True
        for woken in self._open:
            woken.set()

    async def _read(self, pings: AsyncIterator[tuple[Ping, Caller]], stream: LeaseStream) -> None:
        applied = -1
        async for ping, caller in pings:
            self._admit(caller, ping)
            self._report(caller, ping.hits)
            stream.ping(ping.sequence, ping.applied, self._freshness.boot())
            if ping.applied != applied:  # a change may wait for this; other pings can wait for the next poll
                applied = ping.applied
                self._hint()

    def _admit(self, caller: Caller, ping: Ping) -> None:
        for keyspace in ping.keyspaces or ("-",):
            name = keyspace if keyspace == "-" else check_id("keyspaces", keyspace, "keyspace")
            self._guard.require(caller, "decisions:lease", decisions(reach(caller, ping.organization), name))

    def _report(self, caller: Caller, hits: tuple[Hit, ...]) -> None:
        """Count what may be counted. Nobody is told what was not: it would say which keys and keyspaces there are."""
        may: dict[tuple[str, str], bool] = {}
        now = self._clock()
        for hit in hits:
            where = (hit.organization, hit.keyspace)
            if where not in may:
                may[where] = self._guard.may(caller, AUTHORIZE, decisions(*where))
            if may[where]:
                self._count(replace(hit, last_at=min(now, max(hit.last_at, now - OLDEST))))

    def _fetched(self, stream: LeaseStream) -> Iterable[Invalidation | Pong]:
        sending = stream.fetch()
        if sending is None:
            return
        if sending.invalidated:
            dropped = None if everything(sending.dropped) else self._freshness.tokens(sending.dropped)
            yield Invalidation(sending.revision, dropped)
        if sending.pong is not None:
            yield Pong(sending.pong, sending.revision, self._clients.max_staleness)
