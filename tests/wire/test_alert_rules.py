"""SetAlertRule, ListAlertRules and DeleteAlertRule, as callers see them."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.v1 import alerts_pb2 as pb
from doorward.v1 import audit_pb2
from doorward_server.store.transaction import Transaction
from tests.wire.replicas import until
from tests.wire.requests import on_porch
from tests.wire.serving import Server, refused, serving
from tests.wire.tenants import Tenant, stamp

SOON = "{when: expiring, before: [7d]}"
OF_KEYSPACE, OWN = pb.ALERT_RULE_ORIGIN_KEYSPACE, pb.ALERT_RULE_ORIGIN_ORGANIZATION


def put(t: Tenant, name: str, rule: str = "", **fields: Any) -> pb.AlertRule:
    given = on_porch(t, name=name, rule=rule, silenced=not rule, **fields)
    return t.root.alerts.SetAlertRule(pb.SetAlertRuleRequest(**given)).alert_rule


def rules(t: Tenant, **fields: Any) -> list[pb.AlertRule]:
    return list(t.root.alerts.ListAlertRules(pb.ListAlertRulesRequest(**on_porch(t, **fields))).alert_rules)


def delete(t: Tenant, name: str) -> None:
    t.root.alerts.DeleteAlertRule(pb.DeleteAlertRuleRequest(**on_porch(t, name=name)))


def brief(t: Tenant) -> list[tuple[str, str, Any, bool]]:
    return [(it.name, it.rule, it.origin, it.silenced) for it in rules(t)]


def test_an_organization_has_the_keyspaces_rules_until_it_sets_its_own(acme: Tenant, globex: Tenant) -> None:
    shared = [
        ("leak", "{when: leaked}", OF_KEYSPACE, False),
        ("soon", "{when: expiring, before: [30d, 1d]}", OF_KEYSPACE, False),
    ]
    assert brief(acme) == shared
    made = put(acme, "soon", SOON)
    assert (made.organization, made.keyspace, made.name, made.rule) == (acme.id, "porch", "soon", SOON)
    assert (made.origin, made.updated_at) == (OWN, stamp(acme.server.clock.now))
    assert put(acme, "leak").silenced
    put(acme, "idle", "{when: unused, after: 90d}")
    assert brief(acme) == [
        ("idle", "{when: unused, after: 90d}", OWN, False),
        ("leak", "{when: leaked}", OWN, True),
        ("soon", SOON, OWN, False),
    ]
    assert brief(globex) == shared
    for name in ("idle", "leak", "soon"):
        delete(acme, name)
    assert brief(acme) == shared
    assert not any(it.HasField("updated_at") or it.problem for it in rules(acme))


def test_setting_the_same_again_changes_nothing(acme: Tenant) -> None:
    first = put(acme, "soon", f"  {SOON}\n")
    acme.server.clock.advance(60)
    assert put(acme, "soon", SOON) == first
    assert put(acme, "soon", SOON.replace("7d", "8d")).updated_at != first.updated_at
    assert len(acme.events("alert-rules:set")) == 2


def test_changes_are_audited_with_before_and_after(acme: Tenant) -> None:
    alice = acme.member(acme.person("alice"), "admin")
    request = pb.SetAlertRuleRequest(**on_porch(acme, name="soon", rule=SOON))
    alice.alerts.SetAlertRule(request)
    put(acme, "soon")
    delete(acme, "soon")
    (made, silenced), (gone,) = acme.events("alert-rules:set"), acme.events("alert-rules:delete")
    assert (made.actor.principal, made.target_type, made.target) == ("alice", "alert-rule", "porch/soon")
    assert (made.before, made.after) == (None, {"rule": SOON, "silenced": False})
    assert (silenced.before, silenced.after) == (made.after, {"rule": "", "silenced": True})
    assert (gone.before, gone.after) == (silenced.after, None)
    about = audit_pb2.ListEventsRequest(organization=acme.id, filter=audit_pb2.EventFilter(keyspace="porch"))
    told = [it.action for it in acme.root.audit.ListEvents(about).events]
    assert told == ["alert-rules:delete", "alert-rules:set", "alert-rules:set"]


def test_an_administrator_keeps_rules_of_its_own_organization_and_a_viewer_reads_them(
    acme: Tenant, globex: Tenant
) -> None:
    put(globex, "soon", SOON)
    admin, viewer = acme.caller("admin").alerts, acme.caller("viewer").alerts
    own = on_porch(acme, organization="", name="soon")
    made = admin.SetAlertRule(pb.SetAlertRuleRequest(**own, rule=SOON)).alert_rule
    assert made.organization == acme.id
    assert len(viewer.ListAlertRules(pb.ListAlertRulesRequest(keyspace="porch")).alert_rules) == 2
    admin.DeleteAlertRule(pb.DeleteAlertRuleRequest(**own))
    refusal = refused(lambda: admin.DeleteAlertRule(pb.DeleteAlertRuleRequest(**own)))
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "NOT_FOUND"), "another organization's is not one's own"
    assert [it.name for it in rules(globex) if it.origin == OWN] == ["soon"]


def test_rules_are_paged_by_name(acme: Tenant) -> None:
    for n in range(5):
        put(acme, f"rule{n}", "{when: superseded_used}")
    names, token = [], ""
    while True:
        request = pb.ListAlertRulesRequest(**on_porch(acme, page_size=3, page_token=token))
        page = acme.root.alerts.ListAlertRules(request)
        assert 1 <= len(page.alert_rules) <= 3
        names += [it.name for it in page.alert_rules]
        token = page.next_page_token
        if not token:
            break
    assert names == ["leak", *(f"rule{n}" for n in range(5)), "soon"]


def test_there_are_five_of_a_kind_at_most(acme: Tenant) -> None:
    for n in range(5):
        put(acme, f"rule{n}", "{when: superseded_used}")
    refusal = refused(lambda: put(acme, "another", "{when: superseded_used}"))
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    quota = "alert rules with 'when: superseded_used' per organization and keyspace"
    assert refusal.metadata == {"quota": quota, "limit": "5"}
    assert put(acme, "rule0", SOON).rule == SOON
    assert put(acme, "another", "{when: superseded_used}").name == "another"


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"keyspace": ""}, "keyspace", "is required"),
        ({"keyspace": "NO"}, "keyspace", "must be of the form"),
        ({"organization": "a/b"}, "organization", "must be of the form"),
        ({"name": ""}, "name", "is required"),
        ({"name": "a b"}, "name", "must be of the form"),
        ({"name": "x" * 64}, "name", "must be of the form"),
        ({"rule": ""}, "rule", "is required"),
        ({"silenced": True}, "rule", "must be empty where a rule is silenced"),
        ({"rule": "", "silenced": True, "name": "nowhere"}, "name", "the keyspace has no rule of this name"),
        ({"rule": f"{SOON} #{'x' * 2000}"}, "rule", "must have at most 2,000 characters"),
        ({"rule": "{when: \0}"}, "rule", "must not have control characters"),
        ({"rule": "{when: ["}, "rule", "is not valid YAML"),
        ({"rule": "[" * 1000}, "rule", "is nested more than"),
        ({"rule": "leaked"}, "rule", "must be a mapping"),
        ({"rule": "{count: 3}"}, "rule.when", "is required"),
        ({"rule": "{when: sunrise}"}, "rule.when", "must be"),
        ({"rule": "{when: leaked, colour: red}"}, "rule.colour", "is not a word that can stand here"),
        ({"rule": "{when: leaked, count: 3}"}, "rule.count", "does not go with"),
        ({"rule": "{when: expiring, before: [7d, 1w]}"}, "rule.before[1]", "must be a duration"),
        ({"rule": "{when: limit_nearly_used, percent: [50]}"}, "rule", "there are no limits to be nearly used"),
        ({"rule": "{when: rotation_overdue}"}, "rule", "keys.rotation does not say when one is due"),
        ({"rule": "{when: unused, after: 23h}"}, "rule.after", "must be at least 1d"),
        ({"rule": "{when: failed_authentication, count: 1, window: 8d}"}, "rule.window", "must be at most 7d"),
        ({"rule": "{when: unusual_activity, factor: !!bool x}"}, "rule.factor", "is not a plain YAML value"),
    ],
)
def test_a_bad_rule_is_refused_by_field_and_rule_and_changes_nothing(
    acme: Tenant, fields: dict[str, Any], field: str, rule: str
) -> None:
    request = pb.SetAlertRuleRequest(**{**on_porch(acme, name="soon", rule=SOON), **fields})
    before = acme.server.mark(acme.id)
    refusal = refused(lambda: acme.root.alerts.SetAlertRule(request))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata["field"] == field
    assert rule in refusal.metadata["rule"]
    assert acme.server.mark(acme.id) == before
    assert not [it for it in rules(acme) if it.origin == OWN]


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.SetAlertRuleRequest(keyspace="nope", name="soon", rule=SOON), "UNKNOWN_REFERENCE", "keyspace"),
        (pb.ListAlertRulesRequest(keyspace="nope"), "UNKNOWN_REFERENCE", "keyspace"),
        (pb.ListAlertRulesRequest(), "INVALID_FIELD", "keyspace"),
        (pb.ListAlertRulesRequest(keyspace="porch", page_size=-1), "INVALID_FIELD", "page_size"),
        (pb.ListAlertRulesRequest(keyspace="porch", page_token="x"), "PAGE_TOKEN_INVALID", "page_token"),
        (pb.DeleteAlertRuleRequest(keyspace="porch"), "INVALID_FIELD", "name"),
        (pb.DeleteAlertRuleRequest(keyspace="porch", name="A"), "INVALID_FIELD", "name"),
        (pb.DeleteAlertRuleRequest(keyspace="porch", name="soon"), "NOT_FOUND", ""),
    ],
)
def test_what_is_not_there_or_no_word_is_named(acme: Tenant, request_: Any, reason: str, field: str) -> None:
    on_porch(acme)
    rpc = type(request_).__name__.removesuffix("Request")
    refusal = refused(lambda: getattr(acme.caller("admin").alerts, rpc)(request_))
    assert (refusal.reason, refusal.metadata.get("field", "")) == (reason, field)


def test_an_organization_that_is_not_there_has_no_rules(server: Server, acme: Tenant) -> None:
    request = pb.SetAlertRuleRequest(**{**on_porch(acme, name="soon", rule=SOON), "organization": "nobody"})
    refusal = refused(lambda: server.api().alerts.SetAlertRule(request))
    assert (refusal.reason, refusal.metadata["type"]) == ("NOT_FOUND", "organization")


def test_a_server_goes_by_a_rule_without_being_told(acme: Tenant) -> None:
    """Its own chore finds it; a leak is then told of by the rule that holds."""
    put(acme, "leak")
    own, catalog = acme.server.app.watch.own_rules, acme.server.app.keyspaces._catalog
    until(lambda: [it.name for it in own.of(acme.id, catalog.get("porch"))] == ["soon"])
    put(acme, "seen", "{when: leaked}")
    until(lambda: [it.name for it in own.of(acme.id, catalog.get("porch"))] == ["soon", "seen"])
    delete(acme, "leak")
    until(lambda: {it.name for it in own.of(acme.id, catalog.get("porch"))} == {"soon", "seen", "leak"})


def test_a_server_that_starts_knows_the_rules_before_it_serves(acme: Tenant) -> None:
    """Nobody is told in its first seconds of what was silenced before."""
    put(acme, "leak")
    config = acme.server.app.config
    with serving(config.store, config.state_dir, clock=acme.server.clock, furnished=False) as other:
        compiled = other.app.keyspaces._catalog.get("porch")
        assert [it.name for it in other.app.watch.own_rules.of(acme.id, compiled)] == ["soon"]


def test_a_server_whose_cache_begins_anew_reads_all_rules_again(acme: Tenant) -> None:
    """A store that was restored may have other rules, whatever their stamp says."""
    put(acme, "leak")
    app = acme.server.app
    compiled = app.keyspaces._catalog.get("porch")
    until(lambda: [it.name for it in app.watch.own_rules.of(acme.id, compiled)] == ["soon"])

    def restore(tx: Transaction) -> None:
        tx.change("DELETE FROM alert_rule WHERE organization = ?", acme.id)
        tx.change("DELETE FROM replica")

    app.store._write(restore)
    until(lambda: {it.name for it in app.watch.own_rules.of(acme.id, compiled)} == {"soon", "leak"})
