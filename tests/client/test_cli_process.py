"""The command line as a process: what a shell, a pipe and a terminal see of it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from doorward.v1 import authz_pb2, keys_pb2
from tests.client.door import KEY, Door

MAIN = [sys.executable, "-c", "from doorward.cli import main; main()"]
SECRET = "aiia_key_live_canary0123456789"


def run(*args: str, stdin: str | int = "", **environ: str) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"stdin": stdin} if isinstance(stdin, int) else {"input": stdin}
    return subprocess.run([*MAIN, *args], env=os.environ | environ, capture_output=True, text=True, timeout=60, **given)


def at(door: Door) -> dict[str, str]:
    return {"DOORWARD_TARGET": door.target, "DOORWARD_KEY": KEY}


def test_a_pipe_gets_the_secret_and_nothing_else(door: Door) -> None:
    door.will("CreateKey", keys_pb2.CreateKeyResponse(key=keys_pb2.Key(id="key_1"), secret=SECRET))
    done = run("keys", "create", "--keyspace", "aiia", "--name", "n", **at(door))
    assert (done.returncode, done.stdout) == (0, f"{SECRET}\n")
    assert SECRET not in done.stderr


@pytest.mark.parametrize(("decision", "code"), [(authz_pb2.DECISION_ALLOW, 0), (authz_pb2.DECISION_DENY, 1)])
def test_a_shell_can_ask(decision: Any, code: int, door: Door) -> None:
    door.will("Authorize", authz_pb2.AuthorizeResponse(decision=decision, message="So it is."))
    done = run("authorize", "findings:read", "--keyspace", "aiia", stdin=f"{SECRET}\n", **at(door))
    assert done.returncode == code
    assert "So it is." in done.stdout
    assert done.stderr == ""
    assert door.last.request.key == SECRET


def test_nobody_there_is_exit_code_two_without_a_traceback() -> None:
    done = run("authorize", "a:b", "--keyspace", "aiia", DOORWARD_TARGET="127.0.0.1:1", DOORWARD_KEY=KEY)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_option_takes_a_key() -> None:
    """The arguments of a process are there for every user of the machine to see."""
    done = run("--help")
    assert done.returncode == 0
    assert "--key " not in done.stdout
    assert "--key-file" in done.stdout


def test_help_does_without_grpc() -> None:
    program = (
        "import sys\n"
        "from doorward.cli import main\n"
        "sys.argv = ['doorward', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'grpc' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("command", "rpc"),
    [
        ("keys revoke key_1", "RevokeKey"),
        ("keys delete key_1", "DeleteKey"),
        ("organizations delete acme", "DeleteOrganization"),
        ("principals delete alice", "DeletePrincipal"),
    ],
)
@pytest.mark.parametrize(("typed", "code", "asked"), [("n", 2, False), ("y", 0, True)])
def test_a_terminal_is_asked_before_something_ends(
    command: str, rpc: str, typed: str, code: int, asked: bool, door: Door
) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{typed}\n".encode())
        done = run(*command.split(), stdin=theirs, **at(door))
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code
    assert "for good" in done.stderr
    assert [call.rpc for call in door.asked] == ([rpc] if asked else [])


def test_a_script_is_not_asked(door: Door) -> None:
    assert run("keys", "revoke", "key_1", **at(door)).returncode == 0
    assert door.last.rpc == "RevokeKey"


def on_a_terminal(typed: str, *args: str, door: Door) -> tuple[int, str, str]:
    """Run with standard input and standard error on a terminal; return exit code, standard output and what is seen."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed.encode())
        done = subprocess.run(
            [*MAIN, *args], env=os.environ | at(door) | {"TERM": "xterm"}, stdin=theirs, stdout=subprocess.PIPE,
            stderr=theirs, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, os.read(ours, 1 << 20).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_import_has_a_bar_on_a_terminal_and_none_elsewhere(door: Door, tmp_path: Path) -> None:
    results = [
        keys_pb2.ImportResult(outcome=keys_pb2.IMPORT_OUTCOME_CREATED),
        keys_pb2.ImportResult(external_id="2", outcome=keys_pb2.IMPORT_OUTCOME_REJECTED, reason="R", message="No."),
    ]
    door.will("ImportKeys", keys_pb2.ImportKeysResponse(results=results))
    (tmp_path / "keys.csv").write_text(f"external_id,name,text\n1,n,{SECRET}\n2,n,{SECRET}\n")
    importing = ("keys", "import", str(tmp_path / "keys.csv"), "--keyspace", "aiia")
    code, stdout, seen = on_a_terminal("", *importing, door=door)
    assert (code, stdout) == (1, "")
    assert "2/2" in seen
    assert "line 3, 2: R: No." in seen
    assert SECRET not in seen
    done = run(*importing, **at(door))
    assert done.stderr == "line 3, 2: R: No.\nKeys taken in: 1; in already: 0; rejected: 1.\n"


@pytest.mark.parametrize(("typed", "code", "calls"), [("n\n", 2, [True]), ("y\n", 0, [True, False])])
def test_a_terminal_is_told_how_many_before_all_are_revoked(
    typed: str, code: int, calls: list[bool], door: Door
) -> None:
    door.will("BatchRevokeKeys", keys_pb2.BatchRevokeKeysResponse(count=1200))
    revoking = ("keys", "revoke-all", "--owner", "alice", "--reason", "leaked")
    done, stdout, seen = on_a_terminal(typed, *revoking, door=door)
    assert (done, stdout) == (code, "")
    assert "Revoke 1,200 keys for good?" in seen
    assert [asked.request.dry_run for asked in door.asked] == calls
    if code == 0:
        assert door.last.request.expected_count == 1200
    assert run(*revoking, "--yes", **at(door)).returncode == 0
    assert not door.last.request.HasField("expected_count")


def test_a_terminal_is_asked_before_the_drill(door: Door) -> None:
    door.will("GetKey", keys_pb2.GetKeyResponse(key=keys_pb2.Key(id="key_1", name="ServiceNow")))
    code, stdout, seen = on_a_terminal("n\n", "keys", "compromised", "key_1", door=door)
    assert (code, stdout) == (2, "")
    assert "key_1 (ServiceNow)" in seen
    assert [asked.rpc for asked in door.asked] == ["GetKey"]
