"""Answering the one question: find the credential, look it up, prove possession, decide.

An answer sees every change that was waited for before it was asked (docs/reliability.md). Records are remembered, under
a lease; decisions are made anew each time, and what is for a time is compared with the clock each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from doorward_server.core.credential import Headers
from doorward_server.core.decide import (
    ALLOWED,
    DENIED,
    Address,
    Decision,
    Question,
    Reason,
    Subject,
    decide,
    in_network,
    standing,
)
from doorward_server.core.errors import (
    CallerForbidden,
    CallerUnauthenticated,
    DoorwardError,
    InvalidField,
    UnknownReference,
)
from doorward_server.core.fields import check_address, check_id, check_path
from doorward_server.core.model import SECOND, Instant
from doorward_server.core.policy import Keyspace
from doorward_server.service.catalog import DOORWARD
from doorward_server.service.finding import Finder, Found, HttpParts, Presented, SignedIn
from doorward_server.service.freshness import AS_PROMISED, Consistency
from doorward_server.service.guard import Caller, Clock, Guard, decisions, reach
from doorward_server.service.proving import Origin
from doorward_server.service.usage import LastUse

MAX_ITEMS = 100
LONGEST = 3600 * SECOND
"""Microseconds for which a client may keep an answer at most."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question, as it came in."""

    action: str
    resource: tuple[str, str] | None
    """Type and id; None: the collection of the action's type."""
    organization: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Who asks, and where; the questions come apart."""

    presented: Presented
    keyspace: str
    environment: str
    client_ip: str
    dry_run: bool
    wanted: Consistency = AS_PROMISED


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision, and who it was about, if the caller may know that."""

    decision: Decision
    subject: Subject | None
    keyspace: Keyspace
    revision: int
    cacheable_for: int = 0
    """Microseconds for which a cache under a lease may keep it, from when it was asked; 0: not at all."""
    depends_on: tuple[int, ...] = ()
    """What ends that earlier, as tokens."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The decisions of a batch, in order: an error stands for an item that could not be decided."""

    decisions: tuple[Decision | DoorwardError, ...]
    subject: Subject | None
    keyspace: Keyspace
    revision: int


class Authorizer:
    """Decides about presented credentials. Runs on the event loop."""

    def __init__(self, finder: Finder, guard: Guard, uses: LastUse, clock: Clock) -> None:
        self._finder = finder
        self._guard = guard
        self._uses = uses
        self._clock = clock

    async def authenticate(self, headers: Headers, peer: Address | None) -> Caller:
        """Return the caller whose key of the keyspace `doorward` is in *headers*. Raises CallerUnauthenticated."""
        presented = HttpParts(tuple(headers), "")
        found = await self._finder.find(presented, await self._finder.keyspace(DOORWARD), ("", str(peer)))
        denial, subject = found.denial, found.subject
        if denial is None and subject is not None:
            denial = self._good(subject, peer, dry_run=False)
        if denial is not None or subject is None:
            reason = denial.reason if denial else Reason.KEY_UNKNOWN
            raise CallerUnauthenticated(reason.value, MESSAGES[reason])
        return Caller(subject, found.keyspace, found.revision, peer, depends_on=found.tokens)

    async def act_for(self, caller: Caller, organization: str, principal: str) -> Caller:
        """Return *caller* as one that acts for a principal. Raises CallerForbidden without `principals:act`."""
        check_id("doorward-acting-for", organization, "organization")
        check_id("doorward-acting-for", principal, "principal")
        self._guard.require_to_act(caller, organization, principal)
        found = await self._finder.principal(SignedIn(organization, principal), DOORWARD)
        if found.subject is None:
            raise self._guard.nobody_to_act_for(organization, principal)
        depends_on = (*caller.depends_on, *found.tokens) if caller.depends_on and found.tokens else ()
        return replace(caller, acting_for=found.subject, depends_on=depends_on)

    async def authorize(self, caller: Caller, ask: Ask, item: Item) -> Answer:
        """Decide one question. Raises InvalidField, UnknownReference, CallerForbidden, StoreUnavailable, Overloaded."""
        self._admit(caller, ask, item)
        keyspace = await self._finder.keyspace(ask.keyspace, ask.wanted)
        question = self._question(caller, ask, item, keyspace)
        found = await self._finder.find(ask.presented, keyspace, _origin(caller, ask), ask.wanted)
        now = self._clock()
        decision = self._decide(found, question, ask.dry_run, now)
        subject = self._visible(caller, found.subject, item.organization, ask.keyspace)
        kept_for = _cacheable_for(caller, found, now)
        depends_on = (*found.tokens, *caller.depends_on) if kept_for else ()
        return Answer(decision, subject, found.keyspace, found.revision, kept_for, depends_on)

    async def batch_authorize(self, caller: Caller, ask: Ask, items: Sequence[Item]) -> Answers:
        """Decide up to `MAX_ITEMS` questions about one credential as of one revision: equal to as many `authorize`."""
        if not 1 <= len(items) <= MAX_ITEMS:
            raise InvalidField("items", f"must have 1 to {MAX_ITEMS} entries")
        refused = {
            it.organization: self._refusal(caller, ask, it) for it in {i.organization: i for i in items}.values()
        }
        if all(refused.values()):
            raise next(filter(None, refused.values()))
        keyspace = await self._finder.keyspace(ask.keyspace, ask.wanted)
        questions = [
            refused[item.organization] or self._question_or_error(caller, ask, item, keyspace) for item in items
        ]
        found = await self._finder.find(ask.presented, keyspace, _origin(caller, ask), ask.wanted)
        now = self._clock()
        decided = tuple(
            question if isinstance(question, DoorwardError) else self._decide(found, question, ask.dry_run, now)
            for question in questions
        )
        admitted = next(organization for organization, refusal in refused.items() if refusal is None)
        subject = self._visible(caller, found.subject, admitted, ask.keyspace)
        return Answers(decided, subject, found.keyspace, found.revision)

    async def introspect(self, caller: Caller, ask: Ask | None) -> Answer:
        """Tell whose a credential is and whether it is good for anything now; without one, who the caller is."""
        if ask is None:
            caller.checked.append("introspect oneself")
            return Answer(ALLOWED, caller.subject, caller.keyspace, caller.revision)
        self._guard.require(caller, "decisions:introspect", decisions(reach(caller, ""), _keyspace_name(ask)))
        keyspace = await self._finder.keyspace(ask.keyspace, ask.wanted)
        found = await self._finder.find(ask.presented, keyspace, _origin(caller, ask), ask.wanted)
        subject = self._visible(caller, found.subject, "", ask.keyspace)
        decision = found.denial
        if decision is None and found.subject is not None:
            address = check_address("context.client_ip", ask.client_ip)
            foreign = DENIED[Reason.ORGANIZATION_MISMATCH] if subject is None else None
            decision = self._good(found.subject, address, ask.dry_run) or foreign
        return Answer(decision or ALLOWED, subject, found.keyspace, found.revision)

    def _admit(self, caller: Caller, ask: Ask, item: Item) -> None:
        """Ask whether the caller may ask this: in the organization that it names, and for whom it signed in."""
        keyspace = _keyspace_name(ask)
        signed_in = ask.presented if isinstance(ask.presented, SignedIn) else None
        organization = reach(caller, item.organization or (signed_in.organization if signed_in else ""))
        self._guard.require(caller, "decisions:authorize", decisions(organization, keyspace))
        if signed_in is not None:
            # In the principal's own organization too: or it could be found out who is in other ones.
            theirs = check_id("principal.organization", signed_in.organization, "organization")
            for each in dict.fromkeys((organization, theirs)):
                self._guard.require(caller, "decisions:impersonate", decisions(each, keyspace))

    def _question(self, caller: Caller, ask: Ask, item: Item, keyspace: Keyspace) -> Question:
        if item.action not in keyspace.permissions:
            raise UnknownReference("action", "permission", item.action[:128])
        type, id = item.resource or (item.action.partition(":")[0], "")
        if type not in keyspace.types:
            raise UnknownReference("resource.type", "type", type[:128], ", ".join(sorted(keyspace.types)))
        environment = ask.environment or keyspace.environments[0]
        if environment not in keyspace.environments:
            known = ", ".join(keyspace.environments)
            raise UnknownReference("environment", "environment", environment[:128], known)
        if item.organization:
            check_id("organization", item.organization, "organization")
        elif keyspace.requires_organization:
            raise InvalidField(
                "organization", f"is required by the keyspace {keyspace.name!r}: say who owns the resource"
            )
        return Question(
            action=item.action,
            path=check_path("resource.id" if id else "resource.type", type, id),
            organization=item.organization or (None if caller.crosses else caller.organization),
            environment=environment,
            client_ip=check_address("context.client_ip", ask.client_ip),
        )

    def _refusal(self, caller: Caller, ask: Ask, item: Item) -> DoorwardError | None:
        try:
            self._admit(caller, ask, item)
        except (InvalidField, CallerForbidden) as refusal:
            return refusal
        return None

    def _question_or_error(self, caller: Caller, ask: Ask, item: Item, keyspace: Keyspace) -> Question | DoorwardError:
        try:
            return self._question(caller, ask, item, keyspace)
        except (InvalidField, UnknownReference) as problem:
            return problem

    def _decide(self, found: Found, question: Question, dry_run: bool, now: Instant) -> Decision:
        if found.denial is not None or found.subject is None:
            return found.denial or DENIED[Reason.KEY_UNKNOWN]
        decision = decide(found.subject, question, found.keyspace, now)
        self._note(found.subject, now, dry_run)
        return decision

    def _good(self, subject: Subject, address: Address | None, dry_run: bool) -> Decision | None:
        now = self._clock()
        self._note(subject, now, dry_run)
        denial = standing(subject, now)
        if denial is None and not in_network(subject, address):
            denial = DENIED[Reason.NETWORK_NOT_ALLOWED]
        return denial

    def _visible(self, caller: Caller, subject: Subject | None, admitted: str, keyspace: str) -> Subject | None:
        """Return *subject* if the caller may learn whose key it is: within the organization that it asked about."""
        if subject is None or subject.organization.id == (admitted or caller.organization):
            return subject
        resource = decisions(subject.organization.id, keyspace)
        return subject if self._guard.may(caller, "decisions:authorize", resource) else None

    def _note(self, subject: Subject, now: Instant, dry_run: bool) -> None:
        if not dry_run and subject.key is not None and subject.secret is not None and standing(subject, now) is None:
            self._uses.note(subject.key, subject.secret, now)


def _cacheable_for(caller: Caller, found: Found, now: Instant) -> int:
    """Return for how many microseconds a client may keep an answer, unless it hears otherwise.

    Not where the client's address took part, nor where nobody proved possession of a key: there is nothing to hear of.
    """
    subject = found.subject
    if not found.tokens or not caller.depends_on or subject is None or subject.key is None or subject.networks:
        return 0
    return min(LONGEST, next((moment - now for moment in found.moments if moment > now), LONGEST))


def _origin(caller: Caller, ask: Ask) -> Origin:
    return (caller.subject.key.id if caller.subject.key else "", ask.client_ip)


def _keyspace_name(ask: Ask) -> str:
    return check_id("keyspace", ask.keyspace, "keyspace")


MESSAGES = {
    Reason.ALLOWED: "Allowed.",
    Reason.CREDENTIAL_MISSING: "No API key was sent where one is expected.",
    Reason.CREDENTIAL_AMBIGUOUS: "Several different API keys were sent. Send exactly one.",
    Reason.CREDENTIAL_MALFORMED: "This is not a complete API key. Check that it was copied whole and unchanged.",
    Reason.KEY_UNKNOWN: "This API key is not known.",
    Reason.KEY_EXPIRED: "This API key has expired.",
    Reason.KEY_NOT_YET_VALID: "This API key is not valid yet.",
    Reason.KEY_REVOKED: "This API key was revoked.",
    Reason.KEY_DISABLED: "This API key is disabled.",
    Reason.SECRET_SUPERSEDED: "This API key was rotated, and its old text no longer works.",
    Reason.OWNER_DISABLED: "The owner of this API key is disabled.",
    Reason.ORGANIZATION_DISABLED: "The organization of this API key is disabled.",
    Reason.ORGANIZATION_MISMATCH: "This API key belongs to another organization.",
    Reason.ENVIRONMENT_MISMATCH: "This API key is for another environment.",
    Reason.NETWORK_NOT_ALLOWED: "This API key must not be used from this address.",
    Reason.SCOPE_INSUFFICIENT: "This API key lacks the scope for this.",
    Reason.OWNER_PERMISSION_INSUFFICIENT: "The owner of this API key may not do this.",
    Reason.RESOURCE_NOT_GRANTED: "This API key is not granted this resource.",
    Reason.RELATION_MISSING: "The owner of this API key is not connected to this resource in the way it takes.",
    Reason.DENIED_BY_RULE: "A rule forbids this.",
}
"""Each reason in words that an end user may read."""
