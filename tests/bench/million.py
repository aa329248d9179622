"""A store with very many keys, made by writing rows: through the service it would take an hour.

One key is made as always. Its rows, as they then stand in the tables, are the template of all others, which differ in
what must differ; `doorward-server migrate` makes the change log anew, whose triggers slept meanwhile. A store is kept
under build/ and used again as long as neither the migrations nor this file changed.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorward_server.core.keytext import KeyText, mint
from doorward_server.service.peppers import read_ring
from tests.bench.machine import ROOT, doorward, root_of
from tests.bench.world import ENVIRONMENT, KEYSPACE, World, seeder

MIGRATIONS = ROOT / "server" / "doorward_server" / "store" / "migrations"
PER_INSERT = 50_000
Cells = dict[str, Any]


@dataclass(frozen=True)
class Million:
    """The folder of a Doorward with *count* keys of which `text` knows every one."""

    folder: Path
    count: int
    backend: str

    def texts(self, some: int, seed: int) -> list[str]:
        """The texts of *some* different keys, drawn with *seed*."""
        return [text(number).secret.reveal() for number in random.Random(seed).sample(range(self.count), some)]

    def world(self) -> World:
        """For rows that ask about one of them."""
        one = text(self.count // 2).secret.reveal()
        return World(self.backend, (one,), one, {})


def text(number: int) -> KeyText:
    """The key text of a number: always the same, and nobody else's."""
    return mint(KEYSPACE, ENVIRONMENT, hashlib.sha256(f"bench key {number}".encode()).digest())


def furnished(count: int, build: Path) -> Million:
    """Return a store of *count* keys under *build*, made now if it is not there."""
    folder = build / f"store-{count}-{_fingerprint()}"
    if not (folder / "backend").exists():
        for old in build.glob(f"store-{count}-*"):
            shutil.rmtree(old)
        _make(folder, count)
    return Million(folder, count, (folder / "backend").read_text("utf-8"))


def _fingerprint() -> str:
    files = [Path(__file__), *sorted(MIGRATIONS.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _make(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    with doorward(folder) as server, seeder(server.target, root_of(folder)) as seeding:
        world = seeding.seed(1)
    _multiply(folder / "var", world.keys[0], count)
    environ = {**os.environ, "DOORWARD_STATE_DIR": str(folder / "var")}
    subprocess.run([sys.executable, "-m", "doorward_server", "migrate"], env=environ, check=True, capture_output=True)
    backend = folder / "backend"
    backend.touch(0o600)
    backend.write_text(world.backend, "utf-8")


def _multiply(var: Path, template: str, count: int) -> None:
    ring = read_ring(var / "peppers.json")
    assert ring is not None
    with sqlite3.connect(var / "doorward.db") as store:
        for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            store.execute(f'DROP TRIGGER "{name}"')
        secret = _row(store, "SELECT * FROM secret WHERE last4 = ? AND keyspace = ?", template[-4:], KEYSPACE)
        key = _row(store, "SELECT * FROM key WHERE id = ?", secret["key"])
        for start in range(0, count, PER_INSERT):
            # In the order of their ids and lookups, so that no index is written here and there.
            made = [(number, text(number)) for number in range(start, min(start + PER_INSERT, count))]
            _insert(store, "key", (key | {"id": f"bench{n:09}", "name": f"key {n}"} for n, _ in made))
            made.sort(key=lambda it: it[1].lookup)
            _insert(
                store, "secret", (_secret(secret, n, it, ring.peppers.verifier(it.secret).digest) for n, it in made)
            )
        store.execute("UPDATE tally SET keys = keys + ? WHERE organization = ?", (count, key["organization"]))
    store.close()


def _secret(template: Cells, number: int, made: KeyText, digest: bytes) -> Cells:
    own = {"key": f"bench{number:09}", "lookup": made.lookup, "digest": digest, "last4": made.secret.reveal()[-4:]}
    return template | own


def _row(store: sqlite3.Connection, query: str, *values: str) -> Cells:
    cursor = store.execute(query, values)
    (found,) = cursor.fetchall()
    return dict(zip((column[0] for column in cursor.description), found, strict=True))


def _insert(store: sqlite3.Connection, table: str, rows: Iterable[Cells]) -> None:
    rows = iter(rows)
    first = next(rows)
    marks = ", ".join("?" * len(first))

    def cells() -> Iterator[tuple[Any, ...]]:
        yield tuple(first.values())
        for row in rows:
            yield tuple(row.values())

    store.executemany(f"INSERT INTO {table} ({', '.join(first)}) VALUES ({marks})", cells())
