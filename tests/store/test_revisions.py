"""What a caller has to wait for: a change's own revision, and the head for a call that found nothing to change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorward_server.core.directory import SubjectKind
from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.model import Event, Key, KeyFilter, Quotas
from doorward_server.core.rails import ActiveLimit
from doorward_server.store import Store, Written
from tests import databases
from tests.store import hands
from tests.store.hands import Hands
from tests.store.values import (
    NOW,
    QUOTAS,
    add_key,
    binding,
    event,
    key,
    keyspace,
    populate,
    principal,
    replay,
    secret,
)

Change = Callable[[Store], Written[Any]]
NO_LIMIT: ActiveLimit | None = None

PERSON = SubjectKind.PRINCIPAL


def revoked(it: Key) -> tuple[Key, Event] | None:
    """End a key, unless it has ended."""
    return None if it.revoked_at is not None else (it.revoke(NOW, "test"), event(target=it.id))


def deleted(it: Any, *_: object) -> tuple[Any, Event]:
    return replace(it, deleted_at=NOW), event()


def disabled(it: Any, *_: object) -> tuple[Any, Event]:
    return replace(it, enabled=False, version=it.version + 1), event()


def imported(store: Store, external_id: str) -> Written[Any]:
    made = key(external_id=external_id)
    return store.import_keys("acme", "aiia", [(made, event(target=made.id))], QUOTAS, NO_LIMIT, dry_run=False)


# All that end something, or allow something, in the order in which they are possible.
CHANGES: dict[str, Change] = {
    "add_key": lambda store: store.add_key(key("k1", owner="alice"), event(), QUOTAS, replay("r1")),
    "add another": lambda store: store.add_key(key("k2", owner="alice"), event(), QUOTAS),
    "add a third": lambda store: store.add_key(key("k3", owner="alice"), event(), QUOTAS),
    "import_keys": lambda store: imported(store, "e1"),
    "update_key": lambda store: store.update_key("acme", "k1", disabled),
    "rotate": lambda store: store.update_key("acme", "k2", lambda it: (it.rotate(secret(), NOW, 0), event())),
    "revoke": lambda store: store.update_key("acme", "k1", revoked, replay("r2", method="RevokeKey")),
    "revoke_keys": lambda store: store.revoke_keys("acme", ["k1", "k2"], KeyFilter(), revoked, NOW),
    "revoke_keys_of": lambda store: store.revoke_keys_of("acme", "alice", revoked),
    "update_organization": lambda store: store.update_organization("acme", disabled),
    "update_principal": lambda store: store.update_principal("acme", "alice", disabled),
    "add_group_member": lambda store: store.add_group_member("acme", "staff", PERSON, "alice", event()),
    "add_binding": lambda store: store.add_binding(binding("b1"), event(), QUOTAS),
    "update_binding": lambda store: store.update_binding(
        "acme", "b1", lambda it: (replace(it, expires_at=NOW, version=2), event())
    ),
    "delete_binding": lambda store: store.delete_binding("acme", "b1", event()),
    "remove_group_member": lambda store: store.remove_group_member("acme", "staff", PERSON, "alice", event()),
    "update_group": lambda store: store.update_group(
        "acme", "staff", lambda it: (replace(it, display_name="S", version=2), event())
    ),
    "delete_group": lambda store: store.delete_group("acme", "staff", deleted),
    "delete_principal": lambda store: store.delete_principal("acme", "bob", deleted),
    "apply_keyspace": lambda store: store.apply_keyspace("aiia", lambda _: (keyspace(version=2), event())),
    "delete_organization": lambda store: store.delete_organization("acme", deleted),
}


def test_a_change_tells_the_revision_that_it_is_in(store: Store, store_url: str) -> None:
    with hands.at(store_url) as prompt:
        for name, change in CHANGES.items():
            before = prompt.revision()
            written = change(store)
            assert before < written.revision == prompt.revision(), name
            assert prompt.changes(written.revision - 1), name


def nothing(*_: object) -> None:
    return None


NO_CHANGES: dict[str, Change] = {
    "add_key, again": lambda store: store.add_key(key(), event(), QUOTAS, replay("again")),
    "import_keys, again": lambda store: imported(store, "again"),
    "import_keys, dry": lambda store: store.import_keys(
        "acme", "aiia", [(key(external_id="dry"), event())], Quotas(), NO_LIMIT, dry_run=True
    ),
    "update_key": lambda store: store.update_key("acme", "key_1", nothing),
    "update_key, again": lambda store: store.update_key("acme", "key_1", nothing, replay("again", method="UpdateKey")),
    "revoke_keys": lambda store: store.revoke_keys("acme", ["nobody"], KeyFilter(), revoked, NOW),
    "revoke_keys_of": lambda store: store.revoke_keys_of("acme", "bob", revoked),
    "mark_expiries": lambda store: store.mark_expiries("acme", ["key_1"], NOW),
    "update_organization": lambda store: store.update_organization("acme", nothing),
    "delete_organization": lambda store: store.delete_organization("acme", nothing),
    "update_principal": lambda store: store.update_principal("acme", "alice", nothing),
    "delete_principal": lambda store: store.delete_principal("acme", "alice", nothing),
    "update_group": lambda store: store.update_group("acme", "staff", nothing),
    "delete_group": lambda store: store.delete_group("acme", "staff", nothing),
    "add_group_member": lambda store: store.add_group_member("acme", "staff", PERSON, "bob", event()),
    "remove_group_member": lambda store: store.remove_group_member("acme", "staff", PERSON, "alice", event()),
    "update_binding": lambda store: store.update_binding("acme", "b1", nothing),
    "apply_keyspace": lambda store: store.apply_keyspace("aiia", nothing),
    "replace verifiers": lambda store: store.peppers.replace([]),
}


@pytest.mark.parametrize("name", NO_CHANGES)
def test_what_changes_nothing_tells_the_head(store: Store, name: str) -> None:
    store.add_key(key("key_1"), event(), QUOTAS, replay("again"))
    store.update_key("acme", "key_1", disabled, replay("again", method="UpdateKey"))
    imported(store, "again")
    store.add_group_member("acme", "staff", PERSON, "bob", event())
    store.add_binding(binding("b1"), event(), QUOTAS)
    head = store.add_principal(principal("the_last"), event()).revision
    assert NO_CHANGES[name](store).revision == head == store.revision()


def test_every_method_that_writes_is_here() -> None:
    """So that one that is added is thought about."""
    named = {name.split(",")[0] for name in (*CHANGES, *NO_CHANGES)} | {"update_key"}
    only_adds = {"add_organization", "add_principal", "add_group"}
    decides_nothing = {"reveal_key", "mark_expiries"}
    writing = {
        name
        for name, method in vars(Store).items()
        if callable(method) and str(getattr(method, "__annotations__", {}).get("return", "")).startswith("Written[")
    }
    assert writing - only_adds - decides_nothing <= named


@pytest.fixture
def postgresql_url(tmp_path: Path) -> Iterator[str]:
    with databases.fresh("postgresql", tmp_path) as url:
        yield url


def wait_until_somebody_waits(prompt: Hands) -> None:
    """Return when a session of this database waits for another's lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    tick = threading.Event()
    for _ in range(6_000):
        if prompt.one(waiting):
            return
        tick.wait(0.01)
    raise AssertionError("nobody waits")


def check_whoever_finds_it_done_waits_for_it(store: Store, url: str) -> None:
    """The second of two revokes, begun while the first is not committed. The plant `revision-at-start` must fail here.

    What it finds done is newer than the moment it began at.
    """
    made = add_key(store, id="key_1")
    outcomes: dict[str, int] = {}

    def revoke(who: str, how: Callable[[Key], tuple[Key, Event] | None]) -> None:
        for _ in range(10):
            with suppress(StoreUnavailable):  # a machine that stands still for longer than locks are waited for
                outcomes[who] = store.update_key("acme", made.id, how).revision
                return

    thread = threading.Thread(target=revoke, args=("second", revoked))
    with hands.at(url) as prompt:

        def first(it: Key) -> tuple[Key, Event] | None:
            if thread.ident is None:
                thread.start()
            wait_until_somebody_waits(prompt)
            return revoked(it)

        revoke("first", first)
    thread.join()
    assert outcomes["second"] >= outcomes["first"]


def test_whoever_finds_it_done_waits_for_it(postgresql_url: str) -> None:
    """On SQLite the second one cannot begin before."""
    store = databases.open_store(postgresql_url)
    populate(store)
    check_whoever_finds_it_done_waits_for_it(store, postgresql_url)
    store.close()
