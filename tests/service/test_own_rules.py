"""What organizations are told by rules of their own, and others are not: over the services.

The checks that `test_own_rule_plants.py` holds planted bugs to are functions of a door.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration

from doorward.v1 import alerts_pb2 as pb
from doorward.v1 import authz_pb2, keys_pb2
from doorward_server.core.alerts import WEEK
from doorward_server.core.usage import Cells, hour_of
from doorward_server.wire.alerts import AlertServicer
from tests.fakes import FakeClock
from tests.service.door import Door, keyspace, opened_door, unique
from tests.service.test_alerting import RULES, _cell, ask, flush, sweep, told, wrong
from tests.store.statements import counted
from tests.wire.tenants import never_made

DAY = 86_400


@pytest.fixture
def watched(door: Door) -> str:
    """A keyspace with every kind of rule."""
    return apply(door)


def apply(door: Door, *lines: str) -> str:
    name = unique("watched")
    door.apply(keyspace(name, f"prefix: {name}", *(lines or RULES)))
    return name


def alerts(door: Door) -> AlertServicer:
    return cast(AlertServicer, door.app.servicers.alerts)


def look(door: Door) -> bool:
    """Look for changed rules, as the servers do every two seconds."""
    return door.app.watch.own_rules.look()


def rule(door: Door, organization: str, name: str, rule_name: str, text: str = "") -> None:
    """Set a rule, or silence the keyspace's, and have it take effect."""
    request = pb.SetAlertRuleRequest(
        organization=organization, keyspace=name, name=rule_name, rule=text, silenced=not text
    )
    door.run(alerts(door).SetAlertRule(request, door.caller()))
    look(door)


def delete(door: Door, organization: str, name: str, rule_name: str) -> None:
    request = pb.DeleteAlertRuleRequest(organization=organization, keyspace=name, name=rule_name)
    door.run(alerts(door).DeleteAlertRule(request, door.caller()))
    look(door)


def names(door: Door, organization: str) -> list[str]:
    return [it.rule for it in told(door, organization)]


def fail(door: Door, name: str, text: str, times: int) -> None:
    """So many wrong texts for the key of *text*, written."""
    ask(door, name, wrong(text), times=times)
    flush(door)


# --- what calls bring about -------------------------------------------------------------------------------------------


def check_failures_are_told_by_the_rule_of_the_organization_of_the_key(door: Door) -> None:
    name = apply(door)
    acme, umbra = door.organization(), door.organization("umbra")
    mine, theirs = door.create(acme, name), door.create(umbra, name)
    rule(door, acme, name, "by-key", "{when: failed_authentication, count: 3, window: 10m}")
    fail(door, name, mine.secret, 3)
    fail(door, name, theirs.secret, 4)
    assert [(it.rule, it.key, it.threshold) for it in told(door, acme)] == [("by-key", mine.key.id, 3)]
    assert told(door, umbra) == []
    fail(door, name, theirs.secret, 1)
    assert [(it.rule, it.key, it.threshold) for it in told(door, umbra)] == [("by-key", theirs.key.id, 5)]


def test_failures_are_told_by_the_rule_of_the_organization_of_the_key(door: Door) -> None:
    check_failures_are_told_by_the_rule_of_the_organization_of_the_key(door)


def test_failures_with_a_key_count_for_who_owns_it_not_for_who_was_shown_it(door: Door) -> None:
    name = apply(door, "alerts: {leak: {when: leaked}}")
    acme, umbra = door.organization(), door.organization("umbra")
    mine, theirs = door.create(acme, name), door.create(umbra, name)
    text = "{when: failed_authentication, count: 2, window: 10m}"
    rule(door, acme, name, "wrong", text)
    fail(door, name, mine.secret, 2)
    assert [(it.rule, it.key) for it in told(door, acme)] == [("wrong", mine.key.id)]
    rule(door, "operator", name, "wrong", text)
    fail(door, name, theirs.secret, 9)
    assert told(door, umbra) == told(door, "operator") == []


def test_an_address_is_told_by_the_rule_of_whom_the_texts_were_shown(door: Door, watched: str) -> None:
    shop, acme = door.organization("shop"), door.organization()
    service = door.staff(shop, "backend")
    rule(door, shop, watched, "by-address", "{when: failed_authentication, per: address, count: 2, window: 1h}")
    rule(door, shop, watched, "by-prefix")
    made = door.create(acme, watched)
    request = authz_pb2.AuthorizeRequest(keyspace=watched, action="things:read")
    request.context.client_ip = "192.0.2.7"
    for text in (*(never_made(watched) for _ in range(4)), wrong(made.secret)):
        request.key = text
        door.run(door.authz.Authorize(request, service))
    flush(door)
    assert [(it.rule, it.threshold, it.observed) for it in told(door, shop)] == [("by-address", 2, 5)]
    assert told(door, acme) == [], "one failure is none of a spike, whoever was shown it"


def test_a_rule_of_another_name_is_told_besides(door: Door, watched: str) -> None:
    acme = door.organization()
    made = door.create(acme, watched)
    rule(door, acme, watched, "early", "{when: failed_authentication, count: 2, window: 1d}")
    fail(door, watched, made.secret, 5)
    assert sorted(names(door, acme)) == ["by-key", "early"]


def check_what_is_silenced_is_not_told(door: Door) -> None:
    name = apply(door)
    acme, umbra = door.organization(), door.organization("umbra")
    for silent in ("by-key", "old", "leak", "near"):
        rule(door, acme, name, silent)
    for organization in (acme, umbra):
        made = door.create(organization, name)
        grace = Duration(seconds=3600)
        rotate = keys_pb2.RotateKeyRequest(organization=organization, id=made.key.id, grace=grace)
        door.run(door.keys.RotateKey(rotate, door.caller()))
        ask(door, name, made.secret, times=95)
        fail(door, name, made.secret, 9)
        door.app.watch.noticing.leaked(organization, door.app.keyspaces._catalog.get(name), made.key.id, "a wiki", "")
        flush(door)
    assert names(door, acme) == []
    assert {"by-key", "old", "leak", "near"} == set(names(door, umbra))


def test_what_is_silenced_is_not_told(door: Door) -> None:
    check_what_is_silenced_is_not_told(door)


def test_a_deleted_rule_brings_the_keyspaces_back(door: Door, watched: str) -> None:
    acme = door.organization()
    made = door.create(acme, watched)
    rule(door, acme, watched, "by-key")
    fail(door, watched, made.secret, 9)
    assert names(door, acme) == []
    delete(door, acme, watched, "by-key")
    fail(door, watched, made.secret, 4)
    assert names(door, acme) == [], "what was counted for nobody is nobody's"
    fail(door, watched, made.secret, 1)
    assert names(door, acme) == ["by-key"]


def check_windows_of_other_lengths_are_counted_apart(door: Door) -> None:
    """The clock stands where cells of both lengths begin."""
    name = apply(door)
    door.clock.now -= door.clock.now % (7 * DAY * 1_000_000)
    acme = door.organization()
    made = door.create(acme, name)
    fail(door, name, made.secret, 4)
    rule(door, acme, name, "by-key", "{when: failed_authentication, count: 5, window: 7d}")
    fail(door, name, made.secret, 4)
    assert names(door, acme) == []
    fail(door, name, made.secret, 1)
    assert [it.observed for it in told(door, acme)] == [5]


def test_windows_of_other_lengths_are_counted_apart(door: Door) -> None:
    check_windows_of_other_lengths_are_counted_apart(door)


def test_a_limit_is_told_of_at_the_organizations_own_percentage_at_once(door: Door, watched: str) -> None:
    """Also where the limit was looked at before, and the keyspace's rule had nothing more to tell of it for a day."""
    acme, umbra = door.organization(), door.organization("umbra")
    for organization in (acme, umbra):
        made = door.create(organization, watched)
        ask(door, watched, made.secret, times=82)
        flush(door)
        assert [it.threshold for it in told(door, organization, "near")] == [80]
        rule(door, acme, watched, "half", "{when: limit_nearly_used, percent: [50, 84]}")
        ask(door, watched, made.secret, times=1)
        flush(door)
    assert [it.threshold for it in told(door, acme, "half")] == [50]
    assert told(door, umbra, "half") == []
    assert names(door, umbra) == ["near"]


def test_a_keyspace_that_tells_of_no_limit_is_looked_at_for_who_wants_to_know(door: Door) -> None:
    name = apply(door, "limits: {windows: {per-day: {per: key, limit: 10, window: 1d}}}")
    acme, umbra = door.organization(), door.organization("umbra")
    rule(door, acme, name, "near", "{when: limit_nearly_used, percent: [80]}")
    for organization in (acme, umbra):
        ask(door, name, door.create(organization, name).secret, times=8)
    flush(door)
    assert (names(door, acme), names(door, umbra)) == (["near"], [])


# --- what time brings about -------------------------------------------------------------------------------------------


def check_sweeps_look_for_each_rule_where_it_holds(door: Door) -> None:
    name = apply(door)
    acme, umbra, other = (door.organization(it) for it in ("acme", "umbra", "other"))
    rule(door, acme, name, "idle", "{when: unused, after: 10d}")
    rule(door, acme, name, "overdue")
    rule(door, umbra, name, "soon", "{when: expiring, before: [70d]}")
    expiry = keys_pb2.Expiry(duration=Duration(seconds=80 * DAY))
    made = {it: door.create(it, name, expiry=expiry).key.id for it in (acme, umbra, other)}
    came: dict[tuple[str, str], int] = {}
    for day in range(0, 80, 5):
        sweep(door)
        for organization, key in made.items():
            for alert in told(door, organization):
                assert alert.key == key
                came.setdefault((organization, alert.rule), day)
        door.clock.advance(5 * DAY)
    assert came == {
        (acme, "idle"): 10, (acme, "soon"): 50,
        (umbra, "soon"): 10, (umbra, "overdue"): 60,
        (other, "soon"): 50, (other, "overdue"): 60,
    }  # fmt: skip


def test_sweeps_look_for_each_rule_where_it_holds(door: Door) -> None:
    check_sweeps_look_for_each_rule_where_it_holds(door)


def test_a_sweep_goes_by_what_is_set_when_it_begins(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    with opened_door(store_url, tmp_path, clock) as one, opened_door(store_url, tmp_path, clock) as other:
        name = apply(one)
        acme = one.organization()
        one.create(acme, name)
        look(other)
        rule(one, acme, name, "idle", "{when: unused, after: 10d}")
        clock.advance(11 * DAY)
        assert sweep(other) == 1
        assert names(one, acme) == ["idle"]


def test_unusual_activity_is_judged_by_the_organizations_own_factor(door: Door, watched: str) -> None:
    acme, umbra, other = (door.organization(it) for it in ("acme", "umbra", "other"))
    rule(door, acme, watched, "unusual", "{when: unusual_activity, factor: 9}")
    rule(door, umbra, watched, "unusual")
    rule(door, umbra, watched, "odd", "{when: unusual_activity, factor: 2}")
    made = {it: door.create(it, watched).key.id for it in (acme, umbra, other)}
    before, door.clock.now = door.clock.now, door.clock.now + WEEK
    cells = Cells()
    cells.cells[_cell(other, "key_gone", watched, before - 3600 * 1_000_000)] = 1
    for organization, key in made.items():
        cells.cells[_cell(organization, key, watched, before)] = 100
        cells.cells[_cell(organization, key, watched, door.clock.now)] = 500
    door.app.store.usage.add("a test", 1, cells, hour_of(door.clock.now))
    sweep(door)
    assert names(door, acme) == []
    assert [(it.rule, it.threshold) for it in told(door, umbra)] == [("odd", 200)]
    assert [(it.rule, it.threshold) for it in told(door, other)] == [("unusual", 400)]


def test_what_the_keyspaces_rule_has_told_its_successor_does_not_repeat(door: Door, watched: str) -> None:
    acme = door.organization()
    door.create(acme, watched)
    door.clock.advance(91 * DAY)
    sweep(door)
    assert sorted(names(door, acme)) == ["idle", "overdue"]
    rule(door, acme, watched, "idle", "{when: unused, after: 30d}")
    door.clock.advance(700)
    sweep(door)
    assert sorted(names(door, acme)) == ["idle", "overdue"]


# --- keyspaces that change --------------------------------------------------------------------------------------------


def listed(door: Door, organization: str, name: str) -> dict[str, Any]:
    request = pb.ListAlertRulesRequest(organization=organization, keyspace=name)
    return {it.name: it for it in door.run(alerts(door).ListAlertRules(request, door.caller())).alert_rules}


def test_a_rule_that_no_longer_goes_with_the_keyspace_is_passed_over_and_nothing_else_is(door: Door) -> None:
    name = apply(door)
    acme = door.organization()
    made = door.create(acme, name)
    rule(door, acme, name, "half", "{when: limit_nearly_used, percent: [50]}")
    rule(door, acme, name, "due", "{when: rotation_overdue}")
    rule(door, acme, name, "by-key", "{when: failed_authentication, count: 2, window: 10m}")
    bare = [line for line in RULES if "near" not in line and "overdue" not in line and not line.startswith("limits")]
    door.apply(keyspace(name, f"prefix: {name}", *(it for it in bare if not it.startswith("keys"))))
    ask(door, name, made.secret, times=60)
    fail(door, name, made.secret, 2)
    door.clock.advance(70 * DAY)
    sweep(door)
    assert names(door, acme) == ["by-key"]
    found = listed(door, acme, name)
    assert found["half"].problem == "there are no limits to be nearly used: limits.windows is empty"
    assert found["due"].problem == "keys.rotation does not say when one is due"
    assert not found["by-key"].problem
    door.apply(keyspace(name, f"prefix: {name}", *RULES))
    assert not any(it.problem for it in listed(door, acme, name).values())
    ask(door, name, made.secret, times=60)
    flush(door)
    assert "half" in names(door, acme)


def test_where_one_is_passed_over_the_keyspaces_of_that_name_tells(door: Door) -> None:
    name = apply(door, "keys: {rotation: {every: 60d}}", "alerts: {idle: {when: unused, after: 90d}}")
    acme, umbra = door.organization(), door.organization("umbra")
    rule(door, acme, name, "idle", "{when: rotation_overdue}")
    for organization in (acme, umbra):
        door.create(organization, name)
    door.apply(keyspace(name, f"prefix: {name}", "alerts: {idle: {when: unused, after: 30d}}"))
    door.clock.advance(31 * DAY)
    sweep(door)
    assert (names(door, acme), names(door, umbra)) == (["idle"], ["idle"])


# --- who knows --------------------------------------------------------------------------------------------------------


def test_another_replica_follows_and_nobody_asks_on_the_way_of_a_call(
    store_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    with opened_door(store_url, tmp_path, clock) as one, opened_door(store_url, tmp_path, clock) as other:
        name = apply(one)
        acme = one.organization()
        made = one.create(acme, name)
        look(other)
        rule(one, acme, name, "by-key", "{when: failed_authentication, count: 2, window: 10m}")
        fail(other, name, made.secret, 2)
        assert names(one, acme) == []
        assert look(other)
        with counted(other.app.store) as statements:
            assert not look(other)
        assert len([it for it in statements if it.lstrip().startswith("SELECT")]) == 1
        with counted(other.app.store) as statements:
            ask(other, name, wrong(made.secret), times=2)
        assert not any("alert_rule" in it for it in statements)
        flush(other)
        assert names(one, acme) == ["by-key"]


def test_rules_that_did_not_change_stay_the_same_ones(door: Door, watched: str) -> None:
    """A change for one organization has nobody else's rules compiled anew."""
    acme, umbra = door.organization(), door.organization("umbra")
    compiled = door.app.keyspaces._catalog.get(watched)
    own = door.app.watch.own_rules
    rule(door, acme, watched, "leak")
    before = own.of(acme, compiled)
    rule(door, umbra, watched, "leak")
    assert own.of(acme, compiled) is before
    assert own.of(door.organization("other"), compiled) is compiled.sections.alerts
