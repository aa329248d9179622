"""Usage: every decision is counted in memory, and written once a second as hourly cells.

Counting takes no lock and asks nobody. Decisions are folded into a bounded number of cells (`core.usage`) on the thread
that writes them. Each flush has a number: one whose outcome is unknown is sent again as it was, and counts once.
kill -9 loses what was counted since the last flush.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from doorward_server.core.errors import Overloaded
from doorward_server.core.model import Instant
from doorward_server.core.policy import Keyspace, Path, parse_path
from doorward_server.core.reasons import Reason
from doorward_server.core.subject import Subject
from doorward_server.core.usage import HOUR, Cells, Counted, Folding, Stranger, hour_of
from doorward_server.service.catalog import Catalog
from doorward_server.service.guard import Caller, Clock
from doorward_server.service.leasing import Hit
from doorward_server.service.pool import Pool
from doorward_server.store import Store

MOST = 200_000
"""Kinds of decisions, and cells, that wait at most while the store is lost: some 100 MiB. Then details go: resource and
address; at twice as many, the counts of new kinds. `dropped` tells how many decisions those were."""
CHUNK = 1_000
"""Cells of each kind in one transaction."""
KNOWN = 100_000
"""Keys of client caches that are remembered to be there, or not."""


class Counting:
    """Counts decisions. Belongs to the event loop, but for what `flush` does on *writes*. *source* is of this start."""

    def __init__(self, store: Store, catalog: Catalog, writes: Pool, clock: Clock, source: str) -> None:
        self._dropped = 0
        self._writes = writes
        self._counts: dict[Counted, int] = {}
        self._hits: dict[Counted, int] = {}
        self._flushing = _Flushing(store, catalog, clock, source)

    @property
    def dropped(self) -> int:
        """Count the decisions that are missing in the store's counts, and stay so."""
        return self._dropped + self._flushing.dropped

    def decided(
        self,
        caller: Caller | None,
        subject: Subject | None,
        keyspace: str,
        action: str,
        path: Path,
        reason: Reason,
        address: str,
        prefix: str,
        now: Instant,
    ) -> None:
        """Count one decision that is handed out; *prefix* is what a credential began like that was nobody's."""
        stranger = None
        if subject is None:
            organization, key, owner = caller.organization if caller else "operator", "", ""
            stranger = Stranger(prefix, caller.subject.key.id if caller and caller.subject.key else "")
        else:
            organization = subject.organization.id
            key = subject.key.id if subject.key is not None else ""
            owner = subject.owner.id if subject.owner is not None else ""
        told = (organization, key, owner, keyspace, action, path, reason, address, now - now % HOUR, stranger)
        counts = self._counts
        if told in counts:  # equal to the Counted that it became
            counts[told] += 1
        else:
            self._add(counts, Counted._make(told), 1)

    def hit(self, hit: Hit) -> None:
        """Count decisions that a client gave from its cache. Where from is not known, and who owns the key not yet."""
        path = tuple((hit.resource or hit.action.partition(":")[0]).split("/"))
        hour = hour_of(hit.last_at)
        counted = Counted(hit.organization, hit.key, "", hit.keyspace, hit.action, path, hit.reason, "", hour, None)
        self._add(self._hits, counted, hit.count)

    def _add(self, counts: dict[Counted, int], counted: Counted, count: int) -> None:
        known = counts.get(counted)
        if known is None and len(counts) >= MOST:
            counted = counted._replace(path=counted.path[:1], address="")
            known = counts.get(counted)
            if known is None and len(counts) >= 2 * MOST:
                self._dropped += count
                return
        counts[counted] = (known or 0) + count

    async def flush(self) -> None:
        """Write what was counted. On a failure all of it stays, and goes with the next. Raises StoreUnavailable."""
        counts, self._counts = self._counts, {}
        hits, self._hits = self._hits, {}
        try:
            await self._writes.run(self._flushing.flush, counts, hits)
        except Overloaded:  # it was not begun
            for earlier, counting in ((counts, self._counts), (hits, self._hits)):
                for counted, count in earlier.items():
                    self._add(counting, counted, count)
            raise


class _Flushing:
    """What is on its way to the store. One flush at a time, on whichever thread."""

    def __init__(self, store: Store, catalog: Catalog, clock: Clock, source: str) -> None:
        self.dropped = 0
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._source = source
        self._lock = threading.Lock()
        self._folding = Folding()
        self._cells = Cells()
        self._sent = Cells()
        self._sequence = 0
        self._hits: dict[Counted, int] = {}
        self._owners: dict[tuple[str, str], tuple[str, str | None] | None] = {}

    def flush(self, counts: Mapping[Counted, int], hits: Mapping[Counted, int]) -> None:
        """Fold *counts* and *hits* in, and write all there is. What there is no room for is `dropped`."""
        with self._lock:
            self._take_in(counts)
            self._wait_for_owner(hits)
            self._write()
            self._take_in(self._verified())
            self._write()

    def _take_in(self, counts: Mapping[Counted, int]) -> None:
        if len(self._cells) >= 2 * MOST:
            self.dropped += sum(counts.values())
        else:
            self._folding.fold(counts, self._cells)

    def _wait_for_owner(self, hits: Mapping[Counted, int]) -> None:
        for counted, count in hits.items():
            if counted in self._hits or len(self._hits) < 2 * MOST:
                self._hits[counted] = self._hits.get(counted, 0) + count
            else:
                self.dropped += count

    def _write(self) -> None:
        while self._cells or self._sent:
            if not self._sent:
                self._sent = self._cells.take(CHUNK)
                self._sequence += 1
            self._store.usage.add(self._source, self._sequence, self._sent, self._clock())
            self._sent = Cells()

    def _verified(self) -> Mapping[Counted, int]:
        """Return the hits that can be true, with the key's owner: a client says what it likes."""
        keyspaces = {name: self._catalog.find(name) for name in {counted.keyspace for counted in self._hits}}
        owners = {counted: self._owner(counted, keyspaces[counted.keyspace]) for counted in self._hits}
        hits, self._hits = self._hits, {}
        return {counted._replace(owner=owner): hits[counted] for counted, owner in owners.items() if owner is not None}

    def _owner(self, counted: Counted, declared: Keyspace | None) -> str | None:
        """Return the owner (empty: none) of the key that a client tells of; None if what it tells cannot be true."""
        of = (counted.organization, counted.key)
        if of not in self._owners:
            if len(self._owners) >= KNOWN:
                self._owners.clear()
            self._owners[of] = self._store.usage.find_key(*of)
        keyspace, owner = self._owners[of] or ("", None)
        if keyspace != counted.keyspace or declared is None or not _makes_sense(counted, declared):
            return None
        return owner or ""


def _makes_sense(counted: Counted, keyspace: Keyspace) -> bool:
    if counted.action not in keyspace.permissions or counted.path[0] not in keyspace.types:
        return False
    try:
        return parse_path("/".join(counted.path)) == counted.path
    except ValueError:  # what no question could hold, the store might not keep
        return False
