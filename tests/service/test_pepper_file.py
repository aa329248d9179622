"""The pepper file of a Doorward in use: what is wrong with it is noticed, at a start and while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from doorward_server.core.verify import KIND, PepperState
from doorward_server.service.peppers import PepperProblem, replace_ring, written
from tests import databases
from tests.fakes import FakeClock
from tests.service.hosts import Host, actions, by_hand, host, rotate, secrets, states

ADDED, ACTIVE, REPLACED, RETIRED = PepperState


def damaged(text: str) -> str:
    return text[: len(text) // 2]


def without_recovery(text: str) -> str:
    document = json.loads(text)
    document["recovery"] = {"active": 2, "keys": {"2": "ab" * 32}}
    return json.dumps(document)


def other_lookup(text: str) -> str:
    return json.dumps(json.loads(text) | {"lookup": "cd" * 32})


def other_pepper(text: str) -> str:
    document = json.loads(text)
    document["peppers"]["keys"]["1"] = "ef" * 32
    return json.dumps(document)


def without_the_pepper(text: str) -> str:
    document = json.loads(text)
    document["peppers"] = {"active": 7, "keys": {"7": "ef" * 32}}
    return json.dumps(document)


@pytest.mark.parametrize("spoil", [damaged, without_recovery, other_lookup, other_pepper, without_the_pepper, None])
def test_a_bad_file_changes_nothing_while_running(alone: Host, spoil: Callable[[str], str] | None) -> None:
    good, ring = alone.file.read_text("utf-8"), alone.keyring.current
    if spoil is None:
        alone.file.unlink()
    else:
        alone.file.write_text(spoil(good), "utf-8")
    for _ in range(2):
        alone.beat()
        assert alone.keyring.current is ring
        assert alone.prove(next(iter(alone.texts.values()))) == "proved"
    alone.file.write_text(good, "utf-8")
    rotate(alone)
    assert alone.keyring.current.peppers.active == 2, "and the next good one is taken"


def test_a_bad_file_does_not_keep_the_store_from_being_followed(alone: Host) -> None:
    steps = alone.rotation()
    steps.add()
    alone.beat()
    alone.file.write_text("{", "utf-8")
    steps.activate(2)
    alone.beat()
    assert alone.keyring.current.peppers.active == 2


def test_a_version_that_others_count_on_is_not_given_up(alone: Host) -> None:
    """It is registered: an older copy of the file must not take it away before somebody activates it."""
    old = alone.file.read_text("utf-8")
    alone.rotation().add()
    alone.beat()
    alone.file.write_text(old, "utf-8")
    alone.beat()
    assert alone.keyring.current.peppers.versions.keys() == {1, 2}


@pytest.mark.parametrize("spoil", [damaged, other_pepper, without_the_pepper])
def test_a_bad_file_refuses_to_start(
    alone: Host, spoil: Callable[[str], str], store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    alone.file.write_text(spoil(alone.file.read_text("utf-8")), "utf-8")
    with pytest.raises(PepperProblem), host(store_url, tmp_path, clock, alone):
        pass
    assert [it.id for it in alone.store.replicas.list_all()] == [alone.id]


def test_what_a_start_may_lack_depends_on_the_state(
    alone: Host, store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    old = alone.file.read_text("utf-8")

    def start_with(text: str) -> None:
        keep = alone.file.read_text("utf-8")
        alone.file.write_text(text, "utf-8")
        try:
            with host(store_url, tmp_path, clock, alone) as started:
                assert started.prove(next(iter(alone.texts.values()))) == "proved"
        finally:
            alone.file.write_text(keep, "utf-8")

    steps = alone.rotation(alone)
    steps.add()
    start_with(old)
    alone.beat()
    steps.activate(2)
    with pytest.raises(PepperProblem, match="lacks version 2"):
        start_with(old)
    ring = alone.ring()
    only_new = written(replace(ring, peppers=replace(ring.peppers, versions={2: ring.peppers.versions[2]})))
    with pytest.raises(PepperProblem, match="lacks version 1"):
        start_with(only_new)
    steps.rewrap()
    steps.retire(1)
    with pytest.raises(PepperProblem, match="lacks version 1"):
        start_with(only_new)  # an inner layer of every secret
    with pytest.raises(PepperProblem, match="is not the one"):
        start_with(other_pepper(alone.file.read_text("utf-8")))
    for text in alone.texts.values():
        alone.prove(text)
    alone.settle()
    by_hand(alone.store, "DELETE FROM secret WHERE inner_peppers <> ''")
    start_with(only_new)


def test_a_version_that_was_brought_back_in_the_store_refuses_to_start(
    alone: Host, store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    rotate(alone)
    by_hand(alone.store, "UPDATE pepper SET state = 'REPLACED' WHERE version = 1")
    with pytest.raises(PepperProblem, match="retired"), host(store_url, tmp_path, clock, alone):
        pass


def test_a_version_that_only_the_file_has_is_added_at_a_start(
    alone: Host, store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    """As after a kill between the file and the store."""
    ring = alone.ring()
    replace_ring(
        alone.file, replace(ring, peppers=replace(ring.peppers, versions={**ring.peppers.versions, 2: b"2" * 32}))
    )
    alone.beat()
    assert alone.keyring.current.peppers.versions.keys() == {1}, "the store does not vouch for it"
    with host(store_url, tmp_path, clock, alone):
        assert states(alone.store) == {1: ACTIVE, 2: ADDED}
        assert actions(alone.store) == [("peppers:add", "2")]
    alone.beat()
    assert alone.keyring.current.peppers.versions.keys() == {1, 2}


def test_a_first_start_begins_with_what_the_file_says(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    with host(store_url, folder, clock) as first:
        ring = first.ring()
    peppers = replace(
        ring.peppers, versions={n: bytes([n]) * 32 for n in (1, 2, 3, 4)}, active=3, retired=frozenset({1})
    )
    with databases.fresh("sqlite", tmp_path) as url:
        replace_ring(first.file, replace(ring, peppers=peppers))
        with host(url, folder, clock, first) as second:
            assert states(second.store) == {1: RETIRED, 2: REPLACED, 3: ACTIVE, 4: ADDED}
            made = second.make_key().id
            assert secrets(second.store)[made].pepper == 3


def test_the_file_keeps_its_mode_and_place(alone: Host, tmp_path: Path) -> None:
    real = tmp_path / "secrets.json"
    alone.file.rename(real)
    alone.file.symlink_to(real)
    alone.rotation().add()
    assert alone.file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert alone.ring().peppers.versions.keys() == {1, 2}
    assert alone.ring().peppers.active == 2, "what an empty store would begin with"
    assert [it.name for it in real.parent.iterdir() if it.name.endswith(".new")] == []


def test_imports_and_slow_verifiers_are_left_alone(alone: Host) -> None:
    id = next(iter(alone.texts))
    by_hand(alone.store, "UPDATE secret SET pepper = 0, verifier = 'sha256' WHERE key = ?", id)
    before = secrets(alone.store)[id]
    rotate(alone)
    assert secrets(alone.store)[id] == before
    assert {it.kind for it in secrets(alone.store).values()} == {KIND, "sha256"}
