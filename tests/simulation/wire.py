"""A simulated network: streams whose two directions are each in order, and broken in every way; and the clients."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from doorward.leases import LeasedCache
from doorward_server.core.freshness import ALL, LeaseStream, Sending
from tests.simulation.replica import Answer, Replica
from tests.simulation.scheduler import MS, Process, Task
from tests.simulation.store import Value, dependencies

if TYPE_CHECKING:
    from tests.simulation.world import Asked, World


class Line:
    """One direction of a stream: in order, at any speed; what is sent into a `hole` never arrives."""

    def __init__(self, to: Process, receive: Callable[[Any], None]) -> None:
        self._to = to
        self._receive = receive
        self._life = to.life
        self._under_way: deque[Any] = deque()
        self.hole = False

    def send(self, message: Any, delay: int) -> None:
        """Send; it arrives after *delay*, but never before what was sent before it."""
        if self.hole or self._to.life != self._life:
            return
        self._under_way.append(message)
        self._to.later(delay, self._arrive)

    def _arrive(self) -> None:
        if self._under_way:
            message = self._under_way.popleft()
            if not self.hole:
                self._receive(message)


class Wire:
    """One `Lease` stream between a client and a replica."""

    def __init__(self, world: World, client: Client, replica: Replica) -> None:
        self.world = world
        self.client = client
        self.replica = replica
        self.life = replica.life
        self.up = Line(replica, self._at_replica)
        self.down = Line(client, self._at_client)
        self.stream: LeaseStream | None = None
        self.stalled = False
        """The client does not read, and the replica's writes block."""
        replica.wires.append(self)

    def _at_replica(self, message: tuple[int, int] | None) -> None:
        if message is None:
            if self.stream is not None:
                self.stream.close()
            return
        if self.stream is None:
            if not self.replica.serving:
                self.down.send(None, self.world.delay())
                return
            self.stream = self.replica.clients.open(self._wake)
        sequence, applied = message
        self.stream.ping(sequence, applied, self.replica.clock())
        if self.world.scheduler.chance(0.7):
            self.replica.hint()

    def _wake(self) -> None:
        if self.stream is not None and not self.stream.open:
            self.down.send(None, self.world.delay())
            return
        self.replica.later(self.world.scheduler.between(0, MS), self._write)

    def _write(self) -> None:
        if self.stalled or self.stream is None:
            return
        sending = self.stream.fetch()
        if sending is not None:
            self.down.send((sending, self.replica.clients.max_staleness), self.world.delay())

    def unstall(self) -> None:
        """Read again."""
        self.stalled = False
        self._write()

    def _at_client(self, message: tuple[Sending, int] | None) -> None:
        if self.client.wire is self:
            self.client.received(message)


class Client(Process):
    """A process that calls Doorward and keeps a cache of its decisions."""

    def __init__(self, world: World, name: str, caching: bool) -> None:
        super().__init__(world.scheduler, name)
        self.world = world
        self.hits = 0
        self.caching = caching
        self.boot()

    def boot(self) -> None:
        """Start with an empty memory."""
        random = self.scheduler.random
        self.rise()
        self.cache: LeasedCache[tuple[Value]] = self.world.parts.client(
            self, random.choice((2, 100)), random.choice((2, 100))
        )
        self.wire: Wire | None = None
        self._last_pong = 0
        if self.caching:
            self.spawn(self._keep())

    # --- the lease ----------------------------------------------------------------------------------------------------

    def _keep(self) -> Task:
        patience = 3 * self.world.max_staleness
        while True:
            if self.wire is None or self.clock() - self._last_pong > patience:
                self._connect()
            self._ping()
            yield self.world.max_staleness // 2

    def _connect(self) -> None:
        if self.wire is not None:
            self.wire.up.send(None, self.world.delay())
        self.wire = Wire(self.world, self, self.world.any_replica())
        self._last_pong = self.clock()
        self.cache.connected()
        self.world.count("streams")

    def _ping(self) -> None:
        if self.wire is not None:
            ping = self.cache.ping(self.clock())
            self.wire.up.send((ping.sequence, ping.applied), self.world.delay())

    def received(self, message: tuple[Sending, int] | None) -> None:
        """Take what came over the stream; None: it has ended."""
        if message is None:
            self.wire = None
            return
        sending, max_staleness = message
        if sending.invalidated:
            tokens = sorted(self.world.token(it) for it in sending.dropped if it != ALL)
            self.cache.invalidated(sending.revision, tokens, ALL in sending.dropped)
            self.world.count("client invalidations")
        if sending.pong is not None:
            self._last_pong = self.clock()
            self.cache.ponged(sending.pong, sending.revision, max_staleness, self.clock())
            self.world.count("pongs")
        if sending.invalidated:
            self._ping()

    # --- Authorize ----------------------------------------------------------------------------------------------------

    def authorize(self, key: str, replica: Replica | None = None) -> None:
        """Ask about *key*: the own cache first, then some replica; or *replica*, past the cache."""
        asked = self.world.asked()
        found = self.cache.get(key, self.clock()) if replica is None else None
        if found is None:
            self._call(key, replica or self.world.any_replica(), asked)
        else:
            self.hits += 1
            self.world.count("client hits")
            self.world.check(key, found[0], asked)

    def _call(self, key: str, replica: Replica, asked: Asked) -> None:
        life, call = self.life, self.cache.begin(self.clock())

        def answered(answer: Answer | None) -> None:
            if answer is None:
                self.world.count("unavailable")
                return
            self.world.check(key, answer.value, asked, replica.serve_stale_for if answer.stale else 0)
            if self.caching and answer.cacheable:
                tokens = [self.world.token(it) for it in dependencies(key, answer.value)]
                lasting = self.scheduler.between(0, 20 * self.world.max_staleness)
                self.cache.offer(key, (answer.value,), answer.revision, tokens, lasting, call)

        def reply(answer: Answer | None) -> None:
            if self.life == life:
                self.later(self.world.delay(), lambda: answered(answer))

        replica.later(self.world.delay(), lambda: replica.authorize(key, reply))
