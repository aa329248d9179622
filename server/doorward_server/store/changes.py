"""The change log: triggers that write down, for every change that a decision can see, what a cache must drop.

`revision` is the commit counter (one row: value, nonce, floor = the highest revision that was pruned), `changes` what
each revision touched. It holds for hand-typed SQL too. Kinds and what `organization` and `name` then hold:

    KEY           the key's organization and id
    PRINCIPAL     the principal's organization and id
    ORGANIZATION  the organization's id, and an empty name
    KEYSPACE      empty, and the keyspace's name
    RESOURCE      the resource's organization, and `<keyspace>/<resource>`
    LOOKUP        the secret's organization, and `<keyspace>/<lookup>`
    ALL           empty, empty: everything

PostgreSQL: deferred constraint triggers, so that the counter's row is held from the last statement to the commit only;
one revision per transaction. SQLite has one writer: plain row triggers, one revision per row, the last one is the
commit's. Either way the order of revisions is the order of commits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .dialect import Dialect, Sqlite
from .rows import CHANGES, REVISION
from .transaction import Transaction
from .values import StoreNotReady

OPERATIONS = ("INSERT", "UPDATE", "DELETE")
CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the log, as SQL expressions over `{row}`: the row as it was, or as it is."""

    kind: str
    organization: str
    name: str


_SUBJECT = "{row}.subject_kind = 'PRINCIPAL'"
ENTRIES = {
    "organization": (Entry("'ORGANIZATION'", "{row}.id", "''"),),
    "keyspace": (Entry("'KEYSPACE'", "''", "{row}.name"),),
    "principal": (Entry("'PRINCIPAL'", "{row}.organization", "{row}.id"),),
    "principal_group": (Entry("'ORGANIZATION'", "{row}.organization", "''"),),
    "membership": (Entry("'PRINCIPAL'", "{row}.organization", "{row}.principal"),),
    "binding": (
        Entry(
            f"CASE WHEN {_SUBJECT} THEN 'PRINCIPAL' ELSE 'ORGANIZATION' END",
            "{row}.organization",
            f"CASE WHEN {_SUBJECT} THEN {{row}}.subject ELSE '' END",
        ),
    ),
    "nesting": (Entry("'ORGANIZATION'", "{row}.organization", "''"),),
    "relation": (Entry("'RESOURCE'", "{row}.organization", "{row}.keyspace || '/' || {row}.resource"),),
    "resource": (Entry("'RESOURCE'", "{row}.organization", "{row}.keyspace || '/' || {row}.resource"),),
    "key": (Entry("'KEY'", "{row}.organization", "{row}.id"),),
    "secret": (
        Entry("'KEY'", "{row}.organization", "{row}.key"),
        Entry("'LOOKUP'", "{row}.organization", "{row}.keyspace || '/' || {row}.lookup"),
    ),
}
"""What a change of each table drops. A table that a decision reads and that is not in here is a vulnerability."""

# A row that SQLite's REPLACE pushes aside fires no DELETE trigger. Where its identity is not what the log would name
# anyway, it is looked for beforehand.
_PUSHED_ASIDE = {
    "key": "o.organization = NEW.organization AND o.keyspace = NEW.keyspace AND o.external_id = NEW.external_id",
    "binding": "o.organization = NEW.organization AND o.id = NEW.id",
    "secret": (
        "(o.organization = NEW.organization AND o.key = NEW.key AND o.id = NEW.id)"
        " OR (o.keyspace = NEW.keyspace AND o.lookup = NEW.lookup)"
    ),
}


def install(dialect: Dialect, database: Any) -> None:
    """Make the triggers what they must be and tell everybody to drop everything, unless they are that already."""
    if _problem(dialect, database) is None:
        return
    for statement in _sqlite_remake(database) if isinstance(dialect, Sqlite) else _postgresql_remake(database):
        database.execute_sql(statement)


def check(dialect: Dialect, database: Any) -> None:
    """Raise StoreNotReady unless the triggers are exactly the expected ones."""
    problem = _problem(dialect, database)
    if problem is not None:
        raise StoreNotReady(
            f"The change log is not whole ({problem}), so caches could not be kept fresh. "
            "Run `doorward-server migrate` to make it anew, and find out who changed it."
        )


def prune(tx: Transaction, keep: int) -> int:
    """Remove the oldest rows, about `CHUNK`, that are more than *keep* revisions behind the head; return how many.

    The floor rises with them: whoever has not read them yet sees that it has missed something. The head's stay.
    """
    ((head,),) = tx.rows(REVISION.select(REVISION.value))
    old = CHANGES.select(CHANGES.revision).where(CHANGES.revision <= head - max(keep, 1))
    rows = tx.rows(old.order_by(CHANGES.revision).limit(CHUNK))
    if not rows:
        return 0
    floor = rows[-1][0]
    removed = tx.run(CHANGES.delete().where(CHANGES.revision <= floor))
    # Last, as every commit waits for this row.
    tx.run(REVISION.change({"floor": floor}).where(REVISION.floor < floor))
    return removed


def _problem(dialect: Dialect, database: Any) -> str | None:
    """Return the first difference between the triggers that are there and those that must be."""
    if isinstance(dialect, Sqlite):
        return _difference(_sqlite_expected(), _sqlite_found(database))
    return _difference(_postgresql_expected(_schema(database)), _postgresql_found(database))


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"trigger {name} is missing"
        if name not in expected:
            return f"trigger {name} is not Doorward's"
        if expected[name] != found[name]:
            return f"trigger {name} was altered or disabled"
    return None


# --- SQLite -----------------------------------------------------------------------------------------------------------

_SQLITE_NOTE = """
  UPDATE revision SET value = value + 1, nonce = lower(hex(randomblob(16)));
  INSERT INTO changes (revision, kind, organization, name, nonce)
    SELECT revision.value, c.kind, c.organization, c.name, revision.nonce FROM revision, ({select}) AS c;
"""
_SQLITE_ALL = "SELECT 'ALL' AS kind, '' AS organization, '' AS name"


def _select(table: str, row: str) -> list[str]:
    return [
        f"SELECT {entry.kind} AS kind, {entry.organization} AS organization, {entry.name} AS name".format(row=row)
        for entry in ENTRIES[table]
    ]


def _sqlite_expected() -> dict[str, str]:
    triggers = {}
    for table in ENTRIES:
        for operation, rows in zip(OPERATIONS, (("NEW",), ("OLD", "NEW"), ("OLD",)), strict=True):
            name = f"doorward_{table}_{operation.lower()}"
            # UNION leaves one of two that are the same.
            body = _SQLITE_NOTE.format(select=" UNION ".join(s for row in rows for s in _select(table, row)))
            triggers[name] = f"CREATE TRIGGER {name} AFTER {operation} ON {table} BEGIN{body}END"
    for table, condition in _PUSHED_ASIDE.items():
        for operation in ("INSERT", "UPDATE"):
            name = f"doorward_{table}_replaced_by_{operation.lower()}"
            other = " AND o.rowid <> OLD.rowid" if operation == "UPDATE" else ""
            pushed = f"FROM {table} AS o WHERE ({condition}){other}"
            body = _SQLITE_NOTE.format(select=" UNION ".join(f"{s} {pushed}" for s in _select(table, "o")))
            triggers[name] = (
                f"CREATE TRIGGER {name} BEFORE {operation} ON {table} WHEN EXISTS (SELECT 1 {pushed}) BEGIN{body}END"
            )
    return triggers


def _sqlite_found(database: Any) -> dict[str, str]:
    return dict(database.execute_sql("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall())


def _sqlite_remake(database: Any) -> list[str]:
    drops = [f'DROP TRIGGER "{name}"' for name in _sqlite_found(database)]
    note = _SQLITE_NOTE.format(select=_SQLITE_ALL).strip().removesuffix(";")
    return [*drops, *_sqlite_expected().values(), *note.split(";\n")]


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

CHANNEL = "doorward_changes"
"""Where each commit that makes a revision is hinted at; the hint says nothing, not even what changed."""
# A transaction knows its revision by the writer: its id and start, which even a restored copy cannot repeat.
_NOTE_BODY = """
DECLARE
  me text := pg_current_xact_id()::text || ' ' || extract(epoch FROM transaction_timestamp())::text;
  mine bigint;
  its_nonce text;
BEGIN
  SELECT value, nonce INTO mine, its_nonce FROM {schema}.revision WHERE writer = me;
  IF NOT FOUND THEN
    UPDATE {schema}.revision SET value = value + 1, nonce = gen_random_uuid()::text, writer = me
      RETURNING value, nonce INTO mine, its_nonce;
    PERFORM pg_notify('{channel}', '');
  END IF;
  INSERT INTO {schema}.changes (revision, kind, organization, name, nonce)
    VALUES (mine, a_kind, an_organization, a_name, its_nonce) ON CONFLICT DO NOTHING;
END
"""
_NOTE_ARGUMENTS = "a_kind text, an_organization text, a_name text"
# pg_trigger.tgtype: row = 1, insert = 4, delete = 8, update = 16, truncate = 32
_ROW_TRIGGER, _TRUNCATE_TRIGGER = 1 + 4 + 8 + 16, 32


def _schema(database: Any) -> str:
    return str(database.execute_sql("SELECT quote_ident(current_schema())").fetchone()[0])


def _functions(schema: str) -> dict[str, str]:
    """Return the functions' bodies by name; all but the first are trigger functions."""
    bodies = {"doorward_note": _NOTE_BODY.format(schema=schema, channel=CHANNEL)}
    for table, entries in ENTRIES.items():
        lines = []
        for row, other in (("OLD", "INSERT"), ("NEW", "DELETE")):
            notes = " ".join(
                f"PERFORM {schema}.doorward_note({entry.kind}, {entry.organization}, {entry.name});".format(row=row)
                for entry in entries
            )
            lines.append(f"  IF TG_OP <> '{other}' THEN {notes} END IF;")
        bodies[f"doorward_{table}"] = "\n".join(["", "BEGIN", *lines, "  RETURN NULL;", "END", ""])
    bodies["doorward_truncate"] = f"\nBEGIN\n  PERFORM {schema}.doorward_note('ALL', '', '');\n  RETURN NULL;\nEND\n"
    return bodies


def _postgresql_expected(schema: str) -> dict[str, Any]:
    """Return, by name, all that the catalog must say about our triggers and their functions."""
    functions = _functions(schema)
    expected: dict[str, Any] = {f"function {name}": body for name, body in functions.items()}
    for table in ENTRIES:
        row = (table, _ROW_TRIGGER, True, True, f"doorward_{table}")
        whole = (table, _TRUNCATE_TRIGGER, False, False, "doorward_truncate")
        # enabled as usual or always; without WHEN, columns, arguments
        expected |= {f"doorward_{table}": (*row, True, True), f"doorward_{table}_truncate": (*whole, True, True)}
    return expected


_FOUND_TRIGGERS = """
SELECT t.tgname, c.relname, t.tgtype::int, t.tgdeferrable, t.tginitdeferred, p.proname, t.tgenabled IN ('O', 'A'),
       t.tgqual IS NULL AND t.tgattr::text = '' AND t.tgnargs = 0 AND p.pronamespace = c.relnamespace
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace
"""
_FOUND_FUNCTIONS = """
SELECT proname, prosrc FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'doorward_')
"""


def _postgresql_found(database: Any) -> dict[str, Any]:
    triggers = {name: tuple(rest) for name, *rest in database.execute_sql(_FOUND_TRIGGERS).fetchall()}
    ours = _functions("").keys()
    functions = database.execute_sql(_FOUND_FUNCTIONS).fetchall()
    return triggers | {f"function {name}": body for name, body in functions if name in ours}


def _postgresql_remake(database: Any) -> list[str]:
    schema = _schema(database)
    found = _postgresql_found(database)
    statements = [f'DROP TRIGGER "{name}" ON "{it[0]}"' for name, it in found.items() if isinstance(it, tuple)]
    for name, body in _functions(schema).items():
        arguments, returns = (_NOTE_ARGUMENTS, "void") if name == "doorward_note" else ("", "trigger")
        statements.append(
            f"CREATE OR REPLACE FUNCTION {schema}.{name}({arguments}) RETURNS {returns} "
            f"LANGUAGE plpgsql AS $body${body}$body$"
        )
    for table in ENTRIES:
        statements += [
            f"CREATE CONSTRAINT TRIGGER doorward_{table} AFTER INSERT OR UPDATE OR DELETE ON {schema}.{table} "
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.doorward_{table}()",
            f"CREATE TRIGGER doorward_{table}_truncate AFTER TRUNCATE ON {schema}.{table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {schema}.doorward_truncate()",
        ]
    return [*statements, f"SELECT {schema}.doorward_note('ALL', '', '')"]
