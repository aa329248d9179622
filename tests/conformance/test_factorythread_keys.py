"""FactoryThread's keys from their making to their end; docs/systems/factorythread.md says which test is about what."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from doorward import HttpRequest, InvalidField, IssuedKey, KeyBinding, KeyIsRevoked, KeyState, NotFound, NotRecoverable
from tests.conformance.products import EXAMPLES, Customer, Desk, Product, identity_of, text_of

DAY = 86_400


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
    """The form's "specific flows"."""
    return [KeyBinding("flow-access", [f"flows/{flow}" for flow in flows])]


def status(decision: Any) -> int:
    assert decision.http is not None
    return int(decision.http.status)


# --- creating ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Production Integration", "Partner Access", "Development Testing"])
def test_a_key_has_a_descriptive_name(acme: Customer, name: str) -> None:
    made = acme.key("full-access", name=name, expires="90d")
    assert (made.key.name, made.warnings) == (name, ())
    with pytest.raises(InvalidField) as refused:
        acme.key("full-access", name="")
    assert refused.value.metadata["field"] == "name"


def test_a_key_may_have_a_description(acme: Customer) -> None:
    notes = "Used by the ERP system to trigger order sync flows"
    made = acme.key("full-access", description=notes)
    assert acme.root.get_key(made.key.id, organization=acme.id).description == notes
    assert acme.key("full-access").key.description == ""


def test_a_key_without_an_expiration_lives_on_and_production_is_warned_of_it(acme: Customer) -> None:
    made = acme.key("read-only", name="erp-order-sync-production")
    assert made.key.expires_at is None
    assert [it.code for it in made.warnings] == ["NO_EXPIRY"]
    sandbox = acme.key("read-only", name="erp-order-sync-sandbox", environment="test", expires="none")
    assert (sandbox.key.expires_at, sandbox.warnings) == (None, ())
    acme.desk.advance(2 * 365 * DAY)
    assert acme.ask(made, "flows:list")


@pytest.mark.parametrize(("preset", "days"), [("30d", 30), ("90d", 90), ("1y", 365)])
def test_a_key_expires_after_30_days_90_days_or_a_year(acme: Customer, preset: Any, days: int) -> None:
    made = acme.key("read-only", expires=preset)
    assert made.key.expires_at == acme.desk.now + timedelta(days=days)
    acme.desk.advance(days * DAY - 1)
    assert acme.ask(made, "flows:list")
    acme.desk.advance(1)
    assert acme.ask(made, "flows:list").reason == "KEY_EXPIRED"


def test_a_key_expires_at_the_end_of_a_custom_date(acme: Customer) -> None:
    made = acme.key("read-only", expires=date(2041, 12, 31))
    assert made.key.expires_at == datetime(2042, 1, 1, tzinfo=UTC)
    there = acme.key("read-only", expires=date(2041, 12, 31), time_zone="America/New_York")
    assert there.key.expires_at == datetime(2042, 1, 1, 5, tzinfo=UTC)


def test_other_expirations_are_not_for_choice(acme: Customer) -> None:
    with pytest.raises(InvalidField) as refused:
        acme.key("read-only", expires=timedelta(days=60))
    assert refused.value.metadata["field"] == "expiry"


def test_a_key_has_exactly_one_of_the_three_permissions(acme: Customer) -> None:
    for scopes, bindings in (
        ((), ()),
        (("full-access", "read-only"), ()),
        (("read-only",), selected("abc123")),
        ((), selected("abc123") + selected("def456")),
    ):
        with pytest.raises(InvalidField, match="exactly 1"):
            acme.key(*scopes, bindings=bindings)
    for made in (acme.key("full-access"), acme.key("read-only"), acme.key(bindings=selected("abc123", "def456"))):
        assert acme.ask(made, "executions:list", "flows/abc123")


@pytest.mark.parametrize("patterns", [(), ("*",), ("flows/*",), ("flows",), ("flows/abc123", "flows/*"), ("*/abc123",)])
def test_specific_flows_with_none_chosen_is_refused_and_never_all(acme: Customer, patterns: tuple[str, ...]) -> None:
    none_chosen = [KeyBinding("flow-access", patterns)]
    with pytest.raises(InvalidField) as refused:
        acme.key(bindings=none_chosen)
    assert refused.value.metadata["field"] == "bindings"
    made = acme.key(bindings=selected("abc123"))
    with pytest.raises(InvalidField):
        acme.root.update_key(made.key.id, organization=acme.id, bindings=none_chosen)
    assert not acme.ask(made, "flows:execute", "flows/def456")


def test_specific_flows_is_not_given_without_flows(acme: Customer) -> None:
    with pytest.raises(InvalidField) as refused:
        acme.key("flow-access")
    assert refused.value.metadata["field"] == "scopes"
    made = acme.key(bindings=selected("abc123"))
    with pytest.raises(InvalidField):
        acme.root.update_key(made.key.id, organization=acme.id, bindings=[], scopes=["flow-access"])


def test_a_user_makes_keys_that_do_at_most_what_the_user_may(acme: Customer) -> None:
    alice = acme.person("editor")
    own = acme.key("full-access", owner=alice, client=acme.member(alice))
    assert acme.ask(own, "flows:execute", "flows/abc123")
    bob = acme.person()
    powerless = acme.key("full-access", owner=bob, client=acme.member(bob))
    assert acme.ask(powerless, "flows:execute", "flows/abc123").reason == "OWNER_PERMISSION_INSUFFICIENT"


def test_the_whole_key_is_shown_once(acme: Customer) -> None:
    request = "0b3d5cf2-4a3c-4f0e-9f0a-2b6f1a1b7c11"
    made = acme.key("full-access", request_id=request)
    again = acme.key("full-access", request_id=request)
    assert (again.key.id, again.replayed, again.secret) == (made.key.id, True, None)
    shown = [acme.root.get_key(made.key.id, organization=acme.id), *acme.root.list_keys(organization=acme.id)]
    assert text_of(made) not in f"{shown!r} {made!r}"


def test_a_lost_key_cannot_be_shown_again_and_a_new_one_is_generated(acme: Customer) -> None:
    made = acme.key("read-only")
    with pytest.raises(NotRecoverable):
        acme.root.reveal_key(made.key.id, organization=acme.id)
    assert acme.ask(acme.root.rotate_key(made.key.id, organization=acme.id), "flows:list")


@pytest.mark.parametrize("environment", ["live", "test"])
def test_a_key_is_its_environments_prefix_and_40_characters(acme: Customer, environment: str) -> None:
    text = text_of(acme.key("full-access", environment=environment))
    assert text.startswith(f"ft_{environment}_")
    assert len(text.removeprefix(f"ft_{environment}_")) == 40
    assert text.removeprefix(f"ft_{environment}_").isalnum()


def test_a_sandbox_key_does_nothing_in_production_and_the_other_way_round(acme: Customer) -> None:
    live, test = acme.key("read-only"), acme.key("read-only", environment="test")
    assert acme.ask(live, "flows:list")
    assert acme.ask(test, "flows:list", environment="test")
    assert acme.ask(test, "flows:list").reason == "ENVIRONMENT_MISMATCH"
    assert acme.ask(live, "flows:list", environment="test").reason == "ENVIRONMENT_MISMATCH"


# --- the list, and details --------------------------------------------------------------------------------------------


def test_the_list_has_name_creation_last_use_expiration_and_status(acme: Customer) -> None:
    made = acme.key("read-only", name="internal-reporting-tool", expires="30d")
    assert acme.ask(made, "flows:list")
    acme.used(made, acme.desk.now)
    (row,) = acme.root.list_keys(organization=acme.id, name_contains="internal-reporting-tool")
    assert (row.name, row.created_at, row.last_used_at, row.expires_at, row.state) == (
        "internal-reporting-tool",
        acme.desk.now,
        acme.desk.now,
        acme.desk.now + timedelta(days=30),
        KeyState.ACTIVE,
    )


def test_the_status_is_active_expired_or_revoked(acme: Customer) -> None:
    def states() -> list[KeyState]:
        return [acme.root.get_key(it.key.id, organization=acme.id).state for it in (active, expired, revoked)]

    active, revoked = acme.key("read-only"), acme.key("read-only")
    expired = acme.key("read-only", expires="30d")
    assert states() == [KeyState.ACTIVE] * 3
    acme.desk.advance(30 * DAY)
    acme.root.revoke_key(revoked.key.id, organization=acme.id)
    assert states() == [KeyState.ACTIVE, KeyState.EXPIRED, KeyState.REVOKED]
    listed = acme.root.list_keys(organization=acme.id, keyspace="factorythread", states=[KeyState.EXPIRED])
    assert expired.key.id in [it.id for it in listed]


def test_details_are_the_full_configuration_and_the_associated_flows(acme: Customer) -> None:
    alice = acme.person("editor")
    made = acme.key(
        bindings=selected("abc123", "def456"),
        owner=alice,
        name="partner-acme-integration",
        description="Orders",
        type="partner",
        expires="90d",
        allowed_cidrs=["192.0.2.0/24"],
        metadata={"team": "orders"},
    )
    shown = acme.root.get_key(made.key.id, organization=acme.id)
    assert (shown.name, shown.description, shown.type, shown.owner) == (
        "partner-acme-integration", "Orders", "partner", alice,
    )  # fmt: skip
    assert (shown.environment, shown.allowed_cidrs, dict(shown.metadata)) == (
        "live", ("192.0.2.0/24",), {"team": "orders"},
    )  # fmt: skip
    assert [(it.role, tuple(it.resources)) for it in shown.bindings] == [
        ("flow-access", ("flows/abc123", "flows/def456"))
    ]


# --- regenerate, revoke, delete ---------------------------------------------------------------------------------------


def test_regenerating_ends_the_old_value_at_once_and_keeps_the_settings(acme: Customer) -> None:
    made = acme.key(bindings=selected("abc123"), name="mobile-app-v2-access", description="App", expires="90d")
    acme.desk.advance(DAY)
    again = acme.root.rotate_key(made.key.id, organization=acme.id)
    assert text_of(again) != text_of(made)
    assert acme.ask(made, "flows:execute", "flows/abc123").reason == "SECRET_SUPERSEDED"
    assert acme.ask(again, "flows:execute", "flows/abc123")
    assert not acme.ask(again, "flows:execute", "flows/def456")
    for setting in ("id", "name", "description", "bindings", "scopes", "expires_at", "environment", "type", "owner"):
        assert getattr(again.key, setting) == getattr(made.key, setting), setting


def test_revoking_takes_effect_immediately_and_requests_fail(acme: Customer) -> None:
    made = acme.key("full-access")
    request = HttpRequest(headers={"Authorization": f"Bearer {text_of(made)}"})
    assert acme.ask(request, "flows:execute", "flows/abc123")
    acme.root.revoke_key(made.key.id, organization=acme.id, reason="no longer needed")
    for action in ("flows:execute", "flows:get", "executions:list"):
        denied = acme.ask(request, action, "flows/abc123")
        assert (denied.reason, status(denied)) == ("KEY_REVOKED", 401)


def test_revoking_cannot_be_undone(acme: Customer) -> None:
    made = acme.key("full-access")
    acme.root.revoke_key(made.key.id, organization=acme.id)
    with pytest.raises(KeyIsRevoked):
        acme.root.update_key(made.key.id, organization=acme.id, enabled=True)
    with pytest.raises(KeyIsRevoked):
        acme.root.rotate_key(made.key.id, organization=acme.id)
    acme.root.revoke_key(made.key.id, organization=acme.id)
    assert acme.ask(made, "flows:list").reason == "KEY_REVOKED"


def test_deleting_removes_a_key_from_the_list_and_ends_it(acme: Customer) -> None:
    made = acme.key("full-access", name="to be deleted")
    acme.root.delete_key(made.key.id, organization=acme.id)
    assert list(acme.root.list_keys(organization=acme.id, name_contains="to be deleted")) == []
    with pytest.raises(NotFound):
        acme.root.get_key(made.key.id, organization=acme.id)
    assert acme.ask(made, "flows:list").reason == "KEY_REVOKED"


# --- best practices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "poor"),
    [
        ("erp-order-sync-production", False),
        ("partner-acme-integration", False),
        ("mobile-app-v2-access", False),
        ("internal-reporting-tool", False),
        ("key1", True),
        ("test", True),
        ("my key", True),
        ("asdf", True),
    ],
)
def test_poor_names_are_warned_of_and_good_ones_are_not(acme: Customer, name: str, poor: bool) -> None:
    made = acme.key("read-only", name=name, expires="30d")
    assert [it.code for it in made.warnings] == ["NAME_SAYS_NOTHING"] * poor


@pytest.mark.parametrize(("type", "days"), [("production", 90), ("partner", 180), ("development", 30), ("ci", 90)])
def test_keys_are_to_be_rotated_as_often_as_their_type_says(acme: Customer, type: str, days: int) -> None:
    made = acme.key("read-only", type=type)
    assert made.key.rotate_by == acme.desk.now + timedelta(days=days)
    acme.desk.advance(10 * DAY)
    rotated = acme.root.rotate_key(made.key.id, organization=acme.id)
    assert rotated.key.rotate_by == acme.desk.now + timedelta(days=days)


def test_live_keys_are_of_production_and_sandbox_keys_of_development_unless_said(acme: Customer) -> None:
    assert acme.key("read-only").key.type == "production"
    assert acme.key("read-only", environment="test").key.type == "development"
    assert acme.key("read-only", environment="test", type="ci").key.type == "ci"
    with pytest.raises(InvalidField, match="production, partner, development, ci"):
        acme.key("read-only", type="sandbox")


def test_each_integration_has_a_key_of_its_own_and_ends_by_itself(acme: Customer) -> None:
    erp, app = acme.key("full-access", name="erp-order-sync"), acme.key("full-access", name="mobile-app-v2")
    assert identity_of(acme.ask(erp, "flows:list")).key_name == "erp-order-sync"
    acme.root.revoke_key(erp.key.id, organization=acme.id)
    assert not acme.ask(erp, "flows:list")
    assert acme.ask(app, "flows:list")


def test_unused_keys_can_be_found(acme: Customer) -> None:
    used, unused = acme.key("read-only"), acme.key("read-only")
    assert acme.ask(used, "flows:list")
    acme.used(used, acme.desk.now)
    acme.desk.advance(1)

    def found(**conditions: Any) -> list[IssuedKey]:
        ids = [it.id for it in acme.root.list_keys(organization=acme.id, **conditions)]
        return [it for it in (used, unused) if it.key.id in ids]

    assert found(never_used=True) == [unused]
    assert found(last_used_before=acme.desk.now) == [used, unused]
    assert found(last_used_before=acme.desk.now - timedelta(seconds=1)) == [unused]
