"""ImportKeys, BatchRevokeKeys, RevealKey and the key set on a real wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from doorward.v1 import directory_pb2, directory_pb2_grpc, keys_pb2, keys_pb2_grpc, keyspaces_pb2, keyspaces_pb2_grpc
from doorward_server.app import build, opened
from doorward_server.config import Config
from doorward_server.wire import gate
from tests import databases
from tests.fakes import FakeClock, FakeRandom

SOURCE = """
keyspace: vault
prefix: vault
recoverable: true
credentials: [{header: x-api-key}]
types: {things: [read]}
roles: {reader: {rules: [{actions: ["things:read"]}]}}
legacy: [{name: old, prefix: old_, alphabet: hex, length: 32, entropy_bits: 128}]
"""


class Wire:
    """Stubs of a server that runs on this loop, called with the root key."""

    def __init__(self, channel: grpc.aio.Channel, root: str) -> None:
        self.metadata = (("authorization", f"Bearer {root}"),)
        self.keys: Any = keys_pb2_grpc.KeyServiceStub(channel)
        self.directory: Any = directory_pb2_grpc.DirectoryServiceStub(channel)
        self.keyspaces: Any = keyspaces_pb2_grpc.KeyspaceServiceStub(channel)

    async def furnish(self) -> None:
        await self.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=SOURCE), metadata=self.metadata)
        acme = directory_pb2.Organization(id="acme")
        await self.directory.CreateOrganization(
            directory_pb2.CreateOrganizationRequest(organization=acme), metadata=self.metadata
        )

    async def take_in(self, messages: Iterable[keys_pb2.ImportKeysRequest], **call: Any) -> Any:
        async def stream() -> AsyncIterator[keys_pb2.ImportKeysRequest]:
            for message in messages:
                yield message

        return await self.keys.ImportKeys(stream(), **{"metadata": self.metadata, **call})


Scene = Callable[[Wire], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    """Runs a scene against a server that is there for it alone."""

    def run(scene: Scene) -> None:
        with databases.fresh("sqlite", tmp_path) as url:
            asyncio.run(_play(url, tmp_path, scene))

    return run


async def _play(url: str, folder: Path, scene: Scene) -> None:
    settings: dict[str, Any] = {"listen": "127.0.0.1:0", "metrics_listen": "", "bcrypt_cost": 4, "drain_seconds": 2.0}
    config = Config(store=url, state_dir=folder, **settings)
    clock, random = FakeClock(), FakeRandom("streams")
    with opened(config, clock, random) as (store, keyring, _):
        app = build(config, store, keyring, clock, random)
        port = await app.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                wire = Wire(channel, config.root_key.read_text("utf-8").strip())
                await wire.furnish()
                await scene(wire)
        finally:
            await app.stop()


def header(**more: Any) -> keys_pb2.ImportKeysRequest:
    made = {"organization": "acme", "keyspace": "vault", **more}
    return keys_pb2.ImportKeysRequest(header=keys_pb2.ImportHeader(**made))


def a_row(number: int, **more: Any) -> keys_pb2.ImportKeysRequest:
    made = {"external_id": f"old-{number}", "text": f"old_{number:032x}", "name": "imported", "scopes": ["reader"]}
    return keys_pb2.ImportKeysRequest(row=keys_pb2.ImportRow(**{**made, **more}))


def info_of(error: grpc.aio.AioRpcError) -> tuple[str, ErrorInfo]:
    trailing: Any = error.trailing_metadata()
    raw = next(value for name, value in trailing if name == "grpc-status-details-bin")
    info = ErrorInfo()
    Status.FromString(raw).details[0].Unpack(info)
    return error.code().name, info


def test_a_stream_is_taken_in_and_its_keys_are_revealed_and_ended(play: Callable[[Scene], None]) -> None:
    async def scene(wire: Wire) -> None:
        answer = await wire.take_in([header(), *(a_row(i) for i in range(600)), a_row(600, name="")])
        outcomes = [it.outcome for it in answer.results]
        assert outcomes == [keys_pb2.IMPORT_OUTCOME_CREATED] * 600 + [keys_pb2.IMPORT_OUTCOME_REJECTED]
        reveal = keys_pb2.RevealKeyRequest(organization="acme", id=answer.results[7].key_id)
        shown = await wire.keys.RevealKey(reveal, metadata=wire.metadata)
        assert shown.secret == f"old_{7:032x}"
        batch = keys_pb2.BatchRevokeKeysRequest(
            organization="acme", filter=keys_pb2.KeyFilter(keyspace="vault"), reason="moved", expected_count=599
        )
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await wire.keys.BatchRevokeKeys(batch, metadata=wire.metadata)
        code, info = info_of(refusal.value)
        assert (code, info.reason, dict(info.metadata)) == (
            "FAILED_PRECONDITION", "COUNT_MISMATCH", {"expected": "599", "found": "600"},
        )  # fmt: skip
        batch.expected_count = 600
        ended = await wire.keys.BatchRevokeKeys(batch, metadata=wire.metadata)
        assert (ended.count, len(ended.sample)) == (600, 20)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await wire.keys.RevealKey(reveal, metadata=wire.metadata)
        code, info = info_of(refusal.value)
        assert (code, info.reason) == ("FAILED_PRECONDITION", "NOT_RECOVERABLE")

    play(scene)


def test_a_stream_without_deadline_may_take_longer_than_a_unary_call(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(wire: Wire) -> None:
        monkeypatch.setattr(gate, "DEFAULT_DEADLINE", 0.0)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await wire.keys.ListKeys(keys_pb2.ListKeysRequest(), metadata=wire.metadata)
        assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        answer = await wire.take_in([header(), a_row(1)])
        assert answer.results[0].outcome == keys_pb2.IMPORT_OUTCOME_CREATED

    play(scene)


def test_streams_are_refused_like_other_calls(play: Callable[[Scene], None]) -> None:
    async def scene(wire: Wire) -> None:
        for messages, call, expected in (
            ([], {}, ("INVALID_ARGUMENT", "INVALID_FIELD")),
            ([a_row(1)], {}, ("INVALID_ARGUMENT", "INVALID_FIELD")),
            ([header(), a_row(1), header()], {}, ("INVALID_ARGUMENT", "INVALID_FIELD")),
            ([header(keyspace="nosuch")], {}, ("INVALID_ARGUMENT", "UNKNOWN_REFERENCE")),
            ([header(keyspace="doorward"), a_row(1)], {}, ("FAILED_PRECONDITION", "BUILT_IN")),
            ([header(organization="nobody"), a_row(1)], {}, ("NOT_FOUND", "NOT_FOUND")),
            ([header(), a_row(1)], {"metadata": ()}, ("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await wire.take_in(messages, **call)
            code, info = info_of(refusal.value)
            assert (code, info.reason) == expected

    play(scene)


def test_the_key_set_of_an_opaque_keyspace_is_empty(play: Callable[[Scene], None]) -> None:
    async def scene(wire: Wire) -> None:
        request = keyspaces_pb2.GetJsonWebKeySetRequest(name="vault")
        answer = await wire.keyspaces.GetJsonWebKeySet(request, metadata=wire.metadata)
        assert json.loads(answer.jwks) == {"keys": []}

    play(scene)
