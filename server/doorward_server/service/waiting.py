"""Holding a change back until nobody can answer from before it, and tending the registry that tells who might.

The waits of a process share their looks at the registry: each is told by one that began after its change committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from doorward_server.core.errors import DoorwardError
from doorward_server.core.freshness import Graveyard, Outcome, RegistryRow, Wait
from doorward_server.service.freshness import MICROSECOND, Boot
from doorward_server.service.pool import Pool
from doorward_server.service.replica import Membership
from doorward_server.store import Replica, Store

LOOK_EVERY = 0.008
"""Seconds between looks at who has acknowledged, while anybody waits."""
LOOKS_PER_REGISTRY = 16
"""One look in so many reads the registry again, for who has left since."""
SILENT_AFTER = 10_000_000_000
"""Nanoseconds without a beat after which a replica is condemned, so that no change has to find out that it is dead."""
log = structlog.get_logger("doorward")
Acknowledged = Mapping[str, int]


@dataclass(slots=True, eq=False)
class _Waiting:
    """One change that is held back."""

    revision: int | None
    done: asyncio.Future[Outcome]
    wait: Wait | None = None
    """None until the registry was read."""


class Waiting:
    """Tells when a revision has reached everybody. Belongs to the event loop; the store is asked on *pool*.

    *hint* has this process's own tail look at once; *count* is told how each wait ended, and its seconds.
    """

    def __init__(
        self,
        store: Store,
        membership: Membership,
        pool: Pool,
        boot: Boot,
        hint: Callable[[], None],
        count: Callable[[str, float], None],
    ) -> None:
        self._store = store
        self._membership = membership
        self._pool = pool
        self._boot = boot
        self._hint = hint
        self._count = count
        self._waiting: list[_Waiting] = []
        self._looks = 0
        self._watch: asyncio.Task[None] | None = None

    async def wait(self, revision: int | None) -> Outcome:
        """Return when nobody, anywhere, can answer from before *revision*, which is committed; and how that is known.

        None: from before what is committed by now.
        Takes as long as it takes: if the store cannot be asked who is registered, until it can.
        """
        began = self._boot()
        self._hint()
        mine = _Waiting(revision, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look_on())
        outcome = await mine.done
        self._count(outcome, (self._boot() - began) / 1e9)
        return outcome

    def close(self) -> None:
        """Give up: whoever waits is cancelled."""
        if self._watch is not None:
            self._watch.cancel()

    async def _look_on(self) -> None:
        while self._waiting:
            try:
                await self._look()
            except Exception as problem:  # noqa: BLE001  # the next look may tell, and time alone ends the waits
                what = problem.message if isinstance(problem, DoorwardError) else type(problem).__name__
                log.warning("who has seen a change cannot be told yet", why=what)
                self._settle(None)
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self) -> None:
        new = [it for it in self._waiting if it.wait is None]
        committed, own = self._boot(), self._own()
        unnamed = any(it.revision is None for it in new)
        self._looks += 1
        registry = bool(new) or self._looks % LOOKS_PER_REGISTRY == 0
        head, rows, acknowledged = await self._pool.run(self._read, registry, unnamed)
        if registry:
            for waiting in self._waiting:
                if waiting.wait is not None:
                    waiting.wait.narrow(rows)
        for waiting in new:
            waiting.wait = Wait(head if waiting.revision is None else waiting.revision, rows, committed, own)
        silent = self._settle(acknowledged)
        if silent:
            log.warning("replicas did not confirm a change and are condemned", replicas=sorted(silent))
            await self._pool.run(self._store.replicas.condemn, sorted(silent))

    def _read(self, registry: bool, unnamed: bool) -> tuple[int, list[RegistryRow], Acknowledged]:
        head = self._store.revision() if unnamed else 0
        # The registry first: an acknowledgement that comes in between is seen, a replica that does has read the change.
        rows = [_row(it) for it in self._store.replicas.list_all()] if registry else []
        return head, rows, self._store.replicas.list_acknowledgements()

    def _settle(self, acknowledged: Acknowledged | None) -> set[str]:
        """End the waits that are over, by time alone if nothing is known; return the replicas that let one expire."""
        now, left, silent = self._boot(), [], set[str]()
        for waiting in self._waiting:
            if waiting.done.done():  # its caller gave up
                continue
            outcome = waiting.wait.outcome(acknowledged or {}, now) if waiting.wait else None
            if outcome is None or waiting.wait is None:
                left.append(waiting)
                continue
            if outcome is Outcome.EXPIRED and acknowledged is not None:
                silent.update(waiting.wait.silent(acknowledged))
            waiting.done.set_result(outcome)
        self._waiting = left
        return silent

    def _own(self) -> RegistryRow:
        me = self._membership
        return RegistryRow(me.id, me.max_staleness * MICROSECOND, me.serve_stale_for * MICROSECOND)


class Registry:
    """Takes dead replicas out of the registry. Blocking; one thread at a time."""

    def __init__(self, store: Store, boot: Boot) -> None:
        self._store = store
        self._boot = boot
        self._graveyard = Graveyard()
        self._beats: dict[str, tuple[int, int]] = {}

    def tidy(self) -> None:
        """Condemn who has not been heard of for long, delete who was condemned long ago. Raises StoreUnavailable."""
        replicas = self._store.replicas.list_all()
        now = self._boot()
        gone = self._graveyard.look([_row(it) for it in replicas], now)
        if gone:
            self._store.replicas.delete(gone)
        silent = self._silent(replicas, now)
        if silent:
            log.warning("replicas are not heard of any more and are condemned", replicas=silent)
            self._store.replicas.condemn(silent)

    def _silent(self, replicas: list[Replica], now: int) -> list[str]:
        """Return the replicas whose beat has stood still, by this process's own clock: others' may be wrong."""
        before, self._beats = self._beats, {}
        for it in replicas:
            seen, since = before.get(it.id, (it.seen_at, now))
            self._beats[it.id] = (seen, since) if seen == it.seen_at else (it.seen_at, now)
        return [it.id for it in replicas if not it.condemned and now - self._beats[it.id][1] > SILENT_AFTER]


def _row(replica: Replica) -> RegistryRow:
    return RegistryRow(
        replica.id, replica.max_staleness * MICROSECOND, replica.serve_stale_for * MICROSECOND, replica.condemned
    )
