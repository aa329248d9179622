"""When keys were last used: noted in memory on every call, written once a second, never a write per request."""

from __future__ import annotations

import asyncio

from doorward_server.core.model import Instant, Key, Secret, Use
from doorward_server.core.reasons import UNAUTHENTICATED
from doorward_server.service.leasing import Hit
from doorward_server.service.pool import Pool
from doorward_server.store import Store

MOST_REPORTED = 50_000
"""Uses seen by clients' caches that wait for the next flush."""


class LastUse:
    """Collects uses between two flushes. Belongs to the event loop's thread; the store is asked on *writes*.

    A secret's first use since the start sets `due`, later ones with the next flush. kill -9 loses what was
    noted since the last flush, and nothing else.
    """

    def __init__(self, store: Store, writes: Pool) -> None:
        self._store = store
        self._writes = writes
        self._pending: dict[str, tuple[Key, Instant]] = {}
        self._reported: dict[tuple[str, ...], Use] = {}
        self._seen: set[str] = set()
        self.due = asyncio.Event()

    def note(self, key: Key, secret: Secret, now: Instant) -> None:
        """Remember that *secret* authenticated a call at *now*."""
        self._pending[secret.id] = (key, now)
        if secret.id not in self._seen:
            if len(self._seen) >= 100_000:
                self._seen.clear()
            self._seen.add(secret.id)
            self.due.set()

    def note_hit(self, hit: Hit) -> None:
        """Remember a use that a client's cache tells of. What is too many until the next flush is passed over."""
        name = (hit.organization, hit.keyspace, hit.key, hit.secret)
        known = self._reported.get(name)
        if hit.reason in UNAUTHENTICATED or (known is None and len(self._reported) >= MOST_REPORTED):
            return
        if known is None or known.at < hit.last_at:
            self._reported[name] = Use(hit.organization, hit.key, hit.secret, hit.last_at, hit.keyspace)

    async def flush(self) -> int:
        """Write what was noted; returns how many. On a failure everything stays noted. Raises StoreUnavailable."""
        taken, self._pending = self._pending, {}
        reported, self._reported = self._reported, {}
        self.due.clear()
        noted = [Use(key.organization, key.id, secret, at) for secret, (key, at) in taken.items()]
        uses = [*noted, *reported.values()]
        try:
            if uses:
                await self._writes.run(self._store.record_uses, uses)
        except BaseException:
            self._pending = {**taken, **self._pending}
            self._reported = {**reported, **self._reported}
            raise
        return len(uses)
