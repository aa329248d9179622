"""Why, what, and on what: who may ask, what they are told, and what it must not do."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import keys_pb2 as keys
from tests.wire.clinics import MFA, doctor, put, relate
from tests.wire.replicas import until
from tests.wire.serving import Api, broken, refused
from tests.wire.tenants import Tenant, asked, never_made, question, reason_of


def explain(tenant: Tenant, text: str, action: str, about: str = "", api: Api | None = None, **fields: Any) -> Any:
    asking = question(text, action, about, **{"organization": tenant.id, "keyspace": "aiia", **fields})
    return (api or tenant.root).authz.ExplainAuthorization(authz.ExplainAuthorizationRequest(question=asking))


def steps(answer: Any) -> list[tuple[str, str]]:
    return [
        (
            authz.DecisionStep.Name(step.step).removeprefix("DECISION_STEP_"),
            authz.Reason.Name(step.reason).removeprefix("REASON_"),
        )
        for step in answer.steps
    ]


def rules(step: authz.TraceStep) -> list[tuple[str, str]]:
    return [(it.rule.role, authz.RuleOutcome.Name(it.outcome).removeprefix("RULE_OUTCOME_")) for it in step.rules]


# --- what is told -----------------------------------------------------------------------------------------------------


def test_every_step_that_was_taken_is_told(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    answer = explain(acme, held.text, "findings:read", "findings/1")
    assert steps(answer) == [
        (step, "ALLOWED") for step in ("CREDENTIAL", "STATE", "ORGANIZATION", "ENVIRONMENT", "NETWORK", "CEILING")
    ]
    assert reason_of(answer.answer) == "ALLOWED"
    assert answer.answer.identity.key_id == held.id
    assert rules(answer.steps[-1]) == [("read:findings", "MATCHED")]


def test_the_step_that_denies_is_the_last(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"], allowed_cidrs=["10.0.0.0/8"])
    assert steps(explain(acme, held.text, "findings:read"))[-1] == ("NETWORK", "NETWORK_NOT_ALLOWED")
    inside = authz.Context(client_ip="10.0.0.1")
    denied = explain(acme, held.text, "findings:update", context=inside)
    assert steps(denied)[-1] == ("CEILING", "SCOPE_INSUFFICIENT")
    assert not denied.steps[-1].rules
    acme.revoke(held.id)
    assert steps(explain(acme, held.text, "findings:read"))[-1] == ("STATE", "KEY_REVOKED")
    for text, reason in ((broken(held.text), "CREDENTIAL_MALFORMED"), (never_made("aiia_key"), "KEY_UNKNOWN")):
        answer = explain(acme, text, "findings:read")
        assert steps(answer) == [("CREDENTIAL", reason)]
        assert reason_of(answer.answer) == reason


def test_each_rule_says_why_it_did_not_match(clinic: Tenant) -> None:
    person, key = doctor(clinic, "doctor", "triage", "closer")
    binding = clinic.bind("clinic", "triage", "cases/9", principal=person)
    put(clinic, "cases/1")
    answer = explain(clinic, key.text, "cases:read", "cases/1", keyspace="clinic")
    step = answer.steps[-1]
    assert sorted(rules(step)) == [
        ("doctor", "RELATION_MISSING"), ("triage", "CONDITION_MISSING"), ("triage", "RESOURCE_NOT_MATCHED")
    ]  # fmt: skip
    told = {(it.rule.role, it.rule.binding == binding): it for it in step.rules}
    assert told["doctor", False].relation == "doctor"
    assert told["triage", False].condition == "resource.severity >= 5"
    assert list(told["triage", False].missing_context) == ["resource.severity"]
    assert (reason_of(answer.answer), list(answer.answer.missing_context)) == ("CONTEXT_MISSING", ["resource.severity"])
    relate(clinic, "cases/1", "doctor", principal=person)
    again = explain(clinic, key.text, "cases:read", "cases/1", keyspace="clinic")
    assert (reason_of(again.answer), again.answer.rule.role) == ("ALLOWED", "doctor")


def test_a_principal_has_no_steps_of_a_key(clinic: Tenant) -> None:
    person, _ = doctor(clinic, "closer")
    who = authz.PrincipalReference(organization=clinic.id, principal=person)
    asking = authz.AuthorizeRequest(principal=who, keyspace="clinic", action="cases:close", context=MFA)
    answer = clinic.root.authz.ExplainAuthorization(authz.ExplainAuthorizationRequest(question=asking))
    assert [name for name, _ in steps(answer)] == ["CREDENTIAL", "STATE", "ORGANIZATION", "OWNER"]


# --- who may ask, and what it must not do -----------------------------------------------------------------------------


def test_an_administrator_may_ask_why_and_a_backend_may_not(clinic: Tenant, globex: Tenant) -> None:
    person, key = doctor(clinic, "doctor")
    answer = explain(clinic, key.text, "cases:read", keyspace="clinic", api=clinic.caller("admin"))
    assert (reason_of(answer.answer), steps(answer)[-1][0]) == ("RELATION_MISSING", "OWNER")
    who = authz.PrincipalReference(organization=clinic.id, principal=person)
    asking = authz.AuthorizeRequest(principal=who, keyspace="clinic", action="cases:read")
    request = authz.ExplainAuthorizationRequest(question=asking)
    assert clinic.caller("admin").authz.ExplainAuthorization(request).answer.identity.owner.id == person
    for api in (clinic.caller("backend"), globex.caller("root")):
        refusal = refused(partial(api.authz.ExplainAuthorization, request))
        assert (refusal.reason, refusal.metadata["permission"]) == ("CALLER_FORBIDDEN", "decisions:explain")


def test_a_strangers_key_is_explained_no_further_than_authorize_tells(acme: Tenant, globex: Tenant) -> None:
    held, stranger = acme.key(scopes=["read:findings"]), globex.caller("root")
    answer = explain(globex, held.text, "findings:read", api=stranger)
    assert steps(answer)[-1] == ("ORGANIZATION", "ORGANIZATION_MISMATCH")
    assert not answer.answer.HasField("identity")
    assert not any(step.rules for step in answer.steps)
    assert acme.id not in str(answer)
    assert held.id not in str(answer)


def test_explaining_and_listing_is_no_use_of_the_key(acme: Tenant) -> None:
    held, fence = acme.key(scopes=["read:findings"]), acme.key(scopes=["read:findings"])
    who: dict[str, Any] = {"key": held.text, "keyspace": "aiia", "organization": acme.id}
    explain(acme, held.text, "findings:read")
    acme.root.authz.ListAllowedActions(authz.ListAllowedActionsRequest(**who))
    acme.root.authz.ListAccessibleResources(authz.ListAccessibleResourcesRequest(action="findings:read", **who))
    assert asked(acme, fence.text) == "ALLOWED"
    until(lambda: acme.get(fence.id).HasField("last_used_at"))  # a flush under way may have it: one more proves nothing
    assert not acme.get(held.id).HasField("last_used_at")


def test_no_answer_holds_the_keys_text(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    who: dict[str, Any] = {"key": held.text, "keyspace": "aiia", "organization": acme.id}
    selected = authz.ListAccessibleResourcesRequest(action="findings:read", **who)
    for answer in (
        explain(acme, held.text, "findings:read"),
        acme.root.authz.ListAllowedActions(authz.ListAllowedActionsRequest(**who)),
        acme.root.authz.ListAccessibleResources(selected),
    ):
        assert held.text not in str(answer)
        assert held.text not in acme.server.log.getvalue()


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_about_a_principal_take_the_right_to_impersonate(clinic: Tenant) -> None:
    person, _ = doctor(clinic, "doctor")
    who: dict[str, Any] = {
        "principal": authz.PrincipalReference(organization=clinic.id, principal=person),
        "keyspace": "clinic",
    }
    actions = authz.ListAllowedActionsRequest(**who)
    resources = authz.ListAccessibleResourcesRequest(action="cases:read", **who)
    backend, impersonator = clinic.caller("backend"), clinic.caller("impersonator")
    for refusal in (
        refused(lambda: backend.authz.ListAllowedActions(actions)),
        refused(lambda: backend.authz.ListAccessibleResources(resources)),
    ):
        assert (refusal.reason, refusal.metadata["permission"]) == ("CALLER_FORBIDDEN", "decisions:impersonate")
    assert impersonator.authz.ListAllowedActions(actions).identity.owner.id == person
    assert impersonator.authz.ListAccessibleResources(resources).identity.owner.id == person


def test_selectors_name_relations_conditions_and_groups(clinic: Tenant) -> None:
    person, key = doctor(clinic, "doctor", "triage", "closer")
    group = clinic.group(person)
    who: dict[str, Any] = {"key": key.text, "keyspace": "clinic", "organization": clinic.id}

    def select(action: str, **fields: Any) -> authz.ListAccessibleResourcesResponse:
        request = authz.ListAccessibleResourcesRequest(action=action, **who, **fields)
        return clinic.root.authz.ListAccessibleResources(request)

    notes = select("notes:read")
    assert [(it.pattern, it.relations[0].relation, it.relations[0].on_parent) for it in notes.allowed] == [
        ("notes/*", "doctor", True)
    ]
    assert (list(notes.groups), notes.identity.owner.id) == ([group], person)
    cases = select("cases:read")
    assert [list(it.conditions) for it in cases.allowed if it.conditions] == [["resource.severity >= 5"]]
    closing = select("cases:close")
    assert list(closing.allowed[0].conditions) == ["resource.open && context.mfa"]
    nothing = select("cases:list")
    assert (list(nothing.allowed), authz.Reason.Name(nothing.reason)) == ([], "REASON_OWNER_PERMISSION_INSUFFICIENT")
    assert nothing.http.status == 403
    assert not select("cases:read", type="rooms").denied


@pytest.mark.parametrize(
    ("field", "about"),
    [
        ("resource.type", {"resource": authz.Resource(type="ponds", id="1")}),
        ("all_types", {"all_types": True}),
        ("relations", {"relations": [authz.SentRelation(relation="doctor")]}),
        ("resource.attributes[colour]", {"resource": authz.Resource(
            type="cases", id="1", attributes={"colour": MFA.attributes["mfa"]})}),
    ],
)  # fmt: skip
def test_a_list_of_actions_that_makes_no_sense_is_refused(clinic: Tenant, field: str, about: dict[str, Any]) -> None:
    _, key = doctor(clinic)
    request = authz.ListAllowedActionsRequest(key=key.text, keyspace="clinic", **about)
    refusal = refused(lambda: clinic.root.authz.ListAllowedActions(request))
    assert (refusal.code, refusal.metadata["field"]) == ("INVALID_ARGUMENT", field)


def test_a_list_of_resources_that_makes_no_sense_is_refused(clinic: Tenant) -> None:
    _, key = doctor(clinic)
    for field, action, type in (("action", "cases:burn", ""), ("resource.type", "cases:read", "ponds")):
        request = authz.ListAccessibleResourcesRequest(key=key.text, keyspace="clinic", action=action, type=type)
        refusal = refused(partial(clinic.root.authz.ListAccessibleResources, request))
        assert (refusal.code, refusal.metadata["field"]) == ("INVALID_ARGUMENT", field)


def test_an_empty_list_of_a_bad_key_says_why(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"], ceiling=keys.CEILING_LIST)
    acme.revoke(held.id)
    who: dict[str, Any] = {"key": held.text, "keyspace": "aiia", "organization": acme.id}
    actions = acme.root.authz.ListAllowedActions(authz.ListAllowedActionsRequest(**who))
    selected = acme.root.authz.ListAccessibleResources(
        authz.ListAccessibleResourcesRequest(action="findings:read", **who)
    )
    for answer in (actions, selected):
        assert (answer.reason, answer.http.status) == (authz.REASON_KEY_REVOKED, 401)
        assert answer.identity.key_id == held.id
    assert not actions.actions
    assert not selected.allowed
