"""Decisions over the wire: AIIA's scopes and tenants, FactoryThread's owners, environments, networks, windows, DENY."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from doorward.v1 import keyspaces_pb2
from doorward_server.core.model import SECOND
from doorward_server.service.keyspace_file import load_keyspace
from tests.wire.serving import EXAMPLES, Held, Server, refused
from tests.wire.tenants import HOUR, Tenant, asked, question, reason_of, stamp

AIIA = load_keyspace((EXAMPLES / "aiia.yaml").read_text("utf-8"))
OWNER = keys.CEILING_OWNER

SCOPES = {
    "read:universe": {"universe:read", "hierarchies:read"},
    "read:findings": {"findings:read", "action_plans:read", "tracker_logs:read"},
    "write:evidence": {"evidence:create", "test_procedures:attach"},
    "write:findings": {"findings:create", "findings:update", "recommendations:create", "action_plans:update-status"},
    "admin:sync": {"connectors:refresh", "hierarchies:sync"},
}
"""As AIIA's documentation describes them; nothing is implied by the spelling."""


def flows(tenant: Tenant, text: str, action: str = "flows:execute", about: str = "flows/a", **fields: Any) -> str:
    request = question(text, action, about, **{"keyspace": "factorythread", **fields})
    if request.resource.type == "flows":
        request.resource.attributes["published"].flag = True
    return reason_of(tenant.root.authz.Authorize(request))


# --- AIIA -------------------------------------------------------------------------------------------------------------


def test_the_scopes_of_aiia_are_those_of_its_documentation() -> None:
    assert AIIA.roles.keys() - {"admin:all"} == SCOPES.keys()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_allows_its_actions_and_no_others(acme: Tenant, scope: str) -> None:
    text = acme.key(scopes=[scope]).text
    items = [authz.BatchAuthorizeItem(action=action) for action in sorted(AIIA.permissions)]
    answer = acme.root.authz.BatchAuthorize(
        authz.BatchAuthorizeRequest(key=text, keyspace="aiia", organization=acme.id, items=items)
    )
    outcomes = {item.action: reason_of(result) for item, result in zip(items, answer.results, strict=True)}
    assert {action for action, reason in outcomes.items() if reason == "ALLOWED"} == SCOPES[scope]
    assert set(outcomes.values()) == {"ALLOWED", "SCOPE_INSUFFICIENT"}


def test_no_scope_reaches_another_tenant(acme: Tenant, globex: Tenant) -> None:
    text = acme.key(scopes=["admin:all", *SCOPES]).text
    for action in sorted(AIIA.permissions):
        assert asked(globex, text, action=action) == "ORGANIZATION_MISMATCH"
    assert asked(acme, text, action="connectors:refresh") == "ALLOWED"
    assert asked(acme, text, organization="nobody0") == "ORGANIZATION_MISMATCH"


def test_a_denial_says_what_is_missing_and_an_allow_which_rule_it_was(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"], metadata={"team": "ops"}, type="ci")
    ask = question(held.text, "findings:update", keyspace="aiia", organization=acme.id)
    denied = acme.root.authz.Authorize(ask)
    assert list(denied.missing_permissions) == ["findings:update"]
    assert not denied.HasField("rule")
    assert denied.message == "This API key lacks the scope for this."
    allowed = acme.root.authz.Authorize(question(held.text, "findings:read", keyspace="aiia", organization=acme.id))
    assert allowed.rule == authz.MatchedRule(role="read:findings", rule=0)
    assert list(allowed.missing_permissions) == []
    who = allowed.identity
    assert (who.key_id, who.key_name, who.organization) == (held.id, "a key", acme.id)
    assert (who.masked_key, who.environment, who.key_type) == (held.key.masked, "live", "ci")
    assert (list(who.scopes), dict(who.metadata), who.ceiling) == (
        ["read:findings"],
        {"team": "ops"},
        keys.CEILING_LIST,
    )
    assert not who.HasField("owner")
    assert allowed.revision == acme.server.app.store.revision()


def test_a_key_is_good_for_its_own_environment(acme: Tenant) -> None:
    live = acme.key(scopes=["read:findings"]).text
    test = acme.key(scopes=["read:findings"], environment="test").text
    assert asked(acme, live) == asked(acme, live, environment="live") == "ALLOWED"
    assert asked(acme, test, environment="test") == "ALLOWED"
    assert asked(acme, test) == asked(acme, live, environment="test") == "ENVIRONMENT_MISMATCH"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.1.2.3", "ALLOWED"),
        ("::ffff:10.1.2.3", "ALLOWED"),
        ("2001:db8::1", "ALLOWED"),
        ("192.0.2.7", "ALLOWED"),
        ("192.0.2.8", "NETWORK_NOT_ALLOWED"),
        ("11.0.0.1", "NETWORK_NOT_ALLOWED"),
        ("2001:db9::1", "NETWORK_NOT_ALLOWED"),
        ("", "NETWORK_NOT_ALLOWED"),
    ],
)
def test_a_key_is_good_in_its_networks_only(acme: Tenant, address: str, reason: str) -> None:
    networks = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]
    text = acme.key(scopes=["read:findings"], allowed_cidrs=networks).text
    assert asked(acme, text, context=authz.Context(client_ip=address)) == reason


# --- FactoryThread ----------------------------------------------------------------------------------------------------


def test_a_key_of_the_organization_alone_may_what_its_list_says(acme: Tenant) -> None:
    text = acme.key(
        "factorythread", bindings=[keys.KeyBinding(role="flow-access", resources=["flows/a", "flows/b"])]
    ).text
    assert flows(acme, text) == flows(acme, text, about="flows/b") == "ALLOWED"
    assert flows(acme, text, "executions:list", "flows/a") == "ALLOWED"
    assert flows(acme, text, about="flows/c") == "RESOURCE_NOT_GRANTED"
    assert flows(acme, text, "connections:manage", "connections/x") == "SCOPE_INSUFFICIENT"


def test_a_key_does_at_most_what_its_owner_may_at_this_moment(acme: Tenant) -> None:
    person = acme.person()
    text = acme.key("factorythread", owner=person, scopes=["full-access"]).text
    assert flows(acme, text) == "OWNER_PERMISSION_INSUFFICIENT"
    binding = acme.bind("factorythread", "editor", principal=person)
    assert flows(acme, text) == "ALLOWED"
    assert flows(acme, text, "connections:manage", "connections/x") == "OWNER_PERMISSION_INSUFFICIENT"
    acme.unbind(binding)
    assert flows(acme, text) == "OWNER_PERMISSION_INSUFFICIENT"


def test_a_keys_own_list_narrows_its_owner(acme: Tenant) -> None:
    person = acme.person()
    acme.bind("factorythread", "admin", principal=person)
    narrow = acme.key("factorythread", owner=person, scopes=["read-only"]).text
    whole = acme.key("factorythread", owner=person, ceiling=OWNER).text
    assert flows(acme, narrow, "flows:get") == flows(acme, whole) == "ALLOWED"
    assert flows(acme, whole, "connections:manage", "connections/x") == "ALLOWED"
    assert flows(acme, narrow) == "SCOPE_INSUFFICIENT"


def test_a_group_gives_its_roles_for_as_long_as_one_is_in_it(acme: Tenant) -> None:
    person = acme.person()
    group = acme.group(person)
    acme.bind("factorythread", "editor", "flows/a", group=group)
    text = acme.key("factorythread", owner=person, ceiling=OWNER).text
    assert flows(acme, text) == "ALLOWED"
    assert flows(acme, text, about="flows/b") == "RESOURCE_NOT_GRANTED"
    acme.root.directory.RemoveGroupMember(
        directory.RemoveGroupMemberRequest(organization=acme.id, group=group, principal=person)
    )
    assert flows(acme, text) == "OWNER_PERMISSION_INSUFFICIENT"
    acme.root.directory.AddGroupMember(
        directory.AddGroupMemberRequest(organization=acme.id, group=group, principal=person)
    )
    assert flows(acme, text) == "ALLOWED"
    acme.root.directory.DeleteGroup(directory.DeleteGroupRequest(organization=acme.id, id=group))
    assert flows(acme, text) == "OWNER_PERMISSION_INSUFFICIENT"


@pytest.fixture
def owned(acme: Tenant) -> Held:
    """A key that works, of a principal called "alice"."""
    acme.bind("factorythread", "editor", principal=acme.person("alice"))
    held = acme.key("factorythread", owner="alice", ceiling=OWNER)
    assert flows(acme, held.text) == "ALLOWED"
    return held


def test_disabling_an_owner_stops_its_keys_at_once_and_enabling_frees_them(acme: Tenant, owned: Held) -> None:
    assert acme.enable_person("alice", False).keys == 1
    assert flows(acme, owned.text) == "OWNER_DISABLED"
    refusal = refused(lambda: acme.key("factorythread", owner="alice"))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "PRINCIPAL_IS_DISABLED")
    assert acme.enable_person("alice", False).keys == 0
    assert acme.enable_person("alice", True).keys == 1
    assert flows(acme, owned.text) == "ALLOWED"
    assert [e.note for e in acme.events("principals:update")] == ["1 keys stopped", "1 keys work again"]


def test_disabling_an_organization_stops_its_keys_at_once_and_enabling_frees_them(acme: Tenant, owned: Held) -> None:
    plain = acme.key(scopes=["read:findings"])
    assert acme.enable(False).keys == 2
    assert flows(acme, owned.text) == asked(acme, plain.text) == "ORGANIZATION_DISABLED"
    refusal = refused(acme.key)
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "ORGANIZATION_IS_DISABLED")
    assert acme.enable(True).keys == 2
    assert flows(acme, owned.text) == asked(acme, plain.text) == "ALLOWED"
    assert [e.note for e in acme.events("organizations:update")] == ["2 keys stopped", "2 keys work again"]


def test_a_deleted_owner_takes_its_keys_along_for_good(acme: Tenant, owned: Held) -> None:
    other = acme.key(scopes=["read:findings"])
    answer = acme.root.directory.DeletePrincipal(directory.DeletePrincipalRequest(organization=acme.id, id="alice"))
    assert answer.keys == 1
    assert flows(acme, owned.text) == "KEY_REVOKED"
    key = acme.get(owned.id)
    assert (key.state, key.revoke_reason) == (keys.KEY_STATE_REVOKED, "its owner was deleted")
    assert asked(acme, other.text) == "ALLOWED"
    assert [e.target for e in acme.events("principals:delete")] == ["alice", owned.id]
    refusal = refused(lambda: acme.person("alice"))
    assert refusal.reason == "ALREADY_EXISTS"
    left = acme.root.directory.ListBindings(directory.ListBindingsRequest(organization=acme.id))
    assert list(left.bindings) == []


def test_a_deleted_organization_takes_its_keys_along_for_good(acme: Tenant, owned: Held) -> None:
    delete = directory.DeleteOrganizationRequest(id=acme.id)
    assert acme.root.directory.DeleteOrganization(delete).keys == 1
    assert flows(acme, owned.text) == "ORGANIZATION_DISABLED"
    assert refused(lambda: acme.root.directory.DeleteOrganization(delete)).reason == "NOT_FOUND"
    taken = directory.CreateOrganizationRequest(organization=directory.Organization(id=acme.id))
    assert refused(lambda: acme.root.directory.CreateOrganization(taken)).reason == "ALREADY_EXISTS"
    assert acme.server.app.store.verify_chain(acme.id).ok


def test_a_binding_counts_within_its_window(acme: Tenant) -> None:
    clock, person = acme.server.clock, acme.person()
    begin, end = clock.now + HOUR * SECOND, clock.now + 2 * HOUR * SECOND
    acme.bind("factorythread", "editor", principal=person, not_before=stamp(begin), expires_at=stamp(end))
    window = keys.KeyBinding(role="flow-access", not_before=stamp(begin), expires_at=stamp(end))
    by_owner = acme.key("factorythread", owner=person, ceiling=OWNER).text
    by_list = acme.key("factorythread", bindings=[window]).text
    outcomes = []
    for moment in (begin - 1, begin, end - 1, end):
        clock.now = moment
        outcomes.append((flows(acme, by_owner) == "ALLOWED", flows(acme, by_list) == "ALLOWED"))
    assert outcomes == [(False, False), (True, True), (True, True), (False, False)]


# --- DENY -------------------------------------------------------------------------------------------------------------

LOCKS = """
keyspace: locks
prefix: lk
credentials: [{header: x-api-key}]
inherit: true
ceilings: [list, owner]
types: {doors: [open, paint], rooms: [enter]}
authenticated: [rooms:enter]
roles:
  opener: {rules: [{actions: [doors:open]}]}
  no-vault: {rules: [{effect: DENY, actions: ["doors:*"], resources: [doors/vault, doors/vault/*]}]}
  guard: {includes: [opener, no-vault]}
"""


@pytest.fixture(scope="module")
def locks(server: Server) -> None:
    server.api().keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=LOCKS))


@pytest.mark.usefixtures("locks")
def test_a_deny_rule_beats_every_allow(acme: Tenant) -> None:
    def opens(text: str, about: str) -> str:
        return asked(acme, text, keyspace="locks", action="doors:open", about=about)

    for scopes in (["guard"], ["opener", "no-vault"], ["no-vault", "opener"]):
        text = acme.key("locks", scopes=scopes).text
        assert opens(text, "doors/1") == "ALLOWED"
        assert opens(text, "doors/vault") == opens(text, "doors/vault/inner") == "DENIED_BY_RULE"
    answer = acme.root.authz.Authorize(question(text, "doors:open", "doors/vault", keyspace="locks"))
    assert answer.rule == authz.MatchedRule(role="no-vault", rule=0)


@pytest.mark.usefixtures("locks")
def test_a_deny_rule_of_a_group_reaches_its_members_keys(acme: Tenant) -> None:
    person = acme.person()
    acme.bind("locks", "opener", principal=person)
    text = acme.key("locks", owner=person, scopes=["opener"]).text
    assert asked(acme, text, keyspace="locks", action="doors:open", about="doors/vault") == "ALLOWED"
    acme.bind("locks", "no-vault", group=acme.group(person))
    assert asked(acme, text, keyspace="locks", action="doors:open", about="doors/vault") == "DENIED_BY_RULE"
    assert asked(acme, text, keyspace="locks", action="doors:open", about="doors/1") == "ALLOWED"


@pytest.mark.usefixtures("locks")
def test_what_any_valid_key_may_asks_for_no_role_but_for_everything_else(acme: Tenant, globex: Tenant) -> None:
    held = acme.key("locks")
    assert asked(acme, held.text, keyspace="locks", action="rooms:enter") == "ALLOWED"
    assert asked(globex, held.text, keyspace="locks", action="rooms:enter") == "ORGANIZATION_MISMATCH"
    acme.update(held.id, enabled=False)
    assert asked(acme, held.text, keyspace="locks", action="rooms:enter") == "KEY_DISABLED"


def test_a_changed_keyspace_decides_from_the_next_call_on(acme: Tenant) -> None:
    source = LOCKS.replace("keyspace: locks", "keyspace: moods").replace("prefix: lk", "prefix: md")
    apply = acme.root.keyspaces.ApplyKeyspace
    apply(keyspaces_pb2.ApplyKeyspaceRequest(source=source))
    text = acme.key("moods", scopes=["opener"]).text
    assert asked(acme, text, keyspace="moods", action="doors:open") == "ALLOWED"
    changed = source.replace(
        "opener: {rules: [{actions: [doors:open]}]}", "opener: {rules: [{actions: [doors:paint]}]}"
    )
    assert apply(keyspaces_pb2.ApplyKeyspaceRequest(source=changed, dry_run=True)).diff
    assert asked(acme, text, keyspace="moods", action="doors:open") == "ALLOWED"
    apply(keyspaces_pb2.ApplyKeyspaceRequest(source=changed))
    assert asked(acme, text, keyspace="moods", action="doors:open") == "SCOPE_INSUFFICIENT"
    assert asked(acme, text, keyspace="moods", action="doors:paint") == "ALLOWED"
