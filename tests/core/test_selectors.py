"""The lists against brute force: what selectors fit, and which actions are allowed, is what is decided one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given

from doorward_server.core.decide import decide
from doorward_server.core.errors import QuotaExceeded
from doorward_server.core.policy import Pattern
from doorward_server.core.reasons import Reason
from doorward_server.core.selectors import Selector, accessible, allowed_actions, known
from tests.core import oracle, translated, worlds
from tests.core.worlds import NOW, Question, World

pytestmark = pytest.mark.timeout(900)
"""Seconds: many examples, on machines that may be slow."""

PLACES = [f"{type}{rest}" for type in worlds.TYPES for rest in ("", "/a", "/b", "/c", "/a/b", "/b/c")]


def fits(selector: Selector, denied: bool, world: World, question: Question) -> bool:
    """Whether *selector* fits the resource of *question*, read as its documentation says, by the oracle's means."""
    if not oracle.fits_one([selector.pattern.text], question["resource"]):
        return False
    if not set(selector.relations) <= set(oracle.relations_held(world, question)):
        return False
    told = oracle.what_is_told(world, question, NOW)
    outcomes = {oracle.weigh(condition.text, told)["is"] for condition in selector.conditions}
    return outcomes <= ({"true", "unknown"} if denied else {"true"})


def test_selectors_fit_exactly_what_is_allowed() -> None:
    """Every resource of every kind, with all sorts of facts: accessible if and only if it is allowed."""
    tally: Counter[str] = Counter()

    @worlds.examples(500)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        keyspace = translated.compiled(world)
        subject = translated.subject(world, keyspace)
        asked = worlds.ask(dice, world)
        access = accessible(subject, translated.question(asked, world), keyspace, NOW)
        for resource in PLACES:
            plain = asked | {"resource": resource, "sent": worlds.sent(dice), "stored": worlds.stored(dice)}
            decision = decide(subject, translated.question(plain, world), keyspace, NOW)
            allowed = any(fits(selector, False, world, plain) for selector in access.allowed)
            denied = any(fits(selector, True, world, plain) for selector in access.denied)
            if decision.allowed is not (allowed and not denied):
                pytest.fail(f"{decision}, but allowed {allowed}, denied {denied} by {access}; {plain} in {world}")
            tally["allowed"] += decision.allowed
            tally["denied"] += allowed and denied
            tally["by relation"] += decision.allowed and any(it.relations for it in access.allowed)
            tally["by condition"] += decision.allowed and any(it.conditions for it in access.allowed)

    run()
    worlds.assert_reached(tally, ("allowed", "denied", "by relation", "by condition"), 10)


def test_no_selector_lies_within_another() -> None:
    @worlds.examples(150)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        keyspace = translated.compiled(world)
        asked = translated.question(worlds.ask(dice, world), world)
        access = accessible(translated.subject(world, keyspace), asked, keyspace, NOW)
        for selectors in (access.allowed, access.denied):
            for one in selectors:
                assert not any(one.within(other) for other in selectors if other is not one), selectors
        assert (access.denial is None) is (access.allowed != ())

    run()


def test_allowed_actions_are_those_that_are_allowed() -> None:
    tally: Counter[str] = Counter()

    @worlds.examples(300)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world, keyspace = (it := worlds.generate(dice)), translated.compiled(it)
        plain = worlds.ask(dice, world)
        told = allowed_actions(
            translated.subject(world, keyspace), translated.question(plain, world), keyspace, NOW, worlds.ACTIONS
        )
        wanted = {
            action: oracle.decide(world, plain | {"action": action}, NOW)["reason"] == "ALLOWED"
            for action in worlds.ACTIONS
        }
        assert told == tuple(action for action, allowed in wanted.items() if allowed), (plain, world)
        tally["allowed"] += len(told)

    run()
    worlds.assert_reached(tally, ("allowed",), 50)


def only(condition: str) -> World:
    """Return a world in which one role allows one action under *condition*."""
    world = worlds.generate(Random(1))
    rule = worlds.plain_rule(["flows:read"]) | {"condition": condition}
    world["document"] |= {"inherit": True, "roles": {"reader": {"includes": [], "rules": [rule]}}, "authenticated": []}
    window = {"not_before": None, "expires_at": None, "group": False, "condition": ""}
    binding = window | {"id": "b", "keyspace": "ks", "role": "reader", "resources": ["*"]}
    return world | {
        "organization": {"id": "acme", "enabled": True, "deleted_at": None, "attributes": {}, "email": ""},
        "owner": worlds.ALICE,
        "key": None,
        "groups": [],
        "bindings": [binding],
    }


def test_what_a_condition_reads_besides_the_resource_is_told() -> None:
    world = only("resource.by == principal.email")
    keyspace = translated.compiled(world)
    subject = translated.subject(world, keyspace)
    question = translated.question(worlds.plain_question("flows:read", "flows"), world)
    access = accessible(subject, question, keyspace, NOW)
    ((condition,),) = [selector.conditions for selector in access.allowed]
    assert condition.text == "resource.by == principal.email"
    assert known(condition, subject, question, NOW) == {"principal.email": "alice"}


def test_what_is_missing_is_named() -> None:
    """Else a list that lacks what context would allow could be taken for all there is."""
    world = only('organization.plan == "pro"')
    keyspace = translated.compiled(world)
    question = translated.question(worlds.plain_question("flows:read", "flows"), world)
    access = accessible(translated.subject(world, keyspace), question, keyspace, NOW)
    assert access.denial is not None
    assert access.denial.reason is Reason.CONTEXT_MISSING
    assert access.denial.missing_context == ("organization.plan",)


def test_a_denied_selector_that_cannot_be_told_apart_denies() -> None:
    """Of a DENY rule whose context is missing, its selector stays, without that condition."""
    world = only("")
    world["document"]["roles"]["reader"]["rules"] += [
        worlds.plain_rule(["flows:read"], "DENY")
        | {"resources": ["flows/a"], "condition": 'organization.plan == "pro"'}
    ]
    keyspace = translated.compiled(world)
    question = translated.question(worlds.plain_question("flows:read", "flows"), world)
    access = accessible(translated.subject(world, keyspace), question, keyspace, NOW)
    assert [(it.pattern.text, it.relations, it.conditions) for it in access.denied] == [("flows/a", (), ())]
    assert access.missing_context == ("organization.plan",)


def listed(mine: list[str], theirs: list[str]) -> list[str]:
    """Return the patterns of what a key that lists *mine* may read, of an owner who holds *theirs*."""
    world = only("")
    window = {"not_before": None, "expires_at": None, "group": False, "condition": ""}
    world["bindings"] = [window | {"id": "b", "keyspace": "ks", "role": "reader", "resources": theirs}]
    keyspace = translated.compiled(world)
    owner = translated.subject(world, keyspace)
    assert owner.roles is not None
    ceiling = replace(owner.roles[0], resources=tuple(map(Pattern.parse, mine)))
    question = translated.question(worlds.plain_question("flows:read", "flows"), world)
    access = accessible(replace(owner, ceiling=(ceiling,)), question, keyspace, NOW)
    return [it.pattern.text for it in access.allowed]


def test_many_single_resources_are_listed() -> None:
    flows = [f"flows/{i:04}" for i in range(2000)]
    assert listed(flows[::2], flows) == flows[::2]
    assert listed(flows, ["flows/*"]) == flows
    folders = [f"flows/{i:04}/*" for i in range(1000)]
    assert listed(folders, folders[:100]) == folders[:100]
    assert listed(folders, ["flows/0007/a", "flows/*/b"]) == sorted(
        ["flows/0007/a", *(f"flows/{i:04}/b" for i in range(1000))]
    )


def test_patterns_that_multiply_are_refused() -> None:
    """A hundred and a hundred with stars in odd places are ten thousand, each of which lies perhaps within another."""
    dice = Random(1)

    def odd(name: str) -> str:
        segments = ["*"] * 12
        segments[dice.randrange(12)] = name
        return "/".join(["flows", *segments])

    mine, theirs = ([odd(f"{whose}{i}") for i in range(100)] for whose in "ab")
    with pytest.raises(QuotaExceeded, match="comparisons of patterns"):
        listed(mine, theirs)
