"""Somebody at a database prompt: a plain connection that knows nothing of Doorward.

On SQLite it goes through the library that the store uses: two of them in one process break each other's file locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from peewee import sqlite3  # type: ignore[attr-defined]  # chosen there

Change = tuple[str, str, str]


class Hands:
    """A connection in autocommit mode; `run("BEGIN")` begins a transaction that sits there until told otherwise."""

    def __init__(self, connection: Any, postgresql: bool) -> None:
        self._connection = connection
        self.postgresql = postgresql

    def run(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one statement, with `?` for each parameter, and return its rows."""
        cursor = self._connection.cursor()
        cursor.execute(sql.replace("?", "%s") if self.postgresql else sql, params or ())
        return list(cursor.fetchall()) if cursor.description else []

    def one(self, sql: str, *params: object) -> Any:
        """Return the only value of the only row."""
        ((value,),) = self.run(sql, *params)
        return value

    def revision(self) -> int:
        """Return the counter."""
        return int(self.one("SELECT value FROM revision"))

    def changes(self, after: int) -> set[Change]:
        """Return what the log names behind a revision."""
        rows = self.run("SELECT kind, organization, name FROM changes WHERE revision > ?", after)
        return {(kind, organization, name) for kind, organization, name in rows}


@contextmanager
def at(url: str) -> Iterator[Hands]:
    """Open the database of a store by hand."""
    if url.startswith("postgresql://"):
        with psycopg.connect(url, autocommit=True) as connection:
            yield Hands(connection, True)
    else:
        with closing(
            sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
        ) as file:
            yield Hands(file, False)
