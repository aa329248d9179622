"""The first start on an empty store, the ones after it, and what makes a start refuse."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import doorward
from doorward_server.service.peppers import read_ring
from doorward_server.store import Store
from tests import databases
from tests.e2e.processes import BIN, Process, environment, free_port, run, server


@pytest.fixture(params=databases.BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    with databases.fresh(str(request.param), tmp_path, migrated=False) as url:
        yield url


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/doorward.db"


def whoami(process: Process) -> str:
    with doorward.Client(process.target, process.root) as client:
        return client.whoami(timeout=30).key_id


def test_the_first_start_makes_a_root_key_that_only_its_file_holds(url: str, tmp_path: Path) -> None:
    with server(tmp_path, url) as process:
        first = whoami(process)
        file = process.var / "root-key"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE((process.var / "peppers.json").stat().st_mode) == 0o600
        assert f"Its root key is in {file}" in process.output
        key = process.root
        assert process.stop() == 0
    assert key not in process.output  # it is no terminal
    with server(tmp_path, url) as process:
        assert (whoami(process), process.root) == (first, key)
    assert "This store is new" not in process.output


def test_a_terminal_is_told_the_root_key(sqlite: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        command = [str(BIN / "doorward-server"), "serve"]
        process = subprocess.Popen(
            command, env=environment(tmp_path, sqlite), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
        )
        said = b""
        while b'"event": "serving"' not in said:
            said += os.read(ours, 4096)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert (tmp_path / "var" / "root-key").read_bytes().strip() in said


def test_a_start_that_died_before_the_store_knew_its_root_key_is_made_good(sqlite: str, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / ".root-key.new").write_text("dw_live_of-a-start-that-died")
    with server(tmp_path, sqlite) as process:
        assert whoami(process)


def test_three_first_starts_at_once_make_one_root_key(url: str, tmp_path: Path) -> None:
    processes = [Process.start(environment(tmp_path, url), tmp_path) for _ in range(3)]
    try:
        for process in processes:
            process.wait()
        assert len({whoami(process) for process in processes}) == 1
        with doorward.Client(processes[0].target, processes[0].root) as client:
            assert [key.name for key in client.list_keys()] == ["root"]
            assert [organization.id for organization in client.list_organizations()] == ["operator"]
    finally:
        for process in processes:
            process.stop()
    assert sum("This store is new" in process.output for process in processes) == 1


def refuses(folder: Path, store: str, **settings: str) -> str:
    done = run(BIN / "doorward-server", "serve", env=environment(folder, store, **settings))
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


@pytest.fixture
def used(sqlite: str, tmp_path: Path) -> Path:
    """The pepper file of a store that is in use."""
    done = run(BIN / "doorward-server", "recover-root", env=environment(tmp_path, sqlite))
    assert done.returncode == 0, done.stderr
    return tmp_path / "var" / "peppers.json"


def test_a_missing_pepper_file_is_not_made_anew_for_a_store_in_use(sqlite: str, tmp_path: Path, used: Path) -> None:
    used.unlink()
    said = refuses(tmp_path, sqlite)
    assert str(used) in said
    assert "Put the file back" in said
    assert not used.exists()


DAMAGES = ["", "{}", '{"peppers": {"active": 1, "keys": {"1": "00"}}}', "[1]", "\0", '{"lookup": 2}']


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pepper_file_stops_the_start(sqlite: str, tmp_path: Path, used: Path, damage: str) -> None:
    used.write_text(damage)
    said = refuses(tmp_path, sqlite)
    assert f"The pepper file {used} is damaged" in said


def test_another_stores_pepper_file_stops_the_start(sqlite: str, tmp_path: Path, used: Path) -> None:
    document = json.loads(used.read_text())
    pepper = document["peppers"]["keys"]["1"]
    document["peppers"]["keys"]["1"] = "ab" * 32
    used.write_text(json.dumps(document))
    said = refuses(tmp_path, sqlite)
    assert "is not the one the store's keys were made with" in said
    assert pepper not in said
    assert "abab" not in said


def test_recover_root_makes_another_root_key_while_the_server_runs_and_is_audited(url: str, tmp_path: Path) -> None:
    with server(tmp_path, url) as process:
        lost = whoami(process)
        (process.var / "root-key").unlink()
        done = run(BIN / "doorward-server", "recover-root", env=process.environ)
        assert done.returncode == 0, done.stderr
        assert process.root not in done.stdout + done.stderr
        assert stat.S_IMODE((process.var / "root-key").stat().st_mode) == 0o600
        assert whoami(process) != lost
        with doorward.Client(process.target, process.root) as client:
            assert {key.id for key in client.list_keys()} == {lost, whoami(process)}
    ring = read_ring(tmp_path / "var" / "peppers.json")
    assert ring is not None
    store = Store(url, audit_keys=ring.peppers.audit_key, pepper=1)
    events = [stored.event for stored in store.list_events("operator", 0, 100)]
    assert store.verify_chain("operator").ok
    store.close()
    made = [event.actor.key for event in events if event.action == "keys:create"]
    assert made == ["bootstrap", "recover-root"]


def test_a_configuration_that_cannot_be_used_is_refused_with_all_that_is_wrong(sqlite: str, tmp_path: Path) -> None:
    wrong = {"metrics_listen": "nowhere", "colour": "red", "drain_seconds": "soon", "tls_client_ca": "ca.pem"}
    said = refuses(tmp_path, sqlite, listen="0.0.0.0:50051", **wrong)
    for problem in (
        "DOORWARD_LISTEN: 0.0.0.0:50051 is not a loopback address",
        "DOORWARD_TLS_CLIENT_CA needs",
        "DOORWARD_METRICS_LISTEN: must be host:port",
        "DOORWARD_DRAIN_SECONDS: Input should be a valid number",
        "DOORWARD_COLOUR: there is no such setting",
    ):
        assert problem in said
    assert "give both or neither" in refuses(tmp_path, sqlite, tls_certificate="cert.pem")
    assert not (tmp_path / "var").exists()
    assert "hunter2" not in refuses(tmp_path, "mysql://u:hunter2@host/db")


def test_a_taken_port_is_said_in_one_line(sqlite: str, tmp_path: Path) -> None:
    with server(tmp_path, sqlite) as process:
        said = refuses(tmp_path, sqlite, listen=process.target)
        assert said.splitlines()[-1].startswith(f"Cannot listen on {process.target}: the port is taken")
        metrics = refuses(tmp_path, sqlite, metrics_listen=process.target)
        assert "in use" in metrics


def test_a_store_that_cannot_be_reached_is_said_without_its_password(tmp_path: Path) -> None:
    said = refuses(tmp_path, f"postgresql://doorward:hunter2@127.0.0.1:{free_port()}/doorward")
    assert "store" in said
    assert "hunter2" not in said


def test_sigterm_flushes_what_was_used_and_exits_with_0(sqlite: str, tmp_path: Path) -> None:
    with server(tmp_path, sqlite) as process:
        with doorward.Client(process.target, process.root) as client:
            me = client.whoami(timeout=30).key_id
        assert process.stop(signal.SIGTERM) == 0
    assert [json.loads(line)["event"] for line in process.lines if line.startswith("{")][-2:] == ["draining", "stopped"]
    with server(tmp_path, sqlite) as process, doorward.Client(process.target, process.root) as client:
        key = client.get_key(me)
        assert key.last_used_at is not None
        assert process.stop(signal.SIGINT) == 0


def test_the_whole_state_can_be_moved(sqlite: str, tmp_path: Path) -> None:
    with server(tmp_path, "") as process:
        before = whoami(process)
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "var", moved / "var")
    with server(moved, "") as process:
        assert whoami(process) == before
