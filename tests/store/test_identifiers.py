"""Identifiers are compared byte by byte on both backends, and sorted so."""

from __future__ import annotations

import unicodedata

import pytest

from doorward_server.core.errors import InvalidField
from doorward_server.core.model import KeyFilter
from doorward_server.store import LookupTaken, Store
from tests.store.values import NOW, QUOTAS, add_key, event, key, principal, secret

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
ALIKE = [
    "KeyA",
    "keya",
    "KEYA",
    "KeyA ",
    " KeyA",
    "KeyA\t",
    NFC,
    NFD,
    "ß",
    "ss",
    "ﬁ",
    "fi",
    "a-b",
    "ab",
    "a_b",
    "A.B",
    "Z",
]


def test_ids_that_look_alike_are_not_the_same(store: Store) -> None:
    for id in ALIKE:
        add_key(store, id=id, name=id)
        store.add_principal(principal(id), event())
    for id in ALIKE:
        found, person = store.find_key("acme", id), store.find_principal("acme", id)
        assert found is not None
        assert person is not None
        assert (found.id, found.name, person.id) == (id, id, id)
    assert store.find_key("acme", "kEYa") is None
    assert store.find_principal("Acme", "alice") is None


def test_lookups_that_look_alike_are_not_the_same(store: Store) -> None:
    made = {lookup: add_key(store, secrets=(secret(lookup),)) for lookup in ALIKE}
    for lookup, it in made.items():
        record = store.find_record("aiia", lookup).record
        assert record is not None
        assert record.key.id == it.id
    assert store.find_record("AIIA", ALIKE[0]).keyspace_source is None
    with pytest.raises(LookupTaken):
        store.add_key(key(secrets=(secret(ALIKE[0]),)), event(), QUOTAS)


def test_the_order_is_that_of_the_bytes(store: Store) -> None:
    ids = [*ALIKE, "~", "_", "ä", "日本", "🚪", "a", "B", "1", "10", "9"]
    for id in ids:
        add_key(store, id=id)
        store.add_principal(principal(id), event())
    in_order = sorted(ids, key=lambda id: id.encode())
    assert [it.id for it in store.list_keys("acme", KeyFilter(), None, 99, NOW)] == in_order[::-1]
    people = sorted([*ids, "alice", "bob"], key=lambda id: id.encode())
    assert [it.id for it in store.list_principals("acme", "", 99)] == people
    middle = people[len(people) // 2]
    assert [it.id for it in store.list_principals("acme", middle, 99)] == people[len(people) // 2 + 1 :]


@pytest.mark.parametrize("text", ["a\0b", "\0", "a\ud800b"])
def test_texts_that_only_one_backend_could_keep_are_refused_by_both(store: Store, text: str) -> None:
    with pytest.raises(InvalidField):
        store.find_key("acme", text)
    with pytest.raises(InvalidField):
        store.find_record("aiia", text)
    with pytest.raises(InvalidField):
        add_key(store, name=text)
    add_key(store, id="ok")
