"""Rules of organizations in the store: kept once, bounded, audited, and each change shows in the stamp.

The check that `test_alert_plants.py` holds a planted bug to is a function of a store.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from doorward_server.core.alert_rules import MOST, MOST_OF_A_KIND, OwnRule
from doorward_server.core.alerts import AlertKind
from doorward_server.core.errors import NotFound, QuotaExceeded
from doorward_server.core.model import DAY, Event
from doorward_server.store import Store
from doorward_server.store.alert_rules import ChangeRule
from doorward_server.store.alerts import Place, Whose
from tests.store.statements import counted
from tests.store.test_alerts import at_once
from tests.store.values import NOW, add_key, add_keyspace, alert, event

TEXT = "{when: leaked}"
NOWHERE = ("", "")


def rule(
    name: str = "mine", organization: str = "acme", text: str = TEXT, keyspace: str = "aiia", kind: str = ""
) -> OwnRule:
    return OwnRule(organization, keyspace, name, text, NOW, kind)


def become(wanted: OwnRule) -> ChangeRule:
    def change(current: OwnRule | None) -> tuple[OwnRule, Event] | None:
        return None if current == wanted else (wanted, event(wanted.organization, "alert-rules:set", wanted.name))

    return change


def put(store: Store, wanted: OwnRule) -> OwnRule:
    return store.alert_rules.put(wanted.organization, wanted.keyspace, wanted.name, become(wanted)).value


def gone(rule: OwnRule) -> Event:
    return event(rule.organization, "alert-rules:delete", rule.name)


def actions(store: Store, organization: str = "acme") -> list[str]:
    return [it.event.action for it in store.list_events(organization, 0, 100) if "rules" in it.event.action]


def test_what_was_put_is_listed_by_name_and_in_its_place_alone(store: Store) -> None:
    add_keyspace(store, "shop")
    for it in (rule("zeta"), rule("alpha"), rule("mine", "umbra"), rule("mine", keyspace="shop")):
        assert put(store, it) == it
    assert store.alert_rules.list_some("acme", "aiia") == [rule("alpha"), rule("zeta")]
    assert store.alert_rules.list_some("umbra", "aiia") == [rule("mine", "umbra")]
    _, everything = store.alert_rules.list_all()
    assert everything == [rule("alpha"), rule("zeta"), rule(keyspace="shop"), rule("mine", "umbra")]


def test_each_change_moves_the_stamp_and_is_audited_and_what_changes_nothing_is_neither(store: Store) -> None:
    stamps = [store.alert_rules.stamp()]
    before = store.revision()
    for wanted in (rule(), rule(), rule(text=""), rule(text="")):
        put(store, wanted)
        stamps.append(store.alert_rules.stamp())
    store.alert_rules.delete("acme", "aiia", "mine", gone)
    stamps.append(store.alert_rules.stamp())
    assert [now != then for then, now in itertools.pairwise(stamps)] == [True, False, True, False, True]
    assert len(set(stamps)) == 4, "no stamp comes again"
    assert actions(store) == ["alert-rules:set", "alert-rules:set", "alert-rules:delete"]
    assert store.verify_chain("acme").ok
    assert store.revision() == before, "no decision reads them"


def test_changes_of_several_organizations_at_once_all_show_in_the_stamp(store: Store) -> None:
    before = store.alert_rules.stamp()
    wanted = iter([rule(f"rule{n}", ("acme", "umbra")[n % 2]) for n in range(8)])
    at_once(lambda: put(store, next(wanted)), 8)
    stamp, rules = store.alert_rules.list_all()
    assert stamp == store.alert_rules.stamp() != before
    assert len(rules) == 8


def test_a_change_that_fails_leaves_no_trace(store: Store) -> None:
    before = store.alert_rules.stamp(), store.verify_chain("acme").length
    with pytest.raises(NotFound):
        store.alert_rules.delete("acme", "aiia", "mine", gone)
    with pytest.raises(NotFound):
        put(store, rule(organization="nobody"))
    assert (store.alert_rules.stamp(), store.verify_chain("acme").length) == before
    assert store.alert_rules.list_all()[1] == []


def test_there_are_no_more_than_so_many_for_an_organization_and_keyspace(store: Store) -> None:
    add_keyspace(store, "shop")
    for n in range(MOST):
        put(store, rule(f"rule{n}"))
    with pytest.raises(QuotaExceeded):
        put(store, rule("another"))
    put(store, rule("rule7", text=""))
    put(store, rule("another", "umbra"))
    put(store, rule("another", keyspace="shop"))
    store.alert_rules.delete("acme", "aiia", "rule7", gone)
    put(store, rule("another"))
    assert len(store.alert_rules.list_some("acme", "aiia")) == MOST


def test_there_are_no_more_of_one_kind_than_so_many(store: Store) -> None:
    add_keyspace(store, "shop")
    full = "failed_authentication"
    for n in range(MOST_OF_A_KIND):
        put(store, rule(f"rule{n}", kind=full))
    put(store, rule("silent", text=""))
    put(store, rule("other", kind="unused"))
    for name in ("another", "silent", "other"):
        with pytest.raises(QuotaExceeded) as refused:
            put(store, rule(name, text="{when: failed_authentication}", kind=full))
        assert full in str(refused.value)
    put(store, rule("rule0", text="{another: one}", kind=full))
    put(store, rule("another", "umbra", kind=full))
    put(store, rule("another", keyspace="shop", kind=full))
    put(store, rule("rule0", kind="unused"))
    put(store, rule("another", kind=full))


def test_an_organization_that_ends_leaves_no_rules_and_nobody_elses_go(store: Store) -> None:
    put(store, rule())
    put(store, rule(organization="umbra"))
    before = store.alert_rules.stamp()
    store.delete_organization("acme", lambda it, _: (replace(it, deleted_at=NOW), event("acme")))
    stamp, rules = store.alert_rules.list_all()
    assert rules == [rule(organization="umbra")]
    assert stamp != before, "who keeps them in memory drops them"
    assert store.alert_rules.list_some("acme", "aiia") == []


def test_rules_of_an_organization_that_was_ended_by_hand_are_not_among_all(store: Store) -> None:
    put(store, rule())
    put(store, rule(organization="umbra"))
    store._write(lambda tx: tx.change("UPDATE organization SET deleted_at = ? WHERE id = ?", NOW, "acme"))
    assert store.alert_rules.list_all()[1] == [rule(organization="umbra")]


# --- whose keys a rule looks at ---------------------------------------------------------------------------------------


def due(store: Store, whose: Whose) -> list[str]:
    """What is found in pages of two."""
    after: Place | None = NOWHERE
    found = []
    while after is not None:
        page, after = store.alerts.list_due("aiia", AlertKind.EXPIRING, (NOW, NOW + DAY), after, 2, whose)
        found += [it.id for it in page]
    return found


def check_a_rule_of_an_organization_finds_only_its_own_keys(store: Store) -> None:
    for whose in ("acme", "umbra"):
        add_key(store, id=f"key_{whose}", organization=whose, expires_at=NOW + 1)
    assert due(store, Whose(organization="acme")) == ["key_acme"]


def test_all_pages_of_one_organization_are_found(store: Store) -> None:
    for n in range(5):
        for whose in ("acme", "umbra"):
            add_key(store, id=f"key_{whose}_{n}", organization=whose, expires_at=NOW + 1)
    assert due(store, Whose(organization="acme")) == [f"key_acme_{n}" for n in range(5)]


def test_a_rule_of_an_organization_finds_only_its_own_keys(store: Store) -> None:
    check_a_rule_of_an_organization_finds_only_its_own_keys(store)


def check_a_keyspaces_rule_passes_over_who_has_one_of_its_name(store: Store) -> None:
    for whose in ("acme", "umbra"):
        add_key(store, id=f"key_{whose}", organization=whose, expires_at=NOW + 1)
    put(store, rule("soon"))
    add_keyspace(store, "shop")
    put(store, rule("soon", "umbra", keyspace="shop"))
    assert due(store, Whose(rule="soon")) == ["key_umbra"]
    assert due(store, Whose(rule="later")) == ["key_acme", "key_umbra"]


def test_a_keyspaces_rule_passes_over_who_has_one_of_its_name(store: Store) -> None:
    check_a_keyspaces_rule_passes_over_who_has_one_of_its_name(store)


def plan_of(store: Store, sql: str, *values: object) -> list[str]:
    return [row[3] for row in store._look(lambda tx: tx.ask(f"EXPLAIN QUERY PLAN {sql}", *values))]


BOUNDS = {
    AlertKind.EXPIRING: (NOW, NOW + DAY), AlertKind.UNUSED: (NOW, "soon"), AlertKind.ROTATION_OVERDUE: (NOW, "soon"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_look_for_one_organization_reads_no_key_of_another(store: Store, store_url: str, kind: AlertKind) -> None:
    if not store_url.startswith("sqlite"):
        pytest.skip("PostgreSQL goes by how many there are")
    with counted(store) as statements:
        store.alerts.list_due("aiia", kind, BOUNDS[kind], NOWHERE, 10, Whose(organization="acme"))
    selects = [it for it in statements if "SELECT" in it]
    assert len(selects) == 2
    for sql, values in zip(selects, (("acme", "", 9), ("aiia", *BOUNDS[kind], "acme", "")), strict=True):
        plan = plan_of(store, sql, *values)
        assert any("sqlite_autoindex_key_1 (organization=? AND id>?)" in it for it in plan), plan
        assert not any("ORDER BY" in it for it in plan), "the next page begins where this one ended"


def test_another_kind_under_the_same_name_does_not_count_as_told(store: Store) -> None:
    add_key(store, id="idle", created_at=NOW - 100 * DAY)
    store.alerts.add([alert(subject="idle", rule="mine", kind=AlertKind.ROTATION_OVERDUE)])
    (found,), _ = store.alerts.list_due("aiia", AlertKind.UNUSED, (NOW - 90 * DAY, "mine"), NOWHERE, 10)
    assert found.id == "idle"
