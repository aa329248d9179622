"""A key that passes its expiry has exactly one audit event for it, whoever notices and however often."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from doorward_server.core.expiry import ACTOR
from doorward_server.core.model import Event, Instant, Key
from doorward_server.service.catalog import OPERATOR
from doorward_server.store import Store, expiries
from tests import databases
from tests.fakes import SECOND
from tests.store.values import NOW, QUOTAS, add_key, event, key, secret, the_key

LATER = NOW + 60 * SECOND
MUCH_LATER = NOW + 600 * SECOND


def sweep(store: Store, now: Instant = LATER, since: Instant = 0) -> int:
    """What a replica does every few seconds."""
    found = store.list_unmarked_expiries(since, now, 1000)
    organizations = sorted({organization for organization, _ in found})
    return sum(store.mark_expiries(it, [id for whose, id in found if whose == it], now).value for it in organizations)


def expiries_of(store: Store, id: str, organization: str = "acme") -> list[Event]:
    """The expiry events of a key; the chain must hold."""
    assert store.verify_chain(organization).ok
    events = [it.event for it in store.list_events(organization, 0, 9999)]
    return [it for it in events if it.action == "keys:expire" and it.target == id]


def change(store: Store, id: str, how: Callable[[Key], Key]) -> None:
    store.update_key("acme", id, lambda it: (how(it), event(target=id)))


def test_an_expiry_has_one_event_dated_to_it(store: Store) -> None:
    made = add_key(store, expires_at=NOW + SECOND)
    revision = store.revision()
    assert (sweep(store, NOW + SECOND - 1), sweep(store, NOW + SECOND), sweep(store)) == (0, 1, 0)
    (found,) = expiries_of(store, made.id)
    assert (found.at, found.actor, found.target_type) == (NOW + SECOND, ACTOR, "key")
    assert (found.before, found.after) == ({"state": "ACTIVE"}, {"state": "EXPIRED"})
    assert store.revision() == revision, "no decision sees it"
    assert the_key(store, made.id) == made


def test_doorward_itself_is_the_actor() -> None:
    assert ACTOR.organization == OPERATOR


def test_keys_that_do_not_expire_have_none(store: Store) -> None:
    add_key(store)
    add_key(store, expires_at=MUCH_LATER)
    assert sweep(store) == 0


def test_a_disabled_key_expires_from_being_disabled(store: Store) -> None:
    made = add_key(store, expires_at=NOW + SECOND, enabled=False)
    assert sweep(store) == 1
    assert expiries_of(store, made.id)[0].before == {"state": "DISABLED"}


def test_an_end_before_the_expiry_leaves_nothing_to_expire(store: Store) -> None:
    revoked, deleted = (add_key(store, expires_at=NOW + 9 * SECOND).id for _ in range(2))
    change(store, revoked, lambda it: it.revoke(NOW + SECOND, "leaked"))
    change(store, deleted, lambda it: it.delete(NOW + SECOND))
    assert sweep(store) == 0


def test_an_end_after_the_expiry_takes_no_event_away(store: Store) -> None:
    revoked, deleted = (add_key(store, expires_at=NOW + SECOND).id for _ in range(2))
    change(store, revoked, lambda it: it.revoke(NOW + 2 * SECOND, "leaked"))
    change(store, deleted, lambda it: it.delete(NOW + 2 * SECOND))
    assert sweep(store) == 2
    assert [len(expiries_of(store, it)) for it in (revoked, deleted)] == [1, 1]


@pytest.mark.parametrize("noticed", [True, False])
def test_an_extension_after_the_expiry_makes_room_for_another(store: Store, noticed: bool) -> None:
    made = add_key(store, expires_at=NOW + SECOND)
    assert sweep(store, NOW + 2 * SECOND if noticed else NOW) == int(noticed)
    change(store, made.id, lambda it: it.update(NOW + 3 * SECOND, expires_at=NOW + 9 * SECOND))
    assert [it.at for it in expiries_of(store, made.id)] == [NOW + SECOND], "at the latest now"
    assert (sweep(store, NOW + 4 * SECOND), sweep(store, LATER), sweep(store, MUCH_LATER)) == (0, 1, 0)
    assert [it.at for it in expiries_of(store, made.id)] == [NOW + SECOND, NOW + 9 * SECOND]


def test_other_changes_of_an_expired_key_leave_its_event_alone(store: Store) -> None:
    made = add_key(store, expires_at=NOW + SECOND)
    change(store, made.id, lambda it: it.update(NOW + 2 * SECOND, name="renamed"))
    assert expiries_of(store, made.id) == []
    assert sweep(store) == 1
    change(store, made.id, lambda it: it.update(NOW + 3 * SECOND, name="renamed again"))
    assert sweep(store) == 0


def test_an_extension_before_the_expiry_is_no_expiry(store: Store) -> None:
    made = add_key(store, expires_at=NOW + 9 * SECOND)
    change(store, made.id, lambda it: it.update(NOW + SECOND, expires_at=None))
    assert sweep(store) == 0
    assert expiries_of(store, made.id) == []


def taken_in(store: Store, external_id: str, expires_at: Instant) -> str:
    """Import a key at NOW; returns its id."""
    created = NOW - 900 * SECOND
    made = key(external_id=external_id, created_at=created, expires_at=expires_at, secrets=(secret(),))
    written = store.import_keys(
        "acme", "aiia", [(made, event(action="keys:import", target=made.id))], QUOTAS, None, dry_run=False
    )
    return written.value[0].key


def test_a_key_that_had_expired_when_it_was_imported_has_none(store: Store) -> None:
    dead, live = taken_in(store, "dead", NOW - SECOND), taken_in(store, "live", NOW + SECOND)
    assert sweep(store) == 1
    assert (len(expiries_of(store, dead)), len(expiries_of(store, live))) == (0, 1)
    change(store, dead, lambda it: it.update(LATER, expires_at=LATER + SECOND))
    assert expiries_of(store, dead) == [], "nor when it is extended"
    assert sweep(store, MUCH_LATER) == 1, "the second expiry is one that Doorward saw"


def test_many_organizations_and_a_limit(store: Store) -> None:
    for number in range(3):
        add_key(store, expires_at=NOW + number)
        add_key(store, expires_at=NOW + number, organization="umbra")
    found = store.list_unmarked_expiries(0, LATER, 4)
    assert sorted(organization for organization, _ in found) == ["acme", "acme", "umbra", "umbra"], "the oldest first"
    assert len(store.list_unmarked_expiries(NOW + 1, LATER, 9)) == 4, "from `since` on"
    assert sweep(store) == 6
    assert store.verify_chain("umbra").ok


def test_a_key_of_another_organization_is_not_marked(store: Store) -> None:
    made = add_key(store, expires_at=NOW + SECOND)
    assert store.mark_expiries("umbra", [made.id], LATER).value == 0
    assert sweep(store) == 1


def two_at_once(store: Store, store_url: str) -> tuple[int, list[str]]:
    """Two replicas mark the same keys at the same moment, many times; returns how many events, and the keys."""
    made = [add_key(store, expires_at=NOW + SECOND).id for _ in range(40)]
    other = databases.open_store(store_url)
    counts: list[int] = []
    together = threading.Barrier(2)

    def replica(mine: Store) -> None:
        for start in range(0, len(made), 4):
            together.wait(30)
            counts.append(mine.mark_expiries("acme", made[start : start + 4], LATER).value)

    threads = [threading.Thread(target=replica, args=(it,)) for it in (store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    return sum(counts), made


def test_two_replicas_at_once_make_one_event(store: Store, store_url: str) -> None:
    written, made = two_at_once(store, store_url)
    assert written == len(made)
    assert [len(expiries_of(store, it)) for it in made] == [1] * len(made)


def test_without_the_mark_there_would_be_two(store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug that the test before must notice."""
    monkeypatch.setattr(expiries, "mark_silently", lambda tx, key: None)
    written, made = two_at_once(store, store_url)
    assert written == 2 * len(made)


def test_mark_and_event_are_kept_or_lost_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = add_key(store, expires_at=NOW + SECOND)

    def broken(it: Key, at: Instant) -> Event:
        return replace(event(target=it.id), after={"no": object()})

    with monkeypatch.context() as patch:
        patch.setattr(expiries, "expiry_event", broken)
        with pytest.raises(TypeError, match="JSON"):
            sweep(store)
    assert sweep(store) == 1
    assert len(expiries_of(store, made.id)) == 1
