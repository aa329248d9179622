"""Answering what comes before and after the one question: why, what, and on what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from doorward_server.core.decide import ALLOWED, DENIED, Decision, decide
from doorward_server.core.errors import InvalidField, UnknownReference
from doorward_server.core.explain import Step, explain
from doorward_server.core.policy import Keyspace, Pattern
from doorward_server.core.reasons import Reason
from doorward_server.core.selectors import Access, Selector, accessible
from doorward_server.core.subject import Subject
from doorward_server.service.asking import EXPLAIN, Asking, api_version
from doorward_server.service.authorizing import Answer
from doorward_server.service.finding import Found
from doorward_server.service.guard import Caller, Clock
from doorward_server.service.questions import Ask, Asked, Item, read_question

LIST_ACTIONS = "decisions:list-actions"
LIST_RESOURCES = "decisions:list-resources"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and how it came about after possession of the key was proved."""

    answer: Answer
    proven: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Actions:
    """What may be done. *answer* is the denial if that is nothing."""

    answer: Answer
    actions: tuple[str, ...]
    missing_context: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resources:
    """On what something may be done. *answer* is the denial if that is nothing."""

    answer: Answer
    access: Access


class Explainer:
    """Explains decisions and lists what would be allowed; none of it counts as a use of the key."""

    def __init__(self, asking: Asking, clock: Clock) -> None:
        self._asking = asking
        self._clock = clock

    async def explain(self, caller: Caller, ask: Ask, item: Item) -> Explanation:
        """Decide one question, and tell how. Raises what `Authorizer.authorize` does."""
        self._asking.admit(caller, ask, item.organization, EXPLAIN)
        keyspace = await self._asking.keyspace(ask)
        asked = read_question(caller, ask, item, keyspace)
        found, questions = await self._asking.find_with_facts(caller, ask, keyspace, (asked,))
        if found.denial is not None or found.subject is None:
            denial = found.denial or DENIED[Reason.KEY_UNKNOWN]
            return Explanation(self._answer(caller, ask, item, found, denial, EXPLAIN), False, ())
        decision, trace = explain(found.subject, questions[0], found.keyspace, self._clock())
        answer = self._answer(caller, ask, item, found, decision, EXPLAIN)
        steps = trace.steps
        if answer.subject is None:  # a stranger's: what it holds is not this caller's to know
            steps = tuple(replace(step, considered=()) for step in steps)
        return Explanation(answer, True, steps)

    async def list_allowed_actions(self, caller: Caller, ask: Ask, item: Item, all_types: bool) -> Actions:
        """Tell which actions are allowed on the item's resource; on every collection, if it names none."""
        self._asking.admit(caller, ask, item.organization, LIST_ACTIONS)
        keyspace = await self._asking.keyspace(ask)
        for field, given in (("all_types", all_types), ("relations", item.relations)):
            if given and item.resource is None:
                raise InvalidField(field, "goes with a resource")
        asked = _asked(caller, ask, item, keyspace, _actions_of(item, keyspace, all_types))
        found, questions = await self._asking.find_with_facts(caller, ask, keyspace, asked)
        if found.denial is not None or found.subject is None:
            denial = found.denial or DENIED[Reason.KEY_UNKNOWN]
            return Actions(self._answer(caller, ask, item, found, denial, LIST_ACTIONS), (), ())
        now = self._clock()
        decided = {it.action: decide(found.subject, it, found.keyspace, now) for it in questions}
        allowed = tuple(action for action, decision in decided.items() if decision.allowed)
        missing = {name for decision in decided.values() for name in decision.missing_context}
        first = ALLOWED if allowed else next(iter(decided.values()), DENIED[Reason.SCOPE_INSUFFICIENT])
        answer = self._answer(caller, ask, item, found, first, LIST_ACTIONS)
        return Actions(answer, allowed, tuple(sorted(missing)))

    async def list_accessible_resources(self, caller: Caller, ask: Ask, item: Item) -> Resources:
        """Tell on which resources of a type, `item.resource[0]`, the item's action is allowed."""
        self._asking.admit(caller, ask, item.organization, LIST_RESOURCES)
        keyspace = await self._asking.keyspace(ask)
        asked: Asked = read_question(caller, ask, item, keyspace)
        found = await self._asking.find(caller, ask, keyspace)
        if found.denial is not None or found.subject is None:
            access = Access(found.denial or DENIED[Reason.KEY_UNKNOWN], (), ())
        else:
            access = accessible(found.subject, asked.question, found.keyspace, self._clock())
            access = _members(access, asked.question.path[0])
            if self._asking.visible(caller, found.subject, ask, item.organization, LIST_RESOURCES) is None:
                # Patterns and conditions name what is in the stranger's organization.
                access = Access(access.denial or DENIED[Reason.ORGANIZATION_MISMATCH])
        decision = access.denial or ALLOWED
        return Resources(self._answer(caller, ask, item, found, decision, LIST_RESOURCES), access)

    def _answer(
        self, caller: Caller, ask: Ask, item: Item, found: Found, decision: Decision, permission: str
    ) -> Answer:
        subject: Subject | None = self._asking.visible(caller, found.subject, ask, item.organization, permission)
        version = api_version(ask, subject, found.keyspace)
        return Answer(decision, subject, found.keyspace, found.revision, version)


def _asked(caller: Caller, ask: Ask, item: Item, keyspace: Keyspace, actions: list[str]) -> list[Asked]:
    """Return a question for each of *actions*. What came with the item is checked once: it is the same for all."""
    if not actions:
        return []
    first = read_question(caller, ask, item._replace(action=actions[0]), keyspace)
    questions = (first.question.about(action) for action in actions)
    if item.resource is None:
        questions = (it._replace(path=(it.action.partition(":")[0],)) for it in questions)
    return [Asked(question, first.sent) for question in questions]


def _members(access: Access, type: str) -> Access:
    """Return *access* as far as it is about resources of *type*, leaving out the collection itself."""
    members = Selector(Pattern.parse(f"{type}/*"))
    allowed = tuple(filter(None, (it.both(members) for it in access.allowed)))
    denied = tuple(filter(None, (it.both(members) for it in access.denied)))
    if access.denial is not None or not allowed:
        return Access(access.denial or DENIED[Reason.RESOURCE_NOT_GRANTED])
    return replace(access, allowed=allowed, denied=denied)


def _actions_of(item: Item, keyspace: Keyspace, all_types: bool) -> list[str]:
    """Return the actions to ask about, sorted."""
    if item.resource is None or all_types:
        return sorted(keyspace.permissions)
    type = item.resource[0]
    if type not in keyspace.types:
        raise UnknownReference("resource.type", "type", type[:128], ", ".join(sorted(keyspace.types)))
    return sorted(f"{type}:{verb}" for verb in keyspace.types[type])
