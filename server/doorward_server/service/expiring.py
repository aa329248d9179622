"""Noticing that keys have expired: nobody calls for it, so every replica looks, and the store makes one event of it.

What a decision says of an expired key does not wait for this: it compares the expiry with the time on every call.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from doorward_server.core.model import SECOND, Instant
from doorward_server.store import Store

SWEEP_SECONDS = 10.0
CHUNK = 250
"""Keys that one transaction marks: as with imports, others want to write, too."""
MANY = 1000
"""Keys that are looked for at a time."""
OVERLAP = 3600 * SECOND
"""How far a sweep looks back behind the one before: changes may take long to be committed, and clocks may differ."""


class Expiring:
    """Writes the event of every key that passed its expiry. Blocking; one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._swept: Instant = 0

    def sweep(self, now: Instant) -> int:
        """Write the events that are missing at *now*, and return how many; the first sweep looks at all keys.

        Raises StoreUnavailable: then some are written, and the next sweep writes the rest.
        """
        since, written = self._swept - OVERLAP, 0
        while found := self._store.list_unmarked_expiries(since, now, MANY):
            for organization, group in groupby(sorted(found), itemgetter(0)):
                ids = [id for _, id in group]
                for start in range(0, len(ids), CHUNK):
                    written += self._store.mark_expiries(organization, ids[start : start + CHUNK], now).value
            if len(found) < MANY:
                break
        self._swept = now
        return written
