"""What the store answers besides the values of core, and the errors that are its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from doorward_server.core.audit import ChainReport, HeadFound, Link
from doorward_server.core.directory import Attributes
from doorward_server.core.errors import DoorwardError
from doorward_server.core.model import SECOND, Instant, StoredKeyspace
from doorward_server.core.records import PrincipalRecord, Record
from doorward_server.core.verify import PepperState, Verifier

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Written(Generic[T_co]):
    """The outcome of a change that is committed."""

    value: T_co
    revision: int
    """Every snapshot of at least this revision shows the change; if nothing changed, the current one."""
    replayed: bool = False
    """The request was seen before: `value` is as it is now, and nothing was written."""
    replaced: tuple[str, ...] = ()
    """Ids of the keys that were revoked to make room, the oldest first."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one key that was to be imported."""

    key: str
    """The id of the key that is in; empty if it was refused, or would only be in without the dry run."""
    new: bool
    refusal: DoorwardError | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the store knew about one presented secret at one revision."""

    revision: int
    keyspace_source: str | None
    """Its file; None: there is no such keyspace."""
    record: Record | None
    """None: no key of the keyspace has such a secret. Deleted keys, owners, organizations are in here, and say so."""


@dataclass(frozen=True, slots=True)
class PrincipalSnapshot:
    """What the store knew about one principal at one revision."""

    revision: int
    keyspace_source: str | None
    record: PrincipalRecord | None
    """None: there never was such a principal. A deleted one is in here, and says so."""


About = tuple[str, str]
"""What is asked about: a resource, and the parent that it has if none is kept (empty: none). Both are paths as text."""


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """What the store knew about one resource at one revision, and how somebody is related to it."""

    revision: int
    attributes: Attributes
    """Empty if none are kept."""
    parent: str
    """The one that is kept, else the one that was asked about; empty: none."""
    parent_attributes: Attributes
    relations: frozenset[tuple[str, str]]
    """("resource" or "parent", name) of those that the principal has, itself and by its groups."""


@dataclass(frozen=True, slots=True)
class KeyspaceSnapshot:
    """What the store knew about one keyspace at one revision."""

    revision: int
    keyspace: StoredKeyspace | None


@dataclass(frozen=True, slots=True)
class ChainPage:
    """What came of verifying a part of a chain."""

    link: Link | None
    """The last event that holds; None: the chain is broken."""
    report: ChainReport | None
    """None: there are more events behind `link`."""
    found: HeadFound | None
    """If a head was looked for."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One process that serves, as it last described itself."""

    id: str
    """Random at each start."""
    started_at: Instant
    seen_at: Instant
    """By its own clock."""
    peppers: Mapping[int, PepperState]
    """The versions that it has, each with the state that it goes by."""
    max_staleness: int = SECOND
    """Microseconds that its caches outlive their last proof of freshness."""
    serve_stale_for: int = 0
    """Microseconds that it answers from its caches beyond that."""
    condemned: bool = False
    """It did not answer in time: it may not prove freshness under this id any more, and registers under another."""


@dataclass(frozen=True, slots=True)
class HeldVerifier:
    """A secret's verifier, and whose it is."""

    organization: str
    key: str
    secret: str
    verifier: Verifier


class LookupTaken(Exception):
    """The id or the lookup of a new key or secret is in use by chance: mint another and try again."""


class ChainBroken(Exception):
    """An audit chain is not what was written: the event *sequence* is missing, changed or not where it belongs."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"the audit chain is broken at event {sequence}")
        self.sequence = sequence


class StoreNotReady(Exception):
    """The store must not be served from as it is. The message says what to do."""
