"""`doorward audit`: what is told, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from doorward import ChainReport, ChainStatus, HeadStatus
from doorward.v1 import audit_pb2 as pb
from tests.client.door import Door

Run = Callable[..., Result]
AT = Timestamp(seconds=1_800_000_000)
HEAD = pb.ChainHead(organization="acme", sequence=7, hash=b"h" * 32, time=AT, pepper=1, seal=b"s" * 32)
INTACT, BROKEN, UNFINISHED = pb.CHAIN_STATUS_INTACT, pb.CHAIN_STATUS_BROKEN, pb.CHAIN_STATUS_UNFINISHED


def event(**fields: Any) -> pb.AuditEvent:
    after = Struct()
    after.update({"n": 3, "half": 0.5, "names": ["a"], "deep": {"m": 2}})
    made = {
        "organization": "acme",
        "sequence": 7,
        "time": AT,
        "actor": pb.AuditActor(organization="acme", key="key_1", principal="alice"),
        "action": "keys:revoke",
        "target_type": "key",
        "target": "key_2",
        "after": after,
        "note": "leaked",
        "hash": b"h" * 32,
    }
    return pb.AuditEvent(**{**made, **fields})


def answered(**fields: Any) -> pb.VerifyChainResponse:
    return pb.VerifyChainResponse(**{"length": 9, "verified_to": 9, "first": 1, **fields})


def test_events_are_listed_page_by_page(run: Run, door: Door) -> None:
    door.will(
        "ListEvents",
        pb.ListEventsResponse(next_page_token="more"),
        pb.ListEventsResponse(events=[event(), event(sequence=6, note="")]),
    )
    words = ("--key", "key_2", "--actor", "alice", "--action", "keys:revoke", "--since", "2027-01-15")
    done = run("audit", "list", *words, "--keyspace", "aiia", "--organization", "acme", "--oldest-first")
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["SEQUENCE", "TIME"],
        ["7", "2027-01-15"],
        ["6", "2027-01-15"],
    ]
    asked = door.last.request
    assert asked.page_token == "more"
    assert (asked.organization, asked.oldest_first, asked.filter.keyspace) == ("acme", True, "aiia")
    assert (asked.filter.key, asked.filter.actor_principal, list(asked.filter.actions)) == (
        "key_2",
        "alice",
        ["keys:revoke"],
    )
    assert asked.filter.since.seconds == 1_799_971_200


def test_events_as_json_tell_what_changed(run: Run, door: Door) -> None:
    door.will("ListEvents", pb.ListEventsResponse(events=[event()]))
    (told,) = json.loads(run("audit", "list", "--output", "json").stdout)
    assert told["actor"] == {"organization": "acme", "key": "key_1", "principal": "alice", "acting_for": ""}
    assert told["before"] is None
    assert told["after"] == {"n": 3, "half": 0.5, "names": ["a"], "deep": {"m": 2}}
    assert told["hash"] == "68" * 32


def test_a_head_goes_out_and_comes_back_as_it_was(run: Run, door: Door, tmp_path: Path) -> None:
    door.will("GetHead", pb.GetHeadResponse(head=HEAD))
    file = tmp_path / "head.json"
    file.write_text(run("audit", "head", "--output", "json").stdout)
    door.will("VerifyChain", answered(status=INTACT, head_status=pb.HEAD_STATUS_IN_CHAIN))
    done = run("audit", "verify", "--head", str(file))
    assert (done.exit_code, done.stderr) == (0, "All 9 events are as they were written; the head is in it.\n")
    assert door.last.request.head == HEAD


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"status": INTACT}, 0, "All 9 events"),
        ({"status": INTACT, "first": 4}, 0, "All 6 events are as they were written; those before 4 were pruned"),
        ({"status": BROKEN, "broken_at": 4, "first": 0}, 1, "BROKEN at event 4"),
        ({"status": INTACT, "head_status": pb.HEAD_STATUS_NOT_IN_CHAIN}, 1, "NOT in it"),
        ({"status": INTACT, "head_status": pb.HEAD_STATUS_PRUNED}, 2, "nobody can say"),
        ({"status": 0}, 1, "BROKEN"),
        ({"status": 77}, 1, "BROKEN"),
    ],
)
def test_the_verdict_is_told_by_the_exit_code(
    run: Run, door: Door, answer: dict[str, Any], code: int, said: str
) -> None:
    door.will("VerifyChain", answered(status=UNFINISHED, verified_to=4, next_page_token="x"), answered(**answer))
    done = run("audit", "verify")
    assert done.exit_code == code
    assert said in done.stderr
    told = json.loads(run("audit", "verify", "--output", "json").stdout)
    assert told["length"] == 9


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"organization": "a"}', '{"at": "x"}', '{"at": 5}'])
def test_what_is_no_head_is_refused(run: Run, door: Door, tmp_path: Path, text: str) -> None:
    file = tmp_path / "head.json"
    file.write_text(text)
    done = run("audit", "verify", "--head", str(file))
    assert done.exit_code == 2
    assert "is no head" in done.stderr
    assert door.asked == []


def test_a_client_gets_reports_until_the_verdict(client: Any, door: Door) -> None:
    door.will(
        "VerifyChain",
        answered(status=UNFINISHED, verified_to=4, first=0, next_page_token="x"),
        answered(status=INTACT, head_status=pb.HEAD_STATUS_IN_CHAIN),
    )
    first, last = client.verify_chain()
    assert (first.status, first.verified_to, first.first, first.intact) == (ChainStatus.UNFINISHED, 4, None, False)
    assert last == ChainReport(
        status=ChainStatus.INTACT, verified_to=9, broken_at=None, first=1, length=9, head=HeadStatus.IN_CHAIN
    )
    assert last.intact
