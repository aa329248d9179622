"""Pruning the audit log: what is left verifies, whatever happens on the way, and nobody can move where it begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doorward_server.core.audit import EventFilter, HeadFound, Link
from doorward_server.core.model import Event
from doorward_server.store import ChainBroken, Store, audit_store
from tests.store import hands
from tests.store.hands import Hands
from tests.store.killing import pruned
from tests.store.test_kill import run_killing
from tests.store.values import NOW, add_key, event, principal

HERE = "organization = 'acme' AND sequence"


def age(store: Store, count: int) -> None:
    """Write *count* events that are old by `NOW + 1`."""
    for number in range(count):
        store.add_principal(principal(f"old{number}"), event())


def check_a_forged_checkpoint_is_found(store: Store, url: str) -> None:
    age(store, 3)
    store.audit.prune("acme", NOW + 1, pruned)
    add_key(store)
    first = store.verify_chain("acme").first
    with hands.at(url) as prompt:
        following = prompt.one(f"SELECT hash FROM event WHERE {HERE} = ?", first)
        prompt.run(f"DELETE FROM event WHERE {HERE} = ?", first)
        prompt.run("UPDATE checkpoint SET sequence = ?, hash = ? WHERE organization = 'acme'", first, following)
    report = store.verify_chain("acme")
    assert (report.ok, report.broken_at) == (False, first)


def check_what_is_pruned_is_verified_first(store: Store, url: str) -> None:
    age(store, 3)
    with hands.at(url) as prompt:
        prompt.run(f"UPDATE event SET note = 'nothing to see' WHERE {HERE} = 3")
    before = store.list_events("acme", 0, 99)
    broken_at = 0
    try:
        store.audit.prune("acme", NOW + 1, pruned)
    except ChainBroken as broken:
        broken_at = broken.sequence
    assert broken_at == 3
    assert store.list_events("acme", 0, 99) == before


def check_a_chain_that_was_cut_back_lacks_the_head(store: Store, url: str) -> None:
    age(store, 3)
    head = store.audit.find_head("acme", NOW)
    link = Link(head.sequence, head.hash)
    with hands.at(url) as prompt:
        prompt.run(f"DELETE FROM event WHERE {HERE} = ?", head.sequence)
        prompt.run(
            f"UPDATE tally SET events = events - 1, head = (SELECT hash FROM event WHERE {HERE} = ?) "
            "WHERE organization = 'acme'",
            head.sequence - 1,
        )
    assert store.verify_chain("acme").ok
    assert store.audit.verify_page("acme", None, link).found is HeadFound.NOT_IN_CHAIN


def check_nothing_is_pruned_by_halves(store: Store, prompt: Hands) -> None:
    """What must hold after any crash in the middle of it."""
    report = store.verify_chain("acme")
    assert report.ok
    ((kept, gone),) = prompt.run("SELECT min(sequence), min(sequence) - 1 FROM event WHERE organization = 'acme'")
    assert report.first == kept
    told = [it.event.target for it in store.list_events("acme", gone, 999) if it.event.action == "events:prune"]
    assert (gone == 0) == (told == [])
    assert all(int(it.rpartition(" ")[2]) <= gone for it in told)


def test_a_forged_checkpoint_is_found(store: Store, store_url: str) -> None:
    """The planted bug `unsealed-checkpoint` must fail here."""
    check_a_forged_checkpoint_is_found(store, store_url)


def test_what_is_pruned_is_verified_first(store: Store, store_url: str) -> None:
    """The planted bug `unverified-pruning` must fail here."""
    check_what_is_pruned_is_verified_first(store, store_url)


def test_a_chain_that_was_cut_back_lacks_the_head(store: Store, store_url: str) -> None:
    """The planted bug `any-head` must fail here."""
    check_a_chain_that_was_cut_back_lacks_the_head(store, store_url)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_process_prunes_nothing_by_halves(store: Store, store_url: str, when: str) -> None:
    acknowledged = run_killing(store_url, when, "prune")
    assert len(acknowledged) == 1, "the one that lived"
    assert int(acknowledged[0].rpartition("_")[2]) > 8, "it was killed around fewer statements than there are"
    with hands.at(store_url) as prompt:
        check_nothing_is_pruned_by_halves(store, prompt)


def test_pruning_goes_in_chunks_each_with_its_event(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    age(store, 7)
    length = store.verify_chain("acme").length
    monkeypatch.setattr(audit_store, "PRUNED", 4)
    counts = []
    while count := store.audit.prune("acme", NOW + 1, pruned):
        counts.append(count)
    assert counts == [4] * (length // 4) + [length % 4] * (length % 4 > 0)
    assert [it.event.action for it in store.list_events("acme", length, 99)] == ["events:prune"] * len(counts)
    assert store.verify_chain("acme").ok


def test_what_follows_a_younger_event_waits_for_it(store: Store) -> None:
    store.add_principal(principal("young"), event(at=NOW + 9))
    store.add_principal(principal("dated-back"), event(at=NOW - 9))
    assert store.audit.prune("acme", NOW + 1, pruned) > 0
    left = store.audit.list_some("acme", EventFilter(), None, 9, oldest_first=True).events
    assert [it.event.at for it in left] == [NOW + 9, NOW - 9, NOW + 2]
    assert store.audit.prune("acme", NOW + 1, pruned) == 0


def test_only_organizations_with_old_events_are_prunable(store: Store) -> None:
    assert store.audit.list_prunable(NOW, "", 9) == []
    assert store.audit.list_prunable(NOW + 1, "", 9) == ["acme", "umbra"]
    assert store.audit.list_prunable(NOW + 1, "acme", 9) == ["umbra"]
    assert store.audit.list_prunable(NOW + 1, "", 1) == ["acme"]


def test_a_checkpoint_is_no_other_organizations(store: Store, store_url: str) -> None:
    for organization in ("acme", "umbra"):

        def told(first: Link, last: Link, organization: str = organization) -> Event:
            return replace(pruned(first, last), organization=organization)

        store.audit.prune(organization, NOW + 1, told)
    with hands.at(store_url) as prompt:
        prompt.run("UPDATE checkpoint SET organization = 'x' WHERE organization = 'acme'")
        prompt.run("UPDATE checkpoint SET organization = 'acme' WHERE organization = 'umbra'")
    assert not store.verify_chain("acme").ok
