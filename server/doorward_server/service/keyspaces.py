"""Keyspaces as files: applied, tested, read, listed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from enum import StrEnum

from doorward_server.core.errors import (
    BuiltIn,
    EtagMismatch,
    Immutable,
    InvalidField,
    KeyspaceTestsFailed,
    KeysStranded,
)
from doorward_server.core.fields import check_id
from doorward_server.core.model import Actor, Event, Instant, StoredKeyspace
from doorward_server.core.policy import Keyspace
from doorward_server.service.catalog import DOORWARD, OPERATOR, Catalog, compile_stored
from doorward_server.service.changes import found
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.keyspace_changes import count_words, describe
from doorward_server.service.keyspace_file import KeyspaceFile, load_file
from doorward_server.service.keyspace_tests import CaseResult, run_cases
from doorward_server.service.mint import Mint
from doorward_server.service.paging import page
from doorward_server.service.stranding import Stranding, asks_for_names, find_stranded
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
    changes: tuple[str, ...] = ()
    """The difference in words."""
    stranded: tuple[Stranding, ...] = ()
    results: tuple[CaseResult, ...] = ()
    """Of the file's own tests; none are run if nothing changes."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be known before a file takes the place of another."""

    changes: tuple[str, ...] = ()
    stranded: tuple[Stranding, ...] = ()
    complete: bool = True
    results: tuple[CaseResult, ...] = ()


class Keyspaces:
    """Keeps keyspaces. Blocking: belongs on the management pool. Every method asks the guard first."""

    def __init__(self, store: Store, catalog: Catalog, guard: Guard, mint: Mint, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._mint = mint
        self._clock = clock

    def apply(self, caller: Caller, source: str, etag: str, *, dry_run: bool, force: bool) -> Applied:
        """Make a keyspace what *source* says. The same text again changes nothing. A dry run tells what would be.

        Raises KeyspaceInvalid, BuiltIn, Immutable, EtagMismatch; unless *force* or *dry_run*, KeyspaceTestsFailed and
        KeysStranded. Holders are counted before the change: a key that is made in between is not among them.
        """
        actor = self._guard.require(caller, "keyspaces:apply", "keyspaces")
        file, now = load_file(source), self._clock()
        if file.keyspace.name == DOORWARD:
            raise BuiltIn("keyspace", DOORWARD)
        before = self._store.find_keyspace(file.keyspace.name)
        _next(before, file.keyspace, etag, now)
        plan = self._plan(before, file, now)
        if not (dry_run or force):
            _check(plan)
        note = "forced" if force and (plan.stranded or not all(it.passed for it in plan.results)) else ""
        applied = apply(self._store, self._catalog, actor, file.keyspace, etag, now, dry_run=dry_run, note=note)
        return replace(applied, changes=plan.changes, stranded=plan.stranded, results=plan.results)

    def test(self, caller: Caller, source: str, name: str) -> tuple[CaseResult, ...]:
        """Run the tests in *source*, or else in the keyspace *name* as it is. Raises KeyspaceInvalid, NotFound."""
        if bool(source) == bool(name):
            raise InvalidField("source" if source else "name", "give either a source or the name of a keyspace")
        if source:
            self._guard.require(caller, "keyspaces:get", "keyspaces")
            return run_cases(load_file(source))
        return run_cases(load_file(self.get(caller, name)[0].source))

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

    def _plan(self, before: StoredKeyspace | None, file: KeyspaceFile, now: Instant) -> _Plan:
        if before is None:
            return _Plan(results=run_cases(file))
        if before.source == file.keyspace.source:
            return _Plan()
        old, new = load_file(before.source), file.keyspace
        holders = self._store.count_holders(new.name, now, names=asks_for_names(old.keyspace, new))
        return _Plan(
            changes=describe(old, file, holders),
            stranded=find_stranded(old.keyspace, new, holders),
            complete=holders.complete,
            results=run_cases(file),
        )


def apply(
    store: Store,
    catalog: Catalog,
    actor: Actor,
    keyspace: Keyspace,
    etag: str,
    now: Instant,
    *,
    dry_run: bool,
    note: str = "",
) -> Applied:
    """Store *keyspace*, unless *dry_run*, and say what that changes. Asks neither its tests nor who holds what."""
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
        new = {"source": after.source}
        return after, Event(OPERATOR, now, actor, "keyspaces:apply", "keyspace", keyspace.name, old, new, note)

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
    _check_fixed(compile_stored(current), keyspace)
    return replace(current, source=keyspace.source, updated_at=now, version=current.version + 1)


def _check_fixed(old: Keyspace, new: Keyspace) -> None:
    """Refuse what would allow more to keys that are out, or make them other keys: nobody can mean that, not by force.

    Raises Immutable.
    """
    if old.format is not new.format:
        raise Immutable("format", f"keys of the format {old.format.lower()!r} may be out there")
    if old.prefix != new.prefix:
        raise Immutable("prefix", f"keys that begin with {old.prefix!r} may be out there")
    if old.inherits and not new.inherits:
        raise Immutable("inherit", "keys were granted freely because their owners limited them, and nothing would now")
    lost = sorted(name for name, role in old.roles.items() if role.denies and name not in new.roles)
    if lost:
        why = "it forbids something to keys or people who hold it; take its DENY rules out first, if that is meant"
        raise Immutable(f"roles.{lost[0]}", why)


def _check(plan: _Plan) -> None:
    """Refuse a plan that fails its tests or strands keys. Raises KeyspaceTestsFailed, KeysStranded."""
    failed = [it for it in plan.results if not it.passed]
    if failed:
        raise KeyspaceTestsFailed(len(failed), len(plan.results), failed[0].name, failed[0].line, failed[0].problem)
    if plan.stranded:
        first, *others = plan.stranded
        who = count_words(first.keys, first.bindings, complete=plan.complete)
        raise KeysStranded(first.field, first.why, who, len(others))


def _diff(before: str, keyspace: Keyspace) -> str:
    name = f"{keyspace.name}.yaml"
    lines = difflib.unified_diff(
        before.splitlines(), keyspace.source.splitlines(), name, name, "before", "after", lineterm=""
    )
    return "\n".join(lines)
