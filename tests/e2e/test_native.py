"""`doorward-server serve --transport native` as people start it: the main job by every client, and several workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import doorward
from tests.e2e import test_scenario
from tests.e2e.conftest import furnished
from tests.e2e.processes import PROGRAM, ROOT, Process, environment, run, server
from tests.e2e.test_workers import pids

NATIVE = ("--transport", "native")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("demo")
    keyspaces = str(ROOT / "examples" / "keyspaces")
    with server(folder, f"sqlite:///{folder}/doorward.db", "--demo", keyspaces, *NATIVE) as process:
        furnished(process)
        yield process


def test_with_the_client(demo: Process) -> None:
    assert "the native transport is an experiment" in demo.output
    test_scenario.test_with_the_client(demo)


def test_with_the_async_client(demo: Process) -> None:
    test_scenario.test_with_the_async_client(demo)


def test_with_the_command_line(demo: Process) -> None:
    test_scenario.test_with_the_command_line(demo)


def test_workers_share_the_port_and_the_truth(tmp_path: Path) -> None:
    """Each connection belongs to one worker, whichever the kernel chose: revoked by one is revoked for all."""
    url = f"sqlite:///{tmp_path}/doorward.db"
    with server(tmp_path, url, "--workers", "2", *NATIVE) as process, ExitStack() as opened:
        assert len(pids(process)) == 2
        root = opened.enter_context(doorward.Client(process.target, process.root))
        made = root.create_key(keyspace="doorward", name="one", scopes=["backend"])
        assert made.secret is not None
        connections = [opened.enter_context(doorward.Client(process.target, made.secret.reveal())) for _ in range(12)]
        assert {it.whoami(timeout=60).key_id for it in connections} == {made.key.id}
        root.revoke_key(made.key.id)
        for connection in connections:
            with pytest.raises(doorward.CallerUnauthenticated):
                connection.whoami(timeout=60)
        assert run(*PROGRAM, "serve", *NATIVE, env=environment(tmp_path, url, listen=process.target)).returncode == 1
        assert process.stop() == 0, process.output
