"""Planted bugs: each spoils the store in one way that a test must notice.

`DOORWARD_PLANT=<name> pytest tests/store` plants one for the whole run, subprocesses included; `test_plants.py` plants
each in turn and holds the test that is named here to its failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from doorward_server.core.model import Event
from doorward_server.store import changes, dialect, nesting, transaction

Spoil = Callable[[pytest.MonkeyPatch], None]


def event_outside(patch: pytest.MonkeyPatch) -> None:
    """The audit event is written after the commit, in a transaction of its own.

    Caught by test_kill.test_a_killed_process_leaves_no_half_change.
    """
    write, append = transaction.Transactions.write, transaction.Transaction.append
    late: list[Event] = []

    def write_then_append(self: transaction.Transactions, work: Callable[[transaction.Transaction], Any]) -> Any:
        written = write(self, work)
        while late:
            write(self, lambda tx: append(tx, late.pop(0)))
        return written

    patch.setattr(transaction.Transaction, "append", lambda _, event: late.append(event))
    patch.setattr(transaction.Transactions, "write", write_then_append)


def no_trigger(patch: pytest.MonkeyPatch) -> None:
    """The change log forgets one table, and so does the start-up check.

    Caught by test_changes.test_every_change_by_hand_is_logged.
    """
    patch.setattr(changes, "ENTRIES", {table: it for table, it in changes.ENTRIES.items() if table != "membership"})


def no_lock(patch: pytest.MonkeyPatch) -> None:
    """A change reads and writes without a lock, and without the transaction that would do on SQLite.

    Caught by test_concurrency.test_no_update_is_lost.
    """

    def commit(self: dialect.Dialect) -> int:
        return int(self.database.execute_sql("SELECT value FROM revision").fetchone()[0])

    for database in (dialect.Sqlite, dialect.Postgresql):
        patch.setattr(database, "begin_write", "SELECT 1")
        patch.setattr(database, "locked", lambda _, query: query)
        patch.setattr(database, "writer", dialect.Postgresql.writer)
        patch.setattr(database, "commit", commit)


def forgotten_facts(patch: pytest.MonkeyPatch) -> None:
    """The change log forgets relations, and so does the start-up check.

    Caught by test_changes.test_every_change_by_hand_is_logged.
    """
    patch.setattr(changes, "ENTRIES", {table: it for table, it in changes.ENTRIES.items() if table != "relation"})


def no_snapshot(patch: pytest.MonkeyPatch) -> None:
    """Reads of several statements are not of one moment.

    Caught by test_facts.test_record_and_facts_are_of_one_moment.
    """
    patch.setattr(transaction.Transactions, "read", transaction.Transactions.look)


def endless_groups(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether a group would be in itself.

    Caught by test_nesting.test_a_circle_is_refused_and_its_way_is_told.
    """
    patch.setattr(nesting, "_levels", lambda *_, **__: iter(()))


PLANTS: dict[str, Spoil] = {
    "event-outside": event_outside,
    "no-trigger": no_trigger,
    "no-lock": no_lock,
    "forgotten-facts": forgotten_facts,
    "no-snapshot": no_snapshot,
    "endless-groups": endless_groups,
}


def plant_the_one_asked_for() -> None:
    """Plant what the environment names, for good; other tests have bugs of their own."""
    if spoil := PLANTS.get(os.environ.get("DOORWARD_PLANT", "")):
        spoil(pytest.MonkeyPatch())
