"""Faction's keys: where they are presented, what they look like, who makes them, how they end.

The sentences are in docs/systems/faction.md; what the users of keys may is in test_faction_roles.py.
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

import pytest

from doorward import CallerForbidden, Ceiling, Decision, HttpRequest, InvalidField, IssuedKey, Key, UsageDimension
from tests.conformance.products import EXAMPLES, Customer, Desk, identity_of, text_of

HEADER = "FACTION-API-KEY"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
PATIENCE = 60
"""Seconds: a bound for what hangs, not an expectation."""


@pytest.fixture(scope="module")
def acme(desk: Desk) -> Customer:
    return desk.product(EXAMPLES / "faction.yaml").customer("acme")


def by_header(key: IssuedKey, name: str = HEADER) -> HttpRequest:
    return HttpRequest(headers={name: text_of(key)})


def why(decision: Decision) -> tuple[str, int]:
    """The reason, and the status that an HTTP client is to get."""
    assert decision.http is not None
    return decision.reason, decision.http.status


def until_used(acme: Customer, id: str, at: datetime) -> Key:
    """Read a key until its use at *at* has been written."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        key = acme.root.get_key(id, organization=acme.id)
        if key.last_used_at is not None and key.last_used_at >= at:
            return key
    raise AssertionError("the use was not written")


# --- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [HEADER, "faction-api-key", "Faction-Api-Key"])
def test_a_key_is_passed_in_the_faction_header(acme: Customer, name: str) -> None:
    key = acme.key(owner=acme.person())
    assert why(acme.ask(by_header(key, name), "status:get")) == ("ALLOWED", 200)


@pytest.mark.parametrize("action", ["status:get", "assessments:queue", "templates:list", "users:list"])
@pytest.mark.parametrize("presented", [None, HttpRequest(headers={"Accept": "application/json"})])
def test_every_request_must_include_a_key(acme: Customer, action: str, presented: HttpRequest | None) -> None:
    decision = acme.ask(presented, action)
    assert why(decision) == ("CREDENTIAL_MISSING", 401)
    assert decision.http is not None
    assert ("WWW-Authenticate", f'ApiKey realm="faction", in="header", name="{HEADER}"') in decision.http.headers


def test_a_key_elsewhere_is_none(acme: Customer) -> None:
    text = text_of(acme.key(owner=acme.person("manager")))
    for request in (
        HttpRequest(headers={"Authorization": f"Bearer {text}"}),
        HttpRequest(headers={"X-API-Key": text}),
        HttpRequest(query=f"api_key={text}"),
    ):
        assert why(acme.ask(request, "templates:list")) == ("CREDENTIAL_MISSING", 401)


# --- what a key is ----------------------------------------------------------------------------------------------------


def test_a_key_is_a_uuid_with_a_user_a_creation_and_a_last_use(acme: Customer) -> None:
    alice = acme.person("assessor", name="Alice", email="alice@acme.example")
    made = acme.key(owner=alice, name="laptop")
    assert UUID.fullmatch(text_of(made))
    assert (made.key.owner, made.key.created_at, made.key.last_used_at) == (alice, acme.desk.now, None)
    assert made.key.masked == f"••••••••-••••-••••-••••-••••••••{text_of(made)[-4:]}"
    assert made.key.expires_at is None
    owner = identity_of(acme.ask(made, "status:get")).owner
    assert owner is not None
    assert (owner.id, owner.display_name, owner.email) == (alice, "Alice", "alice@acme.example")


def test_a_key_belongs_to_a_user(acme: Customer) -> None:
    with pytest.raises(InvalidField) as refused:
        acme.key()
    assert refused.value.field == "owner"


def test_a_key_does_not_expire(acme: Customer) -> None:
    with pytest.raises(InvalidField):
        acme.key(owner=acme.person(), expires="90d")


def test_last_used_is_updated_on_each_successful_authentication(acme: Customer) -> None:
    key = acme.key(owner=acme.person())
    acme.desk.advance(60)
    assert acme.ask(key, "status:get")
    assert until_used(acme, key.key.id, acme.desk.now).last_used_at == acme.desk.now
    acme.desk.advance(60)
    assert why(acme.ask(key, "users:list")) == ("OWNER_PERMISSION_INSUFFICIENT", 401)  # authenticated all the same
    assert until_used(acme, key.key.id, acme.desk.now).last_used_at == acme.desk.now


def test_last_used_is_not_updated_by_what_did_not_authenticate(acme: Customer) -> None:
    held, other = acme.key(owner=acme.person()), acme.key(owner=acme.person())
    acme.root.update_key(held.key.id, organization=acme.id, enabled=False)
    assert why(acme.ask(held, "status:get")) == ("KEY_DISABLED", 401)
    acme.desk.advance(1)
    assert acme.ask(other, "status:get")  # asked later: when its use is written, the other's would be
    until_used(acme, other.key.id, acme.desk.now)
    assert acme.root.get_key(held.key.id, organization=acme.id).last_used_at is None


def test_unused_keys_are_found_by_their_last_use(acme: Customer) -> None:
    alice = acme.person()
    old, used, unused = (acme.key(owner=alice, name=name) for name in ("old", "used", "unused"))
    acme.desk.advance(1)
    assert acme.ask(old, "status:get")
    until_used(acme, old.key.id, acme.desk.now)
    acme.desk.advance(90 * 86400)
    assert acme.ask(used, "status:get")
    until_used(acme, used.key.id, acme.desk.now)
    listed = acme.root.list_keys(organization=acme.id, owner=alice, last_used_before=acme.desk.now - timedelta(days=30))
    assert {it.name for it in listed} == {"old", "unused"}
    never = acme.root.list_keys(organization=acme.id, owner=alice, never_used=True)
    assert [it.id for it in never] == [unused.key.id]


# --- who makes them ---------------------------------------------------------------------------------------------------


def test_users_make_keys_for_themselves(acme: Customer) -> None:
    alice, bob = acme.person("assessor"), acme.person()
    profile = acme.member(alice)
    made = acme.key(owner=alice, client=profile)
    assert acme.ask(made, "templates:list")
    with pytest.raises(CallerForbidden):
        acme.key(owner=bob, client=profile)


def test_administrators_make_keys_for_other_users(acme: Customer) -> None:
    bob = acme.person("assessor")
    made = acme.key(owner=bob, client=acme.member(acme.person(), "admin"))
    assert made.key.owner == bob
    assert acme.ask(made, "templates:list")


# --- authentication errors --------------------------------------------------------------------------------------------


def test_a_key_that_nobody_knows_is_401(acme: Customer) -> None:
    assert why(acme.ask("7d6a1f0e-3c52-4b8f-9f0a-52f1c4f0a7de", "status:get")) == ("KEY_UNKNOWN", 401)


@pytest.mark.parametrize("typed", ["upper", "rstrip", "pad", "shift"])
def test_a_key_with_a_typing_error_is_401(acme: Customer, typed: str) -> None:
    text = text_of(acme.key(owner=acme.person()))
    wrong = {"upper": text.upper(), "rstrip": text[:-1], "pad": f"{text} ", "shift": text[1:] + text[0]}[typed]
    reason, status = why(acme.ask(wrong, "status:get"))
    assert reason in {"CREDENTIAL_MALFORMED", "KEY_UNKNOWN"}
    assert status == 401


def test_a_deleted_key_is_401_and_a_new_one_works(acme: Customer) -> None:
    alice = acme.person("assessor")
    old = acme.key(owner=alice)
    acme.root.delete_key(old.key.id, organization=acme.id)
    assert why(acme.ask(old, "templates:list")) == ("KEY_REVOKED", 401)
    assert acme.ask(acme.key(owner=alice), "templates:list")


def test_insufficient_permissions_are_401_until_an_administrator_gives_the_role(acme: Customer) -> None:
    alice = acme.person("assessor")
    key = acme.key(owner=alice)
    denied = acme.ask(key, "templates:create")
    assert why(denied) == ("OWNER_PERMISSION_INSUFFICIENT", 401)
    assert denied.missing_permissions == ("templates:create",)
    acme.bind("manager", principal=alice)
    assert acme.ask(key, "templates:create")


def test_a_key_of_another_account_with_access_helps(acme: Customer) -> None:
    assert not acme.ask(acme.key(owner=acme.person("assessor")), "categories:create")
    assert acme.ask(acme.key(owner=acme.person("manager")), "categories:create")


# --- practices --------------------------------------------------------------------------------------------------------


def test_keys_are_replaced_by_new_ones_and_old_ones_revoked(acme: Customer) -> None:
    alice = acme.person("assessor")
    old = acme.key(owner=alice)
    new = acme.key(owner=alice)
    assert acme.ask(old, "templates:list")
    assert acme.ask(new, "templates:list")
    acme.root.revoke_key(old.key.id, organization=acme.id, reason="replaced")
    assert why(acme.ask(old, "templates:list")) == ("KEY_REVOKED", 401)
    rotated = acme.root.rotate_key(new.key.id, organization=acme.id)
    assert UUID.fullmatch(text_of(rotated))
    assert why(acme.ask(new, "templates:list")) == ("SECRET_SUPERSEDED", 401)
    assert acme.ask(rotated, "templates:list")


def test_keys_of_somebody_who_leaves_stop_at_once(acme: Customer) -> None:
    alice = acme.person("manager")
    keys = [acme.key(owner=alice) for _ in range(3)]
    acme.change_person(alice, enabled=False)
    assert {why(acme.ask(key, "templates:list")) for key in keys} == {("OWNER_DISABLED", 401)}
    gone = acme.root.batch_revoke_keys(reason="has left", organization=acme.id, owner=alice)
    assert gone.count == 3
    acme.change_person(alice, enabled=True)
    assert {why(acme.ask(key, "templates:list")) for key in keys} == {("KEY_REVOKED", 401)}


def test_each_integration_has_a_key_with_the_least_permissions(acme: Customer) -> None:
    """A key may less than its user, never more; without a list of its own, it may the same."""
    manager = acme.person("manager")
    whole, part = acme.key(owner=manager), acme.key("assessor", owner=manager)
    assert (whole.key.ceiling, part.key.ceiling) == (Ceiling.OWNER, Ceiling.LIST)
    assert acme.ask(whole, "users:list")
    assert why(acme.ask(part, "users:list")) == ("SCOPE_INSUFFICIENT", 401)
    assert acme.ask(part, "templates:list")
    more = acme.key("manager", owner=acme.person("assessor"))
    assert why(acme.ask(more, "users:list")) == ("OWNER_PERMISSION_INSUFFICIENT", 401)


def test_the_status_check_needs_a_valid_key_and_nothing_else(acme: Customer) -> None:
    nobody = acme.person()
    key = acme.key(owner=nobody)
    assert why(acme.ask(by_header(key), "status:get")) == ("ALLOWED", 200)
    assert identity_of(acme.whose(by_header(key))).roles == ()
    acme.root.revoke_key(key.key.id, organization=acme.id)
    assert why(acme.ask(by_header(key), "status:get")) == ("KEY_REVOKED", 401)


def test_keys_of_another_customer_reach_nothing_here(acme: Customer) -> None:
    globex = acme.product.customer("globex")
    stranger = globex.person("manager")
    key = globex.key(owner=stranger)
    acme.relate(f"assessments/42#assigned@user:{acme.person(id='local')}")
    assert globex.ask(key, "assessments:get", "assessments/42")
    assert why(acme.ask(key, "assessments:get", "assessments/42")) == ("ORGANIZATION_MISMATCH", 401)


def test_the_files_own_tests_pass_where_it_is_applied(acme: Customer) -> None:
    results = acme.root.test_keyspace(name="faction")
    assert len(results) == 44
    assert all(result.passed for result in results)


def test_keys_track_usage_by_themselves(acme: Customer) -> None:
    """Counted without anybody's doing, what was denied too; users see their own."""
    alice = acme.person("assessor")
    key = acme.key(owner=alice)
    assert acme.ask(by_header(key), "templates:list")
    assert not acme.ask(by_header(key), "users:list")
    usage = acme.usage("ACTION", key_id=key.key.id, client=acme.member(alice))
    assert (usage.total.allowed, usage.total.denied) == (1, 1)
    assert {it.value for it in usage.by[UsageDimension.ACTION].values} == {"templates:list", "users:list"}
