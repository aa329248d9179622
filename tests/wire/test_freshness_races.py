"""Narrow moments of the freshness protocol, held open: over real gRPC, on both stores."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from doorward.v1 import authz_pb2, freshness_pb2, keys_pb2, keyspaces_pb2
from doorward_server.core.freshness import ClientLeases
from doorward_server.core.model import SECOND
from doorward_server.service.peppers import PepperProblem
from doorward_server.service.replica import Membership
from doorward_server.store import Replica
from tests import databases
from tests.service.hosts import by_hand
from tests.wire.replicas import PATIENCE, reason, shop, until
from tests.wire.serving import Server, refused, serving, unique
from tests.wire.tenants import Tenant, never_made


def test_who_asks_after_a_keyspace_was_made_is_not_told_what_somebody_was_told_before(
    server: Server, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not there is an answer of the store, too: no later caller may share it."""
    name, store = unique("shop"), server.app.store
    began, go_on = threading.Event(), threading.Event()
    find = store.find_keyspace_record

    def first_is_held_up(asked: str) -> Any:
        found = find(asked)
        if asked == name and not began.is_set():
            began.set()
            assert go_on.wait(PATIENCE)
        return found

    def ask() -> str:
        return reason(server, never_made(name), acme.id, name)

    monkeypatch.setattr(store, "find_keyspace_record", first_is_held_up)
    with ThreadPoolExecutor(2) as threads:
        early = threads.submit(lambda: refused(ask).reason)
        assert began.wait(PATIENCE)
        acme.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=shop(name)))
        misses = server.app.freshness.misses
        late = threads.submit(ask)
        until(lambda: server.app.freshness.misses > misses)
        go_on.set()
        assert early.result(PATIENCE) == "UNKNOWN_REFERENCE"
        assert late.result(PATIENCE) == "KEY_UNKNOWN"


LEASES = ("invalidate", "answer", "acknowledged", "held_back_until")


def test_the_leases_of_clients_are_touched_by_the_event_loop_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that drop what has run out at the same time could drop a lease that is live."""
    seen: set[tuple[str, int]] = set()

    def noted(name: str) -> Any:
        do = getattr(ClientLeases, name)

        def noting(it: ClientLeases, *args: Any) -> Any:
            if it is server.app.freshness.clients:
                seen.add((name, threading.get_ident()))
            return do(it, *args)

        return noting

    for name in LEASES:
        monkeypatch.setattr(ClientLeases, name, noted(name))
    polls = server.app.tailing.polls["taken"]
    until(lambda: server.app.tailing.polls["taken"] > polls + 2)

    async def loop() -> int:
        return threading.get_ident()

    home = server.on_loop(loop)
    assert {name for name, _ in seen} >= {"answer", "acknowledged", "held_back_until"}
    assert {thread for _, thread in seen} == {home}


def test_a_replica_that_may_not_enter_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(_: Membership) -> None:
        raise PepperProblem("the active pepper is not here")

    monkeypatch.setattr(Membership, "enter", refusing)
    with (
        databases.fresh("sqlite", tmp_path) as url,
        pytest.raises(PepperProblem, match="the active pepper is not here"),
        serving(url, tmp_path, furnished=False),
    ):
        pass


def test_who_deletes_again_waits_for_the_first_time(server: Server, acme: Tenant) -> None:
    """A call that timed out is sent again, and finds nothing: that must not be told before everybody knows."""
    held = acme.key(scopes=["read:findings"])
    waited: queue.SimpleQueue[int] = queue.SimpleQueue()
    gate = server.app._gate
    spread = gate._spread

    async def noting(revision: int | None) -> Any:
        outcome = await spread(revision)
        waited.put(1)
        return outcome

    gate._spread = noting
    try:
        acme.root.keys.DeleteKey(keys_pb2.DeleteKeyRequest(organization=acme.id, id=held.id, no_wait=True))
        refusal = refused(lambda: acme.root.keys.DeleteKey(keys_pb2.DeleteKeyRequest(organization=acme.id, id=held.id)))
        assert refusal.reason == "NOT_FOUND"
        assert waited.qsize() == 1
        again = keys_pb2.DeleteKeyRequest(organization=acme.id, id=held.id, no_wait=True)
        assert refused(lambda: acme.root.keys.DeleteKey(again)).reason == "NOT_FOUND"
        assert waited.qsize() == 1
    finally:
        gate._spread = spread


def test_a_keyspace_that_is_typed_by_hand_is_gone_by(server: Server, acme: Tenant) -> None:
    """Nobody who types SQL thinks of the version that goes with the file."""
    name = unique("shop")
    acme.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=shop(name)))
    held = acme.key(name, ceiling=keys_pb2.CEILING_LIST, scopes=["reader"])
    assert reason(server, held.text, acme.id, name) == "ALLOWED"
    by_hand(server.app.store, "UPDATE keyspace SET source = ? WHERE name = ?", shop(name, verb="write"), name)
    full = authz_pb2.Consistency(full=True)
    assert reason(server, held.text, acme.id, name, consistency=full) == "SCOPE_INSUFFICIENT"
    until(lambda: reason(server, held.text, acme.id, name) == "SCOPE_INSUFFICIENT")


def test_nobody_waits_for_a_replica_that_has_left(server: Server, acme: Tenant) -> None:
    """In a rolling restart changes are not held back until time alone ends the wait."""
    store, ghost = server.app.store, unique("replica")
    now = server.app.clock()
    store.replicas.register(Replica(ghost, now, now, {}, max_staleness=600 * SECOND))
    held = acme.key(scopes=["read:findings"])
    with ThreadPoolExecutor(1) as threads:
        request = keys_pb2.RevokeKeyRequest(organization=acme.id, id=held.id, reason="over")
        revoking = threads.submit(lambda: acme.root.keys.RevokeKey(request))
        until(lambda: bool(server.app.waiting._waiting) and server.app.waiting._waiting[0].wait is not None)
        assert not revoking.done()
        store.replicas.delete([ghost])
        assert revoking.result(PATIENCE).propagation == freshness_pb2.PROPAGATION_ACKNOWLEDGED
