"""Showing the text of a key again, where its keyspace keeps it."""

from __future__ import annotations

import structlog
from cryptography.exceptions import InvalidTag

from doorward_server.core.errors import NotRecoverable, StoreUnavailable
from doorward_server.core.keytext import SecretText
from doorward_server.core.model import Event, Key, Sealed
from doorward_server.service.catalog import Catalog
from doorward_server.service.guard import Caller, Clock
from doorward_server.service.keys import Keys
from doorward_server.service.mint import Mint
from doorward_server.store import Store

log = structlog.get_logger("doorward")


class Reveals:
    """Shows texts. Blocking: belongs on the management pool."""

    def __init__(self, store: Store, catalog: Catalog, keys: Keys, mint: Mint, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._keys = keys
        self._mint = mint
        self._clock = clock

    def reveal(self, caller: Caller, organization: str, id: str) -> SecretText:
        """Return the text of a key's newest secret, once the audit log has it that *caller* was shown it.

        Raises CallerForbidden, NotFound, NotRecoverable, and StoreUnavailable if this replica lacks the recovery key.
        """
        key, actor = self._keys.load(caller, "keys:reveal", organization, id)
        now = self._clock()
        recoverable = self._catalog.get(key.keyspace).recoverable

        def read(current: Key, sealed: Sealed | None) -> tuple[SecretText, Event]:
            text = self._opened(current, sealed, recoverable)
            return text, Event(current.organization, now, actor, "keys:reveal", "key", id)

        return self._store.reveal_key(key.organization, id, read).value

    def _opened(self, key: Key, sealed: Sealed | None, recoverable: bool) -> SecretText:
        if key.revoked_at is not None:
            raise NotRecoverable(key.id, "it is revoked")
        if not recoverable:
            raise NotRecoverable(key.id, "its keyspace is not recoverable")
        if sealed is None:
            raise NotRecoverable(
                key.id, "it is not kept, as only a hash of it was imported or the keyspace became recoverable later"
            )
        try:
            return self._mint.opened(key, key.secrets[0].id, sealed)
        except (KeyError, InvalidTag) as problem:
            log.error("a sealed text does not open", key=key.id, version=sealed.version, kind=type(problem).__name__)
            raise StoreUnavailable(
                "This replica cannot open the text of this key with the recovery keys it has. Give it the current "
                "pepper file."
            ) from None
