"""Alert rules that organizations have for themselves. No revision: no decision reads them."""

from typing import Any

from peewee import SqliteDatabase

# A rule without a text, and so without a kind, silences the keyspace's rule of its name. The one stamp is another
# after every change, and comes by chance: one that was restored and changed since is not taken for what it was.
STATEMENTS = """
CREATE TABLE alert_rule (
    organization {text} NOT NULL,
    keyspace {text} NOT NULL,
    name {text} NOT NULL,
    kind {text} NOT NULL,
    text {text} NOT NULL,
    updated_at {integer} NOT NULL,
    PRIMARY KEY (organization, keyspace, name)
) {clustered};
CREATE TABLE alert_rule_stamp (
    id {integer} NOT NULL PRIMARY KEY CHECK (id = 1),
    value {text} NOT NULL
) {clustered};
INSERT INTO alert_rule_stamp (id, value) VALUES (1, '')
"""

SQLITE = {"text": "TEXT", "integer": "INTEGER", "clustered": "STRICT, WITHOUT ROWID"}
POSTGRESQL = {"text": 'TEXT COLLATE "C"', "integer": "BIGINT", "clustered": ""}


def up(migrator: Any, db: Any) -> None:
    """Add tables; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in STATEMENTS.format(**words).split(";\n"):
        db.execute_sql(statement)
