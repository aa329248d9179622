"""What the rules of one organization cost others: no alert, no sweep, and no more than its part of what all share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from doorward.v1 import directory_pb2
from doorward_server.core.policy import Keyspace
from doorward_server.service import own_rules
from tests.service.door import Door
from tests.service.test_own_rules import apply, look, rule

LEAK = "alerts: {leak: {when: leaked}}"


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


def test_a_deleted_organization_is_looked_at_no_more(door: Door) -> None:
    name = apply(door, LEAK)
    gone = door.organization("gone")
    rule(door, gone, name, "idle", "{when: unused, after: 30d}")
    door.run(door.directory.DeleteOrganization(directory_pb2.DeleteOrganizationRequest(id=gone), door.caller()))
    assert look(door)
    assert list(door.app.watch.own_rules.own(compiled(door, name))) == []
    assert door.app.store.alert_rules.list_some(gone, name) == []


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
