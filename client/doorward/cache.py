"""Decisions in the caller's own memory: which question an answer is to, how often it was given, what the server hears.

The protocol is `doorward.leases`. Here are its clock, its lock and its messages; `doorward.keeping` moves those.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from doorward.decision import Decision
from doorward.leases import Call, LeasedCache
from doorward.model import CacheInfo
from doorward.v1 import authz_pb2 as pb

MOST_KEYSPACES = 100
"""Of one organization, of whose decisions a cache may hold some: a ping names no more."""
MOST_ORGANIZATIONS = 100
"""In whose names leases are asked for, in turn; those that were asked about last."""
MOST_HITS = 200
"""Kinds of answers that are reported in one message."""
MOST_WAITING = 50_000
"""Kinds of answers that wait to be reported. Hits of more are lost to usage, and counted as lost."""
SOON = 0.02
"""Seconds until the next ping, while there is more to report than one can hold."""
LASTING = 1_000_000_000
"""Nanoseconds of a lease, until a server has said how long one lasts."""
LOST_AFTER = 3
"""Leases without a pong after which a stream is taken for dead, whatever the network says."""

PLAIN = frozenset((str, bool, int, float, type(None)))
"""Types of arguments whose `repr` tells any two values apart, also 1, 1.0 and True."""
Clock = Callable[[], int]
_BOOT = getattr(time, "CLOCK_BOOTTIME", None)


def boot_clock() -> int:
    """Return nanoseconds of a clock that never steps, and that runs on while the machine sleeps."""
    return time.monotonic_ns() if _BOOT is None else time.clock_gettime_ns(_BOOT)


class _Tally:
    """A count that any thread may raise, without a lock."""

    __slots__ = ("_count", "_taken")

    def __init__(self) -> None:
        self._count = count()  # its step is the one increment that no other thread can come between
        self._taken = 0

    def note(self) -> None:
        """Count one."""
        next(self._count)

    def take(self) -> int:
        """Return how many were counted since the last time. One thread at a time."""
        counted = next(self._count)
        taken, self._taken = counted - self._taken, counted + 1
        return taken


class _Kept(_Tally):
    """A decision, and how often it was given since that was reported."""

    __slots__ = ("decision", "last_at", "report", "waits")

    def __init__(self, decision: Decision, report: pb.LeaseRequest.Hits) -> None:
        super().__init__()
        self.decision = decision
        self.report = report
        self.waits = False
        """Whether it is among those to be reported."""
        self.last_at = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A question on its way to a server, and where its answer may be remembered."""

    cache: DecisionCache
    key: Hashable
    call: Call
    words: bytes | None = None
    """What stands for the words in which it was asked."""


class DecisionCache:
    """Decisions by their whole question. For any thread.

    The question is the serialized request, so no field of it can be forgotten, together with the principal that is
    acted for. Only a keyed hash of it is kept: a request holds the text of a key. Questions with `dry_run` or
    `consistency` are never answered from here, nor are their answers kept: the one must leave no trace, and the other
    asks for more than a cache promises. Batches are not either: their answers are all as of one revision.
    """

    def __init__(self, capacity: int, clock: Clock = boot_clock, keyspaces: Iterable[str] = ()) -> None:
        self.capacity = capacity
        self._clock = clock
        self._keyspaces = frozenset(keyspaces)
        self._closed = False
        self.forget()
        _CACHES.add(self)

    def forget(self) -> None:
        """Start anew with nothing, as a forked child must: neither the lease nor the lock is its own."""
        self._lock = threading.Lock()
        self._leases: LeasedCache[_Kept] = LeasedCache(self.capacity)
        self._key = os.urandom(32)
        self._touched: deque[_Kept] = deque()
        self._hits, self._asked = _Tally(), _Tally()
        self._counted = [0, 0]
        self._worded: dict[bytes, Hashable] = {}
        self._names: OrderedDict[str, dict[str, None]] = OrderedDict()
        self._under_way: deque[tuple[int, int]] = deque()
        self._lost = 0
        self._lasting = LASTING
        self._heard_at = 0

    # --- questions ----------------------------------------------------------------------------------------------------

    def key(self, request: pb.AuthorizeRequest, acting_for: str) -> Hashable | None:
        """Return what stands for a question; None for one that a cache must keep out of."""
        if request.dry_run or request.HasField("consistency"):
            return None
        whole = request.SerializeToString(deterministic=True)
        return acting_for, hashlib.blake2b(whole, digest_size=32, key=self._key).digest()

    def words(self, acting_for: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes | None:
        """Return what stands for a question in the very words of its caller: much is saved if it need not be put into a
        message. None if an argument is not plain, such as a dictionary.

        Equal words make equal requests, because a request is made of nothing else.
        """
        if not PLAIN.issuperset(map(type, (*args, *kwargs.values()))):
            return None
        said = repr((acting_for, args, kwargs)).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(said, digest_size=32, key=self._key).digest()

    def find_said(self, words: bytes) -> Decision | None:
        """As `find`, for a question that was asked in these words before. Takes no lock."""
        key = self._worded.get(words)
        return None if key is None else self.find(key)

    def find(self, key: Hashable) -> Decision | None:
        """Return the decision on a question, if it is known and the lease is live. Takes no lock."""
        kept = self._leases.get(key, self._clock())
        if kept is None:
            return None
        kept.note()
        kept.last_at = time.time_ns()
        if not kept.waits:
            kept.waits = True
            self._touched.append(kept)
        self._hits.note()
        return kept.decision

    def begin(self, key: Hashable, words: bytes | None = None) -> Asked:
        """Take note of a question that is about to be sent; nobody joins one that began before theirs."""
        self._asked.note()
        with self._lock:
            return Asked(self, key, self._leases.begin(self._clock()), words)

    def offer(
        self, asked: Asked, request: pb.AuthorizeRequest, answer: pb.AuthorizeResponse, decision: Decision
    ) -> bool:
        """Remember the answer to *asked*, and return True, if that may be.

        Whose key the caller may not know is not remembered: its hits could not be reported.
        """
        lasting = answer.lease_cacheable_for.ToNanoseconds()
        if lasting <= 0 or not answer.identity.key_id or self._closed:
            return False
        kept = _Kept(decision, _reported(request, answer))
        with self._lock:
            if not self._name(request.organization, request.keyspace):
                return False
            if not self._leases.offer(asked.key, kept, answer.revision, answer.depends_on, lasting, asked.call):
                return False
            if asked.words is not None:
                if len(self._worded) >= 2 * self.capacity:
                    self._worded = {}
                self._worded[asked.words] = asked.key
            return True

    def _name(self, organization: str, keyspace: str) -> bool:
        """See that pings name whose decisions are kept: only what the caller was just allowed to ask about."""
        if self._keyspaces and keyspace not in self._keyspaces:
            return False
        named = self._names.setdefault(organization, {})
        if keyspace not in named and len(named) >= MOST_KEYSPACES:
            return False
        named[keyspace] = None
        if len(self._names) > MOST_ORGANIZATIONS:
            self._names.popitem(last=False)
        return True

    def info(self) -> CacheInfo:
        """Return what became of the questions so far."""
        with self._lock:
            self._counted = [
                it + more.take() for it, more in zip(self._counted, (self._hits, self._asked), strict=True)
            ]
            hits, asked = self._counted
            leased = self._clock() < self._leases.until
            return CacheInfo(hits, asked, len(self._leases), self.capacity, leased, self._lost)

    # --- the stream ---------------------------------------------------------------------------------------------------

    @property
    def pause(self) -> float:
        """Seconds until the next ping is due."""
        return SOON if len(self._touched) >= MOST_HITS else self._lasting / 2 / 1e9

    @property
    def wanted(self) -> bool:
        """Whether there was an answer that a lease would be good for."""
        return bool(self._names)

    def connected(self) -> None:
        """Take note of a new stream, before anything is sent on it."""
        with self._lock:
            self._leases.connected()
            self._worded = {}
            self._lose()
            self._heard_at = self._clock()

    def refused(self) -> None:
        """Take note that the caller may not have the lease that it asked for: all is forgotten, and what the next one
        is asked for will be learned anew, from answers that it is still given.
        """
        with self._lock:
            self._leases.clear()
            self._worded = {}
            self._names.clear()

    def finished(self) -> None:
        """Take note that the server has read all that was said, up to the end of the stream."""
        with self._lock:
            self._under_way.clear()

    def close(self) -> None:
        """Give no more answers; what no server has confirmed to have heard of is lost."""
        self._closed = True
        with self._lock:
            self._leases.clear()
            self._worded = {}
            self._lose()

    def ping(self) -> pb.LeaseRequest:
        """Return what to send, at once: a ping, and the hits since the last."""
        with self._lock:
            hits = self._taken()
            ping = self._leases.ping(self._clock())
            if hits:
                self._under_way.append((ping.sequence, sum(hit.count for hit in hits)))
            organization, keyspaces = self._names.popitem(last=False) if self._names else ("", {})
            if keyspaces:
                self._names[organization] = keyspaces  # the others' turns come first
            return pb.LeaseRequest(
                ping=pb.LeaseRequest.Ping(sequence=ping.sequence, applied_revision=ping.applied),
                organization=organization,
                keyspaces=keyspaces,
                hits=hits,
            )

    def received(self, told: pb.LeaseResponse) -> bool:
        """Apply what the server said. Returns whether a ping is to be sent at once: somebody's change waits for it."""
        with self._lock:
            if told.HasField("invalidation"):
                it = told.invalidation
                self._leases.invalidated(it.revision, it.dropped, it.all)
                return True
            pong, now = told.pong, self._clock()
            self._lasting = pong.max_staleness.ToNanoseconds()
            self._heard_at = now
            self._leases.ponged(pong.sequence, pong.revision, self._lasting, now)
            while self._under_way and self._under_way[0][0] <= pong.sequence:
                self._under_way.popleft()
            return False

    def overdue(self) -> bool:
        """Tell whether the server has been silent for so long that the stream must be given up."""
        return self._clock() - self._heard_at > LOST_AFTER * self._lasting

    def reports(self) -> bool:
        """Tell whether there are hits that no ping has told of."""
        return bool(self._touched)

    def _taken(self) -> list[pb.LeaseRequest.Hits]:
        """Return the hits to report. What waits for its turn is kept, over any number of streams. What is on its way
        when a stream breaks is not sent again, and counts as lost: better some uncounted than some counted twice.
        """
        while len(self._touched) > MOST_WAITING:
            kept = self._touched.popleft()
            kept.waits = False
            self._lost += kept.take()
        hits: list[pb.LeaseRequest.Hits] = []
        while self._touched and len(hits) < MOST_HITS:
            kept = self._touched.popleft()
            kept.waits = False  # first: who notes one from here on has it reported with the next
            taken = kept.take()
            if taken:
                hit = pb.LeaseRequest.Hits(count=taken)
                hit.MergeFrom(kept.report)
                hit.last_at.FromNanoseconds(kept.last_at)
                hits.append(hit)
        return hits

    def _lose(self) -> None:
        self._lost += sum(count for _, count in self._under_way)
        self._under_way.clear()


def _reported(request: pb.AuthorizeRequest, answer: pb.AuthorizeResponse) -> pb.LeaseRequest.Hits:
    about = request.resource
    return pb.LeaseRequest.Hits(
        organization=answer.identity.organization,
        keyspace=request.keyspace,
        key_id=answer.identity.key_id,
        secret_id=answer.identity.secret_id,
        action=request.action,
        resource=f"{about.type}/{about.id}" if about.id else about.type,
        reason=answer.reason,
    )


_CACHES: weakref.WeakSet[DecisionCache] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_CACHES):
        cache.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
