"""The registry: rows come and go only as their replicas and the protocol say, and acknowledgements cost nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward_server.core.errors import InvalidField
from doorward_server.core.verify import KnownPepper, PepperState
from doorward_server.store import Store
from tests import databases
from tests.fakes import SECOND
from tests.store import hands
from tests.store.hands import Hands
from tests.store.tails import PATIENT, Follower, following, replica
from tests.store.values import NOW, event, principal


@pytest.fixture
def follower(store: Store) -> Iterator[Follower]:
    with following(store) as made:
        yield made


@pytest.fixture
def prompt(store: Store, store_url: str) -> Iterator[Hands]:
    with hands.at(store_url) as opened:
        yield opened


def test_a_replica_is_what_it_said(store: Store) -> None:
    pepper = KnownPepper(1, b"one", PepperState.ACTIVE)
    store.peppers.add(pepper)
    one = replica("replica_1", max_staleness=2 * SECOND, serve_stale_for=5)
    two = replica("replica_2")
    before = store.revision()
    assert store.replicas.register(one) == [pepper]
    assert store.replicas.register(two) == [pepper]
    assert store.replicas.list_all() == [one, two]
    later = replica("replica_1", max_staleness=9, serve_stale_for=9, condemned=True)
    assert store.replicas.beat(later) == [pepper]
    assert store.replicas.list_all() == [one, two], "a beat says nothing of caches"
    assert store.revision() == before


def test_a_beat_brings_nobody_back(store: Store) -> None:
    store.replicas.beat(replica("replica_1"))
    assert store.replicas.list_all() == []


def test_whoever_registers_anew_leaves_its_old_row_condemned(store: Store) -> None:
    store.replicas.register(replica("replica_1"))
    store.replicas.register(replica("replica_2"))
    store.replicas.register(replica("replica_3"), former="replica_1")
    assert {it.id: it.condemned for it in store.replicas.list_all()} == {
        "replica_1": True,
        "replica_2": False,
        "replica_3": False,
    }


def test_rows_go_when_they_are_deleted_and_not_by_any_clock(store: Store) -> None:
    old = replica("replica_1")
    store.replicas.register(old)
    store.replicas.register(replica("replica_2"))
    store.replicas.condemn(["replica_1", "nobody"])
    store.replicas.condemn([])
    assert [it.condemned for it in store.replicas.list_all()] == [True, False]
    store.replicas.delete(["replica_1", "nobody"])
    store.replicas.delete([])
    assert [it.id for it in store.replicas.list_all()] == ["replica_2"]


def test_an_older_doorwards_row_counts_as_one_with_the_default(store: Store, prompt: Hands) -> None:
    prompt.run("INSERT INTO replica (id, started_at, seen_at, peppers) VALUES ('old', ?, ?, '{}')", NOW, NOW)
    assert store.replicas.list_all() == [replica("old")]


def test_max_staleness_is_kept_and_audited(store: Store) -> None:
    assert store.replicas.max_staleness() == SECOND
    head = store.revision()
    assert store.replicas.update_max_staleness(2 * SECOND, event(action="store:set")).revision == head
    assert store.replicas.update_max_staleness(SECOND // 2, event(action="store:set")).value == SECOND // 2
    assert store.replicas.max_staleness() == SECOND // 2
    for wrong in (0, -1, SECOND // 5 - 1, 60 * SECOND + 1):
        with pytest.raises(InvalidField, match="max_staleness"):
            store.replicas.update_max_staleness(wrong, event())
    assert [it.event.action for it in store.list_events("acme", 0, 99)].count("store:set") == 2


def test_acknowledgements_are_told(store: Store, follower: Follower) -> None:
    assert store.replicas.list_acknowledgements() == {}
    follower.tail.acknowledge("replica_1", follower.head)
    with following(store, "replica_2") as other:
        other.tail.acknowledge("replica_2", 0)
        assert store.replicas.list_acknowledgements() == {"replica_1": follower.head, "replica_2": 0}
        store.add_principal(principal("x1"), event())
        other.poll()
        other.tail.acknowledge("replica_2", follower.head)
        assert store.replicas.list_acknowledgements() == {"replica_1": follower.head, "replica_2": follower.head}
        other.tail.acknowledge("replica_2", other.head)
        assert store.replicas.list_acknowledgements() == {"replica_1": follower.head, "replica_2": other.head}
    store.replicas.delete(["replica_1"])
    assert store.replicas.list_acknowledgements() == {"replica_2": other.head}


def test_only_what_was_polled_can_be_acknowledged(store: Store, follower: Follower) -> None:
    with pytest.raises(RuntimeError):
        follower.tail.acknowledge("replica_1", follower.head + 1)
    tail = store.open_tail(PATIENT)
    with pytest.raises(RuntimeError):
        tail.acknowledge("replica_1", 0)
    tail.close()


def test_what_the_unregistered_acknowledged_goes_with_the_next_registration(store: Store, prompt: Hands) -> None:
    with following(store) as follower:
        follower.tail.acknowledge("replica_1", follower.head)
        prompt.run("DELETE FROM replica")
        store.replicas.register(replica("replica_2"))
        assert store.replicas.list_acknowledgements() == {}


def test_acknowledging_waits_for_no_writer_and_writes_nothing_of_the_store(
    store: Store, follower: Follower, store_url: str
) -> None:
    with hands.at(store_url) as sitting:
        sitting.run("BEGIN" if sitting.postgresql else "BEGIN IMMEDIATE")
        sitting.run("UPDATE revision SET value = value")
        sitting.run("UPDATE replica SET seen_at = seen_at")
        follower.tail.acknowledge("replica_1", follower.head)
        assert store.replicas.list_acknowledgements() == {"replica_1": follower.head}
        sitting.run("ROLLBACK")


# --- SQLite's files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    with databases.fresh("sqlite", tmp_path) as url:
        store = databases.open_store(url)
        yield store
        store.close()


@pytest.fixture
def file(sqlite: Store) -> Path:
    """The file of replica_1, which is not there yet."""
    return sqlite._dialect.acknowledgements / "replica_1"  # type: ignore[union-attr]  # SQLite's


def test_the_files_are_their_users_alone(sqlite: Store, file: Path) -> None:
    old = os.umask(0)
    try:
        with following(sqlite) as follower:
            follower.tail.acknowledge("replica_1", follower.head)
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("spoilt", [b"", b"\xff" * 256, b"00000000 1 1 x\n", b"00000000", None])
def test_a_lost_or_damaged_file_counts_as_none_and_comes_again(sqlite: Store, file: Path, spoilt: bytes | None) -> None:
    with following(sqlite) as follower:
        follower.tail.acknowledge("replica_1", follower.head)
        if spoilt is None:
            file.unlink()
            file.parent.rmdir()
        else:
            file.write_bytes(spoilt)
        assert sqlite.replicas.list_acknowledgements() == {}
        follower.poll()
        follower.tail.acknowledge("replica_1", follower.head)
        assert sqlite.replicas.list_acknowledgements() == {"replica_1": follower.head}


def test_a_half_written_file_counts_as_none(sqlite: Store, file: Path) -> None:
    with following(sqlite) as follower:
        follower.tail.acknowledge("replica_1", 0)
        before = file.read_bytes()
        follower.tail.acknowledge("replica_1", follower.head)
        after = file.read_bytes()
        assert len(before) == len(after) == 256
        file.write_bytes(before[:9] + after[9:])
        assert sqlite.replicas.list_acknowledgements() == {}
        file.write_bytes(after[:100])
        assert sqlite.replicas.list_acknowledgements() in ({}, {"replica_1": follower.head})


def test_one_file_by_two_names_has_one_folder(tmp_path: Path) -> None:
    with databases.fresh("sqlite", tmp_path) as url:
        link = tmp_path / "link.db"
        link.symlink_to(url.removeprefix("sqlite:///"))
        stores = [databases.open_store(it) for it in (url, f"sqlite:///{link}")]
        with following(stores[1]) as follower:
            follower.tail.acknowledge("replica_1", follower.head)
            assert stores[0].replicas.list_acknowledgements() == {"replica_1": follower.head}
        for store in stores:
            store.close()


# --- PostgreSQL's table -----------------------------------------------------------------------------------------------


def test_the_table_costs_no_fsync(tmp_path: Path) -> None:
    with databases.fresh("postgresql", tmp_path) as url, hands.at(url) as prompt:
        assert prompt.one("SELECT relpersistence FROM pg_class WHERE relname = 'acknowledgement'") in ("u", b"u")
        store = databases.open_store(url)
        with following(store) as follower:
            follower.tail.acknowledge("replica_1", follower.head)
            writing = follower.tail._writing  # type: ignore[attr-defined]  # PostgreSQL's
            assert writing.execute("SHOW synchronous_commit").fetchone() == ("off",)
            assert writing is not follower.tail._connection  # type: ignore[attr-defined]  # PostgreSQL's
        store.close()
