"""Finding whose a credential is: where it stands in the request, what it is, and whether it proves possession.

Steps 1 to 4 of design.md section 4; what follows is `core.decide`. What was found before is remembered under a lease
(`service.freshness`): records, never decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from sys import intern
from typing import Any, NamedTuple, TypeVar

from doorward_server.core.credential import begins_like, claims_to_be_of, find_credential
from doorward_server.core.decide import DENIED, Decision
from doorward_server.core.directory import Organization, Principal
from doorward_server.core.errors import RevisionNotReached, UnknownReference
from doorward_server.core.fields import check_id
from doorward_server.core.formats import present
from doorward_server.core.freshness import Dependency, Fill
from doorward_server.core.keytext import SecretText
from doorward_server.core.model import Instant, Key
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import Reason
from doorward_server.core.records import Record
from doorward_server.core.subject import Subject, key_subject, principal_subject
from doorward_server.core.verify import RetiredPepper
from doorward_server.service.catalog import Catalog, changes_too_fast
from doorward_server.service.freshness import AS_PROMISED, Consistency, Freshness, Known, Seen
from doorward_server.service.proving import Origin, Prover
from doorward_server.store import PrincipalSnapshot, Snapshot, Store, StoredFacts

ATTEMPTS = 4
"""Looks at the store for one answer, when what it is read with changes meanwhile."""
SHARED = 65_536
"""Organizations and principals that are kept once."""
Facts = tuple[StoredFacts, ...]
NO_FACTS: Facts = ()
Part = TypeVar("Part", Organization, Principal)
FROM_THE_STORE = Consistency(full=True)


@dataclass(frozen=True, slots=True)
class HttpParts:
    """The parts of an HTTP request in which a credential may be."""

    headers: tuple[tuple[str, str], ...]
    query: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A principal that the caller has authenticated by other means."""

    organization: str
    principal: str


Presented = SecretText | HttpParts | SignedIn

About = tuple[str, str]
"""A resource about which facts are stored, and the parent that the caller says it has (empty: none said)."""


class Found(NamedTuple):
    """What is known of a presented credential before any question: whose it is, or why it is nobody's."""

    denial: Decision | None
    subject: Subject | None
    keyspace: Keyspace
    revision: int
    tokens: tuple[int, ...] = ()
    """What it depends on, as clients are told; empty if they may not keep what follows from it."""
    moments: tuple[Instant, ...] = ()
    """When it changes by itself, in order."""
    facts: tuple[StoredFacts, ...] = ()
    """If asked for: of the same revision, in the order of the questions."""
    known: Known | None = None
    """The record; None where there is nobody."""
    prefix: str = ""
    """What a text began like that is nobody's key, as far as the keyspace says that itself."""
    meant: tuple[str, str] | None = None
    """Organization and id of the key that such a text was to be of, by its lookup."""


class Shared:
    """Parts that many records have in common, kept once: most of what a remembered key would take. For any thread."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, ...], Organization | Principal] = {}
        self.organization = lru_cache(SHARED)(Dependency.on_organization)
        self.keyspace = lru_cache(SHARED)(Dependency.on_keyspace)
        self.principal = lru_cache(SHARED)(Dependency.on_principal)

    def compact(self, record: Record, keyspace: str) -> Record:
        """Return an equal record of shared parts."""
        organization = self._same(("organization", record.organization.id), record.organization)
        owner = record.owner
        if owner is not None:
            owner = replace(owner, organization=organization.id)
            owner = self._same(("principal", owner.organization, owner.id), owner)
        key = replace(
            record.key,
            organization=organization.id,
            keyspace=keyspace,
            owner=owner.id if owner is not None else record.key.owner,
            environment=intern(record.key.environment),
            type=intern(record.key.type),
            scopes=tuple(map(intern, record.key.scopes)),
            metadata={intern(name): value for name, value in record.key.metadata.items()},
        )
        return replace(record, key=key, organization=organization, owner=owner)

    def _same(self, name: tuple[str, ...], part: Part) -> Part:
        known: Any = self._parts.get(name)
        if known == part:
            return known  # type: ignore[no-any-return]  # equal, so of the same kind
        if len(self._parts) >= SHARED:
            self._parts.clear()
        self._parts[name] = part
        return part


class Finder:
    """Finds whose a presented credential is. Runs on the event loop."""

    def __init__(self, store: Store, catalog: Catalog, lookup_key: bytes, prover: Prover, freshness: Freshness) -> None:
        self._store = store
        self._catalog = catalog
        self._lookup_key = lookup_key
        self._prover = prover
        self._freshness = freshness
        self._shared = Shared()

    async def keyspace(self, name: str, wanted: Consistency = AS_PROMISED) -> Keyspace:
        """Return a keyspace. Raises UnknownReference, StoreUnavailable, Overloaded, RevisionNotReached."""
        key = ("keyspace", name)
        seen = self._freshness.recall(key, wanted)
        if seen is None:
            seen = _reached(await self._freshness.see(key, lambda: self._read_keyspace(name), wanted), wanted)
        return seen.known.keyspace

    async def facts(self, found: Found, abouts: Sequence[About]) -> dict[About, StoredFacts]:
        """Return what is stored about resources of the organization of *found*, as its subject is related to them.

        All are of one revision, perhaps another than that of *found*. Raises StoreUnavailable, Overloaded.
        """
        subject = found.subject
        if subject is None:
            return {}
        asked = (subject.organization.id, found.keyspace.name, abouts)
        principal, groups = subject.owner.id if subject.owner else "", tuple(sorted(subject.groups))
        read = await self._freshness.ask(lambda: self._store.find_facts(*asked, principal, groups))
        return dict(zip(abouts, read, strict=True))

    async def find(
        self,
        presented: Presented,
        keyspace: Keyspace,
        origin: Origin,
        wanted: Consistency = AS_PROMISED,
        abouts: Sequence[About] = (),
    ) -> Found:
        """Tell whose credential is *presented*; what the CPU alone can refuse costs no read.

        With *abouts*, ask the store, and tell what it had about those resources in the same snapshot. Raises
        StoreUnavailable, Overloaded, InvalidField, RevisionNotReached.
        """
        if isinstance(presented, SignedIn):
            return await self.principal(presented, keyspace.name, wanted, abouts)
        for _ in range(ATTEMPTS):
            if isinstance(presented, HttpParts):
                text = find_credential(presented.headers, presented.query, keyspace)
            else:
                text = presented if claims_to_be_of(keyspace, presented.reveal()) else Reason.CREDENTIAL_MISSING
            if isinstance(text, Reason):
                return Found(DENIED[text], None, keyspace, 0)
            shape = present(text.reveal(), keyspace.format, keyspace.prefix, keyspace.legacy, self._lookup_key)
            if shape is None:
                return _nobody(Reason.CREDENTIAL_MALFORMED, keyspace, 0, text)
            place, facts = ("key", keyspace.name, shape.lookup), NO_FACTS
            seen = self._freshness.recall(place, wanted) if not abouts else None
            if seen is None:
                seen, facts = await self._see(place, wanted, abouts)
            if seen.known.keyspace is not keyspace:
                keyspace = seen.known.keyspace  # where texts are and what they look like may be told otherwise by now
                continue
            key = seen.known.subject.key if seen.known.subject is not None else None
            try:
                proven = self._prover.proves_at_once(text, key)
                if proven is None:
                    proven = await self._prover.proves(text, key, shape.sound and not keyspace.adaptive, origin)
            except RetiredPepper as problem:
                if wanted.full:
                    raise self._prover.unprovable(key, problem) from None
                wanted = FROM_THE_STORE  # it was re-wrapped since it was read
                continue
            if not proven or seen.known.subject is None:
                return _nobody(Reason.KEY_UNKNOWN, keyspace, seen.revision, text, key)
            return found(seen, facts)
        raise changes_too_fast(keyspace.name)

    async def principal(
        self, who: SignedIn, keyspace: str, wanted: Consistency = AS_PROMISED, abouts: Sequence[About] = ()
    ) -> Found:
        """Tell what is known of a principal that somebody else has authenticated. *abouts*, and raises, as `find`."""
        check_id("principal.organization", who.organization, "organization")
        check_id("principal.principal", who.principal, "principal")
        if abouts:
            fill, facts = await self._freshness.ask(lambda: self._read_principal(who, keyspace, abouts))
            seen = Seen(fill.value, fill.revision, leased=False)
            return found(_reached(seen, wanted), facts, Reason.OWNER_DISABLED)
        key = ("principal", who.organization, who.principal, keyspace)
        seen = await self._freshness.see(key, lambda: self._read_principal(who, keyspace)[0], wanted)
        if seen.known.subject is None and not wanted.full:
            # Whoever makes a principal does not wait until nobody remembers that there was none.
            return await self.principal(who, keyspace, FROM_THE_STORE)
        return found(_reached(seen, wanted), (), Reason.OWNER_DISABLED)

    async def _see(
        self, place: tuple[str, str, str], wanted: Consistency, abouts: Sequence[About]
    ) -> tuple[Seen, Facts]:
        _, keyspace, lookup = place
        if abouts:
            fill, facts = await self._freshness.ask(lambda: self._read_key(keyspace, lookup, abouts))
            return _reached(Seen(fill.value, fill.revision, leased=False), wanted), facts
        seen = await self._freshness.see(place, lambda: self._read_key(keyspace, lookup)[0], wanted)
        return _reached(seen, wanted), NO_FACTS

    # --- what is remembered: each is one snapshot, read on a pool -----------------------------------------------------

    def _read_keyspace(self, name: str) -> Fill[Known]:
        revision, keyspace = self._catalog.find_at(name)
        if keyspace is None:
            raise UnknownReference("keyspace", "keyspace", name)
        return Fill(Known(keyspace), revision, (Dependency.on_keyspace(name),))

    def _read_key(self, name: str, lookup: str, abouts: Sequence[About] = ()) -> tuple[Fill[Known], Facts]:
        snapshot, facts = self._record(name, lookup, abouts)
        keyspace, record = self._catalog.compiled(name, snapshot.keyspace_source), snapshot.record
        if record is None:
            nowhere = (Dependency.on_lookup(name, lookup), Dependency.on_keyspace(name))
            return Fill(Known(keyspace), snapshot.revision, nowhere, known=False), facts
        record = self._shared.compact(record, keyspace.name)
        key = record.key
        subject = key_subject(
            key, key.secrets[0], record.organization, record.owner, record.bindings, keyspace, record.groups
        )
        itself = Dependency.on_key(key.organization, key.id)
        return self._fill(subject, keyspace, snapshot.revision, key.organization, key.owner, itself), facts

    def _record(self, name: str, lookup: str, abouts: Sequence[About]) -> tuple[Snapshot, Facts]:
        if abouts:
            return self._store.find_record_with_facts(name, lookup, abouts)
        return self._store.find_record(name, lookup), ()

    def _read_principal(self, who: SignedIn, name: str, abouts: Sequence[About] = ()) -> tuple[Fill[Known], Facts]:
        snapshot, facts = self._principal_record(who, name, abouts)
        keyspace, record = self._catalog.compiled(name, snapshot.keyspace_source), snapshot.record
        subject = None
        if record is not None:
            subject = principal_subject(record.principal, record.organization, record.bindings, keyspace, record.groups)
        return self._fill(subject, keyspace, snapshot.revision, who.organization, who.principal), facts

    def _principal_record(self, who: SignedIn, name: str, abouts: Sequence[About]) -> tuple[PrincipalSnapshot, Facts]:
        if abouts:
            return self._store.find_principal_record_with_facts(who.organization, who.principal, name, abouts)
        return self._store.find_principal_record(who.organization, who.principal, name), ()

    def _fill(
        self,
        subject: Subject | None,
        keyspace: Keyspace,
        revision: int,
        organization: str,
        principal: str | None,
        *more: Dependency,
    ) -> Fill[Known]:
        dependencies = (*more, self._shared.organization(organization), self._shared.keyspace(keyspace.name))
        if principal is not None:
            dependencies = (*dependencies, self._shared.principal(organization, principal))
        known = Known(keyspace, subject, self._freshness.tokens(dependencies), _moments(subject))
        return Fill(known, revision, dependencies, known=subject is not None)


def _reached(seen: Seen, wanted: Consistency) -> Seen:
    if seen.revision < wanted.revision:
        raise RevisionNotReached(wanted.revision, seen.revision)
    return seen


def _nobody(reason: Reason, keyspace: Keyspace, revision: int, text: SecretText, key: Key | None = None) -> Found:
    meant = None if key is None else (key.organization, key.id)
    return Found(DENIED[reason], None, keyspace, revision, prefix=begins_like(keyspace, text.reveal()), meant=meant)


def found(seen: Seen, facts: Facts = (), nobody: Reason = Reason.KEY_UNKNOWN) -> Found:
    """Return what *seen* means for whoever presented what stands for it; *nobody*: that there is none."""
    known = seen.known
    if known.subject is None:
        return Found(DENIED[nobody], None, known.keyspace, seen.revision)
    # What was not read under a lease may be undone without anybody hearing of it.
    tokens = known.tokens if seen.leased else ()
    return Found(None, known.subject, known.keyspace, seen.revision, tokens, known.moments, facts, known)


def _moments(subject: Subject | None) -> tuple[Instant, ...]:
    if subject is None:
        return ()
    held = (*(subject.ceiling or ()), *(subject.roles or ()))
    bounds = {bound for it in held for bound in (it.not_before, it.expires_at)}
    if subject.key is not None:
        bounds |= {subject.key.not_before, subject.key.expires_at}
    if subject.secret is not None:
        bounds.add(subject.secret.expires_at)
    return tuple(sorted(bound for bound in bounds if bound is not None))
