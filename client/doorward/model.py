"""What Doorward answers: frozen values without any gRPC in them.

Instants are aware and in UTC. Enum values that this version of the client does not know are UNKNOWN, and an UNKNOWN
never allows anything. `revision` is the store's commit counter after the change that answered with the value, and
`propagation` how far that change had come by then; both are None where the value was only read, and take no part in
comparisons.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from doorward.secret import Secret

Attribute = str | int | float | bool | Sequence[str]
"""A fact about a principal, an organization or a resource."""

_RELATION = re.compile(r"(?P<resource>.+)#(?P<relation>[^@#]+)@(?P<kind>user|group):(?P<subject>.+)")


class KeyState(StrEnum):
    """What a key is good for at this moment: the first of these that holds."""

    UNKNOWN = "UNKNOWN"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    DISABLED = "DISABLED"
    NOT_YET_VALID = "NOT_YET_VALID"
    ACTIVE = "ACTIVE"


class Ceiling(StrEnum):
    """The most a key may do: all that its OWNER may, as of each call, or what its LIST of scopes and bindings has."""

    UNKNOWN = "UNKNOWN"
    OWNER = "OWNER"
    LIST = "LIST"


class PrincipalKind(StrEnum):
    """A person or a program."""

    UNKNOWN = "UNKNOWN"
    USER = "USER"
    SERVICE_ACCOUNT = "SERVICE_ACCOUNT"


class ApplyOutcome(StrEnum):
    """What applying a keyspace file did, or with dry_run would do."""

    UNKNOWN = "UNKNOWN"
    CREATED = "CREATED"
    CHANGED = "CHANGED"
    UNCHANGED = "UNCHANGED"


class Propagation(StrEnum):
    """What was still cached of the time before a change when the call that made it returned.

    ACKNOWLEDGED: nothing; every replica, and every client that holds a lease, has confirmed it. EXPIRED: some did not
    answer, but none can still hold the old answer. NOT_AWAITED: you asked not to wait; old answers may be given for up
    to a second after the commit. NOT_NEEDED: nothing had to be dropped. UNKNOWN: the server does not say.
    """

    UNKNOWN = "UNKNOWN"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    EXPIRED = "EXPIRED"
    NOT_AWAITED = "NOT_AWAITED"
    NOT_NEEDED = "NOT_NEEDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A tenant. `keys` is how many unrevoked keys it has, told when it was updated and None otherwise."""

    id: str
    display_name: str
    attributes: Mapping[str, Attribute]
    enabled: bool
    created_at: datetime
    updated_at: datetime
    etag: str
    keys: int | None = field(default=None, compare=False)
    revision: int | None = field(default=None, compare=False)
    propagation: Propagation | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A user or a service account. `keys` is how many unrevoked keys it owns, told when it was updated."""

    organization: str
    id: str
    kind: PrincipalKind
    display_name: str
    email: str
    attributes: Mapping[str, Attribute]
    enabled: bool
    created_at: datetime
    updated_at: datetime
    etag: str
    keys: int | None = field(default=None, compare=False)
    revision: int | None = field(default=None, compare=False)
    propagation: Propagation | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Several principals that hold roles together."""

    organization: str
    id: str
    display_name: str
    created_at: datetime
    updated_at: datetime
    etag: str
    revision: int | None = field(default=None, compare=False)
    propagation: Propagation | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    """Who is in a group: a principal or another group; the other one is None."""

    principal: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A principal or a group (the other one is None) holds a role; no resources means on every resource."""

    id: str
    organization: str
    principal: str | None
    group: str | None
    keyspace: str
    role: str
    resources: tuple[str, ...]
    not_before: datetime | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    etag: str
    condition: str = ""
    """In CEL; it counts only where this holds. Empty: always."""
    revision: int | None = field(default=None, compare=False)
    propagation: Propagation | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Relation:
    """A fact: a principal or a group (the other one is None) has a relation to a resource, e.g. "assessments/42"."""

    resource: str
    relation: str
    principal: str | None = None
    group: str | None = None
    created_at: datetime | None = field(default=None, compare=False)
    """None until Doorward has answered with it."""

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        subject = f"user:{self.principal}" if self.group is None else f"group:{self.group}"
        return f"{self.resource}#{self.relation}@{subject}"

    @classmethod
    def parse(cls, text: str) -> Relation:
        """Read `assessments/42#assigned@user:alice` or `…@group:staff`. Raises ValueError."""
        match = _RELATION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no relation; write e.g. assessments/42#assigned@user:alice or …@group:staff")
        principal, group = (None, match["subject"]) if match["kind"] == "group" else (match["subject"], None)
        return cls(match["resource"], match["relation"], principal, group)


@dataclass(frozen=True, slots=True)
class ChangedRelations:
    """How many relations a call wrote that were not there, or deleted that were."""

    count: int
    revision: int
    propagation: Propagation = Propagation.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResource:
    """What is kept about a resource, e.g. "vulnerabilities/7": facts, and what it is a part of (empty: not kept)."""

    organization: str
    keyspace: str
    resource: str
    attributes: Mapping[str, Attribute]
    parent: str
    created_at: datetime
    updated_at: datetime
    etag: str
    revision: int | None = field(default=None, compare=False)
    propagation: Propagation | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that answers with nothing but how far it has come."""

    revision: int
    propagation: Propagation = Propagation.UNKNOWN


@dataclass(frozen=True, slots=True)
class Ended:
    """What a deletion ended: so many keys that were not yet revoked, and so many relations."""

    keys: int
    revision: int
    relations: int = 0
    propagation: Propagation = Propagation.UNKNOWN


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """A role that a key has on some resources (none given: on every one), for some time."""

    role: str
    resources: Sequence[str] = ()
    not_before: datetime | None = None
    expires_at: datetime | None = None
    condition: str = ""
    """In CEL; it counts only where this holds. Empty: always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySecret:
    """One secret of a key, without its text. `last_used_at` is at most a few seconds behind."""

    id: str
    masked: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    superseded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key: a stable identity with settings and history; `owner` is empty if it belongs to the organization alone."""

    id: str
    organization: str
    keyspace: str
    owner: str
    name: str
    description: str
    environment: str
    type: str
    state: KeyState
    enabled: bool
    masked: str
    ceiling: Ceiling
    scopes: tuple[str, ...]
    bindings: tuple[KeyBinding, ...]
    allowed_cidrs: tuple[str, ...]
    metadata: Mapping[str, str]
    not_before: datetime | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    revoked_at: datetime | None
    revoke_reason: str
    last_used_at: datetime | None
    secrets: tuple[KeySecret, ...]
    """Newest first."""
    etag: str
    api_version: str = ""
    """The one that was current when it was created; never moves. Empty: the keyspace names none."""
    external_id: str = ""
    """What it was called in the system it was imported from. Empty: it was made here."""
    rotate_by: datetime | None = None
    """When its newest secret should be replaced at the latest, by the keyspace's rule."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Limits of its own, by the names of the keyspace's windows; the others are as the keyspace says."""
    revision: int | None = field(default=None, compare=False)
    propagation: Propagation | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class KeyWarning:
    """Something that is allowed, but unwise: a stable word, e.g. NO_EXPIRY, and what would be better."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A key and its new secret; None after `finish`, or if `replayed`: an earlier call with this request_id got it.

    A secret that was lost on the way cannot be had again, but in a recoverable keyspace: rotate the key.
    """

    key: Key
    secret: Secret | None
    replayed: bool
    revision: int
    warnings: tuple[KeyWarning, ...] = ()
    replaced_keys: tuple[str, ...] = ()
    """Ids of older keys of the same owner that were revoked to make room for this one."""
    propagation: Propagation = Propagation.UNKNOWN


@dataclass(frozen=True, slots=True)
class RevokedKeys:
    """How many keys were ended at once, or with dry_run would be, and up to 20 of them, newest first."""

    count: int
    sample: tuple[Key, ...]
    revision: int
    propagation: Propagation = Propagation.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyspace:
    """One API product whose keys Doorward keeps. In lists, `source` is empty."""

    name: str
    display_name: str
    source: str
    prefix: str
    environments: tuple[str, ...]
    """The default one first."""
    roles: tuple[str, ...]
    permissions: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranding:
    """One part of a keyspace file whose change takes something from keys or bindings, and from how many."""

    field: str
    why: str
    keys: int
    bindings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyspaceTestResult:
    """What came of one question of a test in a keyspace file; `problem` is empty if it passed."""

    name: str
    asked: str
    line: int
    passed: bool
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedKeyspace:
    """What applying a file did, or with dry_run would do; `diff` is in unified format, `changes` the same in words."""

    keyspace: Keyspace
    outcome: ApplyOutcome
    diff: str
    revision: int
    changes: tuple[str, ...] = ()
    stranded: tuple[Stranding, ...] = ()
    tests: tuple[KeyspaceTestResult, ...] = ()
    propagation: Propagation = Propagation.UNKNOWN


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What became of the questions to a client, since it was made or forked."""

    hits: int
    """Answered from memory."""
    asked: int
    """Sent to a server although the cache may hold such answers: it had none, or no lease."""
    size: int
    """Decisions in memory."""
    capacity: int
    leased: bool
    """Whether answers may come from memory at this moment."""
    lost: int = 0
    """Of the hits, those that usage will never count: their report was on its way when a stream broke."""
