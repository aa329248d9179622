"""Two Doorwards on one store, served from one process: what is changed on the one must be seen on the other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorward.v1 import authz_pb2, freshness_pb2
from doorward_server.store import Store
from tests.fakes import FakeClock
from tests.wire.serving import Server, serving

PATIENCE = 60.0
"""Seconds: a bound for what hangs, not an expectation."""


@dataclass
class Pair:
    """Two replicas with one root key. Changes are made on `one`, questions are asked of `other`."""

    one: Server
    other: Server


@contextmanager
def pair(url: str, folder: Path, **settings: Any) -> Iterator[Pair]:
    """Serve two replicas of the store at *url*, which share a pepper file."""
    clock = FakeClock()
    with ExitStack() as stack:
        one = stack.enter_context(serving(url, folder, clock=clock, furnished=False, **settings))
        other = stack.enter_context(serving(url, folder, clock=clock, furnished=False, **settings))
        yield Pair(one, other)


def warm(server: Server) -> None:
    """Wait until *server* holds a lease."""
    until(lambda: server.app.freshness.lease.live(server.app.freshness.boot()))


def until(holds: Callable[[], bool]) -> None:
    """Wait until *holds*."""
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if holds():
            return
        tick.wait(0.01)
    raise AssertionError("it did not come to pass")


def settled(server: Server) -> None:
    """Wait until *server* has followed all there is: an answer about what is newer than its caller is not kept."""
    head = server.app.store.revision()
    until(lambda: server.app.freshness.cache.applied >= head)


@contextmanager
def blocked_tail(server: Server) -> Iterator[None]:
    """Keep *server* from polling, as a stalled disk or network does, until the end. A poll that was under way is over:
    it could still see what is changed meanwhile.
    """
    tailing, stalls, go_on = server.app.tailing, threading.Event(), threading.Event()
    turn = tailing._turn

    def stalled() -> None:
        stalls.set()
        go_on.wait(2 * PATIENCE)
        turn()

    tailing._turn = stalled  # type: ignore[method-assign]  # the fault
    try:
        assert stalls.wait(PATIENCE)
        yield
    finally:
        tailing._turn = turn  # type: ignore[method-assign]
        go_on.set()


BACKGROUND = ("doorward-beats", "doorward-management", "doorward-waits")
"""Threads that ask the store, whether or not anybody calls."""


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """Collect who asks *store* anything, by the names of their threads, but for what goes on in the background."""
    asking, database = list[str](), store._dialect.database
    execute = database.execute_sql

    def counting(*args: Any, **kwargs: Any) -> Any:
        name = threading.current_thread().name
        if not name.startswith(BACKGROUND):
            asking.append(name)
        return execute(*args, **kwargs)

    database.execute_sql = counting
    try:
        yield asking
    finally:
        with contextlib.suppress(AttributeError):
            del database.execute_sql


@contextmanager
def counted_work(server: Server) -> Iterator[list[str]]:
    """Collect what *server* hands to the threads that read the store for decisions."""
    pool, work = server.app.pools[0], list[str]()
    run = pool.run

    async def counting(task: Any, *args: Any, **kwargs: Any) -> Any:
        work.append(getattr(task, "__qualname__", ""))
        return await run(task, *args, **kwargs)

    pool.run = counting  # type: ignore[method-assign, assignment]  # a count
    try:
        yield work
    finally:
        pool.run = run  # type: ignore[method-assign]


ACKNOWLEDGED = freshness_pb2.PROPAGATION_ACKNOWLEDGED
EXPIRED = freshness_pb2.PROPAGATION_EXPIRED
NOT_AWAITED = freshness_pb2.PROPAGATION_NOT_AWAITED
NOT_NEEDED = freshness_pb2.PROPAGATION_NOT_NEEDED


def asked(server: Server, text: str, organization: str, keyspace: str, **more: Any) -> authz_pb2.AuthorizeResponse:
    """What *server* says of reading things."""
    request = authz_pb2.AuthorizeRequest(
        key=text, keyspace=keyspace, action="things:read", organization=organization, **more
    )
    answer: authz_pb2.AuthorizeResponse = server.api().authz.Authorize(request)
    return answer


def reason(server: Server, text: str, organization: str, keyspace: str, **more: Any) -> str:
    """The same in one word."""
    return authz_pb2.Reason.Name(asked(server, text, organization, keyspace, **more).reason).removeprefix("REASON_")


SHOP = """
keyspace: {name}
prefix: {name}
environments: [live]
credentials: [{{header: x-api-key}}]
inherit: true
ceilings: [owner, list]
keys: {{active_per_owner: {{maximum: 1, on_exceed: revoke_oldest}}}}
types: {{things: [{verbs}]}}
roles:
  reader: {{rules: [{{actions: ["things:{verb}"]}}]}}
  barred: {{rules: [{{effect: DENY, actions: ["things:read"]}}]}}
"""


def shop(name: str, verb: str = "read") -> str:
    """The file of a keyspace whose role `reader` may do *verb*."""
    return SHOP.format(name=name, verbs="read, write", verb=verb)
