"""A right is taken away, and only then a fact is stored that would have met it: no answer may see both as they were.

The store's read of facts is held up, as a slow disk might, until both changes are made: the record that was read before
them must not be joined with the facts that are read after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread
from typing import Any

import pytest

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from doorward.v1 import keyspaces_pb2 as keyspaces
from tests.wire.serving import Api, Server
from tests.wire.tenants import Tenant, reason_of

FILES = """
keyspace: enemy
prefix: en
credentials: [{header: x-key}]
inherit: true
ceilings: [owner]
types: {files: [read], folders: [read]}
parents: {files: folders}
relations: {files: [reader], folders: [reader]}
attributes: {resource: {files: {public: bool}}}
roles:
  by-relation: {rules: [{actions: [files:read], relation: reader}]}
  by-parent: {rules: [{actions: [files:read], relation: parent.reader}]}
  by-fact: {rules: [{actions: [files:read], condition: resource.public}]}
"""
TURNS = 60
"""Answers that are asked for while somebody else writes."""


class Case:
    """Somebody who has a role, and a fact that is not there yet."""

    def __init__(self, tenant: Tenant, role: str) -> None:
        self.tenant, self.role = tenant, role
        tenant.root.keyspaces.ApplyKeyspace(keyspaces.ApplyKeyspaceRequest(source=FILES))
        self.person = tenant.person()
        self.key = tenant.key("enemy", owner=self.person, ceiling=keys.CEILING_OWNER).text
        self.directory = tenant.server.api().directory
        self.bind()

    def bind(self) -> None:
        self.binding = self.tenant.bind("enemy", self.role, principal=self.person)

    def unbind(self) -> None:
        self.tenant.unbind(self.binding)

    def store(self) -> None:
        """Store the fact that the role asks for."""
        if self.role == "by-fact":
            self._put(True)
            return
        here: dict[str, Any] = {"organization": self.tenant.id, "keyspace": "enemy"}
        self._put(False)
        self.directory.WriteRelations(directory.WriteRelationsRequest(relations=[self._relation()], **here))

    def forget(self) -> None:
        """Make the fact untrue again."""
        if self.role == "by-fact":
            self._put(False)
            return
        here: dict[str, Any] = {"organization": self.tenant.id, "keyspace": "enemy"}
        self.directory.DeleteRelations(directory.DeleteRelationsRequest(relations=[self._relation()], **here))

    def _relation(self) -> directory.Relation:
        about = "files/1" if self.role == "by-relation" else "folders/1"
        return directory.Relation(resource=about, relation="reader", principal=self.person)

    def _put(self, public: bool) -> None:
        stored = directory.StoredResource(
            organization=self.tenant.id,
            keyspace="enemy",
            resource="files/1",
            parent="folders/1",
            attributes={"public": directory.AttributeValue(flag=public)},
        )
        self.directory.PutResource(directory.PutResourceRequest(resource=stored))


# --- the ways to ask --------------------------------------------------------------------------------------------------


def _who(case: Case, by: str) -> dict[str, Any]:
    signed_in = authz.PrincipalReference(organization=case.tenant.id, principal=case.person)
    who: dict[str, Any] = {"principal": signed_in} if by == "principal" else {"key": case.key}
    return {**who, "keyspace": "enemy", "organization": case.tenant.id}


FILE = authz.Resource(type="files", id="1")


def single(api: Api, who: dict[str, Any]) -> list[str]:
    return [reason_of(api.authz.Authorize(authz.AuthorizeRequest(action="files:read", resource=FILE, **who)))]


def batch(api: Api, who: dict[str, Any]) -> list[str]:
    others = [authz.Resource(type="files", id=str(i)) for i in range(2, 5)]
    items = [authz.BatchAuthorizeItem(action="files:read", resource=it) for it in (*others, FILE)]
    return [reason_of(it) for it in api.authz.BatchAuthorize(authz.BatchAuthorizeRequest(items=items, **who)).results]


def listed(api: Api, who: dict[str, Any]) -> list[str]:
    answer = api.authz.ListAllowedActions(authz.ListAllowedActionsRequest(resource=FILE, **who))
    return ["ALLOWED" if answer.actions else "nothing"]


def explained(api: Api, who: dict[str, Any]) -> list[str]:
    question = authz.AuthorizeRequest(action="files:read", resource=FILE, **who)
    return [reason_of(api.authz.ExplainAuthorization(authz.ExplainAuthorizationRequest(question=question)).answer)]


WAYS = [single, batch, listed, explained]


@contextmanager
def held_up(server: Server, meanwhile: Callable[[], None], *, blind: bool = False) -> Iterator[list[int]]:
    """Let *meanwhile* happen just before the next read of facts by itself. Yields a list that counts the hold-ups.

    The planted bug, *blind*: facts pretend to be of the record's revision, so that nobody notices.
    """
    store, held, seen = server.app.store, list[int](), list[int]()
    find_facts, find_record, find_principal_record = store.find_facts, store.find_record, store.find_principal_record

    def noticing(read: Callable[..., Any]) -> Callable[..., Any]:
        def noticed(keyspace: str, *rest: Any) -> Any:
            snapshot = read(keyspace, *rest)
            if "enemy" in (keyspace, *rest):
                seen[:] = [snapshot.revision]
            return snapshot

        return noticed

    def slow(*args: Any, **kwargs: Any) -> Any:
        record = seen[0]
        if not held:
            held.append(record)
            meanwhile()
        facts = find_facts(*args, **kwargs)
        return tuple(replace(it, revision=record) for it in facts) if blind else facts

    changed: Any = store
    changed.find_facts, changed.find_record = slow, noticing(find_record)
    changed.find_principal_record = noticing(find_principal_record)
    try:
        yield held
    finally:
        del changed.find_facts, changed.find_record, changed.find_principal_record


@pytest.mark.parametrize("role", ["by-relation", "by-parent", "by-fact"])
@pytest.mark.parametrize("by", ["key", "principal"])
@pytest.mark.parametrize("ask", WAYS)
def test_facts_are_never_newer_than_the_rights_they_meet(
    acme: Tenant, role: str, by: str, ask: Callable[[Api, dict[str, Any]], list[str]]
) -> None:
    case = Case(acme, role)

    def changes() -> None:
        case.unbind()
        case.store()

    with held_up(acme.server, changes) as held:
        answers = ask(acme.root, _who(case, by))
    assert held, "the facts were never read by themselves"
    assert "ALLOWED" not in answers
    case.bind()  # with the right and the fact, it is allowed: the test is about the order alone
    assert ask(acme.root, _who(case, by))[-1] == "ALLOWED"


@pytest.mark.parametrize("role", ["by-relation", "by-parent", "by-fact"])
@pytest.mark.parametrize("ask", WAYS)
def test_a_server_that_does_not_compare_revisions_would_be_caught(
    acme: Tenant, role: str, ask: Callable[[Api, dict[str, Any]], list[str]]
) -> None:
    case = Case(acme, role)

    def changes() -> None:
        case.unbind()
        case.store()

    with held_up(acme.server, changes, blind=True) as held:
        answers = ask(acme.root, _who(case, "key"))
    assert held
    assert answers[-1] == "ALLOWED"  # wrongly


def test_no_answer_mixes_two_moments_while_somebody_writes(acme: Tenant) -> None:
    """The right and the fact are never there at the same time, in whatever order the writer and the asker run."""
    case, done, failures = Case(acme, "by-relation"), Event(), list[BaseException]()

    def write() -> None:
        try:
            while not done.is_set():
                case.unbind()
                case.store()
                case.forget()
                case.bind()
        except BaseException as failure:  # noqa: BLE001  # told by the test's own thread
            failures.append(failure)

    writer = Thread(target=write)
    writer.start()
    try:
        answers = {it for _ in range(TURNS) for ask in (single, batch) for it in ask(acme.root, _who(case, "key"))}
    finally:
        done.set()
        writer.join()
    assert not failures
    assert answers <= {"RELATION_MISSING", "OWNER_PERMISSION_INSUFFICIENT"}
