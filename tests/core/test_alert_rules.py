"""What rules an organization has: the keyspace's that it has not replaced or silenced, and its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from doorward_server.core.alert_rules import (
    NOTHING_TO_SILENCE,
    ListedRule,
    Origin,
    OwnRule,
    Read,
    Ruling,
    compile_own,
    listed,
    rule_text,
    ruling,
)
from doorward_server.core.alerts import counted_as
from doorward_server.core.errors import InvalidField
from doorward_server.core.keyspace import compile_keyspace
from doorward_server.core.model import DAY, SECOND
from doorward_server.core.policy import Keyspace
from doorward_server.core.sections import AlertRule
from doorward_server.service.keyspace_file import read_alert
from tests.service.keyspace_mistakes import PRESS

ALERTS = {
    "soon": "{when: expiring, before: [30d, 1d]}",
    "near": "{when: limit_nearly_used, percent: [80, 95]}",
    "leak": "{when: leaked}",
}
LIMITS: dict[str, Any] = {"windows": {"minute": {"per": "key", "limit": 60, "window": "1m"}}}


def shop(alerts: dict[str, str] = ALERTS, **more: Any) -> Keyspace:
    document = {"keyspace": "shop", "prefix": "x", "credentials": [{"header": "x"}], "types": {"a": ["r"]}}
    rules = {name: read_alert(text) for name, text in alerts.items()}
    return compile_keyspace({**document, "alerts": rules, "limits": LIMITS, **more})


def ruled(keyspace: Keyspace, **own: str) -> Ruling:
    """What holds with these own rules by name; an empty text silences."""
    return ruling(keyspace, [Read(name, read_alert(text) if text else None) for name, text in own.items()])


def names(rules: tuple[AlertRule, ...]) -> dict[str, str]:
    return {it.name: rule_text(it) for it in rules}


def test_a_rule_of_the_same_name_takes_the_place_of_the_keyspaces() -> None:
    mine = "{when: unused, after: 7d}"
    found = ruled(shop(), soon=mine)
    assert names(found.rules) == {**ALERTS, "soon": mine}
    assert names(found.apart) == {"soon": mine}


def test_another_name_adds_one() -> None:
    found = ruled(shop(), idle="{when: unused, after: 90d}")
    assert names(found.rules) == {**ALERTS, "idle": "{when: unused, after: 90d}"}
    assert names(found.apart) == {"idle": "{when: unused, after: 90d}"}


def test_what_is_silenced_is_not_told() -> None:
    found = ruled(shop(), leak="")
    assert names(found.rules) == {name: ALERTS[name] for name in ("soon", "near")}
    assert found.apart == ()
    assert found.problems == {}


def test_how_much_of_a_limit_is_worth_noting_follows_the_rules_that_hold() -> None:
    assert ruled(shop(), leak="").nearly == 80
    assert ruled(shop(), near="").nearly == 101
    assert ruled(shop(), near="{when: limit_nearly_used, percent: [90]}").nearly == 90
    assert ruled(shop(), early="{when: limit_nearly_used, percent: [50]}").nearly == 50


def test_a_rule_that_no_longer_goes_with_the_keyspace_is_passed_over_as_if_it_were_not_there() -> None:
    bare = shop({"near": "{when: leaked}"}, limits={})
    found = ruled(bare, near="{when: limit_nearly_used, percent: [50]}", soon="", idle="{when: unused, after: 1d}")
    assert names(found.rules) == {"near": "{when: leaked}", "idle": "{when: unused, after: 1d}"}
    assert names(found.apart) == names(found.rules), "nobody else looks at this organization for the keyspace's"
    assert found.problems == {
        "near": "there are no limits to be nearly used: limits.windows is empty", "soon": NOTHING_TO_SILENCE,
    }  # fmt: skip
    assert found.nearly == 101


def test_words_that_could_not_be_read_are_a_problem_of_that_rule_alone() -> None:
    found = ruling(shop(), [Read("soon", None, "when: must be something"), Read("leak", None)])
    assert names(found.rules) == {name: ALERTS[name] for name in ("soon", "near")}
    assert found.problems == {"soon": "when: must be something"}


@pytest.mark.parametrize(
    ("text", "field", "rule"),
    [
        ("{when: expiring}", "rule.before", "is required with 'when: expiring'"),
        ("{when: leaked, count: 3}", "rule.count", "does not go with 'when: leaked'"),
        ("{when: expiring, before: [1d, soon]}", "rule.before[1]", "must be a duration"),
        ("{when: rotation_overdue}", "rule", "keys.rotation does not say when one is due"),
        ("{when: sunrise}", "rule.when", "must be 'failed_authentication', "),
        ("{when: leaked, colour: red}", "rule.colour", "is not a word that can stand here; there are after, before, "),
        ("{when: unusual_activity, factor: 1}", "rule.factor", "must be more than 1"),
        ("when: leaked\nwhen: unused", "rule.when", "stands here twice"),
        ("leaked", "rule", "must be a mapping"),
        ("~", "rule", "must be a mapping"),
        ("{when: [", "rule", "is not valid YAML"),
        ("{when: failed_authentication, count: 5, window: 169h}", "rule.window", "must be at most 7d in a rule of an"),
        ("{when: unused, after: 23h}", "rule.after", "must be at least 1d in a rule of an organization"),
        ("{when: &a leaked, per: *a}", "rule", "must not use YAML aliases"),
    ],
)
def test_a_mistake_is_told_with_its_field_and_rule(text: str, field: str, rule: str) -> None:
    with pytest.raises(InvalidField) as refused:
        compile_own(Read("mine", read_alert(text)), shop())
    assert refused.value.metadata["field"] == field
    assert refused.value.metadata["rule"].startswith(rule) or rule in refused.value.metadata["rule"]


@pytest.mark.parametrize(
    "text",
    [
        "{when: failed_authentication, per: prefix, count: 5, window: 10m}",
        "{when: failed_authentication, count: 5, window: 90s}",
        "{when: unusual_activity, factor: 2.5}",
        "{when: limit_nearly_used, percent: [80, 95]}",
        "{when: expiring, before: [30d, 36h, 61m]}",
        "{when: unused, after: 366d}",
        "{when: superseded_used}",
    ],
)
def test_a_compiled_rule_is_written_in_the_words_of_files(text: str) -> None:
    rule = compile_own(Read("mine", read_alert(text)), shop())
    assert rule is not None
    assert rule_text(rule) == text
    assert rule.quiet >= 600 * SECOND, "an organization's rule does not repeat itself within ten minutes"
    assert compile_own(Read("mine", read_alert(rule_text(rule))), shop()) == rule


def test_a_rule_is_read_as_the_file_is() -> None:
    """One grammar: what stands in the file of the documentation is a rule for one organization, too, and the same."""
    from doorward_server.service.keyspace_file import load_keyspace

    press = load_keyspace(PRESS)
    lines = [line.strip().split(": ", 1) for line in PRESS[PRESS.index("\nalerts:\n") :].splitlines()[2:5]]
    *alerts, leaked = press.sections.alerts
    assert leaked.when == "leaked", "which every keyspace has"
    assert {name for name, _ in lines} == {it.name for it in alerts}
    own = [compile_own(Read(name, read_alert(text)), press) for name, text in lines]
    assert [replace(it, quiet=0) for it in own if it is not None] == alerts


def test_the_list_has_what_holds_and_what_does_not_by_name() -> None:
    keyspace = shop()
    texts = {"near": "", "soon": "{when: unused, after: 7d}", "old": "{when: rotation_overdue}"}
    own = [OwnRule("acme", "shop", name, text, 5) for name, text in texts.items()]
    of = ("acme", "shop")
    assert listed("acme", keyspace, own, ruled(keyspace, **texts)) == [
        ListedRule(*of, "leak", "{when: leaked}", Origin.KEYSPACE),
        ListedRule(*of, "near", ALERTS["near"], Origin.ORGANIZATION, silenced=True, updated_at=5),
        ListedRule(
            *of, "old", texts["old"], Origin.ORGANIZATION,
            problem="keys.rotation does not say when one is due", updated_at=5,
        ),
        ListedRule(*of, "soon", texts["soon"], Origin.ORGANIZATION, updated_at=5),
    ]  # fmt: skip


def test_where_one_is_passed_over_the_keyspaces_is_listed_with_it() -> None:
    keyspace = shop()
    own = OwnRule("acme", "shop", "soon", "{when: rotation_overdue}", 5)
    found = listed("acme", keyspace, [own], ruled(keyspace, soon=own.text))
    assert [(it.origin, bool(it.problem)) for it in found if it.name == "soon"] == [
        (Origin.KEYSPACE, False), (Origin.ORGANIZATION, True),
    ]  # fmt: skip


def test_what_bounds_the_rules_of_organizations_bounds_no_keyspace() -> None:
    keyspace = shop(
        {"spike": "{when: failed_authentication, count: 5, window: 30d}", "idle": "{when: unused, after: 1h}"}
    )
    assert {it.quiet for it in keyspace.sections.alerts} == {0}


def test_failures_are_counted_once_for_windows_of_one_length_and_never_with_others() -> None:
    counted = [counted_as(per, window) for per in ("key", "prefix") for window in (600 * SECOND, DAY)]
    assert len(set(counted)) == 4
