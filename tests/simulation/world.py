"""One simulated world: what happens in it, what goes wrong, and what must hold all the same."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from doorward.leases import LeasedCache
from doorward_server.core.freshness import (
    Cache,
    ClientLeases,
    Dependency,
    Flight,
    Flights,
    Graveyard,
    Outcome,
    Tail,
    Wait,
)
from tests.simulation import replica as replicas
from tests.simulation.replica import Replica
from tests.simulation.scheduler import MS, SECOND, Scheduler
from tests.simulation.store import ALL_ROWS, KEYS, PARTS, Row, Store, Value, logged, record
from tests.simulation.wire import Client

FAULTS_FOR = 4 * SECOND
MAX_STALENESS = SECOND
CLOCKS_DIFFER = MAX_STALENESS // 50


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Parts:
    """What the world is made of. A planted bug exchanges one of them; the product's own are the default."""

    cache: Callable[..., Cache[Value]] = Cache
    clients: Callable[[], ClientLeases] = ClientLeases
    tail: Callable[..., Tail] = Tail
    flights: Callable[..., Flights[Value]] = Flights
    graveyard: Callable[[], Graveyard] = Graveyard
    wait: Callable[..., Wait] = Wait
    client: Callable[[Client, int, int], LeasedCache[tuple[Value]]] = lambda _, entries, gone: LeasedCache(
        entries, gone
    )
    store: Callable[[Scheduler], Store] = Store
    read: Callable[[Replica, str], Any] = replicas.read
    take: Callable[[Replica, Any], Any] = replicas.take
    failed: Callable[[Replica, Flight[Value]], None] = lambda replica, flight: replica.flights.fail(flight)
    logged: Callable[[Row], tuple[Row, ...]] = logged
    registry_before_commit: bool = False
    no_change_waits: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """When an Authorize began, and the state that it must see at least."""

    at: int
    promised: int


class World:
    """Replicas, clients, a store and a network, for one seed."""

    def __init__(self, seed: int, parts: Parts) -> None:
        self.seed = seed
        self.parts = parts
        self.counts: Counter[str] = Counter()
        self.scheduler = scheduler = Scheduler(seed)
        random = scheduler.random
        self.max_staleness = MAX_STALENESS
        self.serve_stale_for = random.choice((0, 0, 0, SECOND))
        self.store_delay = random.choice((2, 5, 40)) * MS
        self.slow_reads = random.choice((0, 10, 300)) * MS
        self.slow_writes = random.choice((0, 10, 600)) * MS
        self._hints = random.choice((0.0, 0.8))
        self.busy = random.choice((0, 5, 100)) * MS
        self.lossy = random.choice((0.0, 0.3))
        self._network = random.choice((2, 20, 200)) * MS
        self._ids = 0
        self._tokens: dict[Dependency, int] = {}
        self._promised = 0
        self.largest_window = 0
        self.store = parts.store(scheduler)
        self.replicas = [Replica(self, f"replica-{number}") for number in range(random.choice((1, 2, 3, 3)))]
        self._to_come = random.choice((0, 2))
        self.clients = [Client(self, f"client-{number}", number > 0) for number in range(random.choice((2, 3)))]

    # --- what its inhabitants ask of it -------------------------------------------------------------------------------

    def count(self, what: str, times: int = 1) -> None:
        """Take note that something happened: a run in which little did proves little."""
        self.counts[what] += times

    def new_id(self) -> str:
        """Return an id that nobody ever had."""
        self._ids += 1
        return f"id-{self._ids}"

    def token(self, dependency: Dependency) -> int:
        """Return what stands for *dependency* on the wire."""
        return self._tokens.setdefault(dependency, len(self._tokens) + 1)

    def delay(self) -> int:
        """Return how long the network takes this time."""
        return self.scheduler.between(MS // 10, self._network)

    def any_replica(self) -> Replica:
        """Return one of them, alive or not."""
        return self.scheduler.random.choice(self.replicas)

    def hint_all(self) -> None:
        """NOTIFY, which not every store has, and not everybody hears."""
        for replica in self.replicas:
            if self.scheduler.chance(self._hints):
                replica.later(self.scheduler.between(0, 5 * MS), replica.hint)

    def kill(self, replica: Replica) -> None:
        """Kill -9; it starts again after a while. Its clients notice, or do not."""
        if not replica.alive:
            return
        replica.die()
        for wire in replica.wires:
            if self.scheduler.chance(0.6):
                wire.down.send(None, self.delay())
            else:
                wire.down.hole = True
        self.scheduler.after(self.scheduler.between(MS, 3 * SECOND), replica.boot)

    # --- the promise --------------------------------------------------------------------------------------------------

    def asked(self) -> Asked:
        """Return the moment and what must be seen from it on."""
        return Asked(self.scheduler.now, self._promised)

    def promise(self, index: int, row: Row | None = None) -> None:
        """From now on, nobody who asks may be answered from a state before *index*. Somebody asks at once."""
        self._promised = max(self._promised, index)
        keys = [key for key in KEYS if row is None or row in PARTS[key]]
        for client in self.clients:
            key = self.scheduler.random.choice(keys)
            client.later(0, partial(client.authorize, key))
        self._ask(self.replicas[-1], key)

    def check(self, key: str, value: Value, asked: Asked, stale: int = 0) -> None:
        """Raise Violation unless *value* is what *key* was in one state that is new enough."""
        self.count("checked")
        store = self.store
        longest = self.max_staleness + stale + CLOCKS_DIFFER
        least = max(asked.promised, bisect_right(store.committed_at, asked.at - longest) - 1, 0)
        for index in range(len(store.states) - 1, -1, -1):
            if record(store.states[index], key) == value:
                break
        else:
            raise Violation(self._says(f"{key} never was {value}", asked, least))
        if index < least:
            why = "a mutation had returned" if least == asked.promised else "it was too old"
            raise Violation(self._says(f"{key} was answered from state {index}, but {why}", asked, least))
        if index + 1 < len(store.states):
            self.largest_window = max(self.largest_window, asked.at - store.committed_at[index + 1])

    def _says(self, what: str, asked: Asked, least: int) -> str:
        return f"seed {self.seed}: at {asked.at / SECOND:.4f} s, {what}; state {least} is the oldest allowed"

    # --- what happens -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let everything happen, then let it calm down. Raises Violation."""
        scheduler = self.scheduler
        self._load()
        self._mutate()
        self._go_wrong()
        scheduler.run_until(FAULTS_FOR)
        self._calm()

    def _until_calm(self, every: int, do: Callable[[], None]) -> None:
        """Do it again and again, about as often as *every*, as long as faults happen."""

        def again() -> None:
            if self.scheduler.now < FAULTS_FOR:
                do()
                self.scheduler.after(self.scheduler.between(0, 3 * every), again)

        self.scheduler.after(self.scheduler.between(0, every), again)

    def _load(self) -> None:
        hot = self.scheduler.random.sample(sorted(KEYS), 2)

        def ask(client: Client) -> None:
            key = self.scheduler.random.choice(hot if self.scheduler.chance(0.8) else sorted(KEYS))
            client.later(0, lambda: client.authorize(key))

        for client in self.clients:
            self._until_calm(25 * MS, partial(ask, client))

    def _mutate(self) -> None:
        scheduler, random = self.scheduler, self.scheduler.random

        def mutate() -> None:
            row = random.choice(ALL_ROWS)
            if self.scheduler.chance(0.1):
                self._type_sql(row)
                return
            delete = row[0] == "KEY" and self.scheduler.chance(0.3)
            unless = self.store.now.rows.get(row) if self.scheduler.chance(0.4) else None
            wait = self.scheduler.chance(0.8)
            if self.scheduler.chance(0.2):
                scheduler.after(scheduler.between(0, self.slow_writes), self._join)
            for _ in range(1 if unless is None else 2):  # the second one finds nothing to change
                replica = self.any_replica()
                replica.later(self.delay(), partial(replica.mutate, row, delete, wait, unless))

        self._until_calm(random.choice((100, 300)) * MS, mutate)

    def _join(self) -> None:
        """Start one replica more: most telling while somebody's transaction is open."""
        if self._to_come:
            self._to_come -= 1
            replica = Replica(self, f"late-replica-{self._to_come}")
            self.replicas.append(replica)
            for key in (*KEYS, *KEYS):
                self.scheduler.after(self.scheduler.between(10 * MS, SECOND // 2), partial(self._ask, replica, key))

    def _type_sql(self, row: Row) -> None:
        if not self.store.down:
            self.store.commit({row: self.store.version()}, self.parts.logged(row))
            self.count("typed")

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def _go_wrong(self) -> None:
        random = self.scheduler.random
        faults = [
            self._stop,
            self._crash,
            self._leave,
            self._cut_off,
            self._starve,
            self._break_stream,
            self._hole,
            self._stall,
        ]
        faults += [self._stop, self._prune, self._client_dies, self._client_stops]
        chosen = random.sample(faults, random.randint(0, len(faults)))
        if chosen:
            self._until_calm(random.choice((100, 400)) * MS, lambda: self._fault(chosen))
        if self.scheduler.chance(0.2):
            self._restore()

    def _fault(self, faults: list[Callable[[], None]]) -> None:
        self.scheduler.random.choice(faults)()

    def _long(self) -> int:
        return self.scheduler.between(10 * MS, 3 * SECOND)

    def _stop(self) -> None:
        self.any_replica().stop(self._long())

    def _crash(self) -> None:
        if self.scheduler.chance(0.3):
            self.kill(self.any_replica())

    def _leave(self) -> None:
        replica = self.any_replica()
        if replica.serving and replica.alive and self.scheduler.chance(0.6):
            replica.later(0, replica.leave)

    def _cut_off(self) -> None:
        self.any_replica().cut_off_until = self.scheduler.now + self._long()

    def _starve(self) -> None:
        self.any_replica().starved_until = self.scheduler.now + self._long() // 2

    def _any_client(self) -> Client:
        return self.scheduler.random.choice(self.clients)

    def _break_stream(self) -> None:
        """End a stream; each side notices, or only one."""
        wire = self._any_client().wire
        if wire is not None:
            for line in self.scheduler.random.choice(((wire.up,), (wire.down,), (wire.up, wire.down))):
                line.send(None, self.delay())

    def _hole(self) -> None:
        wire = self._any_client().wire
        if wire is not None:
            line = self.scheduler.random.choice((wire.up, wire.down))
            line.hole = True

    def _stall(self) -> None:
        wire = self._any_client().wire
        if wire is not None:
            wire.stalled = True
            wire.replica.later(self._long(), wire.unstall)

    def _client_dies(self) -> None:
        client = self._any_client()
        if client.alive:
            client.die()
            self.scheduler.after(self._long(), client.boot)

    def _client_stops(self) -> None:
        self._any_client().stop(self._long())

    def _prune(self) -> None:
        self.store.prune(self.scheduler.random.choice((0, 1, 5)))

    def _restore(self) -> None:
        """Restore a backup. The database is not there for longer than any lease, as the operating page demands."""
        away = (self.max_staleness + self.serve_stale_for) * 6 // 5
        backups: list[Any] = []
        taken_at = self.scheduler.between(0, FAULTS_FOR - away - SECOND)
        down_at = taken_at + self.scheduler.between(100 * MS, SECOND)

        def go_down() -> None:
            self.store.down = True

        def come_back() -> None:
            self.store.restore(backups[0])
            self.store.down = False
            self.promise(len(self.store.states) - 1)
            self.count("restores")

        self.scheduler.after(taken_at, lambda: backups.append(self.store.backup()))
        self.scheduler.after(down_at, go_down)
        self.scheduler.after(down_at + away, come_back)

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Nothing goes wrong any more: soon waits end acknowledged and all caches serve. Raises Violation if not."""
        self.lossy = 0.0
        self.busy = self.slow_reads = self.slow_writes = self.store_delay = self._network = 2 * MS
        for replica in self.replicas:
            replica.cut_off_until = replica.starved_until = 0
        deadline = self.scheduler.now + 20 * SECOND
        acknowledged = f"waits {Outcome.ACKNOWLEDGED}"
        before, self.counts[acknowledged] = self.counts[acknowledged], 0
        caching = [client for client in self.clients if client.caching]
        everybody: list[Replica | Client] = [*self.replicas, *caching]
        idle = {it: it.hits for it in everybody}
        mutate_at = 0
        while idle or not self.counts[acknowledged]:
            if self.scheduler.now > deadline:
                names = [it.name for it in idle]
                raise Violation(f"seed {self.seed}: no calm: {names} serve no hits, {self.counts[acknowledged]} waits")
            if self.scheduler.now >= mutate_at and not self.counts[acknowledged]:
                self.any_replica().mutate(ALL_ROWS[0], False, True, None)
                mutate_at = self.scheduler.now + SECOND
            for it in idle:
                self._ask(it)
            self.scheduler.run_until(self.scheduler.now + 100 * MS)
            idle = {it: hits for it, hits in idle.items() if it.hits <= hits}
        self.counts[acknowledged] += before

    def _ask(self, process: Replica | Client, key: str = "acme-0") -> None:
        if isinstance(process, Client):
            process.later(0, partial(process.authorize, key))
        else:
            self.clients[0].later(0, partial(self.clients[0].authorize, key, process))


def simulate(seed: int, parts: Parts | None = None) -> World:
    """Run the world of *seed*. Raises Violation, which names the seed."""
    world = World(seed, parts if parts is not None else Parts())
    world.run()
    return world
