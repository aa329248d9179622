"""The things Doorward keeps, as frozen values, and what may become of them.

A change is a method that returns a new value and raises if the change is not allowed; the store writes what it
returns. Instants are `Instant`s: whole microseconds since 1970-01-01T00:00:00Z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .errors import InvalidField, KeyIsExpired, KeyIsRevoked, QuotaExceeded
from .verify import Verifier

Instant = int
"""Microseconds since 1970-01-01T00:00:00Z."""

SECOND = 1_000_000
DAY = 86_400 * SECOND
MAX_LIVE_SECRETS = 10
"""Secrets of one key that work at the same time: rotations with a long grace must not pile up without end."""
KEPT_SECRETS = 20
"""Superseded secrets that a key remembers; of older ones, nothing is left to tell that they were ever its."""
MAX_GRACE = 90 * DAY


class State(StrEnum):
    """What a key is good for at a moment; the first that holds, in this order."""

    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    DISABLED = "DISABLED"
    NOT_YET_VALID = "NOT_YET_VALID"
    ACTIVE = "ACTIVE"


class Ceiling(StrEnum):
    """The most a key may do: all that its owner may as of now, or what its own list allows."""

    OWNER = "OWNER"
    LIST = "LIST"


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """A role on resource patterns in a key's own list; `resources` is never empty ("*" is every resource)."""

    role: str
    resources: tuple[str, ...]
    not_before: Instant | None = None
    expires_at: Instant | None = None
    condition: str = ""
    """When it counts, in CEL; empty: always."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret's text, encrypted for RevealKey."""

    ciphertext: bytes = field(repr=False)
    version: int
    """Of the recovery key that opens it."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One text that proves possession of a key: what is stored of it."""

    id: str
    lookup: str
    """Unique in the keyspace."""
    verifier: Verifier
    last4: str
    created_at: Instant
    expires_at: Instant | None = None
    """Set once a rotation has superseded it."""
    last_used_at: Instant | None = None
    sealed: Sealed | None = field(default=None, repr=False)
    """On its way to the store when it is new; what the store returns has None (`Store.find_sealed`)."""

    def alive(self, now: Instant) -> bool:
        """Whether it still proves possession."""
        return self.expires_at is None or now < self.expires_at

    def end_by(self, at: Instant) -> Secret:
        """End it at *at*, or earlier if it ends earlier anyway: nothing's life is extended."""
        return replace(self, expires_at=at if self.expires_at is None else min(self.expires_at, at))


@dataclass(frozen=True, slots=True)
class Key:
    """A stable identity with settings, secrets and history."""

    organization: str
    id: str
    keyspace: str
    owner: str | None
    name: str
    description: str
    environment: str
    type: str
    enabled: bool
    ceiling: Ceiling
    scopes: tuple[str, ...]
    bindings: tuple[KeyBinding, ...]
    allowed_cidrs: tuple[str, ...]
    metadata: Mapping[str, str]
    not_before: Instant | None
    expires_at: Instant | None
    created_at: Instant
    updated_at: Instant
    secrets: tuple[Secret, ...]
    """Newest first; never empty."""
    version: int = 1
    revoked_at: Instant | None = None
    revoke_reason: str = ""
    deleted_at: Instant | None = None
    last_used_at: Instant | None = field(default=None, compare=False)
    """At most one flush interval behind; not part of what a change writes."""
    api_version: str = ""
    """Pinned when the key was made."""
    external_id: str | None = None
    """Its id in the system that it was imported from; unique in organization and keyspace."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Its own limits, by the names of the keyspace's windows, where they are other ones."""

    def state(self, now: Instant) -> State:
        """Return what the key is good for at *now* (its owner and organization apart)."""
        if self.revoked_at is not None or self.deleted_at is not None:
            return State.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return State.EXPIRED
        if not self.enabled:
            return State.DISABLED
        if self.not_before is not None and now < self.not_before:
            return State.NOT_YET_VALID
        return State.ACTIVE

    @property
    def metadata_bytes(self) -> int:
        """What it adds to its organization's metadata; nothing any more once it is deleted."""
        return 0 if self.deleted_at else sum(len(k.encode()) + len(v.encode()) for k, v in self.metadata.items())

    def revoke(self, at: Instant, reason: str) -> Key:
        """End it for good. A revoked key stays exactly as it is."""
        if self.revoked_at is not None:
            return self
        return self._changed(at, revoked_at=at, revoke_reason=reason)

    def delete(self, at: Instant) -> Key:
        """End it, if it is live, and take it off the lists. A deleted key stays exactly as it is."""
        if self.deleted_at is not None:
            return self
        if self.revoked_at is not None:
            return self._changed(at, deleted_at=at)
        return self._changed(at, deleted_at=at, revoked_at=at, revoke_reason="deleted")

    def update(self, at: Instant, **settings: object) -> Key:
        """Return the key with other settings, or itself if they are the ones it has. Raises KeyIsRevoked."""
        self._refuse_if_revoked()
        if all(getattr(self, name) == value for name, value in settings.items()):
            return self
        return self._changed(at, **settings)

    def rotate(self, secret: Secret, at: Instant, grace: int) -> Key:
        """Add *secret*; older ones end at the earlier of their own end and *at* + *grace* (microseconds).

        Raises KeyIsRevoked, KeyIsExpired, QuotaExceeded (too many secrets would work at the same time), InvalidField.
        """
        self._refuse_if_revoked()
        if self.state(at) is State.EXPIRED:
            raise KeyIsExpired(self.id)
        if not 0 <= grace <= MAX_GRACE:
            raise InvalidField("grace", "must be between 0 and 90 days")
        older = tuple(s.end_by(at + grace) for s in self.secrets)
        older = tuple(s for i, s in enumerate(older) if s.alive(at) or i < KEPT_SECRETS)
        if sum(s.alive(at) for s in older) >= MAX_LIVE_SECRETS:
            raise QuotaExceeded("live secrets per key", MAX_LIVE_SECRETS)
        return self._changed(at, secrets=(secret, *older))

    def finish_rotation(self, at: Instant) -> Key:
        """End every superseded secret that still works now, or return the key as it is if there is none."""
        self._refuse_if_revoked()
        newest, *older = self.secrets
        if not any(s.alive(at) for s in older):
            return self
        return self._changed(at, secrets=(newest, *(s.end_by(at) for s in older)))

    def _refuse_if_revoked(self) -> None:
        if self.revoked_at is not None or self.deleted_at is not None:
            raise KeyIsRevoked(self.id)

    def _changed(self, at: Instant, **changes: object) -> Key:
        return replace(self, updated_at=at, version=self.version + 1, **changes)  # type: ignore[arg-type]  # names are ours


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it, as the audit log names it. Only the guard makes one, after it has checked the right to do it."""

    organization: str
    """Of the key that called."""
    key: str
    """The key that called, or a word for Doorward itself: "bootstrap", "recover-root"."""
    principal: str = ""
    """The key's owner, if it has one."""
    acting_for: str = ""
    """`<organization>/<principal>` for whom a backend called, if it did."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change, for the audit log: written in the transaction that makes the change, in the organization's chain."""

    organization: str
    """Whose chain it belongs to."""
    at: Instant
    actor: Actor
    action: str
    """The permission that allowed it, e.g. "keys:revoke"."""
    target_type: str
    target: str
    before: Mapping[str, object] | None = None
    """What changed, before; None for a creation. Never holds a secret."""
    after: Mapping[str, object] | None = None
    """What changed, after; None for an end."""
    note: str = ""
    """The reason given, or what else became of it: "3 keys stopped"."""


@dataclass(frozen=True, slots=True)
class StoredKeyspace:
    """A keyspace as it is kept: its file, and how often that has changed. Compiled elsewhere."""

    name: str
    source: str
    created_at: Instant
    updated_at: Instant
    version: int = 1


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys of an organization; None, empty and False leave nothing out. Bounds: `KeyFilter` in keys.proto."""

    keyspace: str = ""
    owner: str = ""
    environment: str = ""
    type: str = ""
    states: frozenset[State] = frozenset()
    name_contains: str = ""
    created_after: Instant | None = None
    created_before: Instant | None = None
    expires_before: Instant | None = None
    last_used_before: Instant | None = None
    never_used: bool = False


@dataclass(frozen=True, slots=True)
class Quotas:
    """What one organization may have at most; generous, and there to stop accidents."""

    keys: int = 1_000_000
    bindings: int = 100_000
    bindings_per_subject: int = 1_000
    """Of one principal or group: each decision about its keys looks at all of them."""
    metadata_bytes: int = 256 * 1024 * 1024
    relations: int = 1_000_000
    relations_per_subject: int = 10_000
    relations_per_resource: int = 1_000
    resources: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Replay:
    """What makes a retried call safe: the same caller, method and request_id stand for the same request for a day."""

    caller: str
    """`<organization>/<key>` of the caller, and for whom it acted."""
    method: str
    request_id: str
    digest: bytes
    """SHA-256 of the request's content."""
    at: Instant


@dataclass(frozen=True, slots=True)
class Use:
    """One key was used: the last time within a flush interval that this secret authenticated a call."""

    organization: str
    key: str
    secret: str
    at: Instant
    keyspace: str = ""
    """If somebody else says so: counted only if that is the key's. Empty: it is known to be."""
