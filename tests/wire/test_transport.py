"""What is true of every call: readiness, reflection, bounds, deadlines, TLS, draining, counters."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import doorward
from doorward.v1 import authz_pb2, keyspaces_pb2
from doorward_server import app as app_module
from doorward_server.service.guard import Caller
from doorward_server.wire import gate
from doorward_server.wire.server import OPTIONS, SERVICES, BindFailed
from tests import databases
from tests.wire.serving import TIMEOUT, Server, refused, serving
from tests.wire.tenants import Tenant, asked, new_tenant

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


class Waiter:
    """A KeyspaceService whose GetKeyspace waits until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    async def GetKeyspace(self, request: Any, caller: Caller) -> keyspaces_pb2.GetKeyspaceResponse:
        caller.checked.append("a test")
        self.entered.set()
        await asyncio.to_thread(self.go.wait, TIMEOUT)
        return keyspaces_pb2.GetKeyspaceResponse()

    ApplyKeyspace = ListKeyspaces = GetKeyspace


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
