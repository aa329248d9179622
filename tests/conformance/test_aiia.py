"""AIIA, sentence by sentence; docs/systems/aiia.md says which test is about which."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from doorward import (
    CallerForbidden,
    GrantForbidden,
    HttpRequest,
    InvalidField,
    IssuedKey,
    KeyIsRevoked,
    KeyState,
    NotRecoverable,
    UnknownReference,
)
from tests.conformance.products import EXAMPLES, Customer, Desk, Product, identity_of, text_of

SCOPES = {
    "read:universe": {"universe:read", "hierarchies:read"},
    "read:findings": {"findings:read", "action_plans:read", "tracker_logs:read"},
    "write:evidence": {"evidence:create", "test_procedures:attach"},
    "write:findings": {"findings:create", "findings:update", "recommendations:create", "action_plans:update-status"},
    "admin:sync": {"connectors:refresh", "hierarchies:sync"},
}
"""Each with exactly what its description says."""
DAY = 86_400


@pytest.fixture(scope="module")
def product(desk: Desk) -> Product:
    return desk.product(EXAMPLES / "aiia.yaml")


@pytest.fixture(scope="module")
def acme(product: Product) -> Customer:
    return product.customer("acme")


@pytest.fixture(scope="module")
def actions(desk: Desk, product: Product) -> list[str]:
    """Everything that can be asked about."""
    return sorted(desk.root.get_keyspace(product.keyspace).permissions)


def bearing(key: IssuedKey | str, scheme: str = "ApiKey") -> HttpRequest:
    """A request as the document's example has it."""
    return HttpRequest(
        headers={
            "Host": "aiia.organization.com",
            "Authorization": f"{scheme} {text_of(key)}",
            "Accept": "application/json",
        }
    )


def status(decision: Any) -> int:
    assert decision.http is not None
    return int(decision.http.status)


# --- lifecycle and states ---------------------------------------------------------------------------------------------


def test_an_active_key_authenticates_requests_that_match_its_scopes(acme: Customer) -> None:
    key = acme.key("read:findings")
    assert key.key.state is KeyState.ACTIVE
    assert acme.ask(key, "findings:read")
    assert acme.ask(key, "findings:create").reason == "SCOPE_INSUFFICIENT"


def test_a_key_is_rejected_from_the_moment_it_expires(acme: Customer) -> None:
    key = acme.key("read:findings", expires=acme.desk.now + timedelta(hours=1))
    acme.desk.advance(3599)
    assert acme.ask(key, "findings:read")
    acme.desk.advance(1)
    rejected = acme.ask(bearing(key), "findings:read")
    assert (rejected.reason, status(rejected)) == ("KEY_EXPIRED", 401)
    assert acme.root.get_key(key.key.id, organization=acme.id).state is KeyState.EXPIRED


def test_revocation_is_immediate(acme: Customer) -> None:
    key = acme.key("read:findings")
    assert acme.ask(key, "findings:read")
    assert acme.root.revoke_key(key.key.id, organization=acme.id).state is KeyState.REVOKED
    rejected = acme.ask(bearing(key), "findings:read")
    assert (rejected.reason, status(rejected)) == ("KEY_REVOKED", 401)


def test_revocation_is_permanent(acme: Customer) -> None:
    key = acme.key("read:findings")
    acme.root.revoke_key(key.key.id, organization=acme.id)
    with pytest.raises(KeyIsRevoked):
        acme.root.rotate_key(key.key.id, organization=acme.id)
    with pytest.raises(KeyIsRevoked):
        acme.root.update_key(key.key.id, organization=acme.id, enabled=True)
    with pytest.raises(KeyIsRevoked):
        acme.root.update_key(key.key.id, organization=acme.id, expires="1y")
    acme.desk.advance(10 * DAY)
    assert acme.ask(key, "findings:read").reason == "KEY_REVOKED"


def test_an_administrator_revokes_and_the_owner_of_a_key_does_not(acme: Customer) -> None:
    alice = acme.person()
    key = acme.key("read:findings", owner=alice)
    with pytest.raises(CallerForbidden, match="administrator"):
        acme.member(alice).revoke_key(key.key.id, organization=acme.id)
    assert acme.ask(key, "findings:read")
    boss = acme.member(acme.person(), "admin")
    assert boss.revoke_key(key.key.id, organization=acme.id).state is KeyState.REVOKED


# --- scopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_allows_what_its_description_says_and_no_more(acme: Customer, actions: list[str], scope: str) -> None:
    key = acme.key(scope)
    assert {action for action in actions if acme.ask(key, action)} == SCOPES[scope]
    about_one = {action: f"{action.partition(':')[0]}/1" for action in actions}
    assert {action for action, resource in about_one.items() if acme.ask(key, action, resource)} == SCOPES[scope]
    assert set(acme.actions(key).actions) == SCOPES[scope]


def test_write_evidence_cannot_read_what_it_has_written(acme: Customer) -> None:
    key = acme.key("write:evidence")
    assert acme.ask(key, "evidence:create")
    assert acme.ask(key, "test_procedures:attach", "test_procedures/7")
    for action in ("evidence:read", "test_procedures:read", "findings:read", "universe:read"):
        assert acme.ask(key, action).reason == "SCOPE_INSUFFICIENT"


def test_write_findings_cannot_read_findings(acme: Customer) -> None:
    assert acme.ask(acme.key("write:findings"), "findings:read", "findings/42").reason == "SCOPE_INSUFFICIENT"


def test_admin_sync_runs_connectors_and_synchronizes_and_no_more(acme: Customer, actions: list[str]) -> None:
    key = acme.key("admin:sync")
    assert acme.ask(key, "connectors:refresh", "connectors/1")
    assert acme.ask(key, "hierarchies:sync")
    assert not any(acme.ask(key, action) for action in actions if action not in SCOPES["admin:sync"])


def test_a_key_takes_one_or_more_scopes(acme: Customer, actions: list[str]) -> None:
    with pytest.raises(InvalidField) as refused:
        acme.key()
    assert refused.value.metadata["field"] == "scopes"
    several = acme.key("read:findings", "write:evidence")
    assert {it for it in actions if acme.ask(several, it)} == SCOPES["read:findings"] | SCOPES["write:evidence"]
    with pytest.raises(InvalidField):
        acme.root.update_key(several.key.id, organization=acme.id, scopes=[])


def test_a_denial_names_the_permission_that_is_missing(acme: Customer) -> None:
    denied = acme.ask(bearing(acme.key("read:findings")), "findings:create")
    assert (denied.reason, status(denied)) == ("SCOPE_INSUFFICIENT", 403)
    assert denied.missing_permissions == ("findings:create",)


# --- tenant isolation -------------------------------------------------------------------------------------------------


def test_no_scope_reaches_another_organization(acme: Customer, product: Product, actions: list[str]) -> None:
    globex = product.customer("globex")
    for key in (acme.key("admin:all"), acme.key("admin:sync"), acme.key("admin:all", *SCOPES)):
        for action in actions:
            assert globex.ask(key, action).reason == "ORGANIZATION_MISMATCH"
            assert globex.ask(key, action, f"{action.partition(':')[0]}/1").reason == "ORGANIZATION_MISMATCH"
    assert all(acme.ask(acme.key("admin:all"), action) for action in actions)


def test_no_binding_on_everything_reaches_another_organization(acme: Customer, product: Product) -> None:
    globex = product.customer("globex")
    key = acme.key("admin:all", owner=acme.person("admin:all"))
    assert acme.ask(key, "findings:read", "findings/42")
    assert globex.ask(key, "findings:read", "findings/42").reason == "ORGANIZATION_MISMATCH"
    assert globex.resources(key, "findings:read").reason == "ORGANIZATION_MISMATCH"
    assert globex.actions(key).actions == ()
    assert globex.actions(key).reason == "ORGANIZATION_MISMATCH"


def test_whose_data_it_is_must_be_said(acme: Customer) -> None:
    with pytest.raises(InvalidField) as refused:
        acme.ask(acme.key("admin:all"), "findings:read", organization="")
    assert refused.value.metadata["field"] == "organization"


def test_a_key_belongs_to_one_organization_and_says_which(acme: Customer) -> None:
    key = acme.key("read:findings")
    assert key.key.organization == acme.id
    assert identity_of(acme.ask(key, "findings:read")).organization == acme.id


def test_an_administrator_of_one_organization_sees_no_key_of_another(acme: Customer, product: Product) -> None:
    key = acme.key("read:findings")
    globex = product.customer("globex")
    boss = globex.member(globex.person(), "admin")
    with pytest.raises(CallerForbidden):
        boss.get_key(key.key.id, organization=acme.id)
    with pytest.raises(CallerForbidden):
        list(boss.list_keys(organization=acme.id))
    assert key.key.id not in [it.id for it in boss.list_keys(organization=globex.id)]


# --- generating a key -------------------------------------------------------------------------------------------------


def test_a_label_is_needed_and_told(acme: Customer) -> None:
    assert acme.key("read:findings", name="ServiceNow Integration Key").key.name == "ServiceNow Integration Key"
    with pytest.raises(InvalidField) as refused:
        acme.key("read:findings", name="")
    assert refused.value.metadata["field"] == "name"


def test_a_label_that_describes_nothing_gets_a_warning(acme: Customer) -> None:
    assert [it.code for it in acme.key("read:findings", name="test").warnings] == ["NAME_SAYS_NOTHING"]
    assert acme.key("read:findings", name="ServiceNow Integration Key").warnings == ()


@pytest.mark.parametrize(("preset", "days"), [("30d", 30), ("90d", 90), ("1y", 365)])
def test_the_usual_expirations_are_30_days_90_days_and_a_year(acme: Customer, preset: Any, days: int) -> None:
    made = acme.key("read:findings", expires=preset)
    assert made.key.expires_at == acme.desk.now + timedelta(days=days)


def test_a_custom_expiration_is_an_instant_or_a_date(acme: Customer) -> None:
    instant = datetime(2031, 3, 31, 9, 30, tzinfo=UTC)
    assert acme.key("read:findings", expires=instant).key.expires_at == instant
    made = acme.key("read:findings", expires=date(2031, 3, 31), time_zone="Europe/Berlin")
    assert made.key.expires_at == datetime(2031, 3, 31, 22, 0, tzinfo=UTC)


def test_other_spans_are_not_for_choice(acme: Customer) -> None:
    with pytest.raises(InvalidField, match="30 days, 90 days, 365 days") as refused:
        acme.key("read:findings", expires=timedelta(days=45))
    assert refused.value.metadata["field"] == "expiry"


def test_every_key_expires(acme: Customer) -> None:
    with pytest.raises(InvalidField, match="required"):
        acme.key("read:findings", expires="none")
    unsaid = acme.key("read:findings")
    assert unsaid.key.expires_at == acme.desk.now + timedelta(days=90)
    with pytest.raises(InvalidField, match="required"):
        acme.root.update_key(unsaid.key.id, organization=acme.id, expires=None)


def test_only_scopes_that_there_are_can_be_selected(acme: Customer) -> None:
    with pytest.raises(UnknownReference, match="there is no role 'read:everything'"):
        acme.key("read:everything")


def test_an_administrator_generates_keys_and_a_member_cannot_hand_out_scopes(acme: Customer) -> None:
    boss = acme.member(acme.person(), "admin")
    assert acme.ask(acme.key("read:findings", client=boss), "findings:read")
    alice = acme.person()
    with pytest.raises(GrantForbidden):
        acme.key("read:findings", owner=alice, client=acme.member(alice))


def test_the_whole_key_is_shown_once(acme: Customer) -> None:
    made = acme.key("read:findings", request_id="44a0a2f4-0f7e-4c62-9d6b-0d7f5d0b6a11")
    text = text_of(made)
    again = acme.key("read:findings", request_id="44a0a2f4-0f7e-4c62-9d6b-0d7f5d0b6a11")
    assert (again.key.id, again.replayed, again.secret) == (made.key.id, True, None)
    shown = [acme.root.get_key(made.key.id, organization=acme.id), *acme.root.list_keys(organization=acme.id)]
    assert text not in f"{shown!r} {made!r} {acme.ask(made, 'findings:read')!r}"


def test_the_whole_key_is_not_retrievable_later(acme: Customer) -> None:
    made = acme.key("read:findings")
    with pytest.raises(NotRecoverable):
        acme.root.reveal_key(made.key.id, organization=acme.id)


# --- authentication ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["live", "test"])
def test_a_key_begins_with_its_prefix_and_environment(acme: Customer, environment: str) -> None:
    text = text_of(acme.key("read:findings", environment=environment))
    assert text.startswith(f"aiia_key_{environment}_")
    assert len(text) == len(f"aiia_key_{environment}_") + 40


def test_the_key_is_in_the_authorization_header_behind_the_word_apikey(acme: Customer) -> None:
    key = acme.key("read:findings")
    for scheme in ("ApiKey", "apikey", "APIKEY"):
        answer = acme.ask(bearing(key, scheme), "findings:read")
        assert (answer.reason, status(answer)) == ("ALLOWED", 200)


def test_the_key_is_nowhere_else(acme: Customer) -> None:
    key = text_of(acme.key("read:findings"))
    for elsewhere in (
        bearing(key, "Bearer"),
        HttpRequest(headers={"Authorization": key}),
        HttpRequest(headers={"X-Api-Key": key}),
        HttpRequest(query=f"api_key={key}"),
        HttpRequest(),
    ):
        answer = acme.ask(elsewhere, "findings:read")
        assert (answer.reason, status(answer)) == ("CREDENTIAL_MISSING", 401)
        assert answer.http is not None
        assert dict(answer.http.headers)["WWW-Authenticate"] == 'ApiKey realm="aiia"'


def test_the_placeholder_of_the_example_is_no_key(acme: Customer) -> None:
    assert acme.ask(bearing("your_api_key_here"), "findings:read").reason == "CREDENTIAL_MISSING"


# --- best practices ---------------------------------------------------------------------------------------------------


def test_a_key_is_to_be_rotated_after_90_days(acme: Customer) -> None:
    made = acme.key("read:findings", expires="1y")
    assert made.key.rotate_by == acme.desk.now + timedelta(days=90)
    acme.desk.advance(80 * DAY)
    rotated = acme.root.rotate_key(made.key.id, organization=acme.id)
    assert rotated.key.rotate_by == acme.desk.now + timedelta(days=90)
    assert rotated.key.expires_at == made.key.expires_at
    assert acme.ask(made, "findings:read").reason == "SECRET_SUPERSEDED"
    assert acme.ask(rotated, "findings:read")


def test_rotation_is_told_and_not_forced(acme: Customer) -> None:
    made = acme.key("read:findings", expires="1y")
    acme.desk.advance(91 * DAY)
    shown = acme.root.get_key(made.key.id, organization=acme.id)
    assert shown.rotate_by is not None
    assert shown.rotate_by < acme.desk.now
    assert acme.ask(made, "findings:read")


def test_scopes_can_be_taken_away_from_a_key(acme: Customer) -> None:
    made = acme.key("read:findings", "write:findings")
    acme.root.update_key(made.key.id, organization=acme.id, scopes=["read:findings"])
    assert acme.ask(made, "findings:read")
    assert not acme.ask(made, "findings:create")


def test_keys_are_always_shown_masked(acme: Customer) -> None:
    made = acme.key("read:findings")
    masked = "•••••" + text_of(made)[-4:]
    shown = acme.root.get_key(made.key.id, organization=acme.id)
    assert made.key.masked == shown.masked == shown.secrets[0].masked == masked
    assert masked in [it.masked for it in acme.root.list_keys(organization=acme.id)]
    assert identity_of(acme.ask(made, "findings:read")).masked_key == masked


def test_the_files_own_tests_pass_where_it_is_applied(desk: Desk, product: Product) -> None:
    results = desk.root.test_keyspace(name=product.keyspace)
    assert len(results) == 34
    assert all(result.passed for result in results)
