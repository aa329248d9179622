"""What was charged to limits; and limits of single keys. The first makes no revision: no record has it."""

from typing import Any

from peewee import SqliteDatabase

# A cell is told by its span, so that a window may change its length and the count goes on. Nothing is referred to: the
# count of a key that is gone ends with its windows.
STATEMENTS = """
CREATE TABLE limit_cell (
    organization {text} NOT NULL,
    keyspace {text} NOT NULL,
    subject {text} NOT NULL,
    name {text} NOT NULL,
    starts {integer} NOT NULL,
    ends {integer} NOT NULL,
    units {integer} NOT NULL,
    PRIMARY KEY (organization, keyspace, subject, name, ends, starts)
) {clustered};
CREATE INDEX limit_cell_age ON limit_cell (ends);
ALTER TABLE key ADD COLUMN limits {text} NOT NULL DEFAULT '{{}}'
"""

SQLITE = {"text": "TEXT", "integer": "INTEGER", "clustered": "STRICT, WITHOUT ROWID"}
POSTGRESQL = {"text": 'TEXT COLLATE "C"', "integer": "BIGINT", "clustered": ""}


def up(migrator: Any, db: Any) -> None:
    """Add a table, an index and a column; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in STATEMENTS.format(**words).split(";\n"):
        db.execute_sql(statement)
