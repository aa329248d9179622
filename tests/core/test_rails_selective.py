"""The guard rail `keys.scopes.selective`: roles that a key has on resources chosen one by one, or not at all."""

from __future__ import annotations

import pytest

from doorward_server.core.errors import InvalidField, KeyspaceInvalid
from doorward_server.core.model import KeyBinding
from doorward_server.core.rails import Rails, check_changed, check_made, check_rotated
from doorward_server.service.keyspace_file import load_keyspace
from tests.core.test_rails import NOW, key

RAILS = Rails(selective=frozenset({"run"}))


@pytest.mark.parametrize(
    "patterns",
    [("flows/a",), ("flows/a", "flows/b"), ("flows/a/*",), ("flows/a/*/log",), ("executions/a/*", "flows/a")],
)
def test_resources_that_are_named_are_fine(patterns: tuple[str, ...]) -> None:
    chosen = key(scopes=(), bindings=(KeyBinding("run", patterns),))
    check_made(RAILS, chosen, NOW, None)
    check_rotated(RAILS, chosen)
    check_changed(RAILS, key(), chosen, NOW, None)


@pytest.mark.parametrize("patterns", [(), ("*",), ("flows",), ("flows/*",), ("*/a",), ("flows/*/a",), ("flows/a", "*")])
def test_none_that_are_named_is_refused(patterns: tuple[str, ...]) -> None:
    everything = key(scopes=(), bindings=(KeyBinding("run", patterns),))
    with pytest.raises(InvalidField) as refused:
        check_made(RAILS, everything, NOW, None)
    assert refused.value.metadata["field"] == "bindings"
    with pytest.raises(InvalidField):
        check_rotated(RAILS, everything)
    with pytest.raises(InvalidField):
        check_changed(RAILS, key(), everything, NOW, None)


def test_a_scope_names_no_resources() -> None:
    with pytest.raises(InvalidField) as refused:
        check_made(RAILS, key(scopes=("run",)), NOW, None)
    assert refused.value.metadata["field"] == "scopes"


def test_other_roles_are_free() -> None:
    check_made(RAILS, key(scopes=("read",), bindings=(KeyBinding("read", ()),)), NOW, None)


def test_the_file_names_roles_that_there_are() -> None:
    source = """
keyspace: things
prefix: th
credentials: [{header: Authorization}]
types: {flows: [run]}
roles: {run: {rules: [{actions: [flows:run]}]}}
keys: {scopes: {selective: [ROLE]}}
"""
    assert load_keyspace(source.replace("ROLE", "run")).rails.selective == {"run"}
    with pytest.raises(KeyspaceInvalid) as refused:
        load_keyspace(source.replace("ROLE", "walk"))
    assert refused.value.field == "keys.scopes.selective"
