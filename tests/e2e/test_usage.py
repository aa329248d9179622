"""What usage survives: SIGTERM loses nothing, kill -9 what came in since a flush began, a record of an answer never."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import doorward
from doorward_server.core.usage import Dimension, Scope
from doorward_server.store import Store
from tests import databases
from tests.e2e.processes import Process, server
from tests.wire.replicas import shop, until

EVER = Scope("operator", 0, 2**60, keyspace="shop")
WORKERS = 2
AUDITED = "decision_log: {record: all}\n"


class Asker:
    """Asks as fast as it is answered, and counts the answers."""

    def __init__(self, process: Process, text: str) -> None:
        self.answered = 0
        self.started = 0
        self.ids: set[str] = set()
        self._process, self._text = process, text
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with doorward.Client(self._process.target, self._process.root, channels=4) as client:
            while not self._stopping.is_set():
                self.started += 1
                try:
                    decision = client.authorize(
                        self._text,
                        keyspace="shop",
                        action="things:read",
                        resource=f"things/{self.started % 7}",
                        timeout=30,
                    )
                except doorward.DoorwardError:
                    continue
                self.answered += 1
                self.ids.add(decision.id)

    def _ask(self, client: doorward.Client) -> doorward.Decision:
        resource = f"things/{self.started % 7}"
        return client.authorize(self._text, keyspace="shop", action="things:read", resource=resource, timeout=30)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture(params=databases.BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with databases.fresh(str(request.param), tmp_path) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = databases.open_store(url)
    yield store
    store.close()


def begun(process: Process, more: str = "") -> Asker:
    """Somebody who asks about a key of the operator's."""
    with doorward.Client(process.target, process.root) as client:
        client.apply_keyspace(shop("shop") + more, no_wait=True)
        issued = client.create_key(keyspace="shop", name="a key", ceiling=doorward.Ceiling.LIST, scopes=["reader"])
    assert issued.secret is not None
    return Asker(process, issued.secret.reveal())


def counted(store: Store) -> int:
    return sum(it.allowed + it.denied for it in store.usage.sum_by(EVER, Dimension.HOUR, 1000))


def until_flushed(store: Store) -> None:
    """Wait until a flush is seen to be done."""
    before = counted(store)
    until(lambda: counted(store) > before)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_stop_loses_no_count(url: str, store: Store, tmp_path: Path) -> None:
    with server(tmp_path, url, "--workers", str(WORKERS)) as process:
        asker = begun(process)
        until(lambda: asker.answered >= 100)
        asker.stop()
        assert process.stop(signal.SIGTERM) == 0
    assert counted(store) == asker.started == asker.answered


def test_a_kill_loses_no_more_than_what_came_since_a_flush_began_and_no_record(
    url: str, store: Store, tmp_path: Path
) -> None:
    with server(tmp_path, url) as process:
        asker = begun(process, AUDITED)
        until(lambda: counted(store) > 0)
        answered = asker.answered
        until_flushed(store)
        until_flushed(store)  # it began after the first was done, and so after those answers
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL
        asker.stop()
    assert answered <= counted(store) <= asker.started
    recorded = {it.id for it in store.usage.list_decisions(EVER, None, 100_000)}
    assert asker.ids <= recorded
    assert len(asker.ids) == asker.answered
