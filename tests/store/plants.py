"""Planted bugs: each spoils the store in one way that a test must notice.

`DOORWARD_PLANT=<name> pytest tests/store` plants one for the whole run, subprocesses included; `test_plants.py` plants
each in turn and holds the test that is named here to its failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from doorward_server.core.audit import HeadFound, Link
from doorward_server.core.freshness import Poll
from doorward_server.core.model import Event
from doorward_server.store import (
    Snapshot,
    Written,
    acknowledgements,
    audit_store,
    changes,
    dialect,
    nesting,
    records,
    tail,
    transaction,
)

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


def sequence(patch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's revisions come from a sequence: in the order in which they were drawn, not in that of commits.

    Caught by test_tail.test_nothing_is_missed.
    """
    remake = changes._postgresql_remake
    drawn = """
    DECLARE
      mine bigint := nextval('{schema}.doorward_sequence');
    BEGIN
      PERFORM pg_sleep(random() * 0.02), pg_notify('{channel}', '');
      UPDATE {schema}.revision SET value = greatest(value, mine);
      INSERT INTO {schema}.changes (revision, kind, organization, name, nonce)
        VALUES (mine, a_kind, an_organization, a_name, mine::text);
    END
    """
    patch.setattr(changes, "_NOTE_BODY", drawn)
    made = "CREATE SEQUENCE IF NOT EXISTS doorward_sequence"
    patch.setattr(changes, "_postgresql_remake", lambda database: [made, *remake(database)])


def data_version_pooled(patch: pytest.MonkeyPatch) -> None:
    """SQLite's tail asks for `data_version` on a connection of the pool, whose own commits do not change it.

    Caught by test_tail.test_what_this_process_writes_is_told.
    """

    def connect_alone(self: dialect.Sqlite, patience: float) -> Any:
        with self.database.connection_context():
            return self.database.connection()

    patch.setattr(dialect.Sqlite, "connect_alone", connect_alone)


def head_apart(patch: pytest.MonkeyPatch) -> None:
    """A poll reads the counter after the changes, in another snapshot.

    Caught by test_tail.test_nothing_is_missed.
    """
    read = "SELECT value, nonce FROM revision"
    for connection in (tail.SqliteTail, tail.PostgresqlTail):

        def poll(
            self: Any, replica: str, since: int, started_at: int, whole: Callable[..., Poll] = connection.poll
        ) -> Poll:
            rows = whole(self, replica, since, started_at)
            ((head, nonce),) = self._connection.execute(read).fetchall()
            return replace(rows, head=head, head_nonce=nonce)

        patch.setattr(connection, "poll", poll)


def two_statements(patch: pytest.MonkeyPatch) -> None:
    """A record's owner is read after its key: parts from two revisions.

    Caught by test_fills.test_fills_are_of_one_moment.
    """
    find = records.find_record

    def joined(of: dialect.Dialect, keyspace: str, lookup: str) -> Snapshot:
        found = find(of, keyspace, lookup)
        if found.record is None or found.record.key.owner is None:
            return found
        key = found.record.key
        owner = records.find_principal_record(of, key.organization, key.owner or "", keyspace).record
        if owner is None:
            return found
        return replace(found, record=replace(found.record, owner=owner.principal, bindings=owner.bindings))

    patch.setattr(records, "find_record", joined)


def counter_apart(patch: pytest.MonkeyPatch) -> None:
    """A fill reads the counter after the record, in another snapshot.

    Caught by test_fills.test_fills_are_of_one_moment.
    """
    find = records.find_record

    def late(of: dialect.Dialect, keyspace: str, lookup: str) -> Snapshot:
        found = find(of, keyspace, lookup)
        ((revision,),) = of.database.execute_sql("SELECT value FROM revision").fetchall()
        return replace(found, revision=revision)

    patch.setattr(records, "find_record", late)


def revision_at_start(patch: pytest.MonkeyPatch) -> None:
    """A change that finds nothing to do tells the revision at which it began.

    Caught by test_revisions.test_whoever_finds_it_done_waits_for_it.
    """
    write = transaction.Transactions._write

    def early(self: transaction.Transactions, work: Callable[[transaction.Transaction], Any]) -> Written[Any]:
        began: list[tuple[transaction.Transaction, int]] = []

        def looking(tx: transaction.Transaction) -> Any:
            ((revision,),) = tx.dialect.database.execute_sql("SELECT value FROM revision").fetchall()
            began.append((tx, revision))
            return work(tx)

        written = write(self, looking)
        tx, revision = began[-1]
        changed = any(tally != before for tally, before in tx._tallies.values())
        return written if changed else replace(written, revision=revision)

    patch.setattr(transaction.Transactions, "_write", early)


def not_made_anew(patch: pytest.MonkeyPatch) -> None:
    """A migration leaves the triggers alone if there are any, and the start-up check is off.

    Caught by test_changes_by_hand.test_a_rebuilt_table_keeps_its_triggers.
    """
    install = changes.install

    def once(of: dialect.Dialect, database: Any) -> None:
        found = changes._sqlite_found if isinstance(of, dialect.Sqlite) else changes._postgresql_found
        if not found(database):
            install(of, database)

    patch.setattr(changes, "install", once)
    patch.setattr(changes, "check", lambda *_: None)


def any_history(patch: pytest.MonkeyPatch) -> None:
    """What was acknowledged before a restore counts after it.

    Caught by test_tail.test_a_restored_store_is_another_one.
    """

    def of_files(self: acknowledgements.Files, tx: transaction.Transaction) -> dict[str, int]:
        return {replica: it.revision for replica, it in self._read()}

    def of_table(self: acknowledgements.Table, tx: transaction.Transaction) -> dict[str, int]:
        return dict(tx.dialect.database.execute_sql("SELECT replica, revision FROM acknowledgement").fetchall())

    patch.setattr(acknowledgements.Files, "list_valid", of_files)
    patch.setattr(acknowledgements.Table, "list_valid", of_table)


def unsealed_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Where a pruned chain begins is believed without its seal.

    Caught by test_retention.test_a_forged_checkpoint_is_found.
    """
    start = audit_store.AuditStore._start

    def believed(self: audit_store.AuditStore, tx: transaction.Transaction, organization: str) -> Link:
        row = tx.ask("SELECT sequence, hash FROM checkpoint WHERE organization = ?", organization)
        return Link(row[0][0], bytes(row[0][1])) if row else start(self, tx, organization)

    patch.setattr(audit_store.AuditStore, "_start", believed)


def unverified_pruning(patch: pytest.MonkeyPatch) -> None:
    """Events are pruned as they are, and the evidence of what was done to them with them.

    Caught by test_retention.test_what_is_pruned_is_verified_first.
    """
    prune = audit_store.AuditStore._prune

    def unverified(self: audit_store.AuditStore, *args: Any) -> int:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(
                audit_store.AuditStore, "_followed", lambda _, tx, start, rows: Link(rows[-1][1], bytes(rows[-1][-1]))
            )
            return prune(self, *args)

    patch.setattr(audit_store.AuditStore, "_prune", unverified)


def any_head(patch: pytest.MonkeyPatch) -> None:
    """A head counts as found if the chain is as long as it says.

    Caught by test_retention.test_a_chain_that_was_cut_back_lacks_the_head.
    """
    patch.setattr(audit_store, "_find", lambda *_: HeadFound.IN_CHAIN)


PLANTS: dict[str, Spoil] = {
    "event-outside": event_outside,
    "no-trigger": no_trigger,
    "no-lock": no_lock,
    "forgotten-facts": forgotten_facts,
    "no-snapshot": no_snapshot,
    "endless-groups": endless_groups,
    "sequence": sequence,
    "data-version-pooled": data_version_pooled,
    "head-apart": head_apart,
    "two-statements": two_statements,
    "counter-apart": counter_apart,
    "revision-at-start": revision_at_start,
    "not-made-anew": not_made_anew,
    "any-history": any_history,
    "unsealed-checkpoint": unsealed_checkpoint,
    "unverified-pruning": unverified_pruning,
    "any-head": any_head,
}
ONLY_ON = {"sequence": "postgresql", "revision-at-start": "postgresql", "data-version-pooled": "sqlite"}
"""Plants that spoil what only one database has."""


def plant_the_one_asked_for() -> None:
    """Plant what the environment names, for good; other tests have bugs of their own."""
    if spoil := PLANTS.get(os.environ.get("DOORWARD_PLANT", "")):
        spoil(pytest.MonkeyPatch())
