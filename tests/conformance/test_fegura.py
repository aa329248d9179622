"""Fegura, sentence by sentence; docs/systems/fegura.md says which test is about which."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from doorward import CallerForbidden, Decision, HttpRequest, InvalidField, IssuedKey, KeyState, UsageDimension
from tests.conformance.products import EXAMPLES, Customer, Desk, Product, identity_of, text_of
from tests.wire.tenants import never_made

FILE = EXAMPLES / "fegura.yaml"
PRINTED = {"success": False, "error": {"code": "UNAUTHORIZED", "message": "Invalid or missing API key"}}
EVERYTHING = ["accounts:read", "scans:read", "diagrams:read", "scans:create", "operations:trigger"]
READS = EVERYTHING[:3]
WRITES = EVERYTHING[3:]


@pytest.fixture(scope="module")
def product(desk: Desk) -> Product:
    return desk.product(FILE)


@pytest.fixture(scope="module")
def acme(product: Product) -> Customer:
    return product.customer("acme")


def bearing(key: IssuedKey | str, scheme: str = "Bearer", **headers: str) -> HttpRequest:
    """A request as the document's example has it."""
    return HttpRequest(headers={"Authorization": f"{scheme} {text_of(key)}", **headers})


def assert_printed(decision: Decision, reason: str) -> None:
    """Check that an HTTP client is answered as the document prints it."""
    assert (bool(decision), decision.reason) == (False, reason)
    assert decision.http is not None
    assert decision.http.status == 401
    assert json.loads(decision.http.body) == PRINTED
    assert ("Content-Type", "application/json") in decision.http.headers


# --- where a key is, and what it looks like ---------------------------------------------------------------------------


def test_the_key_is_a_bearer_token_in_the_authorization_header(acme: Customer) -> None:
    key = acme.key("read")
    assert acme.ask(bearing(key), "accounts:read")
    assert acme.ask(bearing(key, "bearer"), "accounts:read")
    for scheme in ("Basic", "ApiKey", "Token"):
        assert_printed(acme.ask(bearing(key, scheme), "accounts:read"), "CREDENTIAL_MISSING")
    for elsewhere in ("X-Api-Key", "Cookie", "Fegura-Version"):
        misplaced = HttpRequest(headers={elsewhere: f"Bearer {text_of(key)}"})
        assert_printed(acme.ask(misplaced, "accounts:read"), "CREDENTIAL_MISSING")


def test_the_header_is_needed_in_every_request(acme: Customer) -> None:
    key = acme.key("read")
    assert acme.ask(bearing(key), "accounts:read")
    assert_printed(acme.ask(HttpRequest(), "accounts:read"), "CREDENTIAL_MISSING")


def test_an_administrator_creates_keys_and_nobody_creates_what_they_may_not_hand_out(acme: Customer) -> None:
    boss = acme.member(acme.person(), "admin")
    assert acme.ask(acme.key("write", client=boss), "scans:create")
    nobody = acme.member(acme.person(), "viewer")
    with pytest.raises(CallerForbidden):
        acme.key("write", client=nobody)


@pytest.mark.parametrize("environment", ["live", "test"])
def test_a_key_begins_with_its_environment(acme: Customer, environment: str) -> None:
    made = acme.key("read", environment=environment)
    assert text_of(made).startswith(f"feg_{environment}_")
    assert made.key.environment == environment


def test_a_live_key_has_full_access_to_production_within_its_scope(acme: Customer) -> None:
    live = acme.key("read", environment="live")
    assert acme.key("read").key.environment == "live"
    assert [action for action in EVERYTHING if acme.ask(live, action, environment="live")] == READS
    assert list(acme.actions(live).actions) == sorted(READS)


def test_a_test_key_is_for_development_and_none_of_productions(acme: Customer) -> None:
    test = acme.key("read", environment="test")
    assert acme.ask(test, "accounts:read", environment="test")
    assert_printed(acme.ask(test, "accounts:read"), "ENVIRONMENT_MISMATCH")
    assert_printed(acme.ask(test, "accounts:read", environment="live"), "ENVIRONMENT_MISMATCH")
    assert_printed(acme.ask(acme.key("read"), "accounts:read", environment="test"), "ENVIRONMENT_MISMATCH")


def test_no_answer_but_the_first_has_the_whole_key(acme: Customer) -> None:
    made = acme.key("read")
    text = text_of(made)
    shown = acme.root.get_key(made.key.id, organization=acme.id)
    decision = acme.ask(made, "accounts:read")
    assert shown.masked == identity_of(decision).masked_key
    assert shown.masked.endswith(text[-4:])
    assert text not in f"{shown!r} {made!r} {decision!r}"
    assert text not in acme.desk.server.log.getvalue()


# --- the version ------------------------------------------------------------------------------------------------------


def version_of(decision: Decision) -> str:
    assert decision
    return identity_of(decision).api_version


def test_the_version_is_the_one_the_key_was_created_with(acme: Customer) -> None:
    made = acme.key("read")
    assert made.key.api_version == "2026-02-01"
    assert version_of(acme.ask(bearing(made), "accounts:read")) == "2026-02-01"
    assert identity_of(acme.whose(bearing(made))).api_version == "2026-02-01"


def test_a_request_names_its_version_in_fegura_version(acme: Customer) -> None:
    made = acme.key("read")
    for name in ("Fegura-Version", "fegura-version"):
        assert version_of(acme.ask(bearing(made, **{name: "2026-02-01"}), "accounts:read")) == "2026-02-01"


def test_a_newer_version_leaves_the_keys_that_are_out_where_they_are(desk: Desk) -> None:
    """The document knows one version; that of the day after is made up."""
    text = FILE.read_text("utf-8").replace("keyspace: fegura\n", "keyspace: fegura-later\n")
    customer = desk.product(text).customer()
    old = customer.key("read")
    later = text.replace('versions: ["2026-02-01"]', 'versions: ["2026-02-01", "2026-02-02"]')
    desk.apply(later.replace('  api_version: "2026-02-01"', '  api_version: "2026-02-02"'))
    new = customer.key("read")

    def version(key: IssuedKey, **headers: str) -> str:
        return version_of(customer.ask(bearing(key, **headers), "accounts:read"))

    assert (version(old), version(new)) == ("2026-02-01", "2026-02-02")
    assert version(old, **{"Fegura-Version": "2026-02-02"}) == "2026-02-02"
    assert version(new, **{"Fegura-Version": "2026-02-01"}) == "2026-02-01"
    assert version(old, **{"Fegura-Version": "1999-01-01"}) == "2026-02-01"
    rotated = customer.root.rotate_key(old.key.id, organization=customer.id)
    assert rotated.key.api_version == "2026-02-01"


# --- scopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scopes", [(), ("read", "write")], ids=["none", "both"])
def test_a_key_has_exactly_one_scope(acme: Customer, scopes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidField, match="there must be exactly 1") as refused:
        acme.key(*scopes)
    assert refused.value.metadata["field"] == "scopes"
    held = acme.key("read")
    with pytest.raises(InvalidField):
        acme.root.update_key(held.key.id, organization=acme.id, scopes=scopes)


@pytest.mark.parametrize(("scope", "allowed"), [("read", READS), ("write", WRITES)])
def test_a_scope_limits_a_key_to_what_it_is_described_as(acme: Customer, scope: str, allowed: list[str]) -> None:
    key = acme.key(scope)
    assert [action for action in EVERYTHING if acme.ask(key, action)] == allowed
    about_one = {action: f"{action.partition(':')[0]}/1" for action in EVERYTHING}
    assert [action for action, resource in about_one.items() if acme.ask(key, action, resource)] == allowed


def test_write_does_not_include_reading(acme: Customer) -> None:
    key = acme.key("write")
    assert acme.ask(key, "scans:create")
    for action in READS:
        assert_printed(acme.ask(key, action), "SCOPE_INSUFFICIENT")


# --- errors -----------------------------------------------------------------------------------------------------------


def test_no_key_is_answered_as_printed(acme: Customer) -> None:
    for absent in (HttpRequest(), HttpRequest(headers={"Fegura-Version": "2026-02-01"}), None):
        assert_printed(acme.ask(absent, "accounts:read"), "CREDENTIAL_MISSING")


def test_a_key_that_does_not_exist_is_answered_as_printed(acme: Customer) -> None:
    assert_printed(acme.ask(bearing(never_made("feg")), "accounts:read"), "KEY_UNKNOWN")
    deleted = acme.key("read")
    acme.root.delete_key(deleted.key.id, organization=acme.id)
    assert_printed(acme.ask(bearing(deleted), "accounts:read"), "KEY_REVOKED")
    text = text_of(acme.key("read"))
    for typed in ("feg_live_your_api_key", text[:-1], text + "0"):
        assert_printed(acme.ask(bearing(typed), "accounts:read"), "CREDENTIAL_MALFORMED")
    assert_printed(acme.ask(bearing(text.upper()), "accounts:read"), "CREDENTIAL_MISSING")


def test_a_revoked_key_is_answered_as_printed_from_the_next_call_on(acme: Customer) -> None:
    key = acme.key("read")
    assert acme.ask(bearing(key), "accounts:read")
    revoked = acme.root.revoke_key(key.key.id, organization=acme.id)
    assert revoked.state is KeyState.REVOKED
    assert_printed(acme.ask(bearing(key), "accounts:read"), "KEY_REVOKED")


def test_an_insufficient_scope_is_a_401_and_the_reason_says_which_scope_is_missing(acme: Customer) -> None:
    decision = acme.ask(bearing(acme.key("read")), "scans:create")
    assert_printed(decision, "SCOPE_INSUFFICIENT")
    assert decision.missing_permissions == ("scans:create",)


def test_a_key_with_the_required_scope_gets_through(acme: Customer) -> None:
    assert not acme.ask(bearing(acme.key("read")), "scans:create")
    assert acme.ask(bearing(acme.key("write")), "scans:create")


def test_a_401_says_where_keys_belong(acme: Customer) -> None:
    decision = acme.ask(HttpRequest(), "accounts:read")
    assert decision.http is not None
    assert dict(decision.http.headers)["WWW-Authenticate"] == 'Bearer realm="fegura"'


def test_a_key_of_another_organization_is_answered_as_printed(acme: Customer, product: Product) -> None:
    globex = product.customer("globex")
    assert_printed(globex.ask(bearing(acme.key("read")), "accounts:read"), "ORGANIZATION_MISMATCH")


# --- best practices ---------------------------------------------------------------------------------------------------


def test_rotating_is_a_new_key_and_the_end_of_the_old_one(acme: Customer) -> None:
    old = acme.key("write")
    new = acme.key("write")
    assert acme.ask(bearing(old), "scans:create")
    acme.root.revoke_key(old.key.id, organization=acme.id)
    assert not acme.ask(bearing(old), "scans:create")
    assert acme.ask(bearing(new), "scans:create")


def test_a_rotated_key_stays_the_same_key_and_overlaps_for_as_long_as_is_said(acme: Customer) -> None:
    old = acme.key("write")
    new = acme.root.rotate_key(old.key.id, organization=acme.id, grace=timedelta(hours=1))
    assert acme.ask(bearing(old), "scans:create")
    assert acme.ask(bearing(new), "scans:create")
    acme.desk.advance(3600)
    assert_printed(acme.ask(bearing(old), "scans:create"), "SECRET_SUPERSEDED")
    assert acme.ask(bearing(new), "scans:create")
    assert new.key.id == old.key.id


def test_when_a_key_was_used_last_is_told(acme: Customer) -> None:
    key = acme.key("read")
    assert acme.root.get_key(key.key.id, organization=acme.id).last_used_at is None
    assert acme.ask(bearing(key), "accounts:read")
    assert acme.used(key, acme.desk.now).last_used_at == acme.desk.now


def test_the_activity_of_a_key_can_be_reviewed(acme: Customer) -> None:
    key = acme.key("read")
    for address in ("192.0.2.1", "203.0.113.66"):
        assert acme.ask(bearing(key), "accounts:read", client_ip=address)
    usage = acme.usage("ADDRESS", "ACTION", "HOUR", key_id=key.key.id)
    assert usage.total.allowed == 2
    assert {it.value for it in usage.by[UsageDimension.ADDRESS].values} == {"192.0.2.1", "203.0.113.66"}
    assert [it.count.allowed for it in usage.by[UsageDimension.HOUR].values] == [2]


@pytest.mark.parametrize("name", ["api_key", "key", "token", "access_token", "Authorization"])
def test_a_key_in_a_url_is_no_credential(acme: Customer, name: str) -> None:
    key = text_of(acme.key("read"))
    for query in (f"{name}={key}", f"{name}=Bearer%20{key}"):
        assert_printed(acme.ask(HttpRequest(query=query), "accounts:read"), "CREDENTIAL_MISSING")
    assert acme.ask(HttpRequest(headers={"Authorization": f"Bearer {key}"}, query=f"{name}={key}"), "accounts:read")


def test_why_it_was_denied_is_told_to_operators_and_not_to_clients(acme: Customer) -> None:
    told = acme.explain(acme.key("read"), "scans:create")
    assert told.decision.reason == "SCOPE_INSUFFICIENT"
    assert told.decision.http is not None
    assert "SCOPE" not in told.decision.http.body


def test_the_files_own_tests_pass_where_it_is_applied(desk: Desk, product: Product) -> None:
    results = desk.root.test_keyspace(name=product.keyspace)
    assert len(results) == 16
    assert all(result.passed for result in results)
