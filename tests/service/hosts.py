"""Hosts that serve from one store, each with a pepper file of its own: for everything about changing peppers.

A host is all that production wires together, but for the network: an event loop in a thread proves keys over and over
while the test does as it likes. Beats come when a test says so: nothing here waits for time to pass.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doorward_server.app import App, build, opened
from doorward_server.config import Config
from doorward_server.core.keytext import SecretText
from doorward_server.core.model import Key
from doorward_server.core.verify import PepperState, Verifier
from doorward_server.service.bootstrap import recover_root
from doorward_server.service.catalog import OPERATOR
from doorward_server.service.peppers import Keyring, Ring, read_ring
from doorward_server.service.rotation import Rotation
from doorward_server.store import Store
from tests.fakes import FakeClock, FakeRandom

TIMEOUT = 60.0
"""Seconds: a bound for what hangs, not an expectation."""
_numbers = itertools.count(1)


@dataclass
class Host:
    """One replica. `texts` are the keys that its load proves, by key id."""

    app: App = field(repr=False)
    store: Store = field(repr=False)
    keyring: Keyring = field(repr=False)
    config: Config
    clock: FakeClock
    random: FakeRandom = field(repr=False)
    texts: dict[str, str] = field(repr=False)
    failures: list[str] = field(default_factory=list)
    proofs: int = 0
    said: list[str] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop, repr=False)

    @property
    def id(self) -> str:
        return self.app.membership.id

    @property
    def file(self) -> Path:
        return self.config.peppers

    def ring(self) -> Ring:
        """What is in its file."""
        ring = read_ring(self.file)
        assert ring is not None
        return ring

    def rotation(self, *hosts: Host) -> Rotation:
        """The operator's hands on this host; while they wait, *hosts* beat."""

        def pause(_: float) -> None:
            for host in hosts:
                host.beat()

        return Rotation(self.store, self.keyring, self.file, self.clock, self.random, self.said.append, pause)

    def beat(self) -> None:
        """What happens once a second."""
        self.app.membership.beat()

    def make_key(self) -> Key:
        """Make a key; the load of every host proves it from now on."""
        file = self.config.state_dir / f"key{next(_numbers)}"
        key = recover_root(self.store, self.keyring.current.peppers, file, self.clock(), self.random)
        self.texts[key.id] = file.read_text("utf-8").strip()
        return key

    def prove(self, text: str) -> str:
        """Prove *text* and return "proved", or the error."""
        return asyncio.run_coroutine_threadsafe(self._prove(text), self.loop).result(TIMEOUT)

    async def _prove(self, text: str) -> str:
        try:
            await self.app.authorizer.authenticate([("authorization", f"Bearer {text}")], None)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is not a proof
            return f"{type(error).__name__}: {error}"
        return "proved"

    async def _load(self) -> None:
        while True:
            for id, text in list(self.texts.items()):
                outcome = await self._prove(text)
                self.proofs += 1
                if outcome != "proved":
                    self.failures.append(f"{id}: {outcome}")

    def wait_for_load(self) -> None:
        """Return when the load has proved every key at least once from now on."""
        enough, tick = self.proofs + 2 * len(self.texts), threading.Event()
        for _ in range(int(TIMEOUT / 0.01)):
            if self.proofs >= enough:
                return
            tick.wait(0.01)
        raise AssertionError("the load stands still")

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Prove all keys over and over, several at a time."""
        tasks = [asyncio.run_coroutine_threadsafe(self._load(), self.loop) for _ in range(3)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    def settle(self) -> None:
        """Finish what goes on after answers."""

        async def others() -> None:
            await asyncio.gather(*self.app.authorizer._finder._prover._improving.values())

        asyncio.run_coroutine_threadsafe(others(), self.loop).result(TIMEOUT)


@contextmanager
def host(url: str, folder: Path, clock: FakeClock, file_of: Host | None = None) -> Iterator[Host]:
    """A replica that has registered and proves on demand; its pepper file is a copy of that of *file_of*."""
    number = next(_numbers)
    settings: dict[str, Any] = {"store": url, "state_dir": folder / f"host{number}", "bcrypt_cost": 4}
    config = Config(**settings)
    if file_of is not None:
        config.state_dir.mkdir()
        shutil.copy(file_of.file, config.peppers)
    random = FakeRandom(f"host{number}")
    with opened(config, clock, random) as (store, keyring, _):
        app = build(config, store, keyring, clock, random)
        known = file_of.texts if file_of is not None else {}
        made = Host(app, store, keyring, config, clock, random, known)
        thread = threading.Thread(target=made.loop.run_forever, daemon=True)
        thread.start()
        try:
            app.membership.enter()
            yield made
            app.membership.leave()
        finally:
            made.loop.call_soon_threadsafe(made.loop.stop)
            thread.join(TIMEOUT)
            _close(made.loop)
            for pool in app.pools:
                pool.close()


def _close(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


@contextmanager
def two_hosts(url: str, folder: Path, clock: FakeClock, keys: int) -> Iterator[tuple[Host, Host]]:
    """Two replicas with the same file, and some keys that both prove all the time."""
    with ExitStack() as stack:
        first = stack.enter_context(host(url, folder, clock))
        for _ in range(keys):
            first.make_key()
        second = stack.enter_context(host(url, folder, clock, first))
        stack.enter_context(first.loaded())
        stack.enter_context(second.loaded())
        yield first, second


def hand_over(source: Host, target: Host) -> None:
    """Copy the pepper file, as an operator does."""
    shutil.copy(source.file, target.file)


def secret_of(text: str) -> SecretText:
    """The text as the core takes it."""
    return SecretText(text)


def by_hand(store: Store, sql: str, *params: object) -> list[Any]:
    """Run SQL as somebody at a database prompt does."""
    database = store._dialect.database
    with database.connection_context():
        cursor = database.execute_sql(sql.replace("?", store._dialect.param), params)
        return list(cursor.fetchall()) if cursor.description else []


def states(store: Store) -> dict[int, PepperState]:
    return {it.version: it.state for it in store.peppers.list_all()}


def secrets(store: Store) -> dict[str, Verifier]:
    """What is stored, by key."""
    rows = by_hand(store, "SELECT key, verifier, pepper, digest, inner_peppers FROM secret")
    return {
        key: Verifier(kind, pepper, bytes(digest), tuple(map(int, inner.split(","))) if inner else ())
        for key, kind, pepper, digest, inner in rows
    }


def actions(store: Store) -> list[tuple[str, str]]:
    """The operator's events about peppers; the chain must hold."""
    assert store.verify_chain(OPERATOR).ok
    events = [it.event for it in store.list_events(OPERATOR, 0, 10_000)]
    return [(it.action, it.target) for it in events if it.action.startswith("peppers:")]


def rotate(first: Host, *others: Host, retire: bool = True) -> int:
    """A whole rotation, as an operator does it; returns the new version."""
    steps, old = first.rotation(first, *others), first.keyring.current.peppers.active
    steps.add()
    new = max(first.ring().peppers.versions)
    for other in others:
        hand_over(first, other)
    for each in (first, *others):
        each.beat()
    steps.activate(new)
    steps.rewrap()
    if retire:
        steps.retire(old)
        for other in others:
            hand_over(first, other)
            other.beat()
    return new
