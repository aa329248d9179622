"""How long a client's lease lives, who may have one, and what it tells the server. Over real gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from doorward import AsyncClient, Client, Reason, keeping
from doorward.cache import DecisionCache
from doorward.v1 import keys_pb2
from doorward_server.core.alerts import AlertFilter
from doorward_server.core.model import SECOND
from tests import databases
from tests.wire.replicas import shop, until
from tests.wire.serving import Server, serving
from tests.wire.test_client_cache import Shop, applied, asking, info_of, remembered, remembers


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on SQLite: what it is on makes no difference here."""
    folder = tmp_path_factory.mktemp("alone")
    with databases.fresh("sqlite", folder) as url, serving(url, folder, furnished=False) as server:
        yield server


@pytest.fixture
def stall(alone: Server) -> Shop:
    return Shop(alone)


def test_somebody_elses_key_does_not_end_the_lease(stall: Shop) -> None:
    """Whoever holds a key of another organization must not be able to switch the cache of a backend off."""
    other = Shop(stall.server)
    stall.tenant.root.keyspaces.ApplyKeyspace(applied(shop(stall.keyspace)))
    foreign = other.tenant.key(stall.keyspace, ceiling=2, scopes=["reader"])
    mine = stall.tenant.key("doorward", scopes=["backend"])
    with Client(stall.server.target, mine.text, cache=100) as client:
        remembers(client, lambda: stall.ask(client))
        before = info_of(client)
        for _ in range(3):
            said = asking(client, foreign, stall.tenant.id, stall.keyspace)
            assert (said.reason, said.identity) == (Reason.ORGANIZATION_MISMATCH, None)
        assert info_of(client).hits == before.hits
        reports = stall.server.app.metrics._hits["ALLOWED"]
        remembers(client, lambda: stall.ask(client))
        until(lambda: stall.server.app.metrics._hits["ALLOWED"] > reports)  # the stream goes on


def test_who_may_ask_about_one_keyspace_alone_has_a_lease(stall: Shop, caplog: pytest.LogCaptureFixture) -> None:
    where = f"organizations/{stall.tenant.id}/keyspaces/{stall.keyspace}/decisions"
    binding = keys_pb2.KeyBinding(role="backend", resources=[where])
    mine = stall.tenant.key("doorward", ceiling=keys_pb2.CEILING_LIST, bindings=[binding])
    with (
        caplog.at_level(logging.WARNING, "doorward"),
        Client(stall.server.target, mine.text, cache=100) as client,
    ):
        remembers(client, lambda: stall.ask(client))
    assert "not cached" not in caplog.text


def test_a_closed_client_answers_nothing_from_memory(stall: Shop) -> None:
    client = Client(stall.server.target, stall.server.root, cache=100)
    remembers(client, lambda: stall.ask(client))
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        stall.ask(client)


def test_when_another_loop_takes_over_the_lease_of_the_one_before_ends(stall: Shop) -> None:
    """Each has a cache of its own; loops that take turns must not leave a stream for each turn."""
    client = AsyncClient(stall.server.target, stall.server.root, cache=100)

    async def ask() -> Any:
        task = None
        while task is None:  # an answer that may be kept begins it
            assert await client.authorize(stall.held.text, keyspace=stall.keyspace, action="things:read", timeout=30)
            cached: Any = client._cached
            task = cached._keeper._task
        return task

    async def ended(task: Any) -> bool:
        done, _ = await asyncio.wait({task}, timeout=60)
        return task in done

    with asyncio.Runner() as one, asyncio.Runner() as other:
        first = one.run(ask())
        second = other.run(ask())
        assert one.run(ended(first))
        other.run(client.close())
        assert second.done()


def test_each_hit_is_told_once_when_a_client_has_closed(stall: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FAREWELL", 60.0)
    before = stall.server.app.metrics._hits["ALLOWED"]
    with Client(stall.server.target, stall.server.root, cache=100) as client:
        remembers(client, lambda: stall.ask(client))
        for _ in range(100):
            stall.ask(client)
    assert info_of(client).lost == 0
    assert stall.server.app.metrics._hits["ALLOWED"] - before == info_of(client).hits


def test_each_hit_is_told_once_for_asyncio_too(stall: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FAREWELL", 60.0)
    before = stall.server.app.metrics._hits["ALLOWED"]

    async def scenario() -> Any:
        async with AsyncClient(stall.server.target, stall.server.root, cache=100) as client:

            async def ask() -> Any:
                return await client.authorize(stall.held.text, keyspace=stall.keyspace, action="things:read")

            await remembered(client, ask)
            for _ in range(100):
                await ask()
        return client.cache_info()

    info = asyncio.run(scenario())
    assert info.lost == 0
    assert stall.server.app.metrics._hits["ALLOWED"] - before == info.hits


def silent_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Have the next stream that is looked at be taken for dead; the list tells when it was."""
    seen: list[bool] = []

    def overdue(self: DecisionCache) -> bool:
        seen.append(True)
        return len(seen) == 1

    monkeypatch.setattr(DecisionCache, "overdue", overdue)
    return seen


def test_another_stream_follows_one_that_is_silent(stall: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(stall.server.target, stall.server.root, cache=100) as client:
        remembers(client, lambda: stall.ask(client))
        seen = silent_once(monkeypatch)
        until(lambda: len(seen) > 2)
        remembers(client, lambda: stall.ask(client))


def test_another_stream_follows_one_that_is_silent_for_asyncio_too(
    stall: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with AsyncClient(stall.server.target, stall.server.root, cache=100) as client:

            async def ask() -> Any:
                return await client.authorize(stall.held.text, keyspace=stall.keyspace, action="things:read")

            await remembered(client, ask)
            seen = silent_once(monkeypatch)
            await asyncio.to_thread(until, lambda: len(seen) > 2)
            await remembered(client, ask)

    asyncio.run(scenario())


def test_failures_that_are_answered_from_memory_are_told_of(alone: Server) -> None:
    stall = Shop(alone, alerts="{failures: {when: failed_authentication, count: 20, window: 10m}}")
    stall.tenant.revoke(stall.held.id)
    with Client(alone.target, alone.root, cache=100) as client:
        remembers(client, lambda: stall.ask(client))
        asked = info_of(client).asked
        for _ in range(20):
            assert stall.ask(client).reason is Reason.KEY_REVOKED
        assert info_of(client).asked == asked < 20

    def told() -> bool:
        alone.on_loop(alone.app.watch.noticing.flush)
        return bool(alone.app.store.alerts.list_some(stall.tenant.id, AlertFilter(), None, 1))

    until(told)


def test_a_remembered_answer_ends_when_the_key_does(stall: Shop) -> None:
    expiry = keys_pb2.Expiry(duration=Duration(seconds=2))
    held = stall.tenant.key(stall.keyspace, ceiling=keys_pb2.CEILING_LIST, scopes=["reader"], expiry=expiry)
    with Client(stall.server.target, stall.server.root, cache=100) as client:

        def ask() -> Any:
            return asking(client, held, stall.tenant.id, stall.keyspace)

        remembers(client, ask)
        stall.server.clock.now += 2 * SECOND
        until(lambda: not ask().allowed)
        assert ask().reason is Reason.KEY_EXPIRED
