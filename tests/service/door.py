"""A Doorward for tests of its services: everything wired as in production, called without a network in between.

Calls go to the servicers, so requests and answers are those of the contract. One event loop runs while a call does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

from doorward.v1 import authz_pb2, directory_pb2, keys_pb2, keyspaces_pb2
from doorward_server.app import App, build, opened
from doorward_server.config import Config
from doorward_server.core.errors import DoorwardError
from doorward_server.service.guard import Caller
from doorward_server.wire.authz import AuthzServicer
from doorward_server.wire.directory import DirectoryServicer
from doorward_server.wire.keys import KeyServicer
from doorward_server.wire.keyspaces import KeyspaceServicer
from tests.fakes import FakeClock, FakeRandom

T = TypeVar("T")
CHEAP = 4
"""bcrypt's lowest cost: 1 ms."""
_numbers = count(1)


def unique(word: str) -> str:
    """A name that nothing else in this process has."""
    return f"{word}{next(_numbers)}"


@dataclass
class Door:
    """What runs. `root` is the text of its root key."""

    app: App = field(repr=False)
    clock: FakeClock
    root: str = field(repr=False)
    runner: asyncio.Runner = field(repr=False)

    @property
    def keys(self) -> KeyServicer:
        return cast(KeyServicer, self.app.servicers.keys)

    @property
    def authz(self) -> AuthzServicer:
        return cast(AuthzServicer, self.app.servicers.authz)

    @property
    def directory(self) -> DirectoryServicer:
        return cast(DirectoryServicer, self.app.servicers.directory)

    @property
    def keyspaces(self) -> KeyspaceServicer:
        return cast(KeyspaceServicer, self.app.servicers.keyspaces)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* on the loop."""
        return self.runner.run(work)

    def settle(self) -> None:
        """Finish what goes on after answers."""

        async def others() -> None:
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

        self.run(others())

    def caller(self, key: str = "") -> Caller:
        """Whoever holds *key*; by default, root."""
        return self.run(self.app.authorizer.authenticate([("authorization", f"Bearer {key or self.root}")], None))

    def apply(self, source: str, *, force: bool = False) -> None:
        """Make a keyspace, or change it: with *force* also where that strands keys."""
        request = keyspaces_pb2.ApplyKeyspaceRequest(source=source, force=force)
        self.run(self.keyspaces.ApplyKeyspace(request, self.caller()))

    def organization(self, word: str = "acme", *principals: str) -> str:
        """Make an organization with some principals, and return its id."""
        made = directory_pb2.Organization(id=unique(word))
        self.run(
            self.directory.CreateOrganization(directory_pb2.CreateOrganizationRequest(organization=made), self.caller())
        )
        for name in principals:
            principal = directory_pb2.Principal(organization=made.id, id=name)
            request = directory_pb2.CreatePrincipalRequest(principal=principal)
            self.run(self.directory.CreatePrincipal(request, self.caller()))
        return made.id

    def create(self, organization: str, keyspace: str, **settings: Any) -> keys_pb2.CreateKeyResponse:
        """Make a key that may read."""
        settings = {"name": "the key of a test", "scopes": ["reader"], **settings}
        request = keys_pb2.CreateKeyRequest(organization=organization, keyspace=keyspace, **settings)
        return self.run(self.keys.CreateKey(request, self.caller()))

    def staff(self, organization: str, role: str, keyspace: str = "doorward") -> Caller:
        """The holder of a new key of Doorward itself."""
        return self.caller(self.create(organization, keyspace, scopes=[role]).secret)

    def take_in(
        self, organization: str, keyspace: str, *rows: Any, dry_run: bool = False, by: Caller | None = None
    ) -> keys_pb2.ImportKeysResponse:
        """Import rows."""
        header = keys_pb2.ImportHeader(organization=organization, keyspace=keyspace, dry_run=dry_run)
        return self.send([keys_pb2.ImportKeysRequest(header=header), *(_row(row) for row in rows)], by)

    def send(
        self, messages: Iterable[keys_pb2.ImportKeysRequest], by: Caller | None = None
    ) -> keys_pb2.ImportKeysResponse:
        """Import with these very messages."""

        async def stream() -> AsyncIterator[keys_pb2.ImportKeysRequest]:
            for message in messages:
                yield message

        return self.run(self.keys.ImportKeys(stream(), by or self.caller()))

    def verdict(self, keyspace: str, text: str, **more: Any) -> str:
        """The reason of the decision about reading, e.g. "ALLOWED"."""
        request = authz_pb2.AuthorizeRequest(keyspace=keyspace, key=text, action="things:read", **more)
        answer = authz_pb2.AuthorizeResponse.FromString(self.run(self.authz.Authorize(request, self.caller())))
        return authz_pb2.Reason.Name(answer.reason).removeprefix("REASON_")

    def kept(self, keyspace: str, organization: str, id: str) -> str:
        """The kind of verifier that is stored of a key's newest secret."""
        key = self.app.store.find_key(organization, id)
        assert key is not None
        return key.secrets[0].verifier.kind

    def events(self, organization: str, action: str) -> list[Any]:
        """The audit events of one action, oldest first; the chain must hold."""
        assert self.app.store.verify_chain(organization).ok
        stored = self.app.store.list_events(organization, 0, 10_000)
        return [it.event for it in stored if it.event.action == action]

    def refused(self, work: Coroutine[Any, Any, object]) -> DoorwardError:
        """Return how *work* failed; fails if it did not."""
        try:
            answer = self.run(work)
        except DoorwardError as error:
            return error
        raise AssertionError(f"the call succeeded: {answer}")


def _row(row: Any) -> keys_pb2.ImportKeysRequest:
    return keys_pb2.ImportKeysRequest(row=row)


def row(external_id: str = "", **settings: Any) -> keys_pb2.ImportRow:
    """A row of an import that may read."""
    given = {"name": "imported by a test", "scopes": ["reader"], **settings}
    return keys_pb2.ImportRow(external_id=external_id or unique("row"), **given)


def keyspace(name: str, *lines: str) -> str:
    """The file of a keyspace with one type, a role to read and one to write, and *lines* for the rest."""
    return "\n".join(
        [
            f"keyspace: {name}",
            "environments: [live, test]",
            "credentials: [{header: x-api-key}]",
            "types: {things: [read, write]}",
            "roles:",
            "  reader: {rules: [{actions: ['things:read']}]}",
            "  writer: {rules: [{actions: ['things:write']}]}",
            *lines,
        ]
    )


@contextmanager
def opened_door(url: str, folder: Path, clock: FakeClock, **settings: Any) -> Iterator[Door]:
    """A Doorward on the store at *url*."""
    config = Config(store=url, state_dir=folder, bcrypt_cost=CHEAP, **settings)
    random = FakeRandom(unique("door"))
    with opened(config, clock, random) as (store, keyring, _), asyncio.Runner() as runner:
        app = build(config, store, keyring, clock, random)
        try:
            yield Door(app, clock, config.root_key.read_text("utf-8").strip(), runner)
        finally:
            for pool in app.pools:
                pool.close()
