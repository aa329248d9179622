"""Planted bugs of organizations' alert rules, each noticed by the check that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from doorward_server.core import alerts as rules
from doorward_server.service import alert_sweeps
from doorward_server.service.own_rules import OwnRules
from doorward_server.store.alerts import Whose
from tests.service import test_own_rules as checks
from tests.service.door import Door


def everybodys(patch: pytest.MonkeyPatch) -> None:
    """A sweep for a rule of one organization looks at the keys of all."""
    patch.setattr(alert_sweeps, "Whose", lambda rule="", organization="": Whose(rule=rule))


def of_whoever_has_one(patch: pytest.MonkeyPatch) -> None:
    """What one organization has set is taken for the rules of all."""
    whole = OwnRules.of

    def of(self: OwnRules, organization: str, keyspace: Any) -> Any:
        return whole(self, next((it for it, name in self._known if name == keyspace.name), organization), keyspace)

    patch.setattr(OwnRules, "of", of)


def unheard(patch: pytest.MonkeyPatch) -> None:
    """Only the keyspace's rules are gone by."""
    patch.setattr(OwnRules, "of", lambda self, organization, keyspace: keyspace.sections.alerts)


def whatever_the_window(patch: pytest.MonkeyPatch) -> None:
    """Failures are kept under what they are counted per, whatever the window."""
    patch.setattr(rules, "counted_as", lambda per, window: per)


PLANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[Door], None]]] = {
    "everybody's": (everybodys, checks.check_sweeps_look_for_each_rule_where_it_holds),
    "of whoever has one": (
        of_whoever_has_one,
        checks.check_failures_are_told_by_the_rule_of_the_organization_of_the_key,
    ),
    "unheard": (unheard, checks.check_what_is_silenced_is_not_told),
    "whatever the window": (whatever_the_window, checks.check_windows_of_other_lengths_are_counted_apart),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_noticed(door: Door, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, check = PLANTS[name]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(door)
