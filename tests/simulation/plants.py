"""Planted bugs of the freshness protocol, to see that the simulation turns red. Only the tests know them.

`DOORWARD_PLANT=<name> pytest tests/simulation/test_simulation.py` runs with one. Each is a mistake that somebody could
make in one clause, as a wrong version of one part of the simulated world.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import Any

from doorward.leases import Call, LeasedCache
from doorward_server.core.freshness import (
    Cache,
    Change,
    ClientLeases,
    Dependency,
    Fill,
    Flight,
    Flights,
    Graveyard,
    Poll,
    RegistryRow,
    ResetReason,
    Tail,
    Wait,
)
from tests.simulation.replica import Replica, late, read, take
from tests.simulation.scheduler import Task
from tests.simulation.store import Row, Store, Value, dependencies, logged
from tests.simulation.wire import Client
from tests.simulation.world import MAX_STALENESS, Parts

PLANTS: dict[str, Callable[[Parts], None]] = {}
Decisions = LeasedCache[tuple[Value]]


def plant(spoil: Callable[[Parts], None]) -> Callable[[Parts], None]:
    """Register a plant under the name of its function."""
    PLANTS[spoil.__name__.replace("_", "-")] = spoil
    return spoil


def planted(name: str) -> Parts:
    """Return the world's parts, one of them spoiled; "" for none. Raises KeyError for a name that is not there."""
    parts = Parts()
    if name:
        PLANTS[name](parts)
    return parts


# --- fills ------------------------------------------------------------------------------------------------------------


@plant
def fence_off(parts: Parts) -> None:
    class Wrong(Cache[Value]):
        def fresh(self, revision: int, dependencies: Iterable[Dependency]) -> bool:
            return self._floor is not None

    parts.cache = Wrong


@plant
def no_tombstone(parts: Parts) -> None:
    class Wrong(Cache[Value]):
        def apply(self, changes: Iterable[Change], revision: int) -> None:
            super().apply(changes, revision)
            self._tombstones.clear()

    parts.cache = Wrong


@plant
def tombstones_that_had_to_go_leave_no_floor(parts: Parts) -> None:
    class Wrong(Cache[Value]):
        def _raise_floor(self, revision: int) -> None:
            pass

    parts.cache = Wrong


@plant
def flight_joined_by_a_later_caller(parts: Parts) -> None:
    class Wrong(Flights[Value]):
        def usable(self, flight: Flight[Value], arrived_at: int, now: int) -> bool:
            return flight.fill is not None

    parts.flights = Wrong


@plant
def error_cached(parts: Parts) -> None:
    def failed(replica: Replica, flight: Flight[Value]) -> None:
        gone = dependencies(str(flight.key), None)
        replica.flights.land(flight, Fill(None, replica.cache.applied, gone, known=False))

    parts.failed = failed


@plant
def counter_read_in_another_snapshot(parts: Parts) -> None:
    def wrong(replica: Replica, key: str) -> Generator[Any, Any, tuple[Value, int]]:
        value, _ = yield from read(replica, key)
        _, revision = yield from replica.ask(replica.world.store.index)
        return value, revision

    parts.read = wrong


@plant
def parts_from_two_revisions(parts: Parts) -> None:
    def wrong(replica: Replica, key: str) -> Generator[Any, Any, tuple[Value, int]]:
        first, _ = yield from read(replica, key)
        second, revision = yield from replica.ask(lambda: replica.world.store.read(key))
        return second if first is None or second is None else (first[0], *second[1:]), revision

    parts.read = wrong


# --- the tail ---------------------------------------------------------------------------------------------------------


@plant
def lease_from_the_end_of_the_poll(parts: Parts) -> None:
    class Wrong(Tail):
        ended_at = 0

        def _extend(self, poll: Poll) -> None:
            super()._extend(replace(poll, started_at=self.ended_at))

    def wrong(replica: Replica, poll: Poll) -> Task:
        yield from late(replica)
        replica.tail.ended_at = replica.clock()  # type: ignore[attr-defined]  # it is the wrong one
        replica.take(poll)

    parts.tail, parts.take = Wrong, wrong


@plant
def lease_extended_before_the_rows_are_applied(parts: Parts) -> None:
    def wrong(replica: Replica, poll: Poll) -> Task:
        if replica.tail.replica == poll.replica and replica.tail._problem(poll) is None:
            replica.tail._extend(poll)
        yield from take(replica, poll)

    parts.take = wrong


@plant
def ack_before_apply(parts: Parts) -> None:
    def wrong(replica: Replica, poll: Poll) -> Task:
        replica.spawn(replica._acknowledge(poll.replica, poll.head))
        yield from take(replica, poll)

    parts.take = wrong


@plant
def no_own_row_check(parts: Parts) -> None:
    class Wrong(Tail):
        def take(self, poll: Poll) -> Any:
            return super().take(replace(poll, registered=True))

    parts.tail = Wrong


@plant
def restored_database_not_noticed(parts: Parts) -> None:
    class Wrong(Tail):
        def _problem(self, poll: Poll) -> ResetReason | None:
            reason = super()._problem(poll)
            return None if reason is ResetReason.OTHER_HISTORY else reason

    parts.tail = Wrong


@plant
def pruned_log_not_noticed(parts: Parts) -> None:
    class Wrong(Tail):
        def _problem(self, poll: Poll) -> ResetReason | None:
            if poll.floor >= self.revision:
                poll = replace(poll, floor=0, nonce_at_since=self._nonce)
            return super()._problem(poll)

    parts.tail = Wrong


# --- the store --------------------------------------------------------------------------------------------------------


@plant
def sequence_instead_of_commit_order(parts: Parts) -> None:
    class Wrong(Store):
        _sequence = 0

        def begin(self) -> int:
            self._sequence = max(self._sequence, self.now.revision) + 1
            return self._sequence

        def _next_revision(self, begun: int) -> int:
            return begun or self.begin()

    parts.store = Wrong


@plant
def group_change_names_only_the_group(parts: Parts) -> None:
    def wrong(row: Row) -> tuple[Row, ...]:
        return (("PRINCIPAL", row[1], row[2]),) if row[0] == "GROUP" else logged(row)

    parts.logged = wrong


@plant
def new_key_does_not_name_its_lookup(parts: Parts) -> None:
    parts.logged = lambda row: logged(row)[:1]


# --- waiting ----------------------------------------------------------------------------------------------------------


@plant
def registry_read_before_commit(parts: Parts) -> None:
    parts.registry_before_commit = True


@plant
def early_return_of_a_no_change_revoke(parts: Parts) -> None:
    parts.no_change_waits = False


@plant
def condemned_row_deleted_at_once(parts: Parts) -> None:
    class Wrong(Graveyard):
        def look(self, rows: Iterable[RegistryRow], now: int) -> list[str]:
            return [row.id for row in rows if row.condemned]

    parts.graveyard = Wrong


@plant
def condemned_rows_are_not_waited_for(parts: Parts) -> None:
    parts.wait = lambda revision, rows, now, own: Wait(revision, [row for row in rows if not row.condemned], now, own)


@plant
def expires_before_the_last_lease(parts: Parts) -> None:
    class Wrong(Wait):
        def __init__(self, revision: int, rows: Iterable[RegistryRow], now: int, own: RegistryRow | None) -> None:
            super().__init__(revision, rows, now, own)
            self.deadline = now + MAX_STALENESS // 2

    parts.wait = Wrong


@plant
def stale_serving_is_not_waited_for(parts: Parts) -> None:
    def wrong(revision: int, rows: list[RegistryRow], now: int, own: RegistryRow) -> Wait:
        fresh = [replace(row, serve_stale_for=0) for row in rows]
        return Wait(revision, fresh, now, replace(own, serve_stale_for=0))

    parts.wait = wrong


# --- the clients' leases, on the replica ------------------------------------------------------------------------------


@plant
def clients_are_not_waited_for(parts: Parts) -> None:
    class Wrong(ClientLeases):
        def acknowledged(self, applied: int, now: int) -> int:
            return applied

    parts.clients = Wrong


@plant
def client_counted_only_while_its_stream_is_open(parts: Parts) -> None:
    class Wrong(ClientLeases):
        def acknowledged(self, applied: int, now: int) -> int:
            self._streams = [stream for stream in self._streams if stream.open]
            return super().acknowledged(applied, now)

    parts.clients = Wrong


@plant
def pong_of_a_poll_begun_before_the_ping(parts: Parts) -> None:
    class Wrong(ClientLeases):
        def answer(self, poll_started_at: int, revision: int) -> None:
            super().answer(poll_started_at + MAX_STALENESS, revision)

    parts.clients = Wrong


@plant
def no_invalidation_without_a_live_lease(parts: Parts) -> None:
    class Wrong(ClientLeases):
        def invalidate(self, changes: Iterable[Change], revision: int, now: int) -> None:
            every, live = self._streams, [it for it in self._streams if it._permits(now) is not None]
            self._streams = live
            super().invalidate(changes, revision, now)
            self._streams = every

    parts.clients = Wrong


# --- the clients' leases, in the client -------------------------------------------------------------------------------


def in_clients(parts: Parts, wrong: type[Decisions]) -> None:
    """Let the clients have another cache."""
    parts.client = lambda client, entries, tombstones: wrong(entries, tombstones)


@plant
def client_lease_from_receipt_of_the_pong(parts: Parts) -> None:
    class Wrong(Decisions):
        def ponged(self, sequence: int, revision: int, max_staleness: int, now: int) -> None:
            self._sent = dict.fromkeys(self._sent, now)
            super().ponged(sequence, revision, max_staleness, now)

    in_clients(parts, Wrong)


@plant
def client_takes_a_push_for_a_pong(parts: Parts) -> None:
    class Wrong(Decisions):
        client: Client

        def invalidated(self, revision: int, dropped: Iterable[int], everything: bool) -> None:
            super().invalidated(revision, dropped, everything)
            self.until = max(self.until, self.client.clock() + MAX_STALENESS)

    def make(client: Client, entries: int, tombstones: int) -> Decisions:
        cache = Wrong(entries, tombstones)
        cache.client = client
        return cache

    parts.client = make


@plant
def client_has_no_floor_on_a_new_stream(parts: Parts) -> None:
    class Wrong(Decisions):
        def connected(self) -> None:
            super().connected()
            self._floor = 0

    in_clients(parts, Wrong)


@plant
def client_keeps_its_entries_on_a_new_stream(parts: Parts) -> None:
    class Wrong(Decisions):
        def clear(self) -> None:
            self._generation += 1

    in_clients(parts, Wrong)


@plant
def client_keeps_answers_from_before_the_stream(parts: Parts) -> None:
    class Wrong(Decisions):
        def offer(
            self, key: Any, value: Any, revision: int, depends_on: Iterable[int], cacheable_for: int, call: Call
        ) -> bool:
            call = replace(call, generation=self._generation)
            return super().offer(key, value, revision, depends_on, cacheable_for, call)

        def connected(self) -> None:
            super().connected()
            self._floor = 0

    in_clients(parts, Wrong)


@plant
def client_leaves_no_tombstone(parts: Parts) -> None:
    class Wrong(Decisions):
        def invalidated(self, revision: int, dropped: Iterable[int], everything: bool) -> None:
            super().invalidated(revision, dropped, everything)
            self._tombstones.clear()

    in_clients(parts, Wrong)


@plant
def client_acknowledges_before_it_drops(parts: Parts) -> None:
    class Wrong(Decisions):
        told: tuple[int, list[int], bool] = (0, [], False)

        def invalidated(self, revision: int, dropped: Iterable[int], everything: bool) -> None:
            super().invalidated(*self.told)
            self.told = (revision, list(dropped), everything)
            self._applied = max(self._applied, revision)

    in_clients(parts, Wrong)
