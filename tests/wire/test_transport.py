"""What is true of every call: readiness, reflection, bounds, deadlines, TLS, draining, counters."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import doorward
from doorward.v1 import authz_pb2, keys_pb2, keyspaces_pb2
from doorward_server import app as app_module
from doorward_server.service.guard import Caller
from doorward_server.wire import gate
from doorward_server.wire.server import OPTIONS, SERVICES, BindFailed
from tests import databases
from tests.wire.serving import TIMEOUT, Server, bearer, refused, serving
from tests.wire.tenants import Tenant, asked, never_made, new_tenant

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that happens by itself."""
    end = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def health_of(server: Server, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(server.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT).status)


# --- what needs no key ------------------------------------------------------------------------------------------------


def test_health_and_reflection_need_no_key_and_name_exactly_what_is_served(server: Server) -> None:
    names = {service.full_name for service in SERVICES}
    assert {health_of(server, name) for name in ("", *names)} == {SERVING}
    with pytest.raises(grpc.RpcError) as failed:
        health_of(server, "doorward.v1.NoService")
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)  # its stubs are incomplete
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([ask]), timeout=TIMEOUT)
    others = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert {service.name for service in answer.list_services_response.service} == names | others


def test_a_store_that_does_not_answer_makes_the_server_not_ready_and_denies_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "UNREADY_AFTER", 0.5)
    with databases.fresh("postgresql", tmp_path) as url, serving(url, tmp_path) as server:
        tenant = new_tenant(server)
        text = tenant.key(scopes=["read:findings"]).text
        name = url.rpartition("?")[0].rpartition("/")[2]
        databases.administer(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
        databases.administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        refusal = refused(lambda: asked(tenant, text))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        until(lambda: health_of(server) == health_of(server, SERVICES[0].full_name) == NOT_SERVING)
        databases.administer(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
        until(lambda: health_of(server) == SERVING)
        assert asked(tenant, text) == "ALLOWED"


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_every_channel_option_is_one_that_grpcio_knows() -> None:
    """It passes over misspelt ones without a word."""
    (file,) = Path(grpc.__file__).parent.glob("_cython/cygrpc*.so")
    binary = file.read_bytes()
    assert [name for name, _ in OPTIONS if name.encode() + b"\0" not in binary] == []


def test_a_caller_with_more_metadata_than_allowed_is_refused(server: Server) -> None:
    def who(size: int) -> Any:
        more = (("x-more", "x" * size),)
        return server.api().authz.Introspect(authz_pb2.IntrospectRequest(), metadata=more)

    who(4_000)
    with pytest.raises(grpc.RpcError) as failed:
        who(40_000)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_compressed_message_is_refused(server: Server) -> None:
    """A few hundred bytes could be a quarter of a MiB, and each would have to be unpacked before anything else."""
    stub = server.api().authz
    with pytest.raises(grpc.RpcError) as failed:
        stub.Introspect(authz_pb2.IntrospectRequest(keyspace="x" * 10_000), compression=grpc.Compression.Gzip)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in (failed.value.details() or "")
    assert stub.Introspect(authz_pb2.IntrospectRequest()).identity.key_name == "root"


METHODS = [
    (f"/{service.full_name}/{rpc.name}", rpc.client_streaming) for service in SERVICES for rpc in service.methods
]


def send(server: Server, method: str, streams: bool, messages: list[bytes], key: str) -> Any:
    """Send bytes as they are."""
    if streams:
        stream: Any = server.channel.stream_unary(method)
        return stream(iter(messages), timeout=TIMEOUT, metadata=bearer(key))
    unary: Any = server.channel.unary_unary(method)
    return unary(messages[-1], timeout=TIMEOUT, metadata=bearer(key))


@pytest.mark.parametrize(("method", "streams"), METHODS)
def test_bytes_that_are_no_message_are_refused_with_a_reason_and_only_after_the_key(
    server: Server, method: str, streams: bool
) -> None:
    refusal = refused(lambda: send(server, method, streams, [b"\xff\xff"], server.root))
    assert (refusal.code, refusal.reason, refusal.metadata["field"]) == ("INVALID_ARGUMENT", "INVALID_FIELD", "request")
    stranger = refused(lambda: send(server, method, streams, [b"\xff\xff"], never_made()))
    assert stranger.reason == "CALLER_UNAUTHENTICATED"  # nothing was parsed for whoever that is


def test_a_stream_is_refused_at_the_first_message_that_is_none_and_beyond_its_bytes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, streams = "/doorward.v1.KeyService/ImportKeys", True
    header = keys_pb2.ImportHeader(organization=new_tenant(server).id, keyspace="aiia", dry_run=True)
    first = keys_pb2.ImportKeysRequest(header=header).SerializeToString()
    row = keys_pb2.ImportKeysRequest(row=keys_pb2.ImportRow(external_id="a", name="x" * 1000)).SerializeToString()
    good = send(server, method, streams, [first, row], server.root)
    assert len(keys_pb2.ImportKeysResponse.FromString(good).results) == 1
    refusal = refused(lambda: send(server, method, streams, [first, row, b"\xff\xff"], server.root))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "request")
    monkeypatch.setattr(gate, "MAX_STREAM_BYTES", 4 * len(row))
    send(server, method, streams, [first, row, row, row], server.root)
    over = refused(lambda: send(server, method, streams, [first, row, row, row, row], server.root))
    assert (over.reason, over.metadata["field"]) == ("INVALID_FIELD", "request")
    # What a message says twice counts twice, though the message that is made of it holds it once.
    again = refused(lambda: send(server, method, streams, [first, row * 4], server.root))
    assert again.metadata["field"] == "request"


class Waiter:
    """A KeyspaceService whose GetKeyspace waits until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go, self.running = threading.Event(), threading.Event(), 0
        self.answer = keyspaces_pb2.GetKeyspaceResponse()

    async def GetKeyspace(self, request: Any, caller: Caller) -> keyspaces_pb2.GetKeyspaceResponse:
        caller.checked.append("a test")
        self.running += 1
        self.entered.set()
        await asyncio.to_thread(self.go.wait, TIMEOUT)
        return self.answer

    ApplyKeyspace = TestKeyspace = ListKeyspaces = GetJsonWebKeySet = GetKeyspace


def test_of_too_many_calls_at_once_the_last_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_CALLS", 3)
    waiter, ask = Waiter(), keyspaces_pb2.GetKeyspaceRequest()
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(
            url, tmp_path, furnished=False, servicers=lambda app: replace(app.servicers, keyspaces=waiter)
        ) as server,
    ):
        api = server.api()
        running = [api.keyspaces.GetKeyspace.future(ask) for _ in range(3)]
        until(lambda: waiter.running == 3)
        for stranger in (api, server.api("-")) * 10:  # before anything is done for it, so whoever it is
            refusal = refused(lambda api=stranger: api.keyspaces.GetKeyspace(ask))  # type: ignore[misc]  # bound
            assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "OVERLOADED")
        imported = keys_pb2.ImportKeysRequest(header=keys_pb2.ImportHeader(keyspace="nope"))
        assert refused(lambda: api.keys.ImportKeys(iter([imported]))).reason == "UNKNOWN_REFERENCE"  # places of its own
        waiter.go.set()
        assert [call.result(TIMEOUT) for call in running] == [keyspaces_pb2.GetKeyspaceResponse()] * 3
        until(lambda: _answers(lambda: api.keyspaces.GetKeyspace(ask)))  # a place is free just after its answer
        assert waiter.running == 4


def test_streams_have_few_places_and_take_none_of_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_STREAMS", 2)
    hold = threading.Event()
    header = keys_pb2.ImportKeysRequest(header=keys_pb2.ImportHeader(keyspace="aiia", dry_run=True))

    def slowly() -> Iterator[keys_pb2.ImportKeysRequest]:
        yield header
        hold.wait(TIMEOUT)

    api = server.api()
    held = [api.keys.ImportKeys.future(slowly()) for _ in range(2)]
    until(lambda: server.app._gate._running[gate.Kind.STREAM] == 2)
    assert refused(lambda: api.keys.ImportKeys(iter([header]))).reason == "OVERLOADED"
    assert api.authz.Introspect(authz_pb2.IntrospectRequest()).identity.key_name == "root"
    hold.set()
    assert [list(call.result(TIMEOUT).results) for call in held] == [[], []]
    until(lambda: _answers(lambda: api.keys.ImportKeys(iter([header]))))


def _answers(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return False
    return True


def test_a_call_without_a_deadline_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "DEFAULT_DEADLINE", 0.2)
    waiter = Waiter()
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(
            url, tmp_path, furnished=False, servicers=lambda app: replace(app.servicers, keyspaces=waiter)
        ) as server,
    ):
        call: Any = server.channel.unary_unary("/doorward.v1.KeyspaceService/GetKeyspace")
        with pytest.raises(grpc.RpcError) as failed:
            call(b"", metadata=[("authorization", f"Bearer {server.root}")])
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the deadline of calls without one" in (failed.value.details() or "")
        waiter.go.set()


def test_stopping_lets_calls_finish_refuses_new_ones_and_writes_last_uses(tmp_path: Path) -> None:
    waiter = Waiter()
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(
            url, tmp_path, servicers=lambda app: replace(app.servicers, keyspaces=waiter), furnished=False
        ) as server,
    ):
        held = Tenant(server, "operator").key("doorward")
        call = server.api().keyspaces.GetKeyspace.future(keyspaces_pb2.GetKeyspaceRequest())
        assert waiter.entered.wait(TIMEOUT)
        stopping = asyncio.run_coroutine_threadsafe(server.app.stop(), server.loop)
        until(lambda: health_or_gone(server) != SERVING)
        assert not call.done()
        server.app.uses.note(*_used(server, held.id))
        waiter.go.set()
        assert call.result(TIMEOUT) == keyspaces_pb2.GetKeyspaceResponse()
        stopping.result(TIMEOUT)
        assert refused(lambda: server.api().authz.Introspect(authz_pb2.IntrospectRequest())).code == "UNAVAILABLE"
        key = server.app.store.find_key("operator", held.id)
        assert key is not None
        assert key.last_used_at == server.clock.now


def health_or_gone(server: Server) -> int:
    with grpc.insecure_channel(server.target) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT).status)
        except grpc.RpcError:
            return NOT_SERVING


def _used(server: Server, id: str) -> Any:
    key = server.app.store.find_key("operator", id)
    assert key is not None
    return key, key.secrets[0], server.clock.now


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def _files(ca: trustme.CA, folder: Path, **more: Any) -> dict[str, Any]:
    certificate = ca.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    return {"tls_certificate": folder / "cert.pem", "tls_private_key": folder / "key.pem", **more}


def test_over_tls_only_who_trusts_the_certificate_is_served(tmp_path: Path, ca: trustme.CA) -> None:
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(url, tmp_path, furnished=False, **_files(ca, tmp_path)) as server,
    ):
        target = f"localhost:{server.port}"
        with doorward.Client(target, server.root, tls=doorward.TLS(ca=tmp_path / "ca.pem")) as client:
            assert client.whoami(timeout=TIMEOUT).key_name == "root"
        other = trustme.CA().cert_pem.bytes()
        stranger = doorward.Client(target, server.root, tls=doorward.TLS(ca=other))
        with stranger as client, pytest.raises(doorward.Unavailable):
            client.whoami()
        with doorward.Client(target, server.root) as client, pytest.raises(doorward.Unavailable):
            client.whoami()


def test_over_mtls_only_who_shows_a_certificate_is_served(tmp_path: Path, ca: trustme.CA) -> None:
    mine, other = ca.issue_cert("backend.acme"), trustme.CA().issue_cert("backend.acme")

    def tls(certificate: trustme.LeafCert | None) -> doorward.TLS:
        if certificate is None:
            return doorward.TLS(ca=tmp_path / "ca.pem")
        chain, key = certificate.cert_chain_pems[0].bytes(), certificate.private_key_pem.bytes()
        return doorward.TLS(ca=tmp_path / "ca.pem", certificate=chain, private_key=key)

    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(url, tmp_path, furnished=False, **_files(ca, tmp_path, tls_client_ca=tmp_path / "ca.pem")) as server,
    ):
        target = f"localhost:{server.port}"
        with doorward.Client(target, server.root, tls=tls(mine)) as client:
            assert client.whoami(timeout=TIMEOUT).key_name == "root"
        for certificate in (other, None):
            stranger = doorward.Client(target, server.root, tls=tls(certificate))
            with stranger as client, pytest.raises(doorward.Unavailable):
                client.whoami()


def test_a_certificate_that_is_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    files: dict[str, Any] = {"tls_certificate": tmp_path / "cert.pem", "tls_private_key": tmp_path / "cert.pem"}
    with (
        databases.fresh("sqlite", tmp_path) as url,
        pytest.raises((ValueError, BindFailed)),
        serving(url, tmp_path, furnished=False, **files),
    ):
        pass


def test_a_port_that_is_taken_stops_the_start_and_says_so(server: Server, tmp_path: Path) -> None:
    with (
        databases.fresh("sqlite", tmp_path) as url,
        pytest.raises(BindFailed, match=f"Cannot listen on 127.0.0.1:{server.port}: the port is taken"),
        serving(url, tmp_path, listen=server.target),
    ):
        pass


# --- counters ---------------------------------------------------------------------------------------------------------


def test_metrics_count_calls_and_decisions(tmp_path: Path) -> None:
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(url, tmp_path, metrics_listen="127.0.0.1:0") as server,
    ):
        tenant = new_tenant(server)
        held = tenant.key(scopes=["read:findings"])
        for _ in range(3):
            asked(tenant, held.text)
        asked(tenant, held.text, action="findings:update")
        refused(lambda: server.api("-").authz.Introspect(authz_pb2.IntrospectRequest()))
        address = f"http://127.0.0.1:{server.app.metrics_port}/metrics"
        authz = 'grpc_service="doorward.v1.AuthzService"'
        expected = {
            'doorward_decisions_total{keyspace="aiia",reason="ALLOWED"} 3.0',
            'doorward_decisions_total{keyspace="aiia",reason="SCOPE_INSUFFICIENT"} 1.0',
            f'grpc_server_handled_total{{grpc_code="OK",grpc_method="Authorize",{authz}}} 4.0',
            f'grpc_server_handled_total{{grpc_code="UNAUTHENTICATED",grpc_method="Introspect",{authz}}} 1.0',
            f'grpc_server_handling_seconds_count{{grpc_method="Authorize",{authz}}} 4.0',
            f'grpc_server_handling_seconds_bucket{{grpc_method="Authorize",{authz},le="+Inf"}} 4.0',
        }

        def missing() -> set[str]:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
                return expected - set(answer.read().decode().splitlines())

        until(lambda: not missing())  # a refusal is counted just after it has been sent
