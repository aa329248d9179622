"""What one remembered key takes: everything that the cache holds because of it, shared parts included in proportion."""

from __future__ import annotations

import gc
import sys
import tempfile
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from doorward.v1 import keys_pb2  # noqa: E402
from doorward_server.core.decide import ALLOWED  # noqa: E402
from doorward_server.service.authorizing import Answer  # noqa: E402
from doorward_server.service.importing import MAX_ROWS  # noqa: E402
from doorward_server.wire.decided import to_response  # noqa: E402
from tests.databases import fresh  # noqa: E402
from tests.fakes import FakeClock  # noqa: E402
from tests.service.door import Door, keyspace, opened_door, row  # noqa: E402
from tests.service.hosts import by_hand  # noqa: E402

KEYS, OWNERS = 10_000, 1_000
LEGACY = "legacy: [{name: old, prefix: 'old_', alphabet: hex, length: 40, entropy_bits: 128, lookup: 8}]"


def bytes_per_key(keys: int = KEYS, owners: int = OWNERS) -> float:
    """Return how many bytes the process grows by for each of *keys* that it remembers, with names, labels, scopes, a
    network and an expiry, of so many *owners*.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        fresh("sqlite", Path(name)) as url,
        opened_door(url, Path(name), FakeClock()) as door,
    ):
        return _grown(door, _take_in(door, keys, owners)) / keys


def _take_in(door: Door, keys: int, owners: int) -> list[str]:
    door.apply(keyspace("shop", "prefix: shop", "inherit: true", LEGACY))
    people = [f"person{number}" for number in range(owners)]
    organization = door.organization("acme", *people)
    rows = [_row(number, people[number % owners]) for number in range(keys)]
    for start in range(0, keys, MAX_ROWS):
        taken = door.take_in(organization, "shop", *rows[start : start + MAX_ROWS])
        assert all(it.outcome == keys_pb2.IMPORT_OUTCOME_CREATED for it in taken.results), taken.results[0]
    found = by_hand(door.app.store, "SELECT lookup FROM secret WHERE keyspace = ?", "shop")
    return [lookup for (lookup,) in found]


def _row(number: int, owner: str) -> keys_pb2.ImportRow:
    return row(
        f"number-{number}",
        text=f"old_{number:08}{'0123456789abcdef' * 2}",
        owner=owner,
        scopes=["reader", "writer"],
        metadata={"team": f"team-{number % 97}", "ticket": f"OPS-{number}"},
        allowed_cidrs=["10.0.0.0/8"],
        expires_at={"seconds": 2_000_000_000},
    )


def _grown(door: Door, lookups: list[str]) -> int:
    freshness, finder = door.app.freshness, door.app.authorizer._finder
    freshness.cache.start(door.app.store.revision())
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for lookup in lookups:
            fill, _ = finder._read_key("shop", lookup)
            assert fill.known
            freshness.cache.offer(("key", "shop", lookup), fill, freshness.cache.generation)
            known = fill.value  # answered once: what the answer says of its holder stays with it
            to_response(Answer(ALLOWED, known.subject, known.keyspace, fill.revision, "", memo=known.memo))
        del fill, known
        gc.collect()
        assert len(freshness.cache) == len(lookups)
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    print(f"{bytes_per_key(keys, max(1, keys // 10)):,.0f} bytes for each remembered key")
