"""Following the log: one snapshot, nothing missed or told twice, whoever writes; noticing that it is another log."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from peewee import sqlite3  # type: ignore[attr-defined]  # chosen there

from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.freshness import ALL, Change
from doorward_server.store import Store
from tests import databases
from tests.fakes import SECOND
from tests.store import hands, tails
from tests.store.hands import Hands
from tests.store.tails import Follower, following
from tests.store.values import add_key, event, organization, populate, principal

TIMEOUT = 60.0
"""Seconds: a bound for what hangs, not an expectation."""


@pytest.fixture
def follower(store: Store) -> Iterator[Follower]:
    with following(store) as made:
        yield made


@pytest.fixture
def prompt(store: Store, store_url: str) -> Iterator[Hands]:
    with hands.at(store_url) as opened:
        yield opened


def test_the_first_poll_tells_where_the_log_is(store: Store) -> None:
    tail = store.open_tail(tails.PATIENT)
    poll = tail.poll("replica_1", 0, 17)
    assert (poll.replica, poll.since, poll.started_at) == ("replica_1", 0, 17)
    assert (poll.head, poll.floor, poll.changes, poll.registered) == (store.revision(), 0, (), False)
    tail.close()


def check_what_this_process_writes_is_told(store: Store, follower: Follower) -> None:
    """The plant `data-version-pooled` must fail here."""
    for name in ("x1", "x2"):
        written = store.add_principal(principal(name), event())
        poll = follower.poll()
        assert poll.head == written.revision
        assert follower.named() == {("PRINCIPAL", "acme", name)}
        quiet = follower.poll()
        assert (quiet.head, quiet.head_nonce, quiet.nonce_at_since) == (poll.head, poll.head_nonce, poll.head_nonce)
        assert quiet.changes == ()


def test_what_this_process_writes_is_told(store: Store, follower: Follower) -> None:
    check_what_this_process_writes_is_told(store, follower)


def test_what_somebody_else_writes_is_told(follower: Follower, prompt: Hands) -> None:
    prompt.run("UPDATE principal SET enabled = false WHERE organization = 'acme'")
    follower.poll()
    assert follower.named() == {("PRINCIPAL", "acme", "alice"), ("PRINCIPAL", "acme", "bob")}


def test_a_lookup_is_told_without_its_organization(store: Store, follower: Follower) -> None:
    made = add_key(store)
    follower.poll()
    assert follower.named() == {("KEY", "acme", made.id), ("LOOKUP", "", f"aiia/{made.secrets[0].lookup}")}


def test_a_kind_of_a_newer_version_means_everything(follower: Follower, prompt: Hands) -> None:
    prompt.run("UPDATE organization SET enabled = true")
    prompt.run("UPDATE changes SET kind = 'RELATION' WHERE revision > ? AND name = ''", follower.head)
    follower.poll()
    assert follower.named() == {("ALL", "", "")}


def test_the_own_row_is_seen_with_everything_else(store: Store, follower: Follower) -> None:
    assert follower.poll().registered
    store.replicas.condemn(["replica_1"])
    assert not follower.poll().registered
    assert not follower.poll().registered
    store.replicas.register(tails.replica("replica_2"))
    follower.replica = "replica_2"
    assert follower.poll().registered
    store.replicas.delete(["replica_2"])
    assert not follower.poll().registered


def test_the_nonce_of_the_revision_asked_from(store: Store, follower: Follower) -> None:
    before = follower.poll()
    store.add_principal(principal("x1"), event())
    after = follower.tail.poll("replica_1", before.head, 0)
    assert after.nonce_at_since == before.head_nonce != after.head_nonce
    assert follower.tail.poll("replica_1", after.head, 0).nonce_at_since == after.head_nonce
    assert follower.tail.poll("replica_1", after.head + 1, 0).nonce_at_since is None


def test_whoever_is_far_behind_drops_everything(
    store: Store, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doorward_server.store.tail.MOST", 2)
    for number in range(3):
        store.add_principal(principal(f"x{number}"), event())
    poll = follower.tail.poll("replica_1", follower.head, 0)
    assert poll.changes == (Change(poll.head, ALL),)
    assert poll.nonce_at_since is not None


def check_a_restored_store_is_another_one(store: Store, follower: Follower, prompt: Hands) -> None:
    """As a restore leaves it: the log ends earlier, and goes on with other changes under the same numbers."""
    old = prompt.run("SELECT value, nonce FROM revision")[0]
    for name in ("x1", "x2"):
        store.add_principal(principal(name), event())
    lost = follower.poll()
    follower.tail.acknowledge("replica_1", lost.head)
    assert store.replicas.list_acknowledgements() == {"replica_1": lost.head}
    prompt.run("BEGIN")
    prompt.run("DELETE FROM changes WHERE revision > ?", old[0])
    prompt.run("UPDATE revision SET value = ?, nonce = ?", *old)
    prompt.run("COMMIT")
    lower = follower.tail.poll("replica_1", lost.head, 0)
    assert lower.head == old[0] < lost.head
    assert lower.nonce_at_since is None
    assert store.replicas.list_acknowledgements() == {}
    for name in ("y1", "y2", "y3"):
        store.add_principal(principal(name), event())
    again = follower.tail.poll("replica_1", lost.head, 0)
    assert again.head > lost.head
    assert again.nonce_at_since != lost.head_nonce
    assert store.replicas.list_acknowledgements() == {}, "it acknowledged other changes, under the same number"


def test_a_restored_store_is_another_one(store: Store, follower: Follower, prompt: Hands) -> None:
    check_a_restored_store_is_another_one(store, follower, prompt)


def check_nothing_is_missed(store: Store, follower: Follower) -> None:
    """Eight threads write while a tail polls. The plants `sequence` and `head-apart` must fail here."""
    organizations = [f"org{number}" for number in range(8)]
    for id in organizations:
        store.add_organization(organization(id), event(id))
    follower.poll()
    follower.read.clear()
    written: dict[tuple[str, str], int] = {}

    def write(id: str) -> None:
        for number in range(12):
            written[id, f"p{number}"] = store.add_principal(principal(f"p{number}", id), event(id)).revision

    threads = [threading.Thread(target=write, args=(id,)) for id in organizations]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            follower.poll()
    finally:
        for thread in threads:
            thread.join()
    follower.poll()
    told = {(it.dependency.organization, it.dependency.name): it.revision for it in follower.read}
    assert len(written) == 96
    assert told.keys() == written.keys(), "a change was committed behind a revision that was read already"
    assert told == written


def test_nothing_is_missed(store: Store, follower: Follower) -> None:
    check_nothing_is_missed(store, follower)


def test_what_is_not_committed_holds_nobody_up(store: Store, follower: Follower, store_url: str) -> None:
    """On SQLite there is one writer, and readers do not wait for it."""
    with hands.at(store_url) as sitting:
        sitting.run("BEGIN" if sitting.postgresql else "BEGIN IMMEDIATE")
        sitting.run("UPDATE principal SET enabled = false WHERE organization = 'acme' AND id = 'alice'")
        assert follower.poll().changes == ()
        if sitting.postgresql:
            written = store.update_principal("acme", "bob", lambda it, _: (it, event()))
            assert follower.poll().head == written.revision
            assert follower.named() == {("PRINCIPAL", "acme", "bob")}
        sitting.run("COMMIT")
    follower.poll()
    assert follower.named() == {("PRINCIPAL", "acme", "alice")}


def waiting(follower: Follower) -> threading.Thread:
    """Somebody who waits for a hint for ten times as long as this test would."""
    thread = threading.Thread(target=follower.tail.wait_for_hint, args=(10 * TIMEOUT,), daemon=True)
    thread.start()
    return thread


def test_a_wait_ends_with_a_hint(follower: Follower) -> None:
    thread = waiting(follower)
    follower.tail.hint()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    for _ in range(100_000):
        follower.tail.hint()  # never blocks, though nobody takes them
    follower.tail.wait_for_hint(10 * TIMEOUT)


def test_a_wait_ends(follower: Follower) -> None:
    follower.tail.wait_for_hint(0.001)


# --- SQLite -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[str]:
    with databases.fresh("sqlite", tmp_path) as url:
        yield url


@pytest.fixture
def sqlite(file: str) -> Iterator[Store]:
    store = databases.open_store(file)
    populate(store)
    yield store
    store.close()


def test_a_file_that_nobody_wrote_to_is_not_read(sqlite: Store) -> None:
    with following(sqlite) as follower:
        follower.poll()
        statements: list[str] = []
        connection: Any = follower.tail._connection  # type: ignore[attr-defined]  # SQLite's
        connection.set_trace_callback(statements.append)
        follower.poll()
        assert statements == ["PRAGMA data_version"]


def test_between_polls_nothing_is_held(sqlite: Store, file: str) -> None:
    """A snapshot that is held would keep the write-ahead log from being emptied."""
    with following(sqlite) as follower, hands.at(file) as prompt:
        sqlite.add_principal(principal("x1"), event())
        follower.poll()
        busy, pages, _ = prompt.run("PRAGMA wal_checkpoint(TRUNCATE)")[0]
        assert (busy, pages) == (0, 0)


def test_the_tail_cannot_write(sqlite: Store) -> None:
    with following(sqlite) as follower, pytest.raises(sqlite3.OperationalError, match="readonly"):
        follower.tail._connection.execute("UPDATE revision SET value = 0")  # type: ignore[attr-defined]  # SQLite's


def test_a_backup_that_is_put_back_while_the_server_runs_is_noticed(sqlite: Store, file: str, tmp_path: Path) -> None:
    path = file.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        live.backup(backup)
        with following(sqlite) as follower:
            sqlite.add_principal(principal("x1"), event())
            lost = follower.poll()
            backup.backup(live)
            poll = follower.tail.poll("replica_1", lost.head, 0)
            assert poll.nonce_at_since is None
            assert not poll.registered


def test_another_file_in_its_place_is_noticed(sqlite: Store, file: str, tmp_path: Path) -> None:
    path = Path(file.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        live.backup(backup)
    with following(sqlite) as follower:
        sqlite.add_principal(principal("x1"), event())
        follower.poll()
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink()
        (tmp_path / "backup.db").rename(path)
        with pytest.raises(StoreUnavailable):
            follower.poll()
    assert sqlite.find_principal("acme", "x1") is None, "the pool went on with the file that was removed"


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgresql_url(tmp_path: Path) -> Iterator[str]:
    with databases.fresh("postgresql", tmp_path) as url:
        yield url


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Store]:
    store = databases.open_store(postgresql_url)
    populate(store)
    yield store
    store.close()


def test_every_commit_that_makes_a_revision_hints(postgresql: Store, postgresql_url: str) -> None:
    with following(postgresql) as follower, hands.at(postgresql_url) as prompt:
        thread = waiting(follower)
        prompt.run("UPDATE principal SET enabled = false")
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        follower.poll()
        thread = waiting(follower)
        add_key(postgresql)
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_a_hint_that_came_with_an_answer_is_not_lost(postgresql: Store) -> None:
    with following(postgresql) as follower:
        add_key(postgresql)
        follower.poll()
        follower.tail.wait_for_hint(10 * TIMEOUT)


def test_a_hint_says_nothing(postgresql: Store, postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as listening:
        listening.execute("LISTEN doorward_changes")
        postgresql.add_principal(principal("secretive"), event())
        postgresql.add_principal(principal("secretive2"), event())
        hints = list(listening.notifies(timeout=TIMEOUT, stop_after=2))
    assert [hint.payload for hint in hints] == ["", ""]


def test_between_polls_its_session_is_idle(postgresql: Store, postgresql_url: str) -> None:
    with following(postgresql) as follower, hands.at(postgresql_url) as prompt:
        pid = follower.tail._connection.info.backend_pid  # type: ignore[attr-defined]  # PostgreSQL's
        assert prompt.run("SELECT state, xact_start FROM pg_stat_activity WHERE pid = ?", pid) == [("idle", None)]


def test_a_poll_that_takes_too_long_ends(postgresql: Store, postgresql_url: str) -> None:
    with hands.at(postgresql_url) as prompt:
        tail = postgresql.open_tail(SECOND // 2)
        prompt.run("BEGIN")
        prompt.run("LOCK TABLE revision IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable):
            tail.poll("replica_1", 0, 0)
        tail.close()


def test_a_server_that_hangs_is_given_up(postgresql: Store) -> None:
    """Its own timeouts are of no use then."""
    tail = postgresql.open_tail(SECOND // 2)
    pid = tail._connection.info.backend_pid  # type: ignore[attr-defined]  # PostgreSQL's
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            tail.poll("replica_1", 0, 0)
        tail.close()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_session_that_ended_is_noticed(postgresql: Store, postgresql_url: str) -> None:
    with hands.at(postgresql_url) as prompt, following(postgresql) as follower:
        pid = follower.tail._connection.info.backend_pid  # type: ignore[attr-defined]  # PostgreSQL's
        prompt.run("SELECT pg_terminate_backend(?)", pid)
        with suppress(StoreUnavailable):  # whether or not it can tell already, it ends
            follower.tail.wait_for_hint(10 * TIMEOUT)
        with pytest.raises(StoreUnavailable):
            follower.poll()
    with following(postgresql, "replica_2") as follower:
        assert follower.poll().registered
