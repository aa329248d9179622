"""How far replicas have dropped what they knew: written often, read by whoever waits, worth nothing after a crash.

An acknowledgement costs no fsync and never waits for the writer of the store: on SQLite it is a file of its own beside
the store, on PostgreSQL a row of an unlogged table, committed asynchronously. One that is lost makes a wait last as
long as it may, and comes again with the replica's next poll.

It holds only for the history that its replica has seen, so it names a revision of that history with its nonce: a store
that was restored may come by the same numbers again with other changes.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .dialect import Dialect, Sqlite, reaching
from .rows import ACKNOWLEDGEMENT, CHANGES, REPLICA
from .transaction import Transaction

_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A replica has dropped all that changed up to `revision`, in the history that has `nonce` at `seen`."""

    revision: int
    seen: int
    nonce: str


class Acknowledgements(Protocol):
    """Where they are kept."""

    def list_valid(self, tx: Transaction) -> dict[str, int]:
        """Return the acknowledged revision of each replica that has seen this history."""

    def delete(self, tx: Transaction, replicas: Collection[str]) -> None:
        """Remove those of *replicas*; ones that have none are left out."""

    def delete_orphans(self, tx: Transaction) -> None:
        """Remove those of replicas that are not registered."""


def kept_for(dialect: Dialect) -> Acknowledgements:
    """Return where a database's acknowledgements are."""
    return Files(dialect.acknowledgements) if isinstance(dialect, Sqlite) else Table()


class Files:
    """A folder with one file for each replica, which only that replica writes: one line, with a checksum."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, replica: str, it: Acknowledgement) -> None:
        """Write it, unless it is there. Whatever was lost or damaged is made anew. Raises StoreUnavailable."""
        line = _line(it)
        with reaching():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(self._folder / replica, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                if os.pread(handle, _LENGTH, 0) != line:
                    os.pwrite(handle, line, 0)
            finally:
                os.close(handle)

    def list_valid(self, tx: Transaction) -> dict[str, int]:
        """See `Acknowledgements`."""
        found = dict(self._read())
        seen = {it.seen for it in found.values()}
        rows = tx.rows(CHANGES.select(CHANGES.revision, CHANGES.nonce).where(CHANGES.revision.in_(seen)).distinct())
        known: dict[int, str] = dict(rows)
        return {replica: it.revision for replica, it in found.items() if known.get(it.seen) == it.nonce}

    def delete(self, tx: Transaction, replicas: Collection[str]) -> None:
        """See `Acknowledgements`."""
        for replica in replicas:
            with reaching(), suppress(FileNotFoundError):
                (self._folder / replica).unlink()

    def delete_orphans(self, tx: Transaction) -> None:
        """See `Acknowledgements`."""
        registered = {id for (id,) in tx.rows(REPLICA.select(REPLICA.id))}
        self.delete(tx, [name for name in self._names() if name not in registered])

    def _names(self) -> list[str]:
        with reaching(), suppress(FileNotFoundError):
            return os.listdir(self._folder)
        return []

    def _read(self) -> Iterator[tuple[str, Acknowledgement]]:
        for name in self._names():
            with reaching(), suppress(FileNotFoundError):
                if (it := _parse((self._folder / name).read_bytes())) is not None:
                    yield name, it


def _line(it: Acknowledgement) -> bytes:
    text = f"{it.revision} {it.seen} {it.nonce}".encode()
    return b"%08x %s\n" % (zlib.crc32(text), text.ljust(_LENGTH - 10))


def _parse(line: bytes) -> Acknowledgement | None:
    """Return what a line says; None for one that is torn, damaged or empty."""
    checksum, _, text = line.rstrip().partition(b" ")
    words = text.split(b" ")
    if checksum != b"%08x" % zlib.crc32(text) or len(words) != 3:
        return None
    return Acknowledgement(int(words[0]), int(words[1]), words[2].decode())


class Table:
    """PostgreSQL's unlogged table."""

    WRITE = """
    INSERT INTO acknowledgement (replica, revision, seen, nonce) VALUES (%s, %s, %s, %s)
    ON CONFLICT (replica) DO UPDATE SET revision = excluded.revision, seen = excluded.seen, nonce = excluded.nonce
    """

    def list_valid(self, tx: Transaction) -> dict[str, int]:
        """See `Acknowledgements`."""
        on = (CHANGES.revision == ACKNOWLEDGEMENT.seen) & (CHANGES.nonce == ACKNOWLEDGEMENT.nonce)
        query = ACKNOWLEDGEMENT.select(ACKNOWLEDGEMENT.replica, ACKNOWLEDGEMENT.revision).join(CHANGES, on=on)
        return dict(tx.rows(query.distinct()))

    def delete(self, tx: Transaction, replicas: Collection[str]) -> None:
        """See `Acknowledgements`."""
        tx.run(ACKNOWLEDGEMENT.delete().where(ACKNOWLEDGEMENT.replica.in_(list(replicas))))

    def delete_orphans(self, tx: Transaction) -> None:
        """See `Acknowledgements`."""
        tx.run(ACKNOWLEDGEMENT.delete().where(ACKNOWLEDGEMENT.replica.not_in(REPLICA.select(REPLICA.id))))
