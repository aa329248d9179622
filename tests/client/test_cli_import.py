"""`doorward keys import`: files of keys, as they are read, sent, told of and counted."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import Result

from doorward.cli.rows import COLUMNS, Format, Line, format_of, read
from doorward.cli.words import BadWord
from doorward.model import Ceiling, KeyBinding
from doorward.v1 import keys_pb2
from tests.client.door import Door, Failure, failure

Run = Callable[..., Result]
HUSH = "old_key_hush0123456789"
OUTCOMES = {"new": keys_pb2.IMPORT_OUTCOME_CREATED, "old": keys_pb2.IMPORT_OUTCOME_EXISTS}


def judged(requests: list[keys_pb2.ImportKeysRequest]) -> keys_pb2.ImportKeysResponse:
    """Answer by the first word of each external id: new, old, or else rejected."""
    answer = keys_pb2.ImportKeysResponse()
    for id in (request.row.external_id for request in requests[1:]):
        outcome = OUTCOMES.get(id.partition("-")[0], keys_pb2.IMPORT_OUTCOME_REJECTED)
        result = answer.results.add(external_id=id, outcome=outcome)
        if outcome == keys_pb2.IMPORT_OUTCOME_REJECTED:
            result.reason, result.message = "INVALID_FIELD", "name: is required"
        else:
            result.key_id = f"key_{id}"
    return answer


@pytest.fixture(autouse=True)
def judging(door: Door) -> None:
    door.will("ImportKeys", judged)


def written(folder: Path, name: str, *lines: str) -> str:
    (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(folder / name)


def test_all_in_is_exit_code_zero(run: Run, door: Door, tmp_path: Path) -> None:
    file = written(tmp_path, "keys.csv", "external_id,name,text", f"new-1,n,{HUSH}", f"old-2,n,{HUSH}")
    done = run("keys", "import", file, "--keyspace", "aiia", "--organization", "acme")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "Keys taken in: 1; in already: 1; rejected: 0.\n"
    header, *rows = door.last.request
    assert header.header == keys_pb2.ImportHeader(keyspace="aiia", organization="acme")
    assert [(row.row.external_id, row.row.text) for row in rows] == [("new-1", HUSH), ("old-2", HUSH)]
    assert (door.last.seconds or 0) > 200


def test_rejected_rows_are_told_by_line_without_their_secrets(run: Run, door: Door, tmp_path: Path) -> None:
    file = written(
        tmp_path, "keys.csv", "external_id,name,text,sha256,expires_at",
        f"new-1,n,{HUSH},,", f"bad-2,,{HUSH},,", f"new-3,n,{HUSH},{HUSH},", "", f"new-4,n,{HUSH},,{HUSH}",
        f"new-5,n,{HUSH}", f"new-6,n,{HUSH},,2027-03-31T12:00Z", "new-7,n,,,",
    )  # fmt: skip
    done = run("keys", "import", file, "--keyspace", "aiia")
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "line 3, bad-2: INVALID_FIELD: name: is required",
        "line 4, new-3: INVALID_FIELD: give exactly one of text, sha256 and bcrypt",
        "line 6, new-4: INVALID_FIELD: expires_at must be an instant, e.g. 2027-03-31T12:00:00Z",
        "line 7, new-5: INVALID_FIELD: there are 3 cells, not 5",
        "line 9, new-7: INVALID_FIELD: give exactly one of text, sha256 and bcrypt",
        "Keys taken in: 2; in already: 0; rejected: 5.",
    ]
    assert [row.row.external_id for row in door.last.request[1:]] == ["new-1", "bad-2", "new-6"]


@pytest.mark.parametrize("name", ["results.csv", "results.jsonl"])
def test_results_are_written_in_the_order_of_the_lines(name: str, run: Run, tmp_path: Path) -> None:
    lines = [json.dumps({"external_id": f"new-{n}", "name": "n", "text": HUSH}) for n in range(60)]
    lines[30], lines[59] = "[]", json.dumps({"external_id": "bad-59", "name": "n", "text": HUSH})
    file = written(tmp_path, "keys.jsonl", *lines)
    assert run("keys", "import", file, "--keyspace", "aiia", "--results", str(tmp_path / name)).exit_code == 1
    text = (tmp_path / name).read_text("utf-8")
    assert HUSH not in text
    told: list[dict[str, Any]]
    told = list(csv.DictReader(text.splitlines())) if name.endswith("csv") else list(map(json.loads, text.splitlines()))
    assert [int(result["line"]) for result in told] == list(range(1, 61))
    assert [result["outcome"] for result in told] == ["CREATED"] * 30 + ["REJECTED"] + ["CREATED"] * 28 + ["REJECTED"]
    assert (told[0]["external_id"], told[0]["key_id"]) == ("new-0", "key_new-0")
    assert (told[30]["reason"], told[30]["message"]) == ("INVALID_FIELD", "this is no JSON object")


def test_a_dry_run_keeps_nothing_and_says_so(run: Run, door: Door, tmp_path: Path) -> None:
    file = written(tmp_path, "keys.csv", "external_id,name,text", f"new-1,n,{HUSH}")
    done = run("keys", "import", file, "--keyspace", "aiia", "--dry-run", "--output", "json")
    assert door.last.request[0].header.dry_run
    assert done.stderr == "Keys that would be taken in: 1; in already: 0; rejected: 0.\n"
    assert json.loads(done.stdout) == {"created": 1, "existing": 0, "rejected": 0, "finished": True}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (Failure(grpc.StatusCode.UNAVAILABLE), 2),
        (failure(grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_REFERENCE"), 2),
        (failure(grpc.StatusCode.PERMISSION_DENIED, "CALLER_FORBIDDEN"), 3),
    ],
)
def test_a_failure_on_the_way_counts_what_is_in(sent: Failure, code: int, run: Run, door: Door, tmp_path: Path) -> None:
    rows = [f"new-{n},n,{HUSH}" for n in range(100)]
    file = written(tmp_path, "keys.csv", "external_id,name,text", *rows)
    door.will("ImportKeys", judged, sent)
    done = run("keys", "import", file, "--keyspace", "aiia", "--results", str(tmp_path / "results.csv"))
    assert done.exit_code == code
    told = done.stderr.splitlines()
    assert told[0] == "Keys taken in: 25; in already: 0; rejected: 0."
    assert told[1].startswith("Not finished. Give the same command again")
    assert told[2] == "No."
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 26


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        ("keys.txt", ["external_id"], "--format"),
        ("keys.csv", [], "must name the columns"),
        ("keys.csv", [f"id,name,{HUSH}"], "column 1;"),
        ("keys.csv", [f"external_id,name,{HUSH}"], "column 3;"),
        ("keys.csv", ["external_id,name,metadata."], "column 3;"),
        ("keys.csv", ["external_id,name,text,text"], "'text' is there twice"),
        ("keys.csv", ["external_id,name,text", f'1,n,"{HUSH}"x'], "line 2:"),
        ("missing.csv", None, "does not exist"),
    ],
)
def test_a_file_that_cannot_be_understood_is_not_sent(
    name: str, lines: list[str] | None, told: str, run: Run, door: Door, tmp_path: Path
) -> None:
    file = str(tmp_path / name) if lines is None else written(tmp_path, name, *lines)
    done = run("keys", "import", file, "--keyspace", "aiia")
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr
    assert HUSH not in done.stderr
    assert not door.asked


def test_files_in_the_wrong_place_or_encoding_are_refused(run: Run, door: Door, tmp_path: Path) -> None:
    file = written(tmp_path, "keys.csv", "external_id,name,text", f"new-1,n,{HUSH}")
    for results in (file, str(tmp_path / "missing" / "results.csv")):
        assert run("keys", "import", file, "--keyspace", "aiia", "--results", results).exit_code == 2
    (tmp_path / "latin.csv").write_bytes(b"external_id,name,text\nnew-1,M\xfcller,t\n")
    done = run("keys", "import", str(tmp_path / "latin.csv"), "--keyspace", "aiia")
    assert (done.exit_code, done.stderr) == (2, f"{tmp_path}/latin.csv is not written in UTF-8\n")
    assert not door.asked
    assert HUSH in Path(file).read_text()


def lines_of(folder: Path, name: str, *lines: str) -> list[Line]:
    return list(read(Path(written(folder, name, *lines)), Format(name.rpartition(".")[2])))


def test_csv_has_the_columns_of_a_row(tmp_path: Path) -> None:
    header = (
        "\N{ZERO WIDTH NO-BREAK SPACE}external_id,name,bcrypt,lookup,last4,description,owner,environment,type,ceiling,"
        "scopes,bindings,allowed_cidrs,metadata,metadata.team,created_at,expires_at,api_version"
    )
    cells = (
        '7,"a, ""b""\nc",$2b$10$x,old,6789,d,alice,test,ci,List,read:findings write:evidence;admin:sync,'
        '"reader=flows/a,flows/b;writer",10.0.0.0/8 ::1/128,"{""seats"": ""5""}",blue,2024-01-01,2028-01-01T12:00Z,v1'
    )
    (line,) = lines_of(tmp_path, "keys.csv", header, cells)
    row = line.row
    assert row
    assert (row.external_id, row.name, row.bcrypt, row.lookup, row.last4) == (
        "7",
        'a, "b"\nc',
        "$2b$10$x",
        "old",
        "6789",
    )
    assert (row.description, row.owner, row.environment, row.type) == ("d", "alice", "test", "ci")
    assert (row.ceiling, row.scopes) == (Ceiling.LIST, ("read:findings", "write:evidence", "admin:sync"))
    assert row.bindings == (KeyBinding("reader", ("flows/a", "flows/b")), KeyBinding("writer"))
    assert row.allowed_cidrs == ("10.0.0.0/8", "::1/128")
    assert row.metadata == {"seats": "5", "team": "blue"}
    assert (row.created_at, row.expires_at) == (
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2028, 1, 1, 12, tzinfo=UTC),
    )
    assert row.api_version == "v1"
    assert {name.partition(".")[0] for name in header[1:].split(",")} | {"text", "sha256"} == COLUMNS


def test_json_lines_have_the_fields_of_a_row(tmp_path: Path) -> None:
    fields = {
        "external_id": 7, "name": "n", "sha256": "ab" * 32, "owner": None, "scopes": ["read:findings"],
        "bindings": [{"role": "reader", "resources": ["flows/*"], "expires_at": "2028-01-01T12:00Z"}, "writer=flows/a"],
        "allowed_cidrs": "::1/128", "metadata": {"team": "blue"}, "metadata.seats": "5", "ceiling": "owner",
    }  # fmt: skip
    (line,) = lines_of(tmp_path, "keys.jsonl", "", json.dumps(fields), "  ")
    row = line.row
    assert row
    assert (line.number, line.external_id, row.external_id, row.owner) == (2, "7", "7", "")
    assert (row.scopes, row.allowed_cidrs, row.ceiling) == (("read:findings",), ("::1/128",), Ceiling.OWNER)
    assert row.bindings == (
        KeyBinding("reader", ("flows/*",), None, datetime(2028, 1, 1, 12, tzinfo=UTC)),
        KeyBinding("writer", ("flows/a",)),
    )
    assert row.metadata == {"team": "blue", "seats": "5"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"ceiling": HUSH}, "ceiling must be owner or list"),
        ({"expires": "2027-01-01"}, "there is a field that is none of a row's"),
        ({"expires_at": 1_700_000_000}, "expires_at must be an instant, e.g. 2027-03-31T12:00:00Z"),
        ({"name": [HUSH]}, "name must be a text"),
        ({"name": True}, "name must be a text"),
        ({"scopes": {HUSH: 1}}, "scopes must be texts"),
        ({"metadata": HUSH}, "metadata must be an object of texts"),
        ({"metadata": {"seats": 5}}, "metadata must be an object of texts"),
        ({"metadata.seats": 5}, "metadata must be an object of texts"),
        ({"bindings": [{"rolle": HUSH}]}, "bindings must be ROLE=PATTERN"),
        ({"bindings": [{"role": None}]}, "bindings: role must be a text"),
        ({"text": None}, "give exactly one of"),
        ({"name": "\ud800"}, "this is no line of JSON"),
    ],
)
def test_a_line_that_cannot_be_a_row_says_why_and_no_more(fields: dict[str, Any], told: str, tmp_path: Path) -> None:
    good = {"external_id": "7", "name": "n", "text": HUSH}
    line, after = lines_of(tmp_path, "keys.jsonl", json.dumps(good | fields), json.dumps(good))
    assert line.row is None
    assert told in line.problem
    assert HUSH not in repr(line)
    assert after.row


def test_the_format_is_the_extensions_or_as_it_is_said() -> None:
    assert format_of(Path("a.CSV"), None) is Format.CSV
    assert format_of(Path("a.jsonl"), None) is Format.JSONL
    assert format_of(Path("a.csv"), Format.JSONL) is Format.JSONL
    with pytest.raises(BadWord, match="--format"):
        format_of(Path("a.json"), None)


def test_a_line_with_broken_metadata_is_rejected_alone(tmp_path: Path) -> None:
    header, row = "external_id,name,text,metadata", f"7,n,{HUSH},"
    bad, good = lines_of(tmp_path, "keys.csv", header, row + HUSH, row)
    assert (bad.problem, bad.external_id, bad.row) == ("metadata is no JSON", "7", None)
    assert good.row
