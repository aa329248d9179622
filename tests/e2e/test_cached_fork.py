"""A process whose client has a cache may fork, and end without closing it. The server is a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward import Ceiling, Client
from tests.chaos.fleet import Replica
from tests.wire.replicas import shop

PROGRAM = """
import os, sys
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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Replica]:
    own = {"store": f"sqlite:///{tmp_path / 'store.db'}", "state_dir": str(tmp_path / "var"), "metrics_listen": ""}
    served = Replica("server", {f"DOORWARD_{word.upper()}": value for word, value in own.items()}, tmp_path)
    try:
        yield served.start()
    finally:
        served.stop()


@pytest.mark.timeout(300)
def test_forked_children_have_leases_of_their_own_and_see_what_was_revoked(server: Replica, tmp_path: Path) -> None:
    target, root = f"127.0.0.1:{server.port}", (tmp_path / "var" / "root-key").read_text("utf-8").strip()
    with Client(target, root, timeout=60) as client:
        client.create_organization("acme")
        client.apply_keyspace(shop("shop"))
        made = client.create_key(
            keyspace="shop", name="k", organization="acme", scopes=["reader"], ceiling=Ceiling.LIST
        )
    assert made.secret is not None
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, target, root, made.secret.reveal(), made.key.id],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
