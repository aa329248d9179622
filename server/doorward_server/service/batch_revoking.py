"""Ending many keys at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from doorward_server.core.errors import CountMismatch, InvalidField
from doorward_server.core.fields import check_text
from doorward_server.core.model import Event, Key, KeyFilter
from doorward_server.core.rails import Hand, check_ended_by
from doorward_server.service.catalog import Catalog
from doorward_server.service.changes import key_event
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.requests import own_or
from doorward_server.service.settings import check_filter
from doorward_server.store import Store

CHUNK = 250
"""Keys that one transaction ends."""
SAMPLE = 20
MANY = 10_000
"""Keyspaces that are looked at; nobody has as many."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How many keys were ended, or would be; some of them, newest first; and the revision after the last."""

    count: int
    sample: tuple[Key, ...]
    revision: int


class BatchRevokes:
    """Ends many keys. Blocking: belongs on the management pool."""

    def __init__(self, store: Store, catalog: Catalog, guard: Guard, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._clock = clock

    def revoke(
        self,
        caller: Caller,
        organization: str,
        wanted: KeyFilter,
        reason: str,
        expected: int | None,
        *,
        dry_run: bool,
    ) -> Ended:
        """End the unrevoked keys that *wanted* finds now, and that it still finds when their turn comes.

        Raises CallerForbidden, InvalidField, CountMismatch. After StoreUnavailable some may be ended: call again.
        """
        organization = own_or(caller, organization)
        check_filter(wanted)
        resource = f"organizations/{organization}/keyspaces/{wanted.keyspace or '-'}/keys"
        actor = self._guard.require(caller, "keys:revoke", resource)
        if wanted == KeyFilter():
            raise InvalidField("filter", "must have at least one condition")
        check_text("reason", reason, 500, required=True)
        now = self._clock()
        ids = self._store.list_unrevoked_keys(organization, wanted, now)
        if expected is not None and expected != len(ids):
            raise CountMismatch(expected, len(ids))
        self._check_hands(caller, organization, wanted, ids, resource)
        if dry_run or not ids:
            revision = self._store.revision()
            found = filter(None, (self._store.find_key(organization, id) for id in ids[:SAMPLE]))
            return Ended(len(ids), tuple(found), revision)

        def change(key: Key) -> tuple[Key, Event] | None:
            ended = key.revoke(now, reason)
            return ended, replace(key_event(actor, "keys:revoke", key, ended, now), note=reason)

        count, revision = 0, 0
        sample: list[Key] = []
        for start in range(0, len(ids), CHUNK):
            some = ids[start : start + CHUNK]
            written = self._store.revoke_keys(organization, some, wanted, change, now)
            count, revision = count + len(written.value), written.revision
            sample += written.value[: SAMPLE - len(sample)]
        return Ended(count, tuple(sample), revision)

    def _check_hands(
        self, caller: Caller, organization: str, wanted: KeyFilter, ids: Sequence[str], resource: str
    ) -> None:
        """Raise CallerForbidden, before any key is ended, if a keyspace lets only its owner end one of them."""
        names = [wanted.keyspace] if wanted.keyspace else [it.name for it in self._store.list_keyspaces("", MANY)]
        found = {name: keyspace.rails for name in names if (keyspace := self._catalog.find(name)) is not None}
        strict = {name: rails for name, rails in found.items() if rails.ended_by != frozenset(Hand)}
        for id in ids if strict else ():
            key = self._store.find_key(organization, id)
            if key is not None and key.keyspace in strict:
                hand = caller.hand(organization, key.owner)
                check_ended_by(strict[key.keyspace], key, hand, "keys:revoke", resource)
