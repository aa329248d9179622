"""Changing the pepper of a Doorward in use: no proof fails, and in the end the old pepper is of no use to anybody."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.verify import PepperState
from doorward_server.service import rotation
from doorward_server.service.catalog import OPERATOR
from doorward_server.service.replica import DEAD_AFTER
from doorward_server.service.rotation import Rotation, RotationRefused
from doorward_server.store import HeldVerifier
from doorward_server.store import peppers as store_peppers
from tests.fakes import SECOND, FakeClock
from tests.service.hosts import Host, actions, by_hand, hand_over, host, rotate, secret_of, secrets, states, two_hosts

ADDED, ACTIVE, REPLACED, RETIRED = PepperState


# --- the drill --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "CHUNK", 7)


@pytest.mark.usefixtures("small_chunks")
def test_the_whole_drill_under_load(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    with two_hosts(store_url, tmp_path, clock, keys=20) as (first, second):
        steps = first.rotation(first, second)
        first.wait_for_load()
        steps.add()
        first.beat()
        with pytest.raises(RotationRefused, match=second.id):
            steps.activate(2)
        first.make_key()
        hand_over(first, second)
        second.beat()
        steps.activate(2)
        assert first.keyring.current.peppers.active == second.keyring.current.peppers.active == 2, "at the same time"
        made = second.make_key().id
        assert secrets(first.store)[made].pepper == 2
        first.wait_for_load()
        steps.rewrap()
        second.wait_for_load()
        steps.retire(1)
        hand_over(first, second)
        second.beat()
        for each in (first, second):
            each.wait_for_load()
            each.settle()
            assert each.failures == []
            assert each.proofs > 2 * 22
        assert states(first.store) == {1: RETIRED, 2: ACTIVE}
        check_the_old_pepper_is_useless(first, first.ring().peppers.versions[1])
        assert actions(first.store) == [
            (f"peppers:{step}", version)
            for step, version in (("add", "2"), ("activate", "2"), ("rewrap", "2"), ("retire", "1"))
        ]


def check_the_old_pepper_is_useless(at: Host, old: bytes) -> None:
    """Even with every key's text, the database and the old pepper, nothing in the database can be computed."""

    def keyed(key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, "sha256")

    stored = secrets(at.store)
    assert {it.pepper for it in stored.values()} == {2}, "no row left behind"
    assert len(stored) == len(at.texts) + 1, "the first start's root key"
    digests = {it.digest for it in stored.values()}
    for text in at.texts.values():
        once = keyed(old, text.encode())
        assert not {once, keyed(old, once)} & digests
    # With the right to write as well: a row that says it is under the old pepper, for a text of their own choice.
    victim, text = next(iter(at.texts.items()))
    change = "UPDATE secret SET pepper = 1, inner_peppers = '', digest = ? WHERE key = ?"
    by_hand(at.store, change, keyed(old, text.encode()), victim)
    assert "Unavailable" in at.prove(text), "and it is an outage, not a denial: it may be a restored backup"
    by_hand(at.store, "UPDATE pepper SET state = 'REPLACED' WHERE version = 1")
    at.beat()
    assert "Unavailable" in at.prove(text), "the pepper file knows better"
    by_hand(at.store, "UPDATE pepper SET state = 'RETIRED' WHERE version = 1")
    del at.texts[victim]


def test_chains_become_one_hash_with_the_next_proof(alone: Host) -> None:
    rotate(alone)
    alone.make_key()
    assert sorted(it.inner for it in secrets(alone.store).values()) == [(), (1,), (1,), (1,), (1,)]
    for text in alone.texts.values():
        assert alone.prove(text) == "proved"
    alone.settle()
    stored = secrets(alone.store)
    assert {stored[id].inner for id in alone.texts} == {()}
    peppers = alone.keyring.current.peppers
    for id, text in alone.texts.items():
        assert stored[id] == peppers.verifier(secret_of(text))
        assert alone.prove(text) == "proved"


def test_rotations_may_follow_each_other_without_a_proof_between(alone: Host) -> None:
    for new in (2, 3, 4):
        assert rotate(alone) == new
    assert {it.inner for it in secrets(alone.store).values()} == {(1, 2, 3)}
    for text in alone.texts.values():
        assert alone.prove(text) == "proved"
        assert "Unauthenticated" in alone.prove(text[:-7] + ("a" if text[-7] != "a" else "b") + text[-6:])
    assert alone.store.verify_chain(OPERATOR).ok, "old events are checked with old peppers"


def test_every_step_may_be_repeated(alone: Host) -> None:
    steps = alone.rotation(alone)
    for step in (steps.add, lambda: steps.activate(2), steps.rewrap, lambda: steps.retire(1)):
        for _ in range(3):
            step()
            alone.beat()
    assert states(alone.store) == {1: RETIRED, 2: ACTIVE}
    assert [action for action, _ in actions(alone.store)] == [
        f"peppers:{step}" for step in ("add", "activate", "rewrap", "retire")
    ]


def test_status_says_what_to_do_next(alone: Host) -> None:
    steps = alone.rotation(alone)

    def next_step() -> str:
        alone.said.clear()
        steps.status()
        return " ".join(alone.said[-1].split())

    assert next_step().endswith("To begin one: doorward-server pepper add")
    steps.add()
    assert next_step().endswith("Then: doorward-server pepper activate 2")
    alone.beat()
    steps.activate(2)
    assert next_step() == "Next: doorward-server pepper rewrap"
    assert any("REPLACED" in line and line.split()[2] == "4" for line in alone.said)
    assert any(alone.id in line and "alive" in line for line in alone.said)
    steps.rewrap()
    assert next_step() == "Next: doorward-server pepper retire 1"
    steps.retire(1)
    assert next_step().endswith("To begin one: doorward-server pepper add")


# --- what is refused --------------------------------------------------------------------------------------------------


def check_activation_waits_for_every_replica(url: str, folder: Path, clock: FakeClock) -> None:
    with two_hosts(url, folder, clock, keys=2) as (first, second):
        steps = first.rotation(first, second)
        steps.add()
        first.beat()
        with pytest.raises(RotationRefused, match=second.id) as refusal:
            steps.activate(2)
        assert first.id not in str(refusal.value)
        made = first.make_key().id
        assert secrets(first.store)[made].pepper == 1
        second.wait_for_load()
        assert second.failures == []


def test_activation_waits_for_every_replica(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    """The planted bug `activate without the replica check` must fail here."""
    check_activation_waits_for_every_replica(store_url, tmp_path, clock)


def test_rewrap_waits_for_every_replica(alone: Host, store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    """One that was taken for dead, and is not, lacks the active version."""
    with host(store_url, tmp_path, clock, alone) as late:
        steps = alone.rotation(alone)
        steps.add()
        clock.advance(DEAD_AFTER / SECOND)
        alone.beat()
        steps.activate(2)
        late.beat()
        with pytest.raises(RotationRefused, match=late.id):
            steps.rewrap()
        assert {it.pepper for it in secrets(alone.store).values()} == {1}
        hand_over(alone, late)
        late.beat()
        steps.rewrap()
        for text in alone.texts.values():
            assert late.prove(text) == "proved"


def test_an_unknown_version_is_an_outage_not_a_denial(
    alone: Host, store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    with host(store_url, tmp_path, clock, alone) as late:
        clock.advance(DEAD_AFTER / SECOND)
        rotate(alone)
        late.beat()
        for text in alone.texts.values():
            assert "StoreUnavailable" in late.prove(text)


def test_dead_replicas_and_stopped_ones_hold_nobody_up(
    alone: Host, store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    with host(store_url, tmp_path, clock, alone):
        assert len(alone.store.replicas.list_all()) == 2
    assert [it.id for it in alone.store.replicas.list_all()] == [alone.id]
    clock.advance(DEAD_AFTER / SECOND)
    steps = alone.rotation()
    steps.add()
    alone.keyring.current = alone.ring()  # as a command that starts now
    steps.activate(2)
    assert "No replica is running." in alone.said


def test_a_step_out_of_turn_is_refused(alone: Host) -> None:
    steps = alone.rotation(alone)
    refused: list[tuple[Callable[[], None], str]] = [
        (lambda: steps.activate(2), "lacks version 2"),
        (lambda: steps.retire(1), "is active"),
        (lambda: steps.retire(9), "no version 9"),
    ]
    for step, why in refused:
        with pytest.raises(RotationRefused, match=why):
            step()
    steps.add()
    alone.beat()
    steps.activate(2)
    with pytest.raises(RotationRefused, match="4 secrets are proved by version 1 alone"):
        steps.retire(1)
    with pytest.raises(RotationRefused, match="does not come back"):
        steps.activate(1)


def test_retiring_waits_for_replicas_that_still_make_secrets_with_it(alone: Host) -> None:
    steps = alone.rotation()
    steps.add()
    alone.beat()
    steps.activate(2)
    steps.rewrap()
    with pytest.raises(RotationRefused, match=alone.id):
        steps.retire(1)
    alone.beat()
    steps.retire(1)


def test_nothing_is_written_under_a_retired_version(alone: Host, clock: FakeClock) -> None:
    """Not even by a process that slept through it all."""
    asleep = alone.keyring.current
    rotate(alone)
    alone.keyring.current = asleep
    with pytest.raises(StoreUnavailable, match="was retired"):
        alone.make_key()
    held = alone.store.peppers.list_under(2, 1)[0]
    with pytest.raises(StoreUnavailable, match="was retired"):
        alone.store.peppers.replace([(held, asleep.peppers.verifier(secret_of("x")))])
    assert {it.pepper for it in secrets(alone.store).values()} == {2}


def test_secrets_of_a_restored_backup_are_wrapped_only_when_asked_for(alone: Host) -> None:
    id, text = next(iter(alone.texts.items()))
    before = secrets(alone.store)[id]
    rotate(alone)
    by_hand(
        alone.store, "UPDATE secret SET pepper = 1, inner_peppers = '', digest = ? WHERE key = ?", before.digest, id
    )
    assert "StoreUnavailable" in alone.prove(text)
    steps = alone.rotation(alone)
    steps.rewrap()
    assert "StoreUnavailable" in alone.prove(text)
    assert any("rewrap --retired" in line for line in alone.said)
    steps.rewrap(include_retired=True)
    assert alone.prove(text) == "proved"


def test_two_hosts_that_add_make_one_version(alone: Host, store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    with host(store_url, tmp_path, clock, alone) as other:
        alone.rotation().add()
        with pytest.raises(RotationRefused, match="was added on another host"):
            other.rotation().add()
        assert states(alone.store) == {1: ACTIVE, 2: ADDED}
        assert other.ring().peppers.versions.keys() == {1}


def test_a_version_whose_file_is_lost_can_be_given_up(
    alone: Host, store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    with host(store_url, tmp_path, clock, alone) as other:
        alone.rotation().add()
        steps = other.rotation(other)
        steps.retire(2)
        steps.add()
        assert states(other.store) == {1: ACTIVE, 2: RETIRED, 3: ADDED}
        other.beat()
        alone.rotation(alone).status()
        hand_over(other, alone)
        alone.beat()
        steps.activate(3)
        steps.rewrap()
        for text in alone.texts.values():
            assert other.prove(text) == alone.prove(text) == "proved"


# --- at the same time -------------------------------------------------------------------------------------------------


def check_rewrap_leaves_what_others_changed(at: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its reading and its writing, one secret gets a better verifier: it must stay."""
    id, text = next(iter(at.texts.items()))
    rotate_without_rewrap(at)
    listed = at.store.peppers.list_under
    better = at.keyring.current.peppers.verifier(secret_of(text))

    def list_then_change(version: int, limit: int) -> list[HeldVerifier]:
        found = listed(version, limit)
        changes = [(it, better) for it in found if it.key == id]
        assert at.store.peppers.replace(changes).value == len(changes)
        return found

    monkeypatch.setattr(at.store.peppers, "list_under", list_then_change)
    at.rotation(at).rewrap()
    monkeypatch.undo()
    assert secrets(at.store)[id] == better
    for text in at.texts.values():
        assert at.prove(text) == "proved"


def rotate_without_rewrap(at: Host) -> None:
    steps = at.rotation(at)
    steps.add()
    at.beat()
    steps.activate(2)


def test_rewrap_leaves_what_others_changed(alone: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug `rewrap without compare-and-swap` must fail here."""
    check_rewrap_leaves_what_others_changed(alone, monkeypatch)


def test_a_change_of_a_key_does_not_undo_a_rewrap(alone: Host, store_url: str) -> None:
    """It has read the secret before: what it writes back must not be the old verifier. (SQLite has one writer.)"""
    if not store_url.startswith("postgresql://"):
        return
    id = next(iter(alone.texts))
    rotate_without_rewrap(alone)
    event = alone.store.list_events(OPERATOR, 0, 1)[0].event
    done: list[int] = []

    def change(key: Any) -> Any:
        aside = threading.Thread(target=lambda: done.extend(alone.rotation(alone)._rewrapped(1, 2)))
        aside.start()
        aside.join()
        (secret,) = key.secrets
        return replace(key, secrets=(replace(secret, expires_at=alone.clock() + 9 * SECOND),)), event

    alone.store.update_key(OPERATOR, id, change)
    assert sum(done) == 4
    assert {it.pepper for it in secrets(alone.store).values()} == {2}
    assert alone.prove(alone.texts[id]) == "proved"


def test_a_record_that_was_rewrapped_since_it_was_read_is_read_again(
    alone: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = next(iter(alone.texts.values()))
    found = alone.store.find_record
    stale = found("doorward", text[-40:-30])
    assert stale.record is not None
    rotate(alone)
    answers = [stale]
    monkeypatch.setattr(alone.store, "find_record", lambda *its: answers.pop() if answers else found(*its))
    assert alone.prove(text) == "proved"
    assert answers == []


# --- planted bugs -----------------------------------------------------------------------------------------------------


def test_planted_activation_without_the_replica_check(
    store_url: str, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rotation, "_refuse_while_lacking", lambda *_: None)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_activation_waits_for_every_replica(store_url, tmp_path, clock)


def test_planted_rewrap_without_compare_and_swap(alone: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = store_peppers._REPLACE.replace(" AND secret.digest = u.column4", "")
    assert careless != store_peppers._REPLACE
    with pytest.MonkeyPatch.context() as plant:
        plant.setattr(store_peppers, "_REPLACE", careless)
        with pytest.raises(AssertionError):
            check_rewrap_leaves_what_others_changed(alone, monkeypatch)
