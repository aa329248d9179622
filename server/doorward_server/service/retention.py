"""Forgetting usage and recorded decisions once their keyspace no longer keeps them."""

from __future__ import annotations

from collections.abc import Iterator

from doorward_server.core.model import DAY, Instant
from doorward_server.core.policy import Keyspace
from doorward_server.core.usage import hour_of
from doorward_server.service.catalog import Catalog
from doorward_server.store import Store

PAGE = 100
FORGOTTEN = 7 * DAY
"""How long a process that has flushed may be away and still send its last flush again."""


class Retention:
    """Prunes, in transactions of about a thousand rows. Blocking: belongs on the management pool."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    def sweep(self, now: Instant) -> int:
        """Remove a part of what is too old at *now*, and return how many rows that were: call until 0."""
        self._store.usage.prune_flushes(now - FORGOTTEN)
        return sum(self._prune(keyspace, now) for keyspace in self._keyspaces())

    def _prune(self, keyspace: Keyspace, now: Instant) -> int:
        kept = keyspace.sections
        usage_before = hour_of(now - kept.keep_usage)
        return self._store.usage.prune(keyspace.name, usage_before, now - kept.decision_log.keep)

    def _keyspaces(self) -> Iterator[Keyspace]:
        after = ""
        while stored := self._store.list_keyspaces(after, PAGE):
            for it in stored:
                yield self._catalog.compiled(it.name, it.source)
            after = stored[-1].name
