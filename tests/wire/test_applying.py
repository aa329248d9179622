"""Applying another version of a keyspace: what it changes, whom it strands, what its tests say, and who may insist."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.v1 import keyspaces_pb2 as pb
from doorward_server.service import stranding
from doorward_server.store import stranding as counting
from tests.wire.serving import Server, refused, unique
from tests.wire.tenants import Tenant

FILE = """
keyspace: {name}
prefix: {name}
environments: [live, test]
credentials: [{{header: x-api-key}}, {{query: api_key}}]
inherit: {inherit}
ceilings: {ceilings}
keys: {keys}
types: {{things: [read, write], tools: [use]}}
attributes: {attributes}
authenticated: [tools:use]
roles:
  reader: {{rules: [{{actions: [things:read]}}]}}
  writer: {{includes: [reader], rules: [{{actions: [things:write]}}]}}
  guard: {{rules: [{{effect: DENY, actions: [things:write]}}]}}
tests: {tests}
"""


class Space:
    """A keyspace of one test, and the words of its file that the test changes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = unique("space").replace("-", "")
        self.words = {
            "name": self.name, "inherit": "true", "ceilings": "[list, owner]", "keys": "{}", "tests": "[]",
            "attributes": "{context: {mfa: bool}}",
        }  # fmt: skip
        self.apply()

    def source(self, *edits: tuple[str, str], **words: str) -> str:
        source = FILE.format(**{**self.words, **words})
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        return source

    def apply(self, *edits: tuple[str, str], dry_run: bool = False, force: bool = False, **words: str) -> Any:
        request = pb.ApplyKeyspaceRequest(source=self.source(*edits, **words), dry_run=dry_run, force=force)
        return self.server.api().keyspaces.ApplyKeyspace(request)

    def stored(self) -> str:
        return str(self.server.api().keyspaces.GetKeyspace(pb.GetKeyspaceRequest(name=self.name)).keyspace.source)


@pytest.fixture
def space(server: Server) -> Space:
    return Space(server)


NO_WRITER = ("  writer: {includes: [reader], rules: [{actions: [things:write]}]}\n", "")
NO_WRITE = ("things: [read, write]", "things: [read]")
NOT_WRITTEN = ("actions: [things:write]", "actions: [things:read]")

STRANDING: dict[str, tuple[tuple[tuple[str, str], ...], dict[str, Any], dict[str, Any], str]] = {
    "role": ((NO_WRITER,), {}, {"scopes": ["writer"]}, "roles.writer"),
    "permission": ((NO_WRITE, NOT_WRITTEN), {}, {"scopes": ["writer"]}, "types.things:write"),
    "permission of any key": (
        ((", tools: [use]", ""), ("[tools:use]", "[]")), {}, {"scopes": ["reader"]}, "types.tools:use",
    ),
    "environment": ((("[live, test]", "[live]"),), {}, {"environment": "test", "scopes": ["reader"]}, "environments"),
    "place": (((", {query: api_key}", ""),), {}, {"scopes": ["reader"]}, "credentials"),
    "number of scopes": ((), {"keys": "{scopes: {max: 1}}"}, {"scopes": ["reader", "writer"]}, "keys"),
    "expiry": ((), {"keys": "{expiry: {need: required}}"}, {"scopes": ["reader"]}, "keys"),
    "owner": ((), {"keys": "{owner: required}"}, {"scopes": ["reader"]}, "keys"),
    "types": ((), {"keys": "{types: [ci]}"}, {"type": "lab", "scopes": ["reader"]}, "keys"),
    "name": ((), {"keys": '{name: {pattern: "*-live"}}'}, {"name": "my-test", "scopes": ["reader"]}, "keys"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRANDING)
def test_what_strands_a_key_is_refused_unless_forced(space: Space, acme: Tenant, case: str) -> None:
    edits, words, key, field = STRANDING[case]
    before = space.stored()
    acme.key(space.name, **key)
    refusal = refused(lambda: space.apply(*edits, **words))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "KEYS_STRANDED")
    assert refusal.metadata == {"field": field, "who": "1 key"}
    assert space.stored() == before
    told = space.apply(*edits, dry_run=True, **words)
    assert [(it.field, it.keys, it.bindings) for it in told.stranded] == [(field, 1, 0)]
    assert space.stored() == before
    assert [it.field for it in space.apply(*edits, force=True, **words).stranded] == [field]
    assert space.stored() == space.source(*edits, **words)
    (event,) = [it for it in _applied(space) if it.note]
    assert event.note == "forced"


@pytest.mark.parametrize("case", STRANDING)
def test_what_strands_nobody_is_applied(space: Space, acme: Tenant, case: str) -> None:
    """No key, or one that is dead: nothing to ask about."""
    edits, words, key, _ = STRANDING[case]
    acme.revoke(acme.key(space.name, **key).id)
    assert list(space.apply(*edits, **words).stranded) == []


def test_a_key_that_broke_the_guard_rails_already_is_not_stranded_by_another_word(space: Space, acme: Tenant) -> None:
    acme.key(space.name, scopes=["reader", "writer"])
    space.apply(keys="{scopes: {max: 1}}", force=True)
    assert list(space.apply(keys="{scopes: {max: 1}, name: {pattern: '*'}}").stranded) == []


def test_a_ceiling_that_keys_have_and_owners_that_would_count(space: Space, acme: Tenant, server: Server) -> None:
    owner = acme.person()
    acme.key(space.name, owner=owner)  # the keyspace's first ceiling is a list
    acme.key(space.name, owner=owner, ceiling=1)
    told = space.apply(ceilings="[list]", dry_run=True)
    assert [it.field for it in told.stranded] == ["ceilings"]
    free = Space(server)
    free.words |= {"inherit": "false", "ceilings": "[list]"}
    refusal = refused(free.apply)
    assert (refusal.reason, refusal.metadata) == ("IMMUTABLE", {"field": "inherit"})
    refusal = refused(lambda: free.apply(force=True))
    assert refusal.reason == "IMMUTABLE", "nobody can mean that"


def test_keys_with_owners_are_stranded_when_they_begin_to_inherit(server: Server, acme: Tenant) -> None:
    name = unique("free").replace("-", "")
    source = f"keyspace: {name}\nprefix: {name}\ncredentials: [{{header: x}}]\ntypes: {{a: [b]}}\nroles: {{r: {{}}}}\n"
    apply = server.api().keyspaces.ApplyKeyspace
    apply(pb.ApplyKeyspaceRequest(source=source))
    acme.key(name, owner=acme.person(), scopes=["r"])
    acme.key(name, scopes=["r"])
    refusal = refused(lambda: apply(pb.ApplyKeyspaceRequest(source=f"{source}inherit: true\n")))
    assert refusal.metadata == {"field": "inherit", "who": "1 key"}


def test_bindings_are_stranded_by_roles_and_by_what_their_conditions_read(space: Space, acme: Tenant) -> None:
    acme.bind(space.name, "writer", principal=acme.person(), condition="context.mfa")
    acme.key(space.name, bindings=[{"role": "reader", "condition": "context.mfa"}])
    told = space.apply(NO_WRITER, attributes="{}", dry_run=True).stranded
    assert {it.field: (it.keys, it.bindings) for it in told} == {"roles.writer": (0, 1), "attributes": (1, 1)}


def test_a_check_that_does_not_look_at_roles_is_noticed(
    space: Space, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: who holds a role that goes is not asked."""
    acme.key(space.name, scopes=["writer"])
    monkeypatch.setattr(stranding, "_roles", lambda *_: ())
    with pytest.raises(AssertionError):
        refused(lambda: space.apply(NO_WRITER))


def test_of_very_many_kinds_of_keys_not_all_are_counted(
    space: Space, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "MAX_SHAPES", 1)
    acme.key(space.name, scopes=["writer"])
    acme.key(space.name, scopes=["writer", "reader"])
    assert refused(lambda: space.apply(NO_WRITER)).metadata["who"] == "at least 1 key"


def test_what_is_fixed_is_refused_whatever_is_said(space: Space) -> None:
    guard = ("  guard: {rules: [{effect: DENY, actions: [things:write]}]}\n", "")
    for edit, field in ((guard, "roles.guard"), ((f"prefix: {space.name}", "prefix: other"), "prefix")):
        refusal = refused(lambda edit=edit: space.apply(edit, force=True))  # type: ignore[misc]  # bound now
        assert (refusal.reason, refusal.metadata["field"]) == ("IMMUTABLE", field)


def test_changes_are_told_in_words(space: Space, acme: Tenant) -> None:
    acme.key(space.name, scopes=["reader"])
    acme.key(space.name, scopes=["reader", "writer"])
    acme.bind(space.name, "reader", principal=acme.person())
    told = space.apply(
        ("reader: {rules: [{actions: [things:read]}]}", "reader: {rules: [{actions: [things:list]}]}"),
        ("things: [read, write]", "things: [read, write, list]"),
        ("authenticated: [tools:use]", "authenticated: []"),
        keys="{scopes: {max: 9}}",
        dry_run=True,
    )
    assert list(told.changes) == [
        "permission things:list: added",
        "role reader: gains things:list (2 keys and 1 binding)",
        "role reader: loses things:read (2 keys and 1 binding)",
        "role writer: gains things:list (1 key)",
        "role writer: loses things:read (1 key)",
        "keys.scopes.max: 9, before nothing",
        "authenticated: loses tools:use",
    ]
    assert "+authenticated: []" in told.diff
    assert list(told.stranded) == [], "that a role loses something is what changing it is for"


TESTS = '[{name: reading, given: {key: {scopes: [reader]}}, ask: {action: "things:%s"}, expect: ALLOW}]'


def test_a_file_whose_tests_fail_is_refused_unless_forced(space: Space) -> None:
    before = space.stored()
    wrong = TESTS % "write"
    refusal = refused(lambda: space.apply(tests=wrong))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "KEYSPACE_TESTS_FAILED")
    assert refusal.metadata == {"test": "reading", "line": "16", "failed": "1"}
    assert "decision is DENY (SCOPE_INSUFFICIENT), not ALLOW" in refusal.message
    (result,) = space.apply(tests=wrong, dry_run=True).tests
    assert (result.passed, result.asked, result.line) == (False, "things:write", 16)
    assert space.stored() == before
    assert not space.apply(tests=wrong, force=True).tests[0].passed
    assert space.apply(tests=TESTS % "read").tests[0].passed


def test_a_new_file_is_tested_too(server: Server) -> None:
    space = Space(server)
    source = space.source(tests=TESTS % "write").replace(space.name, unique("fresh").replace("-", ""))
    refusal = refused(lambda: server.api().keyspaces.ApplyKeyspace(pb.ApplyKeyspaceRequest(source=source)))
    assert refusal.reason == "KEYSPACE_TESTS_FAILED"


def test_the_tests_of_a_file_and_of_a_keyspace_run_on_request(space: Space) -> None:
    stub = space.server.api().keyspaces
    mark = space.server.mark()
    ran = stub.TestKeyspace(pb.TestKeyspaceRequest(source=space.source(tests=TESTS % "write")))
    assert [(it.name, it.passed) for it in ran.results] == [("reading", False)]
    assert list(stub.TestKeyspace(pb.TestKeyspaceRequest(name=space.name)).results) == []
    assert space.server.mark() == mark
    space.apply(tests=TESTS % "read")
    assert [it.passed for it in stub.TestKeyspace(pb.TestKeyspaceRequest(name=space.name)).results] == [True]


def _applied(space: Space) -> list[Any]:
    events = space.server.app.store.list_events("operator", 0, 10_000)
    return [it.event for it in events if it.event.action == "keyspaces:apply" and it.event.target == space.name]
