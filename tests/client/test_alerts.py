"""Alerts in the client and on its command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from doorward import Alert, AlertKind, AlertRule, AlertRuleOrigin, Client, Unavailable
from doorward.cli import alerts as command
from doorward.v1 import alerts_pb2 as pb
from tests.client.door import Door, Failure, Fed, failure

Run = Callable[..., Result]
AT = Timestamp(seconds=1_800_000_000)


def told(sequence: int = 1, **more: Any) -> pb.Alert:
    made: dict[str, Any] = {"kind": pb.ALERT_KIND_UNUSUAL_ACTIVITY, "at": AT, **more}
    return pb.Alert(id=f"alert_{sequence}", sequence=sequence, **made)


def came(*sequences: int) -> tuple[pb.WatchAlertsResponse, ...]:
    return tuple(pb.WatchAlertsResponse(alert=told(it, message=f"number {it}"), sequence=it) for it in sequences)


def test_an_alert_is_read_with_the_numbers_that_it_has(door: Door, client: Client) -> None:
    door.will("ListAlerts", pb.ListAlertsResponse(alerts=[told(expected=0, observed=500), told(2, kind=99)]))
    first, second = client.list_alerts(organization="acme", kind=AlertKind.UNUSUAL_ACTIVITY, unacknowledged=True)
    assert isinstance(first, Alert)
    assert (first.threshold, first.expected, first.observed) == (None, 0, 500)
    assert first.at == datetime(2027, 1, 15, 8, tzinfo=UTC)
    assert first.acknowledged_at is None
    assert second.kind is AlertKind.UNKNOWN
    request = door.last.request
    assert (request.organization, request.unacknowledged) == ("acme", True)
    assert request.kind == pb.ALERT_KIND_UNUSUAL_ACTIVITY


def test_an_alert_is_acknowledged(door: Door, client: Client) -> None:
    door.will("AcknowledgeAlert", pb.AcknowledgeAlertResponse(alert=told(acknowledged_by="acme/alice")))
    assert client.acknowledge_alert("alert_1", note="mine").acknowledged_by == "acme/alice"
    assert (door.last.request.id, door.last.request.note) == ("alert_1", "mine")


def test_a_watch_gives_what_comes_and_how_it_failed(door: Door, client: Client) -> None:
    door.fed["WatchAlerts"] = [
        Fed((pb.WatchAlertsResponse(sequence=3), *came(4, 5)), failure(grpc.StatusCode.UNAVAILABLE, "OVERLOADED"))
    ]
    seen: list[Any] = []
    with pytest.raises(Unavailable):
        seen.extend(client.watch_alerts(after=3))  # an async client's is read to its end before it is looked at
    assert door.last.request.after == 3
    assert not seen or [it.sequence for it in seen] == [3, 4, 5]


def test_without_a_place_a_watch_begins_now(door: Door, client: Client) -> None:
    door.fed["WatchAlerts"] = [Fed(())]
    assert list(client.watch_alerts()) == []
    assert not door.last.request.HasField("after")


def test_the_command_lists_what_is_asked_for(run: Run, door: Door) -> None:
    door.will("ListAlerts", pb.ListAlertsResponse(alerts=[told(subject="key_1", message="Too much.")]))
    done = run("alerts", "list", "--kind", "unusual-activity", "--since", "2027-01-01")
    assert done.exit_code == 0
    assert "key_1" in done.stdout
    assert "Too much." in done.stdout
    assert door.last.request.kind == pb.ALERT_KIND_UNUSUAL_ACTIVITY
    assert json.loads(run("alerts", "list", "--output", "json").stdout)[0]["kind"] == "UNUSUAL_ACTIVITY"
    wrong = run("alerts", "list", "--kind", "nonsense")
    assert wrong.exit_code == 2
    assert "there are failed_authentication" in wrong.stderr


def test_the_command_acknowledges(run: Run, door: Door) -> None:
    door.will("AcknowledgeAlert", pb.AcknowledgeAlertResponse(alert=told(acknowledged_by="acme/alice")))
    done = run("alerts", "acknowledge", "alert_1", "--note", "mine")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Alert alert_1 is acknowledged by acme/alice." in done.stderr


def test_the_command_watches_on_from_where_it_was(run: Run, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "AGAIN", 0)
    end = Failure(grpc.StatusCode.PERMISSION_DENIED)
    # Not by the server's own restart, which gRPC would try again by itself before anything came.
    door.fed["WatchAlerts"] = [Fed(came(7, 8)), Fed(came(9), failure(grpc.StatusCode.UNAVAILABLE, "")), Fed((), end)]
    done = run("alerts", "watch", "--after", "6")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["7", "8", "9"]
    assert [it.request.after for it in door.asked] == [6, 8, 9]
    assert "Trying again." in done.stderr
    assert done.exit_code == 3


def test_the_command_writes_objects_as_they_come(run: Run, door: Door) -> None:
    door.fed["WatchAlerts"] = [Fed(came(7), Failure(grpc.StatusCode.PERMISSION_DENIED))]
    (line,) = run("alerts", "watch", "--output", "json").stdout.splitlines()
    assert json.loads(line)["message"] == "number 7"


# --- rules ------------------------------------------------------------------------------------------------------------

SOON = "{when: expiring, before: [7d]}"


def a_rule(name: str = "soon", **more: Any) -> pb.AlertRule:
    made: dict[str, Any] = {"rule": SOON, "origin": pb.ALERT_RULE_ORIGIN_ORGANIZATION, "updated_at": AT, **more}
    return pb.AlertRule(organization="acme", keyspace="aiia", name=name, **made)


def test_a_rule_is_set_and_read(door: Door, client: Client) -> None:
    door.will("SetAlertRule", pb.SetAlertRuleResponse(alert_rule=a_rule()))
    assert client.set_alert_rule("aiia", "soon", SOON, organization="acme") == AlertRule(
        organization="acme",
        keyspace="aiia",
        name="soon",
        rule=SOON,
        origin=AlertRuleOrigin.ORGANIZATION,
        silenced=False,
        problem="",
        updated_at=datetime(2027, 1, 15, 8, tzinfo=UTC),
    )
    asked = pb.SetAlertRuleRequest(organization="acme", keyspace="aiia", name="soon", rule=SOON)
    assert door.last.request == asked
    client.set_alert_rule("aiia", "soon", silenced=True)
    assert door.last.request == pb.SetAlertRuleRequest(keyspace="aiia", name="soon", silenced=True)


def test_rules_are_listed_over_all_pages(door: Door, client: Client) -> None:
    shared = a_rule("leak", origin=pb.ALERT_RULE_ORIGIN_KEYSPACE, updated_at=None)
    door.will(
        "ListAlertRules",
        pb.ListAlertRulesResponse(alert_rules=[shared], next_page_token="more"),  # of a page
        pb.ListAlertRulesResponse(alert_rules=[a_rule(problem="No limits.", origin=99)]),
    )
    leak, soon = client.list_alert_rules("aiia", organization="acme")
    assert (leak.origin, leak.updated_at) == (AlertRuleOrigin.KEYSPACE, None)
    assert (soon.origin, soon.problem) == (AlertRuleOrigin.UNKNOWN, "No limits.")
    assert [(it.request.keyspace, it.request.page_token) for it in door.asked] == [("aiia", ""), ("aiia", "more")]


def test_a_rule_is_deleted(door: Door, client: Client) -> None:
    client.delete_alert_rule("aiia", "soon", organization="acme")
    assert door.last.request == pb.DeleteAlertRuleRequest(organization="acme", keyspace="aiia", name="soon")


def test_the_command_sets_a_rule_or_silences_one(run: Run, door: Door) -> None:
    door.will("SetAlertRule", pb.SetAlertRuleResponse(alert_rule=a_rule()))
    done = run("alerts", "rules", "set", "aiia", "soon", SOON, "--organization", "acme")
    assert done.exit_code == 0
    assert SOON in done.stdout
    assert door.last.request == pb.SetAlertRuleRequest(organization="acme", keyspace="aiia", name="soon", rule=SOON)
    assert run("alerts", "rules", "set", "aiia", "soon", "--silenced").exit_code == 0
    assert door.last.request == pb.SetAlertRuleRequest(keyspace="aiia", name="soon", silenced=True)


def test_the_command_lists_rules_and_says_why_one_is_passed_over(run: Run, door: Door) -> None:
    door.will("ListAlertRules", pb.ListAlertRulesResponse(alert_rules=[a_rule(silenced=True)]))
    done = run("alerts", "rules", "list", "aiia")
    assert done.stdout.splitlines()[0].split() == ["NAME", "ORIGIN", "SILENCED", "RULE"]
    assert done.stdout.splitlines()[1].split(maxsplit=3) == ["soon", "ORGANIZATION", "yes", SOON]
    door.will("ListAlertRules", pb.ListAlertRulesResponse(alert_rules=[a_rule(problem="No limits.")]))
    assert "No limits." in run("alerts", "rules", "list", "aiia").stdout
    assert json.loads(run("alerts", "rules", "list", "aiia", "--output", "json").stdout)[0]["problem"] == "No limits."


def test_the_command_deletes_a_rule(run: Run, door: Door) -> None:
    done = run("alerts", "rules", "delete", "aiia", "soon", "--yes")
    assert done.exit_code == 0
    assert door.last.request == pb.DeleteAlertRuleRequest(keyspace="aiia", name="soon")
    assert "is removed" in done.stderr
