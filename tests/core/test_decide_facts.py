"""What is known of resources and circumstances, and what follows from it: relations, conditions, repeatable answers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from random import Random

import pytest
from hypothesis import given

from doorward_server.core import facts as known
from doorward_server.core.decide import decide, needs_facts
from doorward_server.core.directory import SubjectKind
from doorward_server.core.facts import Facts, Sent, SentRelation
from doorward_server.core.policy import Effect, Look, Unknown
from doorward_server.core.reasons import Reason
from tests.core import translated, worlds
from tests.core.worlds import NOW

pytestmark = pytest.mark.timeout(900)
"""Seconds: many examples, on machines that may be slow."""


def test_a_repeatable_answer_is_the_same_whatever_else_is_said() -> None:
    """Another address, other relations, attributes, context, another time of day: nothing of it took part."""
    tally: Counter[bool] = Counter()

    @worlds.examples(600)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        keyspace = translated.compiled(world)
        subject = translated.subject(world, keyspace)
        for _ in range(4):
            plain = worlds.ask(dice, world)
            decision = decide(subject, translated.question(plain, world), keyspace, NOW)
            tally[decision.repeatable] += 1
            other = worlds.ask(dice, world)
            changed = {name: other[name] for name in ("client_ip", "time", "context", "sent", "stored")}
            again = decide(subject, translated.question(plain | changed, world), keyspace, NOW)
            assert not decision.repeatable or again == decision, (decision, again, plain, changed, world)

    run()
    worlds.assert_reached({str(kind): count for kind, count in tally.items()}, ("True", "False"), 100)


def test_what_is_stored_changes_nothing_where_it_is_not_needed() -> None:
    """Else a question whose facts are not read would be answered wrongly."""
    tally: Counter[str] = Counter()

    @worlds.examples(500)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        keyspace = translated.compiled(world)
        subject = translated.subject(world, keyspace)
        for _ in range(6):
            plain = worlds.ask(dice, world)
            needed = needs_facts(subject, plain["action"], keyspace)
            tally["needed" if needed else "not needed"] += 1
            before = decide(subject, translated.question(plain, world), keyspace, NOW)
            bare = plain | {"stored": worlds.NOTHING_STORED}
            after = decide(subject, translated.question(bare, world), keyspace, NOW)
            assert needed or before == after, (before, after, plain, world)
            tally["changed"] += before != after

    run()
    worlds.assert_reached(tally, ("needed", "not needed", "changed"), 10)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Odd:
    """A condition that comes to something that is neither true nor false."""

    told: object
    text: str = "odd"
    reads: frozenset[str] = frozenset()

    def evaluate(self, look: Look) -> bool | Unknown:
        """Return what it was told to."""
        return self.told  # type: ignore[return-value]  # that is the point


def test_what_is_neither_true_nor_false_is_broken() -> None:
    """On an ALLOW it does not allow, on a DENY it denies."""
    world = worlds.generate(Random(3)) | {"key": None, "owner": worlds.ALICE, "groups": []}
    world["organization"] = {"id": "acme", "enabled": True, "deleted_at": None, "attributes": {}, "email": ""}
    world["document"]["authenticated"] = []
    world["document"]["roles"]["reader"] = {"includes": [], "rules": [worlds.plain_rule(["flows:read"])]}
    world["bindings"] = [
        {"id": "b", "keyspace": "ks", "group": False, "role": "reader", "resources": ["*"], "condition": ""}
        | {"not_before": None, "expires_at": None}
    ]
    keyspace = translated.compiled(world)
    subject = translated.subject(world, keyspace)
    question = translated.question(worlds.plain_question("flows:read", "flows/a"), world)
    assert decide(subject, question, keyspace, NOW).allowed
    (held,) = subject.roles or ()
    (rule,) = held.role.rules["flows:read"]
    for told in ("yes", 1, "", 0, None, [True], object()):
        for effect, reason in ((Effect.ALLOW, Reason.CONDITION_FALSE), (Effect.DENY, Reason.DENIED_BY_RULE)):
            odd = dataclasses.replace(rule, effect=effect, condition=Odd(told))
            role = dataclasses.replace(held.role, rules={"flows:read": (odd,)})
            asked = dataclasses.replace(subject, roles=(dataclasses.replace(held, role=role),))
            assert decide(asked, question, keyspace, NOW).reason is reason, (told, effect)


ASKED = ("vulnerabilities", "7")


def facts(sent: Sent, *, principal: str = "alice", groups: tuple[str, ...] = (), parent: str = "") -> Facts:
    """Put together what is known of ASKED, about which little is stored."""
    return known.combine(
        ASKED, sent, {"open": True}, parent, {"year": 2027}, [("parent", "contact")], principal, groups
    )


def test_stored_attributes_win_and_sent_ones_are_added() -> None:
    told = facts(Sent(attributes={"open": False, "severity": 3}))
    assert told.attributes == {"open": True, "severity": 3}


def test_a_sent_parent_counts_only_where_none_is_stored() -> None:
    sent = Sent(parent=("assessments", "1"), relations=(SentRelation("assigned", ("assessments", "1")),))
    assert facts(sent).parent == ("assessments", "1")
    assert facts(sent).relations == {"parent.assigned", "parent.contact"}
    stored = facts(sent, parent="assessments/2")
    assert stored.parent == ("assessments", "2")
    assert stored.relations == {"parent.contact"}


def test_without_a_parent_nothing_is_known_of_one() -> None:
    told = facts(Sent())
    assert (told.parent, told.parent_attributes, told.relations) == ((), {}, frozenset())


def test_sent_relations_are_those_of_whoever_is_named() -> None:
    group, user = SubjectKind.GROUP, SubjectKind.PRINCIPAL
    for relation, who, groups, held in (
        (SentRelation("assigned"), "alice", (), True),
        (SentRelation("assigned"), "", (), True),
        (SentRelation("assigned", ASKED), "alice", (), True),
        (SentRelation("assigned", ("vulnerabilities", "8")), "alice", (), False),
        (SentRelation("assigned", (), user, "alice"), "alice", (), True),
        (SentRelation("assigned", (), user, "bob"), "alice", (), False),
        (SentRelation("assigned", (), user, ""), "", (), False),
        (SentRelation("assigned", (), group, "staff"), "alice", ("staff",), True),
        (SentRelation("assigned", (), group, "staff"), "alice", ("guests",), False),
        (SentRelation("assigned", (), group, "alice"), "alice", (), False),
        (SentRelation("assigned", (), user, "staff"), "alice", ("staff",), False),
    ):
        told = facts(Sent(relations=(relation,)), principal=who, groups=groups)
        assert (told.relations == {"assigned"}) is held, (relation, who, groups)
