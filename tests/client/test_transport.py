"""What goes over the wire besides requests: deadlines, retries, who asks, and over which connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import trustme

from doorward import TLS, AsyncClient, Client, DeadlineExceeded, Misconfigured, Unavailable
from doorward.v1 import authz_pb2, directory_pb2, keys_pb2
from tests.client.door import KEY, Door, Failure, opened

UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE)


def test_every_call_has_a_deadline(client: Any, door: Door) -> None:
    client.authorize("k", keyspace="aiia", action="findings:read")
    assert door.last.seconds
    assert 0 < door.last.seconds <= 2.1
    client.get_key("key_1")
    assert door.last.seconds
    assert 2.1 < door.last.seconds <= 10.1
    client.get_key("key_1", timeout=60)
    assert door.last.seconds
    assert 10.1 < door.last.seconds <= 60.1


def test_the_deadlines_are_the_constructors(make: Any, door: Door) -> None:
    client = make(door.target, KEY, authorize_timeout=20, timeout=30)
    client.whoami()
    list(client.list_keys())
    deciding, listing = (asked.seconds or 0 for asked in door.asked)
    assert 10.1 < deciding <= 20.1
    assert 20.1 < listing <= 30.1


def test_no_answer_in_time_is_deadline_exceeded(client: Any, door: Door) -> None:
    over = threading.Event()

    def wait(request: keys_pb2.GetKeyRequest) -> keys_pb2.GetKeyResponse:
        over.wait(30)
        return keys_pb2.GetKeyResponse()

    door.will("GetKey", wait)
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            client.get_key("key_1", timeout=0.1)
        assert caught.value.code == "DEADLINE_EXCEEDED"
    finally:
        over.set()


@pytest.mark.parametrize("rpc", ["get_key", "revoke_key"])
def test_unavailable_is_tried_again(rpc: str, client: Any, door: Door) -> None:
    name = rpc.title().replace("_", "")
    answer = getattr(keys_pb2, f"{name}Response")(key=keys_pb2.Key(id="key_1"))
    door.will(name, UNAVAILABLE, UNAVAILABLE, answer)
    assert getattr(client, rpc)("key_1").id == "key_1"
    assert len(door.asked) == 3


def test_three_tries_are_enough(client: Any, door: Door) -> None:
    door.will("GetKey", UNAVAILABLE)
    with pytest.raises(Unavailable):
        client.get_key("key_1")
    assert len(door.asked) == 3


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name not in ("OK", "UNAVAILABLE")])
def test_nothing_else_is_tried_again(code: grpc.StatusCode, client: Any, door: Door) -> None:
    door.will("GetKey", Failure(code), keys_pb2.GetKeyResponse())
    with pytest.raises(Exception, match="No"):
        client.get_key("key_1")
    assert len(door.asked) == 1


def test_a_creation_is_tried_again_under_the_same_request_id(client: Any, door: Door) -> None:
    door.will("CreateKey", UNAVAILABLE, keys_pb2.CreateKeyResponse(secret="hush"))
    assert client.create_key(keyspace="aiia", name="n").secret.reveal() == "hush"
    ids = {asked.request.request_id for asked in door.asked}
    assert len(door.asked) == 2
    assert len(ids) == 1
    assert all(len(id) == 36 for id in ids)


def test_what_has_no_request_id_is_not_created_twice(client: Any, door: Door) -> None:
    door.will("CreateBinding", UNAVAILABLE, directory_pb2.CreateBindingResponse())
    with pytest.raises(Unavailable):
        client.create_binding(keyspace="aiia", role="manager", principal="alice")
    assert len(door.asked) == 1


def test_calls_carry_the_key_and_whom_they_act_for(client: Any, door: Door) -> None:
    client.whoami()
    assert door.last.metadata["authorization"] == f"Bearer {KEY}"
    assert "doorward-acting-for" not in door.last.metadata
    client.acting_for("acme/alice@acme.example").whoami()
    assert door.last.metadata["doorward-acting-for"] == "acme/alice@acme.example"
    assert door.last.metadata["authorization"] == f"Bearer {KEY}"
    client.whoami()
    assert "doorward-acting-for" not in door.last.metadata
    assert len({asked.peer for asked in door.asked}) == 1


@pytest.mark.parametrize("principal", ["", "alice", "acme/", "/alice", "acme/alice\r\nx: y", "acme/älice"])
def test_whom_to_act_for_is_an_organization_and_a_principal(principal: str) -> None:
    with pytest.raises(ValueError, match="write <organization>/<principal>"):
        Client("127.0.0.1:1", KEY).acting_for(principal)


def test_lists_turn_the_pages(client: Any, door: Door) -> None:
    pages = {"": (["a", "b"], "2"), "2": ([], "3"), "3": (["c"], "")}

    def page(request: directory_pb2.ListPrincipalsRequest) -> directory_pb2.ListPrincipalsResponse:
        ids, token = pages[request.page_token]
        principals = [directory_pb2.Principal(id=id) for id in ids]
        return directory_pb2.ListPrincipalsResponse(principals=principals, next_page_token=token)

    door.will("ListPrincipals", page)
    assert [principal.id for principal in client.list_principals(organization="acme", page_size=2)] == ["a", "b", "c"]
    assert [asked.request.page_size for asked in door.asked] == [2, 2, 2]
    assert {asked.request.organization for asked in door.asked} == {"acme"}


def test_a_list_fetches_no_page_before_it_is_read(door: Door) -> None:
    door.will("ListKeys", keys_pb2.ListKeysResponse(keys=[keys_pb2.Key(id="a")], next_page_token="more"))
    with Client(door.target, KEY) as client:
        keys = client.list_keys()
        assert not door.asked
        assert next(keys).id == "a"
        assert len(door.asked) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_so_many_connections_in_turn(channels: int, make: Any, door: Door) -> None:
    client = make(door.target, KEY, channels=channels)
    for _ in range(2 * channels):
        client.whoami()
    peers = [asked.peer for asked in door.asked]
    assert len(set(peers)) == channels
    assert peers[:channels] == peers[channels:]


def test_threads_share_the_connections(door: Door) -> None:
    with Client(door.target, KEY, channels=2) as client, ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(client.whoami) for _ in range(64)]:
            done.result()
    assert len(door.asked) == 64
    assert len({asked.peer for asked in door.asked}) == 2


def test_nothing_is_opened_before_the_first_call(make: Any) -> None:
    make("127.0.0.1:1", KEY, channels=1000)


def test_a_closed_client_says_so(make: Any, door: Door) -> None:
    client = make(door.target, KEY)
    client.whoami()
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.whoami()


def test_clients_close_at_the_end_of_their_block(door: Door) -> None:
    with Client(door.target, KEY) as client:
        client.whoami()
    with pytest.raises(RuntimeError, match="closed"):
        client.whoami()

    async def ask() -> None:
        async with AsyncClient(door.target, KEY) as client:
            await client.whoami()
        with pytest.raises(RuntimeError, match="closed"):
            await client.whoami()

    asyncio.run(ask())


def test_an_async_client_works_in_one_loop_after_another(door: Door) -> None:
    client = AsyncClient(door.target, KEY)
    assert asyncio.run(client.whoami()).key_id == ""
    assert asyncio.run(client.whoami()).key_id == ""
    asyncio.run(client.close())


def test_many_questions_at_once_are_answered_each(door: Door) -> None:
    def echo(request: authz_pb2.AuthorizeRequest) -> authz_pb2.AuthorizeResponse:
        return authz_pb2.AuthorizeResponse(decision=authz_pb2.DECISION_ALLOW, message=request.action)

    door.will("Authorize", echo)

    async def ask() -> list[str]:
        async with AsyncClient(door.target, KEY, channels=2) as client:
            asked = (client.authorize("k", keyspace="aiia", action=f"findings:{n}") for n in range(32))
            return [decision.message for decision in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [f"findings:{n}" for n in range(32)]


def test_waiting_until_ready_ends_with_the_server_or_the_time(make: Any, door: Door) -> None:
    make(door.target, KEY, channels=2).wait_until_ready(10)
    with pytest.raises(Unavailable, match=r"No connection to 127\.0\.0\.1:1 within 0\.2 s"):
        make("127.0.0.1:1", KEY).wait_until_ready(0.2)


def test_a_proxy_is_not_asked_about_this_machine(monkeypatch: pytest.MonkeyPatch, make: Any, door: Door) -> None:
    """Plaintext is allowed here because it stays here."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    make(door.target, KEY).whoami()
    assert len(door.asked) == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def locked(authority: trustme.CA) -> Iterator[Door]:
    """A door that wants to see a certificate."""
    server = authority.issue_cert("localhost", "127.0.0.1")
    chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), chain)], authority.cert_pem.bytes(), require_client_auth=True
    )
    with opened(credentials) as door:
        yield door


def test_mutual_tls_with_bytes_and_with_paths(authority: trustme.CA, locked: Door, make: Any, tmp_path: Any) -> None:
    mine = authority.issue_cert("backend@acme.example")
    pems = {
        "ca": authority.cert_pem.bytes(),
        "certificate": mine.cert_chain_pems[0].bytes(),
        "private_key": mine.private_key_pem.bytes(),
    }
    make(locked.target, KEY, tls=TLS(**pems)).whoami()
    for name, pem in pems.items():
        (tmp_path / name).write_bytes(pem)
    make(locked.target, KEY, tls=TLS(**{name: tmp_path / name for name in pems})).whoami()
    assert [asked.metadata["authorization"] for asked in locked.asked] == [f"Bearer {KEY}"] * 2


def test_tls_refuses_strangers_on_both_sides(authority: trustme.CA, locked: Door, make: Any) -> None:
    mine = authority.issue_cert("backend@acme.example")
    chain, key = mine.cert_chain_pems[0].bytes(), mine.private_key_pem.bytes()
    strangers = trustme.CA()
    for tls in (
        TLS(ca=authority.cert_pem.bytes()),  # shows no certificate
        TLS(ca=strangers.cert_pem.bytes(), certificate=chain, private_key=key),  # does not know the server
    ):
        with pytest.raises(Unavailable):
            make(locked.target, KEY, tls=tls).whoami(timeout=10)
    assert not locked.asked


def test_without_a_client_certificate_where_none_is_wanted(authority: trustme.CA, make: Any) -> None:
    server = authority.issue_cert("localhost", "127.0.0.1")
    pair = (server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())
    with opened(grpc.ssl_server_credentials([pair])) as door:
        make(door.target, KEY, tls=TLS(ca=authority.cert_pem.bytes())).whoami()
        assert len(door.asked) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_plaintext_leaves_this_machine_only_by_name(kind: type[Client | AsyncClient]) -> None:
    with pytest.raises(Misconfigured, match=r"doorward\.example:50051 is not this machine"):
        kind("doorward.example:50051", KEY)
    kind("doorward.example:50051", KEY, insecure=True)
    kind("doorward.example:50051", KEY, tls=TLS())
