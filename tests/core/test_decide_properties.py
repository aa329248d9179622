"""What must hold of `decide` whatever the world is: how answers may move when the world or the question does."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given

from doorward_server.core.decide import Decision, decide
from doorward_server.core.reasons import Reason
from tests.core import translated, worlds
from tests.core.worlds import NOW, Question, World

pytestmark = pytest.mark.timeout(900)
"""Seconds: many examples, on machines that may be slow."""

QUESTIONS = 8
FOREVER = {"group": False, "keyspace": "ks", "not_before": None, "expires_at": None, "condition": ""}


def asked(dice: Random, world: World) -> list[Question]:
    """Return some questions to one world."""
    return [worlds.ask(dice, world) for _ in range(QUESTIONS)]


def answers(world: World, questions: list[Question], now: int = NOW) -> list[Decision]:
    """Answer *questions*, by the product."""
    keyspace = translated.compiled(world)
    subject = translated.subject(world, keyspace)
    return [decide(subject, translated.question(question, world), keyspace, now) for question in questions]


def told(decisions: list[Decision]) -> list[tuple[Reason, tuple[str, ...]]]:
    """Return what a caller sees of *decisions*."""
    return [(decision.reason, decision.missing) for decision in decisions]


def healthy(dice: Random) -> World:
    """Return a world whose key, owner and organization are in good standing, so that step 8 is reached."""
    world = worlds.generate(dice)
    world["organization"] |= {"enabled": True, "deleted_at": None}
    if world["owner"]:
        world["owner"] |= {"enabled": True, "deleted_at": None}
    if world["key"]:
        world["key"] |= {"revoked_at": None, "deleted_at": None, "expires_at": None, "enabled": True}
        world["key"] |= {"not_before": None, "secret_expires_at": None}
    return world


def listed(dice: Random) -> World:
    """Return a healthy world that is decided by a key's own list alone."""
    world = healthy(dice)
    made = world["key"] or worlds.key(dice, 0)
    world["key"] = made | {"ceiling": "LIST", "expires_at": None, "not_before": None, "secret_expires_at": None}
    world["document"] |= {"inherit": False, "ceilings": ["list"], "authenticated": []}
    return world


def never_more(before: World, after: World, questions: list[Question], changes: Counter[str], now: int = NOW) -> None:
    """Assert that *after* allows nothing that *before* did not, and count what it took away."""
    for was, question, is_now in zip(
        answers(before, questions, now), questions, answers(after, questions, now), strict=True
    ):
        assert was.allowed or not is_now.allowed, (was, is_now, question, before, after)
        changes["lost"] += was.allowed and not is_now.allowed
        changes["kept"] += was.allowed and is_now.allowed


def falls(
    generate: Callable[[Random], World], change: Callable[[Random, World], Iterator[World]], count: int = 250
) -> Counter[str]:
    """Assert over many worlds that no changed one allows more; return how many ALLOWs were lost and kept."""
    changes: Counter[str] = Counter()

    @worlds.examples(count)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = generate(dice)
        questions = asked(dice, world)
        for changed in change(dice, copy.deepcopy(world)):
            never_more(world, changed, questions, changes)

    run()
    worlds.assert_reached(changes, ("lost",), 1)
    return changes


def test_another_deny_rule_never_allows_more() -> None:
    def change(dice: Random, world: World) -> Iterator[World]:
        rules = world["document"]["roles"][dice.choice(worlds.ROLES)]["rules"]
        rules.insert(dice.randrange(len(rules) + 1), worlds.rule(dice) | {"effect": "DENY"})
        yield world

    worlds.assert_reached(falls(healthy, change), ("kept",), 1)


def test_another_role_that_only_denies_never_allows_more() -> None:
    def change(dice: Random, world: World) -> Iterator[World]:
        world["document"]["roles"]["no"] = {"includes": [], "rules": [worlds.rule(dice) | {"effect": "DENY"}]}
        world["bindings"].append({**FOREVER, "id": "no", "role": "no", "resources": worlds.patterns(dice)})
        yield world

    worlds.assert_reached(falls(healthy, change), ("kept",), 1)


def test_an_allowed_action_denied_outright_is_denied() -> None:
    """Deny beats allow, wherever the DENY stands: in any role that is held, directly or by inclusion."""
    denied: Counter[str] = Counter()

    @worlds.examples(250)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = healthy(dice)
        world["document"]["authenticated"] = []
        questions = asked(dice, world)
        no = worlds.plain_rule(["*:*"], "DENY")
        for question, decision in zip(questions, answers(world, questions), strict=True):
            if decision.match is None or not decision.allowed:
                continue
            changed = copy.deepcopy(world)
            changed["document"]["roles"][decision.match.rule.role]["rules"].append(no)
            (after,) = answers(changed, [question])
            assert after.reason is Reason.DENIED_BY_RULE, (decision, after, question, world)
            denied["by rule"] += 1

    run()
    worlds.assert_reached(denied, ("by rule",), 20)


def test_fewer_scopes_never_allow_more_unless_one_denied() -> None:
    def generate(dice: Random) -> World:
        world = healthy(dice)
        for role in world["document"]["roles"].values():
            role["rules"] = [rule | {"effect": "ALLOW"} for rule in role["rules"]]
        return world

    def change(dice: Random, world: World) -> Iterator[World]:
        if world["key"] is None:
            return
        for name in ("scopes", "bindings"):
            for i in range(len(world["key"][name])):
                fewer = copy.deepcopy(world)
                del fewer["key"][name][i]
                yield fewer
        yield world | {"bindings": world["bindings"][1:]}

    worlds.assert_reached(falls(generate, change), ("kept",), 1)


def test_the_last_scope_taken_leaves_nothing() -> None:
    lost: Counter[str] = Counter()

    @worlds.examples(200)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = listed(dice)
        bare = world | {"key": world["key"] | {"scopes": [], "bindings": []}}
        questions = asked(dice, world)
        never_more(world, bare, questions, lost)
        assert not any(decision.allowed for decision in answers(bare, questions))

    run()
    worlds.assert_reached(lost, ("lost",), 20)


def test_a_narrower_network_never_allows_more() -> None:
    def change(dice: Random, world: World) -> Iterator[World]:
        if world["key"] is None:
            return
        narrower = {"10.0.0.0/8": "10.1.2.0/23", "0.0.0.0/0": "10.0.0.0/8", "10.1.2.0/23": "10.1.2.3/32"}
        narrower |= {"::/0": "2001:db8::/32", "2001:db8::/32": "2001:db8::1/128"}
        cidrs = world["key"]["allowed_cidrs"]
        yield world | {"key": world["key"] | {"allowed_cidrs": [narrower.get(cidr, cidr) for cidr in cidrs]}}
        if not cidrs:
            yield world | {"key": world["key"] | {"allowed_cidrs": [dice.choice(worlds.CIDRS)]}}
        for i in range(len(cidrs) if len(cidrs) > 1 else 0):
            yield world | {"key": world["key"] | {"allowed_cidrs": cidrs[:i] + cidrs[i + 1 :]}}

    worlds.assert_reached(falls(healthy, change, 400), ("kept",), 1)


def test_an_address_that_was_not_given_is_in_no_network() -> None:
    @worlds.examples(200)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = healthy(dice)
        world["key"] = (world["key"] or worlds.key(dice, 0)) | {"allowed_cidrs": ["0.0.0.0/0", "::/0"]}
        questions = [question | {"client_ip": None} for question in asked(dice, world)]
        assert not any(decision.allowed for decision in answers(world, questions))

    run()


def test_ending_anything_never_allows_more() -> None:
    """Revoke, delete, expire, disable or postpone the key, supersede its secret, end its owner or organization."""

    def change(dice: Random, world: World) -> Iterator[World]:
        ends = [{"revoked_at": NOW}, {"deleted_at": NOW}, {"expires_at": NOW}, {"enabled": False}]
        ends += [{"not_before": NOW + 1}, {"secret_expires_at": NOW}]
        if world["key"] is not None:
            yield from (world | {"key": world["key"] | end} for end in ends)
        for who in ("organization", "owner") if world["owner"] else ("organization",):
            yield world | {who: world[who] | {"enabled": False}}
            yield world | {who: world[who] | {"deleted_at": NOW}}

    assert falls(worlds.generate, change)["kept"] == 0


def test_names_of_organizations_mean_nothing() -> None:
    @worlds.examples(200)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        questions = asked(dice, world)
        names = [*worlds.ORGANIZATIONS]
        dice.shuffle(names)
        renamed = dict(zip(worlds.ORGANIZATIONS, names, strict=True)) | {"": "", None: None}
        after = world | {
            "operator": renamed[world["operator"]],
            "organization": world["organization"] | {"id": renamed[world["organization"]["id"]]},
        }
        moved = [question | {"organization": renamed[question["organization"]]} for question in questions]
        assert answers(world, questions) == answers(after, moved)

    run()


def test_nothing_crosses_without_an_operator_whatever_is_granted() -> None:
    @worlds.examples(200)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = healthy(dice)
        own = world["organization"]["id"]
        others = [id for id in worlds.ORGANIZATIONS if id != own]
        world["operator"] = dice.choice(("", *others))
        everything = worlds.plain_rule(["*:*"])
        for role in world["document"]["roles"].values():
            role["rules"] = [everything]
        world["bindings"] = [{**FOREVER, "id": "b", "role": "all", "resources": ["*"]}]
        questions = [question | {"organization": dice.choice(others)} for question in asked(dice, world)]
        assert {decision.reason for decision in answers(world, questions)} == {Reason.ORGANIZATION_MISMATCH}

    run()


def test_the_order_in_which_things_were_granted_means_nothing() -> None:
    @worlds.examples(200)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        questions = asked(dice, world)
        after = copy.deepcopy(world)
        dice.shuffle(after["bindings"])
        for role in after["document"]["roles"].values():
            dice.shuffle(role["rules"])
            dice.shuffle(role["includes"])
        if after["key"]:
            for name in ("scopes", "bindings", "allowed_cidrs"):
                dice.shuffle(after["key"][name])
        assert told(answers(world, questions)) == told(answers(after, questions))

    run()


def test_an_inheriting_key_may_do_what_both_it_and_its_owner_may() -> None:
    """ALLOW is exactly the intersection: of the key's list in a keyspace that does not inherit, and of the owner."""
    both: Counter[str] = Counter()

    @worlds.examples(300)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = listed(dice)
        world["owner"] = worlds.ALICE
        inheriting = copy.deepcopy(world)
        inheriting["document"]["inherit"] = True
        owning = copy.deepcopy(world)
        owning["key"]["ceiling"] = "OWNER"
        questions = asked(dice, world)
        for mine, owners, actual in zip(
            answers(world, questions), answers(owning, questions), answers(inheriting, questions), strict=True
        ):
            assert actual.allowed is (mine.allowed and owners.allowed), (mine, owners, actual, world)
            both[f"{mine.allowed}, {owners.allowed}"] += 1

    run()
    worlds.assert_reached(both, ("True, True", "True, False", "False, True", "False, False"), 5)


def test_a_binding_counts_from_not_before_until_expires_at() -> None:
    """On a key's list and among its owner's alike; one microsecond outside it gives nothing."""
    rule = worlds.plain_rule(["flows:read"])
    window = {"id": "", "group": False, "keyspace": "ks", "role": "reader", "resources": ["*"], "condition": ""}
    question = worlds.plain_question("flows:read", "flows/a")

    @worlds.examples(60)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = listed(dice)
        world["document"]["roles"]["reader"] = {"includes": [], "rules": [rule]}
        world["owner"] = worlds.ALICE
        world["key"] |= {"environment": "live", "allowed_cidrs": [], "scopes": []}
        for not_before, expires_at in ((NOW, NOW + 2), (None, NOW + 2), (NOW, None), (None, None), (NOW, NOW)):
            bound = window | {"not_before": not_before, "expires_at": expires_at}
            mine = world | {"key": world["key"] | {"bindings": [bound]}}
            owners = world | {"bindings": [bound], "key": world["key"] | {"ceiling": "OWNER", "bindings": []}}
            for now in range(NOW - 2, NOW + 5):
                inside = (not_before is None or now >= not_before) and (expires_at is None or now < expires_at)
                for case in (mine, owners):
                    (decision,) = answers(case, [question], now)
                    assert decision.allowed is inside, (now - NOW, decision, case)

    run()


def test_moving_every_instant_changes_nothing() -> None:
    """Only differences between instants count: a world moved in time answers the same then.

    But for conditions that name an instant, which are left out here.
    """

    def moved(value: object, by: int) -> object:
        if isinstance(value, dict):
            return {name: inner if name == "attributes" else moved(inner, by) for name, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner, by) for inner in value]
        if isinstance(value, str) and "context.time" in value:
            return ""
        return value + by if isinstance(value, int) and not isinstance(value, bool) else value

    @worlds.examples(200)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        questions = asked(dice, world)
        by = dice.choice((-NOW + 5, -1, 1, 86_400_000_000))
        now, later = moved(world, 0), moved(world, by)
        assert isinstance(now, dict)
        assert isinstance(later, dict)
        assert answers(now, questions) == answers(later, questions, NOW + by)

    run()


def test_who_is_limited_by_nothing_was_granted_nothing() -> None:
    """No compiled subject is like that; should one ever be, the default is deny."""

    @worlds.examples(50)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = healthy(dice)
        world["document"]["authenticated"] = []
        keyspace = translated.compiled(world)
        subject = dataclasses.replace(translated.subject(world, keyspace), ceiling=None, roles=None)
        for question in asked(dice, world):
            assert not decide(subject, translated.question(question, world), keyspace, NOW).allowed

    run()


def test_deciding_is_a_function() -> None:
    """The same question twice has the same answer, and asking changes nothing."""

    @worlds.examples(100)
    @given(worlds.dice())
    def run(dice: Random) -> None:
        world = worlds.generate(dice)
        before = copy.deepcopy(world)
        questions = asked(dice, world)
        keyspace = translated.compiled(world)
        subject = translated.subject(world, keyspace)
        forth = [decide(subject, translated.question(question, world), keyspace, NOW) for question in questions]
        back = [
            decide(subject, translated.question(question, world), keyspace, NOW) for question in reversed(questions)
        ]
        assert forth == back[::-1]
        assert world == before

    run()
