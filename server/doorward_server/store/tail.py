"""Following the change log, on a connection of its own: outside the pool, never written on, never in a transaction.

A poll is one statement, and so one snapshot: what it says of the registry, the counter and the log was true together,
at a moment after it was asked. Nothing is remembered between polls but what the database itself vouches for.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.freshness import ALL, Change, Dependency, Poll

from .acknowledgements import Acknowledgement, Files, Table
from .changes import CHANNEL
from .dialect import Dialect, Postgresql, Sqlite, reaching

MOST = 5_000
"""Rows of one poll. Whoever is farther behind drops everything, which is quicker than to read what."""
PATIENCE = 0.4
"""The share of `max_staleness` that a poll may take: one that takes longer would prove nothing in time."""
_NEVER = 2**62
# What is stored about resources is asked for each time: nothing that is remembered depends on a RESOURCE.

_POLL = """
SELECT r.value, r.nonce, r.floor,
  (SELECT p.condemned FROM replica AS p WHERE p.id = {param}),
  (SELECT c.nonce FROM changes AS c WHERE c.revision = {param} LIMIT 1),
  (SELECT {array}({pair}(c.revision, c.kind, c.organization, c.name)){text} FROM (
    SELECT revision, kind, organization, name FROM changes WHERE revision > {param} AND kind <> 'RESOURCE'
    ORDER BY revision LIMIT {most}
  ) AS c)
FROM revision AS r WHERE r.id = 1
"""


class TailConnection(Protocol):
    """What a replica follows the store with. For one thread, but for `hint`.

    Methods raise StoreUnavailable; then it is of no use any more: close it and open another.
    """

    def poll(self, replica: str, since: int, started_at: int) -> Poll:
        """Return what has changed behind the revision *since*; none for 0, which means that nothing is known yet.

        *started_at* is handed through: an instant, by any clock, before this call. If there is too much, it is one
        change that drops everything.
        """

    def acknowledge(self, replica: str, revision: int) -> None:
        """Say that nothing older than *revision*, at most the last poll's head, is believed under *replica* any more.

        Cheap to repeat after every poll, which brings back what a crash has lost. Before the first poll: RuntimeError.
        """

    def wait_for_hint(self, seconds: float) -> None:
        """Wait until there may be something new, at most *seconds*."""

    def hint(self) -> None:
        """End a wait, this one or the next. From any thread."""

    def close(self) -> None:
        """Close it. Nobody may be waiting."""


def open_tail(dialect: Dialect, max_staleness: int) -> TailConnection:
    """Open a connection for polls that take `PATIENCE` of *max_staleness* microseconds at most."""
    patience = PATIENCE * max_staleness / 1_000_000
    return SqliteTail(dialect, patience) if isinstance(dialect, Sqlite) else PostgresqlTail(dialect, patience)


class SqliteTail:
    """A file that other processes write to: `data_version` tells whether any did, without reading."""

    def __init__(self, dialect: Sqlite, patience: float) -> None:
        self._connection = dialect.connect_alone(patience)
        self._files = Files(dialect.acknowledgements)
        self._hinted = threading.Event()
        self._version = -1
        self._seen: Poll | None = None

    def poll(self, replica: str, since: int, started_at: int) -> Poll:
        """See `TailConnection`."""
        with reaching():
            if not self._connection.is_current():
                raise StoreUnavailable
            ((version,),) = self._rows(
                "PRAGMA data_version"
            )  # before the snapshot: a change in between shows next time
            seen = self._seen
            if version == self._version and seen and (replica, since) == (seen.replica, seen.head):
                return replace(seen, since=since, started_at=started_at, nonce_at_since=seen.head_nonce, changes=())
            rows = self._rows(_statement(Sqlite.param), _parameters(replica, since))
        self._seen, self._version = _poll(replica, since, started_at, rows), version
        return self._seen

    def _rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        # All of them: a statement that is not read to its end holds its snapshot, and so all later ones.
        return list(self._connection.execute(sql, parameters).fetchall())

    def acknowledge(self, replica: str, revision: int) -> None:
        """See `TailConnection`."""
        self._files.write(replica, _acknowledgement(self._seen, revision))

    def wait_for_hint(self, seconds: float) -> None:
        """See `TailConnection`."""
        self._hinted.wait(seconds)
        self._hinted.clear()

    def hint(self) -> None:
        """See `TailConnection`."""
        self._hinted.set()

    def close(self) -> None:
        """See `TailConnection`."""
        self._connection.close()


class PostgresqlTail:
    """A session that listens for hints, and another one, for what must not wait for the disk."""

    def __init__(self, dialect: Postgresql, patience: float) -> None:
        self._dialect, self._patience = dialect, patience
        self._connection = dialect.connect_alone(patience)
        self._writing: Any = None
        self._written: tuple[str, Acknowledgement] | None = None
        self._seen: Poll | None = None
        try:
            with reaching():  # a standby, whose snapshots are old, refuses
                self._connection.execute(f"LISTEN {CHANNEL}")
        except StoreUnavailable:
            self._connection.close()
            raise
        self._hinted, self._hints = socket.socketpair()
        self._hints.setblocking(False)
        self._hinted.setblocking(False)
        self._selector = selectors.DefaultSelector()
        for readable in (self._hinted, self._connection.fileno()):
            self._selector.register(readable, selectors.EVENT_READ)

    def poll(self, replica: str, since: int, started_at: int) -> Poll:
        """See `TailConnection`."""
        with reaching():
            rows = self._connection.execute(_statement(Postgresql.param), _parameters(replica, since)).fetchall()
        self._seen = _poll(replica, since, started_at, rows)
        return self._seen

    def acknowledge(self, replica: str, revision: int) -> None:
        """See `TailConnection`."""
        it = _acknowledgement(self._seen, revision)
        if self._written == (replica, it):
            return
        if self._writing is None:
            self._writing = self._dialect.connect_alone(self._patience, "synchronous_commit=off")
        with reaching():
            self._writing.execute(Table.WRITE, (replica, it.revision, it.seen, it.nonce))
        self._written = replica, it

    def wait_for_hint(self, seconds: float) -> None:
        """See `TailConnection`."""
        with reaching():
            if list(self._connection.notifies(timeout=0)):  # what came with the answer to a poll
                return
            for key, _ in self._selector.select(seconds):
                if key.fileobj is self._hinted:
                    self._hinted.recv(4096)
                else:
                    list(self._connection.notifies(timeout=0))

    def hint(self) -> None:
        """See `TailConnection`."""
        with suppress(OSError):  # there are hints enough in there, or nobody takes them any more
            self._hints.send(b"!")

    def close(self) -> None:
        """See `TailConnection`."""
        self._selector.close()
        self._hinted.close()
        self._hints.close()
        for connection in (self._connection, self._writing):
            if connection is not None:
                connection.close()


@cache
def _statement(param: str) -> str:
    words = {"array": "json_group_array", "pair": "json_array", "text": ""}
    if param != Sqlite.param:
        words = {"array": "json_agg", "pair": "json_build_array", "text": "::text"}
    return _POLL.format(param=param, most=MOST + 1, **words)


def _parameters(replica: str, since: int) -> tuple[str, int, int]:
    return replica, since, since or _NEVER


def _poll(replica: str, since: int, started_at: int, rows: list[tuple[Any, ...]]) -> Poll:
    if not rows:
        raise StoreUnavailable
    ((head, head_nonce, floor, condemned, nonce, text),) = rows
    found = json.loads(text or "[]")
    if len(found) > MOST:
        changes: tuple[Change, ...] = (Change(head, ALL),)
    else:
        changes = tuple(Change(revision, Dependency.logged(*named)) for revision, *named in found)
    registered = condemned is not None and not condemned
    return Poll(replica, since, started_at, registered, head, head_nonce, floor, nonce, changes)


def _acknowledgement(seen: Poll | None, revision: int) -> Acknowledgement:
    if seen is None or revision > seen.head:
        raise RuntimeError("only what a poll has shown can be acknowledged")
    return Acknowledgement(revision, seen.head, seen.head_nonce)
