"""Many at once: no update is lost, no quota is overrun, and the audit chain is one line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from doorward_server.core.errors import AlreadyExists, KeyIsRevoked, QuotaExceeded
from doorward_server.core.model import KEPT_SECRETS, Event, Key, Quotas, Use
from doorward_server.store import LookupTaken, Store
from tests.store.values import NOW, QUOTAS, add_key, event, key, keyspace, principal, replay, secret, the_key

THREADS = 16


def all_at_once(work: Callable[[int], None]) -> None:
    """Run *work* in all threads; the first failure is raised here."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as failure:  # raised below  # noqa: BLE001
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def check_no_update_is_lost(store: Store) -> None:
    """Sixteen threads rename and rotate one key until one of them revokes it. The plant `no-lock` must fail here."""
    made = add_key(store)
    changed: list[int] = []

    def update(action: str, how: Callable[[Key], Key]) -> None:
        def versioned(it: Key) -> tuple[Key, Event]:
            new = how(it)
            return new, event(action=action, target=it.id, after={"version": new.version})

        store.update_key("acme", made.id, versioned)
        changed.append(1)

    def change(number: int) -> None:
        with suppress(KeyIsRevoked):
            for turn in range(4):
                name = f"{number}.{turn}"
                update("keys:update", lambda it: it.update(NOW, name=name))  # noqa: B023  # called at once
                update("keys:rotate", lambda it: it.rotate(secret(), NOW, 0))
            if number == 0:
                update("keys:revoke", lambda it: it.revoke(NOW, "x"))

    all_at_once(change)
    found = the_key(store, made.id)
    assert found.revoked_at == NOW
    assert found.version == 1 + len(changed)
    events = [it.event for it in store.list_events("acme", 0, 9999) if it.event.target == made.id]
    versions = [it.after["version"] for it in events if it.after]
    assert versions == list(range(2, found.version + 1)), "one after the other"
    rotations = sum(it.action == "keys:rotate" for it in events)
    assert len(found.secrets) == 1 + min(rotations, KEPT_SECRETS)
    assert store.verify_chain("acme").ok


def test_no_update_is_lost(store: Store) -> None:
    check_no_update_is_lost(store)


def test_no_quota_is_overrun(store: Store) -> None:
    five = Quotas(keys=5)
    refused: list[int] = []

    def add(number: int) -> None:
        try:
            store.add_key(key(owner="alice"), event(), five)
        except QuotaExceeded:
            refused.append(number)

    all_at_once(add)
    assert (store.count_keys("acme"), len(refused)) == (5, THREADS - 5)


def test_one_request_makes_one_key(store: Store) -> None:
    made: list[tuple[str, bool]] = []

    def add(number: int) -> None:
        written = store.add_key(key(), event(), QUOTAS, replay())
        made.append((written.value.id, written.replayed))

    all_at_once(add)
    assert len({id for id, _ in made}) == 1
    assert sorted(replayed for _, replayed in made) == [False] + [True] * (THREADS - 1)
    assert store.count_keys("acme") == 1


def test_one_request_of_an_operator_makes_one_key_over_all_organizations(store: Store) -> None:
    """Its keys are in two organizations, so that no lock of one keeps them apart."""
    made: list[str] = []

    def add(number: int) -> None:
        organization = ("acme", "umbra")[number % 2]
        made.append(store.add_key(key(organization=organization), event(organization), QUOTAS, replay()).value.id)

    all_at_once(add)
    assert len(set(made)) == 1
    assert store.count_keys("acme") + store.count_keys("umbra") == 1


def test_one_lookup_is_taken_once(store: Store) -> None:
    taken: list[int] = []

    def add(number: int) -> None:
        organization = ("acme", "umbra")[number % 2]
        try:
            store.add_key(key(organization=organization, secrets=(secret("same"),)), event(organization), QUOTAS)
        except LookupTaken:
            taken.append(number)

    all_at_once(add)
    assert len(taken) == THREADS - 1


def test_one_id_is_given_once(store: Store) -> None:
    taken: list[int] = []

    def add(number: int) -> None:
        try:
            store.add_principal(principal("zoe"), event())
        except AlreadyExists:
            taken.append(number)

    all_at_once(add)
    assert len(taken) == THREADS - 1
    assert store.verify_chain("acme").ok


def test_a_keyspace_is_made_once_and_changed_by_the_others(store: Store) -> None:
    def apply(number: int) -> None:
        store.apply_keyspace(
            "new", lambda it: (keyspace("new") if it is None else replace(it, version=it.version + 1), event())
        )

    all_at_once(apply)
    found = store.find_keyspace("new")
    assert found is not None
    assert found.version == THREADS
    assert store.verify_chain("acme").ok


def test_a_principal_that_goes_takes_all_its_keys_with_it(store: Store) -> None:
    """Keys that are made meanwhile are revoked, or refused."""

    def work(number: int) -> None:
        if number == 0:
            store.delete_principal("acme", "alice", lambda it, _: (replace(it, deleted_at=NOW), event()))
            while store.revoke_keys_of("acme", "alice", lambda it: (it.revoke(NOW, "owner"), event()), 3).value:
                pass
            return
        try:
            for _ in range(3):
                add_key(store, owner="alice")
        except Exception as refused:  # noqa: BLE001
            assert type(refused).__name__ == "UnknownReference"  # noqa: PT017

    all_at_once(work)
    assert store.count_keys("acme", "alice") == 0
    assert store.verify_chain("acme").ok


def test_uses_are_flushed_by_many_at_once(store: Store) -> None:
    made = [add_key(store) for _ in range(20)]

    def flush(number: int) -> None:
        order = made if number % 2 else made[::-1]
        store.record_uses(Use("acme", it.id, it.secrets[0].id, NOW + number) for it in order)

    all_at_once(flush)
    latest = {the_key(store, it.id).last_used_at for it in made}
    assert latest == {NOW + THREADS - 1}
