"""The change log: whoever changes what a decision can see is written down, by hand or not, in the order of commits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from doorward_server.core.errors import AlreadyExists
from doorward_server.core.model import Event, Key
from doorward_server.store import Store, StoreNotReady
from tests import databases
from tests.store import hands
from tests.store.hands import Hands
from tests.store.values import add_key, event, organization, populate, principal


@dataclass(frozen=True)
class Case:
    """Changes of one table by hand, one after the other, and what the log must name after each."""

    insert: str
    update: str
    delete: str
    inserted: set[hands.Change]
    updated: set[hands.Change]
    deleted: set[hands.Change]


def same(table: str, insert: str, update: str, where: str, *named: hands.Change) -> Case:
    """A case that names the same all the time."""
    names = set(named)
    return Case(
        f"INSERT INTO {table} VALUES ({insert})",
        f"UPDATE {table} SET {update} WHERE {where}",
        f"DELETE FROM {table} WHERE {where}",
        names,
        names,
        names,
    )


ALICE, BOB, ACME = ("PRINCIPAL", "acme", "alice"), ("PRINCIPAL", "acme", "bob"), ("ORGANIZATION", "acme", "")
FLOW = ("RESOURCE", "acme", "aiia/flows/1")
KEY_COLUMNS = "'live', 'ci', true, 'LIST', '[]', '[]', '[]', '{}', NULL, NULL, 1, 1, 1, NULL, '', NULL, '', NULL, '{}'"
CASES = {
    "organization": same(
        "organization", "'new', 'N', '{}', true, 1, 1, 1, NULL", "enabled = false", "id = 'new'",
        ("ORGANIZATION", "new", ""),
    ),
    "keyspace": same("keyspace", "'new', 'yaml', 1, 1, 1", "version = 2", "name = 'new'", ("KEYSPACE", "", "new")),
    "principal": same(
        "principal", "'acme', 'new', 'USER', 'N', 'e', '{}', true, 1, 1, 1, NULL", "enabled = false", "id = 'new'",
        ("PRINCIPAL", "acme", "new"),
    ),
    "group": same(
        "principal_group", "'acme', 'new', 'N', 1, 1, 1, NULL", "deleted_at = 1", "id = 'new'", ACME
    ),
    "membership": Case(
        "INSERT INTO membership VALUES ('acme', 'staff', 'alice')",
        "UPDATE membership SET principal = 'bob'",
        "DELETE FROM membership",
        {ALICE}, {ALICE, BOB}, {BOB},
    ),
    "binding": Case(
        "INSERT INTO binding VALUES ('acme', 'b', 'PRINCIPAL', 'alice', 'aiia', 'r', '[]', NULL, NULL, 1, 1, 1, '')",
        "UPDATE binding SET subject = 'bob'",
        "DELETE FROM binding",
        {ALICE}, {ALICE, BOB}, {BOB},
    ),
    "binding moved to a group": Case(
        "INSERT INTO binding VALUES ('acme', 'b', 'PRINCIPAL', 'alice', 'aiia', 'r', '[]', NULL, NULL, 1, 1, 1, '')",
        "UPDATE binding SET subject = 'staff', subject_kind = 'GROUP'",
        "DELETE FROM binding",
        {ALICE}, {ALICE, ACME}, {ACME},
    ),
    "nesting": Case(
        "INSERT INTO nesting VALUES ('acme', 'staff', 'staff')",
        "UPDATE nesting SET group_id = 'staff'",
        "DELETE FROM nesting",
        {ACME}, {ACME}, {ACME},
    ),
    "relation": Case(
        "INSERT INTO relation VALUES ('acme', 'aiia', 'flows/1', 'PRINCIPAL', 'alice', 'owner', 1)",
        "UPDATE relation SET resource = 'flows/2'",
        "DELETE FROM relation",
        {FLOW}, {FLOW, ("RESOURCE", "acme", "aiia/flows/2")}, {("RESOURCE", "acme", "aiia/flows/2")},
    ),
    "resource": same(
        "resource", "'acme', 'aiia', 'flows/1', '{}', '', 1, 1, 1", "attributes = '[]'", "resource = 'flows/1'", FLOW
    ),
    "key": same(
        "key", f"'acme', 'k', 'aiia', NULL, 'N', '', {KEY_COLUMNS}", "scopes = '[]'", "id = 'k'", ("KEY", "acme", "k")
    ),
    "secret": Case(
        "INSERT INTO secret VALUES "
        "('acme', 'key_1', 's', 9, 'aiia', 'abc', 'hmac-sha256', 1, 'x', 'last', 1, NULL, '')",
        "UPDATE secret SET key = 'key_2', lookup = 'def' WHERE id = 's'",
        "DELETE FROM secret WHERE id = 's'",
        {("KEY", "acme", "key_1"), ("LOOKUP", "acme", "aiia/abc")},
        {
            ("KEY", "acme", "key_1"), ("LOOKUP", "acme", "aiia/abc"),
            ("KEY", "acme", "key_2"), ("LOOKUP", "acme", "aiia/def"),
        },
        {("KEY", "acme", "key_2"), ("LOOKUP", "acme", "aiia/def")},
    ),
}  # fmt: skip


@pytest.fixture
def prompt(store: Store, store_url: str) -> Iterator[Hands]:
    """Somebody at a prompt of a store with two keys."""
    for id in ("key_1", "key_2"):
        add_key(store, id=id)
    with hands.at(store_url) as opened:
        yield opened


def typed(prompt: Hands, sql: str) -> str:
    """Bytes are spelt differently."""
    return sql.replace("'x'", "'\\x00'" if prompt.postgresql else "x'00'")


def check_every_change_is_logged(prompt: Hands, case: Case) -> None:
    """Make each change of *case* and compare the log. The planted bug `no-trigger` must fail here."""
    steps = ((case.insert, case.inserted), (case.update, case.updated), (case.delete, case.deleted))
    for sql, expected in steps:
        before = prompt.revision()
        prompt.run(typed(prompt, sql))
        assert prompt.revision() > before, sql
        assert prompt.changes(before) == expected, sql


@pytest.mark.parametrize("name", CASES)
def test_every_change_by_hand_is_logged(prompt: Hands, name: str) -> None:
    check_every_change_is_logged(prompt, CASES[name])


def test_what_decides_nothing_is_not_logged(prompt: Hands) -> None:
    before = prompt.revision()
    prompt.run("INSERT INTO key_use VALUES ('acme', 'key_1', 1)")
    prompt.run("INSERT INTO secret_use VALUES ('acme', 'key_1', 's', 1)")
    prompt.run("UPDATE tally SET keys = keys")
    prompt.run("UPDATE event SET note = note")
    assert prompt.revision() == before


def test_what_is_rolled_back_leaves_nothing(prompt: Hands) -> None:
    before = prompt.run("SELECT value, nonce FROM revision"), prompt.changes(0)
    prompt.run("BEGIN")
    for case in CASES.values():
        prompt.run(typed(prompt, case.insert))
        prompt.run(typed(prompt, case.update))
        prompt.run(typed(prompt, case.delete))
    if prompt.postgresql:
        prompt.run("SET CONSTRAINTS ALL IMMEDIATE")
    assert prompt.revision() > before[0][0][0]
    prompt.run("ROLLBACK")
    assert (prompt.run("SELECT value, nonce FROM revision"), prompt.changes(0)) == before


def test_a_failed_change_of_the_store_leaves_nothing(store: Store, prompt: Hands) -> None:
    before = prompt.run("SELECT value, nonce FROM revision"), prompt.changes(0)

    def fail(_: Key) -> tuple[Key, Event]:
        raise RuntimeError("planned")

    with pytest.raises(RuntimeError):
        store.update_key("acme", "key_1", fail)
    with pytest.raises(AlreadyExists):
        store.add_organization(organization("acme"), event())
    assert (prompt.run("SELECT value, nonce FROM revision"), prompt.changes(0)) == before


def test_each_revision_has_a_nonce_of_its_own(store: Store, prompt: Hands) -> None:
    for name in ("x1", "x2", "x3"):
        store.add_principal(principal(name), event())
    rows = prompt.run("SELECT revision, nonce FROM changes")
    assert len({nonce for _, nonce in rows}) == len({revision for revision, _ in rows})
    head = prompt.run("SELECT value, nonce FROM revision")[0]
    assert head in rows
    assert prompt.one("SELECT floor FROM revision") == 0


def test_written_tells_the_revision_of_the_change(store: Store, prompt: Hands) -> None:
    written = store.add_principal(principal("x1"), event())
    assert written.revision == store.revision() == prompt.revision()
    named = prompt.run("SELECT kind, organization, name FROM changes WHERE revision = ?", written.revision)
    assert ("PRINCIPAL", "acme", "x1") in named


def test_a_row_pushed_aside_is_logged(prompt: Hands) -> None:
    """SQLite's REPLACE fires no DELETE trigger; PostgreSQL's ON CONFLICT updates."""
    prompt.run(CASES["binding"].insert)
    before = prompt.revision()
    values = "VALUES ('acme', 'b', 'PRINCIPAL', 'bob', 'aiia', 'r', '[]', NULL, NULL, 1, 1, 1, '')"
    if prompt.postgresql:
        prompt.run(f"INSERT INTO binding {values} ON CONFLICT (organization, id) DO UPDATE SET subject = 'bob'")
    else:
        prompt.run(f"REPLACE INTO binding {values}")
    assert prompt.changes(before) == {ALICE, BOB}
    lookup = prompt.one("SELECT lookup FROM secret WHERE key = 'key_1'")
    before = prompt.revision()
    if prompt.postgresql:
        prompt.run("UPDATE secret SET key = 'key_2', id = 'taken' WHERE lookup = ?", lookup)
    else:
        prompt.run("UPDATE OR REPLACE secret SET lookup = ? WHERE key = 'key_2'", lookup)
    assert {("KEY", "acme", "key_1"), ("KEY", "acme", "key_2")} <= prompt.changes(before)


def test_an_update_of_nothing_is_not_logged(prompt: Hands) -> None:
    before = prompt.revision()
    prompt.run("UPDATE key SET name = 'x' WHERE id = 'nobody'")
    assert prompt.revision() == before


@dataclass
class Tail:
    """Reads the log as a replica does, one snapshot after the other, and holds it to its order."""

    prompt: Hands
    head: int = 0
    seen: int = 0

    def poll(self) -> None:
        """Fail if a row has appeared at or below a head that was read before."""
        snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if self.prompt.postgresql else "BEGIN"
        self.prompt.run(snapshot)
        head = self.prompt.revision()
        late = self.prompt.one("SELECT count(*) FROM changes WHERE revision <= ?", self.head)
        self.seen, before = self.prompt.one("SELECT count(*) FROM changes"), self.seen
        beyond = self.prompt.one("SELECT count(*) FROM changes WHERE revision > ?", head)
        self.prompt.run("COMMIT")
        assert late == before, "a change was committed behind a revision that was read already"
        assert beyond == 0
        self.head = head


def check_revisions_are_in_the_order_of_commits(store: Store, url: str) -> None:
    """Eight threads write while the log is read."""
    organizations = [f"org{number}" for number in range(8)]
    for id in organizations:
        store.add_organization(organization(id), event(id))
    revisions: list[int] = []
    failures: list[BaseException] = []

    def write(id: str) -> None:
        try:
            for number in range(12):
                revisions.append(store.add_principal(principal(f"p{number}", id), event(id)).revision)
        except Exception as failure:  # told below  # noqa: BLE001
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(id,)) for id in organizations]
    with hands.at(url) as prompt:
        tail = Tail(prompt)
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            tail.poll()
        tail.poll()
    assert not failures
    assert len(set(revisions)) == len(revisions) == 96
    assert tail.head == max(revisions) == store.revision()


def test_revisions_are_in_the_order_of_commits(store: Store, store_url: str) -> None:
    check_revisions_are_in_the_order_of_commits(store, store_url)


@pytest.fixture
def postgresql_url(tmp_path: object) -> Iterator[str]:
    with databases.fresh("postgresql", tmp_path) as url:  # type: ignore[arg-type]  # no file is made
        yield url


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Store]:
    store = databases.open_store(postgresql_url)
    populate(store)
    add_key(store, id="key_1")
    add_key(store, id="key_2")
    yield store
    store.close()


def test_somebodys_open_transaction_holds_nobody_up(postgresql: Store, postgresql_url: str) -> None:
    """It takes its revision when it commits, behind all that were committed while it sat there."""
    with hands.at(postgresql_url) as prompt:
        prompt.run("BEGIN")
        prompt.run("UPDATE key SET name = 'by hand' WHERE id = 'key_1'")
        written = postgresql.update_key("acme", "key_2", lambda it: (it.update(1, name="x"), event()))
        assert postgresql.revision() == written.revision
        prompt.run("COMMIT")
        assert prompt.changes(written.revision) == {("KEY", "acme", "key_1")}
        assert postgresql.revision() == written.revision + 1


def test_a_transaction_has_one_revision_however_much_it_changes(postgresql: Store, postgresql_url: str) -> None:
    with hands.at(postgresql_url) as prompt:
        before = prompt.revision()
        prompt.run("BEGIN")
        prompt.run("UPDATE key SET name = 'x'")
        prompt.run("SAVEPOINT s")
        prompt.run("UPDATE organization SET enabled = false")
        prompt.run("SET CONSTRAINTS ALL IMMEDIATE")
        prompt.run("ROLLBACK TO s")
        prompt.run("UPDATE key SET name = 'y'")
        prompt.run("UPDATE principal SET enabled = false")
        prompt.run("COMMIT")
        assert prompt.revision() == before + 1
        assert prompt.changes(before) == {("KEY", "acme", "key_1"), ("KEY", "acme", "key_2"), ALICE, BOB}
        prompt.run("UPDATE key SET name = 'z'")
        assert prompt.revision() == before + 2


def test_truncating_a_table_drops_everything(postgresql: Store, postgresql_url: str) -> None:
    with hands.at(postgresql_url) as prompt:
        before = prompt.revision()
        prompt.run("TRUNCATE binding, membership")
        assert ("ALL", "", "") in prompt.changes(before)


def test_triggers_work_whatever_the_search_path(postgresql: Store, postgresql_url: str) -> None:
    with hands.at(postgresql_url) as prompt:
        before = prompt.revision()
        prompt.run("SET search_path = ''")
        prompt.run("UPDATE public.key SET name = 'x' WHERE id = 'key_1'")
        prompt.run("RESET search_path")
        assert prompt.changes(before) == {("KEY", "acme", "key_1")}


SPOILED = {
    "sqlite": {
        "dropped": ["DROP TRIGGER doorward_binding_update"],
        "altered": [
            "DROP TRIGGER doorward_key_delete",
            "CREATE TRIGGER doorward_key_delete AFTER DELETE ON key BEGIN SELECT 1; END",
        ],
        "foreign": ["CREATE TRIGGER other AFTER DELETE ON key BEGIN SELECT 1; END"],
        "lost in a rebuild": ["DROP TABLE membership", "CREATE TABLE membership (organization TEXT)"],
    },
    "postgresql": {
        "dropped": ["DROP TRIGGER doorward_binding ON binding"],
        "disabled": ["ALTER TABLE key DISABLE TRIGGER doorward_key"],
        "replica only": ["ALTER TABLE key ENABLE REPLICA TRIGGER doorward_key"],
        "not deferred": [
            "DROP TRIGGER doorward_key ON key",
            "CREATE TRIGGER doorward_key AFTER INSERT OR UPDATE OR DELETE ON key "
            "FOR EACH ROW EXECUTE FUNCTION doorward_key()",
        ],
        "some columns only": [
            "DROP TRIGGER doorward_key ON key",
            "CREATE CONSTRAINT TRIGGER doorward_key AFTER INSERT OR UPDATE OF name OR DELETE ON key "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION doorward_key()",
        ],
        "under a condition": [
            "DROP TRIGGER doorward_key ON key",
            "CREATE CONSTRAINT TRIGGER doorward_key AFTER UPDATE ON key "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.enabled) EXECUTE FUNCTION doorward_key()",
        ],
        "another body": [
            "CREATE OR REPLACE FUNCTION doorward_key() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        ],
        "foreign": ["CREATE TRIGGER other BEFORE DELETE ON key FOR EACH ROW EXECUTE FUNCTION doorward_truncate()"],
    },
}


@pytest.mark.parametrize(
    ("backend", "how"), [(backend, how) for backend, ways in SPOILED.items() for how in ways], indirect=["backend"]
)
def test_a_store_whose_log_is_not_whole_is_not_served(empty: Store, store_url: str, backend: str, how: str) -> None:
    empty.check()
    with hands.at(store_url) as prompt:
        for statement in SPOILED[backend][how]:
            prompt.run(statement)
    with pytest.raises(StoreNotReady, match=r"change log is not whole.*migrate"):
        empty.check()
    if how != "lost in a rebuild":
        before = empty.revision()
        empty.migrate()
        empty.check()
        with hands.at(store_url) as prompt:
            assert ("ALL", "", "") in prompt.changes(before), "what was missed meanwhile is unknown"


def test_migrating_what_is_whole_changes_nothing(store: Store) -> None:
    before = store.revision()
    store.migrate()
    assert store.revision() == before
