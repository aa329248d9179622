"""Facts that go with questions, explanations and lists: as requests, as values, and on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import Result

from doorward import Decision, Effect, Question, Reason, RuleOutcome, Selector, SentRelation, Step
from doorward.calls import authz, decided, listing
from doorward.decision import HttpAnswer, RequiredRelation
from doorward.v1 import authz_pb2, directory_pb2
from tests.client.door import Door

Run = Callable[..., Result]
NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)
KEY = "aiia_key_live_canary0123456789"

# --- requests ---------------------------------------------------------------------------------------------------------


def told(question: authz.Deciding, answer: authz_pb2.AuthorizeResponse) -> Decision:
    """What a client returns for an answer."""
    return question.check(decided.read_decision(answer))


def test_what_is_known_goes_along() -> None:
    request: Any = authz.authorize(
        "k",
        keyspace="clinic",
        action="notes:read",
        resource="notes/a/1",
        attributes={"open": True, "severity": 3, "weight": 1.5, "ward": "north", "tags": ["a", "b"]},
        parent="cases/7",
        relations=[SentRelation("doctor"), SentRelation("doctor", "cases/7", group="staff")],
        client_ip="10.0.0.1",
        at=NOON,
        facts={"mfa": False},
    ).request
    attributes = request.resource.attributes
    assert (attributes["open"].flag, attributes["severity"].integer, attributes["weight"].number) == (True, 3, 1.5)
    assert (attributes["ward"].text, list(attributes["tags"].texts.values)) == ("north", ["a", "b"])
    assert request.resource.parent == authz_pb2.ResourceReference(type="cases", id="7")
    mine, theirs = request.relations
    assert (mine.relation, mine.HasField("resource"), mine.WhichOneof("subject")) == ("doctor", False, None)
    assert (theirs.resource.id, theirs.group) == ("7", "staff")
    assert request.context.time.ToDatetime(UTC) == NOON
    assert request.context.attributes["mfa"] == directory_pb2.AttributeValue(flag=False)


def test_each_question_of_a_batch_has_facts_of_its_own() -> None:
    first = Question("notes:read", "notes/1", attributes={"open": True}, parent="cases/7")
    second = Question("notes:read", "notes/2", relations=[SentRelation("writer", principal="alice")])
    request: Any = authz.batch_authorize("k", keyspace="clinic", questions=[first, second], facts={"mfa": True}).request
    assert request.items[0].resource.attributes["open"].flag
    assert request.items[0].resource.parent.id == "7"
    assert request.items[1].relations[0].principal == "alice"
    assert request.context.attributes["mfa"].flag


def test_facts_without_a_resource_are_refused_before_they_are_sent() -> None:
    for about in ({"attributes": {"open": True}}, {"parent": "cases/7"}):
        with pytest.raises(ValueError, match="say of which"):
            authz.authorize("k", keyspace="clinic", action="notes:read", **about)
    for parent in ("cases", "cases/"):
        with pytest.raises(ValueError, match="has no id"):
            authz.authorize("k", keyspace="clinic", action="notes:read", resource="notes/1", parent=parent)
    both = SentRelation("doctor", principal="alice", group="staff")
    with pytest.raises(ValueError, match="one principal's or one group's"):
        authz.authorize("k", keyspace="clinic", action="notes:read", resource="notes/1", relations=[both])
    with pytest.raises(ValueError, match="time zone"):
        authz.authorize("k", keyspace="clinic", action="notes:read", at=datetime(2027, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("assigned", SentRelation("assigned")),
        ("assigned@user:a@acme.example", SentRelation("assigned", principal="a@acme.example")),
        ("cases/a/7#doctor", SentRelation("doctor", "cases/a/7")),
        ("cases/7#doctor@group:staff", SentRelation("doctor", "cases/7", group="staff")),
    ],
)
def test_a_relation_is_read_as_it_is_written(text: str, relation: SentRelation) -> None:
    assert SentRelation.parse(text) == relation


@pytest.mark.parametrize("text", ["", "a b", "cases/7#", "doctor@alice", "doctor@user:", "#doctor"])
def test_other_texts_are_no_relations(text: str) -> None:
    with pytest.raises(ValueError, match="is no relation"):
        SentRelation.parse(text)


def test_an_explanation_asks_exactly_what_authorize_asks() -> None:
    asked: dict[str, Any] = {
        "keyspace": "clinic", "action": "notes:read", "resource": "notes/1", "organization": "acme",
        "parent": "cases/7", "relations": [SentRelation("doctor")], "attributes": {"open": True},
        "client_ip": "10.0.0.1", "at": NOON, "facts": {"mfa": True}, "environment": "test",
    }  # fmt: skip
    explaining: Any = listing.explain_authorization("k", **asked).request
    assert explaining.question == authz.authorize("k", **asked).request


# --- answers ----------------------------------------------------------------------------------------------------------

DENIED = authz_pb2.AuthorizeResponse(
    decision=authz_pb2.DECISION_DENY,
    reason=authz_pb2.REASON_CONTEXT_MISSING,
    message="A fact is not known.",
    missing_context=["context.mfa"],
    http=authz_pb2.HttpAnswer(status=403, headers=[authz_pb2.HttpHeader(name="X", value="y")], body="{}"),
)
RULE = authz_pb2.ConsideredRule(
    rule=authz_pb2.MatchedRule(role="closer", binding="binding_1", rule=2),
    effect=authz_pb2.EFFECT_ALLOW,
    outcome=authz_pb2.RULE_OUTCOME_CONDITION_MISSING,
    condition="context.mfa",
    missing_context=["context.mfa"],
    held="boss",
)
EXPLAINED = authz_pb2.ExplainAuthorizationResponse(
    answer=DENIED,
    steps=[
        authz_pb2.TraceStep(step=authz_pb2.DECISION_STEP_STATE, reason=authz_pb2.REASON_ALLOWED),
        authz_pb2.TraceStep(step=authz_pb2.DECISION_STEP_OWNER, reason=authz_pb2.REASON_CONTEXT_MISSING, rules=[RULE]),
    ],
)
ACTIONS = authz_pb2.ListAllowedActionsResponse(
    actions=["notes:create", "notes:read"], reason=authz_pb2.REASON_ALLOWED, missing_context=["context.mfa"], revision=7
)
RESOURCES = authz_pb2.ListAccessibleResourcesResponse(
    allowed=[
        authz_pb2.ResourceSelector(
            pattern="notes/*",
            relations=[authz_pb2.RequiredRelation(relation="doctor", on_parent=True)],
            conditions=["resource.open"],
        )
    ],
    denied=[authz_pb2.ResourceSelector(pattern="notes/secret")],
    reason=authz_pb2.REASON_ALLOWED,
    groups=["staff"],
)


def test_an_answer_holds_what_to_send_and_what_was_missing() -> None:
    decision = told(authz.authorize("k", keyspace="clinic", action="notes:read"), DENIED)
    assert (decision.reason, decision.missing_context) == (Reason.CONTEXT_MISSING, ("context.mfa",))
    assert decision.http == HttpAnswer(403, (("X", "y"),), "{}")
    assert (
        told(authz.authorize("k", keyspace="clinic", action="notes:read"), authz_pb2.AuthorizeResponse()).http is None
    )


def test_explanations_and_lists_become_values() -> None:
    explained = listing.explain_authorization("k", keyspace="clinic", action="notes:read").read(EXPLAINED)
    assert explained.decision.reason is Reason.CONTEXT_MISSING
    assert [(step.step, step.reason) for step in explained.steps] == [
        (Step.STATE, Reason.ALLOWED), (Step.OWNER, Reason.CONTEXT_MISSING)
    ]  # fmt: skip
    rule = explained.steps[1].rules[0]
    assert (rule.rule.role, rule.held, rule.effect) == ("closer", "boss", Effect.ALLOW)
    assert (rule.outcome, rule.condition) == (RuleOutcome.CONDITION_MISSING, "context.mfa")
    actions = listing.list_allowed_actions("k", keyspace="clinic").read(ACTIONS)
    assert (actions.actions, actions.revision, actions.identity) == (("notes:create", "notes:read"), 7, None)
    resources = listing.list_accessible_resources("k", keyspace="clinic", action="notes:read").read(RESOURCES)
    doctors = Selector("notes/*", (RequiredRelation("doctor", on_parent=True),), ("resource.open",))
    assert (resources.allowed, resources.denied) == ((doctors,), (Selector("notes/secret"),))
    assert resources.groups == ("staff",)


def test_words_of_a_later_version_are_unknown() -> None:
    step: Any = authz_pb2.TraceStep(rules=[authz_pb2.ConsideredRule()])
    step.step = step.reason = step.rules[0].effect = step.rules[0].outcome = 99
    answer = authz_pb2.ExplainAuthorizationResponse(steps=[step])
    first = listing.explain_authorization("k", keyspace="clinic", action="notes:read").read(answer).steps[0]
    assert (first.step, first.reason) == (Step.UNKNOWN, Reason.UNKNOWN)
    assert (first.rules[0].effect, first.rules[0].outcome) == (Effect.UNKNOWN, RuleOutcome.UNKNOWN)
    assert not told(authz.authorize("k", keyspace="clinic", action="notes:read"), answer.answer)


# --- the command line -------------------------------------------------------------------------------------------------

FACTS = (
    "--keyspace", "clinic", "--attribute", "open=true", "--parent", "cases/7", "--relation", "doctor",
    "--relation", "cases/7#doctor@group:staff", "--context", "mfa=true", "--at", "2027-01-15T12:00Z",
)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "rpc"),
    [
        (("authorize", "notes:read", "notes/1"), "Authorize"),
        (("explain", "notes:read", "notes/1"), "ExplainAuthorization"),
        (("allowed-actions", "notes/1"), "ListAllowedActions"),
    ],
)
def test_facts_are_typed_as_options(command: tuple[str, ...], rpc: str, run: Run, door: Door) -> None:
    run(*command, *FACTS, stdin=KEY)
    assert door.last.rpc == rpc
    request = getattr(door.last.request, "question", door.last.request)
    assert (request.key, request.resource.parent.id, len(request.relations)) == (KEY, "7", 2)
    assert request.resource.attributes["open"].flag
    assert request.context.attributes["mfa"].flag
    assert request.context.time.ToDatetime(UTC) == NOON


def test_explain_shows_steps_and_rules(run: Run, door: Door) -> None:
    door.will("ExplainAuthorization", EXPLAINED)
    done = run("explain", "notes:read", "--keyspace", "clinic", "--principal", "acme/alice")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "state          passed",
        "owner          CONTEXT_MISSING",
        "  ALLOW rule 2 of closer, held as boss by binding binding_1: condition missing (context.mfa)",
        "DENIED CONTEXT_MISSING: A fact is not known.",
        "Nobody gave: context.mfa",
    ]
    told = json.loads(run("explain", "notes:read", "--keyspace", "clinic", "--output", "json", stdin=KEY).stdout)
    assert told["steps"][1]["rules"][0]["condition"] == "context.mfa"


def test_lists_are_one_entry_a_line(run: Run, door: Door) -> None:
    door.will("ListAllowedActions", ACTIONS)
    done = run("allowed-actions", "--keyspace", "clinic", stdin=KEY)
    assert done.stdout.splitlines() == [
        "notes:create", "notes:read", "There might be more, were this known: context.mfa"
    ]  # fmt: skip
    door.will("ListAccessibleResources", RESOURCES)
    done = run("accessible-resources", "notes:read", "--keyspace", "clinic", stdin=KEY)
    assert done.stdout.splitlines() == ["notes/* if parent.doctor where resource.open", "not notes/secret"]
    nothing = authz_pb2.ListAccessibleResourcesResponse(reason=authz_pb2.REASON_KEY_REVOKED, message="Ended.")
    door.will("ListAccessibleResources", nothing)
    done = run("accessible-resources", "notes:read", "--keyspace", "clinic", stdin=KEY)
    assert (done.exit_code, done.stdout) == (0, "DENIED KEY_REVOKED: Ended.\n")
    assert KEY not in done.output
