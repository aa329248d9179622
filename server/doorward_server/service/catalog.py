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
    """Compiled keyspaces by name and file. They are told apart by the text, so what is compiled is never stale: a
    version stays as it is when somebody types SQL, and comes again after a restore.

    For any thread; reads the store each time it is asked what is there.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._compiled: dict[str, tuple[str, Keyspace]] = {}

    def known(self, name: str) -> Keyspace | None:
        """Return what this process has compiled last, without asking anybody."""
        known = self._compiled.get(name)
        return None if known is None else known[1]

    def find(self, name: str) -> Keyspace | None:
        """Return the keyspace as it is now, or None. Reads the store."""
        return self.find_at(name)[1]

    def find_at(self, name: str) -> tuple[int, Keyspace | None]:
        """Return the keyspace as it is now, or None, and the revision it was read at."""
        snapshot = self._store.find_keyspace_record(name)
        if snapshot.keyspace is None:
            self._compiled.pop(name, None)
            return snapshot.revision, None
        return snapshot.revision, self.compiled(name, snapshot.keyspace.source)

    def get(self, name: str, field: str = "keyspace") -> Keyspace:
        """Return the keyspace as it is now. Raises UnknownReference, naming *field*."""
        keyspace = self.find(name) if name else None
        if keyspace is None:
            raise UnknownReference(field, "keyspace", name)
        return keyspace

    def compiled(self, name: str, source: str | None) -> Keyspace:
        """Return the keyspace as it was in the snapshot that showed the file *source*.

        Raises UnknownReference for None: there was no such keyspace.
        """
        if source is None:
            raise UnknownReference("keyspace", "keyspace", name)
        known = self._compiled.get(name)
        if known is None or known[0] != source:
            known = (source, _compile(name, source))
            self._compiled[name] = known
        return known[1]

    def forget(self) -> None:
        """Forget what is compiled: in another history there may be other keyspaces."""
        self._compiled.clear()


def changes_too_fast(name: str) -> StoreUnavailable:
    """Return the error for a keyspace that is another one each time it is read."""
    return StoreUnavailable(f"The keyspace {name!r} changes faster than it can be read. Try again.")


def compile_stored(stored: StoredKeyspace) -> Keyspace:
    """Compile a keyspace that was checked when it was applied."""
    return _compile(stored.name, stored.source)


def _compile(name: str, source: str) -> Keyspace:
    if name == DOORWARD:
        return load_keyspace(source, operator=OPERATOR, relations=RELATIONS)
    return load_keyspace(source)
