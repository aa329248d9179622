"""The first start, when it is disturbed; and ends that were begun and not finished."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from doorward_server.app import opened
from doorward_server.config import Config, load
from doorward_server.core.subject import key_subject
from doorward_server.service.bootstrap import RootKeyProblem, built_in
from doorward_server.service.catalog import OPERATOR
from doorward_server.store import Store
from tests.fakes import FakeClock


def config(url: str, folder: Path) -> Config:
    return load({"DOORWARD_STORE": url, "DOORWARD_STATE_DIR": str(folder)})


def operators(store: Store) -> int:
    return sum(event.event.action == "keys:create" for event in store.list_events(OPERATOR, 0, 1000))


def test_a_new_store_does_not_write_over_the_root_key_of_another(
    empty_store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    here = config(empty_store_url, tmp_path)
    here.root_key.write_text("the key of another store\n")
    with pytest.raises(RootKeyProblem, match="another store's root key"), opened(here, clock, secrets.token_bytes):
        pass
    assert here.root_key.read_text() == "the key of another store\n"
    here.root_key.unlink()
    with opened(here, clock, secrets.token_bytes) as (store, _, made):
        assert made
        assert operators(store) == 1


def test_a_first_start_that_was_killed_before_its_file_was_in_place_is_finished(
    empty_store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    here = config(empty_store_url, tmp_path)
    with opened(here, clock, secrets.token_bytes):
        pass
    text = here.root_key.read_text()
    here.root_key.rename(tmp_path / ".root-key.new")  # as if killed right before
    with opened(here, clock, secrets.token_bytes) as (store, _, made):
        assert made
        assert operators(store) == 1
    assert here.root_key.read_text() == text
    assert here.root_key.stat().st_mode & 0o777 == 0o600


def test_a_first_start_that_was_killed_before_its_commit_is_begun_anew(
    empty_store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    here = config(empty_store_url, tmp_path)
    (tmp_path / ".root-key.new").write_text("a key that no store knows\n")
    with opened(here, clock, secrets.token_bytes) as (_, _, made):
        assert made
    assert "no store" not in here.root_key.read_text()
    assert not (tmp_path / ".root-key.new").exists()


def test_a_record_of_two_organizations_is_never_decided_on(
    empty_store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    """A store that joins tenants, by whatever defect, must not get as far as a decision."""
    here = config(empty_store_url, tmp_path)
    with opened(here, clock, secrets.token_bytes) as (store, _, _):
        lookup = here.root_key.read_text().strip().split("_")[-1][:10]
        record = store.find_record("doorward", lookup).record
        assert record is not None
        foreign = replace(record.organization, id="acme")
        with pytest.raises(ValueError, match="two organizations"):
            key_subject(record.key, record.key.secrets[0], foreign, None, (), built_in())
