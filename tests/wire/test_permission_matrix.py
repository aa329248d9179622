"""Every RPC × {no key, bad key, revoked key, wrong organization, too little permission, enough}, by the descriptors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from doorward.v1 import authz_pb2, keys_pb2
from doorward_server.service.bootstrap import built_in
from doorward_server.wire.server import SERVICES
from tests.wire.requests import REQUESTS, Row, named, renamed
from tests.wire.serving import Api, Server, broken, conversed, fed, refused
from tests.wire.tenants import Tenant, never_made, reason_of

SERVICE_OF = {method.name: service.name for service in SERVICES for method in service.methods}
STREAMS = {method.name for service in SERVICES for method in service.methods if method.client_streaming}
FEEDS = {method.name for service in SERVICES for method in service.methods if method.server_streaming}
CROSSES = {"Introspect", "ReportLeak"}
"""Name no organization: who asks about a stranger's key is told that it is one, or as of an unknown one, and nothing
else."""
ROLES = built_in().roles
PROTOS = Path(__file__).resolve().parents[2] / "protos" / "doorward" / "v1"

every_rpc = pytest.mark.parametrize("rpc", sorted(SERVICE_OF))


def gives(role: str, permission: str) -> bool:
    """Whether *role* gives *permission* without asking for a relation, e.g. that the key be one's own."""
    return any(rule.effect == "ALLOW" and not rule.relation for rule in ROLES[role].rules.get(permission, ()))


def call(api: Api, rpc: str, request: Message) -> Any:
    method = getattr(api.stub(SERVICE_OF[rpc]), rpc)
    if rpc in FEEDS:
        return (conversed if rpc in STREAMS else fed)(method, request)
    return method(iter([request]) if rpc in STREAMS else request)


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    assert REQUESTS.keys() == SERVICE_OF.keys()


def test_the_rows_name_the_permissions_that_the_contract_names() -> None:
    """The comment above an rpc is what callers read; the row is what is tested below."""
    comments: dict[str, str] = {}
    for file in PROTOS.glob("*.proto"):
        for comment, rpc in re.findall(r"((?:  //.*\n)+)  rpc (\w+)\(", file.read_text("utf-8")):
            comments[rpc] = comment
    for rpc, row in REQUESTS.items():
        # Authorize and its batch have theirs in the comment of the service.
        if row.permission != "decisions:authorize":
            assert f"`{row.permission}`" in comments[rpc], rpc


@every_rpc
@pytest.mark.parametrize(
    ("credential", "decision"),
    [("none", "CREDENTIAL_MISSING"), ("made up", "KEY_UNKNOWN"), ("damaged", "CREDENTIAL_MALFORMED")],
)
def test_without_a_good_key_nobody_is_served(server: Server, rpc: str, credential: str, decision: str) -> None:
    row, tenant = REQUESTS[rpc], Tenant(server, "operator")
    text = {"none": "-", "made up": never_made(), "damaged": broken(server.root)}[credential]
    request = row.make(tenant)
    before = server.mark()
    refusal = refused(lambda: call(server.api(text), rpc, request))
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")
    assert refusal.metadata == {"decision": decision}
    assert server.mark() == before


@every_rpc
def test_a_revoked_key_serves_nobody(server: Server, acme: Tenant, rpc: str) -> None:
    held = acme.key("doorward", scopes=["root"])
    request = REQUESTS[rpc].make(acme)
    acme.revoke(held.id)
    refusal = refused(lambda: call(server.api(held.text), rpc, request))
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")
    assert refusal.metadata == {"decision": "KEY_REVOKED"}


@every_rpc
def test_no_right_of_one_organization_reaches_another(server: Server, acme: Tenant, globex: Tenant, rpc: str) -> None:
    row, stranger = REQUESTS[rpc], globex.caller("root")
    request = row.make(acme)
    before = server.mark(acme.id)
    if rpc == "ReportLeak":
        answer = call(stranger, rpc, request)
        assert answer.outcome == keys_pb2.LEAK_OUTCOME_KEY_UNKNOWN
        assert (answer.key_id, answer.organization) == ("", "")
    elif rpc in CROSSES:
        answer = call(stranger, rpc, request)
        assert reason_of(answer) == "ORGANIZATION_MISMATCH"
        assert not answer.HasField("identity")
    else:
        _forbidden_alike(stranger, rpc, row, request, "ORGANIZATION_MISMATCH")
    assert server.mark(acme.id) == before


@every_rpc
def test_all_roles_without_the_permission_together_are_too_little(server: Server, acme: Tenant, rpc: str) -> None:
    row = REQUESTS[rpc]
    if row.operator:
        acme = Tenant(server, "operator")
    others = [name for name, role in ROLES.items() if row.permission not in role.rules]
    weak, request = acme.caller(*others), row.make(acme)
    before = server.mark(acme.id)
    _forbidden_alike(weak, rpc, row, request, "SCOPE_INSUFFICIENT", own=acme.id)
    assert server.mark(acme.id) == before


@every_rpc
def test_the_least_role_with_the_permission_is_enough(server: Server, acme: Tenant, rpc: str) -> None:
    row = REQUESTS[rpc]
    if row.operator:
        acme = Tenant(server, "operator")
    least = next(name for name in ("viewer", "backend", "admin", "root") if gives(name, row.permission))
    caller, request = acme.caller(least), row.make(acme)
    assert call(caller, rpc, request).IsInitialized()


def test_who_am_i_needs_no_permission_but_a_key(server: Server, acme: Tenant) -> None:
    powerless = acme.key("doorward")
    answer = server.api(powerless.text).authz.Introspect(authz_pb2.IntrospectRequest())
    assert reason_of(answer) == "ALLOWED"
    assert answer.identity.key_id == powerless.id
    refusal = refused(lambda: server.api("-").authz.Introspect(authz_pb2.IntrospectRequest()))
    assert refusal.reason == "CALLER_UNAUTHENTICATED"


def _forbidden_alike(api: Api, rpc: str, row: Row, request: Message, decision: str, own: str = "") -> None:
    """The refusal is PERMISSION_DENIED, and says nothing about whether the thing that is named exists (AIP-211)."""
    refusal = refused(lambda: call(api, rpc, request))
    assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "CALLER_FORBIDDEN")
    assert refusal.metadata["permission"] == row.permission
    assert refusal.metadata["decision"] == decision
    if row.names and named(request, row.names) != own:  # another organization than one's own is another question
        missing = renamed(request, row.names, "nobody0")
        other = refused(lambda: call(api, rpc, missing))
        assert other.about("nobody0") == refusal.about(named(request, row.names))
