"""Finding whose a credential is: where it stands in the request, what it is, and whether it proves possession.

Steps 1 to 4 of design.md section 4; what follows is `core.decide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from doorward_server.core.credential import claims_to_be_of, find_credential
from doorward_server.core.decide import DENIED, Decision
from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.fields import check_id
from doorward_server.core.formats import present
from doorward_server.core.keytext import SecretText
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import Reason
from doorward_server.core.subject import Subject, key_subject, principal_subject
from doorward_server.core.verify import RetiredPepper
from doorward_server.service.catalog import Catalog
from doorward_server.service.pool import Pool
from doorward_server.service.proving import Origin, Prover
from doorward_server.store import PrincipalSnapshot, Snapshot, Store, StoredFacts

ATTEMPTS = 4
"""Looks at the store for one answer, when what it is read with changes meanwhile."""


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


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a presented credential before any question: whose it is, or why it is nobody's."""

    denial: Decision | None
    subject: Subject | None
    keyspace: Keyspace
    revision: int
    facts: tuple[StoredFacts, ...] = ()
    """If asked for: of the same revision, in the order of the questions."""


class Finder:
    """Finds whose a presented credential is. Runs on the event loop; reads of the store run on *reads*."""

    def __init__(self, store: Store, catalog: Catalog, lookup_key: bytes, prover: Prover, reads: Pool) -> None:
        self._store = store
        self._catalog = catalog
        self._lookup_key = lookup_key
        self._prover = prover
        self._reads = reads

    async def keyspace(self, name: str) -> Keyspace:
        """Return a keyspace, perhaps an older version than the store's: `find` makes up for that.

        Raises UnknownReference, StoreUnavailable.
        """
        known = self._catalog.known(name)
        return known[1] if known else await self._reads.run(self._catalog.get, name)

    async def facts(self, found: Found, abouts: Sequence[About]) -> dict[About, StoredFacts]:
        """Return what is stored about resources of the organization of *found*, as its subject is related to them.

        All are of one revision, perhaps another than that of *found*. Raises StoreUnavailable, Overloaded.
        """
        subject = found.subject
        if subject is None:
            return {}
        principal, groups = subject.owner.id if subject.owner else "", tuple(sorted(subject.groups))
        read = await self._reads.run(
            self._store.find_facts, subject.organization.id, found.keyspace.name, abouts, principal, groups
        )
        return dict(zip(abouts, read, strict=True))

    async def find(
        self,
        presented: Presented,
        keyspace: Keyspace,
        origin: Origin,
        attempt: int = 1,
        abouts: Sequence[About] = (),
    ) -> Found:
        """Tell whose credential is *presented*; what the CPU alone can refuse costs no read.

        *attempt* counts the looks at the store for this answer. With *abouts*, what is stored about these is read in
        the same snapshot. Raises StoreUnavailable, Overloaded, InvalidField.
        """
        if isinstance(presented, SignedIn):
            return await self._find_principal(presented, keyspace, abouts=abouts)
        if isinstance(presented, HttpParts):
            text = find_credential(presented.headers, presented.query, keyspace)
        else:
            text = presented if claims_to_be_of(keyspace, presented.reveal()) else Reason.CREDENTIAL_MISSING
        if isinstance(text, Reason):
            return Found(DENIED[text], None, keyspace, 0)
        known = present(text.reveal(), keyspace.format, keyspace.prefix, keyspace.legacy, self._lookup_key)
        if known is None:
            return Found(DENIED[Reason.CREDENTIAL_MALFORMED], None, keyspace, 0)
        snapshot, facts = await self._record(keyspace, known.lookup, abouts)
        if self._catalog.known(keyspace.name) != (snapshot.keyspace_version, keyspace):
            return await self.find(presented, await self._newer(keyspace, attempt), origin, attempt + 1, abouts)
        record = snapshot.record
        try:
            proven = await self._prover.proves(text, record, known.sound and not keyspace.adaptive, origin)
        except RetiredPepper as problem:
            if attempt >= ATTEMPTS or record is None:
                raise self._prover.unprovable(record, problem) from None
            # It was re-wrapped since it was read.
            return await self.find(presented, keyspace, origin, attempt + 1, abouts)
        if not proven or record is None:
            return Found(DENIED[Reason.KEY_UNKNOWN], None, keyspace, snapshot.revision)
        secret = record.key.secrets[0]
        subject = key_subject(
            record.key, secret, record.organization, record.owner, record.bindings, keyspace, record.groups
        )
        return Found(None, subject, keyspace, snapshot.revision, facts)

    async def _record(
        self, keyspace: Keyspace, lookup: str, abouts: Sequence[About]
    ) -> tuple[Snapshot, tuple[StoredFacts, ...]]:
        if abouts:
            return await self._reads.run(self._store.find_record_with_facts, keyspace.name, lookup, abouts)
        return await self._reads.run(self._store.find_record, keyspace.name, lookup), ()

    async def _newer(self, keyspace: Keyspace, attempt: int) -> Keyspace:
        """Return *keyspace* as it is now, because a snapshot showed another version. Raises StoreUnavailable."""
        if attempt >= ATTEMPTS:
            raise StoreUnavailable(f"The keyspace {keyspace.name!r} changes faster than it can be read. Try again.")
        return await self._reads.run(self._catalog.get, keyspace.name)

    async def _find_principal(
        self, who: SignedIn, keyspace: Keyspace, attempt: int = 1, abouts: Sequence[About] = ()
    ) -> Found:
        check_id("principal.organization", who.organization, "organization")
        check_id("principal.principal", who.principal, "principal")
        snapshot, facts = await self._principal_record(who, keyspace, abouts)
        if self._catalog.known(keyspace.name) != (snapshot.keyspace_version, keyspace):
            return await self._find_principal(who, await self._newer(keyspace, attempt), attempt + 1, abouts)
        record = snapshot.record
        if record is None:
            return Found(DENIED[Reason.OWNER_DISABLED], None, keyspace, snapshot.revision)
        subject = principal_subject(record.principal, record.organization, record.bindings, keyspace, record.groups)
        return Found(None, subject, keyspace, snapshot.revision, facts)

    async def _principal_record(
        self, who: SignedIn, keyspace: Keyspace, abouts: Sequence[About]
    ) -> tuple[PrincipalSnapshot, tuple[StoredFacts, ...]]:
        if abouts:
            return await self._reads.run(
                self._store.find_principal_record_with_facts, who.organization, who.principal, keyspace.name, abouts
            )
        return await self._reads.run(
            self._store.find_principal_record, who.organization, who.principal, keyspace.name
        ), ()
