"""The keyspaces, compiled: read from the store when somebody needs to know, compiled once per version."""

from __future__ import annotations

from doorward_server.core.errors import StoreUnavailable, UnknownReference
from doorward_server.core.model import StoredKeyspace
from doorward_server.core.policy import Keyspace
from doorward_server.service.keyspace_file import load_keyspace
from doorward_server.store import Store

DOORWARD = "doorward"
"""The built-in keyspace: Doorward's own callers hold its keys."""
OPERATOR = "operator"
"""The organization that runs this Doorward; only its keys act across organizations."""


RELATIONS = frozenset({"owner", "acting"})
"""What the rules of `doorward` may ask for: to own the thing, or to act for somebody."""


class Catalog:
    """Compiled keyspaces by name and version. A version never changes, so what is compiled is never stale.

    For any thread; reads the store each time it is asked what is there.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._compiled: dict[str, tuple[int, Keyspace]] = {}

    def known(self, name: str) -> tuple[int, Keyspace] | None:
        """Return the newest version that this process has compiled, without asking anybody."""
        return self._compiled.get(name)

    def find(self, name: str) -> Keyspace | None:
        """Return the keyspace as it is now, or None. Reads the store."""
        return self.find_at(name)[1]

    def find_at(self, name: str) -> tuple[int, Keyspace | None]:
        """Return the keyspace as it is now, or None, and the revision it was read at."""
        snapshot = self._store.find_keyspace_record(name)
        if snapshot.keyspace is None:
            self._compiled.pop(name, None)
            return snapshot.revision, None
        return snapshot.revision, self._at(snapshot.keyspace)

    def get(self, name: str, field: str = "keyspace") -> Keyspace:
        """Return the keyspace as it is now. Raises UnknownReference, naming *field*."""
        keyspace = self.find(name) if name else None
        if keyspace is None:
            raise UnknownReference(field, "keyspace", name)
        return keyspace

    def in_version(self, name: str, version: int | None) -> Keyspace | None:
        """Return the keyspace as it was in the snapshot that showed *version*; None if it is another one by now.

        Raises UnknownReference for the version None: there was no such keyspace.
        """
        if version is None:
            raise UnknownReference("keyspace", "keyspace", name)
        known = self._compiled.get(name)
        if known is None or known[0] != version:
            self.find(name)
            known = self._compiled.get(name)
        return known[1] if known is not None and known[0] == version else None

    def forget(self) -> None:
        """Forget what is compiled: in another history the same version may be another file."""
        self._compiled.clear()

    def _at(self, stored: StoredKeyspace) -> Keyspace:
        known = self._compiled.get(stored.name)
        if known is None or known[0] != stored.version:  # lower again after a restore
            known = (stored.version, compile_stored(stored))
            self._compiled[stored.name] = known
        return known[1]


def changes_too_fast(name: str) -> StoreUnavailable:
    """Return the error for a keyspace that is another one each time it is read."""
    return StoreUnavailable(f"The keyspace {name!r} changes faster than it can be read. Try again.")


def compile_stored(stored: StoredKeyspace) -> Keyspace:
    """Compile a keyspace that was checked when it was applied."""
    if stored.name == DOORWARD:
        return load_keyspace(stored.source, operator=OPERATOR, relations=RELATIONS)
    return load_keyspace(stored.source)
