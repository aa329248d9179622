"""What is asked and what is decided: frozen values without any gRPC in them; see `doorward.model` for the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from doorward.model import Attribute, Ceiling, Principal

if TYPE_CHECKING:
    from doorward.errors import CallFailed

_SENT = re.compile(
    r"(?:(?P<resource>[^#\s]+)#)?(?P<relation>[^#@\s]+)(?:@(?:user:(?P<principal>\S+)|group:(?P<group>\S+)))?"
)


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
    CONDITION_FALSE = "CONDITION_FALSE"
    CONTEXT_MISSING = "CONTEXT_MISSING"
    DENIED_BY_RULE = "DENIED_BY_RULE"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    CREDITS_EXHAUSTED = "CREDITS_EXHAUSTED"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The parts of an HTTP request in which the keyspace's credential sources look; none of them prints.

    Headers as they came, repeated names included; `query` is what follows the "?", still percent-encoded.
    """

    headers: Mapping[str, str] | Sequence[tuple[str, str]] = field(default=(), repr=False)
    query: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SentRelation:
    """A fact that you know: somebody has a relation to the resource that is asked about, or to its parent.

    `resource` is a type and an id; None is the one that is asked about. Without a principal or a group it is the one
    who is asked about.
    """

    relation: str
    resource: str | None = None
    principal: str | None = None
    group: str | None = None

    @classmethod
    def parse(cls, text: str) -> SentRelation:
        """Read `assigned`, `assessments/42#assigned`, `…@user:alice` or `…@group:staff`. Raises ValueError."""
        match = _SENT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no relation; write e.g. assigned, or assessments/42#assigned@user:alice")
        return cls(match["relation"], match["resource"], match["principal"], match["group"])


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a batch; see `Client.authorize`."""

    action: str
    resource: str | None = None
    organization: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    parent: str | None = None
    relations: Sequence[SentRelation] = ()
    cost: int = 0


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
    """The one that the HTTP request named, else the one that the key was created with. Empty: there is none."""
    secret_id: str = ""
    """The secret that was presented: a rotated key has two for a while."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What to send to the client of an HTTP API, by the keyspace's profile."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How one limit stands: of `limit` units in any `window`, `remaining` are left, and all in `reset_after`.

    `retry_after` is how long until what was asked fits; None: it does, or never will.
    """

    name: str
    limit: int
    window: timedelta
    remaining: int
    reset_after: timedelta
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class CreditStatus:
    """How credits stand: `balance` are left, and `refill_after` is how long until the next refill; None: none comes.

    `retry_after` is how long until what was asked can be paid; None: it can, or not before somebody adds to them.
    """

    balance: int
    refill_after: timedelta | None = None
    retry_after: timedelta | None = None


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
    missing_context: tuple[str, ...] = ()
    """What a condition asked for and nobody gave, e.g. "context.mfa"."""
    http: HttpAnswer | None = None
    """What to send on if an HTTP client asked. None with an error."""
    limits: tuple[LimitStatus, ...] = ()
    """The limits that count this question, after it. Empty if it was denied for another reason."""
    credits: CreditStatus | None = None
    """The credits that it was charged to, after it. None: to none."""
    error: CallFailed | None = None
    """Why this question could not be decided: one of a batch, which is not allowed then, but not denied either; or one
    for which `on_unavailable` said what to take for an answer.
    """
    id: str = field(default="", compare=False)
    """Names the decision in the decision log; empty for a dry run, and where nobody was asked."""

    def __bool__(self) -> bool:
        return self.allowed


# --- why, what and on what --------------------------------------------------------------------------------------------


class Step(StrEnum):
    """A step of a decision, in the order in which they are taken."""

    UNKNOWN = "UNKNOWN"
    CREDENTIAL = "CREDENTIAL"
    STATE = "STATE"
    ORGANIZATION = "ORGANIZATION"
    ENVIRONMENT = "ENVIRONMENT"
    NETWORK = "NETWORK"
    AUTHENTICATED = "AUTHENTICATED"
    CEILING = "CEILING"
    OWNER = "OWNER"


class Effect(StrEnum):
    """What a rule does where it matches."""

    UNKNOWN = "UNKNOWN"
    ALLOW = "ALLOW"
    DENY = "DENY"


class RuleOutcome(StrEnum):
    """What came of a rule; protos/doorward/v1/authz.proto explains each."""

    UNKNOWN = "UNKNOWN"
    MATCHED = "MATCHED"
    BINDING_INACTIVE = "BINDING_INACTIVE"
    RESOURCE_NOT_MATCHED = "RESOURCE_NOT_MATCHED"
    RELATION_MISSING = "RELATION_MISSING"
    CONDITION_FALSE = "CONDITION_FALSE"
    CONDITION_MISSING = "CONDITION_MISSING"
    CONDITION_BROKEN = "CONDITION_BROKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsideredRule:
    """A rule that was looked at, and why it did or did not match."""

    rule: Rule
    effect: Effect
    outcome: RuleOutcome
    relation: str
    """The relation that it asks for, e.g. "assigned" or "parent.assigned"; empty: none."""
    condition: str
    """The condition that was false, lacked something or broke; empty: none did."""
    missing_context: tuple[str, ...]
    held: str
    """The role that is held; another one than the rule's if it includes that one."""


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step: ALLOWED if there is nothing against it, else why it denies; and every rule that was looked at in it."""

    step: Step
    reason: Reason
    rules: tuple[ConsideredRule, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and how it came about; the step that denies is the last."""

    decision: Decision
    steps: tuple[TraceStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedActions:
    """All that may be done. `reason` is ALLOWED if that is anything; else it says why not."""

    actions: tuple[str, ...]
    reason: Reason
    message: str
    identity: Identity | None
    revision: int
    missing_context: tuple[str, ...]
    """What conditions asked for and nobody gave: with it, there might be more."""
    http: HttpAnswer | None


@dataclass(frozen=True, slots=True)
class RequiredRelation:
    """A relation that somebody must have: to the resource, or to its parent."""

    relation: str
    on_parent: bool = False


@dataclass(frozen=True, slots=True)
class Selector:
    """Resources that match the pattern, with all the relations, and of which all the conditions (CEL) hold."""

    pattern: str
    relations: tuple[RequiredRelation, ...] = ()
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessibleResources:
    """A resource is accessible exactly if one of `allowed` matches it and none of `denied` does.

    `reason` is ALLOWED if anything is accessible; else it says why not. Who must have the relations is the owner in
    `identity`, or one of `groups`, which the owner is in.
    """

    allowed: tuple[Selector, ...]
    denied: tuple[Selector, ...]
    reason: Reason
    message: str
    identity: Identity | None
    groups: tuple[str, ...]
    revision: int
    missing_context: tuple[str, ...]
    """What conditions asked for and nobody gave: with it, there might be more."""
    http: HttpAnswer | None
