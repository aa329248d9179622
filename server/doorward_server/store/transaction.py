"""One transaction: where queries run, what is locked, and how it ends.

Locks are taken in one order everywhere: the organization's row of `tally` (in order of id where there are several),
then the rows that are changed, then, at the commit, the revision. Every change of an organization holds its tally, so
changes of one organization are one after the other, and its audit chain is linear; organizations do not meet before
the revision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import peewee

from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.model import Event

from . import audit
from .dialect import Dialect, reaching
from .rows import TALLY, Columns, Prepared, Row, Slot, change_in, one_of, slots
from .values import Written

T = TypeVar("T")
ATTEMPTS = 4
_UNKNOWN_OUTCOME = "The store went away while it kept the change. Look whether it was made before you try again."


_TALLY = one_of(TALLY, "organization", lock=True)
_NEW_TALLY = Prepared(TALLY.insert(slots(*TALLY.names)).on_conflict(action="IGNORE"))
_CHANGED_TALLY = change_in(TALLY, "organization")


@dataclass(slots=True)
class Tally:
    """What one organization has, and where its audit chain ends. Its row is locked."""

    organization: str
    keys: int
    """Unrevoked ones."""
    bindings: int
    events: int
    head: bytes
    metadata: int = 0
    """Bytes of all keys' metadata, deleted ones apart."""
    relations: int = 0
    resources: int = 0


class Transaction:
    """A transaction in progress. Its `tally` and `append` are for writers only."""

    def __init__(self, dialect: Dialect, seal: audit.Seal) -> None:
        self.dialect = dialect
        self.replayed = False
        """Set by work that found its request done before."""
        self.replaced: list[str] = []
        """Ids of the keys that work ended to make room for another."""
        self.peppers_held: set[int] = set()
        """Versions that cannot be retired before the end."""
        self._seal = seal
        self._tallies: dict[str, tuple[Tally, Tally]] = {}

    def rows(self, query: Any, **values: Any) -> list[Row]:
        """Return all rows of a SELECT: one of Peewee's, or `Prepared` and the *values* for its slots."""
        return list(self._execute(query, values).fetchall())

    def row(self, query: Any, **values: Any) -> Row | None:
        """Return the first row of a SELECT."""
        row: Row | None = self._execute(query, values).fetchone()
        return row

    def ask(self, sql: str, *params: object) -> list[Row]:
        """Return all rows of a SELECT that is written by hand, with `?` for each parameter."""
        return list(self.dialect.database.execute_sql(sql.replace("?", self.dialect.param), params).fetchall())

    def change(self, sql: str, *params: object) -> int:
        """Run an INSERT, UPDATE or DELETE that is written by hand, as in `ask`; return how many rows it touched."""
        touched: int = self.dialect.database.execute_sql(sql.replace("?", self.dialect.param), params).rowcount
        return touched

    def run(self, query: Any, **values: Any) -> int:
        """Run an INSERT, UPDATE or DELETE and return how many rows it touched."""
        touched: int = self._execute(query, values).rowcount
        return touched

    def _execute(self, query: Any, values: Columns) -> Any:
        database = self.dialect.database
        if not isinstance(query, Prepared):
            return database.execute(query)
        if (written := query.written.get(self.dialect.param)) is None:
            whole = self.dialect.locked(query.query) if query.lock else query.query
            sql, params = database.get_sql_context().sql(whole).query()
            written = query.written[self.dialect.param] = sql, tuple(params)
        sql, params = written
        return database.execute_sql(sql, [values[it.name] if isinstance(it, Slot) else it for it in params])

    def tally(self, organization: str) -> Tally:
        """Lock *organization*, whether or not it exists, against every other change in it. To be called first."""
        if organization not in self._tallies:
            tally = self._locked_tally(organization)
            self._tallies[organization] = tally, replace(tally)
        return self._tallies[organization][0]

    def _locked_tally(self, organization: str) -> Tally:
        row = self.row(_TALLY, organization=organization)
        if row is None:
            self.run(_NEW_TALLY, **asdict(Tally(organization, 0, 0, 0, audit.GENESIS)))
            row = self.row(_TALLY, organization=organization)
        if row is None:
            raise StoreUnavailable
        return Tally(*row)

    def append(self, event: Event) -> None:
        """Add *event* at the end of its organization's chain."""
        tally = self.tally(event.organization)
        tally.events += 1
        tally.head = audit.append(self.run, self._seal, tally.head, tally.events, event)

    def finish(self) -> None:
        """Write the tallies that have changed."""
        for tally, before in self._tallies.values():
            if tally != before:
                self.run(_CHANGED_TALLY, **asdict(tally))


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
                raise StoreUnavailable(_UNKNOWN_OUTCOME, outcome_known=False) from error
            raise
        return Written(value, revision, transaction.replayed, tuple(transaction.replaced))

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
        if not self._dialect.database.is_closed():
            raise RuntimeError("a change that is handed to the store must not call it")
        with reaching():
            self._dialect.database.connect()
        try:
            yield
        finally:
            self._dialect.database.close()
