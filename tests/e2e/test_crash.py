"""kill -9 while keys are made: what was acknowledged is there with its audit event, and there is no half key."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

import doorward
from doorward_server.service.peppers import read_ring
from doorward_server.store import Store
from tests import databases
from tests.e2e.processes import server

WRITERS = 4


def create_until_it_dies(target: str, root: str, enough: threading.Semaphore, made: dict[str, str]) -> None:
    """Make keys; keep those that were acknowledged."""
    with doorward.Client(target, root) as client:
        while True:
            try:
                issued = client.create_key(
                    keyspace="doorward", name="a key", scopes=["backend"], metadata={"a": "b"}, timeout=30
                )
            except doorward.DoorwardError:
                return
            assert issued.secret is not None
            made[issued.key.id] = issued.secret.reveal()
            enough.release()


@pytest.mark.parametrize("backend", databases.BACKENDS)
def test_no_acknowledged_key_is_lost_and_none_is_half_made(backend: str, tmp_path: Path) -> None:
    made: dict[str, str] = {}
    with databases.fresh(backend, tmp_path, migrated=False) as url:
        for round_ in range(3):
            with server(tmp_path, url) as process:
                enough = threading.Semaphore(0)
                writers = [
                    threading.Thread(target=create_until_it_dies, args=(process.target, process.root, enough, made))
                    for _ in range(WRITERS)
                ]
                for writer in writers:
                    writer.start()
                for _ in range(20 + 7 * round_):
                    assert enough.acquire(timeout=60)
                assert process.stop(signal.SIGKILL) == -signal.SIGKILL
                for writer in writers:
                    writer.join(60)
        _everything_is_there(url, tmp_path, made)


def _everything_is_there(url: str, folder: Path, made: dict[str, str]) -> None:
    assert len(made) >= 3 * 20
    with server(folder, url) as process, doorward.Client(process.target, process.root) as client:
        keys = {key.id: key for key in client.list_keys(page_size=1000) if key.name == "a key"}
        assert made.keys() <= keys.keys()
        assert len(keys) <= len(made) + 3 * WRITERS  # at most one each was on its way when the server died
        for key in keys.values():
            assert (key.scopes, dict(key.metadata), len(key.secrets)) == (("backend",), {"a": "b"}, 1)
        for id, text in list(made.items())[:: max(1, len(made) // 20)]:
            assert client.introspect(text, keyspace="doorward", timeout=30).identity.key_id == id  # type: ignore[union-attr]  # mine
        process.stop()
    ring = read_ring(folder / "var" / "peppers.json")
    assert ring is not None
    store = Store(url, audit_keys=ring.peppers.audit_key, pepper=1)
    assert store.verify_chain("operator").ok
    events = [stored.event for stored in store.list_events("operator", 0, 100_000)]
    store.close()
    created = [event.target for event in events if event.action == "keys:create" and event.actor.key != "bootstrap"]
    assert sorted(created) == sorted(keys)
