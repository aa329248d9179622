"""The composition root: from a configuration to something that serves."""

from __future__ import annotations

import asyncio
import contextlib
import random as dice
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from grpc_health.v1 import health

from doorward_server.chores import attempt, keep
from doorward_server.config import Config, split_address
from doorward_server.core.errors import DoorwardError
from doorward_server.core.model import SECOND, Quotas
from doorward_server.following import follow
from doorward_server.service.asking import Asking
from doorward_server.service.auditing import Auditing, AuditRetention
from doorward_server.service.authorizing import Authorizer
from doorward_server.service.batch_revoking import BatchRevokes
from doorward_server.service.bootstrap import bootstrap
from doorward_server.service.catalog import Catalog
from doorward_server.service.charging import Charging
from doorward_server.service.counting import Counting
from doorward_server.service.credits import Credits
from doorward_server.service.debiting import Debiting
from doorward_server.service.decision_log import LogFile, Recorder, to_stdout
from doorward_server.service.directory import Directory
from doorward_server.service.expiring import SWEEP_SECONDS, Expiring
from doorward_server.service.explaining import Explainer
from doorward_server.service.facts import Facts
from doorward_server.service.finding import Finder
from doorward_server.service.freshness import Boot, Freshness, boot_clock
from doorward_server.service.guard import Clock, Guard
from doorward_server.service.ids import Random, new_id
from doorward_server.service.importing import Imports
from doorward_server.service.keys import Keys
from doorward_server.service.keyspaces import Keyspaces
from doorward_server.service.leaks import LeakReports
from doorward_server.service.leasing import Leasing
from doorward_server.service.limiting import Limiter
from doorward_server.service.mint import Mint
from doorward_server.service.peppers import Keyring, PepperProblem, Ring, check_peppers, make_ring, read_ring
from doorward_server.service.pool import Pool
from doorward_server.service.proving import Prover
from doorward_server.service.recognizing import Recognition
from doorward_server.service.replica import BEAT_SECONDS, Membership
from doorward_server.service.reports import Reports
from doorward_server.service.retention import Retention
from doorward_server.service.revealing import Reveals
from doorward_server.service.roles import Roles
from doorward_server.service.tailing import Tailing
from doorward_server.service.telling import Telling
from doorward_server.service.usage import LastUse
from doorward_server.service.waiting import Registry, Waiting
from doorward_server.store import Store
from doorward_server.watch import Watch
from doorward_server.wire.alerts import AlertServicer
from doorward_server.wire.audit import AuditServicer
from doorward_server.wire.authz import AuthzServicer
from doorward_server.wire.credits import CreditServicer
from doorward_server.wire.directory import DirectoryServicer
from doorward_server.wire.gate import Gate
from doorward_server.wire.keys import KeyServicer
from doorward_server.wire.keyspaces import KeyspaceServicer
from doorward_server.wire.metrics import Metrics
from doorward_server.wire.scraping import serve_metrics
from doorward_server.wire.server import QUIET, Servicers, Tls, bind, make_server, set_health
from doorward_server.wire.usage import UsageServicer
from doorward_server.wire.webhooks import WebhookServicer

log = structlog.get_logger("doorward")
FLUSH_SECONDS = 1.0
ANSWERS_LEAVE = 0.2
"""Seconds that the last answers get to leave the process when it drains."""
UNREADY_AFTER = 10.0
"""Seconds without a lease after which health says NOT_SERVING."""
TIDY_SECONDS = 1.0
PRUNE_SECONDS = 60.0
RETENTION_SECONDS = 3600.0


@contextlib.contextmanager
def opened(
    config: Config, clock: Clock, random: Random, *, repair: bool = False
) -> Iterator[tuple[Store, Keyring, bool]]:
    """Open the store, make it usable if it is empty or of an older Doorward, and close it in the end.

    A change log that somebody changed is refused, unless *repair*: then it is made anew, and every cache drops all.

    Yields the store, the pepper file's keys, and whether a root key was made. Raises PepperProblem, StoreNotReady and
    StoreUnavailable.
    """
    config.state_dir.mkdir(parents=True, exist_ok=True)
    ring = read_ring(config.peppers)
    keyring: Keyring  # made under the lock: nothing is sealed before that

    def audit_key(version: int) -> bytes:
        return keyring.current.peppers.audit_key(version)

    store = Store(config.store_url, audit_keys=audit_key, pepper=lambda: keyring.current.peppers.active)
    try:
        with store.lock():
            if repair or not store.is_current():
                store.migrate()
            store.check()
            # Somebody may have made the file while this process waited for the lock.
            keyring = Keyring(ring or read_ring(config.peppers) or _first_ring(config, store, random))
            check_peppers(store, keyring, config.peppers, clock())
            made = bootstrap(store, Catalog(store), keyring.current.peppers, config.root_key, clock(), random)
        yield store, keyring, made
    finally:
        store.close()


def _first_ring(config: Config, store: Store, random: Random) -> Ring:
    if store.peppers.list_all():
        raise PepperProblem(
            f"The store is in use, but the pepper file {config.peppers} is missing: no key in it could be proved. "
            "Put the file back from your secret store, or point DOORWARD_PEPPER_FILE at it."
        )
    return make_ring(config.peppers, random)


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
    counting: Counting
    watch: Watch
    recorder: Recorder
    retention: Retention
    metrics: Metrics
    membership: Membership
    freshness: Freshness
    tailing: Tailing
    waiting: Waiting
    leasing: Leasing
    registry: Registry
    expiring: Expiring
    audit_retention: AuditRetention
    clock: Clock
    pools: tuple[Pool, ...]
    servicers: Servicers

    async def start(self, *, shares_port: bool = False) -> int:
        """Bind, register, follow the change log, serve, and return the port, which other workers may share.

        Raises BindFailed, TransportMissing, PepperProblem, StoreUnavailable; OSError for the metrics' port or a missing
        PEM file.
        """
        self._stopped = False
        self._dropped = (0, 0, 0)
        self._health = health.aio.HealthServicer()
        self._gate = Gate(self.authorizer, self.metrics, QUIET, self.waiting.wait)
        self._server = make_server(
            self._gate, self.servicers, self._health, transport=self.config.transport, shares_port=shares_port
        )
        port = bind(self._server, self.config.listen, _tls(self.config))
        self.metrics_port: int | None = None
        self._stop_metrics: Callable[[], None] = lambda: None
        if self.config.metrics_listen:
            self.metrics_port, self._stop_metrics = serve_metrics(
                self.metrics, *split_address(self.config.metrics_listen)
            )
        self._beats = Pool("beats", threads=1, backlog=1)  # nothing else may hold them up
        try:
            await self._beats.run(self.membership.enter)
            self.tailing.start()
            await self.tailing.joined()
            await self.pools[1].run(self.watch.own_rules.look)  # else what is silenced would be told of at first
        except (PepperProblem, DoorwardError):
            await self.tailing.stop()
            self._beats.close()
            self._stop_metrics()
            raise
        await self._server.start()
        await set_health(self._health, serving=True)
        self._tasks = [asyncio.create_task(it) for it in (self._keep_flushing(), self._watch_lease(), *self._chores())]
        return port

    async def stop(self) -> None:
        """Drain: refuse new calls, let running ones finish, write what is buffered. Once; again does nothing."""
        if self._stopped:
            return
        self._stopped = True
        await self._health.enter_graceful_shutdown()
        self.leasing.close()
        self.watch.close()
        self.audit_retention.close()
        await self._drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for flush, loss in (
            (self.uses.flush, "last uses are lost"),
            (self.counting.flush, "usage is lost"),
            (self.watch.noticing.flush, "alerts are lost"),
            (self.recorder.flush, "sampled decisions are not recorded"),
        ):
            await attempt(flush, loss)
        await self.tailing.stop()
        self.waiting.close()
        leased = self.freshness.clients.quiet_at() > self.freshness.boot()
        try:
            await self._beats.run(self.membership.leave, condemn=leased)
        except DoorwardError as problem:
            log.warning("this replica stays registered until it counts as dead", why=problem.message)
        self._stop_metrics()
        for pool in (*self.pools, self._beats):
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
                # Not asyncio.wait_for: Python 3.11's forgets a cancellation that comes right after what it waits for.
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.uses.due.wait()
            await attempt(self.uses.flush, "last uses wait for the next flush")
            await attempt(self.counting.flush, "usage waits for the next flush")
            await attempt(self.watch.noticing.flush, "alerts wait for the next flush")
            self._tell_dropped()
            await asyncio.sleep(FLUSH_SECONDS / 10)

    def _tell_dropped(self) -> None:
        before = self._dropped
        self._dropped = dropped = self.counting.dropped, self.recorder.dropped, self.watch.noticing.dropped
        if dropped[:2] != before[:2]:
            log.error("usage is not whole: the store was away for too long", decisions=dropped[0], records=dropped[1])
        if dropped[2] != before[2]:
            log.error("alerts are not whole: too much came of one organization, or of all", notes=dropped[2])

    def _chores(self) -> Iterable[Coroutine[Any, Any, None]]:
        beats, management, now = self._beats, self.pools[1], self.clock
        # Apart from other flushes: whoever should read standard output may not.
        yield keep(lambda: FLUSH_SECONDS, self._record, "sampled decisions wait for the next flush")
        beat = "this replica could not say that it lives"
        yield keep(lambda: BEAT_SECONDS, lambda: beats.run(self.membership.beat), beat)
        yield keep(lambda: TIDY_SECONDS, lambda: beats.run(self.registry.tidy), "dead replicas stay registered")
        yield keep(
            lambda: SWEEP_SECONDS,
            lambda: management.run(self.expiring.sweep, now()),
            "events of expired keys wait for the next sweep",
            at_once=True,
        )
        for work, seconds, complaint in self.watch.work:
            yield keep(partial(float, seconds), work, complaint)
        yield keep(lambda: PRUNE_SECONDS, self._prune, "what is over stays in the store")
        yield keep(
            lambda: RETENTION_SECONDS,
            lambda: management.run(self.audit_retention.sweep, now()),
            "audit events that are too old stay for now",
            at_once=True,
        )

    async def _record(self) -> None:
        await self.recorder.flush()

    async def _prune(self) -> None:
        management = self.pools[1]
        while await management.run(self.store.prune_changes):
            pass
        while await management.run(self.store.limits.prune, self.clock()):
            pass
        while await management.run(self.retention.sweep, self.clock()):
            pass

    async def _say(self, ready: bool) -> None:
        await set_health(self._health, serving=ready)

    async def _watch_lease(self) -> None:
        loop, lease, boot = asyncio.get_running_loop(), self.freshness.lease, self.freshness.boot
        leased, serving = loop.time(), True
        while True:
            if lease.live(boot()):
                leased = loop.time()
            ready = loop.time() - leased < UNREADY_AFTER
            if ready is not serving and await attempt(partial(self._say, ready), "health stays as it was"):
                serving = ready
            await asyncio.sleep(0.5)


def build(config: Config, store: Store, keyring: Keyring, clock: Clock, random: Random, boot: Boot = boot_clock) -> App:
    """Wire everything. Nothing runs yet, and nothing below knows the clocks, the dice or the environment otherwise."""
    reads, management = Pool("reads", threads=4, backlog=512), Pool("management", threads=4, backlog=128)
    hashing = Pool("hashing", threads=1, backlog=64, nice=15)
    slow, penalty = Pool("slow", threads=1, backlog=64, nice=10), Pool("penalty", threads=1, backlog=16, nice=15)
    quotas, catalog = Quotas(keys=config.max_keys, bindings=config.max_bindings), Catalog(store)
    guard, uses, metrics = Guard(store, catalog, clock), LastUse(store, management), Metrics()
    recorder, *recording = _recorder(config, store, random)
    counting = Counting(store, catalog, management, clock, new_id("usage", random))
    mint = Mint(keyring, random, config.bcrypt_cost)
    watch = Watch.build(config, store, catalog, guard, mint, management, clock, random)
    telling = Telling(counting, watch.noticing, recorder, new_id("d", random) + "-")
    metrics.watch_losses(lambda: (counting.dropped, recorder.dropped, watch.noticing.dropped))
    prover = Prover(store, keyring, slow, penalty, management, clock, random(32))
    waits, sums = Pool("waits", threads=1, backlog=8), Pool("sums", threads=2, backlog=32)  # what waits shares one
    freshness = Freshness(reads, keyring.current.lookup, boot)
    finder = Finder(store, catalog, keyring.current.lookup, prover, freshness)
    charging, *charges = _charging(store, clock, boot)
    authorizer = Authorizer(finder, guard, Recognition(freshness, keyring, random(32)), uses, telling, charging, clock)
    make_id, stale = partial(new_id, "replica", random), round(config.serve_stale_for * SECOND)
    membership = Membership(store, keyring, config.peppers, clock, make_id, stale)
    lease = follow(store, membership, freshness, watch, guard, metrics, waits, uses, counting, clock)
    keys = Keys(store, catalog, guard, mint, quotas, clock, random)
    imports = Imports(
        store, catalog, guard, keys, mint, keyring.current.lookup, management, hashing, quotas, clock, random
    )
    batch_revokes, reveals = BatchRevokes(store, catalog, guard, clock), Reveals(store, catalog, keys, mint, clock)
    leaks = LeakReports(store, finder, guard, management, watch.noticing.leaked, clock)
    directory, roles = Directory(store, guard, clock), Roles(store, catalog, guard, quotas, clock, random)
    keyspaces = Keyspaces(store, catalog, guard, mint, clock)
    servicers = Servicers(
        keys=KeyServicer(keys, imports, batch_revokes, reveals, leaks, catalog, management, clock),
        authz=AuthzServicer(authorizer, Explainer(Asking(finder, guard), clock), lease.leasing, metrics),
        directory=DirectoryServicer(directory, roles, Facts(store, catalog, guard, quotas, clock), management),
        keyspaces=KeyspaceServicer(keyspaces, management),
        alerts=AlertServicer(watch.alerts, watch.rules, management),
        webhooks=WebhookServicer(watch.webhooks, management, watch.testing),
        usage=UsageServicer(Reports(store, guard, clock), sums),
        credits=CreditServicer(Credits(store, catalog, guard, clock), management),
        audit=AuditServicer(Auditing(store, guard, clock), management),
    )
    pools = (reads, management, slow, penalty, hashing, waits, sums, *recording, *charges, watch.posting, watch.testing)
    watched = (counting, watch, recorder, Retention(store, catalog))
    services = (keys, directory, roles, keyspaces, authorizer, uses, *watched)
    oldest = AuditRetention(store, config.audit_retention_days)
    return App(config, store, *services, metrics, *lease, Expiring(store), oldest, clock, pools, servicers)


def _recorder(config: Config, store: Store, random: Random) -> tuple[Recorder, Pool, Pool, Pool]:
    # Answers wait for what is done on the first two; whoever should read standard output may not.
    pools = Pool("recording", threads=3, backlog=64), Pool("printing", threads=4, backlog=64)
    sampling = Pool("sampling", threads=1, backlog=8)
    chance = dice.Random(random(8)).random  # noqa: S311  # which ALLOWs are recorded is no secret
    return Recorder(store, LogFile(config.decisions), to_stdout, *pools, sampling, chance), *pools, sampling


def _charging(store: Store, clock: Clock, boot: Boot) -> tuple[Charging, Pool, Pool]:
    limits, debits = (Pool(name, threads=1, backlog=8) for name in ("limits", "debits"))
    return Charging(Limiter(store, limits, clock, boot), Debiting(store, debits, clock)), limits, debits


def _tls(config: Config) -> Tls | None:
    if config.tls_certificate is None or config.tls_private_key is None:
        return None
    ca = config.tls_client_ca.read_bytes() if config.tls_client_ca else None
    return Tls(config.tls_certificate.read_bytes(), config.tls_private_key.read_bytes(), ca)
