"""Counting between two flushes: what happens at its bounds, and what clients may make it count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from doorward_server.core.errors import Overloaded, StoreUnavailable
from doorward_server.core.model import DAY
from doorward_server.core.reasons import Reason
from doorward_server.core.usage import ADDRESSES, HOUR, Cell, Cells, Counted, Dimension, Folding, Scope, Stranger
from doorward_server.service import counting as module
from doorward_server.service.catalog import Catalog
from doorward_server.service.counting import Counting
from doorward_server.service.leasing import Hit
from doorward_server.service.pool import Pool
from doorward_server.service.retention import Retention
from doorward_server.store import Store
from tests.fakes import FakeClock
from tests.service.door import Door

SHOP = """
keyspace: shop
prefix: shop
credentials: [{header: x-api-key}]
types: {things: [read]}
roles: {reader: {rules: [{actions: ["things:read"]}]}}
usage: {keep: 2d}
decision_log: {record: all, keep: 1d}
"""
EVER = Scope("-", 0, 2**60, keyspace="shop")


@dataclass
class Till:
    """A counting of its own beside that of the door, and an organization with a key."""

    door: Door
    counting: Counting
    organization: str
    key: str

    @property
    def store(self) -> Store:
        return self.door.app.store

    def flush(self) -> None:
        self.door.run(self.counting.flush())

    def hit(self, **more: Any) -> Hit:
        told: dict[str, Any] = {
            "organization": self.organization, "keyspace": "shop", "key": self.key, "secret": "s",
            "action": "things:read", "resource": "things/1", "reason": Reason.ALLOWED, "count": 3,
            "last_at": self.door.clock(),
        }  # fmt: skip
        return Hit(**{**told, **more})

    def sums(self, by: Dimension = Dimension.KEY, scope: Scope = EVER) -> dict[str | int, int]:
        return {it.value: it.allowed + it.denied for it in self.store.usage.sum_by(scope, by, 1000)}


@pytest.fixture
def till(door: Door, clock: FakeClock) -> Iterator[Till]:
    door.apply(SHOP)
    organization = door.organization("acme", "alice")
    key = door.create(organization, "shop", owner="alice").key.id
    pool = Pool("counting", threads=1, backlog=1)
    yield Till(door, Counting(door.app.store, Catalog(door.app.store), pool, clock, "till"), organization, key)
    pool.close()


def test_hits_count_under_the_owner_that_the_store_knows(till: Till) -> None:
    till.counting.hit(till.hit())
    till.counting.hit(till.hit(count=4, resource="", reason=Reason.SCOPE_INSUFFICIENT))
    till.flush()
    assert till.sums() == {till.key: 7}
    assert till.sums(Dimension.RESOURCE) == {"things/1": 3, "things": 4}
    assert till.sums(scope=Scope(till.organization, 0, 2**60, owner="alice")) == {till.key: 7}


def test_what_cannot_be_true_of_a_hit_is_not_counted(till: Till) -> None:
    for wrong in (
        {"key": "key_none"},
        {"organization": "nobody"},
        {"keyspace": "nosuch"},
        {"keyspace": "doorward"},
        {"action": "things:fly"},
        {"resource": "elephants/1"},
        {"resource": "things/*"},
        {"resource": "things/a\0b"},
        {"resource": "things//b"},
    ):
        till.counting.hit(till.hit(**wrong))
    till.flush()
    assert till.sums(scope=Scope("-", 0, 2**60)) == {}


def test_a_flush_that_fails_keeps_everything(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable

    for method in ("add", "find_key"):
        till.counting.hit(till.hit())
        _count(till)
        monkeypatch.setattr(till.store.usage, method, away)
        with pytest.raises(StoreUnavailable):
            till.flush()
        monkeypatch.undo()
    till.flush()
    assert till.sums() == {till.key: 6, "": 2}


def test_a_flush_that_finds_no_thread_keeps_everything(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> None:
        raise Overloaded

    _count(till)
    till.counting.hit(till.hit())
    monkeypatch.setattr(till.counting._writes, "run", full)
    with pytest.raises(Overloaded):
        till.flush()
    monkeypatch.undo()
    _count(till)
    till.flush()
    assert till.sums() == {till.key: 3, "": 2}


def test_a_flush_that_nobody_waits_for_any_more_counts_once(till: Till) -> None:
    async def impatient() -> None:
        flushing = asyncio.create_task(till.counting.flush())
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        await till.counting.flush()

    _count(till)
    till.door.run(impatient())
    assert till.sums() == {"": 1}


def test_at_the_bound_details_go_first_then_counts_and_that_is_told(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    for i in range(20):
        _count(till, path=("things", f"t{i}"))
    assert till.counting.dropped == 0
    for i in range(20):
        _count(till, path=("things", f"t{i}"), action=f"things:a{i}")
    assert till.counting.dropped == 18
    monkeypatch.undo()
    till.flush()
    assert sum(till.sums().values()) == 40 - 18


def _count(till: Till, action: str = "things:read", path: tuple[str, ...] = ("things",)) -> None:
    till.counting.decided(None, None, "shop", action, path, Reason.KEY_UNKNOWN, "", "shop", till.door.clock())


def test_what_is_too_old_goes_and_the_rest_stays(till: Till) -> None:
    now = till.door.clock()
    cells = Cells()
    for age in range(4):
        cells.cells[Cell(till.organization, "k", now - age * DAY, "shop", "", "things:read", "", "ALLOWED")] = 1
    till.store.usage.add("old", 1, cells, now)
    retention = Retention(till.store, Catalog(till.store))
    assert retention.sweep(now) == 1  # of three days; two days ago is the hour that is still kept
    assert retention.sweep(now) == 0
    assert retention.sweep(now + HOUR) == 1
    assert sum(till.sums().values()) == 2


# --- folding ----------------------------------------------------------------------------------------------------------


def counted(**more: Any) -> Counted:
    told = Counted("acme", "k", "", "shop", "things:read", ("things", "1"), "ALLOWED", "192.0.2.1", HOUR, None)
    return told._replace(**more)


def test_addresses_of_a_key_and_hour_are_bounded_and_begin_anew_with_the_next() -> None:
    folding, cells = Folding(), Cells()
    for hour in (HOUR, 2 * HOUR):
        folding.fold({counted(address=f"192.0.2.{i}", hour=hour): 1 for i in range(2 * ADDRESSES)}, cells)
        found = {it.address: count for it, count in cells.addresses.items() if it.hour == hour}
        assert len(found) == ADDRESSES + 1
        assert found["*"] == ADDRESSES
    assert cells.cells.total() == cells.addresses.total() == 4 * ADDRESSES


def test_strangers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorward_server.core.usage.STRANGERS", 10)
    folding, cells = Folding(), Cells()
    many = {counted(key="", address=f"2001:db8:{i:x}::1", stranger=Stranger("shop", "k9")): 1 for i in range(100)}
    for _ in range(2):
        folding.fold(many, cells)
    assert len(cells.strangers) == 11
    assert cells.strangers.total() == 200
    assert max(cells.strangers.values()) == 2 * 90


def test_keys_beyond_those_that_are_tracked_count_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorward_server.core.usage.TRACKED", 1)
    folding, cells = Folding(), Cells()
    folding.fold({counted(): 1, counted(key="other"): 1}, cells)
    assert {(it.key, it.resource) for it in cells.cells} == {("k", "things/1"), ("other", "things/*")}
    assert {(it.key, it.address) for it in cells.addresses} == {("k", "192.0.2.1"), ("other", "*")}
