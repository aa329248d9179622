"""`decide` against the oracle, on generated worlds: decision, reason, what is missing, and which rule decided."""

from __future__ import annotations

from collections import Counter
from pprint import pformat
from random import Random
from typing import Any

import pytest
from hypothesis import given

from doorward_server.core.decide import Match, decide
from doorward_server.core.reasons import TOO_MUCH, Reason
from tests.core import oracle, translated, worlds

pytestmark = pytest.mark.timeout(900)
"""Seconds: many examples, on machines that may be slow."""

REACHED = (
    Reason.ALLOWED,
    Reason.KEY_REVOKED,
    Reason.KEY_EXPIRED,
    Reason.KEY_DISABLED,
    Reason.KEY_NOT_YET_VALID,
    Reason.SECRET_SUPERSEDED,
    Reason.OWNER_DISABLED,
    Reason.ORGANIZATION_DISABLED,
    Reason.ORGANIZATION_MISMATCH,
    Reason.ENVIRONMENT_MISMATCH,
    Reason.NETWORK_NOT_ALLOWED,
    Reason.SCOPE_INSUFFICIENT,
    Reason.OWNER_PERMISSION_INSUFFICIENT,
    Reason.RESOURCE_NOT_GRANTED,
    Reason.RELATION_MISSING,
    Reason.CONDITION_FALSE,
    Reason.CONTEXT_MISSING,
    Reason.DENIED_BY_RULE,
)
"""Every reason that steps 5 to 9 know."""

WAYS = (
    "crossed",
    "inherited",
    "by ceiling and owner",
    "by a stored binding",
    "in a network",
    "related",
    "related to the parent",
    "under a condition",
    "bound under a condition",
    "no rule",
)
"""Ways to an ALLOW that must be among those compared."""

QUESTIONS = 12
"""Questions per world."""


def compare(dice: Random, tally: Counter[str]) -> None:
    """Make one world, ask it QUESTIONS questions, and count what came out, with what it took to get there."""
    world = worlds.generate(dice)
    keyspace = translated.compiled(world)
    subject = translated.subject(world, keyspace)
    for _ in range(QUESTIONS):
        plain, now = worlds.ask(dice, world), dice.choice(worlds.INSTANTS)
        expected = oracle.decide(world, plain, now)
        actual = decide(subject, translated.question(plain, world), keyspace, now)
        told: dict[str, Any] = {
            "reason": actual.reason.value,
            "missing": list(actual.missing),
            "lacked": list(actual.missing_context) if actual.match is None else [],
            "rules": [],
        }
        if actual.match is not None:
            rule, lacked = actual.match.rule, list(actual.missing_context)
            named = (rule.role, rule.index, actual.match.binding, lacked)
            told["rules"] = expected["rules"] if named in expected["rules"] else [named]
        if told != expected:
            case = f"now {now - worlds.NOW:+d}, asked {pformat(plain)} in {pformat(world)}"
            pytest.fail(f"decide: {told}, oracle: {expected}; {case}")
        assert actual.allowed is (expected["reason"] == "ALLOWED")
        tally[actual.reason] += 1
        tally["cases"] += 1
        if actual.allowed:
            tally["crossed"] += plain["organization"] not in (None, world["organization"]["id"])
            tally["by ceiling and owner"] += subject.ceiling is not None and subject.roles is not None
            tally["in a network"] += subject.networks != ()
            tally["no rule"] += actual.match is None
        if actual.allowed and actual.match is not None:
            count_match(actual.match, world, tally)


def count_match(match: Match, world: worlds.World, tally: Counter[str]) -> None:
    """Count the ways in which a rule came to allow."""
    conditional = {binding["id"] for binding in world["bindings"] if binding["condition"]}
    tally["inherited"] += world["key"] is not None and match.binding != ""
    tally["by a stored binding"] += match.binding != ""
    tally["related"] += match.rule.relation in worlds.RELATIONS
    tally["related to the parent"] += match.rule.relation.startswith("parent.")
    tally["under a condition"] += match.rule.condition is not None
    tally["bound under a condition"] += match.binding in conditional


def check(tally: Counter[str], cases: int, each: int) -> None:
    """Enough cases, enough that end for every reason there is, and enough ALLOWs by every way there is."""
    print(dict(sorted(tally.items())))
    assert tally["cases"] >= worlds.scaled(cases)
    worlds.assert_reached(tally, (*REACHED, *WAYS), each)


def test_every_reason_is_accounted_for() -> None:
    """A reason that is neither reached here, nor given before step 5 or after step 9, is one that nobody compares."""
    before = {r for r in Reason if r.name.startswith("CREDENTIAL_")} | {Reason.KEY_UNKNOWN}
    assert set(REACHED) | before | TOO_MUCH == set(Reason)


def test_agrees_with_the_oracle() -> None:
    """At least 10,000 cases by hypothesis, which shrinks what it finds."""
    tally: Counter[str] = Counter()

    @worlds.examples(900)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        compare(dice, tally)

    run()
    check(tally, cases=10_000, each=5)


def test_agrees_with_the_oracle_in_a_sweep() -> None:
    """Many times as many from a seeded generator, which is even where hypothesis lingers."""
    tally: Counter[str] = Counter()
    for seed in range(worlds.scaled(6_000)):
        compare(Random(seed), tally)
    check(tally, cases=72_000, each=80)
