"""Servers on one store, which may be killed and started again, and callers who write down what they are told."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc

from doorward import Client
from doorward.v1 import authz_pb2
from tests import databases
from tests.chaos.actors import Api, reason
from tests.chaos.history import boottime
from tests.e2e.processes import TIMEOUT, Process, environment
from tests.limits_proof.checker import UNANSWERED, Call

ORGANIZATION = "acme"
ACTIONS = READ, WRITE = "things:read", "things:write"
NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
KEYSPACE = """
keyspace: {name}
prefix: {name}
credentials: [{{header: x-api-key}}]
types: {{things: [read, write]}}
roles: {{all: {{rules: [{{actions: ["things:*"]}}]}}}}
{more}
"""


@dataclass(frozen=True)
class Held:
    """A key to ask about."""

    text: str = field(repr=False)
    keyspace: str


class Seat:
    """A place for one server after the other."""

    def __init__(self, folder: Path, url: str, plant: str) -> None:
        self._folder = folder
        self._environment = environment(folder, url)
        self._program = (sys.executable, "-m", "tests.limits_proof.replica", plant)
        self.process: Process
        self.serving = threading.Event()

    def start(self) -> None:
        """Start a server, and wait until it serves."""
        self.begin()
        self.process.wait()
        self.serving.set()

    def begin(self) -> None:
        """Start a server."""
        self.process = Process.start(self._environment, self._folder, program=self._program)

    def kill(self) -> None:
        """End it by SIGKILL, wherever it is."""
        self.serving.clear()
        self.process.stop(signal.SIGKILL)

    def connect(self) -> Api:
        """Wait until a server is here, and return a new connection to it."""
        assert self.serving.wait(TIMEOUT), self.process.output
        return Api("", self.process.port, self.process.root)


class Fleet:
    """Several servers on one store, with one pepper file."""

    def __init__(self, folder: Path, url: str, size: int, plant: str = "") -> None:
        self.seats = [Seat(folder, url, plant) for _ in range(size)]
        self._names = iter(range(1, 1_000))

    def start(self) -> None:
        """Start all. The first makes the tables and the root key."""
        self.seats[0].start()
        for seat in self.seats[1:]:
            seat.begin()
        for seat in self.seats[1:]:
            seat.process.wait()
            seat.serving.set()
        with self.client() as client:
            client.create_organization(ORGANIZATION)

    def stop(self) -> None:
        """End all."""
        for seat in self.seats:
            seat.process.stop(signal.SIGKILL)

    def client(self) -> Client:
        """A client with all rights."""
        process = self.seats[0].process
        return Client(process.target, process.root)

    def key(self, more: str) -> Held:
        """Make a key of a new keyspace, whose file says *more*."""
        name = f"shop{next(self._names)}"
        with self.client() as client:
            client.apply_keyspace(KEYSPACE.format(name=name, more=more))
            made = client.create_key(organization=ORGANIZATION, keyspace=name, name="busy", scopes=["all"])
        assert made.secret is not None
        return Held(made.secret.reveal(), name)


@contextmanager
def fleet(backend: str, folder: Path, size: int, plant: str = "") -> Iterator[Fleet]:
    """A fleet that runs, on a new store."""
    with databases.fresh(backend, folder) as url, ExitStack() as stack:
        made = Fleet(folder, url, size, plant)
        stack.callback(made.stop)
        made.start()
        yield made


class Caller:
    """Asks the server of one seat, one question at a time, and writes down what came of it."""

    def __init__(self, seat: Seat, held: Held, calls: list[Call], timeout: float = TIMEOUT) -> None:
        self._seat = seat
        self._held = held
        self._calls = calls
        self._timeout = timeout
        self._api = seat.connect()

    def ask(self, cost: int = 1, action: str = READ) -> str:
        """Ask, and return the reason; after a call without an answer, be at a server that serves again."""
        asked = authz_pb2.AuthorizeRequest(
            key=self._held.text, keyspace=self._held.keyspace, action=action, organization=ORGANIZATION, cost=cost
        )
        sent = boottime()
        try:
            said = reason(self._api.call("authz", "Authorize", asked, self._timeout))
        except grpc.RpcError as problem:
            if problem.code() not in NO_ANSWER:
                raise
            said = UNANSWERED
        self._calls.append(Call(sent, boottime(), said, cost, action))
        if said == UNANSWERED:
            self.close()
            self._api = self._seat.connect()
        return said

    def close(self) -> None:
        """End the connection."""
        self._api.channel.close()

    def drain(self, *costs: int, action: str = READ, refusals: int = 1) -> None:
        """Ask for each of *costs* until it was refused so often."""
        for cost in costs:
            left = refusals
            while left:
                left -= self.ask(cost, action) not in ("ALLOWED", UNANSWERED)


Work = Callable[[Caller, int], None]
"""What one of several callers does, who is told its number."""


class Crowd:
    """Callers on threads, the same number at every seat."""

    def __init__(self, fleet: Fleet, held: Held, each: int) -> None:
        self.calls: list[Call] = []
        """What all of them saw."""
        self.callers = [Caller(seat, held, self.calls) for seat in fleet.seats for _ in range(each)]
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failed: list[BaseException] = []

    def drain(self, *costs: int, action: str = READ, refusals: int = 1) -> None:
        """Have all ask until they are refused."""
        self.begin_to_drain(*costs, action=action, refusals=refusals)
        self.join()

    def begin_to_drain(self, *costs: int, action: str = READ, refusals: int = 1) -> None:
        """As `drain`, but do not wait for it."""
        self._begin(lambda caller, _: caller.drain(*costs, action=action, refusals=refusals))

    def ask_on(self, seed: int, costs: Sequence[int], longest_pause: float = 0.2) -> None:
        """Have all ask until they are told to stop, in bursts, each time for any of *costs*; pauses are in seconds."""

        def ask_on(caller: Caller, number: int) -> None:
            dice = Random(seed * 1_000 + number)
            while not self.stopping.is_set():
                caller.ask(dice.choice(costs), dice.choice(ACTIONS))
                if dice.random() < 0.1:
                    self.stopping.wait(dice.random() * longest_pause)

        self._begin(ask_on)

    def _begin(self, work: Work) -> None:
        def safely(caller: Caller, number: int) -> None:
            try:
                work(caller, number)
            except BaseException as problem:  # noqa: BLE001  # told in join
                self._failed.append(problem)
                self.stopping.set()

        self._threads = [
            threading.Thread(target=safely, args=(caller, n), daemon=True) for n, caller in enumerate(self.callers)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all have done. Raises what any of them raised."""
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        if self._failed:
            raise self._failed[0]

    def close(self) -> None:
        """Stop all, and end their connections."""
        self.stopping.set()
        self.join()
        for caller in self.callers:
            caller.close()
