"""What FactoryThread's keys were used for: counted, exported, logged.

The sentences are in docs/systems/factorythread.md.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest

from doorward import HttpRequest, IssuedKey, KeyBinding, Reason, Usage, UsageCount, UsageDimension
from tests.conformance.products import EXAMPLES, Customer, Desk, text_of


@pytest.fixture(scope="module")
def acme(desk: Desk) -> Customer:
    """A customer with two flows that are published."""
    acme = desk.product(EXAMPLES / "factorythread.yaml").customer("acme")
    acme.put("flows/abc123", published=True)
    acme.put("flows/def456", published=True)
    return acme


def bearing(key: IssuedKey) -> HttpRequest:
    return HttpRequest(headers={"Authorization": f"Bearer {text_of(key)}"})


def selected(*flows: str) -> list[KeyBinding]:
    return [KeyBinding("flow-access", [f"flows/{flow}" for flow in flows])]


def by(usage: Usage, dimension: str) -> dict[str, tuple[int, int]]:
    return {it.value: (it.count.allowed, it.count.denied) for it in usage.by[UsageDimension(dimension)].values}


def test_requests_are_counted_in_total_by_hour_and_by_day(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123"), owner=acme.person("editor"))
    first = acme.desk.now
    for hours in (0, 0, 1, 24):
        acme.desk.advance(hours * 3600)
        assert acme.ask(bearing(key), "flows:execute", "flows/abc123")
    usage = acme.usage("HOUR", "DAY", key_id=key.key.id)
    assert usage.total == UsageCount(4, 0)
    assert [it.count.allowed for it in usage.by[UsageDimension.HOUR].values] == [2, 1, 1]
    days = usage.by[UsageDimension.DAY].values
    assert [it.value for it in days] == [f"{first:%Y-%m-%d}", f"{first + timedelta(hours=25):%Y-%m-%d}"]
    assert [it.count.allowed for it in days] == [3, 1]


def test_the_rates_of_success_and_failure_and_the_flows_accessed_are_told(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123", "def456"), owner=acme.person("editor"))
    for flow in ("abc123", "abc123", "def456", "ghi789"):
        acme.ask(bearing(key), "flows:execute", f"flows/{flow}")
    usage = acme.usage("RESOURCE", "REASON", key_id=key.key.id)
    assert (usage.success_rate, usage.failure_rate) == (0.75, 0.25)
    assert by(usage, "RESOURCE") == {"flows/abc123": (2, 0), "flows/def456": (1, 0), "flows/*": (0, 1)}
    assert by(usage, "REASON") == {"ALLOWED": (3, 0), "RESOURCE_NOT_GRANTED": (0, 1)}


def exported(acme: Customer, kind: str, key: IssuedKey) -> str:
    acme.usage()
    parts = acme.root.export_usage(format=kind, organization=acme.id, key_id=key.key.id)
    return "".join(part.text for part in parts)


def test_the_usage_of_a_key_is_exported_as_csv_and_as_json(acme: Customer) -> None:
    key = acme.key(bindings=selected("abc123"), owner=acme.person("editor"))
    for _ in range(3):
        assert acme.ask(bearing(key), "flows:execute", "flows/abc123")
    (row,) = csv.DictReader(io.StringIO(exported(acme, "CSV", key), newline=""))
    told: list[dict[str, Any]] = json.loads(exported(acme, "JSON", key))
    assert told == [{**row, "count": 3}]
    assert (row["key"], row["action"], row["resource"]) == (key.key.id, "flows:execute", "flows/abc123")
    assert (row["outcome"], row["count"]) == ("ALLOW", "3")


def test_usage_logs_tell_what_a_compromised_key_did_and_from_where(acme: Customer) -> None:
    alice = acme.person("editor")
    key = acme.key(bindings=selected("abc123"), owner=alice)
    mine, theirs = "192.0.2.1", "203.0.113.66"
    assert acme.ask(bearing(key), "flows:execute", "flows/abc123", client_ip=mine)
    acme.desk.advance(60)
    assert acme.ask(bearing(key), "flows:execute", "flows/abc123", client_ip=theirs)
    denied = acme.ask(bearing(key), "flows:execute", "flows/def456", client_ip=theirs)
    acme.root.revoke_key(key.key.id, organization=acme.id, reason="compromised")
    late = acme.ask(bearing(key), "flows:execute", "flows/abc123", client_ip=theirs)
    assert late.reason == Reason.KEY_REVOKED
    log = list(acme.root.list_decisions(organization=acme.id, key_id=key.key.id, page_size=1))
    assert sorted(it.client_ip for it in log) == [mine, theirs, theirs, theirs]
    assert {it.id for it in log} >= {denied.id, late.id}
    assert {it.owner for it in log} == {alice}
    assert log[-1].client_ip == mine
    assert by(acme.usage("ADDRESS", key_id=key.key.id), "ADDRESS") == {theirs: (1, 2), mine: (1, 0)}


def test_the_flows_that_a_key_has_reached_are_told(acme: Customer) -> None:
    key = acme.key("full-access", owner=acme.person("editor"))
    for flow in ("abc123", "def456", "abc123"):
        assert acme.ask(bearing(key), "flows:execute", f"flows/{flow}")
    acme.root.revoke_key(key.key.id, organization=acme.id)
    reached = {it.resource for it in acme.root.list_decisions(organization=acme.id, key_id=key.key.id) if it.allowed}
    assert reached == {"flows/abc123", "flows/def456"}


def test_usage_is_preserved_when_a_key_is_deleted(acme: Customer) -> None:
    alice = acme.person("editor")
    key = acme.key(bindings=selected("abc123"), owner=alice)
    assert acme.ask(bearing(key), "flows:execute", "flows/abc123")
    acme.root.delete_key(key.key.id, organization=acme.id)
    assert acme.usage(key_id=key.key.id).total == acme.usage(owner=alice).total == UsageCount(1, 0)
    assert len(list(acme.root.list_decisions(organization=acme.id, key_id=key.key.id))) == 1
