"""This process in the registry: an id is used once, a beat brings nothing back, and who leaves says what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward_server.core.model import SECOND
from doorward_server.service.replica import Membership
from doorward_server.store import Store
from tests.fakes import FakeClock
from tests.service.hosts import Host, host


@pytest.fixture
def alone(store_url: str, tmp_path: Path, clock: FakeClock) -> Iterator[Host]:
    with host(store_url, tmp_path, clock) as made:
        yield made


@pytest.fixture
def store(alone: Host) -> Store:
    return alone.store


@pytest.fixture
def membership(alone: Host) -> Membership:
    return alone.app.membership


def test_a_replica_is_registered_with_how_long_its_caches_live(
    store: Store, membership: Membership, clock: FakeClock
) -> None:
    (row,) = store.replicas.list_all()
    assert (row.id, row.max_staleness, row.serve_stale_for, row.condemned) == (membership.id, SECOND, 0, False)
    assert membership.max_staleness == SECOND
    assert row.seen_at == clock()


def test_a_condemned_replica_registers_under_another_id(store: Store, membership: Membership) -> None:
    first = membership.id
    store.replicas.condemn([first])
    membership.beat()
    assert [it.condemned for it in store.replicas.list_all()] == [True]
    second = membership.register()
    assert second == membership.id != first
    assert {it.id: it.condemned for it in store.replicas.list_all()} == {first: True, second: False}
    assert store.replicas.list_all()[0].peppers == store.replicas.list_all()[1].peppers != {}


def test_a_beat_does_not_bring_a_deleted_row_back(store: Store, membership: Membership) -> None:
    store.replicas.delete([membership.id])
    membership.beat()
    assert store.replicas.list_all() == []
    membership.register()
    assert [it.id for it in store.replicas.list_all()] == [membership.id]


def test_a_replica_that_leaves_a_lease_behind_stays_condemned(store: Store, membership: Membership) -> None:
    membership.leave(condemn=True)
    assert [(it.id, it.condemned) for it in store.replicas.list_all()] == [(membership.id, True)]
    membership.leave()
    assert store.replicas.list_all() == []


def test_a_replica_goes_by_the_setting_of_its_registration(alone: Host, membership: Membership) -> None:
    store = alone.store
    (made,) = store.list_events("operator", 0, 1)
    store.replicas.update_max_staleness(SECOND // 2, made.event)
    membership.beat()
    assert store.replicas.list_all()[0].max_staleness == membership.max_staleness == SECOND
    membership.register()
    assert membership.max_staleness == SECOND // 2
    assert {it.max_staleness for it in store.replicas.list_all() if not it.condemned} == {SECOND // 2}
