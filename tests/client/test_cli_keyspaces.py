"""`doorward keyspaces apply`, `test` and `schema`: what is told, and with which exit code."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import Result

from doorward.v1 import keyspaces_pb2 as pb
from tests.client.door import Door, failure

Run = Callable[..., Result]
FILE = """\
keyspace: things
prefix: things
credentials: [{header: x-api-key}]
types: {things: [read, write]}
roles:
  reader: {rules: [{actions: [things:read]}]}
tests:
  - {name: reads, given: {key: {scopes: [reader]}}, ask: {action: "things:read"}, expect: ALLOW}
  - {name: writes, given: {key: {scopes: [reader]}}, ask: {action: "things:write"}, expect: DENY}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "things.yaml"
    path.write_text(FILE)
    return path


def test_a_file_is_tested_without_a_server(run: Run, door: Door, file: Path) -> None:
    done = run("keyspaces", "test", str(file), DOORWARD_TARGET="127.0.0.1:1", DOORWARD_KEY="")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "2 passed, 0 failed.\n")
    file.write_text(FILE.replace("expect: DENY", "expect: ALLOW"))
    done = run("keyspaces", "test", str(file))
    assert done.exit_code == 1
    assert done.stderr == (
        "line 9: writes: things:write: decision is DENY (SCOPE_INSUFFICIENT), not ALLOW\n1 passed, 1 failed.\n"
    )
    assert door.asked == []


def test_standard_input_and_json(run: Run) -> None:
    done = run("keyspaces", "test", "-", "--output", "json", stdin=FILE)
    assert done.exit_code == 0
    assert json.loads(done.stdout)[0] == {
        "name": "reads",
        "asked": "things:read",
        "line": 8,
        "passed": True,
        "problem": "",
    }


def test_a_mistake_is_told_with_the_file_the_line_and_the_rule(run: Run, file: Path) -> None:
    file.write_text(FILE.replace('scopes: [reader]}}, ask: {action: "things:write"', "scopes: [boss]}}, ask: {"))
    done = run("keyspaces", "test", str(file))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"{file}: line 9: tests[1].given.key.scopes[0]: there is no role 'boss'.\n"
    assert run("keyspaces", "test", str(file.with_name("nope.yaml"))).exit_code == 2


@pytest.mark.parametrize("words", [("test", "x.yaml"), ("schema",)])
def test_without_the_servers_parts_it_says_what_to_install(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    real = builtins.__import__

    def poor(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("doorward_server"):
            raise ModuleNotFoundError("No module named 'pydantic'", name="pydantic")
        return real(name, *args, **kwargs)

    monkeypatch.chdir(file.parent)
    file.rename("x.yaml")
    monkeypatch.setattr(builtins, "__import__", poor)
    done = run("keyspaces", *words)
    assert done.exit_code == 2
    assert "needs the module 'pydantic'" in done.stderr
    assert "pip install 'doorward[server]'" in done.stderr


def test_what_the_server_has_is_tested_there(run: Run, door: Door) -> None:
    failed = pb.KeyspaceTestResult(name="n", asked="a:b c", line=7, problem="reason is X, not Y")
    door.will("TestKeyspace", pb.TestKeyspaceResponse(results=[pb.KeyspaceTestResult(passed=True), failed]))
    done = run("keyspaces", "test", "--applied", "things")
    assert (door.last.request.name, door.last.request.source) == ("things", "")
    assert (done.exit_code, done.stderr) == (1, "line 7: n: a:b c: reason is X, not Y\n1 passed, 1 failed.\n")
    assert run("keyspaces", "test").exit_code == 2
    assert run("keyspaces", "test", "x.yaml", "--applied", "things").exit_code == 2


def test_applying_tells_what_changes_and_whom_it_strands(run: Run, door: Door, file: Path) -> None:
    answer = pb.ApplyKeyspaceResponse(
        keyspace=pb.Keyspace(name="things"),
        outcome=pb.APPLY_OUTCOME_CHANGED,
        diff="-a\n+b\n",
        changes=["role reader: loses things:read (1 key)"],
        stranded=[pb.Stranding(field="roles.writer", why="the role is removed", keys=1, bindings=2000)],
        tests=[pb.KeyspaceTestResult(name="n", asked="a:b", line=7, problem="reason is X, not Y")],
    )
    door.will("ApplyKeyspace", answer)
    done = run("keyspaces", "apply", str(file), "--dry-run")
    told = (
        "role reader: loses things:read (1 key)\n"
        "line 7: n: a:b: reason is X, not Y\n"
        "Strands 1 key and 2,000 bindings: roles.writer: the role is removed.\n"
        "Keyspace things: changed (dry run).\n"
    )
    assert (done.exit_code, done.stdout, done.stderr) == (
        5,
        "-a\n+b\n",
        f"{told}It would be refused without --force.\n",
    )
    assert not door.last.request.force
    done = run("keyspaces", "apply", str(file), "--force")
    assert (done.exit_code, door.last.request.force) == (0, True)
    assert done.stderr.endswith("Keyspace things: changed.\n")


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "KEYSPACE_INVALID", 2),
        (grpc.StatusCode.FAILED_PRECONDITION, "KEYSPACE_TESTS_FAILED", 5),
    ],
)
def test_what_is_wrong_with_a_file_names_it(
    run: Run, door: Door, file: Path, code: grpc.StatusCode, reason: str, exit_code: int
) -> None:
    door.will("ApplyKeyspace", failure(code, reason))
    done = run("keyspaces", "apply", str(file))
    assert (done.exit_code, done.stdout, done.stderr) == (exit_code, "", f"{file}: No.\n")


def test_what_strands_keys_is_a_conflict(run: Run, door: Door, file: Path) -> None:
    door.will("ApplyKeyspace", failure(grpc.StatusCode.FAILED_PRECONDITION, "KEYS_STRANDED"))
    assert run("keyspaces", "apply", str(file)).exit_code == 5


def test_the_schema_is_written(run: Run) -> None:
    done = run("keyspaces", "schema")
    committed = Path(__file__).parents[2] / "docs" / "keyspace.schema.json"
    assert (done.exit_code, done.stdout) == (0, committed.read_text("utf-8"))
