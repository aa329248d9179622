"""When a rule tells, of what, and with which numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from doorward_server.core import alerts
from doorward_server.core.alerts import HOUR, LEAST, Activity, Alert, AlertKind, Failure, KeyFacts
from doorward_server.core.model import DAY, SECOND
from doorward_server.core.rails import Rails
from doorward_server.core.sections import AlertRule

NOW = 1_800_000_000 * SECOND
OF = ("acme", "shop")
BY_KEY = AlertRule("failures", "failed_authentication", {"per": "key", "count": 20, "window": 600 * SECOND})
UNUSUAL = AlertRule("unusual", "unusual_activity", {})
SOON = AlertRule("soon", "expiring", {"before": (30 * DAY, 7 * DAY, DAY)})
IDLE = AlertRule("idle", "unused", {"after": 90 * DAY})
OVERDUE = AlertRule("overdue", "rotation_overdue", {})
NEAR = AlertRule("near", "limit_nearly_used", {"percent": (80, 95)})


def facts(**changes: Any) -> KeyFacts:
    made = NOW - 400 * DAY
    return KeyFacts("acme", "key_1", "ServiceNow", "production", made, None, NOW, "sec_1", NOW)._replace(**changes)


def timely(rule: AlertRule, key: KeyFacts, rails: Rails | None = None, now: int = NOW) -> Alert | None:
    found = alerts.timely([rule], rails or Rails(), "shop", key, now)
    assert len(found) <= 1
    return found[0] if found else None


def test_every_word_of_a_keyspace_file_has_its_kind() -> None:
    from doorward_server.core.sections import ALERTS

    assert {alerts.kind_of(AlertRule("x", when, {})) for when in ALERTS} == set(AlertKind)


# --- failed authentications -------------------------------------------------------------------------------------------


def test_failures_are_told_from_the_number_on_that_the_rule_names() -> None:
    failure = Failure("acme", "shop", "key", "key_1")
    assert alerts.too_many_failures(BY_KEY, failure, 19, NOW) is None
    told = alerts.too_many_failures(BY_KEY, failure, 23, NOW)
    assert told is not None
    assert (told.kind, told.subject, told.key, told.threshold, told.observed) == (
        AlertKind.FAILED_AUTHENTICATION, "key_1", "key_1", 20, 23,
    )  # fmt: skip
    assert "23" in told.message
    assert "10 minutes" in told.message
    assert told.quiet == 600 * SECOND


def test_a_rule_may_be_quiet_for_longer_than_its_window_and_never_for_less() -> None:
    failure = Failure("acme", "shop", "key", "key_1")
    for quiet, wanted in ((0, 600), (599, 600), (3600, 3600)):
        told = alerts.too_many_failures(replace(BY_KEY, quiet=quiet * SECOND), failure, 23, NOW)
        assert told is not None
        assert told.quiet == wanted * SECOND


@pytest.mark.parametrize("per", ["address", "prefix"])
def test_what_is_not_about_a_key_names_none(per: str) -> None:
    told = alerts.too_many_failures(BY_KEY, Failure("acme", "shop", per, "192.0.2.1"), 20, NOW)
    assert told is not None
    assert (told.subject, told.key) == ("192.0.2.1", "")


def test_a_rule_counts_per_key_unless_it_says_otherwise() -> None:
    plain = AlertRule("plain", "failed_authentication", {"count": 5, "window": SECOND})
    by_address = replace(BY_KEY, settings={**BY_KEY.settings, "per": "address"})
    rules = [plain, by_address, UNUSUAL]
    assert alerts.failure_rules(rules, "key") == [plain]
    assert alerts.failure_rules(rules, "address") == [by_address]


def test_the_cells_of_a_window_are_ten_and_never_longer_than_it() -> None:
    for window in (SECOND, 7 * SECOND, 600 * SECOND, 366 * DAY):
        start, length = alerts.cell_of(window, NOW)
        assert start <= NOW < start + length
        assert window - alerts.CELLS < alerts.CELLS * length <= window


# --- unusual activity -------------------------------------------------------------------------------------------------


def activity(count: int, *before: int) -> Activity:
    return Activity("acme", "shop", "key_1", NOW, count, before)


def test_unusual_is_a_multiple_of_what_the_key_did_in_that_hour_of_the_weeks_before() -> None:
    usual = (100, 200, 100, 200)
    assert alerts.unusual(UNUSUAL, activity(749, *usual), NOW) is None
    told = alerts.unusual(UNUSUAL, activity(750, *usual), NOW)
    assert told is not None
    assert (told.threshold, told.expected, told.observed) == (750, 150, 750)
    assert "150 are usual" in told.message
    assert told.quiet == HOUR


def test_the_rule_may_name_another_factor() -> None:
    strict = AlertRule("unusual", "unusual_activity", {"factor": 1.5})
    assert alerts.unusual(strict, activity(149, 100), NOW) is None
    assert alerts.unusual(strict, activity(150, 100), NOW) is not None


@pytest.mark.parametrize("factor", [None, 1.01, 1.5, 4.0])
def test_no_key_is_unusual_that_does_less_than_the_least_that_is_read(factor: float | None) -> None:
    rule = AlertRule("unusual", "unusual_activity", {} if factor is None else {"factor": factor})
    least = alerts.least(rule)
    assert alerts.unusual(rule, activity(least - 1, 0), NOW) is None
    assert alerts.unusual(rule, activity(least, 0), NOW) is not None


def test_a_key_without_a_week_of_history_is_not_judged() -> None:
    assert alerts.unusual(UNUSUAL, activity(1_000_000), NOW) is None


def test_an_hour_without_any_use_is_a_baseline_and_a_handful_is_no_alert() -> None:
    assert alerts.unusual(UNUSUAL, activity(5 * LEAST - 1, 0, 0), NOW) is None
    told = alerts.unusual(UNUSUAL, activity(5 * LEAST, 0, 0), NOW)
    assert told is not None
    assert told.expected == 0


# --- what time brings about -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "lead"),
    [(31 * DAY, None), (30 * DAY, "30 days"), (8 * DAY, "8 days"), (7 * DAY, "7 days"), (HOUR, "1 hour"), (0, None)],
)
def test_an_expiry_is_told_with_the_lead_times_of_the_rule(left: int, lead: str | None) -> None:
    told = timely(SOON, facts(expires_at=NOW + left))
    assert (told is None) == (lead is None)
    assert told is None or f"in {lead}." in told.message


def test_each_lead_time_is_told_once_and_only_the_shortest_that_has_come() -> None:
    expires = NOW + 30 * DAY
    key = facts(expires_at=expires)
    days = [timely(SOON, key, now=NOW + day * DAY) for day in range(30)]
    assert len({told.topic for told in days if told is not None}) == 3
    assert all(told is not None and told.quiet == 0 for told in days)


def test_another_expiry_is_another_alert() -> None:
    one, other = (timely(SOON, facts(expires_at=NOW + DAY - n)) for n in (0, 1))
    assert one is not None
    assert other is not None
    assert one.topic != other.topic


def test_a_lead_time_as_long_as_the_keys_whole_life_tells_nothing() -> None:
    assert timely(SOON, facts(created_at=NOW, expires_at=NOW + DAY)) is None
    assert timely(SOON, facts(created_at=NOW - 2, expires_at=NOW + DAY)) is not None


def test_an_unused_key_is_told_of_by_its_last_use_or_else_since_it_was_made() -> None:
    assert timely(IDLE, facts(last_used_at=NOW - 90 * DAY + 1)) is None
    used = timely(IDLE, facts(last_used_at=NOW - 90 * DAY))
    never = timely(IDLE, facts(last_used_at=None, created_at=NOW - 100 * DAY))
    assert used is not None
    assert never is not None
    assert "was last used 90 days ago" in used.message
    assert "made 100 days ago, was never used" in never.message
    assert timely(IDLE, facts(last_used_at=None, created_at=NOW - DAY)) is None


def test_a_rotation_is_overdue_by_the_type_of_the_key() -> None:
    rails = Rails(rotate_every=90 * DAY, rotate_every_by_type={"partner": 180 * DAY})
    old = NOW - 100 * DAY
    assert timely(OVERDUE, facts(secret_created_at=NOW - 90 * DAY + 1), rails) is None
    told = timely(OVERDUE, facts(secret_created_at=old), rails)
    assert told is not None
    assert "rotated after 90 days" in told.message
    assert timely(OVERDUE, facts(secret_created_at=old, type="partner"), rails) is None
    assert timely(OVERDUE, facts(secret_created_at=old), Rails()) is None


def test_an_expired_key_is_neither_unused_nor_overdue() -> None:
    rails = Rails(rotate_every=DAY)
    over = facts(expires_at=NOW, last_used_at=None, secret_created_at=NOW - 100 * DAY)
    assert timely(IDLE, over) is None
    assert timely(OVERDUE, over, rails) is None


# --- limits, replaced texts, leaks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("used", "percent"), [(79, None), (80, 80), (94, 80), (95, 95), (100, 95)])
def test_a_limit_is_told_of_at_each_percentage(used: int, percent: int | None) -> None:
    told = alerts.nearly_used(NEAR, OF, "key_1", "key_1", ("per-day", DAY), 100, used, NOW)
    assert (told is None) == (percent is None)
    assert told is None or (told.threshold, told.observed, told.quiet) == (percent, used, DAY)


def test_the_percentages_of_one_limit_are_told_apart() -> None:
    low, high = (alerts.nearly_used(NEAR, OF, "k", "k", ("per-day", DAY), 100, used, NOW) for used in (80, 95))
    assert low is not None
    assert high is not None
    assert low.topic != high.topic


def test_a_limit_of_nothing_is_not_nearly_used() -> None:
    assert alerts.nearly_used(NEAR, OF, "k", "k", ("per-day", DAY), 0, 0, NOW) is None


def test_a_replaced_text_is_told_of_whether_it_still_works_or_not() -> None:
    rule = AlertRule("old", "superseded_used", {})
    for ends_at, words in ((NOW + HOUR, "works for 1 hour more"), (NOW, "no longer works")):
        told = alerts.superseded_used(rule, OF, "key_1", "sec_1", ends_at, NOW)
        assert words in told.message
        assert (told.key, told.quiet) == ("key_1", DAY)


def test_a_leak_says_where_and_what_became_of_it() -> None:
    rule = AlertRule("leak", "leaked", {})
    told = alerts.leaked(rule, OF, "key_1", "github.com/acme/x", "It was revoked.", NOW)
    assert "at github.com/acme/x. It was revoked." in told.message
    assert alerts.leaked(rule, OF, "key_1", "elsewhere", "", NOW).topic != told.topic


# --- what makes two alerts one ----------------------------------------------------------------------------------------


def test_the_id_is_the_same_within_a_span_and_another_beyond_it() -> None:
    failure = Failure("acme", "shop", "key", "key_1")
    start = NOW - NOW % BY_KEY.settings["window"]
    ids = [
        told.id
        for at in (start, start + 1, start + BY_KEY.settings["window"])
        if (told := alerts.too_many_failures(BY_KEY, failure, 20 + at % 7, at)) is not None
    ]
    assert ids[0] == ids[1] != ids[2]


def test_no_two_rules_subjects_keyspaces_or_organizations_share_an_id() -> None:
    base = alerts.leaked(AlertRule("leak", "leaked", {}), OF, "key_1", "", "", NOW)
    others = [
        alerts.leaked(AlertRule("other", "leaked", {}), OF, "key_1", "", "", NOW),
        alerts.leaked(AlertRule("leak", "leaked", {}), OF, "key_2", "", "", NOW),
        alerts.leaked(AlertRule("leak", "leaked", {}), ("acme", "other"), "key_1", "", "", NOW),
        alerts.leaked(AlertRule("leak", "leaked", {}), ("umbra", "shop"), "key_1", "", "", NOW),
    ]
    assert len({it.id for it in (base, *others)}) == 5
