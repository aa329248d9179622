"""What is known about resources: relations, attributes, parents. Groups within groups; bindings under a condition."""

from typing import Any

from peewee import SqliteDatabase

# A relation is found by its resource and subject when somebody is asked about, and by its subject when that ends.
STATEMENTS = """
ALTER TABLE binding ADD COLUMN condition {text} NOT NULL DEFAULT '';
CREATE TABLE nesting (
    organization {text} NOT NULL,
    group_id {text} NOT NULL,
    member {text} NOT NULL,
    PRIMARY KEY (organization, group_id, member),
    FOREIGN KEY (organization, group_id) REFERENCES principal_group (organization, id),
    FOREIGN KEY (organization, member) REFERENCES principal_group (organization, id)
) {clustered};
CREATE INDEX nesting_member ON nesting (organization, member, group_id);
CREATE TABLE relation (
    organization {text} NOT NULL REFERENCES organization (id),
    keyspace {text} NOT NULL REFERENCES keyspace (name),
    resource {text} NOT NULL,
    subject_kind {text} NOT NULL CHECK (subject_kind IN ('PRINCIPAL', 'GROUP')),
    subject {text} NOT NULL,
    relation {text} NOT NULL,
    created_at {integer} NOT NULL,
    PRIMARY KEY (organization, keyspace, resource, subject_kind, subject, relation)
) {clustered};
CREATE INDEX relation_subject ON relation (organization, subject_kind, subject, keyspace, resource, relation);
CREATE TABLE resource (
    organization {text} NOT NULL REFERENCES organization (id),
    keyspace {text} NOT NULL REFERENCES keyspace (name),
    resource {text} NOT NULL,
    attributes {text} NOT NULL,
    parent {text} NOT NULL,
    created_at {integer} NOT NULL,
    updated_at {integer} NOT NULL,
    version {integer} NOT NULL,
    PRIMARY KEY (organization, keyspace, resource)
) {clustered};
CREATE INDEX resource_parent ON resource (organization, keyspace, parent, resource) WHERE parent <> '';
ALTER TABLE tally ADD COLUMN relations {integer} NOT NULL DEFAULT 0;
ALTER TABLE tally ADD COLUMN resources {integer} NOT NULL DEFAULT 0
"""

SQLITE = {"text": "TEXT", "integer": "INTEGER", "clustered": "STRICT, WITHOUT ROWID"}
POSTGRESQL = {"text": 'TEXT COLLATE "C"', "integer": "BIGINT", "clustered": ""}


def up(migrator: Any, db: Any) -> None:
    """Add columns, tables and indexes; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in STATEMENTS.format(**words).split(";\n"):
        db.execute_sql(statement)
