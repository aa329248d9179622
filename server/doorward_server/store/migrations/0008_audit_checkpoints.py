"""Where a chain of audit events begins once old ones were pruned, and how to find what happened to one thing."""

from typing import Any

from peewee import SqliteDatabase

# checkpoint has no trigger: no decision reads it.
STATEMENTS = """
CREATE TABLE checkpoint (
    organization {text} NOT NULL PRIMARY KEY,
    sequence {integer} NOT NULL,
    hash {blob} NOT NULL,
    at {integer} NOT NULL,
    pepper {integer} NOT NULL,
    seal {blob} NOT NULL
) {clustered};
CREATE INDEX event_target ON event (organization, target, sequence)
"""

SQLITE = {"text": "TEXT", "integer": "INTEGER", "blob": "BLOB", "clustered": "STRICT, WITHOUT ROWID"}
POSTGRESQL = {"text": 'TEXT COLLATE "C"', "integer": "BIGINT", "blob": "BYTEA", "clustered": ""}


def up(migrator: Any, db: Any) -> None:
    """Add a table and an index; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in STATEMENTS.format(**words).split(";\n"):
        db.execute_sql(statement)
