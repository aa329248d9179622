"""What the benchmark asks about: a keyspace, an organization, owners with roles, keys, and the rows of calls.

The keyspace has no limits and no credits: decisions that they take part in are rows of their own, in keyspaces that are
else the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from doorward.v1 import (
    authz_pb2,
    directory_pb2,
    directory_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    keyspaces_pb2,
    keyspaces_pb2_grpc,
)
from doorward_server.core.keytext import mint
from tests.bench.calls import AUTHZ, Row, decided

KEYSPACE, ORGANIZATION, OWNER, ENVIRONMENT = "bench", "bench", "alice", "live"
BATCH = 100
SOURCE = """
keyspace: bench
prefix: bench
environments: [live]
credentials: [{header: Authorization, scheme: Bearer}]
organization: key
inherit: true
types:
  flows: [get, list, execute, create, update, delete, review]
  executions: [get, list]
parents: {executions: flows}
relations: {flows: [maintainer]}
attributes: {resource: {flows: {published: bool}}}
roles:
  full-access:
    rules:
      - {actions: [flows:execute], condition: resource.published}
      - {actions: [flows:get, flows:list, flows:create, flows:update, flows:delete, "executions:*"]}
      - {actions: [flows:review], relation: maintainer}
  read-only:
    rules:
      - {actions: [flows:get, flows:list, "executions:*"]}
  editor:
    rules:
      - {actions: [flows:execute], condition: resource.published}
      - {actions: [flows:get, flows:list, flows:create, flows:update, flows:delete, "executions:*"]}
      - {actions: [flows:review], relation: maintainer}
"""
LIMITED, PAID = "limited", "paid"
MORE = {
    LIMITED: """
limits:
  windows:
    per-minute: {per: key, limit: 1000000000, window: 1m}
    per-day: {per: organization, limit: 1000000000000, window: 1d}
""",
    PAID: "credits: {initial: 1000000000000}",
}
"""What those keyspaces say besides, by name."""
FLOW = authz_pb2.Resource(type="flows", id="abc123")
PUBLISHED = authz_pb2.Resource(
    type="flows", id="abc123", attributes={"published": directory_pb2.AttributeValue(flag=True)}
)


@dataclass(frozen=True)
class World:
    """Texts of keys: the backend's that asks, some that may change flows, and one that may only read them."""

    backend: str
    keys: tuple[str, ...]
    reader: str
    counted: Mapping[str, str]
    """A key of each keyspace that counts its calls, by name."""


class Seeder:
    """Fills a new Doorward, as root."""

    def __init__(self, channel: grpc.Channel, root: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {root}"),)

    def seed(self, keys: int) -> World:
        """Make *keys* keys that inherit from their owner, so that an ALLOW matches a scope and a role."""
        for name, more in ((KEYSPACE, ""), *MORE.items()):
            source = SOURCE.replace("bench", name) + more
            self._ask(keyspaces_pb2_grpc.KeyspaceServiceStub, keyspaces_pb2.ApplyKeyspaceRequest(source=source))
        directory = directory_pb2_grpc.DirectoryServiceStub
        organization = directory_pb2.Organization(id=ORGANIZATION)
        self._ask(directory, directory_pb2.CreateOrganizationRequest(organization=organization))
        principal = directory_pb2.Principal(organization=ORGANIZATION, id=OWNER)
        self._ask(directory, directory_pb2.CreatePrincipalRequest(principal=principal))
        for name in (KEYSPACE, *MORE):
            binding = directory_pb2.Binding(organization=ORGANIZATION, principal=OWNER, keyspace=name, role="editor")
            self._ask(directory, directory_pb2.CreateBindingRequest(binding=binding))
        relation = directory_pb2.Relation(resource="flows/abc123", relation="maintainer", principal=OWNER)
        written = directory_pb2.WriteRelationsRequest(
            organization=ORGANIZATION, keyspace=KEYSPACE, relations=[relation]
        )
        self._ask(directory, written)
        with ThreadPoolExecutor(8) as pool:
            made = tuple(pool.map(lambda n: self._key(KEYSPACE, "full-access", f"key {n}", OWNER), range(keys)))
        backend = self._key("doorward", "backend", "backend", "")
        counted = {name: self._key(name, "full-access", name, OWNER) for name in MORE}
        return World(backend, made, self._key(KEYSPACE, "read-only", "reader", OWNER), counted)

    def _key(self, keyspace: str, scope: str, name: str, owner: str) -> str:
        request = keys_pb2.CreateKeyRequest(
            organization=ORGANIZATION, keyspace=keyspace, owner=owner, name=name, scopes=[scope]
        )
        return str(self._ask(keys_pb2_grpc.KeyServiceStub, request).secret)

    def _ask(self, stub: Callable[[grpc.Channel], Any], request: Message) -> Any:
        method = type(request).__name__.removesuffix("Request")
        return getattr(stub(self._channel), method)(request, metadata=self._metadata, timeout=60)


@contextmanager
def seeder(target: str, root: str) -> Iterator[Seeder]:
    """A seeder of the server at *target*."""
    with grpc.insecure_channel(target) as channel:
        yield Seeder(channel, root)


def authorize(
    text: str, action: str = "flows:update", resource: authz_pb2.Resource = FLOW, keyspace: str = KEYSPACE
) -> bytes:
    """The question of nearly every row."""
    return authz_pb2.AuthorizeRequest(
        key=text, keyspace=keyspace, action=action, resource=resource, organization=ORGANIZATION
    ).SerializeToString()


def unknown() -> str:
    """A key text with a good checksum that nobody was ever given."""
    return mint(KEYSPACE, ENVIRONMENT, bytes(32)).secret.reveal()


def warm(name: str, world: World, server: str, text: str = "") -> Row:
    """The row that stands for Authorize, to *server*; of a key in the middle unless *text* is given."""
    body = authorize(text or world.keys[len(world.keys) // 2])
    return Row(name, f"{AUTHZ}/Authorize", server, body, decided(KEYSPACE, "ALLOWED", "Authorize"), key=world.backend)


def counted(world: World, keyspace: str) -> Row:
    """The row of a key whose calls are counted."""
    body = authorize(world.counted[keyspace], keyspace=keyspace)
    expected = decided(keyspace, "ALLOWED", "Authorize")
    return Row(keyspace, f"{AUTHZ}/Authorize", "doorward", body, expected, key=world.backend)


def rows(world: World, *, all_of_them: bool) -> list[Row]:
    """What goes round: an RPC that does nothing, and the kinds of questions; only the two first and a batch if not
    *all_of_them*.
    """
    key = world.keys[len(world.keys) // 2]

    def asking(name: str, reason: str, body: bytes) -> Row:
        expected = decided(KEYSPACE, reason, "Authorize")
        return Row(name, f"{AUTHZ}/Authorize", "doorward", body, expected, key=world.backend)

    item = authz_pb2.BatchAuthorizeItem(action="flows:update", resource=FLOW)
    batch = authz_pb2.BatchAuthorizeRequest(
        key=key, keyspace=KEYSPACE, organization=ORGANIZATION, items=[item] * BATCH
    ).SerializeToString()
    found = [
        Row("empty_rpc", "/bench.Empty/Call", "empty"),
        warm("authorize", world, "doorward"),
        Row(
            "batch_authorize",
            f"{AUTHZ}/BatchAuthorize",
            "doorward",
            batch,
            decided(KEYSPACE, "ALLOWED", "BatchAuthorize", BATCH),
            BATCH,
            world.backend,
        ),
        Row("native_empty_rpc", "/bench.Empty/Call", "native_empty"),
        warm("native_authorize", world, "native"),
    ]
    if not all_of_them:
        return found
    introspect = authz_pb2.IntrospectRequest(key=key, keyspace=KEYSPACE).SerializeToString()
    expected = decided(KEYSPACE, "", "Introspect")
    return [
        *found,
        warm("uncounted", world, "uncounted"),
        counted(world, LIMITED),
        counted(world, PAID),
        asking("denied", "SCOPE_INSUFFICIENT", authorize(world.reader)),
        asking("unknown_key", "KEY_UNKNOWN", authorize(unknown())),
        asking("malformed_key", "CREDENTIAL_MALFORMED", authorize(key[:-1])),
        asking("conditional", "ALLOWED", authorize(key, "flows:execute", PUBLISHED)),
        asking("stored_relation", "ALLOWED", authorize(key, "flows:review")),
        Row("introspect", f"{AUTHZ}/Introspect", "doorward", introspect, expected, key=world.backend),
    ]
