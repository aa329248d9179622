"""The leases that a replica gives to the caches inside its callers, over their `Lease` streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .dependency import ALL, Change, Dependency
from .lease import with_margin

_MOST_DROPPED = 1024
_DRIFT = 50
"""A fiftieth: by no more do the clocks of a client and a replica run apart within a lease."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What to write to a stream, in this order: the invalidation (if *invalidated*), then the pong (if *pong*).

    *revision* is that of both: everything up to it is in *dropped*, or was sent before. *dropped* is ALL alone if the
    client must drop everything. *pong* is the sequence number of the ping that is answered.
    """

    revision: int
    invalidated: bool
    dropped: frozenset[Dependency]
    pong: int | None


class LeaseStream:
    """One `Lease` stream. Its memory is bounded: what is not fetched yet is merged.

    `wake` is called, on the thread that queued it, whenever there is something to `fetch` or the stream was cut off.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.open = True
        """Whether it may go on. When it may not, end it with UNAVAILABLE, even in the middle of a write."""
        self._wake = wake
        self._pings: deque[tuple[int, int]] = deque()
        self._joined = False
        self._told = 0
        self._applied = 0
        self._grants: deque[tuple[int, int]] = deque()
        self._unsent: Sending | None = None
        self._unsent_since = 0

    def ping(self, sequence: int, applied: int, now: int) -> None:
        """Take a ping that arrived at *now* from a caller that is authorized as of now; then let the tail poll soon.

        *applied* is the revision that the client has applied on this stream, 0 before its first pong.
        """
        if not self.open:
            return
        # It cannot know more than it was told here: a number from another stream may be of another history.
        self._applied = max(self._applied, min(applied, self._told))
        self._settle()
        # Two are enough: the oldest, which the next poll may answer, and the newest, for the one after.
        if len(self._pings) == 2:
            self._pings.pop()
        self._pings.append((sequence, now))

    def fetch(self) -> Sending | None:
        """Return all that is to be written, or None."""
        sending, self._unsent = self._unsent, None
        if sending is not None:
            self._told = max(self._told, sending.revision)
        return sending

    def close(self) -> None:
        """Take note that the stream has ended. Its leases count until they run out."""
        self.open = False
        self._unsent = None
        self._pings.clear()

    def _cut_off(self) -> None:
        if self.open:
            self.close()
            self._wake()

    def _forget(self) -> None:
        """Count the client, until its last lease has run out, as one that knows nothing."""
        until = self._grants[-1][1] if self._grants else 0
        self._grants = deque([(0, until)])
        self._applied = 0

    def _invalidate(self, dropped: frozenset[Dependency], revision: int, now: int) -> None:
        if self.open and self._joined:  # before its first pong, a client has nothing to drop
            before = self._unsent
            dropped |= before.dropped if before is not None else frozenset()
            if ALL in dropped or len(dropped) > _MOST_DROPPED:
                dropped = frozenset((ALL,))
            self._queue(Sending(revision, True, dropped, before.pong if before is not None else None), now)

    def _answer(self, poll_started_at: int, revision: int, lasting: int) -> None:
        """Queue the pong for the newest ping that arrived before the poll began."""
        answered = None
        while self._pings and self._pings[0][1] <= poll_started_at:
            answered = self._pings.popleft()
        if answered is None:
            return
        sequence, arrived_at = answered
        before = self._unsent or Sending(revision, False, frozenset(), None)
        self._joined = True
        self._grants.append((revision, arrived_at + lasting))
        self._settle()
        self._queue(Sending(revision, before.invalidated, before.dropped, sequence), poll_started_at)

    def _permits(self, now: int) -> int | None:
        """Return the revision up to which the client cannot be behind; None: it has no lease."""
        while self._grants and self._grants[0][1] <= now:
            self._grants.popleft()
        return max(self._applied, self._grants[0][0]) if self._grants else None

    def _holds_until(self) -> int:
        return self._grants[0][1]

    def _quiet_at(self) -> int:
        return self._grants[-1][1] if self._grants else 0

    def _stuck(self, now: int, patience: int) -> bool:
        return self._unsent is not None and now - self._unsent_since > patience

    def _settle(self) -> None:
        """Merge the leases of pongs that tell the client no more than it knows, and those of one revision."""
        grants = self._grants
        while len(grants) > 1 and (grants[1][0] <= self._applied or grants[0][0] == grants[1][0]):
            grants.popleft()

    def _queue(self, sending: Sending, now: int) -> None:
        if self._unsent is None:
            self._unsent_since = now
        self._unsent = sending
        self._wake()


class ClientLeases:
    """All `Lease` streams of a process: the open ones, and those whose leases may still be live.

    It outlives a reset: a client's lease does not end because its replica registers anew.
    """

    def __init__(self) -> None:
        self._streams: list[LeaseStream] = []
        self._max_staleness = 0

    def __len__(self) -> int:
        """Count the open streams."""
        return sum(stream.open for stream in self._streams)

    @property
    def max_staleness(self) -> int:
        """What to write into each pong: for so long from when its ping was sent, the client's lease lasts."""
        return self._max_staleness

    def open(self, wake: Callable[[], None]) -> LeaseStream:
        """Return a new stream; see LeaseStream for *wake*."""
        stream = LeaseStream(wake)
        self._streams.append(stream)
        return stream

    def lease_for(self, max_staleness: int) -> None:
        """Let the leases given from now on last for *max_staleness*."""
        self._max_staleness = max_staleness

    def invalidate(self, changes: Iterable[Change], revision: int, now: int) -> None:
        """Tell every client what to drop, now that everything up to *revision* is applied here."""
        dropped = frozenset(change.dependency for change in changes)
        for stream in self._streams:
            stream._invalidate(dropped, revision, now)

    def answer(self, poll_started_at: int, revision: int) -> None:
        """Answer the pings that arrived before a poll began; what it brought, up to *revision*, is applied.

        Whoever has not fetched anything for two leases is cut off: what is sent to it proves nothing any more.
        """
        lasting = with_margin(self._max_staleness, _DRIFT)
        for stream in self._streams:
            if stream._stuck(poll_started_at, 2 * self._max_staleness):
                stream._cut_off()
            stream._answer(poll_started_at, revision, lasting)

    def acknowledged(self, applied: int, now: int) -> int:
        """Return the revision up to which this replica, at *applied*, and all clients with a lease know everything.

        A client counts until its leases have run out on this clock, whatever became of its stream. A lease whose pong
        told revision 7 holds back only what is newer: whoever uses it has applied 7.
        """
        permitted = [(stream, stream._permits(now)) for stream in self._streams]
        self._streams = [stream for stream, permits in permitted if stream.open or permits is not None]
        return min([applied, *(permits for _, permits in permitted if permits is not None)])

    def held_back_until(self, applied: int, now: int) -> int | None:
        """Return when the first of the leases that hold back *applied* runs out; None: none does."""
        permitted = [(stream, stream._permits(now)) for stream in self._streams]
        holding = [stream for stream, permits in permitted if permits is not None and permits < applied]
        return min((stream._holds_until() for stream in holding), default=None)

    def quiet_at(self) -> int:
        """Return the instant from which on no lease given here is live; 0: there never was one, or not for long."""
        return max((stream._quiet_at() for stream in self._streams), default=0)

    def start_over(self) -> None:
        """Cut off all streams. Until their leases have run out, their clients count as knowing nothing."""
        for stream in self._streams:
            stream._cut_off()
            stream._forget()
