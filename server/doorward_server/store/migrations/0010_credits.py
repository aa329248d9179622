"""Balances of credits. They make no revision: no record has them."""

from typing import Any

from peewee import SqliteDatabase

# Nothing is referred to: a balance outlives its key. The refill is the one that the file said when the account was last
# charged or changed, and `own` an amount of the account's own.
STATEMENTS = """
CREATE TABLE credit_account (
    organization {text} NOT NULL,
    keyspace {text} NOT NULL,
    whom {text} NOT NULL,
    balance {integer} NOT NULL CHECK (balance >= 0),
    since {integer} NOT NULL,
    amount {integer},
    period {integer},
    reset {boolean},
    most {integer},
    own {integer},
    PRIMARY KEY (organization, keyspace, whom)
) {clustered}
"""

SQLITE = {"text": "TEXT", "integer": "INTEGER", "boolean": "INTEGER", "clustered": "STRICT, WITHOUT ROWID"}
POSTGRESQL = {"text": 'TEXT COLLATE "C"', "integer": "BIGINT", "boolean": "BOOLEAN", "clustered": ""}


def up(migrator: Any, db: Any) -> None:
    """Add a table; nothing that exists changes."""
    words = SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL
    db.execute_sql(STATEMENTS.format(**words))
