"""The cache inside a client, over real gRPC: never behind a change that has returned, of no use without a lease."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from doorward import AsyncClient, Client, Denied, Reason, Unavailable, keeping
from doorward.cache import DecisionCache
from doorward_server.core.model import SECOND
from doorward_server.service.authorizing import Authorizer
from tests import databases
from tests.wire.replicas import Pair, asked, blocked_tail, shop, until
from tests.wire.serving import Held, Server, serving, unique
from tests.wire.tenants import HOUR, new_tenant
from tests.wire.test_freshness import CHANGES, World, both, world  # noqa: F401  # fixtures

Ask = Callable[[], bool]


def asking(client: Client, held: Held, organization: str, keyspace: str, **more: Any) -> Any:
    """What *client* says of reading things."""
    return client.authorize(
        held.text, keyspace=keyspace, action="things:read", organization=organization, timeout=30, **more
    )


def remembers(client: Client, ask: Callable[[], object]) -> None:
    """Ask until *client* answers from its own memory."""

    def hit() -> bool:
        before = client.cache_info()
        ask()
        after = client.cache_info()
        assert before is not None
        assert after is not None
        return after.hits > before.hits

    until(hit)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_gone_from_a_clients_cache_when_it_returns(world: World, change: str) -> None:  # noqa: F811
    make, after = CHANGES[change]
    with Client(world.both.other.target, world.both.other.root, cache=100) as client:

        def ask() -> Any:
            return asking(client, world.held, world.tenant.id, world.keyspace)

        remembers(client, ask)
        assert ask().allowed
        make(world)
        decision = ask()
    assert (decision.allowed, str(decision.reason)) == (False, after)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on SQLite: what it is on makes no difference here."""
    folder = tmp_path_factory.mktemp("alone")
    with databases.fresh("sqlite", folder) as url, serving(url, folder, furnished=False) as server:
        yield server


class Shop:
    """An organization with a keyspace, and a key that may read things in it."""

    def __init__(self, server: Server, **words: Any) -> None:
        self.server = server
        self.tenant = new_tenant(server)
        self.keyspace = unique("shop")
        more = "".join(f"{word}: {value}\n" for word, value in words.items())
        self.tenant.root.keyspaces.ApplyKeyspace(applied(shop(self.keyspace) + more))
        self.held = self.tenant.key(self.keyspace, ceiling=2, scopes=["reader"])

    def ask(self, client: Client, **more: Any) -> Any:
        return asking(client, self.held, self.tenant.id, self.keyspace, **more)

    def used_at(self) -> int:
        self.server.on_loop(self.server.app.uses.flush)
        return self.tenant.get(self.held.id).last_used_at.seconds


def applied(source: str) -> Any:
    from doorward.v1 import keyspaces_pb2

    return keyspaces_pb2.ApplyKeyspaceRequest(source=source)


@pytest.fixture
def stall(alone: Server) -> Shop:
    return Shop(alone)


def test_for_asyncio_it_is_the_same(stall: Shop) -> None:
    async def scenario() -> list[str]:
        async with AsyncClient(stall.server.target, stall.server.root, cache=100) as client:

            async def ask() -> Any:
                return await client.authorize(
                    stall.held.text, keyspace=stall.keyspace, action="things:read", organization=stall.tenant.id
                )

            await remembered(client, ask)
            reasons = [str((await ask()).reason)]
            await asyncio.to_thread(stall.tenant.revoke, stall.held.id)
            return [*reasons, str((await ask()).reason)]

    assert asyncio.run(scenario()) == ["ALLOWED", "KEY_REVOKED"]


async def remembered(client: AsyncClient, ask: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(60):
        while True:
            before = client.cache_info()
            await ask()
            after = client.cache_info()
            if before is not None and after is not None and after.hits > before.hits:
                return
            await asyncio.sleep(0)


def test_each_event_loop_has_a_cache_of_its_own(stall: Shop) -> None:
    client = AsyncClient(stall.server.target, stall.server.root, cache=100)

    async def once() -> tuple[int, int]:
        await client.authorize(stall.held.text, keyspace=stall.keyspace, action="things:read")
        info = client.cache_info()
        assert info is not None
        return info.hits, info.asked

    assert asyncio.run(once()) == (0, 1)
    assert asyncio.run(once()) == (0, 1)


@pytest.fixture
def lasting(stall: Shop, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Client]:
    """Makes clients of *stall* by key whose leases do not run out, and which wait until the server has heard of all
    hits: on a machine that stalls, a second is over before that now and then.
    """
    monkeypatch.setattr(keeping, "FAREWELL", 60.0)

    def make(key: str) -> Client:
        client = Client(stall.server.target, key, cache=100)
        cached: Any = client._cached
        now = cached._decisions._clock()
        cached._decisions._clock = lambda: now
        return client

    return make


def test_hits_count_as_uses_and_in_the_metrics(stall: Shop, lasting: Callable[[str], Client]) -> None:
    hits = stall.server.app.metrics._hits
    told = hits["ALLOWED"]
    with lasting(stall.server.root) as client:
        remembers(client, lambda: stall.ask(client))
        before = stall.used_at()
        stall.server.clock.now += 3 * HOUR * SECOND
        for _ in range(250):
            assert stall.ask(client).allowed
    # Once closed, all is told: not one more than there were, and not one less.
    assert (info_of(client).hits, info_of(client).lost) == (251, 0)
    assert hits["ALLOWED"] - told == 251
    # The client's clock is far behind the server's; what it tells is taken for an hour ago at most.
    assert stall.used_at() == before + 2 * HOUR


def test_a_hit_of_somebody_elses_key_counts_nothing(stall: Shop, lasting: Callable[[str], Client]) -> None:
    other, hits = Shop(stall.server), stall.server.app.metrics._hits
    told = hits["ALLOWED"]
    with lasting(stall.tenant.key("doorward", scopes=["backend"]).text) as client:
        remembers(client, lambda: stall.ask(client))
        until(lambda: hits["ALLOWED"] > told)  # no report is on its way
        cached: Any = client._cached
        for kept in list(cached._decisions._leases._entries.values()):
            kept.value.report.organization = other.tenant.id
            kept.value.report.key_id = other.held.id
            kept.value.report.secret_id = other.held.key.secrets[0].id
            kept.value.report.keyspace = other.keyspace
        assert stall.ask(client).allowed
    assert (info_of(client).hits, info_of(client).lost) == (2, 0)
    assert hits["ALLOWED"] - told == 1
    assert other.used_at() == 0


@pytest.mark.parametrize("more", [{"dry_run": True}, {"consistency": "full"}, {"consistency": 1}])
def test_some_questions_always_go_to_a_server(
    stall: Shop, lasting: Callable[[str], Client], more: dict[str, Any]
) -> None:
    with lasting(stall.server.root) as client:
        remembers(client, lambda: stall.ask(client))
        info = client.cache_info()
        assert stall.ask(client, **more).allowed
        assert client.cache_info() == info


def test_another_question_is_not_answered_from_it(stall: Shop) -> None:
    with Client(stall.server.target, stall.server.root, cache=100) as client:
        remembers(client, lambda: stall.ask(client))
        text, keyspace = stall.held.text, stall.keyspace
        assert client.authorize(text, keyspace=keyspace, action="things:write").reason is Reason.SCOPE_INSUFFICIENT
        assert stall.ask(client, environment="live").allowed
        other = new_tenant(stall.server).id
        mismatch = client.authorize(text, keyspace=keyspace, action="things:read", organization=other)
        assert mismatch.reason is Reason.ORGANIZATION_MISMATCH
        with pytest.raises(Denied):
            client.require(text, keyspace=keyspace, action="things:write")


def test_without_a_lease_it_asks(stall: Shop) -> None:
    with Client(stall.server.target, stall.server.root, cache=100) as client:
        remembers(client, lambda: stall.ask(client))
        with blocked_tail(stall.server):
            until(lambda: not info_of(client).leased)
            before = info_of(client)
            assert stall.ask(client).allowed
            after = info_of(client)
        assert (after.hits, after.asked) == (before.hits, before.asked + 1)
        remembers(client, lambda: stall.ask(client))


def info_of(client: Client) -> Any:
    info = client.cache_info()
    assert info is not None
    return info


def test_who_may_not_have_a_lease_asks_every_time(stall: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A role that may authorize but not lease: nothing is kept, and that is said once."""
    from doorward_server.service.guard import Guard

    require = Guard.require

    def refusing(self: Any, caller: Any, permission: str, *args: Any, **kwargs: Any) -> Any:
        if permission == "decisions:lease":
            permission = "decisions:nobody-has"
        return require(self, caller, permission, *args, **kwargs)

    mine = stall.tenant.key("doorward", scopes=["backend"])
    with pytest.MonkeyPatch.context() as patched, caplog.at_level(logging.WARNING, "doorward"):
        patched.setattr(Guard, "require", refusing)
        with Client(stall.server.target, mine.text, cache=100) as client:
            assert stall.ask(client).allowed
            until(lambda: "decisions are not cached" in caplog.text)
            assert stall.ask(client).allowed
            assert (info_of(client).hits, info_of(client).size, info_of(client).leased) == (0, 0, False)
    assert stall.held.text not in caplog.text
    assert mine.text not in caplog.text


def test_when_no_server_answers_it_says_so_or_what_the_caller_chose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with databases.fresh("sqlite", tmp_path) as url, serving(url, tmp_path, furnished=False) as server:
        open_shop, shut = Shop(server), Shop(server, fail_open="false")
        client = Client(server.target, server.root, cache=100)
        remembers(client, lambda: open_shop.ask(client))
        assert shut.ask(client).allowed
    until(lambda: not info_of(client).leased)
    with pytest.raises(Unavailable):
        open_shop.ask(client)
    for wanted in ("deny", "allow"):
        decision = open_shop.ask(client, on_unavailable=wanted)
        assert decision.allowed is (wanted == "allow")
        assert isinstance(decision.error, Unavailable)
    with pytest.raises(Unavailable):
        shut.ask(client, on_unavailable="allow")
    assert shut.ask(client, on_unavailable="deny").allowed is False
    with pytest.raises(Unavailable):  # nobody ever heard whether it permits that
        client.authorize("x", keyspace="unheard-of", action="things:read", on_unavailable="allow", timeout=30)
    with pytest.raises(Denied):
        client.require(
            open_shop.held.text, keyspace=open_shop.keyspace, action="things:read", on_unavailable="deny", timeout=30
        )
    assert client.assumed() == {"deny": 3, "allow": 1}
    assert open_shop.held.text not in caplog.text
    client.close()


def test_several_connections_to_several_replicas_share_one_lease(both: Pair) -> None:  # noqa: F811
    """The answers come from either replica, the lease from one."""
    tenant = new_tenant(both.one)
    keyspace = unique("shop")
    tenant.root.keyspaces.ApplyKeyspace(applied(shop(keyspace)))
    target = f"ipv4:127.0.0.1:{both.one.port},127.0.0.1:{both.other.port}"
    with Client(target, both.one.root, channels=2, insecure=True, cache=100) as client:
        for _ in range(5):
            held = tenant.key(keyspace, ceiling=2, scopes=["reader"])
            remembers(client, lambda: asking(client, held, tenant.id, keyspace))  # noqa: B023  # in this turn
            tenant.revoke(held.id)
            for _ in range(4):
                assert asking(client, held, tenant.id, keyspace).reason is Reason.KEY_REVOKED
            assert asked(both.other, held.text, tenant.id, keyspace).decision != 1


def test_a_forked_child_starts_with_nothing(stall: Shop) -> None:
    with Client(stall.server.target, stall.server.root, cache=100) as client:
        remembers(client, lambda: stall.ask(client))
        child = os.fork()
        if child == 0:  # pragma: no cover  # in another process
            info = client.cache_info()
            empty = info is not None and (info.hits, info.size, info.leased) == (0, 0, False)
            os._exit(7 if empty else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        remembers(client, lambda: stall.ask(client))  # the parent goes on, on a new stream


def held_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have the first question wait inside the server: an event that it is there, and one that lets it go on."""
    there, go_on = threading.Event(), threading.Event()
    authorize = Authorizer.authorize

    async def waiting(self: Authorizer, *asked: Any) -> Any:
        answer = await authorize(self, *asked)
        if not there.is_set():
            there.set()
            await asyncio.to_thread(go_on.wait, 120)
        return answer

    monkeypatch.setattr(Authorizer, "authorize", waiting)
    return there, go_on


def test_nobody_joins_a_call_that_began_before_theirs(stall: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the one is from before the change, to the other from after it; and the first is not kept."""
    assert joined(stall, monkeypatch, 60) == ("ALLOWED", "KEY_REVOKED", "KEY_REVOKED")


def test_a_client_that_joined_calls_would_be_found(stall: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    running: dict[Any, Any] = {}
    decide = Client._decide

    def joining(self: Client, question: Any, words: bytes | None) -> Any:
        key = question.request.SerializeToString(deterministic=True)
        if key not in running or running[key].done():
            running[key] = ThreadPoolExecutor(1).submit(decide, self, question, words)
        return running[key].result(60)

    monkeypatch.setattr(Client, "_decide", joining)
    assert joined(stall, monkeypatch, 2)[1:] != ("KEY_REVOKED", "KEY_REVOKED")


def joined(stall: Shop, monkeypatch: pytest.MonkeyPatch, patience: float) -> tuple[str, str, str]:
    """What is said to who asked before a change, to who asks after it while the first waits, and to who asks again.

    The second gets *patience* seconds: many for an answer that comes, few for one that cannot.
    """
    with Client(stall.server.target, stall.server.root, cache=100) as client, ThreadPoolExecutor(2) as threads:
        other = stall.tenant.key(stall.keyspace, ceiling=2, scopes=["reader"])
        remembers(client, lambda: asking(client, other, stall.tenant.id, stall.keyspace))
        there, go_on = held_up(stall.server, monkeypatch)
        first = threads.submit(stall.ask, client)
        assert there.wait(60)
        stall.tenant.revoke(stall.held.id)
        second = threads.submit(stall.ask, client)
        try:
            said = str(second.result(patience).reason)
        except TimeoutError:
            said = "nothing"
        go_on.set()
        return str(first.result(60).reason), said, str(stall.ask(client).reason)


def test_a_child_with_its_parents_lease_would_be_found(stall: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    forget = DecisionCache.forget
    monkeypatch.setattr(DecisionCache, "forget", lambda self: None if hasattr(self, "_lock") else forget(self))
    with pytest.raises(AssertionError):
        test_a_forked_child_starts_with_nothing(stall)
