"""Whose rights are asked about: a key or a principal, with all that it holds compiled."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from .directory import Binding, Organization, Principal
from .model import Ceiling, Instant, Key, Secret
from .policy import EVERYTHING, Condition, Keyspace, Pattern, Role

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Held:
    """A role that somebody holds: by which binding, on which resources, for how long."""

    role: Role
    resources: tuple[Pattern, ...]
    not_before: Instant | None
    expires_at: Instant | None
    binding: str
    """Id of the binding; empty for what a key's own list gives."""
    condition: Condition | None = None

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
    groups: frozenset[str] = frozenset()
    """The owner's, those that they are in included."""


def in_network(subject: Subject, client_ip: Address | None) -> bool:
    """Tell whether the key may be used from *client_ip*; an address that was not given is in no network."""
    if not subject.networks:
        return True
    return client_ip is not None and any(client_ip in network for network in subject.networks)


def key_subject(
    key: Key,
    secret: Secret,
    organization: Organization,
    owner: Principal | None,
    bindings: Collection[Binding],
    keyspace: Keyspace,
    groups: Collection[str] = (),
) -> Subject:
    """Compile what *key* may do. *bindings* are the owner's, its *groups*' included; other keyspaces' are passed over.

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
        groups=frozenset(groups) if key.owner is not None else frozenset(),
    )


@lru_cache(maxsize=4096)
def _network(cidr: str) -> Network:
    """Many keys share a few networks, each of which takes half a kilobyte."""
    return ip_network(cidr)


def principal_subject(
    principal: Principal,
    organization: Organization,
    bindings: Iterable[Binding],
    keyspace: Keyspace,
    groups: Collection[str] = (),
) -> Subject:
    """Compile what *principal* may do, as one that a backend has signed in: no key, so no ceiling."""
    return Subject(organization, principal, None, None, (), None, held_roles(bindings, keyspace), frozenset(groups))


def held_roles(bindings: Iterable[Binding], keyspace: Keyspace) -> tuple[Held, ...]:
    """Return the roles of *keyspace* that *bindings* give."""
    return tuple(
        Held(
            role,
            tuple(map(Pattern.parse, b.resources)),
            b.not_before,
            b.expires_at,
            b.id,
            keyspace.condition(b.condition),
        )
        for b in bindings
        if b.keyspace == keyspace.name and (role := keyspace.roles.get(b.role)) is not None
    )


def _listed(key: Key, keyspace: Keyspace) -> tuple[Held, ...]:
    roles = keyspace.roles
    scopes = [Held(roles[name], (EVERYTHING,), None, None, "") for name in key.scopes if name in roles]
    bound = [
        Held(
            roles[b.role],
            tuple(map(Pattern.parse, b.resources)),
            b.not_before,
            b.expires_at,
            "",
            keyspace.condition(b.condition),
        )
        for b in key.bindings
        if b.role in roles
    ]
    return (*scopes, *bound)
