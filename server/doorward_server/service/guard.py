"""Who may call what in Doorward itself: the same decision, asked about Doorward's own permissions.

Deny by default, by construction: a change needs an `Actor` for its audit event, and `Guard.require` is the one place
that makes one for a caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from doorward_server.core.decide import Decision, Question, decide, standing
from doorward_server.core.errors import CallerForbidden, CallerUnauthenticated, GrantForbidden, InvalidField
from doorward_server.core.facts import Facts
from doorward_server.core.fields import LAST_INSTANT, check_id, within
from doorward_server.core.model import Actor, Instant, Key
from doorward_server.core.policy import Keyspace, Pattern, all_covered, parse_path
from doorward_server.core.rails import Hand
from doorward_server.core.reasons import Reason
from doorward_server.core.subject import Address, Held, Subject, held_roles, key_subject, principal_subject
from doorward_server.service.catalog import DOORWARD, OPERATOR, Catalog
from doorward_server.service.freshness import Memo
from doorward_server.store import Store

AUTHORIZE = "decisions:authorize"
"""The permission to ask about others' keys."""
Clock = Callable[[], Instant]


class Caller(NamedTuple):
    """Somebody whose key of the keyspace `doorward` holds, as of the start of this call."""

    subject: Subject
    keyspace: Keyspace
    """`doorward`, in the version that the caller was looked up with."""
    revision: int
    checked: list[str]
    """Permissions that were asked about during this call; an answer without any is a defect that the wire refuses."""
    client_ip: Address | None = None
    acting_for: Subject | None = None
    """The principal for whom a backend calls; its rights are needed too."""
    depends_on: tuple[int, ...] = ()
    """What the caller's own rights depend on, as clients are told; empty if they were not read under a lease."""
    moments: tuple[Instant, ...] = ()
    """When they change by themselves."""
    memo: Memo | None = None
    """What was found out about the record of the caller's key before; None if it was not read under a lease."""

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

    def hand(self, organization: str, owner: str | None) -> Hand:
        """Return whose hand acts on a key of *organization*: its *owner*'s, also by a backend that acts for it."""
        subjects = filter(None, (self.subject, self.acting_for))
        mine = {(it.organization.id, it.owner.id) for it in subjects if it.owner is not None}
        return Hand.OWNER if (organization, owner) in mine else Hand.ADMINISTRATOR


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
        `owner`; a key that acts for somebody has the relation `acting`. *shown* is what an error calls the resource,
        where its own name, or why it is refused, would tell something.
        """
        caller.checked.append(permission)
        self._ask(caller.subject, caller, permission, resource, owner, "Your key", shown)
        acting = caller.acting_for
        if acting is not None and acting.owner is not None:
            principal = f"{acting.organization.id}/{acting.owner.id}"
            act_on = _principal(acting.organization.id, acting.owner.id)
            self._ask(caller.subject, caller, "principals:act", act_on, None, "Your key")
            self._ask(acting, caller, permission, resource, owner, f"The principal {principal}", shown)
            return self._actor(caller, principal)
        return self._actor(caller, "")

    def require_decisions(self, caller: Caller, permission: str, organization: str, keyspace: str) -> None:
        """Raise CallerForbidden unless *caller* may do *permission* about decisions in *keyspace* in *organization*
        (empty: its own). Raises InvalidField for a name that can be none.

        That a caller may is noted with its record: a backend asks the same thousands of times.
        """
        leave, memo, now = (permission, organization, keyspace), caller.memo, self._clock()
        if memo is None or caller.acting_for is not None:
            self.require(caller, permission, self._decisions(caller, organization, keyspace))
        elif memo.passes(leave, now):
            caller.checked.append(permission)
        else:
            resource = self._decisions(caller, organization, keyspace)
            decision = self._decide(caller.subject, caller, permission, resource, None, now)
            if decision.allowed and decision.repeatable:
                memo.let_pass(leave, now)
            self.require(caller, permission, resource)

    @staticmethod
    def _decisions(caller: Caller, organization: str, keyspace: str) -> str:
        check_id("keyspace", keyspace, "keyspace")
        return decisions(reach(caller, organization), keyspace)

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

    def require_own_limits(self, caller: Caller, key: Key) -> None:
        """Raise InvalidField unless *key*, of the keyspace `doorward`, ends no later than the caller's own key, and may
        be used from no network that that one may not: else a limited key could make itself an unlimited twin.
        """
        own = caller.subject.key
        if own is not None and own.expires_at is not None and (key.expires_at or LAST_INSTANT) > own.expires_at:
            raise InvalidField("expiry", "must not be later than that of the key you call with")
        if caller.subject.networks and not within(key.allowed_cidrs, caller.subject.networks):
            raise InvalidField("allowed_cidrs", "must lie within the networks of the key you call with")

    def may_grant_all(self, caller: Caller, organization: str, keyspace: Keyspace) -> bool:
        """Tell whether the caller, and for whom it acts, may grant every role there is."""
        resources = [f"organizations/{organization}/keyspaces/{keyspace.name}/roles/{role}" for role in keyspace.roles]
        subjects = [subject for subject in (caller.subject, caller.acting_for) if subject is not None]
        return all(
            self._decide(subject, caller, "roles:grant", resource, None).allowed
            for subject in subjects
            for resource in resources
        )

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
            reason = decision.reason
            if shown and reason is Reason.RELATION_MISSING:  # only something that exists has an owner
                reason = Reason.RESOURCE_NOT_GRANTED
            raise CallerForbidden(permission, shown or resource, reason.value, who)

    def _decide(
        self,
        subject: Subject,
        caller: Caller,
        permission: str,
        resource: str,
        owner: str | None,
        now: Instant | None = None,
    ) -> Decision:
        try:
            path = parse_path(resource)
        except ValueError as problem:
            raise InvalidField("id", f"every part of {resource!r} {problem}") from None
        organization = path[1] if path[0] == "organizations" and len(path) > 1 else OPERATOR
        principal = subject.owner.id if subject.owner else None
        mine = owner is not None and owner == principal and subject.organization.id == organization
        relations = {"owner"} if mine else set()
        if subject is caller.subject and caller.acting_for is not None:
            relations.add("acting")
        question = Question(
            action=permission,
            path=path,
            organization=organization,
            environment=caller.keyspace.environments[0],
            client_ip=caller.client_ip,
            facts=Facts(frozenset(relations)),
        )
        return decide(subject, question, caller.keyspace, self._clock() if now is None else now)

    @staticmethod
    def _actor(caller: Caller, acting_for: str) -> Actor:
        key = caller.subject.key.id if caller.subject.key else ""
        return Actor(caller.organization, key, caller.principal, acting_for)

    def refreshed(self, caller: Caller) -> Caller:
        """Return *caller* as of now, for work that outlasts a moment. Raises CallerUnauthenticated, CallerForbidden."""
        known, secret = caller.subject.key, caller.subject.secret
        snapshot = self._store.find_record(DOORWARD, secret.lookup if secret else "")
        record = snapshot.record
        if record is None or known is None or record.key.id != known.id:
            raise CallerUnauthenticated(Reason.KEY_UNKNOWN.value, "it was taken away during this call.")
        keyspace, held = self._catalog.get(DOORWARD), record.key.secrets[0]
        subject = key_subject(
            record.key, held, record.organization, record.owner, record.bindings, keyspace, record.groups
        )
        denial = standing(subject, self._clock())
        if denial is not None:
            raise CallerUnauthenticated(denial.reason.value, f"it ended during this call ({denial.reason}).")
        fresh = caller._replace(
            subject=subject, keyspace=keyspace, revision=snapshot.revision, acting_for=None, memo=None
        )
        acting = caller.acting_for
        if acting is None or acting.owner is None:
            return fresh
        return fresh._replace(acting_for=self.acting_subject(fresh, acting.organization.id, acting.owner.id))

    def acting_subject(self, caller: Caller, organization: str, principal: str) -> Subject:
        """Return, as the store has it, the principal that *caller* acts for. Raises CallerForbidden."""
        self.require_to_act(caller, organization, principal)
        record = self._store.find_principal_record(organization, principal, DOORWARD).record
        if record is None:
            raise self.nobody_to_act_for(organization, principal)
        return principal_subject(record.principal, record.organization, record.bindings, caller.keyspace, record.groups)

    def require_to_act(self, caller: Caller, organization: str, principal: str) -> None:
        """Raise CallerForbidden unless *caller* may act for that principal, whether or not it exists."""
        self._ask(caller.subject, caller, "principals:act", _principal(organization, principal), None, "Your key")

    @staticmethod
    def nobody_to_act_for(organization: str, principal: str) -> CallerForbidden:
        """Return the error for a principal that does not exist; it reads like that for one who is disabled."""
        return CallerForbidden("principals:act", _principal(organization, principal), Reason.OWNER_DISABLED.value)


def decisions(organization: str, keyspace: str) -> str:
    """Return what permissions about decisions are held on."""
    return f"organizations/{organization}/keyspaces/{keyspace}/decisions"


def reach(caller: Caller, organization: str) -> str:
    """Return the organization in whose name a caller asks; `-` for an operator's key that names none."""
    if organization:
        return check_id("organization", organization, "organization")
    return "-" if caller.crosses else caller.organization


def _principal(organization: str, principal: str) -> str:
    return f"organizations/{organization}/principals/{principal}"


def _covers(held: tuple[Held, ...], grant: Grant, now: Instant) -> bool:
    """Whether somebody who holds *held* holds what *grant* would give, for as long, and under no DENY rule."""
    if any(holding.role.denies for holding in held):
        return False
    lasting = [
        holding
        for holding in held
        if grant.role in holding.role.includes
        and holding.active(now)
        and holding.condition is None
        and (holding.expires_at is None or (grant.until is not None and grant.until <= holding.expires_at))
    ]
    return all_covered(grant.resources, tuple(pattern for holding in lasting for pattern in holding.resources))
