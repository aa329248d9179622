"""What SQLite and PostgreSQL do differently: opening, transactions, locks, and which failures mean "try again".

Nobody else asks which database it is, but for the triggers of `changes`, and what `tail` and `acknowledgements` have
beside the pool.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import peewee
import psycopg
from peewee import fn
from playhouse.pool import MaxConnectionsExceeded, PooledPostgresqlDatabase, PooledSqliteDatabase
from psycopg.conninfo import conninfo_to_dict

from doorward_server.core.errors import InvalidField, StoreUnavailable
from doorward_server.core.model import Instant

POOL = 22
"""Connections of one store in one process."""
WAIT = 5
"""Seconds to wait for a connection, or for somebody else's lock, before the store counts as unavailable."""
_STATEMENT_MS = 10_000
_MIGRATION_LOCK = 0x646F6F7277617264  # "doorward"
_RETRIED = {"40001", "40P01"}  # serialization failure, deadlock: the whole transaction may run again
_NOT_MIGRATED = "42P01"
# In one order for everybody, so that two who want several do not wait in a circle.
_IN_TURN = """
SELECT pg_advisory_xact_lock(number)
FROM (SELECT DISTINCT hashtextextended(name, 0) AS number FROM unnest(%s::text[]) AS name ORDER BY number) AS names
"""
_AT_ONCE = "SELECT name FROM unnest(%s::text[]) AS name WHERE pg_try_advisory_xact_lock(hashtextextended(name, 0))"
_NOW = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint"
_DRIVERS = (psycopg.Error, peewee.sqlite3.Error)  # type: ignore[attr-defined]  # chosen there


@contextmanager
def reaching() -> Iterator[None]:
    """Say StoreUnavailable for whatever keeps a database from being reached."""
    try:
        yield
    except (peewee.PeeweeException, MaxConnectionsExceeded, *_DRIVERS, OSError) as error:
        raise StoreUnavailable from error


class _Texts:
    """Refuses what PostgreSQL cannot keep as text, on both databases alike."""

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        for param in params or ():
            if isinstance(param, str) and "\0" in param:
                raise InvalidField("text", "must not hold a NUL character")
        try:
            return super().execute_sql(sql, params)  # type: ignore[misc]  # of the Database that is mixed in
        except UnicodeEncodeError:
            raise InvalidField("text", "must not hold half a surrogate pair") from None


class _SqliteFile(peewee.sqlite3.Connection):  # type: ignore[misc, name-defined]  # chosen there
    """A connection that knows which file it has open: another one may have been put in its place."""

    def __init__(self, file: str, *args: Any, **kwargs: Any) -> None:
        self._path = unquote(file.removeprefix("file:").partition("?")[0])
        self._file = _identity(self._path)
        super().__init__(file, *args, **kwargs)

    def is_current(self) -> bool:
        """Tell whether the file is still the one that has the name."""
        return self._file is not None and _identity(self._path) == self._file


def _identity(path: str) -> tuple[int, int] | None:
    try:
        it = os.stat(path)
    except OSError:
        return None
    return it.st_dev, it.st_ino


class _SqlitePool(_Texts, PooledSqliteDatabase):  # type: ignore[misc]  # playhouse has no types
    """One file, a connection for each thread that asks at the same time."""

    def _is_closed(self, conn: Any) -> bool:
        """Have a connection to a file that was replaced count as closed: what it reads is not the store any more."""
        return not conn.is_current()


class _PostgresqlPool(_Texts, PooledPostgresqlDatabase):  # type: ignore[misc]  # playhouse has no types
    def _is_closed(self, conn: Any) -> bool:
        """Spare the round trip of a probe: a dead connection shows at its first statement, and that is tried again."""
        return bool(conn.closed)


class Sqlite:
    """One file in WAL mode. Writers queue inside the process first: SQLite's own waiting is a sleep."""

    begin_write = "BEGIN IMMEDIATE"
    begin_read = "BEGIN DEFERRED"
    param, through = "?", "INDEXED BY {index}"  # without statistics it prefers the primary key

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._uri = f"file:{quote(path)}?mode=rw"  # a file that is not there is not made by the way
        self._writing = threading.RLock()
        self.database: Any = _SqlitePool(
            self._uri,
            uri=True,
            factory=_SqliteFile,
            pragmas=(
                ("busy_timeout", int(WAIT * 1000)),
                ("synchronous", "FULL"),
                ("foreign_keys", 1),
                ("journal_size_limit", 64 * 1024 * 1024),
            ),
            max_connections=POOL,
            timeout=WAIT,
            check_same_thread=False,  # the pool hands a connection to one thread at a time
        )

    def _make_file(self) -> None:
        """Make the file, readable to this user only, if there is none; SQLite gives its mode to the files beside it.

        An existing file is not so much as opened: closing it would let go of every lock that this process has on it.
        """
        with reaching(), suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))

    @contextmanager
    def writer(self) -> Iterator[None]:
        """Queue for the one writer. Raises StoreUnavailable after `WAIT`."""
        if not self._writing.acquire(timeout=WAIT):
            raise StoreUnavailable
        try:
            yield
        finally:
            self._writing.release()

    def commit(self) -> int:
        """Commit and return the revision; nothing is kept if it raises."""
        revision: int = self.database.execute_sql("SELECT value FROM revision").fetchone()[0]
        self.database.execute_sql("COMMIT")
        return revision

    def lost(self) -> bool:
        """Tell whether the connection broke: a file's does not."""
        return False

    def again(self, error: peewee.PeeweeException) -> bool:
        """Tell whether the transaction that failed with *error* may succeed when it runs again, at once."""
        return isinstance(error, peewee.IntegrityError)

    def unavailable(self, error: peewee.PeeweeException) -> bool:
        """Tell whether *error* means that the database could not be asked, rather than that we asked nonsense."""
        return isinstance(error, peewee.DatabaseError | peewee.InterfaceError)

    def locked(self, query: Any) -> Any:
        """Return *query* so that its rows stay as they are until the end: the only writer need not ask."""
        return query

    def shared(self, query: Any) -> Any:
        """Return *query* so that its rows stay as they are until the end, whoever else reads them so."""
        return query

    def contains(self, text: Any, part: str) -> Any:
        """Return the condition that *text* holds *part*, letter for letter."""
        return fn.INSTR(text, part) > 0

    def in_turn(self, names: Sequence[str], clock: Callable[[], Instant]) -> Instant:
        """Return the time by *clock*, of the machine that all who write are on: the only writer has all *names*."""
        return clock()

    def at_once(self, names: Sequence[str], clock: Callable[[], Instant]) -> tuple[set[str], Instant]:
        """Return which of *names* nobody else has, to the end of the transaction, and the time as in `in_turn`."""
        return set(names), clock()

    def now(self, clock: Callable[[], Instant]) -> Instant:
        """Return the time that `in_turn` goes by."""
        return clock()

    @property
    def acknowledgements(self) -> Path:
        """The folder for them, whichever of its names the file goes by."""
        return Path(f"{self._path.resolve()}.acks")

    def connect_alone(self, patience: float) -> Any:
        """Return a connection outside the pool, in autocommit mode, which only reads and waits *patience* seconds."""
        with reaching():
            connection = peewee.sqlite3.connect(  # type: ignore[attr-defined]  # chosen there
                self._uri,
                uri=True,
                timeout=patience,
                isolation_level=None,
                check_same_thread=False,
                factory=_SqliteFile,
            )
            connection.execute("PRAGMA query_only = ON")
            return connection

    def admin(self) -> Any:
        """Return a database for migrations: one connection, no foreign keys while tables are rebuilt."""
        self._make_file()
        pragmas = (("journal_mode", "wal"), ("synchronous", "FULL"))
        return peewee.SqliteDatabase(str(self._path), pragmas=pragmas, lock_type="IMMEDIATE", timeout=60)

    @contextmanager
    def migration_lock(self) -> Iterator[None]:
        """Hold the file lock beside the database; waits as long as it takes."""
        with reaching():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class _Impatient(psycopg.Connection[Any]):
    """A connection that gives up on a server which does not answer: it may be stopped, or its network half open."""

    patience: float | None = None
    """Seconds for each statement."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server, as all methods do. Raises psycopg.OperationalError: then it is of no use any more."""
        return super().wait(gen, interval, self.patience if timeout is None else timeout)


class Postgresql:
    """A PostgreSQL primary, through a small pool. Nothing is set for a session: it would leak to the next borrower."""

    begin_write = "BEGIN ISOLATION LEVEL READ COMMITTED"
    begin_read = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    param, through = "%s", ""  # which index is best, it knows

    def __init__(self, url: str) -> None:
        self._url = url
        self.database: Any = _PostgresqlPool(
            url,
            max_connections=POOL,
            timeout=WAIT,
            **self._settings(
                statement_timeout=_STATEMENT_MS,
                lock_timeout=int(WAIT * 1000),
                # A process that was stopped in the middle of a change must not keep its organization locked.
                idle_in_transaction_session_timeout=_STATEMENT_MS,
            ),
        )

    def _settings(self, *options: str, **limits: int) -> dict[str, Any]:
        """Return settings for a connection; those of the URL win. *limits* are in milliseconds."""
        mine = {
            "application_name": "doorward",
            "connect_timeout": "3",
            "keepalives_idle": "5",
            "keepalives_interval": "2",
            "keepalives_count": "3",
            "tcp_user_timeout": "10000",
            "target_session_attrs": "read-write",  # of several hosts the primary: a standby's snapshots are old
        }
        theirs = conninfo_to_dict(self._url)
        # Compiling a statement that reads a dozen rows takes a hundred times as long as running it.
        fixed = ["jit=off", *options, *(f"{name}={value}" for name, value in limits.items())]
        words = " ".join([*(f"-c {it}" for it in fixed), str(theirs.get("options", ""))])
        defaults = {name: value for name, value in mine.items() if name not in theirs}
        return defaults | {"prefer_psycopg3": True, "encoding": "utf8", "options": words.strip()}

    def writer(self) -> AbstractContextManager[None]:
        """Let any number write: row locks keep them apart."""
        return nullcontext()

    def commit(self) -> int:
        """Fire the change log's triggers, commit, return the revision: in one message, as the counter is held."""
        cursor = self.database.execute_sql("SET CONSTRAINTS ALL IMMEDIATE; SELECT value FROM revision; COMMIT")
        cursor.nextset()
        revision: int = cursor.fetchone()[0]
        return revision

    def lost(self) -> bool:
        """Tell whether this thread's connection broke."""
        return not self.database.is_closed() and bool(self.database.connection().closed)

    def again(self, error: peewee.PeeweeException) -> bool:
        """Tell whether the transaction that failed with *error* may succeed when it runs again, at once."""
        if self.lost():
            self.database.close_idle()  # after a restart of the server they are all dead
            return True
        return isinstance(error, peewee.IntegrityError) or _sqlstate(error) in _RETRIED

    def unavailable(self, error: peewee.PeeweeException) -> bool:
        """Tell whether *error* means that the database could not be asked, rather than that we asked nonsense."""
        if isinstance(error, peewee.ProgrammingError | peewee.DataError):
            return _sqlstate(error) == _NOT_MIGRATED
        return True

    def locked(self, query: Any) -> Any:
        """Return *query* so that its rows stay as they are until the end, but may be referred to by others."""
        return query.for_update("FOR NO KEY UPDATE")

    def shared(self, query: Any) -> Any:
        """Return *query* so that its rows stay as they are until the end, whoever else reads them so."""
        return query.for_update("FOR SHARE")

    def contains(self, text: Any, part: str) -> Any:
        """Return the condition that *text* holds *part*, letter for letter."""
        return fn.STRPOS(text, part) > 0

    def in_turn(self, names: Sequence[str], clock: Callable[[], Instant]) -> Instant:
        """Wait until nobody else has any of *names*, to the end of the transaction, and return the time after that:
        by the database's own clock, which is one for all who write.
        """
        self.database.execute_sql(_IN_TURN, (list(names),)).fetchall()
        return self.now(clock)

    def at_once(self, names: Sequence[str], clock: Callable[[], Instant]) -> tuple[set[str], Instant]:
        """Return which of *names* nobody else has, to the end of the transaction, and the time as in `in_turn`."""
        had = self.database.execute_sql(_AT_ONCE, (list(names),)).fetchall()
        return {name for (name,) in had}, self.now(clock)

    def now(self, clock: Callable[[], Instant]) -> Instant:
        """Return the time that `in_turn` goes by."""
        now: Instant = self.database.execute_sql(_NOW).fetchone()[0]
        return now

    def connect_alone(self, patience: float, *options: str) -> Any:
        """Return a connection outside the pool, in autocommit mode, each of whose statements gets *patience* seconds.

        It gives up by itself, too, if a server that hangs does not. *options* are the server's, `name=value`.
        """
        limit = int(patience * 1000)
        settings = self._settings(*options, statement_timeout=limit, lock_timeout=limit)
        del settings["prefer_psycopg3"], settings["encoding"]
        with reaching():
            # Nothing is prepared: a pooler in front may put every statement on another session.
            connection = _Impatient.connect(
                self._url, autocommit=True, prepare_threshold=None, client_encoding="utf8", **settings
            )
        connection.patience = patience
        return connection

    def admin(self) -> Any:
        """Return a database for migrations: one connection that waits as long as it takes."""
        return peewee.PostgresqlDatabase(self._url, **self._settings(statement_timeout=0, lock_timeout=0))

    @contextmanager
    def migration_lock(self) -> Iterator[None]:
        """Hold the advisory lock on a connection of its own, which ends with it; waits as long as it takes."""
        database = self.admin()
        try:
            with reaching():
                database.execute_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
            yield
        finally:
            database.close()


Dialect = Sqlite | Postgresql


def open_dialect(url: str) -> Dialect:
    """Return the dialect of *url*, nothing opened yet. Raises ValueError with a text that never holds a password."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        return Sqlite(_sqlite_path(rest))
    if separator and scheme == "postgresql":
        return Postgresql(_checked_conninfo(url))
    raise ValueError("store URL: must begin with 'sqlite:///' or 'postgresql://'")


def _sqlite_path(rest: str) -> str:
    path = unquote(rest.removeprefix("/"))
    if not rest.startswith("/") or path in ("", "/") or path.endswith("/"):
        raise ValueError(
            "store URL: must name a file, as in 'sqlite:///var/doorward.db' or 'sqlite:////srv/doorward.db'"
        )
    if ":memory:" in path or path.startswith("file:") or "?" in path:
        raise ValueError("store URL: SQLite is used with a plain file only, without ':memory:' and without options")
    return path


def _checked_conninfo(url: str) -> str:
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ValueError("store URL: is not a PostgreSQL connection URI that libpq understands") from None
    return url


def _sqlstate(error: peewee.PeeweeException) -> str | None:
    """Return PostgreSQL's code of the failure, from the driver's own exception."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)
