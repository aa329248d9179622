"""What calls and time bring about is told: over the services, with rules as keyspace files have them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.v1 import authz_pb2, keys_pb2
from doorward_server.core.alerts import HOUR, WEEK, Alert, AlertFilter, AlertKind
from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.keytext import CHECKSUM_LENGTH, checksum
from doorward_server.core.model import SECOND
from doorward_server.core.usage import Cell, Cells, hour_of
from doorward_server.service.noticing import Noticing
from doorward_server.store import Store
from tests.fakes import FakeClock
from tests.service.door import Door, keyspace, opened_door, unique
from tests.wire.tenants import never_made

RULES = (
    "alerts:",
    "  by-key: {when: failed_authentication, per: key, count: 5, window: 10m}",
    "  by-address: {when: failed_authentication, per: address, count: 5, window: 10m}",
    "  by-prefix: {when: failed_authentication, per: prefix, count: 5, window: 10m}",
    "  unusual: {when: unusual_activity, factor: 4}",
    "  soon: {when: expiring, before: [30d, 1d]}",
    "  idle: {when: unused, after: 90d}",
    "  overdue: {when: rotation_overdue}",
    "  old: {when: superseded_used}",
    "  leak: {when: leaked}",
    "  near: {when: limit_nearly_used, percent: [80, 95]}",
    "limits: {windows: {per-day: {per: key, limit: 100, window: 1d}}}",
    "keys: {rotation: {every: 60d}}",
)


@pytest.fixture
def watched(door: Door) -> str:
    """A keyspace with every kind of rule."""
    name = unique("watched")
    door.apply(keyspace(name, f"prefix: {name}", *RULES))
    return name


def flush(door: Door) -> None:
    door.run(door.app.watch.noticing.flush())


def told(door: Door, organization: str, rule: str = "") -> list[Alert]:
    """What an organization was told, oldest first."""
    found = door.app.store.alerts.list_some(organization, AlertFilter(), None, 1000)
    return [it for it in reversed(found) if rule in ("", it.rule)]


def wrong(text: str) -> str:
    """A text with the same public part that proves nothing, with a right checksum."""
    body = text[:-CHECKSUM_LENGTH]
    other = body[:-1] + ("A" if body[-1] != "A" else "B")
    return other + checksum(other)


def ask(door: Door, name: str, text: str, ip: str = "", times: int = 1, **more: Any) -> str:
    for _ in range(times):
        verdict = door.verdict(name, text, context=authz_pb2.Context(client_ip=ip), **more)
    return verdict


# --- failed authentications -------------------------------------------------------------------------------------------


def test_wrong_texts_for_one_key_are_told_of_once_in_the_window(door: Door, watched: str) -> None:
    acme = door.organization()
    made = door.create(acme, watched)
    assert ask(door, watched, wrong(made.secret), times=4) == "KEY_UNKNOWN"
    flush(door)
    assert told(door, acme) == []
    for _ in range(9):
        door.clock.advance(60)
        ask(door, watched, wrong(made.secret))
        flush(door)
    (spike,) = told(door, acme)
    assert (spike.rule, spike.key, spike.threshold, spike.observed) == ("by-key", made.key.id, 5, 5)
    door.clock.advance(120)
    ask(door, watched, wrong(made.secret), times=5)
    flush(door)
    assert [it.rule for it in told(door, acme)] == ["by-key", "by-key"]


def test_failures_further_apart_than_the_window_are_none_of_a_spike(door: Door, watched: str) -> None:
    acme = door.organization()
    made = door.create(acme, watched)
    for _ in range(12):
        ask(door, watched, wrong(made.secret))
        flush(door)
        door.clock.advance(200)
    assert told(door, acme) == []


def test_two_replicas_count_together_and_tell_once(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    with opened_door(store_url, tmp_path, clock) as one, opened_door(store_url, tmp_path, clock) as other:
        name = unique("watched")
        one.apply(keyspace(name, f"prefix: {name}", *RULES))
        acme = one.organization()
        made = one.create(acme, name)
        for _ in range(3):
            for door in (one, other):
                ask(door, name, wrong(made.secret))
                flush(door)
        (spike,) = told(one, acme, "by-key")
        assert spike.observed == 5, "three here and two there"


def test_an_address_and_a_prefix_are_told_to_whom_the_texts_were_shown(door: Door, watched: str) -> None:
    """Texts that are nobody's have no organization: the one that runs the service is being tried."""
    shop = door.organization("shop")
    service = door.staff(shop, "backend")
    request = authz_pb2.AuthorizeRequest(keyspace=watched, action="things:read")
    request.context.client_ip = "192.0.2.7"
    for _ in range(5):
        request.key = never_made(watched)
        door.run(door.authz.Authorize(request, service))
    flush(door)
    assert {(it.rule, it.subject, it.key) for it in told(door, shop)} == {
        ("by-address", "192.0.2.7", ""),
        ("by-prefix", f"{watched}_live", ""),
    }


def test_keys_that_no_longer_hold_fail_too_and_right_ones_never(door: Door, watched: str) -> None:
    acme = door.organization()
    good, revoked = door.create(acme, watched), door.create(acme, watched)
    door.run(door.keys.RevokeKey(keys_pb2.RevokeKeyRequest(organization=acme, id=revoked.key.id), door.caller()))
    assert ask(door, watched, good.secret, times=9) == "ALLOWED"
    assert ask(door, watched, revoked.secret, times=5) == "KEY_REVOKED"
    flush(door)
    assert [(it.rule, it.key) for it in told(door, acme)] == [("by-key", revoked.key.id)]


def test_dry_runs_and_calls_without_a_key_are_no_failures(door: Door, watched: str) -> None:
    acme = door.organization()
    made = door.create(acme, watched)
    ask(door, watched, wrong(made.secret), times=9, dry_run=True)
    ask(door, watched, "of another system", "192.0.2.9", times=9)
    flush(door)
    assert told(door, acme) == told(door, "operator") == []


def test_a_batch_is_one_attempt(door: Door, watched: str) -> None:
    acme = door.organization()
    made = door.create(acme, watched)
    items = [authz_pb2.BatchAuthorizeItem(action="things:read")] * 50
    request = authz_pb2.BatchAuthorizeRequest(keyspace=watched, key=wrong(made.secret), items=items)
    for _ in range(4):
        door.run(door.authz.BatchAuthorize(request, door.caller()))
    flush(door)
    assert told(door, acme) == []


def test_what_could_not_be_written_is_written_with_the_next_flush(
    door: Door, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = door.organization()
    made = door.create(acme, watched)
    ask(door, watched, wrong(made.secret), times=3)
    with monkeypatch.context() as lost:

        def fail(*_: object) -> None:
            raise StoreUnavailable

        lost.setattr(door.app.store.alerts, "count_failures", fail)
        with pytest.raises(StoreUnavailable):
            flush(door)
    ask(door, watched, wrong(made.secret), times=2)
    flush(door)
    assert [it.observed for it in told(door, acme, "by-key")] == [5]


# --- replaced texts, limits, leaks ------------------------------------------------------------------------------------


def test_a_replaced_text_that_is_still_used_is_told_of_once_a_day(door: Door, watched: str) -> None:
    acme = door.organization()
    made = door.create(acme, watched)
    grace = Duration(seconds=2 * 3600)
    rotated = door.run(
        door.keys.RotateKey(keys_pb2.RotateKeyRequest(organization=acme, id=made.key.id, grace=grace), door.caller())
    )
    assert ask(door, watched, rotated.secret, times=3) == "ALLOWED"
    flush(door)
    assert told(door, acme) == []
    assert ask(door, watched, made.secret, times=3) == "ALLOWED"
    flush(door)
    door.clock.advance(3 * 3600)
    assert ask(door, watched, made.secret) == "SECRET_SUPERSEDED"
    flush(door)
    assert [it.key for it in told(door, acme, "old")] == [made.key.id]
    door.clock.advance(22 * 3600)
    ask(door, watched, made.secret)
    flush(door)
    assert [("works for" in it.message) for it in told(door, acme, "old")] == [True, False]


def test_a_limit_that_is_nearly_used_is_told_of_at_each_percentage_once(door: Door, watched: str) -> None:
    acme = door.organization()
    made, other = door.create(acme, watched), door.create(acme, watched)
    for _ in range(79):
        assert ask(door, watched, made.secret) == "ALLOWED"
    ask(door, watched, other.secret, times=9)
    flush(door)
    assert told(door, acme, "near") == []
    assert ask(door, watched, made.secret) == "ALLOWED"
    flush(door)
    assert ask(door, watched, made.secret, times=25) == "QUOTA_EXCEEDED"
    flush(door)
    near = told(door, acme, "near")
    assert [(it.key, it.subject, it.threshold) for it in near] == [(made.key.id, made.key.id, it) for it in (80, 95)]
    assert all("'per-day'" in it.message for it in near)


def test_a_leak_is_told_of(door: Door, watched: str) -> None:
    acme, shop = door.organization(), door.app.keyspaces._catalog.get(watched)
    for _ in range(3):
        door.app.watch.noticing.leaked(acme, shop, "key_1", "a public repository", "It was revoked.")
    flush(door)
    (leak,) = told(door, acme)
    assert (leak.kind, leak.key) == (AlertKind.LEAKED, "key_1")


def test_a_leak_is_told_of_where_no_rule_says_so(door: Door) -> None:
    name, acme = unique("quiet"), door.organization()
    door.apply(keyspace(name, f"prefix: {name}"))
    made = door.create(acme, name)
    request = keys_pb2.ReportLeakRequest(key=made.secret, keyspace=name, found_in="a public repository")
    assert door.run(door.keys.ReportLeak(request, door.caller())).outcome == keys_pb2.LEAK_OUTCOME_ALERTED
    door.settle()
    flush(door)
    assert [(it.kind, it.key) for it in told(door, acme)] == [(AlertKind.LEAKED, made.key.id)]


# --- what time brings about -------------------------------------------------------------------------------------------


def test_a_leak_is_told_of_although_its_reporter_has_given_up(
    door: Door, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization = door.organization()
    made, caller = door.create(organization, watched), door.caller()
    begun, go_on, told_of = threading.Event(), threading.Event(), asyncio.Event()
    right, noted = Store.update_key, Noticing._raise

    def slow(self: Store, *asked: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return right(self, *asked, **more)

    async def given_up() -> None:
        request = keys_pb2.ReportLeakRequest(key=made.secret, keyspace=watched, found_in="a log")
        reporting = asyncio.ensure_future(door.keys.ReportLeak(request, caller))
        assert await asyncio.to_thread(begun.wait, 30)
        reporting.cancel()
        await asyncio.wait([reporting])
        go_on.set()
        await asyncio.wait_for(told_of.wait(), 30)

    def noting(self: Noticing, alert: Alert) -> bool:
        told_of.set()
        return noted(self, alert)

    monkeypatch.setattr(Store, "update_key", slow)
    monkeypatch.setattr(Noticing, "_raise", noting)
    door.run(given_up())
    flush(door)
    assert [it.key for it in told(door, organization, "leak")] == [made.key.id]


def sweep(door: Door) -> int:
    return door.app.watch.sweeps.sweep(door.clock())


def test_keys_that_expire_idle_or_age_are_told_of_once(door: Door, watched: str) -> None:
    acme = door.organization()
    expiry = keys_pb2.Expiry(duration=Duration(seconds=80 * 86_400))
    short = door.create(acme, watched, expiry=expiry).key.id
    kept = door.create(acme, watched).key.id
    days: list[tuple[int, str, str]] = []
    for day in range(100):
        for it in told(door, acme)[len(days) :]:
            days.append((day - 1, it.rule, it.key))
        sweep(door)
        door.clock.advance(86_400)
    assert sorted(days) == sorted(
        [(50, "soon", short), (79, "soon", short), (60, "overdue", short), (60, "overdue", kept), (90, "idle", kept)]
    )


def test_a_key_is_idle_since_it_can_be_used(door: Door, watched: str) -> None:
    acme, later = door.organization(), Timestamp(seconds=door.clock.now // SECOND + 80 * 86_400)
    made = door.create(acme, watched, not_before=later).key.id
    door.clock.advance(91 * 86_400)
    sweep(door)
    assert told(door, acme, "idle") == []
    door.clock.advance(80 * 86_400)
    sweep(door)
    (idle,) = told(door, acme, "idle")
    assert idle.key == made
    assert "made 171 days ago, was never used" in idle.message


def test_a_key_that_does_far_more_than_it_used_to_is_told_of_within_the_hour(door: Door, watched: str) -> None:
    acme = door.organization()
    made, calm = door.create(acme, watched).key.id, door.create(acme, watched).key.id
    cells = Cells()
    for key in (made, calm):
        for week in range(4):
            cells.cells[_cell(acme, key, watched, door.clock.now + week * WEEK)] = 100
    door.clock.now += 4 * WEEK
    now = hour_of(door.clock.now)
    cells.cells[_cell(acme, made, watched, now)] = 500
    door.app.store.usage.add("a test", 1, cells, now)
    sweep(door)
    assert [(it.key, it.expected, it.threshold, it.observed) for it in told(door, acme, "unusual")] == [
        (made, 100, 400, 500)
    ]
    door.clock.advance(600)
    sweep(door)
    assert len(told(door, acme, "unusual")) == 1


def test_what_a_key_does_at_the_end_of_an_hour_is_told_of_in_the_next(door: Door, watched: str) -> None:
    acme = door.organization()
    made = door.create(acme, watched).key.id
    door.clock.advance(3600 - door.clock.now // SECOND % 3600)
    weeks_ago, cells = door.clock.now, Cells()
    cells.cells[_cell(acme, made, watched, weeks_ago - HOUR)] = 1
    door.app.store.usage.add("weeks ago", 1, cells, weeks_ago)
    door.clock.advance(2 * WEEK // SECOND + 3550)
    sweep(door)
    door.clock.advance(5)  # nobody looks again within this hour
    cells = Cells()
    cells.cells[_cell(acme, made, watched, door.clock.now)] = 500
    door.app.store.usage.add("a test", 1, cells, door.clock.now)
    end = door.clock.now // HOUR * HOUR + HOUR - 1
    for _ in range(20):
        door.clock.advance(60)
        sweep(door)
    assert [(it.key, it.observed, it.at) for it in told(door, acme, "unusual")] == [(made, 500, end)]


def test_another_replica_does_not_repeat_a_sweep(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    with opened_door(store_url, tmp_path, clock) as one, opened_door(store_url, tmp_path, clock) as other:
        name = unique("watched")
        one.apply(keyspace(name, f"prefix: {name}", *RULES))
        acme = one.organization()
        one.create(acme, name)
        clock.advance(61 * 86_400)
        assert [sweep(one), sweep(other)] == [1, 0]
        clock.advance(601)
        assert [sweep(other), sweep(one)] == [0, 0]


def _cell(organization: str, key: str, name: str, at: int) -> Cell:
    return Cell(organization, key, hour_of(at), name, "", "things:read", "things", "ALLOWED")
