"""The audit chain: every change is in it, and nothing in it can be changed unnoticed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doorward_server.core.model import Actor, Event
from doorward_server.core.verify import UnknownPepper
from doorward_server.store import ChainReport, Store
from tests import databases
from tests.store import hands
from tests.store.values import NOW, QUOTAS, add_key, event, key, organization

FULL = Event(
    organization="acme",
    at=NOW,
    actor=Actor("acme", "key_root", "alice", "umbra/bob"),
    action="keys:update",
    target_type="key",
    target="key_1",
    before={"name": "old", "scopes": ["a"], "expires_at": None, "n": 1},
    after={"name": "Ä 🚪 \"'\\", "scopes": [], "expires_at": 5, "deep": {"x": [1, 2.5, True]}},
    note="because",
)


def test_an_event_comes_back_as_it_went_in(store: Store) -> None:
    made = add_key(store, id="key_1")
    events = [FULL, replace(FULL, before=None, after=None, note=""), replace(FULL, before={}, after={})]
    last = store.list_events("acme", 0, 999)[-1].sequence
    for it in events:
        store.update_key("acme", made.id, lambda key, it=it: (key.update(NOW, name=key.name + "x"), it))  # type: ignore[misc]  # bound per turn
    found = store.list_events("acme", last, 99)
    assert [it.event for it in found] == events
    assert [it.sequence for it in found] == [last + 1, last + 2, last + 3]
    assert {it.pepper for it in found} == {1}


def test_events_are_paged_by_sequence(store: Store) -> None:
    for _ in range(5):
        add_key(store)
    length = store.verify_chain("acme").length
    found: list[int] = []
    while page := store.list_events("acme", found[-1] if found else 0, 3):
        found += [it.sequence for it in page]
    assert found == list(range(1, length + 1))
    assert store.list_events("nobody", 0, 9) == []


def test_each_organization_has_its_own_chain(store: Store) -> None:
    umbra = store.verify_chain("umbra")
    add_key(store)
    assert store.verify_chain("umbra") == umbra
    assert store.verify_chain("acme").head != umbra.head
    assert store.verify_chain("nobody") == ChainReport(True, 0, bytes(32))


def test_the_head_is_the_hash_of_the_last_event(store: Store) -> None:
    add_key(store)
    report = store.verify_chain("acme")
    assert (report.ok, report.broken_at) == (True, None)
    assert report.head == store.list_events("acme", report.length - 1, 9)[-1].hash


COLUMNS = {
    "at": "1",
    "actor_organization": "'umbra'",
    "actor_key": "'key_x'",
    "actor_principal": "''",
    "acting_for": "''",
    "action": "'keys:get'",
    "target_type": "'x'",
    "target": "'key_2'",
    "before": "NULL",
    "after": "'{}'",
    "note": "'nothing to see'",
    "pepper": "2",
}
TAMPERED = {
    **{
        f"changed {name}": ([f"UPDATE event SET {name} = {value} WHERE {{here}} = 7"], 7)
        for name, value in COLUMNS.items()
    },
    "shifted between columns": (
        ["UPDATE event SET action = '', target_type = action || target_type WHERE {here} = 4"],
        4,
    ),
    "removed": (["DELETE FROM event WHERE {here} = 4"], 4),
    "removed and closed up": (
        ["DELETE FROM event WHERE {here} = 4", "UPDATE event SET sequence = sequence - 1 WHERE {here} > 4"],
        4,
    ),
    "first removed": (["DELETE FROM event WHERE {here} = 1"], 1),
    "reordered": (
        [
            "UPDATE event SET sequence = 99 WHERE {here} = 4",
            "UPDATE event SET sequence = 4 WHERE {here} = 5",
            "UPDATE event SET sequence = 5 WHERE {here} = 99",
        ],
        4,
    ),
    "cut off": (["DELETE FROM event WHERE {here} >= 6"], 6),
    "emptied": (["DELETE FROM event WHERE organization = 'acme'"], 1),
    "inserted": (
        [
            "UPDATE event SET sequence = sequence + 100 WHERE {here} >= 4",
            "INSERT INTO event SELECT organization, 4, at, actor_organization, actor_key, actor_principal, acting_for, "
            "action, target_type, target, before, after, note, pepper, hash FROM event WHERE {here} = 3",
            "UPDATE event SET sequence = sequence - 99 WHERE {here} > 100",
        ],
        4,
    ),
    "added": (
        [
            "INSERT INTO event SELECT organization, 8, at, actor_organization, actor_key, actor_principal, acting_for, "
            "action, target_type, target, before, after, note, pepper, hash FROM event WHERE {here} = 7"
        ],
        8,
    ),
    "of another chain": (
        [
            "DELETE FROM event WHERE {here} = 1",
            "INSERT INTO event SELECT 'acme', 1, at, actor_organization, actor_key, actor_principal, acting_for, "
            "action, target_type, target, before, after, note, pepper, hash FROM event "
            "WHERE organization = 'umbra' AND sequence = 1",
        ],
        1,
    ),
    "uncounted": (["UPDATE tally SET events = 6 WHERE organization = 'acme'"], 7),
    "head replaced": (
        ["UPDATE tally SET head = (SELECT hash FROM event WHERE {here} = 6) WHERE organization = 'acme'"],
        8,
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_chain_that_was_tampered_with_is_broken(store: Store, store_url: str, how: str) -> None:
    made = add_key(store)
    store.update_key("acme", made.id, lambda it: (it.update(NOW, name="x"), FULL))
    assert store.verify_chain("acme").length == 7
    statements, broken_at = TAMPERED[how]
    with hands.at(store_url) as prompt:
        for statement in statements:
            prompt.run(statement.replace("{here}", "organization = 'acme' AND sequence"))
    report = store.verify_chain("acme")
    assert (report.ok, report.broken_at) == (False, broken_at)
    assert store.verify_chain("umbra").ok


def test_a_change_and_its_event_are_kept_or_lost_together(store: Store) -> None:
    before = store.verify_chain("acme")
    with pytest.raises(TypeError, match="JSON"):
        store.add_key(key(), event(after={"no": object()}), QUOTAS)
    assert store.verify_chain("acme") == before
    assert store.count_keys("acme") == 0


def test_a_chain_goes_on_under_another_pepper(store_url: str) -> None:
    def keys_of(version: int) -> bytes:
        if version > 2:
            raise UnknownPepper(version)
        return bytes([version]) * 32

    old = Store(store_url, audit_keys=keys_of, pepper=1)
    new = Store(store_url, audit_keys=keys_of, pepper=2)
    old.add_organization(organization(), event())
    new.update_organization("acme", lambda it, _: (replace(it, display_name="x"), event()))
    old.update_organization("acme", lambda it, _: (replace(it, display_name="y"), event()))
    assert [it.pepper for it in old.list_events("acme", 0, 9)] == [1, 2, 1]
    assert old.verify_chain("acme").ok
    other = databases.open_store(store_url)
    assert other.verify_chain("acme").broken_at == 1, "its audit keys are others"
    unknown = Store(store_url, audit_keys=keys_of, pepper=3)
    with pytest.raises(UnknownPepper):
        unknown.update_organization("acme", lambda it, _: (replace(it, display_name="z"), event()))
    for store in (old, new, other, unknown):
        store.close()
