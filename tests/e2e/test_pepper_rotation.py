"""The rotation of design.md section 5 as an operator does it: two servers under load, and commands."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from doorward.v1 import keys_pb2, keys_pb2_grpc
from tests.e2e.machines import Load, Machine, Serving, eventually

KEYS = 12


@pytest.fixture
def machines(store_url: str, tmp_path: Path) -> tuple[Machine, Machine]:
    """Two hosts with the same pepper file, on either store."""
    return two_machines(store_url, tmp_path)


@pytest.fixture
def sqlite_machines(tmp_path: Path) -> tuple[Machine, Machine]:
    """Two with a SQLite file: for what does not depend on the store."""
    return two_machines(f"sqlite:///{tmp_path}/doorward.db", tmp_path)


def two_machines(url: str, folder: Path) -> tuple[Machine, Machine]:
    first, second = (Machine(url, folder / name) for name in ("first", "second"))
    for it in (first, second):
        it.folder.mkdir()
    good(first.run("pepper", "status"))
    shutil.copy(first.peppers, second.peppers)
    return first, second


def make_keys(at: Serving, root: str, count: int) -> list[str]:
    """Keys of the operator's, made by the server."""
    with grpc.insecure_channel(f"127.0.0.1:{at.port}") as channel:
        stub = keys_pb2_grpc.KeyServiceStub(channel)
        request = keys_pb2.CreateKeyRequest(
            organization="operator", keyspace="doorward", name="made by a test", scopes=["root"]
        )
        metadata = (("authorization", f"Bearer {root}"),)
        return [stub.CreateKey(request, metadata=metadata, timeout=60).secret for _ in range(count)]


def good(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said that must have worked."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Why a command did nothing."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def activated(at: Machine, version: str) -> str:
    """Activate, as soon as every server has noticed its file."""

    def attempt() -> str | None:
        done = at.run("pepper", "activate", version)
        if done.returncode == 1:
            assert "lack version" in done.stderr
            return None
        return good(done)

    return eventually(attempt)


@pytest.mark.timeout(240)
def test_a_rotation_under_load(machines: tuple[Machine, Machine]) -> None:
    first, second = machines
    with first.serving() as one, second.serving() as two:
        load = Load(make_keys(one, first.root, KEYS))
        with load.on(one, two):
            load.go_round()
            assert "activate 2" in good(first.run("pepper", "add"))
            assert "replica_" in refused(first.run("pepper", "activate", "2"))
            assert "was added on another host" in refused(second.run("pepper", "add"))
            shutil.copy(first.peppers, second.peppers)
            said = activated(first, "2")
            assert "Version 2 is active" in said
            assert "All 2 live replicas go by it." in said
            load.texts += make_keys(two, first.root, KEYS)
            assert "proved by version 1 alone" in refused(first.run("pepper", "retire", "1"))
            load.go_round()
            assert "Every secret is under version 2 now." in good(first.run("pepper", "rewrap"))
            load.go_round()
            assert "All 2 live replicas go by it." in good(first.run("pepper", "retire", "1"))
            shutil.copy(first.peppers, second.peppers)
            load.texts += make_keys(two, first.root, 1)
            load.go_round()
            shown = good(second.run("pepper", "status"))
        assert load.failures == []
        assert load.proofs > 6 * KEYS
    rows = [line.split()[:3] for line in shown.splitlines() if line[:1].isdigit()]
    assert rows == [["1", "RETIRED", "0"], ["2", "ACTIVE", str(2 * KEYS + 2)]]
    shown = good(first.run("pepper", "status"))
    assert "replica_" not in shown, "whoever stops cleanly leaves nothing behind"
    with second.serving() as two:
        load = Load(load.texts)
        with load.on(two):
            load.go_round()
        assert load.failures == []


def test_a_damaged_file_while_running_keeps_serving(sqlite_machines: tuple[Machine, Machine]) -> None:
    first, second = sqlite_machines
    with first.serving() as one:
        load = Load(make_keys(one, first.root, 3))
        with load.on(one):
            first.peppers.write_text("{", "utf-8")
            eventually(lambda: one.logged("a change of the peppers is not followed; those in use stay") or None)
            load.go_round()
            shutil.copy(second.peppers, first.peppers)
            good(first.run("pepper", "add"))
            activated(first, "2")
            load.go_round()
        assert load.failures == []


def test_a_wrong_or_missing_file_refuses_to_start(sqlite_machines: tuple[Machine, Machine]) -> None:
    first, second = sqlite_machines
    text = second.peppers.read_text("utf-8")
    second.peppers.write_text("{", "utf-8")
    assert "is damaged" in refused(second.run("serve"))
    second.peppers.unlink()
    assert "is missing" in refused(second.run("serve"))
    good(first.run("pepper", "add"))
    good(first.run("pepper", "activate", "2"))
    second.peppers.write_text(text, "utf-8")
    assert "lacks version 2" in refused(second.run("serve"))


def test_wrong_usage_has_its_own_exit_code(sqlite_machines: tuple[Machine, Machine]) -> None:
    machine, _ = sqlite_machines
    assert machine.run("pepper", "activate").returncode == 2
    assert machine.run("pepper", "activate", "two").returncode == 2
    assert "There is no version 7" in refused(machine.run("pepper", "retire", "7"))
