"""Who may call what in Doorward itself: the same decision, asked about Doorward's own permissions.

Deny by default, by construction: a change needs an `Actor` for its audit event, and `Guard.require` is the one place
that makes one for a caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from doorward_server.core.decide import (
    Address,
    Decision,
    Held,
    Question,
    Reason,
    Subject,
    decide,
    held_roles,
    principal_subject,
)
from doorward_server.core.errors import CallerForbidden, GrantForbidden, InvalidField
from doorward_server.core.model import Actor, Instant
from doorward_server.core.policy import Keyspace, Pattern, all_covered, parse_path
from doorward_server.service.catalog import DOORWARD, OPERATOR, Catalog
from doorward_server.store import Store

Clock = Callable[[], Instant]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose key of the keyspace `doorward` holds, as of the start of this call."""

    subject: Subject
    keyspace: Keyspace
    """`doorward`, in the version that the caller was looked up with."""
    revision: int
    client_ip: Address | None = None
    acting_for: Subject | None = None
    """The principal for whom a backend calls; its rights are needed too."""
    checked: list[str] = field(default_factory=list, compare=False, repr=False)
    """Permissions that were asked about during this call; an answer without any is a defect that the wire refuses."""

    @property
    def organization(self) -> str:
        """The organization of the caller's key."""
        return self.subject.organization.id

    @property
    def crosses(self) -> bool:
        """Whether the caller is of the operator organization, so that it may reach others as its bindings say."""
        return self.organization == OPERATOR

    @property
    def principal(self) -> str:
        """The owner of the caller's key; empty if it has none."""
        return self.subject.owner.id if self.subject.owner else ""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role that is about to be handed out: on these patterns, until then (None: no end)."""

    role: str
    resources: tuple[Pattern, ...]
    until: Instant | None


class Guard:
    """Asks whether a caller may do something, for the services that do it."""

    def __init__(self, store: Store, catalog: Catalog, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock

    def require(
        self, caller: Caller, permission: str, resource: str, *, owner: str | None = None, shown: str = ""
    ) -> Actor:
        """Return who will have done it, if *caller* may do *permission* on *resource*; else raise CallerForbidden.

        *resource* is `organizations/<id>/…`, belonging to that organization and the operator, or anything else,
        belonging to the operator alone. A caller whose principal is *owner*, in that organization, has the relation
        `owner`. *shown* is what an error calls the resource, where its own name would tell something.
        """
        caller.checked.append(permission)
        self._ask(caller.subject, caller, permission, resource, owner, "Your key", shown)
        acting = caller.acting_for
        if acting is not None and acting.owner is not None:
            principal = f"{acting.organization.id}/{acting.owner.id}"
            act_on = f"organizations/{acting.organization.id}/principals/{acting.owner.id}"
            self._ask(caller.subject, caller, "principals:act", act_on, None, "Your key")
            self._ask(acting, caller, permission, resource, owner, f"The principal {principal}", shown)
            return self._actor(caller, principal)
        return self._actor(caller, "")

    def may(self, caller: Caller, permission: str, resource: str) -> bool:
        """Tell whether `require` would pass."""
        try:
            self.require(caller, permission, resource)
        except CallerForbidden:
            return False
        return True

    def require_grants(
        self, caller: Caller, organization: str, keyspace: Keyspace, grants: Iterable[Grant], now: Instant
    ) -> None:
        """Raise GrantForbidden unless the caller, and for whom it acts, holds each role so or may grant it."""
        for grant in grants:
            resource = f"organizations/{organization}/keyspaces/{keyspace.name}/roles/{grant.role}"
            for subject in filter(None, (caller.subject, caller.acting_for)):
                if not (
                    self._decide(subject, caller, "roles:grant", resource, None).allowed
                    or self._holds(subject, organization, keyspace, grant, now)
                ):
                    raise GrantForbidden(keyspace.name, grant.role, resource)

    def _holds(self, subject: Subject, organization: str, keyspace: Keyspace, grant: Grant, now: Instant) -> bool:
        if subject.organization.id != organization:
            return False
        return all(_covers(held, grant, now) for held in self._holdings(subject, keyspace))

    def _holdings(self, subject: Subject, keyspace: Keyspace) -> list[tuple[Held, ...]]:
        """What limits *subject* in *keyspace*: a grant must be covered by each of these."""
        if keyspace.name == DOORWARD:
            return [held for held in (subject.ceiling, subject.roles) if held is not None] or [()]
        if subject.owner is None or subject.ceiling is not None:
            # A key with a list of its own was made to do less than its owner: passing on the owner's roles is more.
            return [()]
        bindings = self._store.list_held_bindings(subject.organization.id, subject.owner.id)
        return [held_roles(bindings, keyspace)]

    def _ask(
        self,
        subject: Subject,
        caller: Caller,
        permission: str,
        resource: str,
        owner: str | None,
        who: str,
        shown: str = "",
    ) -> None:
        decision = self._decide(subject, caller, permission, resource, owner)
        if not decision.allowed:
            raise CallerForbidden(permission, shown or resource, decision.reason.value, who)

    def _decide(self, subject: Subject, caller: Caller, permission: str, resource: str, owner: str | None) -> Decision:
        try:
            path = parse_path(resource)
        except ValueError as problem:
            raise InvalidField("id", f"every part of {resource!r} {problem}") from None
        organization = path[1] if path[0] == "organizations" and len(path) > 1 else OPERATOR
        principal = subject.owner.id if subject.owner else None
        mine = owner is not None and owner == principal and subject.organization.id == organization
        question = Question(
            action=permission,
            path=path,
            organization=organization,
            environment=caller.keyspace.environments[0],
            client_ip=caller.client_ip,
            relations=frozenset({"owner"}) if mine else frozenset(),
        )
        return decide(subject, question, caller.keyspace, self._clock())

    @staticmethod
    def _actor(caller: Caller, acting_for: str) -> Actor:
        key = caller.subject.key.id if caller.subject.key else ""
        return Actor(caller.organization, key, caller.principal, acting_for)

    def acting_subject(self, caller: Caller, organization: str, principal: str) -> Subject:
        """Return the principal that *caller* says it acts for. Raises CallerForbidden: unknown ones are not told."""
        resource = f"organizations/{organization}/principals/{principal}"
        self._ask(caller.subject, caller, "principals:act", resource, None, "Your key")
        record = self._store.find_principal_record(organization, principal, DOORWARD).record
        if record is None:
            raise CallerForbidden("principals:act", resource, Reason.OWNER_DISABLED.value)
        return principal_subject(record.principal, record.organization, record.bindings, caller.keyspace)


def _covers(held: tuple[Held, ...], grant: Grant, now: Instant) -> bool:
    """Whether somebody who holds *held* holds what *grant* would give, for as long, and under no DENY rule."""
    if any(holding.role.denies for holding in held):
        return False
    lasting = [
        holding
        for holding in held
        if grant.role in holding.role.includes
        and holding.active(now)
        and (holding.expires_at is None or (grant.until is not None and grant.until <= holding.expires_at))
    ]
    return all_covered(grant.resources, tuple(pattern for holding in lasting for pattern in holding.resources))
