"""Ways around a trigger that each database has: rows pushed aside, tables emptied or built anew by a migration."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward_server.store import Store, StoreNotReady, migrate
from tests import databases
from tests.store import hands
from tests.store.hands import Hands
from tests.store.values import QUOTAS, binding, event, key, populate

REBUILD = '''
from peewee import SqliteDatabase


def up(migrator, db):
    """Build a table anew, as many a change of a table needs on SQLite."""
    if isinstance(db, SqliteDatabase):
        ((sql,),) = db.execute_sql("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'binding'").fetchall()
        db.execute_sql(sql.replace("binding", "other", 1))
    else:
        db.execute_sql("CREATE TABLE other (LIKE binding INCLUDING ALL)")
    db.execute_sql("INSERT INTO other SELECT * FROM binding")
    db.execute_sql("DROP TABLE binding")
    db.execute_sql("ALTER TABLE other RENAME TO binding")
'''


@pytest.fixture
def file(tmp_path: Path) -> Iterator[str]:
    with databases.fresh("sqlite", tmp_path) as url:
        yield url


@pytest.fixture
def sqlite(file: str) -> Iterator[Store]:
    store = databases.open_store(file)
    populate(store)
    for id in ("key_1", "key_2"):
        store.add_key(key(id, external_id=f"ext_{id}"), event(), QUOTAS)
    yield store
    store.close()


@pytest.fixture
def prompt(sqlite: Store, file: str) -> Iterator[Hands]:
    """Somebody at SQLite's own prompt, where foreign keys are off."""
    with hands.at(file) as opened:
        yield opened


def test_a_key_that_its_external_id_pushes_aside_is_logged(prompt: Hands) -> None:
    before = prompt.revision()
    prompt.run("UPDATE OR REPLACE key SET external_id = 'ext_key_1' WHERE id = 'key_2'")
    assert prompt.run("SELECT id FROM key") == [("key_2",)]
    assert prompt.changes(before) == {("KEY", "acme", "key_1"), ("KEY", "acme", "key_2")}
    prompt.run("UPDATE key SET external_id = NULL")
    before = prompt.revision()
    columns = ", ".join(name for _, name, *_ in prompt.run("PRAGMA table_info(key)"))
    others = columns.replace("id,", "'key_3',", 1).replace("organization", "'acme'", 1)
    prompt.run(f"REPLACE INTO key ({columns}) SELECT {others} FROM key")
    assert prompt.changes(before) == {("KEY", "acme", "key_3")}, "two without an external id do not collide"


def test_emptying_a_table_is_logged_row_by_row(prompt: Hands) -> None:
    """Without triggers SQLite would drop all rows at once."""
    before = prompt.revision()
    prompt.run("DELETE FROM key")
    assert prompt.changes(before) == {("KEY", "acme", "key_1"), ("KEY", "acme", "key_2")}


def test_an_upsert_is_logged(store: Store, store_url: str) -> None:
    values = "VALUES ('aiia', 'x', 1, 1, 1) ON CONFLICT (name) DO UPDATE SET source = 'y'"
    with hands.at(store_url) as prompt:
        before = prompt.revision()
        prompt.run(f"INSERT INTO keyspace {values}")
        assert prompt.changes(before) == {("KEYSPACE", "", "aiia")}
        before = prompt.revision()
        prompt.run("INSERT INTO keyspace VALUES ('aiia', 'x', 1, 1, 1) ON CONFLICT (name) DO NOTHING")
        assert prompt.changes(before) == set()


def rebuilding(folder: Path) -> str:
    """The scripts of this Doorward, and one of a next one that builds a table anew."""
    scripts = shutil.copytree(migrate._SCRIPTS, folder / "scripts")
    (scripts / "9000_rebuild.py").write_text(REBUILD, "utf-8")
    return str(scripts)


def check_a_rebuilt_table_keeps_its_triggers(url: str, scripts: str) -> None:
    """The plant `not-made-anew` must fail here."""
    store = databases.open_store(url)
    try:
        store.add_binding(binding("b1"), event(), QUOTAS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(migrate, "_SCRIPTS", scripts)
            assert not store.is_current()
            with pytest.raises(StoreNotReady):
                store.check()
            store.migrate()
            store.check()
        with hands.at(url) as prompt:
            before = prompt.revision()
            prompt.run("UPDATE binding SET role = 'other'")
            assert prompt.changes(before) == {("PRINCIPAL", "acme", "alice")}
    finally:
        store.close()


def test_a_rebuilt_table_keeps_its_triggers(store: Store, store_url: str, tmp_path: Path) -> None:
    check_a_rebuilt_table_keeps_its_triggers(store_url, rebuilding(tmp_path))
