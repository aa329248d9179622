"""Which resources somebody may act on, without looking at any: as selectors, so that the answer is never cut short.

A resource is accessible if and only if one of the allowed selectors fits it, and none of the denied ones. What can be
known at once is: states, windows, and conditions that do not read the resource. What cannot stays in the selector:
the relations that it takes, and the conditions that do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from .decide import DENIED, Decision, Question, Scales, decide, placed, standing
from .directory import Attribute
from .errors import QuotaExceeded
from .model import Instant
from .policy import EVERYTHING, Condition, Effect, Keyspace, Path, Pattern, Unknown, reads_resource
from .reasons import Reason
from .subject import Held, Subject

MAX_EFFORT = 100_000
"""Of one list, about a microsecond or two each: two lists of patterns with stars in odd places multiply, and what is
within what takes as many looks again."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Resources that *pattern* matches, to which there are all *relations*, and for which all *conditions* hold.

    A condition that cannot be evaluated does not hold where the selector is an allowed one, and does where it is a
    denied one.
    """

    pattern: Pattern
    relations: tuple[str, ...] = ()
    """In the form of rules: "assigned", "parent.assigned"; sorted."""
    conditions: tuple[Condition, ...] = ()
    """Each reads the resource or its parent; sorted by text."""

    def within(self, other: Selector) -> bool:
        """Tell whether *other* fits wherever this fits, by their looks."""
        return (
            other.pattern.covers(self.pattern)
            and set(other.relations) <= set(self.relations)
            and set(other.conditions) <= set(self.conditions)
        )

    def both(self, other: Selector) -> Selector | None:
        """Return the selector that fits where this and *other* fit; None if there is no such resource."""
        pattern = self.pattern.both(other.pattern)
        if pattern is None:
            return None
        conditions = {it.text: it for it in (*self.conditions, *other.conditions)}
        return _selector(pattern, {*self.relations, *other.relations}, conditions)


@dataclass(frozen=True, slots=True)
class Access:
    """What may be acted on: nothing, with the denial, if a step before roles denies or no rule allows the action."""

    denial: Decision | None
    allowed: tuple[Selector, ...] = ()
    denied: tuple[Selector, ...] = ()
    missing_context: tuple[str, ...] = ()
    """What conditions read that nobody told, sorted: with it, there might be more allowed, or less denied."""


def accessible(subject: Subject, question: Question, keyspace: Keyspace, now: Instant) -> Access:
    """Return the selectors of the resources for which `decide` allows *question*, whose own resource is not looked at.

    *now* is when: another answer holds once a binding begins or ends. Raises QuotaExceeded rather than answer in part,
    if bindings name so many patterns that it would take more than `MAX_EFFORT`.
    """
    denial = standing(subject, now) or placed(subject, question, keyspace)
    if denial is not None:
        return Access(denial)
    if question.action in keyspace.authenticated:
        return Access(None, (Selector(EVERYTHING),))
    layers = (
        (subject.ceiling, Reason.SCOPE_INSUFFICIENT),
        (subject.roles, Reason.OWNER_PERMISSION_INSUFFICIENT),
    )
    scales, effort = Scales(subject, question, now), _Effort()
    allowed: list[Selector] | None = None
    denied: list[Selector] = []
    for held, lacking in layers:
        if held is not None:
            mine = _fewest(_select(held, question.action, Effect.ALLOW, scales, now, effort), effort)
            allowed = mine if allowed is None else _fewest(_pairs(allowed, mine, effort), effort)
            denied += _select(held, question.action, Effect.DENY, scales, now, effort)
            if not allowed:
                return Access(_why_none(held, question.action, lacking, scales, now))
    if allowed is None:
        return Access(DENIED[Reason.SCOPE_INSUFFICIENT])
    return Access(None, tuple(allowed), tuple(_fewest(denied, effort)), scales.missing())


def _why_none(held: tuple[Held, ...], action: str, lacking: Reason, scales: Scales, now: Instant) -> Decision:
    rules = [rule for it in held if it.active(now) for rule in it.role.rules.get(action, ())]
    if not any(rule.effect is Effect.ALLOW for rule in rules):
        return Decision(lacking, missing=(action,))
    if missing := scales.missing():
        return Decision(Reason.CONTEXT_MISSING, missing_context=missing, repeatable=False)
    return Decision(Reason.RESOURCE_NOT_GRANTED, repeatable=False)


def allowed_actions(
    subject: Subject, question: Question, keyspace: Keyspace, now: Instant, actions: Iterable[str]
) -> tuple[str, ...]:
    """Return those of *actions* that `decide` allows on the resource of *question*, whose own action is passed over."""
    return tuple(action for action in actions if decide(subject, question.about(action), keyspace, now).allowed)


def known(condition: Condition, subject: Subject, question: Question, now: Instant) -> dict[str, Attribute]:
    """Return what *condition* reads besides the resource, by name, as far as it was told: to evaluate it elsewhere."""
    scales = Scales(subject, question, now)
    names = sorted(name for name in condition.reads if not name.startswith(("resource.", "parent.")))
    return {name: value for name in names if (value := scales.look(name)) is not None}


class _Effort:
    """Keeps what one answer costs within bounds: it is made on the event loop."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_EFFORT

    def spend(self, count: int) -> None:
        """Take *count* off what is left. Raises QuotaExceeded."""
        self._left -= count
        if self._left < 0:
            raise QuotaExceeded("comparisons of patterns for one list", MAX_EFFORT)


_MADE = 10
"""What it takes to make a selector, rather than to find that two have nothing in common."""


def _select(
    held: tuple[Held, ...], action: str, effect: Effect, scales: Scales, now: Instant, effort: _Effort
) -> Iterator[Selector]:
    """Yield the selectors of all rules of *effect* that may match; a condition that fails at once yields none."""
    for holding in held:
        rules = [rule for rule in holding.role.rules.get(action, ()) if rule.effect is effect]
        if not rules or not holding.active(now):
            continue
        for rule in rules:
            left = _left([holding.condition, rule.condition], effect, scales)
            if left is None:
                continue
            effort.spend(_MADE * len(holding.resources) * len(rule.resources))
            for mine in holding.resources:
                for theirs in rule.resources:
                    pattern = mine.both(theirs)
                    if pattern is not None:
                        yield _selector(pattern, {rule.relation} - {""}, left)


def _left(conditions: list[Condition | None], effect: Effect, scales: Scales) -> dict[str, Condition] | None:
    """Return the conditions, by text, that only a resource can tell; None if another does not hold already."""
    left = {}
    for condition in filter(None, conditions):
        if reads_resource(condition):
            left[condition.text] = condition
            continue
        outcome = scales.outcome(condition)
        scales.lacks(outcome)
        if outcome is False or (isinstance(outcome, Unknown) and effect is Effect.ALLOW):
            return None
    return left


def _selector(pattern: Pattern, relations: set[str], conditions: dict[str, Condition]) -> Selector:
    return Selector(pattern, tuple(sorted(relations)), tuple(conditions[text] for text in sorted(conditions)))


class _Index:
    """Selectors, to find those whose patterns may cover another one without looking at each."""

    def __init__(self, selectors: Iterable[Selector] = ()) -> None:
        self._plain: dict[tuple[Path, bool], list[Selector]] = {}
        self.starred: list[Selector] = []
        """Those with stars within: they may cover anything."""
        for selector in selectors:
            self.add(selector)

    def add(self, selector: Selector) -> None:
        """Let *selector* be found."""
        pattern = selector.pattern
        where = self._plain.setdefault((pattern.head, pattern.endless), []) if pattern.plain else self.starred
        where.append(selector)

    def around(self, pattern: Pattern) -> list[Selector]:
        """Return all that cover *pattern*, and some that do not."""
        head = pattern.head
        found = [*self.starred, *self._plain.get((head, False), ())]
        for size in range(len(head) + 1):
            found += self._plain.get((head[:size], True), ())
        return found


def _pairs(ones: list[Selector], others: list[Selector], effort: _Effort) -> Iterator[Selector]:
    for one, other in _meeting(ones, others):
        effort.spend(1)
        both = one.both(other)
        if both is not None:
            effort.spend(_MADE)
            yield both


def _meeting(ones: list[Selector], others: list[Selector]) -> Iterator[tuple[Selector, Selector]]:
    """Yield all pairs that may have something in common. Of two without stars within, one covers the other then."""
    mine, theirs = _Index(ones), _Index(others)
    yield from product(mine.starred, theirs.starred)
    for one in ones:
        if one.pattern.plain:
            yield from ((one, other) for other in theirs.around(one.pattern))
    for other in others:
        if other.pattern.plain:
            yield from ((one, other) for one in mine.around(other.pattern))


def _fewest(selectors: Iterable[Selector], effort: _Effort) -> list[Selector]:
    """Return *selectors*, sorted, without those that lie within another."""
    kept, index = [], _Index()
    for selector in sorted(set(selectors), key=_breadth):
        near = index.around(selector.pattern)
        effort.spend(len(near))
        if not any(selector.within(other) for other in near):
            kept.append(selector)
            index.add(selector)
    return sorted(kept, key=lambda it: (it.pattern.text, it.relations, [c.text for c in it.conditions]))


def _breadth(selector: Selector) -> tuple[int, int, int, bool]:
    """Sort by what can only lie within what comes before it or beside it."""
    needs, head = len(selector.relations) + len(selector.conditions), selector.pattern.head
    return needs, len(head) - head.count("*"), len(head), not selector.pattern.endless
