"""Watching the SQL of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peewee import QueryEvent

from doorward_server.store import Store


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """The statements that *store* sends meanwhile, in order."""
    statements: list[str] = []

    def note(event: QueryEvent) -> None:
        statements.append(event.sql)

    hooks = store._dialect.database.query_hooks
    hooks.append(note)
    try:
        yield statements
    finally:
        hooks.remove(note)
