"""Bringing the schema up to date, and telling whether it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import peewee
from playhouse.migrations import MigrationError, Runner

from doorward_server.core.errors import StoreUnavailable

from . import changes
from .dialect import Dialect, Sqlite
from .values import StoreNotReady

_log = logging.getLogger(__name__)
_SCRIPTS = str(Path(__file__).parent / "migrations")
_SOUND_SQLITE = (3, 51, 3)


def migrate(dialect: Dialect) -> None:
    """Run the scripts that have not run and make the triggers anew, in one transaction. To be called under the lock.

    Raises StoreNotReady if the store is of a newer Doorward, StoreUnavailable.
    """
    database = dialect.admin()
    try:
        with database.connection_context(), database.atomic():
            _refuse_newer(database)
            Runner(database, _SCRIPTS).up()
            changes.install(dialect, database)
            if isinstance(dialect, Sqlite) and database.execute_sql("PRAGMA foreign_key_check").fetchone():
                raise StoreNotReady("A migration would have left rows that refer to nothing; nothing was changed.")
    except MigrationError as error:
        raise StoreNotReady(f"The store cannot be migrated: {error}") from error
    except (peewee.OperationalError, peewee.InterfaceError) as error:
        raise StoreUnavailable from error


def is_current(dialect: Dialect) -> bool:
    """Tell whether no script waits. To be called under the lock. Raises StoreNotReady, StoreUnavailable."""
    database = dialect.admin()
    try:
        with database.connection_context():
            _refuse_newer(database)
            return not _waiting(database)
    except (peewee.OperationalError, peewee.InterfaceError) as error:
        raise StoreUnavailable from error


def check(dialect: Dialect, database: Any) -> None:
    """Raise StoreNotReady unless schema, change log and database are what is needed; warn of an old SQLite."""
    _refuse_newer(database)
    waiting = _waiting(database)
    if waiting:
        raise StoreNotReady(f"The store lacks migrations ({', '.join(waiting)}). Run `doorward-server migrate`.")
    changes.check(dialect, database)
    if isinstance(dialect, Sqlite):
        _check_sqlite(database)
    else:
        _check_postgresql(database)


def _waiting(database: Any) -> list[str]:
    return [script.name for script in Runner(database, _SCRIPTS).status() if not script.applied]


def _refuse_newer(database: Any) -> None:
    newer = [script.name for script in Runner(database, _SCRIPTS).status() if script.path is None]
    if newer:
        raise StoreNotReady(f"The store is of a newer Doorward ({', '.join(newer)}). Start that one.")


def _check_sqlite(database: Any) -> None:
    if database.execute_sql("PRAGMA journal_mode").fetchone()[0] != "wal":
        raise StoreNotReady("The SQLite file is not in WAL mode. Run `doorward-server migrate`.")
    version = database.execute_sql("SELECT sqlite_version()").fetchone()[0]
    if tuple(map(int, version.split("."))) < _SOUND_SQLITE:
        _log.warning(
            "SQLite %s may lose commits when several processes use the file: "
            "https://www.sqlite.org/wal.html#walresetbug. Install pysqlite3, which brings a newer one.",
            version,
        )


def _check_postgresql(database: Any) -> None:
    encoding = database.execute_sql("SELECT getdatabaseencoding()").fetchone()[0]
    if encoding != "UTF8":
        raise StoreNotReady(f"The database's encoding is {encoding}. Make one with ENCODING 'UTF8'.")
