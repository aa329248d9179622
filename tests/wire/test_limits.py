"""Limits over real gRPC, on both stores: what counts, what does not, and what callers are told."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from doorward import Client, LimitStatus
from doorward.v1 import authz_pb2, keys_pb2, keyspaces_pb2
from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.model import SECOND
from doorward_server.service import limiting
from doorward_server.store.limits import LimitStore
from tests.wire.replicas import counted_work, until
from tests.wire.serving import Held, Server, refused, unique
from tests.wire.tenants import Tenant

SHOP = """
keyspace: {name}
prefix: {name}
credentials: [{{header: x-api-key}}]
inherit: true
ceilings: [list, owner]
types: {{things: [read, write, make], boxes: [read]}}
roles:
  reader: {{rules: [{{actions: ["*:read", "things:make"]}}]}}
limits: {limits}
"""
LIST = keys_pb2.CEILING_LIST


class Shop:
    """An organization with a keyspace that has limits, and a key in it."""

    def __init__(self, tenant: Tenant, limits: str) -> None:
        self.tenant = tenant
        self.keyspace = unique("shop")
        self.apply(limits)
        self.held = self.key()

    def apply(self, limits: str) -> None:
        source = SHOP.format(name=self.keyspace, limits=limits)
        self.tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=source))

    def key(self, **more: Any) -> Held:
        return self.tenant.key(self.keyspace, **({"ceiling": LIST, "scopes": ["reader"]} | more))

    def question(self, action: str = "things:read", held: Held | None = None, **more: Any) -> Any:
        return authz_pb2.AuthorizeRequest(
            key=(held or self.held).text,
            keyspace=self.keyspace,
            action=action,
            organization=self.tenant.id,
            **more,
        )

    def ask(
        self, action: str = "things:read", held: Held | None = None, *, timeout: float | None = None, **more: Any
    ) -> Any:
        return self.tenant.root.authz.Authorize(self.question(action, held, **more), timeout=timeout)

    def reasons(self, times: int, *asked: Any, **more: Any) -> list[str]:
        return [reason(self.ask(*asked, **more)) for _ in range(times)]


def reason(answer: Any) -> str:
    return authz_pb2.Reason.Name(answer.reason).removeprefix("REASON_")


HOURLY = "{windows: {per-hour: {per: key, limit: 3, window: 1h}}}"


def test_what_is_over_the_limit_is_denied_and_says_when_to_come_back(acme: Tenant) -> None:
    shop = Shop(acme, HOURLY)
    first = shop.ask()
    (status,) = first.limits
    assert (status.name, status.limit, status.remaining, status.window.seconds) == ("per-hour", 3, 2, 3600)
    assert 3600 < status.reset_after.seconds <= 3960
    assert not status.HasField("retry_after")
    assert shop.reasons(3) == ["ALLOWED", "ALLOWED", "RATE_LIMITED"]
    denied = shop.ask()
    assert denied.decision == authz_pb2.DECISION_DENY
    assert denied.limits[0].remaining == 0
    assert 3600 <= denied.limits[0].retry_after.seconds <= 3960
    assert denied.http.status == 429
    headers = {it.name: it.value for it in denied.http.headers}
    assert headers["RateLimit-Policy"] == '"per-hour";q=3;w=3600'
    assert headers["RateLimit"].startswith('"per-hour";r=0;t=')
    assert int(headers["Retry-After"]) >= denied.limits[0].retry_after.seconds


def test_a_header_that_the_keyspace_gives_is_there_once(acme: Tenant) -> None:
    given = "{Retry-After: '7', rateLimit: mine}"
    shop = Shop(acme, f"{{windows: {{few: {{limit: 1, window: 1h}}}}}}\nhttp: {{limited: {{headers: {given}}}}}")
    item = authz_pb2.BatchAuthorizeItem(action="things:read")
    asked = authz_pb2.BatchAuthorizeRequest(
        key=shop.held.text, keyspace=shop.keyspace, organization=acme.id, items=[item]
    )
    shop.ask()
    for answer in (shop.ask(), *acme.root.authz.BatchAuthorize(asked).results):
        headers = [(it.name, it.value) for it in answer.http.headers if it.name != "Content-Type"]
        assert headers == [("Retry-After", "7"), ("rateLimit", "mine"), ("RateLimit-Policy", '"few";q=1;w=3600')]


def test_a_quota_is_what_takes_a_day_or_more(acme: Tenant) -> None:
    shop = Shop(acme, "{windows: {daily: {per: key, limit: 1, window: 1d}}}")
    assert shop.reasons(2) == ["ALLOWED", "QUOTA_EXCEEDED"]


def test_what_is_not_allowed_costs_nothing(acme: Tenant) -> None:
    shop = Shop(acme, HOURLY)
    assert shop.reasons(5, "things:write") == ["SCOPE_INSUFFICIENT"] * 5
    assert shop.reasons(5, dry_run=True) == ["ALLOWED"] * 5
    for _ in range(5):
        acme.root.authz.ExplainAuthorization(authz_pb2.ExplainAuthorizationRequest(question=shop.question()))
    assert not shop.ask("things:write").limits
    assert shop.reasons(5) == ["ALLOWED"] * 3 + ["RATE_LIMITED"] * 2
    assert shop.ask(dry_run=True).decision == authz_pb2.DECISION_ALLOW


def test_all_windows_are_charged_or_none(acme: Tenant) -> None:
    shop = Shop(
        acme, "{windows: {narrow: {limit: 2, window: 1h, actions: ['things:read']}, wide: {limit: 10, window: 1d}}}"
    )
    assert shop.reasons(4) == ["ALLOWED", "ALLOWED", "RATE_LIMITED", "RATE_LIMITED"]
    assert [it.remaining for it in shop.ask("boxes:read").limits] == [7]


def test_a_call_costs_what_the_keyspace_or_the_caller_says(acme: Tenant) -> None:
    shop = Shop(acme, "{costs: {'things:make': 5, 'boxes:*': 0}, windows: {per-hour: {limit: 12, window: 1h}}}")
    assert shop.ask("things:make").limits[0].remaining == 7
    assert shop.ask(cost=3).limits[0].remaining == 4
    assert reason(shop.ask("things:make")) == "RATE_LIMITED"
    assert shop.ask(cost=4).limits[0].remaining == 0
    assert shop.reasons(3, "boxes:read") == ["ALLOWED"] * 3
    never = shop.ask(cost=13)
    assert (reason(never), never.limits[0].HasField("retry_after")) == ("RATE_LIMITED", False)
    for wrong in (-1, 1_000_001):
        assert refused(lambda: shop.ask(cost=wrong)).metadata["field"] == "cost"  # noqa: B023  # in this turn


PER = {
    "key": (False, False, False),
    "owner": (True, False, False),
    "organization": (True, True, False),
    "key_and_resource": (False, False, False),
}


@pytest.mark.parametrize("per", PER)
def test_whose_calls_are_counted_together(acme: Tenant, per: str) -> None:
    shop = Shop(acme, f"{{windows: {{few: {{per: {per}, limit: 1, window: 1h}}}}}}")
    person, other = acme.person(), acme.person()
    for who in (person, other):
        acme.bind(shop.keyspace, "reader", principal=who)
    first, second = shop.key(owner=person), shop.key(owner=person)
    strangers = shop.key(owner=other)
    assert reason(shop.ask(held=first)) == "ALLOWED"
    assert reason(shop.ask(held=first)) == "RATE_LIMITED"
    together = [reason(shop.ask(held=it)) == "RATE_LIMITED" for it in (second, strangers)]
    assert tuple(together) == PER[per][:2]
    elsewhere = shop.ask(held=first, resource=authz_pb2.Resource(type="things", id="2"))
    assert (reason(elsewhere) == "ALLOWED") is (per == "key_and_resource")


def test_a_batch_charges_what_it_allows(acme: Tenant) -> None:
    shop = Shop(acme, HOURLY)
    items = [authz_pb2.BatchAuthorizeItem(action=it) for it in ("things:read", "things:write", "boxes:read")]
    items.append(authz_pb2.BatchAuthorizeItem(action="things:read", cost=2))
    asked = authz_pb2.BatchAuthorizeRequest(
        key=shop.held.text, keyspace=shop.keyspace, organization=acme.id, items=items
    )
    answer = acme.root.authz.BatchAuthorize(asked)
    assert [reason(it) for it in answer.results] == ["ALLOWED", "SCOPE_INSUFFICIENT", "ALLOWED", "RATE_LIMITED"]
    assert [[it.remaining for it in result.limits] for result in answer.results] == [[2], [], [1], [1]]
    assert reason(shop.ask()) == "ALLOWED"


def test_a_changed_limit_counts_at_once_and_goes_on_from_what_was_counted(acme: Tenant) -> None:
    shop = Shop(acme, HOURLY)
    assert shop.reasons(4)[-1] == "RATE_LIMITED"
    shop.apply("{windows: {per-hour: {per: key, limit: 5, window: 1h}}}")
    assert shop.reasons(3) == ["ALLOWED", "ALLOWED", "RATE_LIMITED"]


def test_what_a_count_decides_is_kept_in_no_client(server: Server, acme: Tenant) -> None:
    shop = Shop(acme, HOURLY)
    with Client(server.target, server.root, cache=100) as client:
        for expected in (True, True, True, False, False):
            decision = client.authorize(
                shop.held.text, keyspace=shop.keyspace, action="things:read", organization=acme.id, timeout=30
            )
            assert decision.allowed is expected
        assert isinstance(decision.limits[0], LimitStatus)
        assert decision.limits[0].retry_after is not None
        info = client.cache_info()
        assert info is not None
        assert info.size == 0
    assert not shop.ask("things:read").HasField("lease_cacheable_for")
    until(lambda: shop.ask("things:write").HasField("lease_cacheable_for"))


def begun_just_now(server: Server) -> int:
    """Days of a window whose cell has begun, but is far from its end, by the clock of either store."""
    moments = (server.clock.now / SECOND, time.time())
    return next(
        days for days in range(60, 366) if all(0.1 < moment / (days * 8_640) % 1 < 0.5 for moment in moments)
    )  # fmt: skip


def test_a_busy_key_seldom_asks_the_store(server: Server, acme: Tenant) -> None:
    days = begun_just_now(server)
    shop = Shop(
        acme, f"{{windows: {{all: {{limit: 100000, window: {days}d}}, twice: {{limit: 1000000, window: {days}d}}}}}}"
    )
    limiter = server.app.authorizer._charging._limiter
    shop.reasons(40)
    leases = limiter.leases
    with counted_work(server) as work:
        assert set(shop.reasons(60)) == {"ALLOWED"}
    assert work == []
    assert limiter.leases - leases <= 5  # of 60 calls


def test_who_is_over_the_limit_does_not_ask_the_store_each_time(server: Server, acme: Tenant) -> None:
    shop = Shop(acme, HOURLY)
    shop.reasons(4)
    leases = server.app.authorizer._charging._limiter.leases
    assert set(shop.reasons(30)) == {"RATE_LIMITED"}
    assert server.app.authorizer._charging._limiter.leases == leases


@pytest.mark.parametrize("choice", ["refuse", "allow"])
def test_a_lost_store_is_no_denial(acme: Tenant, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(acme, f"{{on_store_loss: {choice}, windows: {{per-hour: {{limit: 1000, window: 1h}}}}}}")
    tries = itertools.count()
    right = LimitStore.charge

    def lost(self: LimitStore, *asked: Any) -> Any:
        if next(tries) == 0:
            return right(self, *asked)
        raise StoreUnavailable

    monkeypatch.setattr(LimitStore, "charge", lost)
    assert reason(shop.ask(cost=1)) == "ALLOWED"
    if choice == "allow":
        answer = shop.ask(cost=100)
        assert (reason(answer), list(answer.limits)) == ("ALLOWED", [])
    else:
        assert refused(lambda: shop.ask(cost=100)).code == "UNAVAILABLE"


@contextmanager
def counting(server: Server, shop: Shop) -> Iterator[None]:
    """Have the count of *shop*'s key as a server has it that hangs while it charges it."""
    with psycopg.connect(server.app.config.store) as somebody:
        name = f"{shop.tenant.id}/{shop.keyspace}/key:{shop.held.id}/per-hour"
        somebody.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
        yield


def test_a_count_that_is_locked_holds_up_only_its_own_calls(server: Server, acme: Tenant) -> None:
    if not server.app.config.store.startswith("postgresql"):
        pytest.skip("SQLite has one writer")
    shop = Shop(acme, "{windows: {per-hour: {limit: 100, window: 1h}}}")
    other = shop.key()
    with ThreadPoolExecutor(4) as threads:
        with counting(server, shop):
            waiting = [threads.submit(shop.ask, cost=cost) for cost in (1, 2, 3)]
            assert [reason(shop.ask(held=other, cost=9, timeout=3)) for _ in range(9)] == ["ALLOWED"] * 9
            assert not any(it.done() for it in waiting)
        assert [reason(it.result()) for it in waiting] == ["ALLOWED"] * 3
    assert shop.ask().limits[0].remaining == 93


def test_a_count_that_stays_locked_cannot_be_asked(
    server: Server, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not server.app.config.store.startswith("postgresql"):
        pytest.skip("SQLite has one writer")
    monkeypatch.setattr(limiting, "PATIENCE", 0.05)
    shop = Shop(acme, HOURLY)
    with counting(server, shop):
        assert refused(shop.ask).code == "UNAVAILABLE"
    assert shop.ask().limits[0].remaining == 2


def test_who_waited_for_units_is_let_through_although_their_cell_ends_on_the_way(server: Server, acme: Tenant) -> None:
    shop = Shop(acme, HOURLY)
    cell = 360 * SECOND
    server.clock.now += cell - server.clock.now % cell - 1  # a microsecond before it ends, where SQLite's time is ours
    assert shop.reasons(4) == ["ALLOWED", "ALLOWED", "ALLOWED", "RATE_LIMITED"]


def test_a_key_may_have_limits_of_its_own(acme: Tenant) -> None:
    shop = Shop(acme, "{windows: {per-hour: {limit: 2, window: 1h}, all: {per: organization, limit: 100, window: 1d}}}")
    assert shop.reasons(3)[-1] == "RATE_LIMITED"
    changed = acme.update(shop.held.id, limits={"per-hour": 4})
    assert dict(changed.key.limits) == {"per-hour": 4}
    assert shop.reasons(3) == ["ALLOWED", "ALLOWED", "RATE_LIMITED"]
    acme.update(shop.held.id, "limits")
    assert dict(acme.get(shop.held.id).limits) == {}
    assert reason(shop.ask()) == "RATE_LIMITED"
    (first, *_) = acme.events("keys:update", shop.held.id)
    assert (first.before, first.after) == ({"limits": {}}, {"limits": {"per-hour": 4}})
    made = shop.key(limits={"per-hour": 1})
    assert shop.reasons(2, held=made) == ["ALLOWED", "RATE_LIMITED"]
    for wrong, field in (({"all": 5}, "limits[all]"), ({"per-hour": -1}, "limits[per-hour]"), ({"?": 1}, "limits[?]")):
        assert refused(lambda: acme.update(shop.held.id, limits=wrong)).metadata["field"] == field  # noqa: B023


def test_an_owner_cannot_raise_the_limits_of_its_key(acme: Tenant) -> None:
    shop = Shop(acme, HOURLY)
    person = acme.person()
    acme.bind(shop.keyspace, "reader", principal=person)
    mine = shop.key(owner=person)
    member, admin = acme.member(person), acme.caller("admin")
    member.keys.UpdateKey(acme.changed(mine.id, name="renamed"))
    for ask in (
        lambda: member.keys.UpdateKey(acme.changed(mine.id, limits={"per-hour": 100})),
        lambda: member.keys.UpdateKey(acme.changed(mine.id, "limits")),
        lambda: member.keys.CreateKey(acme.new_key(shop.keyspace, owner=person, limits={"per-hour": 100})),
    ):
        assert refused(ask).code == "PERMISSION_DENIED"
    assert admin.keys.UpdateKey(acme.changed(mine.id, limits={"per-hour": 100})).key.limits["per-hour"] == 100
