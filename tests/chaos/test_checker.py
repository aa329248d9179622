"""The checker is right: on histories written by hand, on generated ones, and against the dullest checker there is."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from tests.chaos.checker import DISORDER, IMPOSSIBLE, LATE, STALE, L, check, linearize
from tests.chaos.history import ALLOWED, DEFAULT, FULL, Change, Credential, History, Question
from tests.chaos.worlds import INJECTIONS, MS, World

SEEDS = range(60)
CREDENTIAL = Credential(
    "k.1",
    "k",
    (
        ("KEY_REVOKED", ("revoked",)),
        ("KEY_DISABLED", ("disabled",)),
        ("OWNER_PERMISSION_INSUFFICIENT", ("unbound", "ungrouped")),
    ),
)
AT = 100 * L


def change(fact: str, start: int, end: int | None, *, waited: bool = True, value: bool = True) -> Change:
    """A change of one fact; times in ms."""
    return Change(f"{fact} {value}", {fact: value}, AT + start * MS, None if end is None else AT + end * MS, waited)


def ask(start: int, end: int, answer: str = ALLOWED, consistency: str = DEFAULT) -> Question:
    """A question; times in ms."""
    return Question("k.1", AT + start * MS, AT + end * MS, answer, consistency=consistency)


def verdict(*seen: Change | Question) -> list[str]:
    """The kinds of violations in a history, in order."""
    history = History(
        {"k.1": CREDENTIAL},
        [it for it in seen if isinstance(it, Change)],
        [it for it in seen if isinstance(it, Question)],
    )
    return [violation.kind for violation in check(history).violations]


REVOKED, DISABLED = "KEY_REVOKED", "KEY_DISABLED"
GOOD = {
    "nothing ever changed": (ask(0, 1),),
    "before the change": (ask(0, 1), change("revoked", 2, 5)),
    "an old answer on the way": (change("revoked", 0, 100), ask(50, 51)),
    "a new answer on the way": (change("revoked", 0, 100), ask(1, 2, REVOKED)),
    "back and forth between replicas on the way": (change("revoked", 0, 100), ask(1, 2, REVOKED), ask(3, 4)),
    "an old answer to a question that started before it returned": (change("revoked", 0, 100), ask(99, 900)),
    "a new answer to a question that started before the change": (change("revoked", 5, 6), ask(0, 10, REVOKED)),
    "after it": (change("revoked", 0, 1), ask(2, 3, REVOKED), ask(5000, 5001, REVOKED)),
    "an unknown outcome that was never": (change("revoked", 0, None), ask(1, 2), ask(90_000, 90_001)),
    "an unknown outcome that was at once": (change("revoked", 0, None), ask(1, 2, REVOKED)),
    "an unknown outcome that was much later": (
        change("revoked", 0, None), ask(1, 2), ask(90_000, 90_001), ask(190_000, 190_001, REVOKED),
    ),
    "a ghost undoes what came after it": (
        change("disabled", 0, None), change("disabled", 10, 20), change("disabled", 30, 40, value=False),
        ask(50, 51), ask(3000, 3001, DISABLED),
    ),
    "a retry": (change("revoked", 0, None), ask(5, 6), change("revoked", 10, 20), ask(30, 31, REVOKED)),
    "without waiting, behind by less than L": (change("disabled", 0, 5, waited=False), ask(1004, 1006)),
    "without waiting, seen at once": (change("disabled", 0, 5, waited=False), ask(6, 7, DISABLED)),
    "two changes on their way, either order": (
        change("disabled", 0, 100), change("revoked", 1, 100), ask(2, 3, REVOKED), ask(4, 5, DISABLED),
    ),
    "rights by a group and by a binding": (
        change("unbound", 0, 1), ask(2, 3), change("ungrouped", 4, 5), ask(6, 7, "OWNER_PERMISSION_INSUFFICIENT"),
    ),
    "full consistency": (
        change("revoked", 0, 100), ask(1, 2, ALLOWED, FULL), ask(50, 51, REVOKED, FULL), ask(60, 61),
        ask(101, 102, REVOKED, FULL),
    ),
}  # fmt: skip
BAD = {
    "allowed after it": ((change("revoked", 0, 1), ask(2, 3)), STALE),
    "allowed for ever": ((change("revoked", 0, 1), ask(90_000, 90_001)), STALE),
    "denied, then allowed": ((change("revoked", 0, 1), ask(2, 3, REVOKED), ask(4, 5)), STALE),
    "allowed after a retry returned": (
        (change("revoked", 0, None), change("revoked", 10, 20), ask(21, 22)), STALE,
    ),
    "denied after it was enabled": (
        (change("disabled", 0, 1), change("disabled", 2, 3, value=False), ask(4, 5, DISABLED)), STALE,
    ),
    "a waiting change that found nothing to do did not wait": (
        (change("disabled", 0, 1, waited=False), change("disabled", 2, 3), ask(4, 5)), STALE,
    ),
    "an earlier change was passed over by a later one": (
        (change("disabled", 0, 1, waited=False), change("revoked", 2, 3), ask(4, 5)), STALE,
    ),
    "without waiting, behind by more than L": ((change("disabled", 0, 5, waited=False), ask(1006, 1007)), LATE),
    "a waiting change on its way for longer than L after an older one": (
        (change("disabled", 0, 5, waited=False), change("revoked", 6, 3000), ask(1500, 1501)), LATE,
    ),
    "denied for nothing": ((ask(0, 1, DISABLED),), IMPOSSIBLE),
    "denied before the change": ((ask(0, 1, REVOKED), change("revoked", 2, 3)), IMPOSSIBLE),
    "full consistency goes back": (
        (change("revoked", 0, 100), ask(1, 2, REVOKED, FULL), ask(3, 4, ALLOWED, FULL)), DISORDER,
    ),
    "full consistency lags": ((change("disabled", 0, 5, waited=False), ask(6, 7, ALLOWED, FULL)), LATE),
}  # fmt: skip


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_good_histories_pass(history: tuple[Change | Question, ...]) -> None:
    assert verdict(*history) == []


@pytest.mark.parametrize(("history", "kind"), BAD.values(), ids=BAD)
def test_bad_histories_are_caught(history: tuple[Change | Question, ...], kind: str) -> None:
    assert kind in verdict(*history)


def test_the_window_is_how_far_an_answer_was_behind() -> None:
    history = History({"k.1": CREDENTIAL}, [change("disabled", 0, 5, waited=False)], [ask(700, 701), ask(300, 301)])
    assert check(history).window == 695 * MS
    assert [it.behind for it in check(history, 500 * MS).violations] == [695 * MS]


def test_a_violation_says_what_was_missed() -> None:
    history = History({"k.1": CREDENTIAL}, [change("revoked", 0, 5)], [ask(12, 13)])
    (violation,) = check(history).violations
    assert "missed revoked True" in str(violation)
    assert "7.0 ms" in str(violation)
    assert check(history).false_allows == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_generated_histories_pass(seed: int) -> None:
    checked = check(World(Random(seed)).run(150))
    assert checked.violations == []
    assert checked.checked > 50


@pytest.mark.parametrize("fault", INJECTIONS)
def test_every_injected_fault_is_caught(fault: str) -> None:
    for seed in SEEDS:
        random = Random(seed)
        spoilt = INJECTIONS[fault](World(random).run(60), random)
        assert check(spoilt).violations, f"seed {seed}"


def _dull(changes: list[Change], questions: list[Question]) -> bool:
    """Tell whether there is an order, by trying all; changes of unknown outcome are also left out."""
    unknown = [n for n, it in enumerate(changes) if it.end is None]
    for left_out in range(1 << len(unknown)):
        gone = {n for bit, n in enumerate(unknown) if left_out >> bit & 1}
        members: list[Change | Question] = [it for n, it in enumerate(changes) if n not in gone]
        members += questions
        if any(_holds(order) for order in permutations(members)):
            return True
    return False


def _holds(order: tuple[Change | Question, ...]) -> bool:
    facts: frozenset[str] = frozenset()
    for position, it in enumerate(order):
        if any(other.end is not None and other.end < it.start for other in order[position + 1 :]):
            return False
        if isinstance(it, Change):
            facts = it.apply(facts)
        elif CREDENTIAL.judge(facts) != it.answer:
            return False
    return True


def test_agrees_with_trying_every_order() -> None:
    outcomes = set()
    for seed in range(400):
        random = Random(seed)
        moments = random.sample(range(1, 60), 12)
        changes, questions = [], []
        for _ in range(3):
            start, end = sorted((moments.pop(), moments.pop()))
            outcome = None if random.random() < 0.3 else end
            fact = random.choice(("revoked", "disabled"))
            changes.append(change(fact, start, outcome, value=random.random() < 0.7))
        for _ in range(3):
            start, end = sorted((moments.pop(), moments.pop()))
            questions.append(ask(start, end, random.choice((ALLOWED, REVOKED, DISABLED)), FULL))
        expected = _dull(changes, questions)
        assert (linearize(changes, questions, {"k.1": CREDENTIAL}) is None) == expected, f"seed {seed}"
        outcomes.add(expected)
    assert outcomes == {True, False}
