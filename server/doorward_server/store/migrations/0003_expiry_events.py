"""Which expiries have their audit event: every key that passes one gets it once."""

from typing import Any

from peewee import SqliteDatabase

# expired has no trigger: no decision reads it.
STATEMENTS = """
CREATE TABLE expired (
    organization {text} NOT NULL,
    key {text} NOT NULL,
    expires_at {integer} NOT NULL,
    PRIMARY KEY (organization, key, expires_at),
    FOREIGN KEY (organization, key) REFERENCES key (organization, id)
) {clustered};
CREATE INDEX key_expiry ON key (expires_at) WHERE expires_at IS NOT NULL
"""

SQLITE = {"text": "TEXT", "integer": "INTEGER", "clustered": "STRICT, WITHOUT ROWID"}
POSTGRESQL = {"text": 'TEXT COLLATE "C"', "integer": "BIGINT", "clustered": ""}


def up(migrator: Any, db: Any) -> None:
    """Add a table and an index; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in STATEMENTS.format(**words).split(";\n"):
        db.execute_sql(statement)
