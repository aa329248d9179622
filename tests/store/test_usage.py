"""Usage by the hour and the decision log in the store: what is counted once, found, listed and pruned."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorward_server.core.usage import (
    HOUR,
    AddressCell,
    Cell,
    CellCount,
    Cells,
    DecisionRecord,
    Dimension,
    Scope,
    StrangerCell,
    StrangerCount,
    Sum,
    hour_of,
)
from doorward_server.store import Store
from tests import databases
from tests.store.values import NOW, add_key, event

T0 = hour_of(NOW)
ALL = Scope("acme", T0, T0 + 100 * HOUR)


def cell(key: str = "k1", hour: int = 0, **more: Any) -> Cell:
    return Cell("acme", key, T0 + hour * HOUR, "aiia", "alice", "flows:read", "flows/1", "ALLOWED")._replace(**more)


def some(**counts: int) -> Cells:
    """Cells of the key k1 in hour 0, by reason."""
    cells = Cells()
    for reason, count in counts.items():
        cells.cells[cell(reason=reason)] += count
        cells.addresses[AddressCell("acme", "k1", T0, "aiia", "alice", "192.0.2.1", reason)] += count
    return cells


def totals(store: Store, scope: Scope = ALL) -> dict[str | int, tuple[int, int]]:
    return {it.value: (it.allowed, it.denied) for it in store.usage.sum_by(scope, Dimension.REASON, 100)}


def test_counts_add_up_over_flushes_and_sources(empty: Store) -> None:
    assert empty.usage.add("one", 1, some(ALLOWED=3, KEY_REVOKED=1), NOW)
    assert empty.usage.add("one", 2, some(ALLOWED=2), NOW)
    assert empty.usage.add("two", 1, some(KEY_REVOKED=4), NOW)
    assert totals(empty) == {"ALLOWED": (5, 0), "KEY_REVOKED": (0, 5)}
    assert empty.usage.sum_by(ALL, Dimension.ADDRESS, 10) == [Sum("192.0.2.1", 5, 5)]


def test_a_flush_that_is_sent_again_counts_once(empty: Store) -> None:
    """Its answer may have been lost, and what came after it may have been kept already."""
    assert empty.usage.add("one", 1, some(ALLOWED=3), NOW)
    assert not empty.usage.add("one", 1, some(ALLOWED=3), NOW)
    assert empty.usage.add("one", 2, some(ALLOWED=1), NOW)
    assert not empty.usage.add("one", 1, some(ALLOWED=3), NOW)
    assert totals(empty) == {"ALLOWED": (4, 0)}


def test_flushes_at_the_same_time_lose_nothing(empty: Store) -> None:
    cells = Cells(Counter({cell(f"k{i}"): 1 for i in range(50)}))

    def flush(source: str) -> None:
        for sequence in range(1, 11):
            backwards = Cells(Counter(dict(reversed(cells.cells.items()))))
            assert empty.usage.add(source, sequence, backwards if source == "b" else cells, NOW)

    threads = [threading.Thread(target=flush, args=(source,)) for source in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sums = empty.usage.sum_by(ALL, Dimension.KEY, 100)
    assert {it.value: it.allowed for it in sums} == {f"k{i}": 40 for i in range(50)}


def test_sums_are_of_the_scope_and_no_more(empty: Store) -> None:
    counts = Counter({
        cell(): 1,
        cell(hour=1): 2,
        cell("k2", owner="", action="flows:run", resource="flows/*", reason="DENIED_BY_RULE"): 4,
        cell("k3", owner="bob", keyspace="vault"): 8,
        cell("k1", organization="umbra"): 16,
    })  # fmt: skip
    empty.usage.add("one", 1, Cells(counts), NOW)

    def total(**scope: Any) -> int:
        return sum(it.allowed + it.denied for it in empty.usage.sum_by(replace(ALL, **scope), Dimension.HOUR, 100))

    assert total() == 15
    assert total(key="k1") == 3
    assert total(key="k1", since=T0 + HOUR) == 2
    assert total(key="k1", until=T0 + HOUR) == 1
    assert total(owner="alice") == 3
    assert total(owner="bob", keyspace="aiia") == 0
    assert total(keyspace="vault") == 8
    assert total(organization="umbra") == 16
    assert total(organization="-", keyspace="aiia") == 23
    assert total(organization="-") == 31
    by_action = empty.usage.sum_by(ALL, Dimension.ACTION, 10)
    assert by_action == [Sum("flows:read", 11, 0), Sum("flows:run", 0, 4)]
    assert empty.usage.sum_by(ALL, Dimension.ACTION, 1) == by_action[:1]
    assert [it.value for it in empty.usage.sum_by(ALL, Dimension.HOUR, 10)] == [T0, T0 + HOUR]
    assert empty.usage.sum_by(ALL, Dimension.RESOURCE, 10)[1] == Sum("flows/*", 0, 4)


SCOPES: list[dict[str, Any]] = [
    {},
    {"key": "k1"},
    {"owner": "alice"},
    {"keyspace": "aiia"},
    {"key": "k1", "keyspace": "aiia"},
    {"organization": "-", "keyspace": "aiia"},
    {"organization": "-"},
]


def listed(store: Store, scope: Scope, page: int) -> list[Cell]:
    found: list[CellCount] = []
    while more := store.usage.list_cells(scope, found[-1].cell if found else None, page):
        assert len(more) <= page
        found += more
    assert all(it.count == 1 for it in found)
    return [it.cell for it in found]


@pytest.mark.parametrize("wanted", SCOPES, ids=str)
def test_cells_are_listed_page_by_page(empty: Store, wanted: dict[str, Any]) -> None:
    several: dict[str, Any] = {
        "organization": ("acme", "umbra"), "key": ("k0", "k1", "k2"), "hour": (0, 1, 200),
        "keyspace": ("aiia", "vault"), "owner": ("", "alice"), "action": ("flows:read", "flows:run"),
    }  # fmt: skip
    cells = [cell(**dict(zip(several, it, strict=True))) for it in itertools.product(*several.values())]
    empty.usage.add("one", 1, Cells(Counter(cells)), NOW)
    scope = replace(ALL, **wanted)
    named = {name: value for name, value in {"organization": "acme", **wanted}.items() if value != "-"}
    mine = [it for it in cells if it.hour < ALL.until and all(getattr(it, name) == named[name] for name in named)]
    found = listed(empty, scope, 3)
    assert len(found) == len(mine)
    assert set(found) == set(mine)
    assert listed(empty, scope, 1_000) == found


def test_strangers_are_told_apart(empty: Store) -> None:
    cells = Cells()
    one = StrangerCell("acme", "aiia", T0, "k9", "aiia_live", "192.0.2.1", "KEY_UNKNOWN")
    cells.strangers.update({one: 2, one._replace(hour=T0 + HOUR): 3, one._replace(prefix=""): 1})
    empty.usage.add("one", 1, cells, NOW)
    first, second = empty.usage.list_strangers(ALL, 10)
    assert first == StrangerCount("aiia_live", "192.0.2.1", "k9", "KEY_UNKNOWN", 5)
    assert second.count == 1
    assert empty.usage.list_strangers(replace(ALL, keyspace="vault"), 10) == []


def test_what_is_older_is_pruned_in_chunks_and_nothing_else(empty: Store) -> None:
    cells = Cells(Counter({cell(f"k{i}", i % 4): 1 for i in range(40)}))
    cells.cells[cell("k0", 0, keyspace="vault")] = 1
    empty.usage.add("one", 1, cells, NOW)
    empty.usage.record([record(i) for i in range(10)])
    pruned = []
    while count := empty.usage.prune("aiia", T0 + 2 * HOUR, NOW + 5, 7):
        pruned.append(count)
    assert sum(pruned) == 20 + 5
    assert max(pruned) <= 2 * 7
    kept = {it.value for it in empty.usage.sum_by(replace(ALL, keyspace="aiia"), Dimension.HOUR, 100)}
    assert kept == {T0 + 2 * HOUR, T0 + 3 * HOUR}
    assert len(empty.usage.list_cells(replace(ALL, keyspace="vault"), None, 10)) == 1
    assert len(empty.usage.list_decisions(ALL, None, 100)) == 5


def record(number: int, **more: Any) -> DecisionRecord:
    made = DecisionRecord(
        NOW + number,
        f"d{number}",
        "acme",
        "aiia",
        "k1",
        "alice",
        "flows:read",
        "flows/1",
        "ALLOWED",
        "192.0.2.1",
        "x/k9",
    )
    return replace(made, **more)


def test_decisions_are_listed_newest_first_by_key_owner_and_time(empty: Store) -> None:
    records = [record(i // 2, id=f"d{i}", key=f"k{i % 2}", owner=("alice", "")[i % 2]) for i in range(10)]
    empty.usage.record(records)
    empty.usage.record(records[:3])  # sent again

    def ids(**scope: Any) -> list[str]:
        found: list[DecisionRecord] = []
        while page := empty.usage.list_decisions(
            replace(ALL, **scope), (found[-1].at, found[-1].id) if found else None, 2
        ):
            found += page
        return [it.id for it in found]

    assert ids() == [f"d{i}" for i in range(9, -1, -1)]
    assert ids(key="k1") == ["d9", "d7", "d5", "d3", "d1"]
    assert ids(owner="alice") == ["d8", "d6", "d4", "d2", "d0"]
    assert ids(since=NOW + 1, until=NOW + 3) == ["d5", "d4", "d3", "d2"]
    assert ids(keyspace="vault") == []
    assert empty.usage.list_decisions(ALL, None, 1) == [records[-1]]


def test_a_deleted_key_is_found_by_who_looks_for_its_usage(store: Store) -> None:
    key = add_key(store, owner="alice")
    store.update_key("acme", key.id, lambda it: (it.delete(NOW), event("acme", "keys:delete", key.id)))
    assert store.find_key("acme", key.id) is None
    assert store.usage.find_key("acme", key.id) == ("aiia", "alice")
    assert store.usage.find_key("umbra", key.id) is None


def test_what_is_counted_makes_no_revision(store: Store) -> None:
    before = store.revision()
    store.usage.add("one", 1, some(ALLOWED=1), NOW)
    store.usage.record([record(1)])
    store.usage.prune("aiia", NOW + HOUR, NOW + HOUR)
    store.usage.prune_flushes(NOW + 1)
    assert store.revision() == before
    assert store.usage.add("one", 1, some(ALLOWED=1), NOW)  # forgotten, so it is new


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_cells_are_taken_out_whole_and_none_twice(most: int) -> None:
    cells = Cells(Counter({cell(f"k{i}"): i + 1 for i in range(20)}))
    whole, taken = Counter(cells.cells), Counter[Cell]()
    while len(cells):
        part = cells.take(most)
        assert 0 < len(part.cells) <= most
        taken += part.cells
    assert taken == whole


@pytest.mark.parametrize("wanted", SCOPES, ids=str)
def test_a_page_of_cells_looks_at_nothing_before_it(tmp_path: Path, wanted: dict[str, Any]) -> None:
    """So that an export takes as long as it has rows, and not the square of that. The steps are those of SQLite."""
    with databases.fresh("sqlite", tmp_path) as url:
        store = databases.open_store(url)
        cells = [cell(f"k{i % 3}", i % 30, resource=f"flows/{i}") for i in range(3_000)]
        for start in range(0, len(cells), 1_000):
            store.usage.add("one", start + 1, Cells(Counter(cells[start : start + 1_000])), NOW)
        scope, steps = replace(ALL, **wanted), [0]
        database, connect = store._dialect.database, store._dialect.database.connect

        def stepped() -> None:
            steps[-1] += 1

        def counting() -> Any:
            connect()
            database.connection().set_progress_handler(stepped, 100)

        database.connect = counting
        last = None
        while page := store.usage.list_cells(scope, last, 100):
            last = page[-1].cell
            steps.append(0)
        store.close()
    assert len(steps) > 10
    assert max(steps) < 100, steps


@contextmanager
def plans(store: Store, table: str) -> Iterator[list[str]]:
    """Collect how SQLite finds what is read of *table*."""
    found: list[str] = []
    execute = store._dialect.database.execute_sql

    def planned(sql: str, params: Any = None) -> Any:
        if f"FROM {table}" in sql:
            steps = [str(row[3]) for row in execute(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()]
            found.extend(it for it in steps if it.startswith(("SEARCH", "SCAN")))
        return execute(sql, params)

    store._dialect.database.execute_sql = planned
    yield found


@pytest.mark.parametrize("wanted", [{"key": "k1"}, {"owner": "alice"}], ids=str)
def test_the_decisions_of_one_key_or_owner_are_found_without_those_of_the_others(
    tmp_path: Path, wanted: dict[str, Any]
) -> None:
    with databases.fresh("sqlite", tmp_path) as url:
        store = databases.open_store(url)
        with plans(store, "decision") as found:
            store.usage.list_decisions(replace(ALL, **wanted), None, 10)
            store.usage.list_decisions(replace(ALL, **wanted), (T0, "d1"), 10)
        store.close()
    assert len(found) == 2
    assert all(f"(organization=? AND {next(iter(wanted))}=? AND at>? AND" in it for it in found), found


@pytest.mark.parametrize(
    "scope",
    [{"key": "k1"}, {"owner": "alice"}, {}, {"keyspace": "aiia"}, {"organization": "-", "keyspace": "aiia"}],
    ids=str,
)
def test_a_report_looks_at_nothing_but_its_own_hours(tmp_path: Path, scope: dict[str, Any]) -> None:
    """So that it takes as long in a store of a million cells; tests/bench/usage.py measures it."""
    with databases.fresh("sqlite", tmp_path) as url:
        store = databases.open_store(url)
        with plans(store, "usage_") as looks:
            for dimension in Dimension:
                store.usage.sum_by(replace(ALL, **scope), dimension, 10)
        store.close()
    assert len(looks) == len(Dimension)
    whose = "" if scope.get("organization") == "-" else "organization=? AND "
    assert all(it.startswith("SEARCH") and whose in it and "hour>? AND hour<?" in it for it in looks), looks
