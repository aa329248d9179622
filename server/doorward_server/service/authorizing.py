"""Answering the one question: find the credential, look it up, prove possession, decide.

Records come from memory while this process has a lease (`service.freshness`), and no answer is staler than that
allows; decisions are made anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from doorward_server.core.decide import ALLOWED, DENIED, Decision, Question, decide, standing
from doorward_server.core.errors import (
    CallerForbidden,
    CallerUnauthenticated,
    DoorwardError,
    InvalidField,
    UnknownReference,
)
from doorward_server.core.fields import check_address, check_id
from doorward_server.core.model import SECOND, Instant
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import UNAUTHENTICATED, Reason
from doorward_server.core.subject import Address, Subject, in_network
from doorward_server.service.asking import Asking, api_version, keyspace_name
from doorward_server.service.catalog import DOORWARD
from doorward_server.service.charging import Charge, Charging
from doorward_server.service.finding import Finder, Found, HttpParts, SignedIn
from doorward_server.service.freshness import Memo
from doorward_server.service.guard import AUTHORIZE, Caller, Clock, Guard, decisions, reach
from doorward_server.service.limiting import FREE, Charged
from doorward_server.service.messages import MESSAGES
from doorward_server.service.questions import Ask, Asked, Item, read_question
from doorward_server.service.recognizing import Recognition
from doorward_server.service.telling import Telling
from doorward_server.service.usage import LastUse

MAX_ITEMS = 100
LONGEST = 3600 * SECOND
"""Microseconds for which a client may keep an answer at most."""


class Answer(NamedTuple):
    """A decision, and who it was about, if the caller may know that."""

    decision: Decision
    subject: Subject | None
    keyspace: Keyspace
    revision: int
    api_version: str
    """In effect for this request; empty: the keyspace names none."""
    cacheable_for: int = 0
    """Microseconds for which a cache under a lease may keep it, from when it was asked; 0: not at all."""
    depends_on: tuple[int, ...] = ()
    """What ends that earlier, as tokens."""
    memo: Memo | None = None
    """Of the subject's record."""
    id: str = ""
    """Of the decision; empty for a dry run."""
    charged: Charged = FREE
    """How the limits and credits stand that it was charged to."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The decisions of a batch, in order: an error stands for an item that could not be decided."""

    decisions: tuple[Decision | DoorwardError, ...]
    subject: Subject | None
    keyspace: Keyspace
    revision: int
    api_version: str
    ids: tuple[str, ...] = ()
    """Of the decisions, in order; empty for an error and in a dry run."""
    charged: tuple[Charged, ...] = ()
    """How the limits and credits stand that each of them was charged to."""


class Authorizer:
    """Decides about presented credentials. Runs on the event loop."""

    def __init__(
        self,
        finder: Finder,
        guard: Guard,
        recognition: Recognition,
        uses: LastUse,
        telling: Telling,
        charging: Charging,
        clock: Clock,
    ) -> None:
        self._finder = finder
        self._recognition = recognition
        self._guard = guard
        self._asking = Asking(finder, guard)
        self._uses = uses
        self._telling = telling
        self._charging = charging
        self._clock = clock

    async def authenticate(self, headers: Sequence[tuple[str, str]], peer: Address | None) -> Caller:
        """Return the caller whose key of the keyspace `doorward` is in *headers*. Raises CallerUnauthenticated."""
        found = self._recognition.find(headers)
        if found is None:
            presented, ring = HttpParts(tuple(headers), ""), self._recognition.ring
            found = await self._finder.find(presented, await self._finder.keyspace(DOORWARD), ("", str(peer)))
            self._recognition.keep(headers, found, ring)
        denial, subject = found.denial, found.subject
        if denial is None and subject is not None:
            denial = self._good(subject, peer, dry_run=False)
        if denial is not None or subject is None:
            reason = denial.reason if denial else Reason.KEY_UNKNOWN
            self._telling.kept_out(found, reason, peer, self._clock())
            raise CallerUnauthenticated(reason.value, MESSAGES[reason])
        return Caller(
            subject,
            found.keyspace,
            found.revision,
            [],
            peer,
            depends_on=found.tokens,
            moments=found.moments,
            memo=found.known.memo if found.known is not None and found.tokens else None,
        )

    async def act_for(self, caller: Caller, organization: str, principal: str) -> Caller:
        """Return *caller* as one that acts for a principal. Raises CallerForbidden without `principals:act`."""
        check_id("doorward-acting-for", organization, "organization")
        check_id("doorward-acting-for", principal, "principal")
        self._guard.require_to_act(caller, organization, principal)
        found = await self._finder.principal(SignedIn(organization, principal), DOORWARD)
        if found.subject is None:
            raise self._guard.nobody_to_act_for(organization, principal)
        depends_on = (*caller.depends_on, *found.tokens) if caller.depends_on and found.tokens else ()
        moments = (*caller.moments, *found.moments)
        revision = min(caller.revision, found.revision)
        return caller._replace(acting_for=found.subject, revision=revision, depends_on=depends_on, moments=moments)

    async def authorize(self, caller: Caller, ask: Ask, item: Item) -> Answer:
        """Decide one question. Raises InvalidField, UnknownReference, CallerForbidden, StoreUnavailable, Overloaded."""
        asking = self._asking
        asking.admit(caller, ask, item.organization, AUTHORIZE)
        keyspace = await asking.keyspace(ask)
        asked = read_question(caller, ask, item, keyspace)
        found, questions = await asking.find_with_facts(caller, ask, keyspace, (asked,))
        now = self._clock()
        decision = self._decide(found, questions[0], ask.dry_run, now)
        charged, counts = FREE, found.keyspace.sections.counts
        if counts and decision.allowed and not ask.dry_run and found.subject is not None:
            charged = await self._charging.charge(found.subject, found.keyspace, Charge(questions[0], item.cost))
            decision = _too_much(decision, charged)
            self._telling.charged(found.subject, questions[0], found.keyspace, charged)
        (id,) = await self._told(caller, ask, found, [(questions[0], decision)], [charged], now)
        subject = asking.visible(caller, found.subject, ask, item.organization)
        version = api_version(ask, subject, found.keyspace)
        counted = counts and (charged is not FREE or self._counted(found, questions[0], decision))
        kept_for = 0 if counted else _cacheable_for(caller, found, decision, now)
        depends_on = (*found.tokens, *caller.depends_on) if kept_for else ()
        memo = found.known.memo if found.known is not None and subject is not None else None
        return Answer(
            decision, subject, found.keyspace, found.revision, version, kept_for, depends_on, memo, id, charged
        )

    async def batch_authorize(self, caller: Caller, ask: Ask, items: Sequence[Item]) -> Answers:
        """Decide up to `MAX_ITEMS` questions about one credential as of one revision: equal to as many `authorize`."""
        if not 1 <= len(items) <= MAX_ITEMS:
            raise InvalidField("items", f"must have 1 to {MAX_ITEMS} entries")
        refused = {name: self._refusal(caller, ask, name) for name in dict.fromkeys(it.organization for it in items)}
        if all(refused.values()):
            raise next(filter(None, refused.values()))
        keyspace = await self._asking.keyspace(ask)
        read = [refused[item.organization] or _question_or_error(caller, ask, item, keyspace) for item in items]
        asked = [it for it in read if isinstance(it, Asked)]
        found, questions = await self._asking.find_with_facts(caller, ask, keyspace, asked)
        now = self._clock()
        costs = [item.cost for item, it in zip(items, read, strict=True) if isinstance(it, Asked)]
        due = [(question, self._decide(found, question, ask.dry_run, now)) for question in questions]
        charged = await self._charged(found, due, ask.dry_run, costs)
        handed = [(question, decision) for question, (decision, _) in zip(questions, charged, strict=True)]
        told = iter(await self._told(caller, ask, found, handed, [it for _, it in charged], now))
        decided = iter(decision for _, decision in handed)
        decisions = tuple(next(decided) if isinstance(it, Asked) else it for it in read)
        ids = tuple(next(told) if isinstance(it, Asked) else "" for it in read)
        each = iter(stands for _, stands in charged)
        stands = tuple(next(each) if isinstance(it, Asked) else FREE for it in read)
        admitted = next(organization for organization, refusal in refused.items() if refusal is None)
        subject = self._asking.visible(caller, found.subject, ask, admitted)
        version = api_version(ask, subject, found.keyspace)
        return Answers(decisions, subject, found.keyspace, found.revision, version, ids, stands)

    async def introspect(self, caller: Caller, ask: Ask | None) -> Answer:
        """Tell whose a credential is and whether it is good for anything now; without one, who the caller is."""
        if ask is None:
            caller.checked.append("introspect oneself")
            pinned = caller.subject.key.api_version if caller.subject.key else ""
            return Answer(ALLOWED, caller.subject, caller.keyspace, caller.revision, pinned)
        self._guard.require(caller, "decisions:introspect", decisions(reach(caller, ""), keyspace_name(ask)))
        found = await self._asking.find(caller, ask, await self._asking.keyspace(ask))
        subject = self._asking.visible(caller, found.subject, ask, "")
        decision = found.denial
        if decision is None and found.subject is not None:
            address = check_address("context.client_ip", ask.client_ip)
            foreign = DENIED[Reason.ORGANIZATION_MISMATCH] if subject is None else None
            decision = self._good(found.subject, address, ask.dry_run) or foreign
        decision = decision or ALLOWED
        (id,) = await self._telling.handed_out(caller, ask, found, [(None, decision)], self._clock())
        version = api_version(ask, subject, found.keyspace)
        return Answer(decision, subject, found.keyspace, found.revision, version, id=id)

    def _refusal(self, caller: Caller, ask: Ask, organization: str) -> DoorwardError | None:
        try:
            self._asking.admit(caller, ask, organization, AUTHORIZE)
        except (InvalidField, CallerForbidden) as refusal:
            return refusal
        return None

    def _decide(self, found: Found, question: Question, dry_run: bool, now: Instant) -> Decision:
        subject = found.subject
        if found.denial is not None or subject is None:
            return found.denial or DENIED[Reason.KEY_UNKNOWN]
        decision = decide(subject, question, found.keyspace, now)
        if decision.reason not in UNAUTHENTICATED:
            self._note(subject, now, dry_run)
        return decision

    async def _charged(
        self, found: Found, due: Sequence[tuple[Question, Decision]], dry_run: bool, costs: Sequence[int]
    ) -> list[tuple[Decision, Charged]]:
        """Return each decision once it is charged. Only what is allowed is; what is too much costs nothing."""
        decided = [(decision, FREE) for _, decision in due]
        subject, keyspace = found.subject, found.keyspace
        allowed = [i for i, (decision, _) in enumerate(decided) if decision.allowed]
        if dry_run or subject is None or not allowed or not keyspace.sections.counts:
            return decided
        charges = await self._charging.charge_all(subject, keyspace, [Charge(due[i][0], costs[i]) for i in allowed])
        for i, charged in zip(allowed, charges, strict=True):
            decided[i] = _too_much(due[i][1], charged), charged
            self._telling.charged(subject, due[i][0], keyspace, charged)
        return decided

    async def _told(
        self,
        caller: Caller,
        ask: Ask,
        found: Found,
        handed: Sequence[tuple[Question, Decision]],
        charged: Sequence[Charged],
        now: Instant,
    ) -> list[str]:
        """Return the ids of decisions, once they are told to whoever keeps them; what cannot be told costs nothing."""
        try:
            return await self._telling.handed_out(caller, ask, found, handed, now)
        except Exception:
            await self._charging.give_back(charged)
            raise

    def _counted(self, found: Found, question: Question, decision: Decision) -> bool:
        """Whether the answer depends on a count although it was not charged, e.g. since it was a dry run."""
        if found.subject is None or not decision.allowed:
            return False
        return self._charging.counts(found.subject, question, found.keyspace)

    def _good(self, subject: Subject, address: Address | None, dry_run: bool) -> Decision | None:
        now = self._clock()
        denial = standing(subject, now)
        if denial is not None:
            return denial
        self._note(subject, now, dry_run)
        return None if in_network(subject, address) else DENIED[Reason.NETWORK_NOT_ALLOWED]

    def _note(self, subject: Subject, now: Instant, dry_run: bool) -> None:
        """Note that the key of *subject*, which is good for something, was used."""
        if not dry_run and subject.key is not None and subject.secret is not None:
            self._uses.note(subject.key, subject.secret, now)


def _too_much(decision: Decision, charged: Charged) -> Decision:
    return decision if charged.reason is None else DENIED[charged.reason]


def _question_or_error(caller: Caller, ask: Ask, item: Item, keyspace: Keyspace) -> Asked | DoorwardError:
    try:
        return read_question(caller, ask, item, keyspace)
    except (InvalidField, UnknownReference) as problem:
        return problem


def _cacheable_for(caller: Caller, found: Found, decision: Decision, now: Instant) -> int:
    """Return for how many microseconds a client may keep an answer, unless it hears otherwise.

    Not where more than the request and the record took part, nor where nobody proved possession of a key: then there is
    nothing to hear of.
    """
    subject = found.subject
    if found.keyspace.sections.decision_log.everything:
        return 0  # each answer is recorded
    if caller.revision < found.revision:
        return 0  # the caller may have changed since it was looked up, and the answer's revision would hide that
    if not (found.tokens and caller.depends_on and decision.repeatable) or subject is None or subject.key is None:
        return 0
    longest = LONGEST
    for moment in (*found.moments, *caller.moments):
        if now < moment < now + longest:
            longest = moment - now
    return longest
