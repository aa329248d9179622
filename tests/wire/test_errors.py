"""The error table both ways: what the server raises is what both clients raise, metadata and all; nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import doorward
from doorward.errors import BY_REASON
from doorward.v1 import errors_pb2, keyspaces_pb2
from doorward_server.app import App
from doorward_server.core import errors
from doorward_server.core.errors import DoorwardError
from doorward_server.service.guard import Caller
from doorward_server.wire.errors import STATUS
from doorward_server.wire.server import Servicers
from tests import databases
from tests.wire.serving import TIMEOUT, Server, refused, serving

CANARY = "canary-in-an-exception-7f3a"
RAISED: dict[str, DoorwardError] = {
    e.reason: e
    for e in (
        errors.InvalidField("name", "is required"),
        errors.UnknownReference("scopes[0]", "role", "nope", "a, b"),
        errors.PageTokenInvalid(),
        errors.RequestIdReused(),
        errors.KeyspaceInvalid("prefix", "is required", 3),
        errors.CallerUnauthenticated("KEY_EXPIRED", "This API key has expired."),
        errors.CallerForbidden("keys:get", "organizations/a/keyspaces/-/keys/k", "SCOPE_INSUFFICIENT"),
        errors.GrantForbidden("aiia", "read:findings", "organizations/a/keyspaces/aiia/roles/read:findings"),
        errors.NotFound("key", "key_1"),
        errors.AlreadyExists("organization", "äöü 🚪"),
        errors.KeyIsRevoked("key_1"),
        errors.KeyIsExpired("key_1"),
        errors.OrganizationIsDisabled("acme"),
        errors.PrincipalIsDisabled("alice"),
        errors.BuiltIn("keyspace", "doorward"),
        errors.Immutable("prefix", "keys may be out there"),
        errors.NotRecoverable("key_1", "it is revoked"),
        errors.GroupCycle("staff → admins → staff"),
        errors.KeysStranded("roles.viewer", "the role is removed", "3 keys", 1),
        errors.KeyspaceTestsFailed(1, 5, "reading", 12, "reason is ALLOWED, not KEY_EXPIRED"),
        errors.CountMismatch(3, 1_000),
        errors.ChainIsBroken("acme", 7),
        errors.TooManyActiveKeys("alice", 1),
        errors.RevisionNotReached(9, 7),
        errors.EtagMismatch("key", "key_1"),
        errors.QuotaExceeded("keys per organization", 1_000_000),
        errors.StoreUnavailable(),
        errors.MayBeCharged(),
        errors.Overloaded(),
        errors.Internal("0123456789abcdef"),
    )
}
"""One of each class, by its reason."""


class Raiser:
    """A KeyspaceService whose GetKeyspace raises what the name says."""

    async def GetKeyspace(self, request: keyspaces_pb2.GetKeyspaceRequest, caller: Caller) -> Any:
        match request.name:
            case "forgets to ask":
                return keyspaces_pb2.GetKeyspaceResponse()
            case "defect":
                raise RuntimeError(CANARY)
            case "defect within":
                try:
                    raise KeyError(CANARY)
                except KeyError as cause:
                    raise ValueError(request) from cause
            case "group":
                raise ExceptionGroup(CANARY, [ValueError(CANARY)])
            case "a timeout within":
                raise TimeoutError(CANARY)
            case "unmapped":
                raise type("Unmapped", (DoorwardError,), {"reason": "UNMAPPED"})(CANARY)
        raise RAISED[request.name]

    async def ApplyKeyspace(self, request: keyspaces_pb2.ApplyKeyspaceRequest, caller: Caller) -> Any:
        raise NotImplementedError

    async def TestKeyspace(self, request: keyspaces_pb2.TestKeyspaceRequest, caller: Caller) -> Any:
        raise NotImplementedError

    async def ListKeyspaces(self, request: keyspaces_pb2.ListKeyspacesRequest, caller: Caller) -> Any:
        raise NotImplementedError

    async def GetJsonWebKeySet(self, request: keyspaces_pb2.GetJsonWebKeySetRequest, caller: Caller) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def raiser(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[Server]:
    """A server that raises on demand. What is raised does not depend on the store: one is enough."""
    folder = tmp_path_factory.mktemp("raiser")
    with (
        databases.fresh("sqlite", folder) as url,
        serving(
            url,
            folder,
            servicers=lambda app: replace(app.servicers, keyspaces=Raiser()),
            furnished=False,
            transport=transport,
        ) as server,
    ):
        yield server


def classes_of(root: type[DoorwardError]) -> set[type[DoorwardError]]:
    return {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, root) and c is not root}


def test_core_wire_contract_and_client_know_the_same_errors() -> None:
    raised = classes_of(DoorwardError)
    reasons = {name.removeprefix("ERROR_REASON_") for name in iter(errors_pb2.ErrorReason.keys())} - {"UNSPECIFIED"}
    assert raised == STATUS.keys()
    assert {c.reason for c in raised} == reasons == BY_REASON.keys() == RAISED.keys()
    assert len(raised) == len(reasons)
    assert {c.__name__: STATUS[c].name for c in raised} == {c.__name__: c.code for c in BY_REASON.values()}


def arrived(reason: str, failed: doorward.CallFailed) -> None:
    raised = RAISED[reason]
    assert type(failed).__name__ == type(raised).__name__
    assert failed.reason == reason
    assert failed.code == STATUS[type(raised)].name
    assert failed.metadata == raised.metadata
    assert failed.message == raised.message


@pytest.mark.parametrize("reason", sorted(RAISED))
def test_each_error_arrives_at_the_client_as_the_class_of_its_name(raiser: Server, reason: str) -> None:
    with doorward.Client(raiser.target, raiser.root) as client, pytest.raises(doorward.CallFailed) as failed:
        client.get_keyspace(reason, timeout=TIMEOUT)
    arrived(reason, failed.value)


def test_each_error_arrives_at_the_async_client_as_the_class_of_its_name(raiser: Server) -> None:
    async def ask() -> None:
        async with doorward.AsyncClient(raiser.target, raiser.root) as client:
            for reason in RAISED:
                with pytest.raises(doorward.CallFailed) as failed:
                    await client.get_keyspace(reason, timeout=TIMEOUT)
                arrived(reason, failed.value)

    asyncio.run(ask())


@pytest.mark.parametrize("how", ["defect", "defect within", "group", "unmapped", "forgets to ask", "a timeout within"])
def test_a_defect_arrives_as_internal_and_tells_nothing_but_where_to_look(raiser: Server, how: str) -> None:
    raiser.log.truncate(0)
    refusal = refused(
        lambda: raiser.api().keyspaces.GetKeyspace(keyspaces_pb2.GetKeyspaceRequest(name=how), timeout=TIMEOUT)
    )
    request = refusal.metadata["request"]
    fixed = errors.Internal(request)
    assert (refusal.code, refusal.reason, refusal.message) == ("INTERNAL", "INTERNAL", fixed.message)
    assert refusal.metadata == {"request": request}
    log = raiser.log.getvalue()
    assert request in log
    for told in (refusal.message.encode(), refusal.raw, log.encode()):
        assert CANARY.encode() not in told


def test_an_rpc_without_a_method_stops_the_start(tmp_path: Any) -> None:
    class Lacking:
        GetKeyspace = ApplyKeyspace = TestKeyspace = Raiser.GetKeyspace

    def lacking(app: App) -> Servicers:
        return replace(app.servicers, keyspaces=Lacking())

    with (
        databases.fresh("sqlite", tmp_path) as url,
        pytest.raises(AttributeError, match="ListKeyspaces"),
        serving(url, tmp_path, servicers=lacking, furnished=False),
    ):
        pass


def test_an_error_names_its_field_the_way_google_rpc_does(raiser: Server) -> None:
    """Callers without our client read google.rpc.BadRequest."""
    from google.rpc.error_details_pb2 import BadRequest
    from google.rpc.status_pb2 import Status

    name = keyspaces_pb2.GetKeyspaceRequest(name="INVALID_FIELD")
    raw = refused(lambda: raiser.api().keyspaces.GetKeyspace(name)).raw
    violations = BadRequest()
    details = Status.FromString(raw).details
    assert [detail.Unpack(violations) for detail in details if detail.Is(BadRequest.DESCRIPTOR)] == [True]
    assert [(v.field, v.reason) for v in violations.field_violations] == [("name", "INVALID_FIELD")]
