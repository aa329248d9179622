"""What keeps memory true: the change log is followed, and changes wait until every cache has dropped what they change.

The part of the composition root that belongs to freshness; see docs/reliability.md.
"""

from __future__ import annotations

from typing import NamedTuple

from doorward_server.service.counting import Counting
from doorward_server.service.freshness import Freshness
from doorward_server.service.guard import Clock, Guard
from doorward_server.service.leasing import Hit, Leasing
from doorward_server.service.pool import Pool
from doorward_server.service.replica import Membership
from doorward_server.service.tailing import Tailing
from doorward_server.service.usage import LastUse
from doorward_server.service.waiting import Registry, Waiting
from doorward_server.store import Store
from doorward_server.watch import Watch
from doorward_server.wire.metrics import Metrics


class Following(NamedTuple):
    """What may answer from memory, and what keeps that true."""

    membership: Membership
    freshness: Freshness
    tailing: Tailing
    waiting: Waiting
    leasing: Leasing
    registry: Registry


def follow(
    store: Store,
    membership: Membership,
    freshness: Freshness,
    watch: Watch,
    guard: Guard,
    metrics: Metrics,
    waits: Pool,
    uses: LastUse,
    counting: Counting,
    clock: Clock,
) -> Following:
    """Wire what follows the change log. Nothing runs yet.

    *watch* is told, on the event loop, to forget when the store turns out to have another history.
    """

    def count(hit: Hit) -> None:
        metrics.hit(hit.reason, hit.count)
        uses.note_hit(hit)
        counting.hit(hit)
        watch.noticing.hit(hit)

    tailing = Tailing(store, membership, freshness, watch.forget)
    metrics.watch(freshness, tailing.polls)
    waiting = Waiting(store, membership, waits, freshness.boot, tailing.hint, metrics.waited)
    leasing = Leasing(freshness, guard, tailing.hint, count, clock)
    return Following(membership, freshness, tailing, waiting, leasing, Registry(store, freshness.boot))
