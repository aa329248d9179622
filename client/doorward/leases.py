"""When a decision may be answered from the caller's own memory: the client's half of the freshness protocol.

Free of I/O, threads and clocks. Instants are whole nanoseconds of this process's boot clock (CLOCK_BOOTTIME: it never
steps, and runs in suspend); durations are nanoseconds. Whoever uses it from several threads must hold a lock for
everything but `get`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")
_MOST_SPARED = 16
"""So many used entries are passed by for one that is not, so that a full cache takes an answer in bounded time."""
_MOST_PINGS = 64
"""Pings without a pong that are remembered. A lease of one that is forgotten is a lease not taken."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call to the server that may be cached. Take it before sending."""

    sent_at: int
    generation: int


@dataclass(frozen=True, slots=True)
class Ping:
    """What to send on the stream: *applied* is the revision up to which everything that was told is applied."""

    sequence: int
    applied: int


class _Entry(Generic[T]):
    __slots__ = ("depends_on", "revision", "until", "used", "value")

    def __init__(self, value: T, revision: int, until: int, depends_on: tuple[int, ...]) -> None:
        self.value = value
        self.revision = revision
        self.until = until
        self.depends_on = depends_on
        self.used = False


class LeasedCache(Generic[T]):
    """Decisions by their whole request, usable while the lease is live.

    Of the `Lease` stream it must be told everything, in the order received. It wants a ping when a stream has opened,
    every half of a lease, and at once after an invalidation: mutations wait for that one.
    """

    def __init__(self, capacity: int, tombstones: int = 16_384) -> None:
        self.until = 0
        """The instant from which on the lease no longer holds."""
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._keys: dict[int, set[Hashable]] = {}
        self._tombstones: OrderedDict[int, int] = OrderedDict()
        self._most_tombstones = tombstones
        self._floor: int | None = None
        self._applied = 0
        self._generation = 0
        self._sequence = 0
        self._sent: dict[int, int] = {}

    def __len__(self) -> int:
        """Count the decisions remembered."""
        return len(self._entries)

    def get(self, key: Hashable, now: int) -> T | None:
        """Return the decision remembered under *key*. *now* is read after the caller asked."""
        if now >= self.until:
            return None
        entry = self._entries.get(key)
        if entry is None or now >= entry.until:
            return None
        entry.used = True
        return entry.value

    def begin(self, now: int) -> Call:
        """Return a call about to be sent, at *now*."""
        return Call(now, self._generation)

    def offer(
        self, key: Hashable, value: T, revision: int, depends_on: Iterable[int], cacheable_for: int, call: Call
    ) -> bool:
        """Remember what *call* was answered and return True, unless a change may have overtaken it.

        It is kept until *cacheable_for* from when it was sent.
        """
        depends_on = tuple(dict.fromkeys(depends_on))
        if cacheable_for <= 0 or call.generation != self._generation or not self._fresh(revision, depends_on):
            return False
        self._drop(key)
        self._entries[key] = _Entry(value, revision, call.sent_at + cacheable_for, depends_on)
        for token in depends_on:
            self._keys.setdefault(token, set()).add(key)
        if len(self._entries) > self._capacity:
            self._drop(self._surplus())
        return True

    def connected(self) -> None:
        """Take note of a new stream: nothing is known of what happened in between, so everything is forgotten."""
        self.clear()
        self._floor = None
        self._applied = 0

    def clear(self) -> None:
        """Forget everything, as a forked child must, too. Answers under way are not remembered."""
        self.until = 0
        self._generation += 1
        self._entries.clear()
        self._keys.clear()
        self._tombstones.clear()
        self._sent.clear()

    def ping(self, now: int) -> Ping:
        """Return the ping to send at *now*, before it is sent."""
        self._sequence += 1
        self._sent[self._sequence] = now
        if len(self._sent) > _MOST_PINGS:
            del self._sent[next(iter(self._sent))]
        return Ping(self._sequence, self._applied)

    def invalidated(self, revision: int, dropped: Iterable[int], everything: bool) -> None:
        """Drop what an invalidation names. It says nothing about the lease: it may have been long under way."""
        if everything:
            self._drop_before(revision)
            self._raise_floor(revision)
        for token in dropped:
            self._bury(token, revision)
        self._applied = max(self._applied, revision)

    def ponged(self, sequence: int, revision: int, max_staleness: int, now: int) -> None:
        """Extend the lease to *max_staleness* from when the ping was SENT. A pong to no ping is ignored."""
        sent_at = self._sent.get(sequence)
        if sent_at is None:
            return
        self._sent = {number: at for number, at in self._sent.items() if number > sequence}
        if self._floor is None:
            self._floor = revision
        elif now >= self.until:
            self._drop_ahead()
        self._applied = max(self._applied, revision)
        self.until = max(self.until, sent_at + max_staleness)

    def _fresh(self, revision: int, depends_on: tuple[int, ...]) -> bool:
        if self._floor is None or revision < self._floor:
            return False
        return all(self._tombstones.get(token, 0) <= revision for token in depends_on)

    def _bury(self, token: int, revision: int) -> None:
        for key in tuple(self._keys.get(token, ())):
            if self._entries[key].revision < revision:
                self._drop(key)
        # Their order is that of their revisions, so the first is the oldest.
        self._tombstones[token] = revision
        self._tombstones.move_to_end(token)
        if len(self._tombstones) > self._most_tombstones:
            self._raise_floor(self._tombstones.popitem(last=False)[1])

    def _raise_floor(self, revision: int) -> None:
        if self._floor is not None:
            self._floor = max(self._floor, revision)

    def _drop_before(self, revision: int) -> None:
        for key in [key for key, entry in self._entries.items() if entry.revision < revision]:
            self._drop(key)

    def _drop_ahead(self) -> None:
        """Drop what is newer than all that was told, and refuse what is being asked.

        After a gap, the store may have been restored to before it.
        """
        self._generation += 1
        for key in [key for key, entry in self._entries.items() if entry.revision > self._applied]:
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        for token in entry.depends_on if entry is not None else ():
            keys = self._keys[token]
            keys.discard(key)
            if not keys:
                del self._keys[token]

    def _surplus(self) -> Hashable:
        """Return the oldest key that was not asked for since it was last looked at."""
        for key in tuple(islice(self._entries, _MOST_SPARED)):
            entry = self._entries[key]
            if not entry.used:
                return key
            entry.used = False
            self._entries.move_to_end(key)
        return next(iter(self._entries))
