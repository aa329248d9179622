"""Listing keys: every filter against the same said in Python, page by page."""

from __future__ import annotations

from itertools import product

import pytest

from doorward_server.core.model import Key, KeyFilter, State, Use
from doorward_server.store import Store
from tests.store.statements import counted
from tests.store.values import NOW, add_key, add_keyspace, event

NAMES = ("ServiceNow", "servicenow EU", "100%", "under_score", "ÄRGER", "ärger", "back\\slash", "İstanbul")


@pytest.fixture
def keys(store: Store) -> list[Key]:
    """Keys of all sorts, of two organizations, some made at the same instant."""
    add_keyspace(store, "other")
    made = []
    moments: tuple[int | None, ...] = (None, NOW - 10, NOW, NOW + 10)
    for number, (expires_at, not_before) in enumerate(product(moments, moments)):
        made.append(
            add_key(
                store,
                name=NAMES[number % len(NAMES)],
                keyspace=("aiia", "other")[number % 3 == 0],
                owner=(None, "alice", "bob")[number % 3],
                environment=("live", "test")[number % 2],
                type=("production", "ci", "")[number % 3],
                enabled=number % 7 != 1,
                expires_at=expires_at,
                not_before=not_before,
                created_at=NOW - number // 3,
            )
        )
    for it in made[::4]:
        store.update_key("acme", it.id, lambda key: (key.revoke(NOW, ""), event()))
    deleted = made.pop(5)
    store.update_key("acme", deleted.id, lambda key: (key.delete(NOW), event()))
    add_key(store, organization="umbra", owner="alice")
    store.record_uses([Use("acme", it.id, it.secrets[0].id, NOW + n) for n, it in enumerate(made[::2])])
    return [found for it in made if (found := store.find_key("acme", it.id))]


def ascii_lower(text: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def selects(filter: KeyFilter, key: Key) -> bool:
    """The filter, said in Python."""
    return all(
        (
            not filter.keyspace or key.keyspace == filter.keyspace,
            not filter.owner or key.owner == filter.owner,
            not filter.environment or key.environment == filter.environment,
            not filter.type or key.type == filter.type,
            not filter.states or key.state(NOW) in filter.states,
            ascii_lower(filter.name_contains) in ascii_lower(key.name),
            filter.created_after is None or key.created_at >= filter.created_after,
            filter.created_before is None or key.created_at < filter.created_before,
            filter.expires_before is None or (key.expires_at is not None and key.expires_at < filter.expires_before),
            filter.last_used_before is None or key.last_used_at is None or key.last_used_at < filter.last_used_before,
            not filter.never_used or key.last_used_at is None,
        )
    )


FILTERS = [
    KeyFilter(),
    *(KeyFilter(states=frozenset({state})) for state in State),
    KeyFilter(states=frozenset({State.ACTIVE, State.DISABLED})),
    *(
        KeyFilter(name_contains=part)
        for part in ("SERVICENOW", "%", "_", "\\", "ä", "Ä", "rger", "i", "İ", "100%", "s_", "nothing", " ", "'")
    ),
    KeyFilter(keyspace="other"),
    KeyFilter(keyspace="Other"),
    KeyFilter(owner="alice"),
    KeyFilter(owner="carol"),
    KeyFilter(environment="test"),
    KeyFilter(type="ci"),
    KeyFilter(created_after=NOW - 2),
    KeyFilter(created_before=NOW - 2),
    KeyFilter(created_after=NOW - 3, created_before=NOW - 1),
    KeyFilter(expires_before=NOW),
    KeyFilter(expires_before=NOW + 11),
    KeyFilter(last_used_before=NOW + 2),
    KeyFilter(never_used=True),
    KeyFilter(never_used=True, last_used_before=NOW),
    KeyFilter("aiia", "alice", "test", "ci", frozenset(State), "s", NOW - 99, NOW + 1, NOW + 99, NOW + 99),
]


def pages(store: Store, filter: KeyFilter, limit: int) -> list[list[Key]]:
    """All pages; the last one is not full."""
    found = [store.list_keys("acme", filter, None, limit, NOW)]
    while len(found[-1]) == limit:
        last = found[-1][-1]
        found.append(store.list_keys("acme", filter, (last.created_at, last.id), limit, NOW))
    return found


def test_every_filter_selects_what_it_says(store: Store, keys: list[Key]) -> None:
    newest_first = sorted(keys, key=lambda it: (it.created_at, it.id), reverse=True)
    for filter in FILTERS:
        expected = [it for it in newest_first if selects(filter, it)]
        for limit in (3, 100):
            found = [key for page in pages(store, filter, limit) for key in page]
            assert found == expected, filter
            assert [it.last_used_at for it in found] == [it.last_used_at for it in expected]


def test_the_generated_keys_are_of_all_states(keys: list[Key]) -> None:
    assert {it.state(NOW) for it in keys} == set(State)


def test_a_page_costs_the_same_statements_whatever_its_size(store: Store, keys: list[Key]) -> None:
    with counted(store) as small:
        store.list_keys("acme", KeyFilter(), None, 1, NOW)
    with counted(store) as large:
        assert len(store.list_keys("acme", KeyFilter(), None, 100, NOW)) == len(keys)
    assert len(small) == len(large) <= 4
