"""A replica's view of the change log: what each poll means for its cache, its lease and its clients."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .cache import Cache
from .clients import ClientLeases
from .dependency import Change
from .lease import Lease


@dataclass(frozen=True, slots=True)
class Poll:
    """What one snapshot of the store gave. *replica* and *since* say what was asked: `Tail.replica`, `Tail.revision`.

    *started_at* is the boot clock's instant BEFORE the store was asked. *registered*: the replica's own row is there
    and not condemned. *nonce_at_since* is the nonce of revision *since*, None if the store has no such revision.
    *floor* is the highest revision that was pruned. *changes* are all rows after *since* up to *head*, in the order of
    their revisions; those of a first poll (*since* 0) are not looked at.
    """

    replica: str
    since: int
    started_at: int
    registered: bool
    head: int
    head_nonce: str
    floor: int
    nonce_at_since: str | None
    changes: tuple[Change, ...]


class ResetReason(StrEnum):
    """Why a replica must forget everything and register anew."""

    UNREGISTERED = "UNREGISTERED"
    """Its row is missing or condemned: mutations no longer wait for it."""
    OTHER_HISTORY = "OTHER_HISTORY"
    """The store's history is not the one it has followed: restored, or failed over."""
    PRUNED = "PRUNED"
    """Rows that it has not seen are gone from the log."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The first poll of a registration succeeded: the cache is open and the lease is live."""

    revision: int


@dataclass(frozen=True, slots=True)
class Taken:
    """All rows up to *revision* are applied, and the lease is extended; *rows* counts them."""

    revision: int
    rows: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Everything is forgotten, the lease has ended, the clients' streams are cut. Register under another id."""

    reason: ResetReason


class Tail:
    """Follows the log for one process. Register (committed), `registered`, poll, `take`, and so on.

    After every `take` that did not reset, `acknowledged` is what may be written to the store for `replica`.
    """

    def __init__(self, cache: Cache[Any], clients: ClientLeases) -> None:
        self.lease = Lease()
        self.replica = ""
        """The id to poll for; empty while not registered."""
        self.revision = 0
        """The revision to ask for changes since; 0 before the first poll of a registration."""
        self._nonce = ""
        self._joined = False
        self._cache = cache
        self._clients = clients
        self._max_staleness = 0
        self._serve_stale_for = 0

    def registered(self, replica: str, max_staleness: int, serve_stale_for: int = 0) -> None:
        """Begin to follow the log as *replica*, whose row, with these durations, is committed.

        *replica* must never have been used before, by any process: what was acknowledged under it would count.
        """
        self._forget()
        self.replica = replica
        self._max_staleness = max_staleness
        self._serve_stale_for = serve_stale_for
        self._clients.lease_for(max_staleness)

    def take(self, poll: Poll) -> Joined | Taken | Reset | None:
        """Apply *poll*: first all its rows, then the lease, then the pongs.

        None: it was asked for before this replica registered anew or left, or before another poll, and changed nothing.
        """
        if not self.replica or (poll.replica, poll.since) != (self.replica, self.revision):
            return None
        if (reason := self._problem(poll)) is not None:
            self._forget()
            return Reset(reason)
        joined = self._joined
        self._apply(poll)
        self._extend(poll)
        self._clients.answer(poll.started_at, poll.head)
        return Taken(poll.head, len(poll.changes)) if joined else Joined(poll.head)

    def acknowledged(self, now: int) -> int:
        """Return the revision that this replica and every client with a lease from it has applied; 0 before joining."""
        return self._clients.acknowledged(self.revision, now)

    def held_back_until(self, now: int) -> int | None:
        """Return when `acknowledged` rises next by time alone, because a client's lease runs out; None: it need not.

        Acknowledge again at that instant, not a poll later: the mutations that wait for a client that died are over a
        tenth of the lease later anyway, and condemn whom they found silent.
        """
        return self._clients.held_back_until(self.revision, now)

    def leave(self) -> None:
        """Stop answering from the cache, for good or until `registered`. The clients' leases run on: see `quiet_at`."""
        self._forget()

    def _apply(self, poll: Poll) -> None:
        if not self._joined:
            self._cache.start(poll.head)
            self._joined = True
        else:
            # Half of it earlier than it ends: so long may the store take to answer a poll.
            if not self.lease.live(poll.started_at + self._max_staleness // 2):
                self._cache.forget_ahead()
            self._cache.apply(poll.changes, poll.head)
            if poll.head > self.revision:
                self._clients.invalidate(poll.changes, poll.head, poll.started_at)
        self.revision, self._nonce = poll.head, poll.head_nonce

    def _extend(self, poll: Poll) -> None:
        self.lease.extend(poll.started_at, self._max_staleness, self._serve_stale_for)

    def _problem(self, poll: Poll) -> ResetReason | None:
        if not poll.registered:
            return ResetReason.UNREGISTERED
        if not self._joined:
            return None
        if poll.floor > self.revision:
            return ResetReason.PRUNED
        if poll.nonce_at_since != self._nonce:
            return ResetReason.OTHER_HISTORY
        return None

    def _forget(self) -> None:
        self.lease.end()
        self._cache.clear()
        self._clients.start_over()
        self.replica, self.revision, self._nonce, self._joined = "", 0, "", False
