"""Expired keys get their event from whichever replica looks first, also after a restart, and without being used."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from doorward.v1 import keys_pb2
from doorward_server import app as composition
from doorward_server.app import build, opened
from doorward_server.config import Config
from doorward_server.service import expiring
from doorward_server.service.expiring import Expiring
from tests.fakes import SECOND, FakeClock, FakeRandom
from tests.service.door import CHEAP, Door, keyspace, opened_door, row, unique

DAY = 86_400
OLD = "legacy: [{name: old, prefix: old_, alphabet: base62, length: 30, entropy_bits: 170}]"


def configured(**settings: Any) -> Config:
    return Config(bcrypt_cost=CHEAP, **settings)


def dying(door: Door, days: int = 1, keys: int = 1) -> tuple[str, list[str]]:
    """An organization with keys of a new keyspace that expire; and their ids."""
    name, organization = unique("ks"), door.organization()
    door.apply(keyspace(name, f"prefix: {name}"))
    made = [door.create(organization, name, expiry={"duration": {"seconds": days * DAY}}) for _ in range(keys)]
    return organization, [it.key.id for it in made]


def told(door: Door, organization: str) -> list[tuple[str, int]]:
    """Which keys of an organization expired, and when, as its audit log says."""
    return [(it.target, it.at) for it in door.events(organization, "keys:expire")]


def test_a_sweep_tells_what_expired_since(door: Door) -> None:
    organization, (id,) = dying(door)
    sweep = door.app.expiring.sweep
    assert sweep(door.clock()) == 0
    at = door.clock.advance(DAY)
    door.clock.advance(7)
    assert (sweep(door.clock()), sweep(door.clock.advance(1))) == (1, 0)
    assert told(door, organization) == [(id, at)]


def test_an_extension_and_a_second_expiry_are_a_second_event(door: Door) -> None:
    organization, (id,) = dying(door)
    at = door.clock.advance(DAY)
    door.clock.advance(1)
    key = keys_pb2.Key(organization=organization, id=id)
    request = keys_pb2.UpdateKeyRequest(key=key, expiry=keys_pb2.Expiry(duration=Duration(seconds=60)))
    request.update_mask.paths.append("expires_at")
    door.run(door.keys.UpdateKey(request, door.caller()))
    assert told(door, organization) == [(id, at)], "though nobody had looked yet"
    again = door.clock.advance(60)
    assert door.app.expiring.sweep(door.clock()) == 1
    assert told(door, organization) == [(id, at), (id, again)]


def test_a_key_that_came_in_expired_is_not_told(door: Door) -> None:
    name, organization = unique("ks"), door.organization()
    door.apply(
        keyspace(
            name,
            f"prefix: {name}",
            "legacy: [{name: old, prefix: old_, alphabet: base62, length: 30, entropy_bits: 170}]",
        )
    )
    past, soon = door.clock() // SECOND - 60, door.clock() // SECOND + 60
    rows = [
        row(text=f"old_{word * 30}", created_at={"seconds": past - 60}, expires_at={"seconds": seconds})
        for word, seconds in (("a", past), ("b", soon))
    ]
    taken = door.take_in(organization, name, *rows)
    assert [it.outcome for it in taken.results] == [keys_pb2.IMPORT_OUTCOME_CREATED] * 2
    assert door.app.expiring.sweep(door.clock.advance(100)) == 1
    assert [id for id, _ in told(door, organization)] == [taken.results[1].key_id]


def test_after_a_restart_everything_is_looked_at(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    with opened_door(store_url, tmp_path, clock) as door:
        organization, (id,) = dying(door)
        door.app.expiring.sweep(clock())
    at = clock.advance(DAY)
    clock.advance(30 * DAY)
    with opened_door(store_url, tmp_path, clock) as door:
        assert door.app.expiring.sweep(clock()) == 1
        assert told(door, organization) == [(id, at)]


def test_later_sweeps_look_back_an_hour_only(door: Door) -> None:
    """What is behind that is marked, and is not read again; so a million expired keys cost nothing."""
    dying(door, keys=2)
    looked: list[int] = []
    real = door.app.store.list_unmarked_expiries

    def watched(since: int, now: int, limit: int) -> list[tuple[str, str]]:
        looked.append(since)
        return real(since, now, limit)

    door.app.store.list_unmarked_expiries = watched  # type: ignore[method-assign]
    first = door.clock.advance(DAY)
    for _ in range(2):
        door.app.expiring.sweep(first)
    assert looked[0] <= 0
    assert looked[-1] == first - expiring.OVERLAP


def test_more_than_one_round(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiring, "MANY", 4)
    monkeypatch.setattr(expiring, "CHUNK", 3)
    organization, ids = dying(door, keys=9)
    assert door.app.expiring.sweep(door.clock.advance(DAY)) == 9
    assert sorted(id for id, _ in told(door, organization)) == sorted(ids)


def test_two_replicas_sweep_at_once(door: Door, tmp_path: Path, store_url: str) -> None:
    organization, ids = dying(door, keys=30)
    now = door.clock.advance(DAY)
    config = configured(store=store_url, state_dir=tmp_path)
    counts: list[int] = []
    together = threading.Barrier(2)
    with opened(config, door.clock, FakeRandom("other")) as (store, _, _):

        def replica(mine: Expiring) -> None:
            together.wait(30)
            counts.append(mine.sweep(now))

        threads = [threading.Thread(target=replica, args=(it,)) for it in (door.app.expiring, Expiring(store))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(counts) == len(ids)
    assert sorted(id for id, _ in told(door, organization)) == sorted(ids)


def test_a_server_sweeps_by_itself(
    store_url: str, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition, "SWEEP_SECONDS", 0.01)
    with opened_door(store_url, tmp_path, clock) as door:
        organization, (id,) = dying(door)
    config = configured(store=store_url, state_dir=tmp_path, listen="127.0.0.1:0", metrics_listen="")
    random = FakeRandom("server")
    with opened(config, clock, random) as (store, keyring, _):

        async def serve() -> None:
            app = build(config, store, keyring, clock, random)
            await app.start()
            clock.advance(2 * DAY)
            for _ in range(1000):
                events = [it.event for it in store.list_events(organization, 0, 999)]
                if any(it.action == "keys:expire" and it.target == id for it in events):
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError("no event")
            await app.stop()

        asyncio.run(serve())
