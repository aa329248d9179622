"""Alerts, what they are counted from, and the webhooks that tell of them. No revision: no decision reads any of it."""

from typing import Any

from peewee import SqliteDatabase

# An alert's id follows from its topic and time, so two replicas cannot keep the same one twice. `schedule` makes
# periodic work happen once over all replicas. A delivery's sequence counts for its webhook; `claimed_until` is the end
# of a replica's right to deliver for a webhook.
STATEMENTS = """
CREATE TABLE alert (
    organization {text} NOT NULL,
    id {text} NOT NULL,
    sequence {integer} NOT NULL,
    keyspace {text} NOT NULL,
    rule {text} NOT NULL,
    kind {text} NOT NULL,
    subject {text} NOT NULL,
    key {text} NOT NULL,
    at {integer} NOT NULL,
    message {text} NOT NULL,
    topic {text} NOT NULL,
    quiet {integer} NOT NULL,
    threshold {integer},
    expected {integer},
    observed {integer},
    acknowledged_at {integer},
    acknowledged_by {text} NOT NULL DEFAULT '',
    note {text} NOT NULL DEFAULT '',
    PRIMARY KEY (organization, id)
) {clustered};
CREATE UNIQUE INDEX alert_sequence ON alert (organization, sequence);
CREATE INDEX alert_topic ON alert (organization, topic, at);
CREATE INDEX alert_subject ON alert (organization, subject, keyspace, rule, at);
CREATE INDEX alert_at ON alert (at);
CREATE TABLE failure_cell (
    organization {text} NOT NULL,
    keyspace {text} NOT NULL,
    rule {text} NOT NULL,
    subject {text} NOT NULL,
    cell {integer} NOT NULL,
    count {integer} NOT NULL,
    ends_at {integer} NOT NULL,
    PRIMARY KEY (organization, keyspace, rule, subject, cell)
) {clustered};
CREATE INDEX failure_cell_end ON failure_cell (ends_at);
CREATE TABLE schedule (
    name {text} NOT NULL PRIMARY KEY,
    next_at {integer} NOT NULL
) {clustered};
CREATE TABLE webhook (
    organization {text} NOT NULL,
    id {text} NOT NULL,
    url {text} NOT NULL,
    description {text} NOT NULL,
    events {text} NOT NULL,
    enabled {boolean} NOT NULL,
    disabled_why {text} NOT NULL,
    secret {blob} NOT NULL,
    secret_version {integer} NOT NULL,
    old_secret {blob},
    old_secret_version {integer},
    old_secret_until {integer},
    created_at {integer} NOT NULL,
    updated_at {integer} NOT NULL,
    version {integer} NOT NULL,
    alerts_taken {integer} NOT NULL,
    events_taken {integer} NOT NULL,
    taken {integer} NOT NULL,
    claimed_by {text} NOT NULL,
    claimed_until {integer} NOT NULL,
    PRIMARY KEY (organization, id)
) {clustered};
CREATE TABLE delivery (
    organization {text} NOT NULL,
    webhook {text} NOT NULL,
    sequence {integer} NOT NULL,
    id {text} NOT NULL,
    type {text} NOT NULL,
    subject {text} NOT NULL,
    body {text} NOT NULL,
    state {text} NOT NULL CHECK (state IN ('PENDING', 'DELIVERED', 'DEAD')),
    created_at {integer} NOT NULL,
    attempts {integer} NOT NULL,
    next_at {integer} NOT NULL,
    last_at {integer},
    status {integer} NOT NULL,
    problem {text} NOT NULL,
    PRIMARY KEY (organization, webhook, sequence),
    FOREIGN KEY (organization, webhook) REFERENCES webhook (organization, id)
) {clustered};
CREATE UNIQUE INDEX delivery_id ON delivery (organization, webhook, id);
CREATE INDEX delivery_due ON delivery (organization, webhook, subject, sequence) WHERE state = 'PENDING';
CREATE INDEX delivery_state ON delivery (organization, webhook, state, sequence);
CREATE INDEX delivery_old ON delivery (created_at) WHERE state <> 'PENDING'
"""

SQLITE = {
    "text": "TEXT",
    "integer": "INTEGER",
    "boolean": "INTEGER",
    "blob": "BLOB",
    "clustered": "STRICT, WITHOUT ROWID",
}
POSTGRESQL = {
    "text": 'TEXT COLLATE "C"',
    "integer": "BIGINT",
    "boolean": "BOOLEAN",
    "blob": "BYTEA",
    "clustered": "",
}


def up(migrator: Any, db: Any) -> None:
    """Add tables and indexes; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in STATEMENTS.format(**words).split(";\n"):
        db.execute_sql(statement)
