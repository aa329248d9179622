"""What FactoryThread's keys may do, and how they are refused; docs/systems/factorythread.md maps sentences to tests."""

from __future__ import annotations

from typing import Any

import pytest

from doorward import HttpRequest, IssuedKey, KeyBinding, RequiredRelation, Selector
from tests.conformance.products import EXAMPLES, Customer, Desk, Product, text_of
from tests.wire.tenants import never_made

EVERYTHING = [
    *(f"flows:{verb}" for verb in ("get", "list", "execute", "create", "update", "delete", "publish")),
    "executions:get",
    "executions:list",
    "connections:manage",
    "management:access",
]
VIEWS = ["flows:get", "flows:list", "executions:get", "executions:list"]


@pytest.fixture(scope="module")
def product(desk: Desk) -> Product:
    return desk.product(EXAMPLES / "factorythread.yaml")


@pytest.fixture(scope="module")
def acme(product: Product) -> Customer:
    """A customer with two flows that are published."""
    acme = product.customer("acme")
    acme.put("flows/abc123", published=True)
    acme.put("flows/def456", published=True)
    return acme


def selected(*flows: str) -> list[KeyBinding]:
    """The form's "specific flows", with their executions by paths of their own."""
    return [KeyBinding("flow-access", [it for flow in flows for it in (f"flows/{flow}", f"executions/{flow}/*")])]


def bearing(key: IssuedKey | str, scheme: str = "Bearer") -> HttpRequest:
    return HttpRequest(headers={"Authorization": f"{scheme} {text_of(key)}", "Content-Type": "application/json"})


def linked(key: IssuedKey | str) -> HttpRequest:
    return HttpRequest(query=f"api_key={text_of(key)}")


def allowed(customer: Customer, key: IssuedKey) -> list[str]:
    """All that a key may do, about the flow abc123 where it is about a flow."""
    about = {"flows": "flows/abc123", "executions": "flows/abc123"}
    return [it for it in EVERYTHING if customer.ask(key, it, about.get(it.partition(":")[0]))]


def refusal(decision: Any) -> tuple[str, int]:
    """Why, and what an HTTP client is answered."""
    assert not decision
    return str(decision.reason), decision.http.status


# --- where a key is ---------------------------------------------------------------------------------------------------


def test_a_key_in_the_authorization_header_triggers_a_flow(acme: Customer) -> None:
    key = acme.key("full-access")
    assert acme.ask(bearing(key), "flows:execute", "flows/abc123")
    assert acme.ask(bearing(key, "bearer"), "flows:execute", "flows/abc123")


def test_a_key_in_the_query_triggers_a_flow(acme: Customer) -> None:
    key = text_of(acme.key("full-access"))
    assert acme.ask(HttpRequest(query=f"api_key={key}"), "flows:execute", "flows/abc123")
    assert acme.ask(HttpRequest(query=f"page=2&api_key={key}"), "flows:execute", "flows/abc123")
    for other in (f"key={key}", f"API_KEY={key}", f"token={key}"):
        missing = acme.ask(HttpRequest(query=other), "flows:execute", "flows/abc123")
        assert refusal(missing) == ("CREDENTIAL_MISSING", 401)


def test_a_custom_endpoint_on_the_workspaces_own_host_takes_the_key_in_the_query(acme: Customer) -> None:
    """Whose URL it is does not matter: which flow it stands for is FactoryThread's to know."""
    key = acme.key(bindings=selected("abc123"))
    request = HttpRequest(headers={"Host": "your-workspace.factorythread.io"}, query=f"api_key={text_of(key)}")
    assert acme.ask(request, "flows:execute", "flows/abc123")
    assert not acme.ask(request, "flows:execute", "flows/def456")


def test_a_key_in_both_places_is_one_and_two_keys_are_none(acme: Customer) -> None:
    key, other = text_of(acme.key("full-access")), text_of(acme.key("full-access"))
    header = {"Authorization": f"Bearer {key}"}
    assert acme.ask(HttpRequest(headers=header, query=f"api_key={key}"), "flows:execute", "flows/abc123")
    two = acme.ask(HttpRequest(headers=header, query=f"api_key={other}"), "flows:execute", "flows/abc123")
    assert refusal(two) == ("CREDENTIAL_AMBIGUOUS", 401)


# --- full access ------------------------------------------------------------------------------------------------------


def test_full_access_executes_any_flow(acme: Customer) -> None:
    key = acme.key("full-access")
    acme.put("flows/made-later", published=True)
    for flow in ("abc123", "def456", "made-later"):
        assert acme.ask(key, "flows:execute", f"flows/{flow}")


def test_full_access_views_all_executions(acme: Customer) -> None:
    key = acme.key("full-access")
    assert acme.ask(key, "executions:list")
    assert acme.ask(key, "executions:list", "flows/def456")
    assert acme.ask(key, "executions:get", "executions/1", parent="flows/def456")


def test_full_access_has_the_management_api(acme: Customer) -> None:
    key = acme.key("full-access")
    assert acme.ask(key, "management:access")
    for verb in ("create", "update", "delete", "publish"):
        assert acme.ask(key, f"flows:{verb}", "flows/abc123")


def test_full_access_manages_connections_while_the_owner_is_an_admin(acme: Customer) -> None:
    alice = acme.person("editor")
    key = acme.key("full-access", owner=alice)
    denied = acme.ask(key, "connections:manage", "connections/erp")
    assert refusal(denied) == ("OWNER_PERMISSION_INSUFFICIENT", 403)
    assert denied.missing_permissions == ("connections:manage",)
    promotion = acme.bind("admin", principal=alice)
    assert acme.ask(key, "connections:manage", "connections/erp")
    assert allowed(acme, key) == EVERYTHING
    acme.unbind(promotion)
    assert not acme.ask(key, "connections:manage", "connections/erp")
    assert allowed(acme, key) == [it for it in EVERYTHING if it != "connections:manage"]


def test_a_key_of_nobody_manages_no_connections(acme: Customer) -> None:
    denied = acme.ask(acme.key("full-access"), "connections:manage")
    assert refusal(denied) == ("CONTEXT_MISSING", 403)
    assert denied.missing_context == ("principal.id",)


def test_no_key_manages_connections_but_one_with_full_access(acme: Customer) -> None:
    alice = acme.person("admin")
    for key in (acme.key("read-only", owner=alice), acme.key(bindings=selected("abc123"), owner=alice)):
        assert acme.ask(key, "connections:manage").reason == "SCOPE_INSUFFICIENT"


def test_a_disabled_owner_takes_their_keys_along(acme: Customer) -> None:
    alice = acme.person("admin")
    key = acme.key("full-access", owner=alice)
    assert acme.ask(key, "flows:execute", "flows/abc123")
    acme.change_person(alice, enabled=False)
    assert refusal(acme.ask(key, "flows:execute", "flows/abc123")) == ("OWNER_DISABLED", 401)


# --- specific flows ---------------------------------------------------------------------------------------------------


def test_specific_flows_executes_only_those(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123"))
    assert acme.ask(key, "flows:execute", "flows/abc123")
    assert refusal(acme.ask(key, "flows:execute", "flows/def456")) == ("RESOURCE_NOT_GRANTED", 403)
    assert acme.ask(key, "flows:execute").reason == "RESOURCE_NOT_GRANTED"
    both = acme.key(bindings=selected("abc123", "def456"))
    assert acme.ask(both, "flows:execute", "flows/abc123")
    assert acme.ask(both, "flows:execute", "flows/def456")


def test_specific_flows_views_the_executions_of_those(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123"))
    for verb in ("get", "list"):
        assert acme.ask(key, f"executions:{verb}", "flows/abc123")
        assert acme.ask(key, f"executions:{verb}", "flows/def456").reason == "RESOURCE_NOT_GRANTED"
    assert acme.ask(key, "executions:get", "executions/abc123/1")
    assert acme.ask(key, "executions:get", "executions/def456/1").reason == "RESOURCE_NOT_GRANTED"
    assert acme.ask(key, "executions:list").reason == "RESOURCE_NOT_GRANTED"


def test_specific_flows_accesses_nothing_else(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123"))
    assert allowed(acme, key) == ["flows:get", "flows:execute", "executions:get", "executions:list"]
    for action in EVERYTHING:
        assert not acme.ask(key, action)
        assert not acme.ask(key, action, "flows/def456")


def test_which_flows_are_accessible_is_told(acme: Customer) -> None:
    told = acme.resources(acme.key(bindings=selected("abc123", "def456")), "flows:execute", type="flows")
    assert [it.pattern for it in told.allowed] == ["flows/abc123", "flows/def456"]
    assert [it.conditions for it in told.allowed] == [("resource.published",)] * 2


def test_flows_can_be_added_to_a_key_and_taken_away(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123"))
    acme.root.update_key(key.key.id, organization=acme.id, bindings=selected("def456"))
    assert not acme.ask(key, "flows:execute", "flows/abc123")
    assert acme.ask(key, "flows:execute", "flows/def456")


# --- read-only --------------------------------------------------------------------------------------------------------


def test_read_only_views_flow_definitions(acme: Customer) -> None:
    key = acme.key("read-only")
    assert acme.ask(key, "flows:list")
    assert acme.ask(key, "flows:get", "flows/abc123")


def test_read_only_views_execution_history(acme: Customer) -> None:
    key = acme.key("read-only")
    assert acme.ask(key, "executions:list")
    assert acme.ask(key, "executions:list", "flows/def456")
    assert acme.ask(key, "executions:get", "executions/abc123/1")


def test_read_only_triggers_nothing(acme: Customer) -> None:
    key = acme.key("read-only", owner=acme.person("admin"))
    assert refusal(acme.ask(key, "flows:execute", "flows/abc123")) == ("SCOPE_INSUFFICIENT", 403)


def test_read_only_modifies_nothing(acme: Customer) -> None:
    key = acme.key("read-only", owner=acme.person("admin"))
    assert allowed(acme, key) == VIEWS
    assert [it for it in EVERYTHING if acme.ask(key, it)] == VIEWS


# --- executions belong to flows ---------------------------------------------------------------------------------------


def test_who_maintains_a_flow_sees_its_executions(acme: Customer) -> None:
    alice = acme.person("maintainer")
    key = acme.key("full-access", owner=alice)
    acme.put("executions/11", parent="flows/abc123")
    acme.put("executions/12", parent="flows/def456")
    assert acme.ask(key, "executions:get", "executions/11").reason == "RELATION_MISSING"
    acme.relate(f"flows/abc123#maintainer@user:{alice}")
    assert acme.ask(key, "executions:get", "executions/11")
    assert acme.ask(key, "executions:get", "executions/12").reason == "RELATION_MISSING"
    assert acme.ask(key, "executions:get", "executions/13", parent="flows/abc123")
    assert not acme.ask(key, "executions:get", "executions/12", parent="flows/abc123")
    assert acme.ask(key, "flows:execute", "flows/abc123")
    assert acme.ask(key, "flows:execute", "flows/def456").reason == "RELATION_MISSING"
    (told,) = acme.resources(key, "executions:get", type="executions").allowed
    assert told == Selector("executions/*", (RequiredRelation("maintainer", on_parent=True),))
    acme.unrelate(f"flows/abc123#maintainer@user:{alice}")
    assert not acme.ask(key, "executions:get", "executions/11")


# --- authentication failed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("send", [bearing, linked], ids=["header", "query"])
def test_an_incorrect_key_is_a_401(acme: Customer, send: Any) -> None:
    text = text_of(acme.key("full-access"))
    swapped = text[:-8] + ("A" if text[-8] != "A" else "B") + text[-7:]
    for typed in (swapped, text[:-1], f"{text} "):
        assert refusal(acme.ask(send(typed), "flows:list")) == ("CREDENTIAL_MALFORMED", 401)
    assert refusal(acme.ask(send(never_made("ft")), "flows:list")) == ("KEY_UNKNOWN", 401)
    deleted = acme.key("full-access")
    acme.root.delete_key(deleted.key.id, organization=acme.id)
    assert refusal(acme.ask(send(deleted), "flows:list")) == ("KEY_REVOKED", 401)


def test_an_expired_key_is_a_401(acme: Customer) -> None:
    key = acme.key("full-access", expires="30d")
    acme.desk.advance(30 * 86_400)
    assert refusal(acme.ask(bearing(key), "flows:list")) == ("KEY_EXPIRED", 401)


def test_a_revoked_key_is_a_401(acme: Customer) -> None:
    key = acme.key("full-access")
    acme.root.revoke_key(key.key.id, organization=acme.id)
    assert refusal(acme.ask(bearing(key), "flows:list")) == ("KEY_REVOKED", 401)


@pytest.mark.parametrize("value", ["{key}", "Basic {key}", "ApiKey {key}", "Bearer:{key}", "Bearer", ""])
def test_a_wrong_header_format_is_a_401(acme: Customer, value: str) -> None:
    text = text_of(acme.key("full-access"))
    denied = acme.ask(HttpRequest(headers={"Authorization": value.format(key=text)}), "flows:list")
    assert refusal(denied) == ("CREDENTIAL_MISSING", 401)
    assert denied.http is not None
    assert dict(denied.http.headers)["WWW-Authenticate"] == 'Bearer realm="factorythread"'


def test_whether_a_key_is_active_can_be_asked(acme: Customer) -> None:
    key = acme.key("full-access")
    assert acme.whose(key)
    acme.root.revoke_key(key.key.id, organization=acme.id)
    assert acme.whose(key).reason == "KEY_REVOKED"


# --- permission denied ------------------------------------------------------------------------------------------------


def test_a_key_that_lacks_the_flow_is_a_403(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123"))
    assert refusal(acme.ask(bearing(key), "flows:execute", "flows/def456")) == ("RESOURCE_NOT_GRANTED", 403)


def test_a_key_that_is_read_only_is_a_403(acme: Customer) -> None:
    denied = acme.ask(bearing(acme.key("read-only")), "flows:execute", "flows/abc123")
    assert refusal(denied) == ("SCOPE_INSUFFICIENT", 403)
    assert denied.missing_permissions == ("flows:execute",)


def test_a_flow_that_is_not_published_is_a_403_for_every_key(acme: Customer) -> None:
    alice = acme.person("admin")
    keys = [
        acme.key("full-access"),
        acme.key("full-access", owner=alice),
        acme.key(bindings=selected("draft")),
    ]
    acme.put("flows/draft", published=False)
    for key in keys:
        assert refusal(acme.ask(bearing(key), "flows:execute", "flows/draft")) == ("CONDITION_FALSE", 403)
        assert acme.ask(key, "flows:get", "flows/draft")
    acme.put("flows/draft", published=True)
    assert all(acme.ask(bearing(key), "flows:execute", "flows/draft") for key in keys)


def test_a_flow_is_published_by_what_is_stored_and_not_by_what_a_request_says(acme: Customer) -> None:
    key = acme.key("full-access")
    acme.put("flows/draft", published=False)
    assert not acme.ask(key, "flows:execute", "flows/draft", attributes={"published": True})
    unheard = acme.ask(key, "flows:execute", "flows/unheard-of")
    assert refusal(unheard) == ("CONTEXT_MISSING", 403)
    assert unheard.missing_context == ("resource.published",)
    assert acme.ask(key, "flows:execute", "flows/unheard-of", attributes={"published": True})


def test_updating_its_permissions_lets_a_key_through_from_the_next_call_on(acme: Customer) -> None:
    key = acme.key("read-only")
    assert not acme.ask(key, "flows:execute", "flows/abc123")
    acme.root.update_key(key.key.id, organization=acme.id, scopes=["full-access"])
    assert acme.ask(key, "flows:execute", "flows/abc123")


def test_why_a_key_is_denied_can_be_explained(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123"))
    told = acme.explain(key, "flows:execute", "flows/def456")
    assert told.decision.reason == "RESOURCE_NOT_GRANTED"
    assert told.steps[-1].rules[0].outcome == "RESOURCE_NOT_MATCHED"


def test_a_key_of_another_workspace_is_a_403(acme: Customer, product: Product) -> None:
    globex = product.customer("globex")
    globex.put("flows/abc123", published=True)
    denied = globex.ask(bearing(acme.key("full-access")), "flows:execute", "flows/abc123")
    assert refusal(denied) == ("ORGANIZATION_MISMATCH", 403)


# --- a compromised key ------------------------------------------------------------------------------------------------


def test_the_drill_for_a_compromised_key(acme: Customer) -> None:
    """Revoke, replace, update integrations, see when it was used last; and the old one stays dead."""
    alice = acme.person("editor")
    leaked = acme.key(bindings=selected("abc123"), owner=alice, name="erp-order-sync-production", expires="90d")
    assert acme.ask(bearing(leaked), "flows:execute", "flows/abc123")
    acme.root.revoke_key(leaked.key.id, organization=acme.id, reason="compromised")
    assert refusal(acme.ask(bearing(leaked), "flows:execute", "flows/abc123")) == ("KEY_REVOKED", 401)
    old = acme.root.get_key(leaked.key.id, organization=acme.id)
    fresh = acme.key(bindings=old.bindings, owner=old.owner, name=old.name, type=old.type, expires=old.expires_at)
    assert acme.ask(bearing(fresh), "flows:execute", "flows/abc123")
    assert not acme.ask(bearing(fresh), "flows:execute", "flows/def456")
    assert acme.used(leaked, acme.desk.now).last_used_at == acme.desk.now
    assert (old.revoke_reason, old.revoked_at) == ("compromised", acme.desk.now)


def test_all_affected_keys_can_be_revoked_at_once(acme: Customer) -> None:
    alice = acme.person("editor")
    affected = [acme.key("full-access", owner=alice) for _ in range(3)]
    bystander = acme.key("full-access", owner=acme.person("editor"))
    revoked = acme.root.batch_revoke_keys(
        reason="unauthorized use", organization=acme.id, owner=alice, expected_count=3
    )
    assert revoked.count == 3
    assert [acme.ask(it, "flows:list").reason for it in affected] == ["KEY_REVOKED"] * 3
    assert acme.ask(bystander, "flows:list")


def test_the_files_own_tests_pass_where_it_is_applied(desk: Desk, product: Product) -> None:
    results = desk.root.test_keyspace(name=product.keyspace)
    assert len(results) == 35
    assert all(result.passed for result in results)
