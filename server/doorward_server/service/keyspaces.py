"""Keyspaces as files: applied, read, listed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from enum import StrEnum

from doorward_server.core.errors import BuiltIn, EtagMismatch, Immutable
from doorward_server.core.fields import check_id
from doorward_server.core.model import Actor, Event, Instant, StoredKeyspace
from doorward_server.core.policy import Keyspace
from doorward_server.service.catalog import DOORWARD, OPERATOR, Catalog, compile_stored
from doorward_server.service.changes import found, page
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.keyspace_file import load_keyspace
from doorward_server.service.mint import Mint
from doorward_server.store import Store


class Outcome(StrEnum):
    """What applying did, or would do."""

    CREATED = "CREATED"
    CHANGED = "CHANGED"
    UNCHANGED = "UNCHANGED"


@dataclass(frozen=True, slots=True)
class Applied:
    """The keyspace after applying, what that did, and the difference between the files."""

    stored: StoredKeyspace
    keyspace: Keyspace
    outcome: Outcome
    diff: str
    revision: int


class Keyspaces:
    """Keeps keyspaces. Blocking: belongs on the management pool. Every method asks the guard first."""

    def __init__(self, store: Store, catalog: Catalog, guard: Guard, mint: Mint, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._mint = mint
        self._clock = clock

    def apply(self, caller: Caller, source: str, etag: str, *, dry_run: bool) -> Applied:
        """Make a keyspace what *source* says. The same text again changes nothing.

        Raises KeyspaceInvalid, BuiltIn, Immutable (format and prefix stay, no environment goes), EtagMismatch.
        """
        actor = self._guard.require(caller, "keyspaces:apply", "keyspaces")
        keyspace = load_keyspace(source)
        if keyspace.name == DOORWARD:
            raise BuiltIn("keyspace", DOORWARD)
        return apply(self._store, self._catalog, actor, keyspace, etag, self._clock(), dry_run=dry_run)

    def get(self, caller: Caller, name: str) -> tuple[StoredKeyspace, Keyspace]:
        """Return a keyspace, stored and compiled. Raises NotFound."""
        check_id("name", name, "keyspace")
        self._guard.require(caller, "keyspaces:get", f"keyspaces/{name}")
        stored = found(self._store.find_keyspace(name), "keyspace", name)
        return stored, compile_stored(stored)

    def list(self, caller: Caller, size: int, token: str) -> tuple[list[tuple[StoredKeyspace, Keyspace]], str]:
        """Return a page of keyspaces, by name."""
        self._guard.require(caller, "keyspaces:list", "keyspaces")
        rows, following = page("keyspaces", size, token, self._store.list_keyspaces, lambda k: k.name)
        return [(stored, compile_stored(stored)) for stored in rows], following

    def json_web_key_set(self, caller: Caller, name: str) -> str:
        """Return the public keys of a keyspace's JWTs as JSON. Raises NotFound."""
        _, keyspace = self.get(caller, name)
        return self._mint.json_web_key_set(keyspace)


def apply(
    store: Store, catalog: Catalog, actor: Actor, keyspace: Keyspace, etag: str, now: Instant, *, dry_run: bool
) -> Applied:
    """Store *keyspace*, unless *dry_run*, and say what that changes."""
    before = store.find_keyspace(keyspace.name)
    wanted = _next(before, keyspace, etag, now)
    outcome = Outcome.CREATED if before is None else Outcome.UNCHANGED if wanted is before else Outcome.CHANGED
    diff = _diff(before.source if before else "", keyspace)
    if dry_run:
        return Applied(wanted, keyspace, outcome, diff, store.revision())

    def change(current: StoredKeyspace | None) -> tuple[StoredKeyspace, Event] | None:
        after = _next(current, keyspace, etag, now)
        if after is current:
            return None
        old = {"source": current.source} if current else None
        return after, Event(
            OPERATOR, now, actor, "keyspaces:apply", "keyspace", keyspace.name, old, {"source": after.source}
        )

    written = store.apply_keyspace(keyspace.name, change)
    catalog.find(keyspace.name)
    return Applied(written.value, keyspace, outcome, diff, written.revision)


def _next(current: StoredKeyspace | None, keyspace: Keyspace, etag: str, now: Instant) -> StoredKeyspace:
    if etag and (current is None or etag != str(current.version)):
        raise EtagMismatch("keyspace", keyspace.name)
    if current is None:
        return StoredKeyspace(keyspace.name, keyspace.source, now, now)
    if current.source == keyspace.source:
        return current
    old = compile_stored(current)
    if old.format is not keyspace.format:
        raise Immutable("format", f"keys of the format {old.format.lower()!r} may be out there")
    if old.prefix != keyspace.prefix:
        raise Immutable("prefix", f"keys that begin with {old.prefix!r} may be out there")
    if old.inherits and not keyspace.inherits:
        raise Immutable("inherit", "keys were granted freely because their owners limited them, and nothing would now")
    lost = sorted(name for name, role in old.roles.items() if role.denies and name not in keyspace.roles)
    if lost:
        why = "it forbids something to keys or people who hold it; take its DENY rules out first, if that is meant"
        raise Immutable(f"roles.{lost[0]}", why)
    gone = sorted(set(old.environments) - set(keyspace.environments))
    if gone:
        raise Immutable("environments", f"keys of {', '.join(gone)} may be out there; environments are only added")
    return replace(current, source=keyspace.source, updated_at=now, version=current.version + 1)


def _diff(before: str, keyspace: Keyspace) -> str:
    name = f"{keyspace.name}.yaml"
    lines = difflib.unified_diff(
        before.splitlines(), keyspace.source.splitlines(), name, name, "before", "after", lineterm=""
    )
    return "\n".join(lines)
