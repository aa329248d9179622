"""`doorward-server serve --workers N`: one port, several processes, one Doorward."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import doorward
from tests import databases
from tests.e2e.machines import eventually
from tests.e2e.processes import PROGRAM, Process, environment, free_port, run, server

WORKERS = 3
PER_CONNECTION = 2


@pytest.fixture(params=databases.BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with databases.fresh(str(request.param), tmp_path, migrated=False) as url:
        yield url


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/doorward.db"


def said(process: Process, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in list(process.lines) if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def pids(process: Process) -> set[int]:
    """The workers that have said that they serve."""
    return {line["pid"] for line in said(process, "worker serving")}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def client(process: Process) -> Iterator[doorward.Client]:
    with doorward.Client(process.target, process.root) as client:
        yield client


def call(process: Process, connections: int) -> None:
    """Call over *connections* new connections, which the kernel spreads over the workers."""
    for _ in range(connections):
        with client(process) as caller:
            for _ in range(PER_CONNECTION):
                caller.whoami(timeout=60)


def counted(metrics: int) -> float:
    """How many calls of Introspect all workers have answered, by their own counting."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    found = [line for line in lines if line.startswith("grpc_server_handled_total") and '"Introspect"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_workers_serve_as_one(url: str, tmp_path: Path) -> None:
    with server(tmp_path, url, "--workers", str(WORKERS)) as process:
        assert len(pids(process)) == WORKERS
        assert said(process, "serving")[0]["workers"] == WORKERS
        call(process, 20)
        with client(process) as caller:
            made = caller.create_key(keyspace="doorward", name="one", scopes=["backend"])
            assert made.secret is not None
            text = made.secret.reveal()
            assert doorward.Client(process.target, text).whoami(timeout=60).key_id == made.key.id
            caller.revoke_key(made.key.id, reason="over")
        for _ in range(10):  # whichever worker is asked: revoked is revoked
            with pytest.raises(doorward.CallerUnauthenticated), doorward.Client(process.target, text) as gone:
                gone.whoami(timeout=60)
        workers = pids(process)
        assert process.stop() == 0
    assert not any(map(is_running, workers)), process.output


def test_a_dead_worker_is_replaced_and_nobody_notices(sqlite: str, tmp_path: Path) -> None:
    with server(tmp_path, sqlite, "--workers", "2") as process:
        first = pids(process)
        victim = next(iter(first))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: True if len(pids(process)) == 3 else None)
        assert "another takes its place" in process.output
        call(process, 10)
        assert process.stop() == 0
        assert not any(map(is_running, pids(process)))


def test_metrics_are_those_of_all_workers_and_never_go_down(sqlite: str, tmp_path: Path) -> None:
    metrics = free_port()
    with server(tmp_path, sqlite, "--workers", "2", metrics_listen=f"127.0.0.1:{metrics}") as process:
        call(process, 12)
        assert counted(metrics) == 12 * PER_CONNECTION
        os.kill(next(iter(pids(process))), signal.SIGKILL)
        eventually(lambda: True if len(pids(process)) == 3 else None)
        assert counted(metrics) == 12 * PER_CONNECTION
        call(process, 3)
        assert counted(metrics) == 15 * PER_CONNECTION


def test_a_taken_port_is_refused(sqlite: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # even by somebody who would share it
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(*PROGRAM, "serve", "--workers", "2", env=environment(tmp_path, sqlite, listen=address))
    assert done.returncode == 1
    assert address in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_server_on_the_port_is_refused(sqlite: str, tmp_path: Path) -> None:
    with server(tmp_path, sqlite, "--workers", "2") as process:
        for more in ((), ("--workers", "2")):
            done = run(*PROGRAM, "serve", *more, env=environment(tmp_path, sqlite, listen=process.target))
            assert done.returncode == 1, done.stderr


def test_what_is_wrong_for_every_worker_ends_all(sqlite: str, tmp_path: Path) -> None:
    certificate = tmp_path / "not-there.pem"
    env = environment(
        tmp_path, sqlite, tls_certificate=str(certificate), tls_private_key=str(certificate), listen="127.0.0.1:0"
    )
    done = run(*PROGRAM, "serve", "--workers", "2", env=env)
    assert done.returncode == 1
    assert "not-there.pem" in done.stderr


def test_workers_do_not_outlive_their_supervisor(sqlite: str, tmp_path: Path) -> None:
    with server(tmp_path, sqlite, "--workers", "2") as process:
        workers = pids(process)
        process.stop(signal.SIGKILL)
    eventually(lambda: True if not any(map(is_running, workers)) else None)


def test_calls_under_way_are_finished_before_the_end(sqlite: str, tmp_path: Path) -> None:
    with server(tmp_path, sqlite, "--workers", "2") as process:
        with client(process) as caller:
            caller.whoami(timeout=60)
            process.popen.send_signal(signal.SIGTERM)
            process.wait_for('"draining"')
        assert process.stop() == 0
        channel = grpc.insecure_channel(process.target)
        with channel, pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(timeout=1)
