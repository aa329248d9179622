"""Why a decision is what it is: every step, and every rule that was considered.

The decision is `decide`'s own. The trace is told at leisure by the same parts: `standing`, `in_network`, `Scales`;
tests/core compares what it comes to with the decision, on generated worlds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from .decide import Decision, Question, Scales, decide, placed, standing
from .model import Instant
from .policy import Effect, Keyspace, Rule, Unknown, any_matches
from .reasons import Reason
from .subject import Held, Subject


class StepName(StrEnum):
    """The steps of a decision on a proven key (design.md section 4, steps 5 to 9)."""

    STATE = "state"
    """Of key, secret, owner and organization."""
    ORGANIZATION = "organization"
    """The resource's organization is the subject's."""
    ENVIRONMENT = "environment"
    """The key's; not asked of a principal."""
    NETWORK = "network"
    """One of the key's; not asked of a principal."""
    AUTHENTICATED = "authenticated"
    """The action is one that any valid key may do: nothing more is asked."""
    CEILING = "ceiling"
    """The key's own list."""
    OWNER = "owner"
    """What the owner may, as of now."""


class Outcome(StrEnum):
    """What came of one rule for the action; those for other actions are not considered."""

    MATCHED = "matched"
    BINDING_INACTIVE = "binding_inactive"
    RESOURCE_NOT_MATCHED = "resource_not_matched"
    RELATION_MISSING = "relation_missing"
    CONDITION_FALSE = "condition_false"
    CONDITION_MISSING = "condition_missing"
    """It reads what nobody told. A DENY rule denies then."""
    CONDITION_BROKEN = "condition_broken"
    """It cannot be evaluated. A DENY rule denies then."""


@dataclass(frozen=True, slots=True)
class Considered:
    """One rule of one role that is held, and what came of it."""

    role: str
    """The role that declares the rule."""
    index: int
    """The rule's position in that role, from 0."""
    binding: str
    """Id of the binding; empty for what a key's own list gives."""
    effect: Effect
    outcome: Outcome
    missing: tuple[str, ...] = ()
    """What its conditions read and nobody told, sorted."""
    held: str = ""
    """The role that was granted: `role`, or one that includes it."""
    relation: str = ""
    """That the rule takes; empty: none."""
    condition: str = ""
    """The condition, of the binding or of the rule, that did not hold; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step, and what it came to: ALLOWED if it was passed."""

    name: StepName
    reason: Reason
    considered: tuple[Considered, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """The steps in order, up to the first that denies."""

    steps: tuple[Step, ...]


def explain(subject: Subject, question: Question, keyspace: Keyspace, now: Instant) -> tuple[Decision, Trace]:
    """Return what `decide` does, and how it comes about."""
    steps = []
    for step in _steps(subject, question, keyspace, now):
        steps.append(step)
        if step.reason is not Reason.ALLOWED:
            break
    return decide(subject, question, keyspace, now), Trace(tuple(steps))


def _steps(subject: Subject, question: Question, keyspace: Keyspace, now: Instant) -> Iterator[Step]:
    yield Step(StepName.STATE, _reason(standing(subject, now)))
    place = _reason(placed(subject, question, keyspace))
    for name, denied in _PLACES if subject.key is not None else _PLACES[:1]:
        yield Step(name, denied if place is denied else Reason.ALLOWED)
    if question.action in keyspace.authenticated:
        yield Step(StepName.AUTHENTICATED, Reason.ALLOWED)
        return
    if subject.ceiling is not None or subject.roles is None:
        considered = _consider(subject, subject.ceiling or (), question, now)
        yield Step(StepName.CEILING, _conclude(considered, Reason.SCOPE_INSUFFICIENT), considered)
    if subject.roles is not None:
        considered = _consider(subject, subject.roles, question, now)
        yield Step(StepName.OWNER, _conclude(considered, Reason.OWNER_PERMISSION_INSUFFICIENT), considered)


_PLACES = (
    (StepName.ORGANIZATION, Reason.ORGANIZATION_MISMATCH),
    (StepName.ENVIRONMENT, Reason.ENVIRONMENT_MISMATCH),
    (StepName.NETWORK, Reason.NETWORK_NOT_ALLOWED),
)


def _reason(denial: Decision | None) -> Reason:
    return denial.reason if denial else Reason.ALLOWED


def _consider(subject: Subject, held: tuple[Held, ...], question: Question, now: Instant) -> tuple[Considered, ...]:
    scales = Scales(subject, question, now)
    considered = []
    for holding in held:
        for rule in holding.role.rules.get(question.action, ()):
            considered.append(_considered(holding, rule, question, now, scales))
    return tuple(considered)


def _considered(holding: Held, rule: Rule, question: Question, now: Instant, scales: Scales) -> Considered:
    outcome, missing = _outcome(holding, rule, question, now, scales)
    failed = [
        it.text
        for it in (holding.condition, rule.condition)
        if it is not None and outcome in _CONDITIONAL and scales.outcome(it) is not True
    ]
    return Considered(
        role=rule.role,
        index=rule.index,
        binding=holding.binding,
        effect=rule.effect,
        outcome=outcome,
        missing=missing,
        held=holding.role.name,
        relation=rule.relation,
        condition=failed[0] if failed else "",
    )


def _outcome(
    holding: Held, rule: Rule, question: Question, now: Instant, scales: Scales
) -> tuple[Outcome, tuple[str, ...]]:
    if not holding.active(now):
        return Outcome.BINDING_INACTIVE, ()
    if not (any_matches(holding.resources, question.path) and any_matches(rule.resources, question.path)):
        return Outcome.RESOURCE_NOT_MATCHED, ()
    if rule.relation and rule.relation not in question.facts.relations:
        return Outcome.RELATION_MISSING, ()
    weighed = scales.weigh(holding, rule)
    if isinstance(weighed, Unknown):
        return (Outcome.CONDITION_MISSING if weighed.missing else Outcome.CONDITION_BROKEN), weighed.missing
    return (Outcome.MATCHED if weighed else Outcome.CONDITION_FALSE), ()


_CONDITIONAL = {Outcome.CONDITION_FALSE, Outcome.CONDITION_MISSING, Outcome.CONDITION_BROKEN}
_DENYING = {Outcome.MATCHED, Outcome.CONDITION_MISSING, Outcome.CONDITION_BROKEN}
_NEAREST = (
    (Outcome.CONDITION_MISSING, Reason.CONTEXT_MISSING),
    (Outcome.CONDITION_BROKEN, Reason.CONDITION_FALSE),
    (Outcome.CONDITION_FALSE, Reason.CONDITION_FALSE),
    (Outcome.RELATION_MISSING, Reason.RELATION_MISSING),
    (Outcome.RESOURCE_NOT_MATCHED, Reason.RESOURCE_NOT_GRANTED),
)


def _conclude(considered: tuple[Considered, ...], lacking: Reason) -> Reason:
    """Return what a step comes to: deny beats allow; else how near the nearest ALLOW came."""
    if any(it.effect is Effect.DENY and it.outcome in _DENYING for it in considered):
        return Reason.DENIED_BY_RULE
    outcomes = {it.outcome for it in considered if it.effect is Effect.ALLOW}
    if Outcome.MATCHED in outcomes:
        return Reason.ALLOWED
    return next((reason for outcome, reason in _NEAREST if outcome in outcomes), lacking)
