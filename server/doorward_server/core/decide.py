"""The decision: may the holder of this key do this, here, now? (design.md section 4, steps 5 to 9.)

One pure function over frozen values. It knows nothing of credentials: whoever calls it has proved possession. It is
written for the hot path; tests/core/oracle.py says the same in the dullest way there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from .directory import Attribute
from .facts import NO_CONTEXT, NO_FACTS, Context, Facts
from .model import Instant, State
from .policy import (
    Condition,
    Effect,
    Keyspace,
    Outcome,
    Path,
    Rule,
    Unknown,
    any_matches,
    needs_stored,
)  # fmt: skip
from .reasons import Reason
from .subject import Address, Held, Subject, in_network


class Question(NamedTuple):
    """What is asked, parsed. `organization` owns the resource; None means the subject's own."""

    action: str
    path: Path
    organization: str | None
    environment: str
    client_ip: Address | None = None
    facts: Facts = NO_FACTS
    """What is known about the resource."""
    context: Context = NO_CONTEXT

    def about(self, action: str) -> Question:
        """Return the same question about another action."""
        return self._replace(action=action)


class Match(NamedTuple):
    """The rule that decided, and the binding that gave its role."""

    rule: Rule
    binding: str


class Decision(NamedTuple):
    """ALLOW or DENY with a reason: a value, never an error."""

    reason: Reason
    match: Match | None = None
    missing: tuple[str, ...] = ()
    """Permissions that would have been needed."""
    missing_context: tuple[str, ...] = ()
    """What conditions read and nobody told, sorted, e.g. "resource.published"."""
    repeatable: bool = True
    """Whether the same question has this answer until the record changes, or time passes one of its instants: False
    once a network, a relation or a condition took part."""

    @property
    def allowed(self) -> bool:
        """Whether it is an ALLOW."""
        return self.reason is Reason.ALLOWED


ALLOWED = Decision(Reason.ALLOWED)
_ALLOWED_HERE = Decision(Reason.ALLOWED, repeatable=False)
_NOT_ALLOWED_HERE = Decision(Reason.NETWORK_NOT_ALLOWED, repeatable=False)
DENIED: dict[Reason, Decision] = {reason: Decision(reason) for reason in Reason if reason is not Reason.ALLOWED}

_STATES = {
    State.REVOKED: DENIED[Reason.KEY_REVOKED],
    State.EXPIRED: DENIED[Reason.KEY_EXPIRED],
    State.DISABLED: DENIED[Reason.KEY_DISABLED],
    State.NOT_YET_VALID: DENIED[Reason.KEY_NOT_YET_VALID],
}


def decide(subject: Subject, question: Question, keyspace: Keyspace, now: Instant) -> Decision:
    """Answer *question* for *subject* by the rules of *keyspace* as of *now*. Deny beats allow; the default is deny."""
    denial = standing(subject, now) or placed(subject, question, keyspace)
    if denial is not None:
        return denial
    if question.action in keyspace.authenticated:
        return _ALLOWED_HERE if subject.networks else ALLOWED
    repeatable = not subject.networks
    decision = None
    if subject.ceiling is not None:
        decision = _judge(subject, subject.ceiling, question, now, Reason.SCOPE_INSUFFICIENT, repeatable)
        if decision.reason is not Reason.ALLOWED:
            return decision
        repeatable = decision.repeatable
    if subject.roles is not None:
        return _judge(subject, subject.roles, question, now, Reason.OWNER_PERMISSION_INSUFFICIENT, repeatable)
    # A subject that is limited by nothing is one that nobody granted anything.
    return decision or DENIED[Reason.SCOPE_INSUFFICIENT]


def needs_facts(subject: Subject, action: str, keyspace: Keyspace) -> bool:
    """Tell whether what is stored about a resource can change what *subject* may do to it.

    A collection has nothing stored about it.
    """
    if action in keyspace.authenticated:
        return False
    for held in (subject.ceiling or (), subject.roles or ()):
        for holding in held:
            if action in holding.role.stored:
                return True
            if holding.condition and action in holding.role.rules and needs_stored(holding.condition):
                return True
    return False


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


def placed(subject: Subject, question: Question, keyspace: Keyspace) -> Decision | None:
    """Steps 6 and 7: return the denial by organization, before any role, then by environment and network."""
    own = subject.organization.id
    if question.organization not in (None, own) and (not keyspace.operator or keyspace.operator != own):
        return DENIED[Reason.ORGANIZATION_MISMATCH]
    if subject.key is None:
        return None
    if subject.key.environment != question.environment:
        return DENIED[Reason.ENVIRONMENT_MISMATCH]
    if not in_network(subject, question.client_ip):
        return _NOT_ALLOWED_HERE
    return None


_NEARER = (Reason.RESOURCE_NOT_GRANTED, Reason.RELATION_MISSING, Reason.CONDITION_FALSE, Reason.CONTEXT_MISSING)
"""Why no rule allows, by how near the nearest came."""


def _judge(
    subject: Subject, held: tuple[Held, ...], question: Question, now: Instant, lacking: Reason, repeatable: bool
) -> Decision:
    """Steps 8 and 9: one DENY match denies, at least one ALLOW must match; *lacking* if the action is not in there."""
    action, path = question.action, question.path
    allow: Match | None = None
    nearest = -1
    scales: Scales | None = None
    for holding in held:
        rules = holding.role.rules.get(action)
        if rules is None or not holding.active(now):
            continue
        granted = any_matches(holding.resources, path)
        for rule in rules:
            allows = rule.effect is Effect.ALLOW
            if not granted or not any_matches(rule.resources, path):
                if allows and nearest < 0:
                    nearest = 0
                continue
            if rule.relation:
                repeatable = False
                if rule.relation not in question.facts.relations:
                    if allows and nearest < 1:
                        nearest = 1
                    continue
            if rule.condition is not None or holding.condition is not None:
                repeatable = False
                scales = scales or Scales(subject, question, now)
                outcome = scales.weigh(holding, rule)
                if outcome is not True:
                    if allows:
                        nearest = max(nearest, 3 if scales.lacks(outcome) else 2)
                    elif outcome is not False:
                        return Decision(Reason.DENIED_BY_RULE, Match(rule, holding.binding), (), outcome.missing, False)
                    continue
            if not allows:
                return Decision(Reason.DENIED_BY_RULE, Match(rule, holding.binding), (), (), repeatable)
            if allow is None:
                allow = Match(rule, holding.binding)
    if allow is not None:
        return Decision(Reason.ALLOWED, allow, (), (), repeatable)
    if nearest < 0:
        return Decision(lacking, None, (action,), (), repeatable)
    return Decision(_NEARER[nearest], None, (), scales.missing() if nearest == 3 and scales else (), repeatable)


class Scales:
    """Weighs the conditions of one decision, each once."""

    __slots__ = ("_lacking", "_now", "_question", "_seen", "_subject")

    def __init__(self, subject: Subject, question: Question, now: Instant) -> None:
        self._subject = subject
        self._question = question
        self._now = now
        self._seen: dict[Condition, Outcome] = {}
        self._lacking: set[str] = set()

    def weigh(self, holding: Held, rule: Rule) -> Outcome:
        """Return whether the conditions of a binding and of one of its role's rules hold, both of them."""
        bound, ruled = self.outcome(holding.condition), self.outcome(rule.condition)
        if bound is False or ruled is False:
            return False
        if bound is True and ruled is True:
            return True
        return Unknown(tuple(sorted({*_missing(bound), *_missing(ruled)})))

    def outcome(self, condition: Condition | None) -> Outcome:
        """Return what one condition comes to; none at all holds."""
        if condition is None:
            return True
        outcome = self._seen.get(condition)
        if outcome is None:
            told: object = condition.evaluate(self.look)
            outcome = told if isinstance(told, bool | Unknown) else Unknown()  # "yes" is not true
            self._seen[condition] = outcome
        return outcome

    def lacks(self, outcome: Outcome) -> bool:
        """Note what *outcome* lacked, and tell whether that was anything."""
        missing = _missing(outcome)
        self._lacking.update(missing)
        return missing != ()

    def missing(self) -> tuple[str, ...]:
        """Return all that was noted."""
        return tuple(sorted(self._lacking))

    def look(self, name: str) -> Attribute | None:
        """Find what a condition reads; see `declarations.BUILT_IN`. An empty text is one that nobody told."""
        whose, _, field = name.partition(".")
        subject, question = self._subject, self._question
        match whose:
            case "resource":
                if field in ("id", "type"):
                    return _part(question.path, field)
                return question.facts.attributes.get(field)
            case "parent":
                if field in ("id", "type"):
                    return _part(question.facts.parent, field)
                return question.facts.parent_attributes.get(field)
            case "context":
                return self._circumstance(field)
            case "organization":
                return _of(subject.organization, field, ("id", "display_name"), subject.organization.attributes)
            case "principal" if subject.owner is not None:
                if field == "groups":
                    return tuple(sorted(subject.groups))
                return _of(subject.owner, field, ("id", "kind", "display_name", "email"), subject.owner.attributes)
            case "key" if subject.key is not None:
                return _of(subject.key, field, ("id", "name", "environment", "type"), subject.key.metadata)
        return None

    def _circumstance(self, field: str) -> Attribute | None:
        context = self._question.context
        if field == "time":
            return self._now if context.time is None else context.time
        if field == "client_ip":
            return None if self._question.client_ip is None else str(self._question.client_ip)
        return context.attributes.get(field)


def _missing(outcome: Outcome) -> tuple[str, ...]:
    return outcome.missing if isinstance(outcome, Unknown) else ()


def _part(path: Path, field: str) -> str | None:
    return (path[0] if field == "type" else "/".join(path[1:])) or None if path else None


def _of(whom: object, field: str, built_in: Collection[str], attributes: Mapping[str, Attribute]) -> Attribute | None:
    return str(getattr(whom, field)) or None if field in built_in else attributes.get(field)
