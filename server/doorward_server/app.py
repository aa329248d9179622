"""The composition root: from a configuration to something that serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog
from grpc_health.v1 import health

from doorward_server.config import Config, split_address
from doorward_server.core.errors import DoorwardError
from doorward_server.core.model import Quotas
from doorward_server.core.verify import Peppers
from doorward_server.service.authorizing import Authorizer
from doorward_server.service.bootstrap import bootstrap
from doorward_server.service.catalog import Catalog
from doorward_server.service.directory import Directory
from doorward_server.service.guard import Clock, Guard
from doorward_server.service.keys import Keys, Random
from doorward_server.service.keyspaces import Keyspaces
from doorward_server.service.peppers import PepperProblem, check_peppers, make_peppers, read_peppers
from doorward_server.service.pool import Pool
from doorward_server.service.roles import Roles
from doorward_server.service.usage import LastUse
from doorward_server.store import Store
from doorward_server.wire.authz import AuthzServicer
from doorward_server.wire.directory import DirectoryServicer
from doorward_server.wire.gate import Gate
from doorward_server.wire.keys import KeyServicer
from doorward_server.wire.keyspaces import KeyspaceServicer
from doorward_server.wire.metrics import Metrics
from doorward_server.wire.server import QUIET, Servicers, Tls, bind, make_server, set_health

log = structlog.get_logger("doorward")
FLUSH_SECONDS = 1.0
ANSWERS_LEAVE = 0.2
"""Seconds that the last answers get to leave the process when it drains."""
UNREADY_AFTER = 10.0
"""Seconds without an answer from the store after which health says NOT_SERVING."""


@contextlib.contextmanager
def opened(
    config: Config, clock: Clock, random: Random, *, repair: bool = False
) -> Iterator[tuple[Store, Peppers, bool]]:
    """Open the store, make it usable if it is empty or of an older Doorward, and close it in the end.

    A change log that somebody changed is refused, unless *repair*: then it is made anew, and every cache drops all.

    Yields the store, the peppers, and whether a root key was made. Raises PepperProblem, StoreNotReady and
    StoreUnavailable.
    """
    config.state_dir.mkdir(parents=True, exist_ok=True)
    peppers = read_peppers(config.peppers)

    def audit_key(version: int) -> bytes:
        if peppers is None:
            raise PepperProblem("The store is used before its pepper was read.")
        return peppers.audit_key(version)

    store = Store(config.store_url, audit_keys=audit_key, pepper=peppers.active if peppers else 1)
    try:
        with store.lock():
            if repair or not store.is_current():
                store.migrate()
            store.check()
            if peppers is None:
                # Somebody may have made it while this process waited for the lock.
                peppers = read_peppers(config.peppers) or _first_peppers(config, store, random)
            check_peppers(store, peppers, config.peppers)
            made = bootstrap(store, Catalog(store), peppers, config.root_key, clock(), random)
        yield store, peppers, made
    finally:
        store.close()


def _first_peppers(config: Config, store: Store, random: Random) -> Peppers:
    if store.pepper_canaries():
        raise PepperProblem(
            f"The store is in use, but the pepper file {config.peppers} is missing: no key in it could be proved. "
            "Put the file back from your secret store, or point DOORWARD_PEPPER_FILE at it."
        )
    return make_peppers(config.peppers, random)


@dataclass
class App:
    """Everything that serves, wired. `start` and `stop` belong on one running event loop."""

    config: Config
    store: Store
    keys: Keys
    directory: Directory
    roles: Roles
    keyspaces: Keyspaces
    authorizer: Authorizer
    uses: LastUse
    metrics: Metrics
    pools: tuple[Pool, ...]
    servicers: Servicers

    async def start(self) -> int:
        """Bind, serve, and return the port. Raises BindFailed; OSError for the metrics' port or a missing PEM file."""
        self._health = health.aio.HealthServicer()
        self._gate = Gate(self.authorizer, self.metrics, QUIET)
        self._server = make_server(self._gate, self.servicers, self._health)
        port = bind(self._server, self.config.listen, _tls(self.config))
        self.metrics_port: int | None = None
        self._stop_metrics: Callable[[], None] = lambda: None
        if self.config.metrics_listen:
            self.metrics_port, self._stop_metrics = self.metrics.serve(*split_address(self.config.metrics_listen))
        await self._server.start()
        await set_health(self._health, serving=True)
        self._tasks = [asyncio.create_task(self._keep_flushing()), asyncio.create_task(self._watch_store())]
        return port

    async def stop(self) -> None:
        """Drain: refuse new calls, let running ones finish, write what is buffered."""
        await self._health.enter_graceful_shutdown()
        await self._drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.uses.flush()
        except DoorwardError as problem:
            log.error("last uses are lost", why=problem.message)
        self._stop_metrics()
        for pool in self.pools:
            pool.close()

    async def _drain(self) -> None:
        # grpcio waits for idle connections too, to the end of the grace, if the client's side never looks at its
        # socket. So: no new calls from here on; once none is running, and its answer had a moment to leave, the rest.
        stopped = asyncio.ensure_future(self._server.stop(self.config.drain_seconds))
        while not stopped.done():
            idle = asyncio.ensure_future(self._gate.idle())
            await asyncio.wait((stopped, idle), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((stopped,), timeout=ANSWERS_LEAVE)
            if idle.done() and self._gate.is_idle:
                await self._server.stop(None)
            idle.cancel()
        await stopped

    async def _keep_flushing(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.uses.due.wait(), FLUSH_SECONDS)
            try:
                await self.uses.flush()
            except DoorwardError as problem:
                log.warning("last uses wait for the next flush", why=problem.message)
            await asyncio.sleep(FLUSH_SECONDS / 10)

    async def _watch_store(self) -> None:
        loop = asyncio.get_running_loop()
        answered, serving = loop.time(), True
        while True:
            try:
                await self.pools[0].run(self.store.revision)
                answered = loop.time()
            except DoorwardError as problem:
                log.warning("the store does not answer", why=problem.message)
            ready = loop.time() - answered < UNREADY_AFTER
            if ready is not serving:
                serving = ready
                await set_health(self._health, serving=serving)
            await asyncio.sleep(1.0)


def build(config: Config, store: Store, peppers: Peppers, clock: Clock, random: Random) -> App:
    """Wire everything. Nothing runs yet, and nothing below knows the clock, the dice or the environment otherwise."""
    reads, management = Pool("reads", threads=4, backlog=512), Pool("management", threads=4, backlog=128)
    quotas = Quotas(keys=config.max_keys, bindings=config.max_bindings)
    catalog = Catalog(store)
    guard = Guard(store, catalog, clock)
    uses = LastUse(store, management)
    metrics = Metrics()
    authorizer = Authorizer(store, catalog, guard, peppers, uses, reads, clock)
    keys = Keys(store, catalog, guard, peppers, quotas, clock, random)
    directory = Directory(store, guard, clock)
    roles = Roles(store, catalog, guard, quotas, clock, random)
    keyspaces = Keyspaces(store, catalog, guard, clock)
    servicers = Servicers(
        keys=KeyServicer(keys, catalog, management, clock),
        authz=AuthzServicer(authorizer, metrics),
        directory=DirectoryServicer(directory, roles, management),
        keyspaces=KeyspaceServicer(keyspaces, management),
    )
    pools = (reads, management)
    return App(config, store, keys, directory, roles, keyspaces, authorizer, uses, metrics, pools, servicers)


def _tls(config: Config) -> Tls | None:
    if config.tls_certificate is None or config.tls_private_key is None:
        return None
    ca = config.tls_client_ca.read_bytes() if config.tls_client_ca else None
    return Tls(config.tls_certificate.read_bytes(), config.tls_private_key.read_bytes(), ca)
