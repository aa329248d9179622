"""Keys of every format: where they were imported from, their API version, their sealed texts; peppers that rotate."""

from typing import Any

from peewee import SqliteDatabase

# sealed has no trigger: no decision reads it. replica says which processes live and which peppers each of them has.
STATEMENTS = """
ALTER TABLE key ADD COLUMN api_version {text} NOT NULL DEFAULT '';
ALTER TABLE key ADD COLUMN external_id {text};
CREATE UNIQUE INDEX key_external ON key (organization, keyspace, external_id);
ALTER TABLE secret ADD COLUMN inner_peppers {text} NOT NULL DEFAULT '';
CREATE INDEX secret_pepper ON secret (pepper, organization, key, id);
CREATE TABLE sealed (
    organization {text} NOT NULL,
    key {text} NOT NULL,
    secret {text} NOT NULL,
    ciphertext {blob} NOT NULL,
    version {integer} NOT NULL,
    PRIMARY KEY (organization, key, secret),
    FOREIGN KEY (organization, key, secret) REFERENCES secret (organization, key, id)
) {clustered};
ALTER TABLE tally ADD COLUMN metadata {integer} NOT NULL DEFAULT 0;
ALTER TABLE pepper ADD COLUMN state {text} NOT NULL DEFAULT 'ACTIVE';
UPDATE pepper SET state = 'REPLACED' WHERE version < (SELECT max(version) FROM pepper);
CREATE UNIQUE INDEX pepper_active ON pepper (state) WHERE state = 'ACTIVE';
CREATE TABLE replica (
    id {text} NOT NULL PRIMARY KEY,
    started_at {integer} NOT NULL,
    seen_at {integer} NOT NULL,
    peppers {text} NOT NULL
) {clustered}
"""

SQLITE = {
    "text": "TEXT",
    "integer": "INTEGER",
    "blob": "BLOB",
    "clustered": "STRICT, WITHOUT ROWID",
}
POSTGRESQL = {
    "text": 'TEXT COLLATE "C"',
    "integer": "BIGINT",
    "blob": "BYTEA",
    "clustered": "",
}


def up(migrator: Any, db: Any) -> None:
    """Add columns and tables; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in STATEMENTS.format(**words).split(";\n"):
        db.execute_sql(statement)
