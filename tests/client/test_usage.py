"""Usage through both clients and the command line, against a door that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import Result

from doorward import ExportFormat, NotFound, Reason, Unavailable, UsageCount, UsageDimension
from doorward.v1 import authz_pb2
from doorward.v1 import usage_pb2 as pb
from tests.client.door import Door, failure

SINCE, UNTIL = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


def answered() -> pb.GetUsageResponse:
    answer = pb.GetUsageResponse(total=pb.UsageCount(allowed=3, denied=1), success_rate=0.75, failure_rate=0.25)
    values = [pb.UsageValue(value="flows:read", count=pb.UsageCount(allowed=2, denied=1))]
    answer.breakdowns.add(dimension=pb.USAGE_DIMENSION_ACTION, values=values, rest=pb.UsageCount(allowed=1))
    answer.unidentified.add(
        prefix="ft_live", address="192.0.2.1", caller="k9", reason=authz_pb2.REASON_KEY_UNKNOWN, count=7
    )
    answer.since.FromDatetime(SINCE)
    answer.until.FromDatetime(UNTIL)
    return answer


def parts(*texts: str) -> list[pb.ExportUsageResponse]:
    head = pb.ExportUsageResponse(part="hour\r\n", total_rows=len(texts))
    return [head, *(pb.ExportUsageResponse(part=text, rows=1) for text in texts)]


def test_usage_is_asked_for_and_read(client: Any, door: Door) -> None:
    door.will("GetUsage", answered())
    usage = client.get_usage(
        key_id="k1", organization="acme", since=SINCE, by=["ACTION"], time_zone="Asia/Tokyo", limit=5
    )
    assert (usage.total, usage.total.total, usage.success_rate, usage.failure_rate) == (UsageCount(3, 1), 4, 0.75, 0.25)
    assert usage.by[UsageDimension.ACTION].values[0].value == "flows:read"
    assert usage.by[UsageDimension.ACTION].rest == UsageCount(1, 0)
    assert usage.unidentified[0].reason is Reason.KEY_UNKNOWN
    assert (usage.since, usage.until) == (SINCE, UNTIL)
    sent = door.last.request
    assert (sent.scope.key_id, sent.scope.organization, list(sent.group_by)) == ("k1", "acme", [4])
    assert (sent.time_zone, sent.limit, sent.scope.HasField("until")) == ("Asia/Tokyo", 5, False)
    assert door.last.seconds is not None


def test_nothing_used_has_no_rates(client: Any, door: Door) -> None:
    usage = client.get_usage()
    assert (usage.success_rate, usage.failure_rate, usage.by) == (None, None, {})


def test_an_export_is_read_as_it_comes_and_has_no_deadline(client: Any, door: Door) -> None:
    door.will("ExportUsage", *parts("a\r\n", "b\r\n"))
    found = list(client.export_usage(format=ExportFormat.CSV, keyspace="aiia"))
    assert "".join(it.text for it in found) == "hour\r\na\r\nb\r\n"
    assert [(it.rows, it.total_rows) for it in found] == [(0, 2), (1, 0), (1, 0)]
    assert door.last.request.format == pb.EXPORT_FORMAT_CSV
    assert door.last.seconds is None or door.last.seconds > 1e6


def test_an_export_that_fails_says_so_after_what_came(client: Any, door: Door) -> None:
    door.will("ExportUsage", *parts("a\r\n"), failure(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"))
    found: list[str] = []

    def read() -> None:
        for it in client.export_usage(format="JSON"):
            found.append(it.text)  # what came before the failure

    with pytest.raises(NotFound):
        read()
    assert door.last.request.format == pb.EXPORT_FORMAT_JSON
    assert found in ([], ["hour\r\n", "a\r\n"])  # an AsyncClient behind the face of a Client is read whole


def test_an_export_nobody_reads_on_is_given_up(door: Door, make: Any) -> None:
    door.will("ExportUsage", *parts(*(["x" * 1000] * 3)))
    client = make(door.target, "dw_live_0123456789abcdefghijklmnopqrstuvwxyzABCD")
    answers = client.export_usage(format="CSV")
    next(answers)
    if hasattr(answers, "close"):
        answers.close()
    assert client.get_usage().total == UsageCount(0, 0)


def test_a_server_that_is_away_is_unavailable_for_a_feed_too(make: Any) -> None:
    client = make("127.0.0.1:1", "dw_live_0123456789abcdefghijklmnopqrstuvwxyzABCD")
    with pytest.raises(Unavailable):
        list(client.export_usage(format="CSV", timeout=30))


def test_decisions_are_listed_over_pages(client: Any, door: Door) -> None:
    one = pb.LoggedDecision(
        id="d1", key_id="k1", action="flows:read", decision=authz_pb2.DECISION_DENY, reason=authz_pb2.REASON_KEY_EXPIRED
    )
    door.will(
        "ListDecisions",
        pb.ListDecisionsResponse(decisions=[one], next_page_token="more"),
        pb.ListDecisionsResponse(decisions=[one]),
    )
    found = list(client.list_decisions(owner="alice", page_size=1))
    assert [(it.id, it.allowed, it.reason) for it in found] == [("d1", False, Reason.KEY_EXPIRED)] * 2
    assert door.last.request.page_token == "more"


def test_a_decision_has_an_id_that_takes_no_part_in_comparisons(client: Any, door: Door) -> None:
    door.will("Authorize", *(authz_pb2.AuthorizeResponse(decision_id=id) for id in ("d1", "d2")))
    first, second = (client.authorize("k", keyspace="aiia", action="findings:read") for _ in range(2))
    assert (first.id, second.id) == ("d1", "d2")
    assert first == second


# --- the command line -------------------------------------------------------------------------------------------------

Run = Callable[..., Result]


def test_usage_is_shown_as_tables_and_as_json(run: Run, door: Door) -> None:
    door.will("GetUsage", answered())
    shown = run("usage", "show", "--key", "k1", "--by", "action", "--by", "unidentified", "--time-zone", "UTC")
    assert shown.exit_code == 0, shown.output
    assert "3 (75.0% of all)" in shown.stdout
    assert "(all others)" in shown.stdout
    assert "KEY_UNKNOWN" in shown.stdout
    assert list(door.last.request.group_by) == [4, 8]
    told = json.loads(run("usage", "show", "--output", "json").stdout)
    assert told["by"]["ACTION"]["values"][0]["count"] == {"allowed": 2, "denied": 1}


def test_an_export_goes_to_standard_output_and_nothing_else_does(run: Run, door: Door) -> None:
    door.will("ExportUsage", *parts("a\r\n", "b\r\n"))
    shown = run("usage", "export", "--format", "csv", "--since", "2026-11-01")
    assert (shown.exit_code, shown.stdout_bytes) == (0, b"hour\r\na\r\nb\r\n")
    assert "2 rows." in shown.stderr


def test_an_export_to_a_file_is_whole_or_not_there(run: Run, door: Door, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    door.will("ExportUsage", *parts("a\r\n"))
    assert run("usage", "export", "--file", str(file)).exit_code == 0
    assert file.read_bytes() == b"hour\r\na\r\n"
    door.will("ExportUsage", *parts("b\r\n"), failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"))
    failed = run("usage", "export", "--file", str(file))
    assert failed.exit_code == 2
    assert file.read_bytes() == b"hour\r\na\r\n"
    assert list(tmp_path.iterdir()) == [file]


def test_decisions_are_shown(run: Run, door: Door) -> None:
    door.will("ListDecisions", pb.ListDecisionsResponse(decisions=[pb.LoggedDecision(id="d1", action="flows:read")]))
    shown = run("usage", "decisions", "--owner", "alice")
    assert "flows:read" in shown.stdout
    assert door.last.request.scope.owner == "alice"
