"""The first schema.

One text for both databases; the words in braces are what they spell differently. Texts compare byte by byte on both
(SQLite's BINARY is its default), instants are whole microseconds, lists and mappings are canonical JSON.
"""

from typing import Any

from peewee import SqliteDatabase

# Foreign keys hold the parts of one tenant together. What changes without changing a decision has no trigger: replay,
# tally, event, pepper, key_use, secret_use. One row of tally per organization is locked first by every change in it.
TABLES = """
CREATE TABLE revision (
    id {integer} NOT NULL PRIMARY KEY CHECK (id = 1),
    value {integer} NOT NULL,
    nonce {text} NOT NULL,
    floor {integer} NOT NULL,
    writer {text} NOT NULL
) {strict};
CREATE TABLE changes (
    revision {integer} NOT NULL,
    kind {text} NOT NULL,
    organization {text} NOT NULL,
    name {text} NOT NULL,
    nonce {text} NOT NULL,
    PRIMARY KEY (revision, kind, organization, name)
) {clustered};
CREATE TABLE organization (
    id {text} NOT NULL PRIMARY KEY,
    display_name {text} NOT NULL,
    attributes {text} NOT NULL,
    enabled {boolean} NOT NULL,
    created_at {integer} NOT NULL,
    updated_at {integer} NOT NULL,
    version {integer} NOT NULL,
    deleted_at {integer}
) {strict};
CREATE TABLE keyspace (
    name {text} NOT NULL PRIMARY KEY,
    source {text} NOT NULL,
    created_at {integer} NOT NULL,
    updated_at {integer} NOT NULL,
    version {integer} NOT NULL
) {strict};
CREATE TABLE principal (
    organization {text} NOT NULL REFERENCES organization (id),
    id {text} NOT NULL,
    kind {text} NOT NULL,
    display_name {text} NOT NULL,
    email {text} NOT NULL,
    attributes {text} NOT NULL,
    enabled {boolean} NOT NULL,
    created_at {integer} NOT NULL,
    updated_at {integer} NOT NULL,
    version {integer} NOT NULL,
    deleted_at {integer},
    PRIMARY KEY (organization, id)
) {strict};
CREATE TABLE principal_group (
    organization {text} NOT NULL REFERENCES organization (id),
    id {text} NOT NULL,
    display_name {text} NOT NULL,
    created_at {integer} NOT NULL,
    updated_at {integer} NOT NULL,
    version {integer} NOT NULL,
    deleted_at {integer},
    PRIMARY KEY (organization, id)
) {strict};
CREATE TABLE membership (
    organization {text} NOT NULL,
    group_id {text} NOT NULL,
    principal {text} NOT NULL,
    PRIMARY KEY (organization, group_id, principal),
    FOREIGN KEY (organization, group_id) REFERENCES principal_group (organization, id),
    FOREIGN KEY (organization, principal) REFERENCES principal (organization, id)
) {clustered};
CREATE INDEX membership_principal ON membership (organization, principal, group_id);
CREATE TABLE binding (
    organization {text} NOT NULL REFERENCES organization (id),
    id {text} NOT NULL,
    subject_kind {text} NOT NULL CHECK (subject_kind IN ('PRINCIPAL', 'GROUP')),
    subject {text} NOT NULL,
    keyspace {text} NOT NULL REFERENCES keyspace (name),
    role {text} NOT NULL,
    resources {text} NOT NULL,
    not_before {integer},
    expires_at {integer},
    created_at {integer} NOT NULL,
    updated_at {integer} NOT NULL,
    version {integer} NOT NULL,
    PRIMARY KEY (organization, id)
) {strict};
CREATE INDEX binding_subject ON binding (organization, subject_kind, subject, keyspace);
CREATE TABLE key (
    organization {text} NOT NULL REFERENCES organization (id),
    id {text} NOT NULL,
    keyspace {text} NOT NULL REFERENCES keyspace (name),
    owner {text},
    name {text} NOT NULL,
    description {text} NOT NULL,
    environment {text} NOT NULL,
    type {text} NOT NULL,
    enabled {boolean} NOT NULL,
    ceiling {text} NOT NULL,
    scopes {text} NOT NULL,
    bindings {text} NOT NULL,
    allowed_cidrs {text} NOT NULL,
    metadata {text} NOT NULL,
    not_before {integer},
    expires_at {integer},
    created_at {integer} NOT NULL,
    updated_at {integer} NOT NULL,
    version {integer} NOT NULL,
    revoked_at {integer},
    revoke_reason {text} NOT NULL,
    deleted_at {integer},
    PRIMARY KEY (organization, id),
    FOREIGN KEY (organization, owner) REFERENCES principal (organization, id)
) {strict};
CREATE INDEX key_newest ON key (organization, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX key_owner ON key (organization, owner, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX key_live ON key (organization, owner, id) WHERE revoked_at IS NULL AND deleted_at IS NULL;
CREATE TABLE secret (
    organization {text} NOT NULL,
    key {text} NOT NULL,
    id {text} NOT NULL,
    ordinal {integer} NOT NULL,
    keyspace {text} NOT NULL,
    lookup {text} NOT NULL,
    verifier {text} NOT NULL,
    pepper {integer} NOT NULL,
    digest {blob} NOT NULL,
    last4 {text} NOT NULL,
    created_at {integer} NOT NULL,
    expires_at {integer},
    PRIMARY KEY (organization, key, id),
    UNIQUE (keyspace, lookup),
    FOREIGN KEY (organization, key) REFERENCES key (organization, id)
) {strict};
CREATE TABLE key_use (
    organization {text} NOT NULL,
    key {text} NOT NULL,
    at {integer} NOT NULL,
    PRIMARY KEY (organization, key)
) {clustered};
CREATE TABLE secret_use (
    organization {text} NOT NULL,
    key {text} NOT NULL,
    secret {text} NOT NULL,
    at {integer} NOT NULL,
    PRIMARY KEY (organization, key, secret)
) {clustered};
CREATE TABLE replay (
    caller {text} NOT NULL,
    method {text} NOT NULL,
    request_id {text} NOT NULL,
    digest {blob} NOT NULL,
    at {integer} NOT NULL,
    organization {text} NOT NULL,
    key {text} NOT NULL,
    PRIMARY KEY (caller, method, request_id)
) {clustered};
CREATE INDEX replay_age ON replay (caller, at);
CREATE TABLE tally (
    organization {text} NOT NULL PRIMARY KEY,
    keys {integer} NOT NULL,
    bindings {integer} NOT NULL,
    events {integer} NOT NULL,
    head {blob} NOT NULL
) {clustered};
CREATE TABLE event (
    organization {text} NOT NULL,
    sequence {integer} NOT NULL,
    at {integer} NOT NULL,
    actor_organization {text} NOT NULL,
    actor_key {text} NOT NULL,
    actor_principal {text} NOT NULL,
    acting_for {text} NOT NULL,
    action {text} NOT NULL,
    target_type {text} NOT NULL,
    target {text} NOT NULL,
    before {text},
    after {text},
    note {text} NOT NULL,
    pepper {integer} NOT NULL,
    hash {blob} NOT NULL,
    PRIMARY KEY (organization, sequence)
) {strict};
CREATE TABLE pepper (
    version {integer} NOT NULL PRIMARY KEY,
    canary {blob} NOT NULL
) {strict};
INSERT INTO revision (id, value, nonce, floor, writer) VALUES (1, 0, {nonce}, 0, '')
"""

SQLITE = {
    "text": "TEXT",
    "integer": "INTEGER",
    "boolean": "INTEGER",
    "blob": "BLOB",
    "strict": "STRICT",
    "clustered": "STRICT, WITHOUT ROWID",
    "nonce": "lower(hex(randomblob(16)))",
}
POSTGRESQL = {
    "text": 'TEXT COLLATE "C"',
    "integer": "BIGINT",
    "boolean": "BOOLEAN",
    "blob": "BYTEA",
    "strict": "",
    "clustered": "",
    "nonce": "gen_random_uuid()::text",
}


def up(migrator: Any, db: Any) -> None:
    """Make all tables."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    for statement in TABLES.format(**words).split(";\n"):
        db.execute_sql(statement)
