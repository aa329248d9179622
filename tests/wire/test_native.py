"""The native transport: neither a caller nor a servicer can tell it from grpcio, as far as nobody streams.

Most of this module is tests of others, which pytest runs here with this module's `server` and `transport`.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from doorward.v1 import authz_pb2
from doorward_server.config import ConfigProblem, load
from doorward_server.wire import gate
from doorward_server.wire.server import BindFailed, TransportMissing
from tests import databases
from tests.wire import test_bad_input, test_credentials, test_decisions, test_errors
from tests.wire import test_permission_matrix as matrix
from tests.wire.conftest import HOOKS
from tests.wire.requests import REQUESTS
from tests.wire.serving import TIMEOUT, Server, refused, serving
from tests.wire.tenants import Tenant, new_tenant
from tests.wire.test_transport import SERVING, Waiter, health_of, health_or_gone, until

FIXTURES = ("place", "owned", "locks", "raiser")
STREAMING = matrix.STREAMS | matrix.FEEDS
unary_rpcs = pytest.mark.parametrize("rpc", sorted(REQUESTS.keys() - STREAMING))


def borrowed(module: ModuleType) -> dict[str, Any]:
    """The tests of *module*, and the fixtures that only it has."""
    own = {name: it for name, it in vars(module).items() if getattr(it, "__module__", "") == module.__name__}
    return {name: it for name, it in own.items() if name.startswith("test_") or name in FIXTURES}


for other in (test_decisions, test_credentials, test_errors, test_bad_input):
    globals().update(borrowed(other))


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On SQLite: what the store is makes no difference to the transport."""
    folder = tmp_path_factory.mktemp("native")
    with databases.fresh("sqlite", folder) as url, serving(url, folder, transport="native", **HOOKS) as server:
        yield server


def test_the_server_here_is_the_native_one(server: Server) -> None:
    assert type(server.app._server).__module__ == "doorward_server.wire.native"


# --- the permission matrix, as far as it is unary ---------------------------------------------------------------------


@unary_rpcs
def test_without_a_good_key_nobody_is_served(server: Server, rpc: str) -> None:
    for credential, decision in (("none", "CREDENTIAL_MISSING"), ("made up", "KEY_UNKNOWN")):
        matrix.test_without_a_good_key_nobody_is_served(server, rpc, credential, decision)


@unary_rpcs
def test_a_key_does_what_its_roles_give_in_its_own_organization(
    server: Server, acme: Tenant, globex: Tenant, rpc: str
) -> None:
    matrix.test_a_revoked_key_serves_nobody(server, acme, rpc)
    matrix.test_no_right_of_one_organization_reaches_another(server, acme, globex, rpc)
    if REQUESTS[rpc].permission:
        matrix.test_all_roles_without_the_permission_together_are_too_little(server, acme, rpc)
        matrix.test_the_least_role_with_the_permission_is_enough(server, acme, rpc)


# --- what streams is not served ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rpc", sorted(STREAMING))
def test_an_rpc_that_streams_is_refused_at_once_whoever_asks(server: Server, rpc: str) -> None:
    refusal = refused(lambda: matrix.call(server.api(), rpc, REQUESTS[rpc].make(new_tenant(server))))
    assert (refusal.code, refusal.reason) == ("UNIMPLEMENTED", "")


def test_health_answers_and_does_not_watch(server: Server) -> None:
    assert health_of(server) == health_of(server, "doorward.v1.AuthzService") == SERVING
    with pytest.raises(grpc.RpcError) as failed:
        health_of(server, "doorward.v1.NoService")
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    stub: Any = health_pb2_grpc.HealthStub(server.channel)
    with pytest.raises(grpc.RpcError) as failed:
        next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT))
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- time and bounds --------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[Server, Waiter]]:
    """A native server, one of whose methods waits to be let go."""
    waiter = Waiter()
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(
            url,
            tmp_path,
            furnished=False,
            servicers=lambda app: replace(app.servicers, keyspaces=waiter),
            transport="native",
            drain_seconds=TIMEOUT,
        ) as server,
    ):
        yield server, waiter
        waiter.go.set()


def ask(server: Server, **more: Any) -> Any:
    """A call of the method that waits."""
    call: Any = server.channel.unary_unary("/doorward.v1.KeyspaceService/GetKeyspace")
    return call.future(b"", metadata=[("authorization", f"Bearer {server.root}")], **more)


def test_a_call_without_a_deadline_gets_one(waiting: tuple[Server, Waiter], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "DEFAULT_DEADLINE", 0.2)
    call = ask(waiting[0])
    with pytest.raises(grpc.RpcError) as failed:
        call.result(TIMEOUT)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the deadline of calls without one" in (failed.value.details() or "")


def test_a_caller_who_goes_away_frees_its_place(waiting: tuple[Server, Waiter]) -> None:
    server, waiter = waiting
    late, gone = ask(server, timeout=0.5), ask(server)
    assert waiter.entered.wait(TIMEOUT)
    gone.cancel()
    with pytest.raises(grpc.RpcError) as failed:
        late.result(TIMEOUT)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: server.app._gate.is_idle)


def test_more_calls_than_there_are_places_are_refused(
    waiting: tuple[Server, Waiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_CALLS", 1)
    server, waiter = waiting
    first = ask(server)
    assert waiter.entered.wait(TIMEOUT)
    assert refused(lambda: ask(server).result(TIMEOUT)).reason == "OVERLOADED"
    waiter.go.set()
    assert first.result(TIMEOUT) == b""


def test_stopping_answers_every_call_that_runs_and_refuses_new_ones(waiting: tuple[Server, Waiter]) -> None:
    server, waiter = waiting
    waiter.answer.keyspace.source = "x" * 50_000  # more than a connection takes at once
    calls = [ask(server) for _ in range(100)]
    until(lambda: server.app._gate._running[gate.Kind.UNARY] == len(calls))
    stopping = asyncio.run_coroutine_threadsafe(server.app.stop(), server.loop)
    until(lambda: health_or_gone(server) != SERVING)
    waiter.go.set()
    assert {call.result(TIMEOUT) for call in calls} == {waiter.answer.SerializeToString()}
    stopping.result(TIMEOUT)
    assert refused(lambda: server.api().authz.Introspect(authz_pb2.IntrospectRequest())).code == "UNAVAILABLE"


SLOW = """
import sys, grpc
who = [("authorization", "Bearer " + sys.stdin.readline().strip())]
with grpc.insecure_channel(sys.argv[1]) as channel:
    call = channel.unary_unary("/doorward.v1.KeyspaceService/GetKeyspace")
    calls = [call.future(b"", metadata=who) for _ in range(8)]
    print(*sorted({len(it.result(60)) for it in calls}))
"""


def test_stopping_waits_for_who_takes_its_answers_slowly(waiting: tuple[Server, Waiter]) -> None:
    """More than all buffers between them hold, for a caller that is stopped and does not read."""
    server, waiter = waiting
    waiter.answer.keyspace.source = "x" * 3_000_000
    slow = subprocess.Popen(
        [sys.executable, "-c", SLOW, server.target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert slow.stdin is not None
        print(server.root, file=slow.stdin, flush=True)
        until(lambda: server.app._gate._running[gate.Kind.UNARY] == 8)
        slow.send_signal(signal.SIGSTOP)
        stopping = asyncio.run_coroutine_threadsafe(server.app.stop(), server.loop)
        waiter.go.set()
        until(lambda: server.app._gate.is_idle)  # all handlers have returned
        with pytest.raises(TimeoutError):
            stopping.result(1)
        slow.send_signal(signal.SIGCONT)
        assert slow.communicate(timeout=TIMEOUT)[0] == f"{waiter.answer.ByteSize()}\n"
        stopping.result(TIMEOUT)
    finally:
        slow.kill()
        slow.communicate()


def test_callers_who_go_away_at_once_leave_nothing_behind(server: Server) -> None:
    call: Any = server.channel.unary_unary("/doorward.v1.AuthzService/Introspect")
    who, kept = [("authorization", f"Bearer {server.root}")], server.app._server
    for _ in range(500):
        call.future(b"", metadata=who).cancel()
    call(b"", metadata=who, timeout=TIMEOUT)  # on the same connection: what came before it has been seen
    until(lambda: not kept._calls)  # type: ignore[attr-defined]
    assert server.app._gate.is_idle


def test_many_callers_at_once_each_get_their_own_answer(server: Server) -> None:
    """Calls cross from the transport's threads to the event loop and back by number: no two may be mixed up."""
    tenant = new_tenant(server)
    keys = [tenant.key("doorward") for _ in range(16)]
    ready = threading.Barrier(len(keys))

    def ask_often(number: int) -> set[str]:
        with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call: Any = channel.unary_unary(
                "/doorward.v1.AuthzService/Introspect",
                response_deserializer=authz_pb2.IntrospectResponse.FromString,
            )
            ready.wait(TIMEOUT)
            who = [("authorization", f"Bearer {keys[number].text}")]
            told = set()
            for _ in range(5):
                pending = [call.future(b"", metadata=who, timeout=TIMEOUT) for _ in range(20)]
                told |= {it.result().identity.key_id for it in pending}
            return told

    with ThreadPoolExecutor(len(keys)) as pool:
        assert list(pool.map(ask_often, range(len(keys)))) == [{key.id} for key in keys]


# --- where it is refused ----------------------------------------------------------------------------------------------


def wrong(**environ: str) -> str:
    with pytest.raises(ConfigProblem) as problem:
        load({"DOORWARD_TRANSPORT": "native", **{f"DOORWARD_{name}": value for name, value in environ.items()}})
    return str(problem.value)


def test_it_serves_this_machine_or_a_proxy_and_never_tls() -> None:
    assert load({"DOORWARD_TRANSPORT": "native"}).transport == "native"
    assert "native does not bound the size of messages" in wrong(LISTEN="0.0.0.0:1", PLAINTEXT="true")
    assert "is not a loopback address, and keys would travel in clear" in wrong(LISTEN="0.0.0.0:1", BEHIND_PROXY="true")
    both = {"DOORWARD_PLAINTEXT": "true", "DOORWARD_BEHIND_PROXY": "true"}
    assert load({"DOORWARD_TRANSPORT": "native", "DOORWARD_LISTEN": "0.0.0.0:1", **both}).behind_proxy
    for files in ({"TLS_CERTIFICATE": "c", "TLS_PRIVATE_KEY": "k"}, {"TLS_CLIENT_CA": "a"}):
        assert "native has no TLS" in wrong(**files)
    assert "DOORWARD_TRANSPORT" in wrong(TRANSPORT="nativ")


def test_a_port_that_is_taken_stops_the_start_and_says_so(server: Server, tmp_path: Path) -> None:
    with (
        databases.fresh("sqlite", tmp_path) as url,
        pytest.raises(BindFailed, match=f"Cannot listen on 127.0.0.1:{server.port}: the port is taken"),
        serving(url, tmp_path, listen=server.target, transport="native"),
    ):
        pass


def test_without_its_package_the_start_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "doorward_server.wire.native", raising=False)
    monkeypatch.setitem(sys.modules, "pygrpc_native.aio", None)
    with (
        databases.fresh("sqlite", tmp_path) as url,
        pytest.raises(TransportMissing, match=r"pip install 'doorward\[server,native\]'"),
        serving(url, tmp_path, transport="native"),
    ):
        pass
