"""What applying and testing a keyspace tell, as values."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from doorward import KeyspaceTestResult, KeysStranded, Stranding
from doorward.v1 import keyspaces_pb2 as pb
from tests.client.door import Door, failure


def test_applying_tells_changes_strandings_and_tests(client: Any, door: Door) -> None:
    answer = pb.ApplyKeyspaceResponse(
        changes=["role a: added"],
        stranded=[pb.Stranding(field="roles.b", why="the role is removed", keys=2, bindings=1)],
        tests=[pb.KeyspaceTestResult(name="n", asked="a:b", line=3, passed=True)],
    )
    door.will("ApplyKeyspace", answer)
    applied = client.apply_keyspace("keyspace: x", force=True)
    assert door.last.request == pb.ApplyKeyspaceRequest(source="keyspace: x", force=True)
    assert applied.changes == ("role a: added",)
    assert applied.stranded == (Stranding(field="roles.b", why="the role is removed", keys=2, bindings=1),)
    assert applied.tests == (KeyspaceTestResult(name="n", asked="a:b", line=3, passed=True, problem=""),)


def test_a_stranding_is_a_class_of_its_own(client: Any, door: Door) -> None:
    door.will("ApplyKeyspace", failure(grpc.StatusCode.FAILED_PRECONDITION, "KEYS_STRANDED", who="3 keys"))
    with pytest.raises(KeysStranded) as refused:
        client.apply_keyspace("keyspace: x")
    assert refused.value.metadata["who"] == "3 keys"


def test_testing_asks_about_a_source_or_a_name(client: Any, door: Door) -> None:
    door.will("TestKeyspace", pb.TestKeyspaceResponse(results=[pb.KeyspaceTestResult(name="n", problem="so")]))
    (result,) = client.test_keyspace(name="x")
    assert (result.passed, result.problem) == (False, "so")
    assert door.last.request == pb.TestKeyspaceRequest(name="x")
    client.test_keyspace(source="keyspace: x")
    assert door.last.request == pb.TestKeyspaceRequest(source="keyspace: x")
