"""What the rules of one organization cost others: no alert, no sweep, and no more than its part of what all share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from doorward.v1 import directory_pb2, keys_pb2
from doorward_server.core import alerts as rules
from doorward_server.core.alerts import AlertKind, KeyFacts
from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.policy import Keyspace
from doorward_server.service import noted, own_rules
from doorward_server.store.alerts import Place, Whose
from tests.service.door import Door
from tests.service.test_alerting import ask, flush, sweep, told, wrong
from tests.service.test_own_rules import DAY, apply, fail, look, names, rule
from tests.store.statements import counted
from tests.wire.tenants import never_made

LEAK = "alerts: {leak: {when: leaked}}"
EACH = "limits: {windows: {each: {per: key_and_resource, limit: 10, window: 1h}}}"


def compiled(door: Door, name: str) -> Keyspace:
    return door.app.keyspaces._catalog.get(name)


def leak(door: Door, organization: str, name: str, place: str) -> None:
    door.app.watch.noticing.leaked(organization, compiled(door, name), "key_1", place, "")


def calls(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> list[Any]:
    """What a function returns from now on."""
    returned: list[Any] = []
    whole: Callable[..., Any] = getattr(place, name)

    def noting(*given: Any, **more: Any) -> Any:
        returned.append(whole(*given, **more))
        return returned[-1]

    monkeypatch.setattr(place, name, noting)
    return returned


# --- between two flushes ----------------------------------------------------------------------------------------------


def test_one_organization_takes_no_more_than_its_part_of_what_is_noted(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noted, "MOST", 12)
    monkeypatch.setattr(noted, "MOST_OF_ONE", 3)
    name = apply(door, "alerts: {by-key: {when: failed_authentication, count: 2, window: 10m}}")
    evil, good = door.organization("evil"), door.organization("good")
    for made in [door.create(evil, name) for _ in range(5)]:
        ask(door, name, wrong(made.secret), times=2)
    victim = door.create(good, name)
    ask(door, name, wrong(victim.secret), times=2)
    assert door.app.watch.noticing.dropped == 4
    flush(door)
    assert len(told(door, evil)) == 3
    assert [it.key for it in told(door, good)] == [victim.key.id]
    (metric,) = [it for it in door.app.metrics.collect() if it.name == "doorward_alerts_dropped"]
    assert [it.value for it in metric.samples] == [4]


def test_who_tries_from_many_addresses_hides_no_key_that_is_tried(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted, "MOST_OF_ONE", 3)
    name = apply(
        door,
        "alerts:",
        "  by-address: {when: failed_authentication, per: address, count: 2, window: 10m}",
        "  by-key: {when: failed_authentication, per: key, count: 2, window: 10m}",
    )
    made = door.create("operator", name)
    for n in range(5):
        ask(door, name, never_made(name), f"192.0.2.{n}")
    ask(door, name, wrong(made.secret), times=2)
    flush(door)
    assert [it.key for it in told(door, "operator")] == [made.key.id]


def check_the_alerts_of_one_organization_leave_room_for_anothers(door: Door, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noted, "MOST", 8)
    patch.setattr(noted, "MOST_OF_ONE", 3)
    name = apply(door, EACH)
    evil, good = door.organization("evil"), door.organization("good")
    for organization in (evil, good):
        rule(door, organization, name, "near", "{when: limit_nearly_used, percent: [10]}")
    for organization, times in ((evil, 9), (good, 1)):
        made = door.create(organization, name)
        for n in range(times):
            ask(door, name, made.secret, resource={"type": "things", "id": f"r{n}"})
    flush(door)
    assert (len(told(door, evil)), len(told(door, good))) == (3, 1)
    assert door.app.watch.noticing.dropped == 6


def test_the_alerts_of_one_organization_leave_room_for_anothers(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    check_the_alerts_of_one_organization_leave_room_for_anothers(door, monkeypatch)


def test_without_a_part_for_each_the_room_is_the_first_ones(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above notices the bug."""
    monkeypatch.setattr(noted.Noted, "_takes", lambda self, there, part: there < noted.MOST)
    with pytest.raises(AssertionError):
        check_the_alerts_of_one_organization_leave_room_for_anothers(door, monkeypatch)


def test_what_there_was_no_room_for_is_told_by_the_next_call(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted, "MOST_OF_ONE", 1)
    name = apply(door, EACH, "alerts: {near: {when: limit_nearly_used, percent: [10]}}")
    acme = door.organization()
    one, other = door.create(acme, name), door.create(acme, name)
    for _ in range(2):
        for made in (one, other):
            ask(door, name, made.secret)
        flush(door)
    assert sorted(it.key for it in told(door, acme)) == sorted([one.key.id, other.key.id])


def test_a_leak_is_always_noted_also_while_the_store_is_away(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted, "MOST", 1)
    monkeypatch.setattr(noted, "MOST_OF_ONE", 1)
    name = apply(door, LEAK)
    acme = door.organization()
    leak(door, acme, name, "a wiki")
    with monkeypatch.context() as lost:

        def away(*_: object) -> None:
            leak(door, acme, name, "a log")
            raise StoreUnavailable

        lost.setattr(door.app.store.alerts, "add", away)
        with pytest.raises(StoreUnavailable):
            flush(door)
    leak(door, acme, name, "a chat")
    flush(door)
    assert len(told(door, acme)) == 3
    assert door.app.watch.noticing.dropped == 0


def test_a_failure_is_counted_once_for_all_rules_with_one_window(door: Door) -> None:
    name = apply(door, LEAK)
    acme = door.organization()
    made = door.create(acme, name)
    for n in range(1, 5):
        rule(door, acme, name, f"from-{n}", f"{{when: failed_authentication, count: {n}, window: 10m}}")
    rule(door, acme, name, "long", "{when: failed_authentication, count: 3, window: 1h}")
    ask(door, name, wrong(made.secret), times=3)
    with counted(door.app.store) as statements:
        flush(door)
    assert sum("INSERT INTO failure_cell" in it for it in statements) == 2
    assert sorted(names(door, acme)) == ["from-1", "from-2", "from-3", "long"]


def test_a_secret_that_was_told_of_makes_up_no_more_alerts(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    name = apply(door, "alerts: {old: {when: superseded_used}}")
    acme = door.organization()
    made = door.create(acme, name)
    grace = Duration(seconds=7 * DAY)
    door.run(
        door.keys.RotateKey(keys_pb2.RotateKeyRequest(organization=acme, id=made.key.id, grace=grace), door.caller())
    )
    built = calls(monkeypatch, rules, "superseded_used")
    for _ in range(3):
        ask(door, name, made.secret, times=3)
        flush(door)
    assert len(built) == 1
    rule(door, acme, name, "mine", "{when: superseded_used}")
    ask(door, name, made.secret, times=3)
    flush(door)
    assert names(door, acme) == ["old", "mine"], "another rule is told at once"
    door.clock.advance(DAY)
    ask(door, name, made.secret)
    flush(door)
    assert names(door, acme) == ["old", "mine"] * 2


# --- in the store -----------------------------------------------------------------------------------------------------


def test_an_organizations_own_rule_about_failures_is_quiet_for_ten_minutes(door: Door) -> None:
    name = apply(door, "alerts: {spike: {when: failed_authentication, count: 1, window: 1m}}")
    acme, umbra = door.organization(), door.organization("umbra")
    rule(door, acme, name, "spike", "{when: failed_authentication, count: 1, window: 1m}")
    mine, theirs = door.create(acme, name), door.create(umbra, name)
    for _ in range(11):
        for made in (mine, theirs):
            fail(door, name, made.secret, 1)
        door.clock.advance(60)
    assert (len(told(door, acme)), len(told(door, umbra))) == (2, 11)


def test_a_deleted_organization_is_looked_at_no_more(door: Door) -> None:
    name = apply(door, LEAK)
    gone = door.organization("gone")
    rule(door, gone, name, "idle", "{when: unused, after: 30d}")
    door.run(door.directory.DeleteOrganization(directory_pb2.DeleteOrganizationRequest(id=gone), door.caller()))
    assert look(door)
    assert list(door.app.watch.own_rules.apart(compiled(door, name))) == []
    assert door.app.store.alert_rules.list_some(gone, name) == []


# --- in a sweep -------------------------------------------------------------------------------------------------------


def asked_for(door: Door, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Whose], bool]) -> list[Whose]:
    """Whose keys a sweep looks at, from now on; where *broken* says so, it cannot."""
    asked: list[Whose] = []
    whole = door.app.store.alerts.list_due

    def list_due(
        keyspace: str, kind: AlertKind, bounds: Sequence[object], after: Place, most: int, whose: Whose
    ) -> tuple[list[KeyFacts], Place | None]:
        asked.append(whose)
        if broken(whose):
            raise StoreUnavailable  # as PostgreSQL's statement_timeout has it
        return whole(keyspace, kind, bounds, after, most, whose)

    monkeypatch.setattr(door.app.store.alerts, "list_due", list_due)
    return asked


def test_a_rule_that_cannot_be_looked_at_keeps_no_other_from_it(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    name = apply(door, "alerts: {idle: {when: unused, after: 90d}}")
    acme, umbra = door.organization(), door.organization("umbra")
    for organization in (acme, umbra):
        rule(door, organization, name, "mine", "{when: unused, after: 10d}")
        door.create(organization, name)
    door.clock.advance(11 * DAY)
    pruned = calls(monkeypatch, door.app.store.alerts, "prune")
    asked_for(door, monkeypatch, lambda whose: whose.organization == acme)
    with pytest.raises(StoreUnavailable):
        sweep(door)
    assert (names(door, acme), names(door, umbra)) == ([], ["mine"])
    assert pruned[-1:] == [0], "what is over goes, whatever becomes of the rest"


def test_a_sweep_ends_where_the_store_is_away(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    name = apply(door, LEAK)
    for word in ("acme", "umbra"):
        rule(door, door.organization(word), name, "mine", "{when: unused, after: 10d}")

    def away() -> None:
        raise StoreUnavailable

    def broken(whose: Whose) -> bool:
        monkeypatch.setattr(door.app.store.alert_rules, "stamp", away)
        return True

    asked = asked_for(door, monkeypatch, broken)
    with pytest.raises(StoreUnavailable):
        sweep(door)
    assert len(asked) == 1


def test_what_is_busy_is_read_once_however_many_rules_there_are(door: Door) -> None:
    name = apply(door, LEAK)
    door.clock.advance(5400 - door.clock.now // 1_000_000 % 3600)  # soon after the hour, that before is read, too
    with counted(door.app.store) as statements:
        sweep(door)
    assert not [it for it in statements if "usage_cell" in it], "nobody wants to know"
    for word in ("acme", "umbra"):
        organization = door.organization(word)
        for factor in (2, 3, 4):
            rule(door, organization, name, f"odd{factor}", f"{{when: unusual_activity, factor: {factor}}}")
    door.clock.advance(61)
    with counted(door.app.store) as statements:
        sweep(door)
    assert sum("usage_cell" in it and "GROUP BY" in it for it in statements) == 1


# --- in memory --------------------------------------------------------------------------------------------------------


def test_rules_are_read_once_somebody_asks_for_them(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts has all of them to load before it serves."""
    name = apply(door, LEAK)
    acme = door.organization()
    read = calls(monkeypatch, own_rules, "read_alert")
    rule(door, acme, name, "mine", "{when: leaked}")
    assert read == []
    for _ in range(2):
        leak(door, acme, name, "a wiki")
    assert len(read) == 1


def test_after_another_history_of_the_store_all_rules_are_read_again(door: Door) -> None:
    assert look(door)
    assert not look(door)
    door.app.watch.forget()
    assert look(door)
