"""One transaction: where queries run, what is locked, and how it ends.

Locks are taken in one order everywhere: the organization's row of `tally` (in order of id where there are several),
then the rows that are changed, then, at the commit, the revision. Every change of an organization holds its tally, so
changes of one organization are one after the other, and its audit chain is linear; organizations do not meet before
the revision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import peewee
from playhouse.pool import MaxConnectionsExceeded

from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.model import Event

from . import audit
from .dialect import Dialect
from .rows import TALLY, Columns, Row
from .values import Written

T = TypeVar("T")
ATTEMPTS = 4
_UNKNOWN_OUTCOME = "The store went away while it kept the change. Look whether it was made before you try again."


class Query(Protocol):
    """A query that Peewee can write as SQL."""

    def __sql__(self, ctx: Any) -> Any: ...


@dataclass(slots=True)
class Tally:
    """What one organization has, and where its audit chain ends. Its row is locked."""

    keys: int
    """Unrevoked ones."""
    bindings: int
    events: int
    head: bytes


class Transaction:
    """A transaction in progress. Its `tally` and `append` are for writers only."""

    def __init__(self, dialect: Dialect, seal: audit.Seal) -> None:
        self.dialect = dialect
        self.replayed = False
        """Set by work that found its request done before."""
        self._execute: Callable[[Any], Any] = dialect.database.execute
        self._seal = seal
        self._tallies: dict[str, tuple[Tally, Columns]] = {}

    def rows(self, query: Query) -> list[Row]:
        """Return all rows of a SELECT."""
        return list(self._execute(query).fetchall())

    def row(self, query: Query) -> Row | None:
        """Return the first row of a SELECT."""
        row: Row | None = self._execute(query).fetchone()
        return row

    def run(self, query: Query) -> int:
        """Run an INSERT, UPDATE or DELETE and return how many rows it touched."""
        touched: int = self._execute(query).rowcount
        return touched

    def sql(self, text: str, params: tuple[Any, ...] = ()) -> list[Row]:
        """Return the rows of a SELECT written by hand, with `?` for each parameter."""
        return list(self.dialect.database.execute_sql(text.replace("?", self.dialect.param), params).fetchall())

    def tally(self, organization: str) -> Tally:
        """Lock *organization*, whether or not it exists, against every other change in it. To be called first."""
        if organization not in self._tallies:
            tally = Tally(*self._locked_tally(organization))
            self._tallies[organization] = tally, _columns(tally)
        return self._tallies[organization][0]

    def _locked_tally(self, organization: str) -> Row:
        columns = (TALLY.keys, TALLY.bindings, TALLY.events, TALLY.head)
        query = self.dialect.locked(TALLY.select(*columns).where(TALLY.organization == organization))
        row = self.row(query)
        if row is None:
            new = {"organization": organization, "keys": 0, "bindings": 0, "events": 0, "head": audit.GENESIS}
            self.run(TALLY.insert(new).on_conflict(action="IGNORE"))
            row = self.row(query)
        if row is None:
            raise StoreUnavailable
        return row

    def append(self, event: Event) -> None:
        """Add *event* at the end of its organization's chain."""
        tally = self.tally(event.organization)
        tally.events += 1
        tally.head = audit.append(self.run, self._seal, tally.head, tally.events, event)

    def finish(self) -> None:
        """Write the tallies that have changed."""
        for organization, (tally, before) in self._tallies.items():
            if _columns(tally) != before:
                self.run(TALLY.change(_columns(tally)).where(TALLY.organization == organization))


def _columns(tally: Tally) -> Columns:
    return {"keys": tally.keys, "bindings": tally.bindings, "events": tally.events, "head": tally.head}


class Transactions:
    """Runs work in transactions. Work may run again, so it must be pure but for what it does to its transaction."""

    def __init__(self, dialect: Dialect, seal: audit.Seal) -> None:
        self._dialect = dialect
        self._seal = seal

    def write(self, work: Callable[[Transaction], T]) -> Written[T]:
        """Run *work* in a write transaction. Raises StoreUnavailable, and what *work* raises: then nothing is kept."""
        with self._dialect.writer():
            return self._several_times(lambda: self._write(work))

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run *work* on one snapshot. Raises StoreUnavailable."""
        return self._several_times(lambda: self._read(work, self._dialect.begin_read))

    def look(self, work: Callable[[Transaction], T]) -> T:
        """Run *work* without a transaction: for a single statement, which is a snapshot of its own."""
        return self._several_times(lambda: self._read(work, None))

    def _write(self, work: Callable[[Transaction], T]) -> Written[T]:
        self._dialect.database.execute_sql(self._dialect.begin_write)
        transaction = Transaction(self._dialect, self._seal)
        value = work(transaction)
        transaction.finish()
        try:
            revision = self._dialect.commit()
        except peewee.PeeweeException as error:
            if self._dialect.lost():
                raise StoreUnavailable(_UNKNOWN_OUTCOME) from error
            raise
        return Written(value, revision, transaction.replayed)

    def _read(self, work: Callable[[Transaction], T], begin: str | None) -> T:
        if begin is not None:
            self._dialect.database.execute_sql(begin)
        return work(Transaction(self._dialect, self._seal))

    def _several_times(self, attempt: Callable[[], T]) -> T:
        for _ in range(ATTEMPTS):
            with self._connection():
                try:
                    return attempt()
                except peewee.PeeweeException as error:
                    failure = error
                    if not self._dialect.again(error):
                        break
        if isinstance(failure, peewee.IntegrityError) or self._dialect.unavailable(failure):
            raise StoreUnavailable from failure
        raise failure

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Lend this thread a connection. The pool rolls back, as it gets it back, what was not committed."""
        try:
            self._dialect.database.connect()
        except (peewee.PeeweeException, MaxConnectionsExceeded) as error:
            raise StoreUnavailable from error
        try:
            yield
        finally:
            self._dialect.database.close()
