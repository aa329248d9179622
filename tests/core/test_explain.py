"""Explanations: the verdict is that of `decide`, and the trace comes to it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given

from doorward_server.core.decide import decide
from doorward_server.core.explain import Considered, Outcome, StepName, explain
from doorward_server.core.policy import Effect
from doorward_server.core.reasons import Reason
from tests.core import oracle, translated, worlds

pytestmark = pytest.mark.timeout(900)
"""Seconds: many examples, on machines that may be slow."""

UNKNOWN = (Outcome.CONDITION_MISSING, Outcome.CONDITION_BROKEN)


def test_the_trace_comes_to_the_decision() -> None:
    tally: Counter[str] = Counter()

    @worlds.examples(1_000)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        keyspace = translated.compiled(world)
        subject = translated.subject(world, keyspace)
        for _ in range(4):
            question, now = translated.question(worlds.ask(dice, world), world), dice.choice(worlds.INSTANTS)
            decision, trace = explain(subject, question, keyspace, now)
            assert decision == decide(subject, question, keyspace, now)
            *passed, last = trace.steps
            assert last.reason is decision.reason, (decision, trace, question, world)
            assert all(step.reason is Reason.ALLOWED for step in passed)
            if decision.match is not None:
                match = decision.match
                named = {(it.role, it.index, it.binding) for it in last.considered if decides(it)}
                assert (match.rule.role, match.rule.index, match.binding) in named, (decision, trace)
            for step in trace.steps:
                tally[step.name] += 1
                tally.update(considered.outcome for considered in step.considered)

    run()
    worlds.assert_reached(tally, (*StepName, *Outcome), 10)


def decides(it: Considered) -> bool:
    """Whether a rule with such an outcome can be the one that decided."""
    return it.outcome is Outcome.MATCHED or (it.effect is Effect.DENY and it.outcome in UNKNOWN)


def test_the_trace_has_every_rule_for_the_action() -> None:
    """None left out, none twice, none of another action: of the last step, counted in the document itself."""

    @worlds.examples(200)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        keyspace = translated.compiled(world)
        plain = worlds.ask(dice, world)
        _, trace = explain(translated.subject(world, keyspace), translated.question(plain, world), keyspace, worlds.NOW)
        document = world["document"]
        for step in trace.steps:
            if step.name is not StepName.OWNER:
                continue
            held = [it for it in world["bindings"] if it["keyspace"] == "ks" and it["role"] in document["roles"]]
            wanted = [
                (role, index, binding["id"])
                for binding in held
                for role in oracle.roles_within(document, binding["role"])
                for index, rule in enumerate(document["roles"][role]["rules"])
                if oracle.rule_has_action(document, rule, plain["action"])
            ]
            told = [(it.role, it.index, it.binding) for it in step.considered]
            assert sorted(told) == sorted(wanted if world["owner"] else []), (trace, world)

    run()
