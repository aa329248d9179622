"""What Doorward answers: frozen values without any gRPC in them.

Instants are aware and in UTC. Enum values that this version of the client does not know are UNKNOWN, and an UNKNOWN
never allows anything. `revision` is the store's commit counter after the change that answered with the value, and
`propagation` how far that change had come by then; both are None where the value was only read, and take no part in
comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from doorward.secret import Secret

if TYPE_CHECKING:
    from doorward.errors import CallFailed

Attribute = str | int | float | bool | Sequence[str]
"""A fact about a principal or an organization."""


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


class Reason(StrEnum):
    """Why it was decided so; protos/doorward/v1/authz.proto explains each."""

    UNKNOWN = "UNKNOWN"
    ALLOWED = "ALLOWED"
    CREDENTIAL_MISSING = "CREDENTIAL_MISSING"
    CREDENTIAL_AMBIGUOUS = "CREDENTIAL_AMBIGUOUS"
    CREDENTIAL_MALFORMED = "CREDENTIAL_MALFORMED"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_EXPIRED = "KEY_EXPIRED"
    KEY_NOT_YET_VALID = "KEY_NOT_YET_VALID"
    KEY_REVOKED = "KEY_REVOKED"
    KEY_DISABLED = "KEY_DISABLED"
    SECRET_SUPERSEDED = "SECRET_SUPERSEDED"  # noqa: S105  # a reason, no secret
    OWNER_DISABLED = "OWNER_DISABLED"
    ORGANIZATION_DISABLED = "ORGANIZATION_DISABLED"
    ORGANIZATION_MISMATCH = "ORGANIZATION_MISMATCH"
    ENVIRONMENT_MISMATCH = "ENVIRONMENT_MISMATCH"
    NETWORK_NOT_ALLOWED = "NETWORK_NOT_ALLOWED"
    SCOPE_INSUFFICIENT = "SCOPE_INSUFFICIENT"
    OWNER_PERMISSION_INSUFFICIENT = "OWNER_PERMISSION_INSUFFICIENT"
    RESOURCE_NOT_GRANTED = "RESOURCE_NOT_GRANTED"
    RELATION_MISSING = "RELATION_MISSING"
    DENIED_BY_RULE = "DENIED_BY_RULE"


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
    revision: int | None = field(default=None, compare=False)
    propagation: Propagation | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that answers with nothing but how far it has come."""

    revision: int
    propagation: Propagation = Propagation.UNKNOWN


@dataclass(frozen=True, slots=True)
class Ended:
    """What a deletion ended: so many keys that were not yet revoked."""

    keys: int
    revision: int
    propagation: Propagation = Propagation.UNKNOWN


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """A role that a key has on some resources (none given: on every one), for some time."""

    role: str
    resources: Sequence[str] = ()
    not_before: datetime | None = None
    expires_at: datetime | None = None


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


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The parts of an HTTP request in which the keyspace's credential sources look; none of them prints.

    Headers as they came, repeated names included; `query` is what follows the "?", still percent-encoded.
    """

    headers: Mapping[str, str] | Sequence[tuple[str, str]] = field(default=(), repr=False)
    query: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a batch; see `Client.authorize`."""

    action: str
    resource: str | None = None
    organization: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule that decided: of this role, given by this binding (empty: a scope of the key), at this position."""

    role: str
    binding: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a credential belongs to. The key's fields are empty if a principal was asked about."""

    key_id: str
    key_name: str
    masked_key: str
    organization: str
    owner: Principal | None
    environment: str
    key_type: str
    ceiling: Ceiling
    scopes: tuple[str, ...]
    roles: tuple[str, ...]
    """Roles of the keyspace that the owner holds now, directly or by groups, on some or all resources."""
    metadata: Mapping[str, str]
    expires_at: datetime | None
    api_version: str = ""
    """The one that the key was created with. Empty: the keyspace names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of a question; true exactly if allowed. `message` is fit for end users."""

    allowed: bool
    reason: Reason
    message: str
    identity: Identity | None
    """None unless possession of a key was proved, and that key is within the caller's reach."""
    rule: Rule | None
    missing_permissions: tuple[str, ...]
    revision: int
    """The store's commit counter that the decision saw; 0 if it needed no look at the store."""
    error: CallFailed | None = None
    """In a batch: why this question could not be decided. It is not allowed then, but not denied either."""

    def __bool__(self) -> bool:
        return self.allowed


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
class AppliedKeyspace:
    """What applying a file did, or with dry_run would do; `diff` is in unified format."""

    keyspace: Keyspace
    outcome: ApplyOutcome
    diff: str
    revision: int
    propagation: Propagation = Propagation.UNKNOWN
