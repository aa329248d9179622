"""Usage by the hour, and the decision log. No revision: no decision reads them."""

from typing import Any

from peewee import SqliteDatabase

# The identity begins with what most reports are about, a key and a span of hours; the others have indexes. Keys and
# owners are not referred to: usage outlives them. `usage_flush` makes a flush that is sent again count once.
STATEMENTS = """
CREATE TABLE usage_cell (
    organization {text} NOT NULL,
    key {text} NOT NULL,
    hour {integer} NOT NULL,
    keyspace {text} NOT NULL,
    owner {text} NOT NULL,
    action {text} NOT NULL,
    resource {text} NOT NULL,
    reason {text} NOT NULL,
    count {integer} NOT NULL,
    PRIMARY KEY (organization, key, hour, keyspace, owner, action, resource, reason)
) {clustered};
CREATE INDEX usage_cell_owner ON usage_cell (organization, owner, hour) WHERE owner <> '';
CREATE INDEX usage_cell_keyspace ON usage_cell (keyspace, hour, organization);
CREATE TABLE usage_address (
    organization {text} NOT NULL,
    key {text} NOT NULL,
    hour {integer} NOT NULL,
    keyspace {text} NOT NULL,
    owner {text} NOT NULL,
    address {text} NOT NULL,
    reason {text} NOT NULL,
    count {integer} NOT NULL,
    PRIMARY KEY (organization, key, hour, keyspace, owner, address, reason)
) {clustered};
CREATE INDEX usage_address_owner ON usage_address (organization, owner, hour) WHERE owner <> '';
CREATE INDEX usage_address_keyspace ON usage_address (keyspace, hour, organization);
CREATE TABLE usage_stranger (
    organization {text} NOT NULL,
    keyspace {text} NOT NULL,
    hour {integer} NOT NULL,
    caller {text} NOT NULL,
    prefix {text} NOT NULL,
    address {text} NOT NULL,
    reason {text} NOT NULL,
    count {integer} NOT NULL,
    PRIMARY KEY (organization, keyspace, hour, caller, prefix, address, reason)
) {clustered};
CREATE INDEX usage_stranger_keyspace ON usage_stranger (keyspace, hour);
CREATE TABLE usage_flush (
    source {text} NOT NULL PRIMARY KEY,
    sequence {integer} NOT NULL,
    at {integer} NOT NULL
) {clustered};
CREATE TABLE decision (
    organization {text} NOT NULL,
    at {integer} NOT NULL,
    id {text} NOT NULL,
    keyspace {text} NOT NULL,
    key {text} NOT NULL,
    owner {text} NOT NULL,
    action {text} NOT NULL,
    resource {text} NOT NULL,
    reason {text} NOT NULL,
    client_ip {text} NOT NULL,
    caller {text} NOT NULL,
    PRIMARY KEY (organization, at, id)
) {clustered};
CREATE INDEX decision_key ON decision (organization, key, at, id);
CREATE INDEX decision_owner ON decision (organization, owner, at, id) WHERE owner <> '';
CREATE INDEX decision_keyspace ON decision (keyspace, at)
"""

SQLITE = {"text": "TEXT", "integer": "INTEGER", "clustered": "STRICT, WITHOUT ROWID"}
POSTGRESQL = {"text": 'TEXT COLLATE "C"', "integer": "BIGINT", "clustered": ""}


def up(migrator: Any, db: Any) -> None:
    """Add tables and indexes; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in STATEMENTS.format(**words).split(";\n"):
        db.execute_sql(statement)
