"""What this process remembers of the store, and whether it may still answer from it.

All of it belongs to the event loop. The protocol is `core.freshness`; here are its clock, its reads, and the tokens by
which clients know what their answers depend on. Looking something up takes no lock, no I/O and no log line.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from typing import NamedTuple, TypeVar

from doorward_server.core.errors import Overloaded, StoreUnavailable, UnknownReference
from doorward_server.core.fields import LAST_INSTANT
from doorward_server.core.freshness import ALL, Cache, ClientLeases, Dependency, Fill, Flight, Flights, Tail
from doorward_server.core.model import Instant
from doorward_server.core.policy import Keyspace
from doorward_server.core.subject import Subject
from doorward_server.service.pool import Pool

T = TypeVar("T")
Boot = Callable[[], int]
"""Nanoseconds of a clock that never steps, and that runs on while the machine sleeps."""
Read = Callable[[], Fill["Known"]]
"""Asks the store, in one snapshot. Blocking."""

KNOWN, UNKNOWN = 200_000, 50_000
"""What is remembered at most: things that are there, some 3 KiB each, and texts that belong to no key, 1 KiB each."""
MICROSECOND = 1_000
Leave = tuple[str, str, str]
"""Permission, organization and keyspace, as they came in."""
MAX_PASSES = 256
"""Leaves that are noted of one caller."""


boot_clock: Boot = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
"""The real one. It is read several times in a call, so it is no function of Python's."""


class Memo:
    """What follows from a record: some of it only as long as none of its moments passes. It goes when the record does.

    `shown` is the wire's own: how it tells the API version and whose key it is.
    """

    __slots__ = ("_moments", "_passes", "_since", "_until", "shown")

    def __init__(self, moments: tuple[Instant, ...]) -> None:
        self._moments = moments
        self._since = self._until = 0
        self._passes: set[Leave] | None = None  # few records are a caller's, and an empty set takes 200 bytes
        self.shown: tuple[str, bytes] | None = None

    def passes(self, leave: Leave, now: Instant) -> bool:
        """Tell whether its holder was given *leave*, and nothing has begun or ended by itself since."""
        return self._passes is not None and leave in self._passes and self._since <= now < self._until

    def let_pass(self, leave: Leave, now: Instant) -> None:
        """Note that its holder has *leave* as of *now*, which follows from nothing but the record and the time."""
        if self._passes is None or not self._since <= now < self._until or len(self._passes) >= MAX_PASSES:
            later = bisect_right(self._moments, now)
            self._since = self._moments[later - 1] if later else 0
            self._until = self._moments[later] if later < len(self._moments) else LAST_INSTANT
            self._passes = set()
        self._passes.add(leave)


@dataclass(frozen=True, slots=True)
class Known:
    """Something the store said, compiled: a key or principal of a keyspace, nobody, or the keyspace itself."""

    keyspace: Keyspace
    """In the version of the same snapshot."""
    subject: Subject | None = None
    tokens: tuple[int, ...] = ()
    """What it depends on, as clients are told."""
    moments: tuple[Instant, ...] = ()
    """When it changes by itself, in order: the bounds of all that is for a time."""
    memo: Memo = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "memo", Memo(self.moments))


@dataclass(frozen=True, slots=True)
class Consistency:
    """How fresh an answer must be, beyond what is promised anyway."""

    full: bool = False
    """Ask the store."""
    revision: int = 0
    """Have seen at least this one."""


AS_PROMISED = Consistency()


class Seen(NamedTuple):
    """What was found, and as of which revision it holds. `leased`: it stays true as long as nobody hears otherwise."""

    known: Known
    revision: int
    leased: bool


class Freshness:
    """The cache of this process, under its lease. Belongs to the event loop; reads of the store run on *reads*."""

    def __init__(self, reads: Pool, lookup_key: bytes, boot: Boot = boot_clock) -> None:
        self.cache: Cache[Known] = Cache(KNOWN, UNKNOWN)
        self.clients = ClientLeases()
        self.tail = Tail(self.cache, self.clients)
        self.lease = self.tail.lease
        self.boot = boot
        self.store_answers = True
        """Whether the last poll reached the store."""
        self.hits = self.misses = 0
        self.token = lru_cache(65_536)(lambda dependency: token_of(lookup_key, dependency))
        """Returns what stands for a dependency outside of Doorward."""
        self._flights: Flights[Known] = Flights(self.cache, self.lease)
        self._landings: dict[Flight[Known], asyncio.Task[None]] = {}
        self._reads = reads

    async def see(self, key: Hashable, read: Read, wanted: Consistency = AS_PROMISED) -> Seen:
        """Return what *key* stands for, from the cache if that may be, else by *read*.

        Raises what *read* raises, and Overloaded.
        """
        arrived = self.boot()
        if (seen := self._remembered(key, arrived, wanted)) is not None:
            return seen
        self.misses += 1
        if not self.store_answers and (stale := self._stale(key, wanted)) is not None:
            return stale
        try:
            return await self._read(key, read, arrived, wanted)
        except (StoreUnavailable, Overloaded):
            if (stale := self._stale(key, wanted)) is not None:
                return stale
            raise

    def recall(self, key: Hashable, wanted: Consistency = AS_PROMISED) -> Seen | None:
        """Return what `see` would return without waiting; None: it would ask the store."""
        return self._remembered(key, self.boot(), wanted)

    def _remembered(self, key: Hashable, arrived: int, wanted: Consistency) -> Seen | None:
        if arrived >= self.lease.until or wanted.full:
            return None
        cache = self.cache
        entry = cache.get(key)
        if entry is None:
            return None
        revision = entry.revision if entry.revision > cache.applied else cache.applied
        if revision < wanted.revision:
            return None
        self.hits += 1
        return Seen(entry.value, revision, True)

    async def _read(self, key: Hashable, read: Read, arrived: int, wanted: Consistency) -> Seen:
        while True:
            flight = self._flights.find(key) or self._begin(key, read)
            try:
                await asyncio.shield(self._landings[flight])
            except UnknownReference:
                if flight.began_at >= arrived:  # it may have been made since: what is not there is an answer, too
                    raise
            now, fill = self.boot(), flight.fill
            if fill is None or not self._flights.usable(flight, arrived, now):
                continue
            leased = (
                self.lease.live(now)
                and flight.generation == self.cache.generation
                and self.cache.fresh(fill.revision, fill.dependencies)
            )
            revision = max(fill.revision, self.cache.applied) if leased else fill.revision
            if flight.began_at >= arrived or (not wanted.full and revision >= wanted.revision):
                return Seen(fill.value, revision, leased)

    def _begin(self, key: Hashable, read: Read) -> Flight[Known]:
        flight = self._flights.begin(key, self.boot())
        task = asyncio.get_running_loop().create_task(self._fly(flight, read))
        self._landings[flight] = task
        task.add_done_callback(lambda _: self._landed(flight))
        return flight

    async def _fly(self, flight: Flight[Known], read: Read) -> None:
        # A task of its own: whoever began it may give up, and the others still wait for it.
        self._flights.land(flight, await self._reads.run(read))

    def _landed(self, flight: Flight[Known]) -> None:
        task = self._landings.pop(flight)
        if task.cancelled() or task.exception() is not None:
            self._flights.fail(flight)

    async def ask(self, read: Callable[[], T]) -> T:
        """Return what *read* reads of the store, for this call alone. Raises what it raises, and Overloaded."""
        return await self._reads.run(read)

    def _stale(self, key: Hashable, wanted: Consistency) -> Seen | None:
        """Return what was known before the store was lost, if operator and keyspace accept that by now."""
        if wanted != AS_PROMISED or not self.lease.stale_allowed(self.boot()):
            return None
        entry = self.cache.get(key)
        if entry is None or not entry.value.keyspace.serves_stale:
            return None
        return Seen(entry.value, self.cache.applied, leased=False)

    def tokens(self, dependencies: Iterable[Dependency]) -> tuple[int, ...]:
        """Return what clients are told that something depends on. For any thread."""
        return tuple(self.token(dependency) for dependency in dependencies)


def token_of(key: bytes, dependency: Dependency) -> int:
    """Return an opaque number for *dependency*, the same in every process that has *key*."""
    text = "\n".join(("depends", dependency.kind, dependency.organization, dependency.name))
    return int.from_bytes(hmac.digest(key, text.encode("utf-8", "surrogatepass"), sha256)[:8], "big")


def everything(dropped: Iterable[Dependency]) -> bool:
    """Tell whether *dropped* means all there is."""
    return ALL in dropped
