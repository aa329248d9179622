"""Holds a history to the promise: an Authorize that starts after a mutation returned sees it, on any replica.

`check` asks of every question alone: is there a moment at which its answer was right, no longer ago than it may be? The
store's states are followed through all orders in which the changes can have happened: each takes effect once, between
its start and its return, or, if nobody knows its outcome, at any time later or never. A question may be answered

- from any state that the store can have been in while it was asked, or
- from an older one, if that one includes every waiting change that had returned when the question started, and ceased
  no longer than `staleness` before it started: L, without any allowance. A question starts when its caller takes the
  time, which is before a replica can look at its lease, and a lease from before a change ends within L of its commit.

One that asks for full consistency, or for a revision, is answered from a state that the store was in meanwhile.

Nothing is said of two questions to different replicas while a change is on its way: one may see it and a later one
not. That is so of every cache, and asked not of answers with full consistency: for those, `linearize` asks that all of
them and all changes, over all replicas, have one order in which each happened between its start and its end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from tests.chaos.history import DEFAULT, FULL, Change, Credential, Facts, History, Question

SECOND = 1_000_000_000
L = SECOND
"""max_staleness, in nanoseconds."""

STALE = "stale"
"""It can only be explained without a waiting change that had returned."""
LATE = "late"
"""It can only be explained by a state that ceased longer than L before."""
IMPOSSIBLE = "impossible"
"""It was never right, in no order of the changes."""
DISORDER = "disorder"
"""Questions with full consistency contradict each other."""

State = tuple[Facts, frozenset[int]]
"""What is true, and which of the pending changes have taken effect."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise."""

    kind: str
    question: Question
    behind: int
    """Nanoseconds from the moment its answer ceased to be right to its start; 0 if it never was."""
    missed: tuple[Change, ...] = ()
    """Waiting changes that had returned and that it did not see."""

    def __str__(self) -> str:
        missed = ", ".join(f"{it.kind} by {it.process}, returned {self._ago(it)} ms before" for it in self.missed)
        return (
            f"{self.kind}: {self.question.answer} for {self.question.credential} by {self.question.place} "
            f"({self.question.consistency}), {self.behind / 1e6:.1f} ms behind{': missed ' if missed else ''}{missed}"
        )

    def _ago(self, change: Change) -> str:
        return f"{(self.question.start - (change.end or 0)) / 1e6:.1f}"


@dataclass
class Verdict:
    """What a history came to."""

    violations: list[Violation] = field(default_factory=list)
    checked: int = 0
    window: int = 0
    """The largest time, in ns, by which an answer that kept the promise was behind a change that was not waited for."""

    @property
    def false_allows(self) -> int:
        """How many of the violations were ALLOWs."""
        return sum(violation.question.allowed for violation in self.violations)

    def by_kind(self) -> dict[str, int]:
        """How many violations there are of each kind."""
        return dict(Counter(violation.kind for violation in self.violations))


def check(history: History, staleness: int = L) -> Verdict:
    """Hold *history* to the promise."""
    verdict = Verdict()
    for credentials, changes, questions in history.by_key():
        judge = {credential.id: credential for credential in credentials}
        timeline = Timeline(changes)
        for question in questions:
            verdict.checked += 1
            bound = staleness if question.consistency == DEFAULT else 0
            behind, violation = timeline.explain(question, judge[question.credential], bound)
            verdict.window = max(verdict.window, behind)
            if violation:
                verdict.violations.append(violation)
        fully = [question for question in questions if question.consistency == FULL]
        if (wrong := linearize(changes, fully, judge)) is not None:
            verdict.violations.append(Violation(DISORDER, wrong, 0))
    return verdict


def closure(states: Iterable[State], pending: Collection[int], changes: Sequence[Change]) -> set[State]:
    """Return the states that any of the pending changes, in any order, can lead to.

    Left out are those that another one makes needless: with the same facts and the same changes of known outcome, but
    with fewer of the others used up. Whatever can come of it can come of that one too.
    """
    unknown = frozenset(n for n in pending if changes[n].end is None)
    before = twins(changes, unknown)
    found: dict[State, list[State]] = {}
    todo = list(states)
    while todo:
        facts, done = todo.pop()
        alike = found.setdefault((facts, done - unknown), [])
        if any(other <= done for _, other in alike):
            continue
        alike[:] = [(facts, done), *(it for it in alike if not done <= it[1])]
        todo += [
            (changes[n].apply(facts), done | {n}) for n in pending if n not in done and before.get(n, n) in (n, *done)
        ]
    return {state for alike in found.values() for state in alike}


def twins(changes: Sequence[Change], unknown: Iterable[int]) -> dict[int, int]:
    """Return, for changes of unknown outcome, the one that started before and does the same.

    Of several it is enough to try them in this order: the earlier one can be made whenever the later one can.
    """
    last: dict[tuple[tuple[str, bool], ...], int] = {}
    before = {}
    for number in sorted(unknown, key=lambda n: changes[n].start):
        what = tuple(sorted(changes[number].sets.items()))
        if what in last:
            before[number] = last[what]
        last[what] = number
    return before


@dataclass(slots=True)
class _Segment:
    """A time in which no change of the key started or returned."""

    begin: int
    end: int
    states: frozenset[State]
    pending: frozenset[int]


class Timeline:
    """The states that the store can have been in, as far as one key sees them. It begins with no fact true."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._segments: list[_Segment] = []
        self._first: dict[int, int] = {}
        self._build()
        self._begins = [segment.begin for segment in self._segments]
        waited = sorted((it.end, self._first[n]) for n, it in enumerate(changes) if it.waited and it.end is not None)
        self._returns = [end for end, _ in waited]
        self._floors = list(accumulate((first for _, first in waited), max))

    def _build(self) -> None:
        changes = self._changes
        events = [(it.start, 0, n) for n, it in enumerate(changes)]
        events += [(it.end, 1, n) for n, it in enumerate(changes) if it.end is not None]
        states: set[State] = {(frozenset(), frozenset())}
        pending: set[int] = set()
        begin = 0
        for at, returns, number in sorted(events):
            self._segments.append(_Segment(begin, at, frozenset(states), frozenset(pending)))
            begin = at
            if returns:
                pending.remove(number)
                states = {(facts, done - {number}) for facts, done in states if number in done}
            else:
                pending.add(number)
                self._first[number] = len(self._segments)
                states = closure(states, pending, changes)
        self._segments.append(_Segment(begin, 1 << 63, frozenset(states), frozenset(pending)))

    def explain(self, question: Question, credential: Credential, staleness: int) -> tuple[int, Violation | None]:
        """Return how long before its start the answer was last right, and what that violates."""
        returned = bisect_left(self._returns, question.start)
        floor = self._floors[returned - 1] if returned else 0
        last = bisect_left(self._begins, question.end) - 1
        for number in range(max(last, 0), -1, -1):
            segment = self._segments[number]
            behind = max(0, question.start - segment.end)
            if number < floor or behind > staleness:
                break
            if self._right(segment, question, credential, self._must(segment, question)):
                return behind, None
        return 0, self._violation(question, credential, max(last, 0))

    def _must(self, segment: _Segment, question: Question) -> set[int]:
        """Return the changes pending in *segment* that the answer must have seen."""
        return {n for n in segment.pending if self._returned_before(self._changes[n], question)}

    @staticmethod
    def _returned_before(change: Change, question: Question) -> bool:
        return change.waited and change.end is not None and change.end < question.start

    def _right(self, segment: _Segment, question: Question, credential: Credential, must: set[int]) -> bool:
        return any(
            credential.judge(facts) == question.answer and (not must or must <= done) for facts, done in segment.states
        )

    def _violation(self, question: Question, credential: Credential, last: int) -> Violation:
        for number in range(last, -1, -1):
            segment = self._segments[number]
            if self._right(segment, question, credential, set()):
                missed = tuple(
                    it
                    for n, it in enumerate(self._changes)
                    if self._returned_before(it, question) and (self._first[n] > number or n in segment.pending)
                )
                behind = max(0, question.start - segment.end)
                return Violation(STALE if missed else LATE, question, behind, missed)
        return Violation(IMPOSSIBLE, question, 0)


def linearize(
    changes: Sequence[Change], questions: Sequence[Question], judge: Mapping[str, Credential]
) -> Question | None:
    """Return the first question that leaves no order of changes and questions; None if there is one for all."""
    events = [(it.start, 0, n) for n, it in enumerate(changes)]
    events += [(it.start, 1, n) for n, it in enumerate(questions)]
    events += [(it.end, 2, n) for n, it in enumerate(questions)]
    events += [(it.end, 3, n) for n, it in enumerate(changes) if it.end is not None]
    orders = _Orders(changes, questions, judge)
    for _, what, number in sorted(events):
        if what == 0:
            orders.pending.add(number)
        elif what == 1:
            orders.ask(number)
        elif what == 2:
            if not orders.answered(number):
                return questions[number]
        else:
            orders.returned(number)
    return None


class _Orders:
    """All orders that are still possible, as states with the questions that each has answered.

    To answer as soon as the answer is right is never worse than later: a question changes nothing.
    """

    def __init__(
        self, changes: Sequence[Change], questions: Sequence[Question], judge: Mapping[str, Credential]
    ) -> None:
        self.pending: set[int] = set()
        self._changes, self._questions, self._judge = changes, questions, judge
        self._twins = twins(changes, [n for n, it in enumerate(changes) if it.end is None])
        self._asked: set[int] = set()
        self._seen: dict[State, set[frozenset[int]]] = {(frozenset(), frozenset()): {frozenset()}}

    def ask(self, number: int) -> None:
        """A question starts."""
        self._asked.add(number)
        self._seen = {state: {self._with_answers(state, seen) for seen in seens} for state, seens in self._seen.items()}

    def answered(self, number: int) -> bool:
        """A question ends: tell whether any order has it answered."""
        self._spread()
        self._asked.remove(number)
        kept = {state: {seen - {number} for seen in seens if number in seen} for state, seens in self._seen.items()}
        self._seen = {state: seens for state, seens in kept.items() if seens}
        return bool(self._seen)

    def returned(self, number: int) -> None:
        """A change returns: only orders remain that have it."""
        self._spread()
        self.pending.remove(number)
        self._seen = {(facts, done - {number}): seens for (facts, done), seens in self._seen.items() if number in done}

    def _spread(self) -> None:
        todo = [(state, seen) for state, seens in self._seen.items() for seen in seens]
        while todo:
            (facts, done), seen = todo.pop()
            for number in self.pending - done:
                after = self._changes[number].apply(facts), done | {number}
                if after[0] == facts and self._changes[number].end is None:
                    continue  # it may as well come later, or never
                if self._twins.get(number, number) not in (number, *done):
                    continue
                more = self._with_answers(after, seen)
                seens = self._seen.setdefault(after, set())
                if not any(more <= other for other in seens):
                    seens.add(more)
                    todo.append((after, more))

    def _with_answers(self, state: State, seen: frozenset[int]) -> frozenset[int]:
        right = (n for n in self._asked if self._is_right(self._questions[n], state[0]))
        return seen.union(right)

    def _is_right(self, question: Question, facts: Facts) -> bool:
        return self._judge[question.credential].judge(facts) == question.answer
