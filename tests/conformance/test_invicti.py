"""Invicti's keys: a JWT in the header X-Auth, with the rights of its user.

The sentences are in docs/systems/invicti.md.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from doorward import HttpRequest, InvalidField, IssuedKey, Question
from tests.conformance.invicti import FORBIDDEN, UNAUTHORIZED, forbidden, unauthorized, x_auth
from tests.conformance.products import EXAMPLES, Customer, Desk, identity_of, text_of


@pytest.fixture(scope="module")
def acme(desk: Desk) -> Customer:
    return desk.product(EXAMPLES / "invicti.yaml").customer("acme", account_type="enterprise")


def claims(key: IssuedKey | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is written in a JWT: header and payload."""
    header, payload, _ = text_of(key).split(".")
    return json.loads(_decoded(header)), json.loads(_decoded(payload))


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


# --- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["X-Auth", "x-auth", "X-AUTH"])
def test_the_key_goes_directly_into_the_x_auth_header(acme: Customer, name: str) -> None:
    key = acme.key(owner=acme.person("viewer"))
    decision = acme.ask(HttpRequest(headers={name: text_of(key)}), "targets:list")
    assert decision
    assert decision.http is not None
    assert decision.http.status == 200


def test_it_works_with_all_endpoints(acme: Customer) -> None:
    key = x_auth(acme.key(owner=acme.person("owner")))
    everything = acme.actions(key).actions
    assert {it.partition(":")[0] for it in everything} == {
        "identity", "targets", "scans", "vulnerabilities", "users", "integrations", "billing",
    }  # fmt: skip
    assert all(acme.ask(key, action) for action in everything)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda text: HttpRequest(headers={"Content-Type": "application/json"}),
        lambda text: HttpRequest(headers={"Authorization": f"Bearer {text}"}),
        lambda text: HttpRequest(headers={"X-Auth": f"Bearer {text}"}),
        lambda text: HttpRequest(headers={"X-Auth": f" {text[5:]}"}),
        lambda text: HttpRequest(query=f"X-Auth={text}"),
    ],
    ids=["missing", "another header", "a scheme", "cut", "in the URL"],
)
def test_a_missing_or_incorrect_header_is_401_as_printed(acme: Customer, request_of: Any) -> None:
    text = text_of(acme.key(owner=acme.person("viewer")))
    assert unauthorized(acme.ask(request_of(text), "targets:list"))


# --- the key is a JWT -------------------------------------------------------------------------------------------------


def test_a_key_is_a_jwt(acme: Customer) -> None:
    header, _ = claims(acme.key(owner=acme.person("viewer")))
    assert (header["typ"], header["alg"]) == ("JWT", "HS256")


def test_a_jwt_says_who_and_with_which_permissions(acme: Customer) -> None:
    alice = acme.person("admin", "viewer")
    made = acme.key(owner=alice)
    _, payload = claims(made)
    assert (payload["sub"], payload["organization"], payload["jti"]) == (alice, acme.id, made.key.id)
    assert payload["roles"] == ["admin", "viewer"]
    assert "exp" not in payload


def test_what_a_jwt_says_decides_nothing(acme: Customer) -> None:
    """Rights are live; a text that was changed, or signed by somebody else, is unknown."""
    alice = acme.person(id="live")
    binding = acme.bind("admin", principal=alice)
    key = acme.key(owner=alice)
    acme.unbind(binding)
    assert claims(key)[1]["roles"] == ["admin"]
    assert forbidden(acme.ask(key, "users:list"))
    head, payload, signature = text_of(key).split(".")
    forged = json.dumps({**claims(key)[1], "roles": ["owner"]}).encode()
    body = base64.urlsafe_b64encode(forged).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"none"}').rstrip(b"=").decode()
    for text in (f"{head}.{body}.{signature}", f"{none}.{payload}.", f"{head}.{payload}.{signature[::-1]}"):
        assert unauthorized(acme.ask(x_auth(text), "identity:read"))


# --- tied to a user ---------------------------------------------------------------------------------------------------


def test_each_key_is_tied_to_a_user(acme: Customer) -> None:
    with pytest.raises(InvalidField) as refused:
        acme.key()
    assert refused.value.field == "owner"
    alice = acme.person("viewer")
    key = acme.key(owner=alice)
    assert acme.ask(key, "targets:list")
    acme.change_person(alice, enabled=False)
    assert unauthorized(acme.ask(key, "targets:list"))


def test_a_key_has_the_permissions_of_its_user(acme: Customer) -> None:
    alice = acme.person("viewer")
    key = acme.key(owner=alice)
    assert forbidden(acme.ask(key, "scans:start", "scans/1"))
    binding = acme.bind("scan-manager", principal=alice)
    assert acme.ask(key, "scans:start", "scans/1")
    acme.unbind(binding)
    assert forbidden(acme.ask(key, "scans:start", "scans/1"))


def test_every_operation_is_told_with_the_identity_of_the_keys_owner(acme: Customer) -> None:
    alice = acme.person("viewer", name="Alice", email="alice@acme.example")
    key = acme.key(owner=alice)
    for action in ("targets:list", "users:create"):
        identity = identity_of(acme.ask(key, action))
        assert identity.owner is not None
        assert (identity.owner.id, identity.owner.display_name, identity.owner.email) == (
            alice,
            "Alice",
            "alice@acme.example",
        )
        assert (identity.key_id, identity.organization) == (key.key.id, acme.id)


def test_every_operation_is_logged_under_the_identity_of_the_keys_owner(acme: Customer) -> None:
    """Allowed or not, each is in the log by the time it is answered: nothing is sampled, nothing is cached."""
    alice = acme.person("viewer")
    key = acme.key(owner=alice)
    answers = [acme.ask(x_auth(key), action) for action in ("targets:list", "users:create") * 5]
    answers += acme.ask_all(key, [Question("targets:list"), Question("users:create")])
    answers.append(acme.whose(key))
    log = list(acme.root.list_decisions(organization=acme.id, owner=alice))
    assert sorted(it.id for it in log) == sorted(answer.id for answer in answers)
    assert {(it.key_id, it.owner, it.organization) for it in log} == {(key.key.id, alice, acme.id)}
    told = {answer.id: (answer.allowed, answer.reason) for answer in answers}
    assert {it.id: (it.allowed, it.reason) for it in log} == told
    assert text_of(key) not in str(log)


ROLES = {
    "owner": {"targets", "scans", "vulnerabilities", "users", "integrations", "billing"},
    "admin": {"targets", "scans", "vulnerabilities", "users", "integrations"},
    "scan-manager": {"targets", "scans", "vulnerabilities"},
    "user-manager": {"users"},
    "viewer": set[str](),
}
CHANGES = {
    "targets": "targets:create",
    "scans": "scans:start",
    "vulnerabilities": "vulnerabilities:update",
    "users": "users:create",
    "integrations": "integrations:create",
    "billing": "billing:update",
}


@pytest.mark.parametrize("role", ROLES)
def test_access_depends_on_the_users_role(acme: Customer, role: str) -> None:
    key = acme.key(owner=acme.person(role))
    for type, action in CHANGES.items():
        decision = acme.ask(key, action)
        assert decision.allowed is (type in ROLES[role]), action
        assert decision.allowed or forbidden(decision)


def test_some_endpoints_require_specific_permissions(acme: Customer) -> None:
    """Scan management, user administration."""
    scanning, people = acme.key(owner=acme.person("scan-manager")), acme.key(owner=acme.person("user-manager"))
    assert acme.ask(scanning, "scans:stop", "scans/1")
    assert acme.ask(people, "users:delete", "users/1")
    denied = acme.ask(scanning, "users:delete", "users/1")
    assert forbidden(denied)
    assert denied.missing_permissions == ("users:delete",)
    assert acme.ask(people, "scans:stop", "scans/1").missing_permissions == ("scans:stop",)


def test_an_operation_must_be_available_for_the_account_type(acme: Customer) -> None:
    product = acme.product
    for type, reason in (("enterprise", "ALLOWED"), ("standard", "CONDITION_FALSE")):
        customer = product.customer(account_type=type)
        key = customer.key(owner=customer.person("owner"))
        assert customer.ask(key, "integrations:list")
        assert customer.ask(key, "integrations:create").reason == reason
    unknown = product.customer()
    decision = unknown.ask(unknown.key(owner=unknown.person("owner")), "integrations:create")
    assert forbidden(decision)
    assert (decision.reason, decision.missing_context) == ("CONTEXT_MISSING", ("organization.account_type",))


def test_an_account_that_is_upgraded_has_more_from_the_next_call_on(acme: Customer) -> None:
    customer = acme.product.customer(account_type="standard")
    key = customer.key(owner=customer.person("admin"))
    assert forbidden(customer.ask(key, "integrations:update", "integrations/1"))
    customer.update(attributes={"account_type": "enterprise"})
    assert customer.ask(key, "integrations:update", "integrations/1")


def test_a_key_can_lack_what_its_user_may(acme: Customer) -> None:
    admin = acme.person("admin")
    key = acme.key("viewer", owner=admin)
    assert acme.ask(key, "targets:list")
    decision = acme.ask(key, "users:list")
    assert forbidden(decision)
    assert decision.reason == "SCOPE_INSUFFICIENT"


# --- the answers, as printed ------------------------------------------------------------------------------------------


def test_the_bodies_are_the_printed_ones(acme: Customer) -> None:
    """Letter by letter, but for white space between the words of JSON."""
    key = acme.key(owner=acme.person("viewer"))
    for presented, action, status, printed in (
        (None, "targets:list", 401, UNAUTHORIZED),
        (x_auth(key), "users:list", 403, FORBIDDEN),
    ):
        http = acme.ask(presented, action).http
        assert http is not None
        assert http.status == status
        assert list(json.loads(http.body).items()) == list(json.loads(printed).items())


def test_wrong_deleted_and_regenerated_keys_are_401_as_printed(acme: Customer) -> None:
    alice = acme.person("viewer")
    first = acme.key(owner=alice)
    second = acme.key(owner=alice)
    third = acme.root.rotate_key(second.key.id, organization=acme.id)
    acme.root.delete_key(second.key.id, organization=acme.id)
    head, payload, _ = text_of(third).split(".")
    for text in (first, second, third, f"{head}.{payload}.{'A' * 43}", "no key at all", f"{text_of(third)}\n"):
        assert unauthorized(acme.ask(text_of(text), "targets:list"))


def test_insufficient_permissions_are_403_as_printed_until_an_administrator_helps(acme: Customer) -> None:
    alice = acme.person("viewer")
    key = acme.key(owner=alice)
    assert forbidden(acme.ask(x_auth(key), "users:list"))
    assert acme.ask(x_auth(key), "targets:list")  # valid authentication
    acme.bind("user-manager", principal=alice)
    assert acme.ask(x_auth(key), "users:list")


def test_another_customers_key_is_forbidden(acme: Customer) -> None:
    globex = acme.product.customer("globex")
    key = globex.key(owner=globex.person("owner"))
    decision = acme.ask(x_auth(key), "targets:list")
    assert forbidden(decision)
    assert decision.reason == "ORGANIZATION_MISMATCH"


def test_me_answers_200_with_the_users_information(acme: Customer) -> None:
    """Any valid key may ask, whatever its user's roles; Introspect tells who it is."""
    alice = acme.person(name="Alice", email="alice@acme.example", department="security")
    request = x_auth(acme.key(owner=alice))
    allowed = acme.ask(request, "identity:read")
    assert allowed.http is not None
    assert (allowed.reason, allowed.http.status) == ("ALLOWED", 200)
    me = acme.whose(request)
    owner = identity_of(me).owner
    assert me
    assert owner is not None
    assert (owner.id, owner.display_name, owner.email) == (alice, "Alice", "alice@acme.example")
    assert dict(owner.attributes) == {"department": "security"}
    assert identity_of(me).roles == ()


def test_me_answers_401_to_everybody_else(acme: Customer) -> None:
    key = acme.key(owner=acme.person("owner"))
    acme.root.revoke_key(key.key.id, organization=acme.id)
    assert unauthorized(acme.ask(x_auth(key), "identity:read"))
    assert not acme.whose(x_auth(key))
    assert unauthorized(acme.ask(None, "identity:read"))


def test_the_files_own_tests_pass_where_it_is_applied(acme: Customer) -> None:
    results = acme.root.test_keyspace(name="invicti")
    assert len(results) == 20
    assert all(result.passed for result in results)
