"""Planted bugs of alerts, each noticed by the check that it names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from doorward_server.core.alerts import Alert
from doorward_server.store import Store, transaction
from doorward_server.store import alerts as planted
from tests.store import test_alert_rules as rules
from tests.store import test_alerts as checks


def told_by_each(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks what others have told, and every replica makes up an id of its own."""
    numbers = itertools.count()
    patch.setattr(planted, "_told", lambda tx, alert: False)
    patch.setattr(Alert, "id", property(lambda self: f"alert_{next(numbers)}"))


def one_window_after_the_other(patch: pytest.MonkeyPatch) -> None:
    """Quiet ends with the clock's window, not a whole span after what was told: two may come in a row."""
    patch.setattr(planted, "_told", lambda tx, alert: False)


def endless_window(patch: pytest.MonkeyPatch) -> None:
    """Failures are added up from the beginning of time."""
    patch.setattr(planted, "_SUM", planted._SUM.replace("cell > ?", "(cell > ? OR cell <= 9223372036854775807)"))


def anybodys_baseline(patch: pytest.MonkeyPatch) -> None:
    """What all keys of the organization did is taken for what the key usually does."""
    whole = transaction.Transaction.ask

    def ask(self: transaction.Transaction, sql: str, *params: object) -> list[Any]:
        if "FROM usage_cell WHERE organization = ? AND key = ?" in sql:
            sql = sql.replace("key = ?", "key <> ?")
        return whole(self, sql, *params)

    patch.setattr(transaction.Transaction, "ask", ask)


def everybodys_keys(patch: pytest.MonkeyPatch) -> None:
    """A rule of one organization looks at the keys of all."""
    patch.setattr(planted, "_MINE", "(k.organization = ? OR 1 = 1)")


def no_place_taken(patch: pytest.MonkeyPatch) -> None:
    """The keyspace's rule looks at organizations that have replaced it, too."""
    patch.setattr(planted, "_OTHERS", f"({planted._OTHERS} OR 1 = 1)")


Check = Callable[[Store, str], None]
CASES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Check]] = {
    "told by each": (told_by_each, lambda store, _: checks.check_two_replicas_tell_once(store)),
    "one window after the other": (
        one_window_after_the_other,
        lambda store, _: checks.check_a_topic_is_quiet_for_its_span(store),
    ),
    "endless window": (endless_window, checks.check_failures_of_all_replicas_within_the_window_count),
    "anybody's baseline": (anybodys_baseline, lambda store, _: checks.check_the_baseline_is_the_keys_own(store)),
    "everybody's keys": (
        everybodys_keys,
        lambda store, _: rules.check_a_rule_of_an_organization_finds_only_its_own_keys(store),
    ),
    "no place taken": (
        no_place_taken,
        lambda store, _: rules.check_a_keyspaces_rule_passes_over_who_has_one_of_its_name(store),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_planted_bug_is_noticed(store: Store, store_url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, check = CASES[name]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(store, store_url)
