"""What every question about rights needs before its answer: leave to ask, whose the credential is, and facts."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from doorward_server.core.decide import Question, needs_facts
from doorward_server.core.facts import NOTHING_SENT, combine
from doorward_server.core.fields import check_id
from doorward_server.core.policy import Keyspace
from doorward_server.core.subject import Subject
from doorward_server.service.finding import About, Finder, Found, HttpParts, SignedIn
from doorward_server.service.guard import Caller, Guard, decisions, reach
from doorward_server.service.proving import Origin
from doorward_server.service.questions import Ask, Asked
from doorward_server.store import StoredFacts

EXPLAIN = "decisions:explain"
_NOTHING_STORED = StoredFacts(0, {}, "", {}, frozenset())


class Asking:
    """Lets callers ask, and gathers what the answer depends on, all as of one revision."""

    def __init__(self, finder: Finder, guard: Guard) -> None:
        self._finder = finder
        self._guard = guard

    def keyspace(self, ask: Ask) -> Awaitable[Keyspace]:
        """Return the keyspace that is asked about. Raises UnknownReference, StoreUnavailable."""
        return self._finder.keyspace(ask.keyspace, ask.wanted)

    def admit(self, caller: Caller, ask: Ask, organization: str, permission: str) -> None:
        """Raise CallerForbidden unless *caller* may ask in *organization* (empty: its own), and about whom it does."""
        signed_in = ask.presented if isinstance(ask.presented, SignedIn) else None
        organization = organization or (signed_in.organization if signed_in else "")
        self._guard.require_decisions(caller, permission, organization, ask.keyspace)
        if signed_in is not None:
            asked, keyspace = reach(caller, organization), ask.keyspace
            # In the principal's own organization too: or it could be found out who is in other ones.
            theirs = check_id("principal.organization", signed_in.organization, "organization")
            right = permission if permission == EXPLAIN else "decisions:impersonate"
            for each in dict.fromkeys((asked, theirs)):
                self._guard.require(caller, right, decisions(each, keyspace))

    def visible(
        self, caller: Caller, subject: Subject | None, ask: Ask, admitted: str, permission: str = "decisions:authorize"
    ) -> Subject | None:
        """Return *subject* if the caller may learn whose key it is: within the organization that it asked about."""
        if subject is None or subject.organization.id == (admitted or caller.organization):
            return subject
        resource = decisions(subject.organization.id, keyspace_name(ask))
        return subject if self._guard.may(caller, permission, resource) else None

    def find(self, caller: Caller, ask: Ask, keyspace: Keyspace) -> Awaitable[Found]:
        """Tell whose credential was presented."""
        return self._finder.find(ask.presented, keyspace, origin(caller, ask), ask.wanted)

    async def find_with_facts(
        self, caller: Caller, ask: Ask, keyspace: Keyspace, asked: Sequence[Asked]
    ) -> tuple[Found, list[Question]]:
        """Tell whose credential was presented, and complete the questions by what is stored about their resources.

        Both are of one revision. Nothing is read about a resource if no rule of the subject asks for it.
        """
        found = await self.find(caller, ask, keyspace)
        wanted = _wanted(found, asked)
        facts: dict[About, StoredFacts] = {}
        if wanted:
            facts = await self._finder.facts(found, wanted)
            if any(it.revision != found.revision for it in facts.values()):
                # A change came between the two reads: a right that was taken away before a fact was stored would
                # meet that fact. So both once more, as of one moment; whoever it is by then, all facts are there.
                every = tuple(dict.fromkeys(_about(it) for it in asked if _can_have_facts(it)))
                found = await self._finder.find(ask.presented, found.keyspace, origin(caller, ask), ask.wanted, every)
                facts = dict(zip(every, found.facts, strict=False))  # none where there is nobody
        subject = found.subject
        if subject is None:
            return found, [it.question for it in asked]
        return found, [_complete(it, facts.get(_about(it)) if facts else None, subject) for it in asked]


def _wanted(found: Found, asked: Sequence[Asked]) -> tuple[About, ...]:
    """Return what must be read for *asked*, each once."""
    subject, keyspace = found.subject, found.keyspace
    if found.denial is not None or subject is None or keyspace.operator:
        return ()
    wanted: dict[About, None] = {}
    for it in asked:
        question = it.question
        if (
            needs_facts(subject, question.action, keyspace)
            and _can_have_facts(it)
            and question.organization in (None, subject.organization.id)
        ):
            wanted[_about(it)] = None
    return tuple(wanted)


def _can_have_facts(asked: Asked) -> bool:
    """Whether anything can be stored about it: a resource, or a collection below a parent that is known."""
    return len(asked.question.path) > 1 or bool(asked.sent.parent)


def _about(asked: Asked) -> About:
    return "/".join(asked.question.path), "/".join(asked.sent.parent)


def _complete(asked: Asked, stored: StoredFacts | None, subject: Subject) -> Question:
    question, sent = asked.question, asked.sent
    if stored is None and sent is NOTHING_SENT:
        return question
    it = stored or _NOTHING_STORED
    principal = subject.owner.id if subject.owner else ""
    facts = combine(
        question.path, sent, it.attributes, it.parent, it.parent_attributes, it.relations, principal, subject.groups
    )
    return question._replace(facts=facts)


def origin(caller: Caller, ask: Ask) -> Origin:
    """Return who pays for proofs that fail."""
    return (caller.subject.key.id if caller.subject.key else "", ask.client_ip)


def keyspace_name(ask: Ask) -> str:
    """Return the name of the keyspace that is asked about. Raises InvalidField if it is none."""
    return check_id("keyspace", ask.keyspace, "keyspace")


def api_version(ask: Ask, subject: Subject | None, keyspace: Keyspace) -> str:
    """Return the API version in effect: the one that the request names, else the one that the key was made with."""
    if subject is None or subject.key is None:
        return ""
    headers = ask.presented.headers if isinstance(ask.presented, HttpParts) else ()
    return keyspace.api_versions.effective(headers, subject.key.api_version)
