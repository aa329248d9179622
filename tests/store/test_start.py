"""Starting: which URLs are understood, what migrating makes, and that several starters do it once."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from doorward_server.core.errors import AlreadyExists, StoreUnavailable
from doorward_server.core.verify import KnownPepper, PepperState
from doorward_server.store import Store, StoreNotReady
from tests import databases
from tests.store import hands
from tests.store.values import NOW, event, key, keyspace, organization

ROOT = Path(__file__).parents[2]
MIGRATIONS = ROOT / "server" / "doorward_server" / "store" / "migrations"
PASSWORD = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "doorward.db",
        "/var/doorward.db",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:////",
        "sqlite://doorward.db",
        "sqlite:///:memory:",
        "sqlite:///var/",
        "sqlite:///x.db?mode=ro",
        "sqlite:///file:x.db",
        f"mysql://root:{PASSWORD}@localhost/doorward",
        f"postgres://root:{PASSWORD}@localhost/doorward",
        f"postgresql:/root:{PASSWORD}@localhost/doorward",
        f"postgresql://root:{PASSWORD}@localhost:port/doorward?nonsense=1",
        f"postgresql://root:{PASSWORD}@[localhost/doorward",
    ],
)
def test_urls_that_mean_no_store_are_refused_without_telling_a_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"^store URL: ") as refused:
        databases.open_store(url)
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    databases.open_store(f"sqlite:///{tmp_path}/a.db")
    databases.open_store("postgresql://nobody@192.0.2.1/nothing")
    assert not list(tmp_path.iterdir())


def test_a_store_that_was_not_migrated_is_not_served(empty_store_url: str) -> None:
    store = databases.open_store(empty_store_url)
    with pytest.raises((StoreNotReady, StoreUnavailable)):
        store.check()
    with pytest.raises(StoreUnavailable):
        store.find_record("aiia", "x")
    with pytest.raises(StoreUnavailable):
        store.add_organization(organization(), event())
    store.migrate()
    store.check()
    assert store.find_record("aiia", "x").record is None
    store.close()


def test_the_store_opens_again_after_close(store: Store) -> None:
    before = store.find_organization("acme")
    store.close()
    assert store.find_organization("acme") == before
    store.close()
    store.close()


def test_several_stores_live_in_one_process(tmp_path: Path) -> None:
    with (
        databases.fresh("sqlite", tmp_path) as first,
        databases.fresh("sqlite", tmp_path) as second,
        databases.fresh("postgresql", tmp_path) as third,
    ):
        stores = [databases.open_store(url) for url in (first, second, third)]
        for number, store in enumerate(stores):
            store.add_organization(organization(f"org{number}"), event(f"org{number}"))
        assert [[it.id for it in store.list_organizations("", 9)] for store in stores] == [["org0"], ["org1"], ["org2"]]
        for store in stores:
            store.close()


def test_a_new_sqlite_file_is_its_users_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = databases.open_store(f"sqlite:///{tmp_path}/sub/a.db")
        store.migrate()
        store.add_organization(organization(), event())
        files = {it.name: stat.S_IMODE(it.stat().st_mode) for it in (tmp_path / "sub").iterdir()}
    finally:
        os.umask(old)
        store.close()
    assert files == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600, "a.db.lock": 0o600}


def test_a_relative_path_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = databases.open_store("sqlite:///var/with%20space.db")
    store.migrate()
    store.check()
    store.close()
    assert (tmp_path / "var" / "with space.db").exists()


def test_a_store_of_a_newer_doorward_is_left_alone(empty: Store, store_url: str) -> None:
    with hands.at(store_url) as prompt:
        prompt.run("INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2030-01-01')")
    for refused in (empty.check, empty.migrate):
        with pytest.raises(StoreNotReady, match=r"newer Doorward.*9999_later"):
            refused()


def test_a_store_that_lacks_a_migration_is_not_served(empty: Store, store_url: str) -> None:
    with hands.at(store_url) as prompt:
        prompt.run("DELETE FROM schema_migration")
    with pytest.raises(StoreNotReady, match=r"lacks migrations.*0001_initial.*migrate"):
        empty.check()


def test_an_old_sqlite_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("doorward_server.store.migrate._SOUND_SQLITE", (99,))
    with databases.fresh("sqlite", tmp_path) as url, caplog.at_level(logging.WARNING):
        store = databases.open_store(url)
        store.check()
        store.close()
    assert "walresetbug" in caplog.text


def test_the_durable_settings_are_on(tmp_path: Path) -> None:
    with databases.fresh("sqlite", tmp_path) as url:
        store = databases.open_store(url)
        settings = {}

        def look(tx: object) -> None:
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout"):
                settings[name] = store._dialect.database.execute_sql(f"PRAGMA {name}").fetchone()[0]

        store._look(look)
        store.close()
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_postgresql_keeps_texts_by_their_bytes(tmp_path: Path) -> None:
    with databases.fresh("postgresql", tmp_path) as url, hands.at(url) as prompt:
        others = prompt.run(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema() "
            "AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'"
        )
    assert others == []


def test_the_operator_is_made_once(empty: Store) -> None:
    made = key(organization="operator", keyspace="doorward")
    first = organization("operator"), keyspace("doorward"), made, [event("operator"), event("operator", "keys:create")]
    assert empty.add_operator(*first) is True
    assert empty.find_organization("operator") == first[0]
    assert empty.find_keyspace("doorward") == first[1]
    assert empty.find_key("operator", made.id) == made
    assert [it.event for it in empty.list_events("operator", 0, 9)] == first[3]
    before = empty.revision()
    assert empty.add_operator(*first) is False
    assert empty.add_operator(organization("other"), keyspace("other"), key(), [event("other")]) is False
    assert empty.revision() == before
    assert empty.list_organizations("", 9) == [first[0]]
    assert empty.find_keyspace("other") is None


def test_no_operator_beside_any_organization(empty: Store) -> None:
    empty.add_organization(organization("first"), event("first"))
    empty.delete_organization("first", lambda it, _: (replace(it, deleted_at=NOW), event("first")))
    assert empty.add_operator(organization("operator"), keyspace("doorward"), key(), []) is False


def test_keyspaces_are_made_and_changed(empty: Store) -> None:
    empty.add_organization(organization(), event())
    made = empty.apply_keyspace("aiia", lambda it: (keyspace(), event()) if it is None else None)
    assert made.value == keyspace() == empty.find_keyspace("aiia")
    unchanged = empty.apply_keyspace("aiia", lambda it: None if it == keyspace() else pytest.fail("changed"))
    assert (unchanged.value, unchanged.revision) == (keyspace(), made.revision)
    new = keyspace(source="name: aiia\n# 2", version=2, updated_at=NOW + 1)
    assert empty.apply_keyspace("aiia", lambda _: (new, event())).value == new == empty.find_keyspace("aiia")
    empty.apply_keyspace("Aiia", lambda _: (keyspace("Aiia"), event()))
    assert [it.name for it in empty.list_keyspaces("", 9)] == ["Aiia", "aiia"]
    assert [it.name for it in empty.list_keyspaces("Aiia", 9)] == ["aiia"]
    assert empty.find_keyspace("nowhere") is None
    assert empty.verify_chain("acme").length == 4


def test_peppers_are_known_by_their_canary(empty: Store) -> None:
    one, two = KnownPepper(1, b"one", PepperState.ACTIVE), KnownPepper(2, b"two", PepperState.ADDED)
    assert empty.peppers.list_all() == []
    assert [empty.peppers.add(it).value for it in (one, one, two)] == [True, False, True]
    assert empty.peppers.list_all() == [one, two]
    with pytest.raises(AlreadyExists):
        empty.peppers.add(replace(one, canary=b"other"))
    assert empty.peppers.list_all() == [one, two]


def test_the_lock_is_for_one_thread_at_a_time_and_may_be_taken_twice(store_url: str) -> None:
    """Of two stores, as two processes have them."""
    stores = [databases.open_store(store_url) for _ in range(2)]
    inside: list[int] = []
    order: list[tuple[int, list[int]]] = []

    def start(number: int) -> None:
        store = stores[number % 2]
        with store.lock(), store.lock():
            inside.append(number)
            store.migrate()
            order.append((number, list(inside)))
            inside.remove(number)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(there == [number] for number, there in order)
    assert len(order) == 6
    for store in stores:
        store.close()


STARTER = """
import sys
from tests import databases
from tests.store.values import event, key, keyspace, organization

store = databases.open_store(sys.argv[1])
with store.lock():
    store.migrate()
    made = store.add_operator(
        organization("operator"), keyspace("doorward"), key(organization="operator", keyspace="doorward"),
        [event("operator")],
    )
store.check()
print(made)
"""


def test_several_starters_make_one_store(empty_store_url: str) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'server'}"}
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, empty_store_url], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = [starter.communicate()[0].strip() for starter in starters]
    assert sorted(said) == ["False", "False", "False", "True"]
    store = databases.open_store(empty_store_url)
    store.check()
    assert store.verify_chain("operator").length == 1
    store.close()
    with hands.at(empty_store_url) as prompt:
        applied = [name for (name,) in prompt.run("SELECT name FROM schema_migration ORDER BY name")]
    assert applied == sorted(file.stem for file in MIGRATIONS.glob("[0-9]*.py"))
