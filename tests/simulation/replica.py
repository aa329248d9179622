"""A simulated replica: the product's freshness classes, wired as the product wires them, over simulated I/O."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from doorward_server.core.freshness import (
    Cache,
    ClientLeases,
    Fill,
    Flight,
    Flights,
    Graveyard,
    Outcome,
    Poll,
    RegistryRow,
    Reset,
    Tail,
)
from tests.simulation.scheduler import MS, SECOND, Broken, Gate, Process, Remote, Task
from tests.simulation.store import KEYS, Row, Value, dependencies

if TYPE_CHECKING:
    from tests.simulation.wire import Wire
    from tests.simulation.world import World

POLL_EVERY = 100 * MS
TIMEOUT = 400 * MS


@dataclass(frozen=True, slots=True)
class Answer:
    """What an Authorize is answered."""

    value: Value
    revision: int
    cacheable: bool
    stale: bool = False


Reply = Callable[[Answer | None], None]


class Replica(Process):
    """One worker process. It may die and start again; every start is another life with nothing in memory."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.scheduler, name)
        self.world = world
        self.cut_off_until = 0
        """True time until which it does not reach the store."""
        self.hits = 0
        self.starved_until = 0
        """True time until which its tail's thread does not run."""
        self.serve_stale_for = world.serve_stale_for if world.scheduler.chance(0.5) else 0
        self.boot()

    def boot(self) -> None:
        """Start with an empty memory."""
        parts = self.world.parts
        random = self.scheduler.random
        self.rise()
        self.cache: Cache[Value] = parts.cache(
            random.choice((3, 100)), random.choice((1, 2, 100)), random.choice((2, 100))
        )
        self.clients: ClientLeases = parts.clients()
        self.tail: Tail = parts.tail(self.cache, self.clients)
        self.flights: Flights[Value] = parts.flights(self.cache, self.tail.lease)
        self.graveyard: Graveyard = parts.graveyard()
        self.row: RegistryRow | None = None
        self.serving = False
        self._leaving = False
        self._acknowledged = ("", 0)
        self._held = 0
        self.wires: list[Wire] = []
        self._landed: dict[Flight[Value], Gate] = {}
        self._hint = Gate()
        self.spawn(self._follow())
        self.spawn(self._bury())

    # --- the store ----------------------------------------------------------------------------------------------------

    def ask(self, do: Callable[[], Any], slow: int = 0) -> Generator[Any, Any, Any]:
        """Ask the store, or raise Broken after a while."""
        between = self.scheduler.between
        most = self.world.store_delay

        def reached() -> Any:
            if self.scheduler.now < self.cut_off_until:
                raise Broken
            return do()

        begun = self.clock()
        there, back = between(0, slow), between(0, slow)
        result = yield Remote(reached, between(MS // 10, most) + there, between(MS // 10, most) + back)
        if self.clock() - begun > 3 * TIMEOUT:
            raise Broken
        return result

    # --- the tail -----------------------------------------------------------------------------------------------------

    def _follow(self) -> Task:
        while not self._leaving:
            try:
                if not self.tail.replica:
                    yield from self._register()
                yield from self._poll()
            except Broken:
                yield self.scheduler.between(MS, TIMEOUT)
            else:
                yield from self._rest()

    def _register(self) -> Task:
        row = RegistryRow(self.world.new_id(), self.world.max_staleness, self.serve_stale_for)
        before = self.row.id if self.row is not None else ""
        store = self.world.store
        yield from self.ask(lambda: store.register(row, before))
        self.row = row
        self.tail.registered(row.id, row.max_staleness, row.serve_stale_for)

    def _poll(self) -> Task:
        replica, since = self.tail.replica, self.tail.revision
        started_at = self.clock()
        poll = yield from self.ask(lambda: self.world.store.poll(replica, since, started_at))
        yield from self.world.parts.take(self, poll)

    def take(self, poll: Poll) -> None:
        """Take a poll, on the event loop."""
        before = self.tail.revision
        taken = self.tail.take(poll)
        if taken is None:
            return
        if isinstance(taken, Reset):
            self.world.count(f"reset {taken.reason}")
            return
        self.serving = True
        self.world.count("polls")
        self.world.count("invalidations", len(poll.changes) if before else 0)
        self.acknowledge()

    def acknowledge(self) -> None:
        """Let the store know what everybody here knows."""
        now = self.clock()
        replica, revision = self.tail.replica, self.tail.acknowledged(now)
        if (replica, revision) != self._acknowledged or self.scheduler.chance(0.2):
            self._acknowledged = (replica, revision)
            if not self.scheduler.chance(self.world.lossy):
                self.spawn(self._acknowledge(replica, revision))
        held = self.tail.held_back_until(now)
        if held is not None and held != self._held:
            self._held = held
            self.later(held - now, self.acknowledge)

    def _acknowledge(self, replica: str, revision: int) -> Task:
        with suppress(Broken):
            yield from self.ask(lambda: self.world.store.acknowledge(replica, revision))

    def hint(self) -> None:
        """Poll now, or as soon as the poll under way is over."""
        self._hint.open()

    def _rest(self) -> Task:
        self.later(self.scheduler.random.randint(POLL_EVERY // 2, POLL_EVERY), self._hint.open)
        yield self._hint
        self._hint = Gate()

    def _bury(self) -> Task:
        while True:
            yield SECOND
            try:
                rows = yield from self.ask(self.world.store.registry)
                dead = self.graveyard.look(rows, self.clock())
                if dead:
                    yield from self.ask(partial(self.world.store.delete, dead))
                    self.world.count("rows deleted", len(dead))
            except Broken:
                pass

    def leave(self) -> None:
        """Stop serving, say goodbye in the registry, end."""
        self.serving, self._leaving = False, True
        row, quiet = self.row, self.clients.quiet_at() <= self.clock()
        self.tail.leave()
        store = self.world.store
        farewell = store.delete if quiet else store.condemn

        def goodbye() -> Task:
            try:
                if row is not None:
                    yield from self.ask(lambda: farewell([row.id]))
            except Broken:
                pass
            self.world.kill(self)

        self.spawn(goodbye())

    # --- Authorize ----------------------------------------------------------------------------------------------------

    def authorize(self, key: str, reply: Reply) -> None:
        """Answer an Authorize that has arrived; None is UNAVAILABLE."""
        if not self.serving:
            reply(None)
            return
        now = self.clock()
        entry = self.cache.get(key) if self.tail.lease.live(now) else None
        if entry is None:
            self.spawn(self._miss(key, now, reply))
            return
        self.hits += 1
        self.world.count("hits" if entry.value is not None else "negative hits")
        reply(Answer(entry.value, max(entry.revision, self.cache.applied), cacheable=True))

    def _miss(self, key: str, arrived_at: int, reply: Reply) -> Task:
        while True:
            flight = self.flights.find(key)
            if flight is None:
                flight = self.flights.begin(key, self.clock())
                self._landed[flight] = Gate()
                self.spawn(self._fly(flight))
            elif flight.began_at < arrived_at:
                self.world.count("joined")
            gate = self._landed[flight]
            yield gate
            if flight.fill is None:
                self._outage(key, reply)
                return
            if self.flights.usable(flight, arrived_at, self.clock()):
                self.world.count("filled")
                reply(Answer(flight.fill.value, flight.fill.revision, cacheable=True))
                return
            self.world.count("read again")

    def _fly(self, flight: Flight[Value]) -> Task:
        key = str(flight.key)
        try:
            value, revision = yield from self.world.parts.read(self, key)
        except Broken:
            self.world.parts.failed(self, flight)
        else:
            fill = Fill(value, revision, dependencies(key, value), known=value is not None)
            self.flights.land(flight, fill)
        self._landed.pop(flight).open()

    def _outage(self, key: str, reply: Reply) -> None:
        entry = self.cache.get(key) if self.tail.lease.stale_allowed(self.clock()) else None
        if entry is None:
            reply(None)
        else:
            self.world.count("served stale")
            reply(Answer(entry.value, self.cache.applied, cacheable=False, stale=True))

    # --- mutations ----------------------------------------------------------------------------------------------------

    def mutate(self, row: Row, delete: bool, wait: bool, unless: int | None) -> None:
        """Change a row, unless its version is not *unless* any more: then there is nothing to change."""
        if self.serving:
            self.spawn(self._mutate(row, delete, wait, unless))

    def _mutate(self, row: Row, delete: bool, wait: bool, unless: int | None) -> Task:
        store, parts = self.world.store, self.world.parts
        try:
            early = (yield from self.ask(store.registry)) if parts.registry_before_commit else None
            begun = yield from self.ask(store.begin)
            yield self.scheduler.between(0, self.world.slow_writes)
            index, revision, changed = yield from self.ask(lambda: self._commit(row, delete, unless, begun))
        except Broken:
            return
        self.world.count("changes" if changed else "no changes")
        if changed and self.scheduler.chance(0.7):
            self.world.hint_all()
        if not wait:
            return
        if changed or parts.no_change_waits:
            yield from self._wait(revision, early)
        self.world.promise(index, row)

    def _commit(self, row: Row, delete: bool, unless: int | None, begun: int) -> tuple[int, int, bool]:
        store = self.world.store
        if unless is not None and store.now.rows.get(row) != unless:
            return (*store.index(), False)
        revision = store.commit({row: None if delete else store.version()}, self.world.parts.logged(row), begun)
        return len(store.states) - 1, revision, True

    def _wait(self, revision: int, early: list[RegistryRow] | None) -> Task:
        store = self.world.store
        own = self.row
        now = self.clock()
        rows = early
        while rows is None:
            try:
                rows = yield from self.ask(store.registry)
            except Broken:
                yield 50 * MS
        wait = self.world.parts.wait(revision, rows, now, own)
        acknowledged: dict[str, int] = {}
        while True:
            now = self.clock()
            try:
                acknowledged = yield from self.ask(store.acknowledgements)
                if self.scheduler.chance(0.3):
                    wait.narrow((yield from self.ask(store.registry)))
            except Broken:
                yield 20 * MS
            outcome = wait.outcome(acknowledged, now)
            if outcome is not None:
                break
            yield 50 * MS
        self.world.count(f"waits {outcome}")
        if outcome is Outcome.EXPIRED:
            self.spawn(self._condemn(wait.silent(acknowledged)))

    def _condemn(self, ids: list[str]) -> Task:
        with suppress(Broken):
            yield from self.ask(lambda: self.world.store.condemn(ids))
        self.world.count("condemned", len(ids))


def read(replica: Replica, key: str) -> Generator[Any, Any, tuple[Value, int]]:
    """Read what a decision about *key* sees, in one snapshot."""
    assert key in KEYS
    value, revision = yield from replica.ask(lambda: replica.world.store.read(key), replica.world.slow_reads)
    return value, revision


def take(replica: Replica, poll: Poll) -> Task:
    """Take a poll; the event loop may be busy for a moment first, and the tail's thread starved."""
    yield from late(replica)
    replica.take(poll)


def late(replica: Replica) -> Task:
    """Let the time pass that it takes from the store's answer to the event loop."""
    starved = replica.starved_until - replica.scheduler.now
    yield max(starved, replica.scheduler.between(0, replica.world.busy))
