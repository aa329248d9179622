"""Planted bugs: wrong versions of what keeps caches fresh, put into the replicas of a run. Only the tests know them.

Some mistakes show only in a narrow moment. Those come with something slow that widens it: a read, a poll, a turn of the
log. That alone is no mistake, and `slow` shows it: a run with nothing but the slowness passes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from doorward.cache import DecisionCache
from doorward.leases import LeasedCache
from doorward_server.core.freshness import Cache, Flights, Lease, Outcome, Tail, Wait
from doorward_server.service.catalog import Catalog
from doorward_server.service.finding import Finder
from doorward_server.service.freshness import boot_clock
from doorward_server.service.keys import Keys
from doorward_server.service.waiting import Waiting
from doorward_server.store import changes, tail
from doorward_server.store.dialect import Sqlite

Spoil = Callable[[], None]
DICE = Random()
SLOW_READ, SLOWEST_READ, SLOW_POLL, SLOWEST_PONG = 0.06, 0.4, 0.08, 1.2
"""Seconds, at most."""
MEANWHILE = 5_000_000_000
"""Nanoseconds."""


@dataclass(frozen=True, slots=True)
class Plant:
    """A mistake that somebody could make."""

    clause: str
    """What it does, against design.md section 6."""
    backends: tuple[str, ...]
    """The stores on which it is looked for: both, or the one that it concerns."""
    faults: tuple[str, ...]
    """The faults under which it is looked for; none: all."""
    plant: Spoil


PLANTS: dict[str, Plant] = {}
"""By name."""
BOTH = ("sqlite", "postgresql")
STOPPED = ("stopped for longer than L",)
CUT_OFF = ("database: half-open", "database: stalled", "database: answers dropped")
MOMENT = ("stopped for a moment",)
DELAYED = ("callers: stalled", "callers: half-open", "callers: answers dropped", "stopped for a moment")
COMING = ("left and came", "killed and started", "stopped for a moment")


def plant(clause: str, *, on: tuple[str, ...] = BOTH, under: tuple[str, ...] = ()) -> Callable[[Spoil], Spoil]:
    """Register a plant under the name of its function."""

    def register(spoil: Spoil) -> Spoil:
        PLANTS[spoil.__name__.replace("_", "-")] = Plant(clause, on, under, spoil)
        return spoil

    return register


def put(where: object, name: str, wrong: object) -> None:
    """Replace an attribute of a module or a class."""
    assert hasattr(where, name), f"{where} has no {name}: the plant is out of date"
    setattr(where, name, wrong)


# --- what is slow, and no mistake -------------------------------------------------------------------------------------


def _slow_reads(most: float = SLOW_READ) -> None:
    right = Finder._read_key

    def read_key(self: Finder, name: str, lookup: str) -> Any:
        fill = right(self, name, lookup)
        time.sleep(DICE.random() * most)
        return fill

    put(Finder, "_read_key", read_key)


def _slow_polls(
    after: Callable[[Any, Any], None] = lambda connection, poll: None, seconds: Callable[[], float] = DICE.random
) -> None:
    """Have polls take their time between the snapshot and what is made of it; *after* is done at once."""
    for connection in (tail.SqliteTail, tail.PostgresqlTail):
        right: Any = connection.poll

        def poll(self: Any, *asked: Any, right: Any = right) -> Any:
            found = right(self, *asked)
            after(self, found)
            time.sleep(seconds() * SLOW_POLL)
            return found

        put(connection, "poll", poll)


def _slow_pongs() -> None:
    received = DecisionCache.received

    def slowly(self: DecisionCache, told: Any) -> bool:
        if told.HasField("pong"):
            time.sleep(DICE.random() * SLOWEST_PONG)
        return received(self, told)

    put(DecisionCache, "received", slowly)


@plant("nothing: reads, polls and what callers' caches are told are slow, and no promise is broken by that")
def slow() -> None:
    _slow_reads()
    _slow_polls()
    _slow_pongs()


# --- fills ------------------------------------------------------------------------------------------------------------


@plant("6.3: the fence is off: a fill that a change has overtaken is kept")
def fence_off() -> None:
    _slow_reads()
    put(Cache, "fresh", lambda self, revision, dependencies: self._floor is not None)


@plant("6.3: an invalidation drops entries and leaves no tombstone")
def no_tombstone() -> None:
    _slow_reads()
    right = Cache._bury

    def bury(self: Any, change: Any) -> None:
        right(self, change)
        self._tombstones.pop(change.dependency, None)

    put(Cache, "_bury", bury)


@plant("6.3: a caller is given what a read found that began before it, whatever was changed meanwhile")
def flight_joined_by_a_later_caller() -> None:
    _slow_reads(SLOWEST_READ)
    put(Flights, "usable", lambda self, flight, arrived_at, now: flight.fill is not None)


@plant("6.3: a record is joined from two revisions: its keyspace was read a moment before", under=MOMENT)
def parts_from_two_revisions() -> None:
    right = Catalog.compiled
    before: dict[str, tuple[float, Any]] = {}

    def compiled(self: Catalog, name: str, source: str | None) -> Any:
        read_at, keyspace = before.get(name, (0.0, None))
        if keyspace is None or time.monotonic() - read_at > SLOWEST_READ:
            keyspace = right(self, name, source)
            before[name] = time.monotonic(), keyspace
        return keyspace

    put(Catalog, "compiled", compiled)


# --- the lease --------------------------------------------------------------------------------------------------------


@plant("6.2: the lease is counted from the end of the poll", under=STOPPED)
def lease_from_the_end_of_the_poll() -> None:
    _slow_polls(seconds=lambda: 2.0)  # a replica that is stopped is mostly stopped there
    right = Lease.extend
    put(Lease, "extend", lambda self, started_at, *durations: right(self, boot_clock(), *durations))


@plant("6.2: the lease never ends", on=("postgresql",), under=CUT_OFF)
def lease_for_ever() -> None:
    put(Lease, "extend", lambda self, started_at, lasting, stale: setattr(self, "until", 1 << 62))


@plant("6.5: a replica whose row is condemned or gone goes on as before", under=STOPPED)
def goes_on_without_its_row() -> None:
    _slow_polls()
    right = Tail._problem
    put(Tail, "_problem", lambda self, poll: right(self, replace(poll, registered=True)))


# --- the log ----------------------------------------------------------------------------------------------------------


@plant("6.1: one table has no trigger, and the check at the start does not know", under=MOMENT)
def trigger_missing() -> None:
    put(changes, "ENTRIES", {table: it for table, it in changes.ENTRIES.items() if table != "membership"})


@plant("6.1: a change of a group names the group, and not its member", under=MOMENT)
def group_change_names_only_the_group() -> None:
    wrong = changes.Entry("'PRINCIPAL'", "{row}.organization", "{row}.group_id")
    put(changes, "ENTRIES", changes.ENTRIES | {"membership": (wrong,)})


@plant("6.2: data_version is read on a connection that this process writes on, too", on=("sqlite",))
def data_version_on_a_pooled_connection() -> None:
    tails: list[Any] = []
    opened, committed = tail.SqliteTail.__init__, Sqlite.commit

    def open_tail(self: Any, *with_what: Any) -> None:
        opened(self, *with_what)
        self._version_of_mine = threading.Event()
        tails.append(self)

    def commit(self: Sqlite) -> int:
        revision = committed(self)
        for it in tails:
            it._version_of_mine.set()
        return revision

    polled = tail.SqliteTail.poll

    def poll(self: Any, *asked: Any) -> Any:
        # A connection does not see its own commits in data_version.
        if self._version_of_mine.is_set() and self._seen is not None:
            self._version_of_mine.clear()
            ((self._version,),) = self._rows("PRAGMA data_version")
        return polled(self, *asked)

    put(tail.SqliteTail, "__init__", open_tail)
    put(tail.SqliteTail, "poll", poll)
    put(Sqlite, "commit", commit)


# --- waiting ----------------------------------------------------------------------------------------------------------


@plant("6.5: what a poll found is acknowledged before it is applied")
def acknowledged_before_applied() -> None:
    def acknowledge(connection: Any, poll: Any) -> None:
        if poll.registered:
            connection.acknowledge(poll.replica, poll.head)

    _slow_polls(acknowledge)


@plant("6.5: the registry was read before the commit: who registered meanwhile is not waited for", under=COMING)
def registry_read_before_the_commit() -> None:
    _slow_polls()
    right = Waiting._read
    seen: dict[str, int] = {}

    def read(self: Any, *asked: bool) -> Any:
        head, rows, acknowledged = right(self, *asked)
        now = boot_clock()
        before = now - MEANWHILE if seen else 0
        for row in rows:
            seen.setdefault(row.id, now if before else 0)
        own = self._membership.id
        return head, [row for row in rows if row.id == own or seen[row.id] <= before], acknowledged

    put(Waiting, "_read", read)


@plant("6.5: a change that finds nothing to change returns at once", under=MOMENT)
def early_return_of_a_revoke_without_change() -> None:
    _slow_polls(seconds=lambda: 2.0)
    right = Keys.revoke

    def revoke(self: Any, *asked: Any) -> Any:
        began = self._clock()
        written = right(self, *asked)
        return replace(written, revision=0) if (written.value.revoked_at or 0) < began else written

    put(Keys, "revoke", revoke)


@plant("6.5: a change does not wait until old leases have run out", under=MOMENT + CUT_OFF)
def gives_up_early() -> None:
    _slow_polls(seconds=lambda: 2.0)
    right = Wait.outcome
    put(Wait, "outcome", lambda self, acknowledged, now: right(self, acknowledged, now + 900_000_000))


@plant("6.5: changes wait for nobody")
def waiting_off() -> None:
    async def wait(self: Waiting, revision: int) -> Outcome:
        return Outcome.ACKNOWLEDGED

    put(Waiting, "wait", wait)


# --- the caches in callers --------------------------------------------------------------------------------------------


@plant("6.4: a cache acknowledges what it has not dropped", under=MOMENT)
def client_drops_nothing() -> None:
    put(LeasedCache, "_bury", lambda self, token, revision: None)


@plant("6.4: a lease is counted from when the pong came, not from when its ping was sent", under=MOMENT)
def client_lease_from_receipt() -> None:
    _slow_pongs()
    right = LeasedCache.ponged

    def ponged(self: Any, sequence: int, revision: int, max_staleness: int, now: int) -> None:
        self._sent = dict.fromkeys(self._sent, now)
        right(self, sequence, revision, max_staleness, now)

    put(LeasedCache, "ponged", ponged)


@plant("6.4: what comes over the stream extends the lease, although it answers no ping", under=DELAYED)
def client_takes_a_push_for_a_pong() -> None:
    right = LeasedCache.invalidated

    def invalidated(self: Any, revision: int, dropped: Any, everything: bool) -> None:
        right(self, revision, dropped, everything)
        self.until = max(self.until, boot_clock() + 1_000_000_000)

    put(LeasedCache, "invalidated", invalidated)


@plant("6.4: what was kept before a new stream is still used, and the lease goes on", under=DELAYED)
def client_keeps_its_entries_on_a_new_stream() -> None:
    put(LeasedCache, "connected", lambda self: None)


@plant("6.4: a decision is kept without one of the fields of its question", under=MOMENT)
def client_forgets_a_field() -> None:
    right = DecisionCache.key

    def key(self: DecisionCache, request: Any, acting_for: str) -> Any:
        less = type(request)()
        less.CopyFrom(request)
        less.ClearField("key")
        return right(self, less, acting_for)

    put(DecisionCache, "key", key)
