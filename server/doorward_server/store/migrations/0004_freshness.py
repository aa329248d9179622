"""What replicas must know of each other to keep their caches fresh; settings that all of them share."""

from typing import Any

from peewee import SqliteDatabase

# None has a trigger: no decision reads them. A replica of an older Doorward keeps no cache and never acknowledges: it
# counts as one with the default, which costs waits and harms nothing.
STATEMENTS = """
ALTER TABLE replica ADD COLUMN max_staleness {integer} NOT NULL DEFAULT 1000000;
ALTER TABLE replica ADD COLUMN serve_stale_for {integer} NOT NULL DEFAULT 0;
ALTER TABLE replica ADD COLUMN condemned {boolean} NOT NULL DEFAULT {false};
CREATE TABLE setting (
    name {text} NOT NULL PRIMARY KEY,
    value {text} NOT NULL
) {clustered}
"""
# Unlogged: a crash empties it, and then waits last as long as they may. SQLite's are files beside the store.
POSTGRESQL_ONLY = """
CREATE UNLOGGED TABLE acknowledgement (
    replica {text} NOT NULL PRIMARY KEY,
    revision {integer} NOT NULL,
    seen {integer} NOT NULL,
    nonce {text} NOT NULL
) WITH (fillfactor = 50)
"""

SQLITE = {
    "text": "TEXT",
    "integer": "INTEGER",
    "boolean": "INTEGER",
    "false": "0",
    "clustered": "STRICT, WITHOUT ROWID",
}
POSTGRESQL = {
    "text": 'TEXT COLLATE "C"',
    "integer": "BIGINT",
    "boolean": "BOOLEAN",
    "false": "false",
    "clustered": "",
}


def up(migrator: Any, db: Any) -> None:
    """Add columns and tables; nothing that exists changes."""
    sqlite = isinstance(db, SqliteDatabase)
    words = SQLITE if sqlite else POSTGRESQL
    for text in [STATEMENTS] if sqlite else [STATEMENTS, POSTGRESQL_ONLY]:
        for statement in text.format(**words).split(";\n"):
            db.execute_sql(statement)
