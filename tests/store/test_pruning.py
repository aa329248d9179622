"""The log does not grow without end, and nobody takes what is gone from it for what never was."""

from __future__ import annotations

import pytest

from doorward_server.store import Store
from tests.store import hands
from tests.store.tails import following
from tests.store.values import event, principal


def test_pruned_rows_leave_a_floor(store: Store) -> None:
    with following(store) as follower:
        behind = follower.head
        for number in range(5):
            store.add_principal(principal(f"x{number}"), event())
        head = store.revision()
        while store.prune_changes(keep=2):
            pass
        poll = follower.tail.poll("replica_1", behind, 0)
        assert (poll.head, poll.floor) == (head, head - 2)
        assert poll.floor > behind
        assert [it.revision for it in poll.changes] == [head - 1, head]
        kept = follower.tail.poll("replica_1", head - 1, 0)
        assert kept.nonce_at_since is not None
        assert [it.revision for it in kept.changes] == [head]


def test_pruning_goes_in_chunks_and_keeps_the_head(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doorward_server.store.changes.CHUNK", 2)
    with hands.at(store_url) as prompt:
        before = prompt.run("SELECT value, nonce FROM revision")
        rows = prompt.one("SELECT count(*) FROM changes")
        assert store.prune_changes(keep=1_000) == 0
        removed = [store.prune_changes(keep=0) for _ in range(rows)]
        assert all(2 <= it <= 4 for it in removed[:2])
        assert removed[-1] == 0
        assert prompt.run("SELECT value, nonce FROM revision") == before
        assert prompt.one("SELECT floor FROM revision") == before[0][0] - 1
        assert prompt.run("SELECT DISTINCT revision, nonce FROM changes") == before
        assert sum(removed) == rows - prompt.one("SELECT count(*) FROM changes")
