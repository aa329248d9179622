"""BatchRevokeKeys: exactly what the filter finds, all of it, each with its audit event."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.v1 import keys_pb2
from doorward_server.core.errors import CallerForbidden, CountMismatch, InvalidField
from doorward_server.core.model import Actor, Event, KeyFilter
from doorward_server.service.batch_revoking import CHUNK, SAMPLE
from doorward_server.service.guard import Caller
from tests.service.door import Door, keyspace, row


@pytest.fixture
def shop(door: Door) -> Door:
    door.apply(keyspace("shop", "prefix: shop"))
    door.apply(keyspace("park", "prefix: park"))
    return door


def batch(
    door: Door, organization: str, *, by: Caller | None = None, reason: str = "leaked", **request: Any
) -> keys_pb2.BatchRevokeKeysResponse:
    made = keys_pb2.BatchRevokeKeysRequest(organization=organization, reason=reason, **request)
    return door.run(door.keys.BatchRevokeKeys(made, by or door.caller()))


def test_what_the_filter_finds_is_ended_and_nothing_else(shop: Door) -> None:
    acme, globex = shop.organization(), shop.organization("globex")
    live = [shop.create(acme, "shop", name=f"till {i}") for i in range(3)]
    test = shop.create(acme, "shop", environment="test")
    others = [shop.create(acme, "park"), shop.create(globex, "shop"), test]
    wanted = {"keyspace": "shop", "environment": "live"}
    dry = batch(shop, acme, filter=wanted, dry_run=True)
    assert (dry.count, {key.id for key in dry.sample}) == (3, {it.key.id for it in live})
    assert all(key.state == keys_pb2.KEY_STATE_ACTIVE for key in dry.sample)
    assert shop.verdict("shop", live[0].secret) == "ALLOWED"
    done = batch(shop, acme, filter=wanted, expected_count=dry.count)
    assert (done.count, done.sample[0].revoke_reason) == (3, "leaked")
    assert [key.id for key in done.sample] == [key.id for key in dry.sample]
    assert all(key.state == keys_pb2.KEY_STATE_REVOKED for key in done.sample)
    assert done.revision > dry.revision
    for it in live:
        assert shop.verdict("shop", it.secret) == "KEY_REVOKED"
    for it in others:
        assert shop.verdict(it.key.keyspace, it.secret, environment=it.key.environment) == "ALLOWED"
    events = shop.events(acme, "keys:revoke")
    assert {event.target for event in events} == {it.key.id for it in live}
    assert {event.note for event in events} == {"leaked"}


def test_again_finds_nothing_more(shop: Door) -> None:
    acme = shop.organization()
    shop.create(acme, "shop")
    assert batch(shop, acme, filter={"keyspace": "shop"}).count == 1
    again = batch(shop, acme, filter={"keyspace": "shop"})
    assert (again.count, len(again.sample)) == (0, 0)
    revoked = {"keyspace": "shop", "states": [keys_pb2.KEY_STATE_REVOKED, keys_pb2.KEY_STATE_ACTIVE]}
    assert batch(shop, acme, filter=revoked).count == 0
    assert len(shop.events(acme, "keys:revoke")) == 1


def test_another_number_than_expected_ends_nothing(shop: Door) -> None:
    acme = shop.organization()
    made = [shop.create(acme, "shop") for _ in range(2)]
    for expected in (0, 1, 3):
        for dry_run in (True, False):
            with pytest.raises(CountMismatch) as refusal:
                batch(shop, acme, filter={"keyspace": "shop"}, expected_count=expected, dry_run=dry_run)
            assert refusal.value.metadata == {"expected": str(expected), "found": "2"}
    assert [shop.verdict("shop", it.secret) for it in made] == ["ALLOWED"] * 2
    assert batch(shop, acme, filter={"keyspace": "shop"}, expected_count=2).count == 2
    assert batch(shop, acme, filter={"keyspace": "shop"}, expected_count=0).count == 0


def test_a_call_without_filter_or_reason_is_refused(shop: Door) -> None:
    acme = shop.organization()
    shop.create(acme, "shop")
    for request, field in (
        ({}, "filter"),
        ({"filter": {}}, "filter"),
        ({"filter": {"states": [keys_pb2.KEY_STATE_UNSPECIFIED]}}, "filter"),
        ({"filter": {"keyspace": "shop"}, "reason": ""}, "reason"),
        ({"filter": {"keyspace": "shop"}, "reason": "x" * 501}, "reason"),
        ({"filter": {"name_contains": "\0"}}, "filter.name_contains"),
        ({"filter": {"owner": "a b"}}, "filter.owner"),
    ):
        with pytest.raises(InvalidField) as refusal:
            batch(shop, acme, **request)
        assert refusal.value.metadata["field"] == field
    assert shop.app.store.count_keys(acme) == 1


def test_the_right_is_that_to_revoke_all_keys_of_the_keyspace(shop: Door) -> None:
    acme, globex = shop.organization("acme", "alice"), shop.organization("globex")
    hers = shop.create(acme, "shop", owner="alice")
    member = shop.create(acme, "doorward", owner="alice", ceiling=keys_pb2.CEILING_OWNER, scopes=[]).secret
    for caller in (shop.caller(member), shop.staff(acme, "backend"), shop.staff(globex, "admin")):
        for wanted in ({"keyspace": "shop"}, {"owner": "alice"}):
            with pytest.raises(CallerForbidden):
                batch(shop, acme, by=caller, filter=wanted)
    admin = shop.staff(acme, "admin")
    assert batch(shop, "", by=admin, filter={"owner": "alice", "keyspace": "shop"}).sample[0].id == hers.key.id


def test_more_than_one_chunk_is_ended_and_only_some_are_shown(shop: Door) -> None:
    shop.apply(keyspace("bulk", "prefix: bulk", "legacy: [{name: b, alphabet: hex, length: 32, entropy_bits: 128}]"))
    acme = shop.organization()
    count = CHUNK + 3
    shop.take_in(acme, "bulk", *(row(text=f"{i:032x}") for i in range(count)))
    done = batch(shop, acme, filter={"keyspace": "bulk"}, expected_count=count)
    assert (done.count, len(done.sample)) == (count, SAMPLE)
    assert shop.app.store.count_keys(acme) == 0
    assert len(shop.events(acme, "keys:revoke")) == count


def test_a_key_that_stops_matching_before_its_turn_is_left_alone(shop: Door) -> None:
    acme = shop.organization()
    used, unused = shop.create(acme, "shop"), shop.create(acme, "shop")
    store, now = shop.app.store, shop.clock()
    wanted = KeyFilter(never_used=True)
    ids = store.list_unrevoked_keys(acme, wanted, now)
    assert set(ids) == {used.key.id, unused.key.id}
    shop.verdict("shop", used.secret)
    shop.run(shop.app.uses.flush())

    def change(key: Any) -> Any:
        return key.revoke(now, "r"), Event(acme, now, Actor("acme", "k"), "keys:revoke", "key", key.id)

    ended = store.revoke_keys(acme, ids, wanted, change, now).value
    assert [key.id for key in ended] == [unused.key.id]
    assert shop.verdict("shop", used.secret) == "ALLOWED"


def test_keys_that_only_their_owner_may_end_stop_the_call_before_it_ends_any(shop: Door) -> None:
    shop.apply(keyspace("own", "prefix: own", "keys: {ended_by: [owner]}"))
    acme = shop.organization("acme", "alice")
    free = shop.create(acme, "shop")
    hers = shop.create(acme, "own", owner="alice")
    admin = shop.staff(acme, "admin")
    for wanted in ({"keyspace": "own"}, {"environment": "live", "name_contains": "test"}):
        for dry_run in (True, False):
            with pytest.raises(CallerForbidden):
                batch(shop, acme, by=admin, filter=wanted, dry_run=dry_run)
    assert [shop.verdict(it.key.keyspace, it.secret) for it in (free, hers)] == ["ALLOWED"] * 2
    nobodys = shop.create(acme, "own", name="nobody")
    assert batch(shop, acme, by=admin, filter={"keyspace": "own", "name_contains": "nobody"}).count == 1
    assert shop.verdict("own", nobodys.secret) == "KEY_REVOKED"
