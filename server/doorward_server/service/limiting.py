"""Spending what limits allow: units are leased from the store, for all windows of a call at once, and spent here.

Spending is a subtraction on the event loop. How many units a lease asks for follows what was spent in this cell so far:
a key that is used now and then takes one at a time, and nothing that it does not use; a busy one asks rarely. Asking
waits for nobody: meters that somebody else has locked just then are asked for again soon, so a server that hangs while
it has them holds up only their calls.

What is left of a lease when its cell ends is lost: at most as much as the replica spent in that cell, or one in eight
of what was left of the limit, whichever is less; and leases are smaller towards the end of a cell, so mostly it is far
less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from doorward_server.core.decide import Question
from doorward_server.core.errors import Overloaded, StoreUnavailable
from doorward_server.core.limits import NEVER, Grant, Meter, Per, Room
from doorward_server.core.model import Instant, Key
from doorward_server.core.policy import Keyspace, Path
from doorward_server.core.reasons import Reason
from doorward_server.core.sections import Window
from doorward_server.core.subject import Subject
from doorward_server.service.freshness import MICROSECOND, Boot
from doorward_server.service.guard import Clock
from doorward_server.service.pool import Pool
from doorward_server.store import Charge, Debit, Store

AT_ONCE = 100
"""Charges in one transaction."""
REMEMBERED = 50_000
"""Counts of which a process knows something; beyond, those go whose cell is over."""
MOST = 1_000_000
"""Units in one lease."""
PAUSE = 0.002
"""Seconds before meters are asked for again that were locked, if there is nothing else to ask for."""
PATIENCE = 5.0
"""Seconds after which a meter that is still locked counts as one that cannot be reached."""


class Status(NamedTuple):
    """How one limit stands after a call. Durations are in microseconds."""

    name: str
    limit: int
    window: int
    remaining: int
    reset_after: int
    retry_after: int | None = None
    """None: the call fits into it, or never will."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How credits stand after a call. Durations are in microseconds."""

    balance: int
    refill_after: int | None = None
    """None: no refill comes."""
    retry_after: int | None = None
    """None: the call was paid, or cannot be before somebody adds to them."""


class Charged(NamedTuple):
    """What became of a call: why it is too much (None: it is not), and how what it was charged to stands."""

    reason: Reason | None
    limits: tuple[Status, ...]
    credits: Standing | None = None
    """None: it was charged to none."""
    paid: Debit | None = None
    """What it has paid."""


FREE = Charged(None, ())
"""Nothing limits it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A call that needs units: whether it was let through or refused; None: it has to look again."""

    cost: int
    served: asyncio.Future[bool | None] = field(repr=False)
    until: float
    """When it gives up on meters that are locked, by the event loop's clock."""


@dataclass(slots=True, eq=False)
class _Bucket:
    """Units of one lease, and what was learned with it. Instants are of the boot clock, in nanoseconds."""

    meters: tuple[Meter, ...]
    units: int = 0
    until: int = 0
    """When the cell ends in which they may be spent, at the earliest."""
    cell: Instant = 0
    """Which cell that is: when it ends, by the store's clock."""
    spent: int = 0
    """In this cell, and half of what the last one took, if it follows on that."""
    rooms: tuple[Room, ...] = ()
    epoch: int = 0
    """What to add to an instant of the store, in nanoseconds, so that it never comes too early here."""
    full_at: int = 0
    """So many units were too much, until a new cell begins. 0: not that we know."""
    full_until: int = 0
    waiting: list[_Waiter] = field(default_factory=list)
    """Calls that need more than is here, for which the store is not asked yet."""
    asking: bool = False
    """Whether the store is being asked, or about to be."""

    def spend(self, cost: int, now: int) -> bool:
        """Take *cost* units, if they are here."""
        if self.units < cost or now >= self.until:
            return False
        self.units -= cost
        self.spent += cost
        return True

    def left(self, now: int) -> int:
        """Return how many units may still be spent: none of a cell that is over."""
        return self.units if now < self.until else 0

    def full(self, cost: int, now: int) -> bool:
        """Tell whether *cost* is known not to fit before a new cell begins somewhere."""
        return 0 < self.full_at <= cost and now < self.full_until

    def wanted(self, cost: int, now: int) -> int:
        """Return how many units to ask for: half of what this cell still takes, if it goes on as it began.

        That is at most what it took so far; in a new cell, half of what the last one took, if that was just now.
        """
        left = self.until - now
        if left > 0:
            return max(cost, min(self.spent, self.spent * left // max(1, self._length() - left) // 2, MOST))
        return max(cost, min(self._carried(now), MOST))

    def _length(self) -> int:
        return min(it.cell for it in self.meters) * MICROSECOND

    def _carried(self, now: int) -> int:
        return self.spent // 2 if now < self.until + self._length() else 0

    def take(self, grant: Grant, cost: int, asked_at: int, told_at: int) -> None:
        """Take what the store said, between *asked_at* and *told_at*."""
        self.epoch = told_at - grant.now * MICROSECOND
        self.rooms = grant.rooms
        ends = asked_at + (grant.ends - grant.now) * MICROSECOND
        if grant.units:
            if grant.ends == self.cell:  # both tell a moment that is not after its end: the later one is nearer
                self.units, self.until = self.units + grant.units, max(ends, self.until)
            else:
                self.spent = self._carried(asked_at)
                self.units, self.until, self.cell = grant.units, ends, grant.ends
            self.full_at = 0
        else:
            self.full_at, self.full_until = cost, ends

    def statuses(self, cost: int, now: int) -> tuple[Status, ...]:
        """Return how every limit stands at *now*, for a call that would take *cost*."""
        units, here = self.left(now), (now - self.epoch) // MICROSECOND  # the store's time, not a moment too late
        statuses = []
        for room in self.rooms:
            meter, left = room.meter, room.left + units
            retry = max(0, room.retry_at - here) if left < cost and room.retry_at < NEVER else None
            reset = room.reset_at - here if room.reset_at > here else 0
            statuses.append(Status(meter.name, meter.limit, meter.window, left, reset, retry))
        return tuple(statuses)


@dataclass(frozen=True, slots=True, eq=False)
class _Asking:
    """A charge on its way to the store, and the calls that waited for it before it was sent."""

    bucket: _Bucket
    charge: Charge
    waiters: list[_Waiter]


class Limiter:
    """Charges calls to the limits of their keyspace. Belongs to the event loop; the store is asked on *pool*."""

    def __init__(self, store: Store, pool: Pool, clock: Clock, boot: Boot) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._boot = boot
        self._known: dict[tuple[str, ...], tuple[Keyspace, Mapping[str, int], _Bucket | None]] = {}
        self._buckets: dict[tuple[Meter, ...], _Bucket] = {}
        self._queue: list[_Bucket] = []
        self._asking: asyncio.Task[None] | None = None
        self.leases = 0
        """How often the store was asked for units."""

    async def charge(self, subject: Subject, question: Question, keyspace: Keyspace, cost: int) -> Charged:
        """Charge an allowed call of *cost* units (0: what the keyspace says) to all its limits, or to none.

        Raises StoreUnavailable and Overloaded where the store must be asked and cannot, unless the keyspace allows
        what it cannot count.
        """
        bucket, cost = self._asked(subject, question, keyspace, cost)
        if bucket is None:
            return FREE
        if bucket.spend(cost, now := self._boot()):  # nearly always: nothing to wait for
            return Charged(None, bucket.statuses(0, now))
        return await self._ask_for(bucket, cost, keyspace)

    def refuses(self, subject: Subject, question: Question, keyspace: Keyspace, cost: int) -> Charged | None:
        """Return what `charge` would, if it is known that it would refuse."""
        bucket, cost = self._asked(subject, question, keyspace, cost)
        if bucket is None or bucket.left(now := self._boot()) >= cost or not bucket.full(cost, now):
            return None
        return Charged(_why(bucket, cost), bucket.statuses(cost, now))

    def _asked(self, subject: Subject, question: Question, keyspace: Keyspace, cost: int) -> tuple[_Bucket | None, int]:
        """Return what counts such a call, and what it costs; None: nothing does, or it costs nothing."""
        bucket = self._bucket(subject, question, keyspace)
        cost = cost or keyspace.sections.limits.costs.get(question.action, 1)
        return (bucket, cost) if cost else (None, 0)

    async def _ask_for(self, bucket: _Bucket, cost: int, keyspace: Keyspace) -> Charged:
        """Charge a call for which nothing is leased."""
        try:
            let_through = None
            while let_through is None and not bucket.spend(cost, now := self._boot()):
                let_through = False if bucket.full(cost, now) else await self._lease(bucket, cost)
            now = self._boot()
        except (StoreUnavailable, Overloaded):
            if keyspace.sections.limits.allow_on_store_loss:
                return FREE
            raise
        if let_through is False:
            return Charged(_why(bucket, cost), bucket.statuses(cost, now))
        return Charged(None, bucket.statuses(0, now))

    def limits(self, subject: Subject, question: Question, keyspace: Keyspace) -> bool:
        """Tell whether anything limits such a call: its answer must not be given again without asking."""
        return self._bucket(subject, question, keyspace) is not None

    # --- whose units --------------------------------------------------------------------------------------------------

    def _bucket(self, subject: Subject, question: Question, keyspace: Keyspace) -> _Bucket | None:
        limits, key = keyspace.sections.limits, subject.key
        if not limits.windows or key is None:
            return None
        owner = subject.owner.id if subject.owner is not None else ""
        resource = question.path if limits.by_resource else ()
        name = (keyspace.name, subject.organization.id, key.id, owner, question.action, *resource)
        known = self._known.get(name)
        if known is None or known[0] is not keyspace or known[1] != key.limits:
            if len(self._known) >= REMEMBERED:
                self._forget()
            meters = tuple(_meters(limits.windows, subject, key, question.action, question.path))
            known = self._known[name] = keyspace, key.limits, self._of(meters)
        return known[2]

    def _of(self, meters: tuple[Meter, ...]) -> _Bucket | None:
        if not meters:
            return None
        return self._buckets.setdefault(meters, _Bucket(meters))

    def _forget(self) -> None:
        """Forget what is known for convenience, and the counts whose cell is over."""
        self._known.clear()
        now = self._boot()
        live = {it: b for it, b in self._buckets.items() if b.asking or (b.units and now < b.until)}
        if len(live) >= REMEMBERED:  # units that are forgotten stay charged: never too many
            live = {it: b for it, b in live.items() if b.asking}
        self._buckets = live

    # --- the store ----------------------------------------------------------------------------------------------------

    async def _lease(self, bucket: _Bucket, cost: int) -> bool | None:
        """Wait for an answer of the store, and tell whether it let this call through; None: look again."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(cost, loop.create_future(), loop.time() + PATIENCE)
        bucket.waiting.append(waiter)
        if not bucket.asking:
            bucket.asking = True
            self._queue.append(bucket)
            if self._asking is None or self._asking.done():
                self._asking = loop.create_task(self._ask_on())
        return await waiter.served

    async def _ask_on(self) -> None:
        while self._queue:
            buckets, self._queue = self._queue[:AT_ONCE], self._queue[AT_ONCE:]
            asked_at = self._boot()  # before the store looks at its clock: so a cell ends here before it does there
            batch = [_about(bucket, asked_at) for bucket in buckets]
            self.leases += len(batch)
            try:
                charges = [it.charge for it in batch]
                grants = await self._pool.run(self._store.limits.charge, charges, self._clock)
            except Exception as problem:  # noqa: BLE001  # handed over to whoever waits
                for it in batch:
                    _end(it, problem)
                continue
            told_at, locked = self._boot(), list[_Bucket]()
            for it, grant in zip(batch, grants, strict=True):
                if grant is None:
                    locked += _again(it)
                    continue
                it.bucket.take(grant, it.charge.cost, asked_at, told_at)
                _hand_out(it, granted=grant.units > 0)
                _end(it, None)
            if locked and not self._queue:
                await asyncio.sleep(PAUSE)
            self._queue += locked


def _about(bucket: _Bucket, now: int) -> _Asking:
    waiters, bucket.waiting = bucket.waiting, []
    cost = waiters[0].cost
    wanted = max(bucket.wanted(cost, now), min(MOST, sum(it.cost for it in waiters)))
    return _Asking(bucket, Charge(bucket.meters, cost, wanted), waiters)


def _hand_out(asking: _Asking, granted: bool) -> None:
    """Tell those who waited before the store was asked what it has said, also if the cell has ended on the way.

    For them that was said while they waited. Who came later must find units of a live cell.
    """
    bucket = asking.bucket
    for waiter in asking.waiters:
        if waiter.served.done():
            continue
        if not granted and waiter.cost >= asking.charge.cost:
            waiter.served.set_result(False)
        elif granted and waiter.cost <= bucket.units:
            bucket.units -= waiter.cost
            bucket.spent += waiter.cost
            waiter.served.set_result(True)


def _again(asking: _Asking) -> list[_Bucket]:
    """Have a bucket ask again whose meters were locked, if there is anybody who still waits; return it then."""
    bucket, now = asking.bucket, asyncio.get_running_loop().time()
    waiters = [it for it in (*asking.waiters, *bucket.waiting) if not it.served.done()]
    for it in waiters:
        if now >= it.until:
            it.served.set_exception(StoreUnavailable())
    bucket.waiting = [it for it in waiters if not it.served.done()]
    bucket.asking = bool(bucket.waiting)
    return [bucket] if bucket.asking else []


def _end(asking: _Asking, problem: Exception | None) -> None:
    """Have those look again who were not let through, or tell them all what went wrong."""
    bucket = asking.bucket
    bucket.asking = False
    late, bucket.waiting = bucket.waiting, []
    for waiter in (*asking.waiters, *late):
        if waiter.served.done():
            continue
        if problem is None:
            waiter.served.set_result(None)
        else:
            waiter.served.set_exception(problem)


def _why(bucket: _Bucket, cost: int) -> Reason:
    """Return the reason of the limit that holds out longest."""
    refusing = [room for room in bucket.rooms if room.left < cost] or list(bucket.rooms)
    return max(refusing, key=lambda room: (room.retry_at, room.meter.window)).meter.reason


def _meters(windows: Iterable[Window], subject: Subject, key: Key, action: str, path: Path) -> Iterable[Meter]:
    owner = subject.owner.id if subject.owner is not None else ""
    for window in windows:
        if window.actions is None or action in window.actions:
            whose = window.per.whom(key.id, owner)
            if window.per is Per.KEY_AND_RESOURCE:
                whose = f"{whose}/{blake2b('/'.join(path).encode(), digest_size=16).hexdigest()}"
            limit = key.limits.get(window.name, window.limit)
            yield Meter(subject.organization.id, key.keyspace, whose, window.name, limit, window.window)
