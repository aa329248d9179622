"""Clients with a cache, against servers in processes of their own: forks, ends without closing, stopped replicas."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peewee import sqlite3  # type: ignore[attr-defined]  # the one that the store uses

from doorward import CallFailed, Ceiling, Client
from tests.chaos.fleet import Replica
from tests.wire.replicas import shop, until

PROGRAM = """
import os, sys, threading
from doorward import Client

client = Client(sys.argv[1], sys.argv[2], channels=2, cache=100)

def ask():
    return client.authorize(sys.argv[3], keyspace="shop", action="things:read", organization="acme", timeout=60)

def warm():
    before = client.cache_info().hits
    while client.cache_info().hits == before:
        assert ask().allowed

warm()
told, tell = os.pipe()
ready, go_on = os.pipe()
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        info = client.cache_info()
        assert (info.hits, info.size, info.leased) == (0, 0, False), info
        assert ask().allowed and client.cache_info().asked == 1
        warm()
        os.write(tell, b"w")
        os.read(ready, 1)
        assert ask().reason == "KEY_REVOKED"
        os._exit(7)
    children.append(child)
warm()
for _ in children:
    os.read(told, 1)
client.revoke_key(sys.argv[4], organization="acme", timeout=60)
assert ask().reason == "KEY_REVOKED"
os.write(go_on, b"gg")
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert codes == [7, 7], codes
"""

AT_ONCE = (
    PROGRAM.partition("told, tell")[0]
    + """
codes = []

def fork():
    child = os.fork()
    if child == 0:
        ask()
        os._exit(7)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

for _ in range(3):
    threads = [threading.Thread(target=fork) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    warm()
assert codes == [7] * 9, codes
"""
)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Replica]]:
    """Two on one store; the second is not started yet."""
    own = {"store": f"sqlite:///{tmp_path / 'store.db'}", "state_dir": str(tmp_path / "var"), "metrics_listen": ""}
    settings = {f"DOORWARD_{word.upper()}": value for word, value in own.items()}
    made = [Replica(f"r{number}", settings, tmp_path) for number in range(2)]
    try:
        made[0].start()
        yield made
    finally:
        for replica in made:
            replica.send(signal.SIGCONT)
            replica.stop()


def root_of(folder: Path) -> str:
    return (folder / "var" / "root-key").read_text("utf-8").strip()


def new_key(client: Client) -> tuple[str, str]:
    """The id and the text of a key that may read things."""
    made = client.create_key(keyspace="shop", name="k", organization="acme", scopes=["reader"], ceiling=Ceiling.LIST)
    assert made.secret is not None
    return made.key.id, made.secret.reveal()


def stop_between_writes(replica: Replica, folder: Path) -> None:
    """Stop its process while it does not hold the database: else no other process could write."""
    assert replica.process is not None
    while True:
        replica.send(signal.SIGSTOP)
        os.waitid(os.P_PID, replica.process.pid, os.WSTOPPED)
        connection = sqlite3.connect(folder / "store.db", timeout=2, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            replica.send(signal.SIGCONT)
        else:
            return
        finally:
            connection.close()


def furnish(client: Client) -> None:
    client.create_organization("acme")
    client.apply_keyspace(shop("shop"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", [PROGRAM, AT_ONCE], ids=["revoked", "at once"])
def test_forked_children_have_leases_of_their_own_and_see_what_was_revoked(
    replicas: list[Replica], tmp_path: Path, program: str
) -> None:
    target, root = f"127.0.0.1:{replicas[0].port}", root_of(tmp_path)
    with Client(target, root, timeout=60) as client:
        furnish(client)
        id, text = new_key(client)
    done = subprocess.run(
        [sys.executable, "-c", program, target, root, text, id], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(300)
def test_when_the_replica_behind_the_stream_is_stopped_nothing_stale_is_answered(
    replicas: list[Replica], tmp_path: Path
) -> None:
    """Each is stopped once: one of them has the stream."""
    replicas[1].start()
    ports = [replica.port for replica in replicas]
    target, root = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports), root_of(tmp_path)
    with Client(f"127.0.0.1:{ports[0]}", root, timeout=60) as client:
        furnish(client)
    for stopped, running in (replicas, replicas[::-1]):
        with (
            Client(f"127.0.0.1:{running.port}", root, timeout=60) as hand,
            Client(target, root, channels=2, cache=100) as client,
        ):
            id, text = new_key(hand)

            def ask(client: Client = client, text: str = text) -> str:
                try:
                    said = client.authorize(text, keyspace="shop", action="things:read", organization="acme", timeout=1)
                except CallFailed:
                    return ""
                return str(said.reason)

            def hits(client: Client = client, ask: Callable[[], str] = ask) -> bool:
                before = client.cache_info()
                ask()
                after = client.cache_info()
                return before is not None and after is not None and after.hits > before.hits

            until(hits)
            stop_between_writes(stopped, tmp_path)
            hand.revoke_key(id, organization="acme", timeout=60)
            until(lambda ask=ask: _said(ask()))  # type: ignore[misc]  # bound per turn
            stopped.send(signal.SIGCONT)


def _said(reason: str) -> bool:
    """Whether there was an answer, which must be the right one."""
    assert reason in ("", "KEY_REVOKED")
    return bool(reason)
