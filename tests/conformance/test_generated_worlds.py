"""On generated worlds, over real gRPC: a batch equals single questions, an explanation equals the decision, and the
lists equal asking about everything there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from doorward import AccessibleResources, CallFailed, Decision, Question, Reason, SentRelation
from tests.conformance.products import Credential, Desk, Product, SignedIn
from tests.conformance.worlds import ACTIONS, RESOURCES, WORLDS, Built, World, build, includes

MFA = (None, True, False)
pytestmark = pytest.mark.timeout(600)  # seconds: thousands of calls, on machines that may be slow
some_worlds = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a smaller world would take minutes to find
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def product(desk: Desk) -> Product:
    return desk.product(Path(__file__).with_name("worlds.yaml"))


def context(mfa: bool | None) -> dict[str, Any]:
    return {} if mfa is None else {"facts": {"mfa": mfa}}


def credentials(built: Built) -> tuple[Credential, ...]:
    return built.key, SignedIn(built.person)


Asked = Iterable[tuple[str, str | None]]


def brute(built: Built, credential: Credential, asked: Asked, mfa: bool | None) -> list[Decision]:
    """Ask about everything. In a batch, which the first test compares with single questions."""
    return built.customer.ask_all(credential, [Question(*it) for it in asked], **context(mfa))


QUESTIONS = (
    *(Question(action, resource) for action in ACTIONS for resource in (*RESOURCES, "flows", "steps", None)),
    Question("flows:get", "flows/c", attributes={"published": True, "level": 0}),
    Question("flows:get", "flows/a", attributes={"published": True, "level": 0}),
    Question("steps:get", "steps/c", parent="flows/a", relations=[SentRelation("assigned", "flows/a")]),
    Question("steps:run", "steps", parent="flows/a"),
    Question("flows:run", "flows/b", relations=[SentRelation("assigned"), SentRelation("contact", None, "nobody")]),
    # None of these makes sense.
    Question("flows:burn", "flows/a"),
    Question("flows:get", "flows/*"),
    Question("flows:get", "ponds/1"),
    Question("flows:get", "flows/a", attributes={"colour": "red"}),
    Question("flows:get", "flows/a", attributes={"published": "yes"}),
    Question("flows:get", "flows/a", parent="flows/b"),
    Question("steps:get", "steps/a", parent="flows/.."),
    Question("steps:get", "steps/a", relations=[SentRelation("contact")]),
    Question("steps:get", "steps/a", relations=[SentRelation("assigned", None, "no body")]),
)


@some_worlds
@given(world=WORLDS)
def test_a_batch_equals_as_many_single_questions(product: Product, world: World) -> None:
    built = build(world, product)
    for credential, known in zip(credentials(built), ((None, True), (False,)), strict=True):
        for mfa in known:
            batch = built.customer.ask_all(credential, QUESTIONS, **context(mfa))
            for question, answer in zip(QUESTIONS, batch, strict=True):
                assert _told(answer) == _single(built, credential, question, mfa), question


def _single(built: Built, credential: Credential, question: Question, mfa: bool | None) -> object:
    try:
        return _told(
            built.customer.ask(
                credential,
                question.action,
                question.resource,
                attributes=question.attributes,
                parent=question.parent,
                relations=question.relations,
                **context(mfa),
            )
        )
    except CallFailed as refused:
        return refused.reason, refused.metadata


def _told(decision: Decision) -> object:
    """Everything in an answer, or how it failed."""
    return (decision.error.reason, decision.error.metadata) if decision.error is not None else decision


@some_worlds
@given(world=WORLDS)
def test_an_explanation_equals_the_decision(product: Product, world: World) -> None:
    built = build(world, product)
    for credential in credentials(built):
        for question in _sensible(QUESTIONS):
            asked = (credential, question.action, question.resource)
            sent: dict[str, Any] = {
                "attributes": question.attributes, "parent": question.parent, "relations": question.relations
            }  # fmt: skip
            decision, explanation = built.customer.ask(*asked, **sent), built.customer.explain(*asked, **sent)
            assert explanation.decision == decision
            assert all(step.reason is Reason.ALLOWED for step in explanation.steps[:-1])
            assert explanation.steps[-1].reason is decision.reason
            assert bool(decision) == (decision.reason is Reason.ALLOWED)


def _sensible(questions: Iterable[Question]) -> list[Question]:
    meaningless = [it.action for it in questions].index("flows:burn")
    return list(questions)[:meaningless]


@some_worlds
@given(world=WORLDS)
def test_the_listed_actions_are_those_that_are_allowed(product: Product, world: World) -> None:
    built, places = build(world, product), (*RESOURCES, "flows", "steps")
    for credential in credentials(built):
        for mfa in MFA:
            decided = brute(built, credential, [(action, place) for place in places for action in ACTIONS], mfa)
            for i, place in enumerate(places):
                mine = dict(zip(ACTIONS, decided[i * len(ACTIONS) :], strict=False))
                _check_listed(built, credential, place, mine, context(mfa))
            collections = brute(built, credential, [(action, None) for action in ACTIONS], mfa)
            allowed = sorted(action for action, decision in zip(ACTIONS, collections, strict=True) if decision)
            assert list(built.customer.actions(credential, **context(mfa)).actions) == allowed


def _check_listed(
    built: Built, credential: Credential, place: str, decided: dict[str, Decision], known: dict[str, Any]
) -> None:
    allowed = sorted(action for action, decision in decided.items() if decision)
    listed = built.customer.actions(credential, place, all_types=True, **known)
    assert list(listed.actions) == allowed
    assert (listed.reason is Reason.ALLOWED) == bool(allowed)
    missing = {name for decision in decided.values() for name in decision.missing_context}
    assert list(listed.missing_context) == sorted(missing)
    own = built.customer.actions(credential, place, **known)
    assert list(own.actions) == [it for it in allowed if it.startswith(f"{place.partition('/')[0]}:")]


PLANTS: dict[str, Callable[[AccessibleResources], AccessibleResources]] = {
    "exceptions are forgotten": lambda it: replace(it, denied=()),
    "relations are forgotten": lambda it: replace(it, allowed=tuple(replace(s, relations=()) for s in it.allowed)),
    "conditions are forgotten": lambda it: replace(it, allowed=tuple(replace(s, conditions=()) for s in it.allowed)),
    "one selector is lost": lambda it: replace(it, allowed=it.allowed[1:]),
}
"""What might be wrong with an answer: each must be noticed in some world."""


def test_the_selectors_choose_what_is_allowed(product: Product) -> None:
    noticed: Counter[str] = Counter()

    @some_worlds
    @given(world=WORLDS)
    def in_each(world: World) -> None:
        built = build(world, product)
        for credential in credentials(built):
            for mfa in MFA:
                for action in ACTIONS:
                    noticed.update(_compare(built, world, credential, action, mfa))

    in_each()
    assert set(noticed) == set(PLANTS)


def _compare(built: Built, world: World, credential: Credential, action: str, mfa: bool | None) -> Iterable[str]:
    """Compare the selectors with asking about each resource; return the plants that would have been noticed."""
    allowed = {it: bool(decision) for it, decision in zip(
        RESOURCES, brute(built, credential, [(action, it) for it in RESOURCES], mfa), strict=True
    )}  # fmt: skip
    for type in ("flows", "steps"):
        access = built.customer.resources(credential, action, type=type, **context(mfa))
        mine = {it: outcome for it, outcome in allowed.items() if it.startswith(type)}
        assert mine == {it: includes(access, world, it, mfa) for it in mine}, (action, access)
        assert (access.reason is Reason.ALLOWED) == bool(access.allowed)
        for name, plant in PLANTS.items():
            if mine != {it: includes(plant(access), world, it, mfa) for it in mine}:
                yield name
