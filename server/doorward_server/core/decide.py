"""The decision: may the holder of this key do this, here, now? (design.md section 4, steps 5 to 9.)

One pure function over frozen values. It knows nothing of credentials: whoever calls it has proved possession. It is
written for the hot path; tests/core/oracle.py says the same in the dullest way there is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from .model import Binding, Ceiling, Instant, Key, Organization, Principal, Secret, State
from .policy import EVERYTHING, Effect, Keyspace, Path, Pattern, Role, Rule, any_matches

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Reason(StrEnum):
    """Why; the stable words of the contract."""

    ALLOWED = "ALLOWED"

    CREDENTIAL_MISSING = "CREDENTIAL_MISSING"
    CREDENTIAL_AMBIGUOUS = "CREDENTIAL_AMBIGUOUS"
    CREDENTIAL_MALFORMED = "CREDENTIAL_MALFORMED"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_EXPIRED = "KEY_EXPIRED"
    KEY_NOT_YET_VALID = "KEY_NOT_YET_VALID"
    KEY_REVOKED = "KEY_REVOKED"
    KEY_DISABLED = "KEY_DISABLED"
    SECRET_SUPERSEDED = "SECRET_SUPERSEDED"  # noqa: S105  # a reason, not a password
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


@dataclass(frozen=True, slots=True)
class Held:
    """A role that somebody holds: by which binding, on which resources, for how long."""

    role: Role
    resources: tuple[Pattern, ...]
    not_before: Instant | None
    expires_at: Instant | None
    binding: str
    """Id of the binding; empty for what a key's own list gives."""

    def active(self, now: Instant) -> bool:
        """Whether it counts at *now*. Evaluated per call, never compiled in."""
        return (self.not_before is None or self.not_before <= now) and (
            self.expires_at is None or now < self.expires_at
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose rights are asked about: a key that proved possession, or a principal that a backend signed in."""

    organization: Organization
    owner: Principal | None
    """The key's owner; the principal itself where no key is asked about."""
    key: Key | None
    secret: Secret | None
    """The secret that proved possession."""
    networks: tuple[Network, ...]
    """Where the key may be used from; empty: anywhere."""
    ceiling: tuple[Held, ...] | None
    """The key's own list; None: the key sets no limit of its own."""
    roles: tuple[Held, ...] | None
    """What the owner holds; None: the owner's rights are not asked."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, parsed. `organization` owns the resource; None means the subject's own."""

    action: str
    path: Path
    organization: str | None
    environment: str
    client_ip: Address | None = None
    relations: frozenset[str] = frozenset()
    """Relations that the subject's principal has to the resource, e.g. {"owner"}."""


@dataclass(frozen=True, slots=True)
class Match:
    """The rule that decided, and the binding that gave its role."""

    rule: Rule
    binding: str


@dataclass(frozen=True, slots=True)
class Decision:
    """ALLOW or DENY with a reason: a value, never an error."""

    reason: Reason
    match: Match | None = None
    missing: tuple[str, ...] = ()
    """Permissions that would have been needed."""

    @property
    def allowed(self) -> bool:
        """Whether it is an ALLOW."""
        return self.reason is Reason.ALLOWED


ALLOWED = Decision(Reason.ALLOWED)
DENIED: dict[Reason, Decision] = {reason: Decision(reason) for reason in Reason if reason is not Reason.ALLOWED}

_STATES = {
    State.REVOKED: DENIED[Reason.KEY_REVOKED],
    State.EXPIRED: DENIED[Reason.KEY_EXPIRED],
    State.DISABLED: DENIED[Reason.KEY_DISABLED],
    State.NOT_YET_VALID: DENIED[Reason.KEY_NOT_YET_VALID],
}


def decide(subject: Subject, question: Question, keyspace: Keyspace, now: Instant) -> Decision:
    """Answer *question* for *subject* by the rules of *keyspace* as of *now*. Deny beats allow; the default is deny."""
    denial = standing(subject, now) or _place(subject, question, keyspace)
    if denial is not None:
        return denial
    if question.action in keyspace.authenticated:
        return ALLOWED
    decision = ALLOWED
    if subject.ceiling is not None:
        decision = _judge(subject.ceiling, question, now, Reason.SCOPE_INSUFFICIENT)
        if not decision.allowed:
            return decision
    if subject.roles is not None:
        return _judge(subject.roles, question, now, Reason.OWNER_PERMISSION_INSUFFICIENT)
    # A subject that is limited by nothing is one that nobody granted anything.
    return decision if subject.ceiling is not None else DENIED[Reason.SCOPE_INSUFFICIENT]


def standing(subject: Subject, now: Instant) -> Decision | None:
    """Step 5: return the denial by the state of key, secret, owner or organization; None if all are good."""
    if subject.key is not None:
        denial = _STATES.get(subject.key.state(now))
        if denial is not None:
            return denial
        if subject.secret is None or not subject.secret.alive(now):
            return DENIED[Reason.SECRET_SUPERSEDED]
        if subject.key.owner is not None and subject.owner is None:
            return DENIED[Reason.OWNER_DISABLED]  # its row is gone, though nothing of Doorward's removes one
    if subject.owner is not None and not subject.owner.alive:
        return DENIED[Reason.OWNER_DISABLED]
    if not subject.organization.alive:
        return DENIED[Reason.ORGANIZATION_DISABLED]
    return None


def in_network(subject: Subject, client_ip: Address | None) -> bool:
    """Tell whether the key may be used from *client_ip*; an address that was not given is in no network."""
    if not subject.networks:
        return True
    return client_ip is not None and any(client_ip in network for network in subject.networks)


def _place(subject: Subject, question: Question, keyspace: Keyspace) -> Decision | None:
    """Steps 6 and 7: organization before any role, then environment and network."""
    own = subject.organization.id
    if question.organization not in (None, own) and (not keyspace.operator or keyspace.operator != own):
        return DENIED[Reason.ORGANIZATION_MISMATCH]
    if subject.key is None:
        return None
    if subject.key.environment != question.environment:
        return DENIED[Reason.ENVIRONMENT_MISMATCH]
    if not in_network(subject, question.client_ip):
        return DENIED[Reason.NETWORK_NOT_ALLOWED]
    return None


def _judge(held: tuple[Held, ...], question: Question, now: Instant, lacking: Reason) -> Decision:
    """Steps 8 and 9: one DENY match denies, at least one ALLOW must match; *lacking* if the action is not in there."""
    allow: Match | None = None
    nearest = lacking
    for holding in held:
        rules = holding.role.rules.get(question.action)
        if rules is None or not holding.active(now):
            continue
        granted = any_matches(holding.resources, question.path)
        for rule in rules:
            if not granted or not any_matches(rule.resources, question.path):
                if rule.effect is Effect.ALLOW and nearest is lacking:
                    nearest = Reason.RESOURCE_NOT_GRANTED
            elif rule.relation and rule.relation not in question.relations:
                if rule.effect is Effect.ALLOW:
                    nearest = Reason.RELATION_MISSING
            elif rule.effect is Effect.DENY:
                return Decision(Reason.DENIED_BY_RULE, Match(rule, holding.binding))
            elif allow is None:
                allow = Match(rule, holding.binding)
    if allow is not None:
        return Decision(Reason.ALLOWED, allow)
    return Decision(nearest, None, (question.action,) if nearest is lacking else ())


def key_subject(
    key: Key,
    secret: Secret,
    organization: Organization,
    owner: Principal | None,
    bindings: Collection[Binding],
    keyspace: Keyspace,
) -> Subject:
    """Compile what *key* may do. *bindings* are the owner's, its groups' included; other keyspaces' are passed over.

    A role that the keyspace does not declare (any more) gives nothing. Raises ValueError if the parts are not of one
    organization: a store that joins tenants must not get as far as a decision.
    """
    if organization.id != key.organization or any(b.organization != key.organization for b in bindings):
        raise ValueError("a record holds parts of two organizations")
    listed = key.ceiling is Ceiling.LIST
    asked = key.ceiling is Ceiling.OWNER or (keyspace.inherits and key.owner is not None)
    return Subject(
        organization=organization,
        owner=owner,
        key=key,
        secret=secret,
        networks=tuple(map(_network, key.allowed_cidrs)),
        ceiling=_listed(key, keyspace) if listed else None,
        roles=held_roles(() if key.owner is None else bindings, keyspace) if asked else None,
    )


@lru_cache(maxsize=4096)
def _network(cidr: str) -> Network:
    """Many keys share a few networks, each of which takes half a kilobyte."""
    return ip_network(cidr)


def principal_subject(
    principal: Principal, organization: Organization, bindings: Iterable[Binding], keyspace: Keyspace
) -> Subject:
    """Compile what *principal* may do, as one that a backend has signed in: no key, so no ceiling."""
    return Subject(organization, principal, None, None, (), None, held_roles(bindings, keyspace))


def held_roles(bindings: Iterable[Binding], keyspace: Keyspace) -> tuple[Held, ...]:
    """Return the roles of *keyspace* that *bindings* give."""
    return tuple(
        Held(role, tuple(map(Pattern.parse, b.resources)), b.not_before, b.expires_at, b.id)
        for b in bindings
        if b.keyspace == keyspace.name and (role := keyspace.roles.get(b.role)) is not None
    )


def _listed(key: Key, keyspace: Keyspace) -> tuple[Held, ...]:
    roles = keyspace.roles
    scopes = [Held(roles[name], (EVERYTHING,), None, None, "") for name in key.scopes if name in roles]
    bound = [
        Held(roles[b.role], tuple(map(Pattern.parse, b.resources)), b.not_before, b.expires_at, "")
        for b in key.bindings
        if b.role in roles
    ]
    return (*scopes, *bound)
