"""Keys of another system, on their way in: streams of bounded size, results in order, and nothing sent twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from doorward import (
    CallerForbidden,
    Ceiling,
    DeadlineExceeded,
    ImportOutcome,
    ImportResult,
    ImportRow,
    Internal,
    KeyBinding,
    Secret,
    Unavailable,
)
from doorward.calls import imports
from doorward.v1 import keys_pb2
from tests.client.door import Door, Failure, failure

NOON = datetime(2024, 3, 31, 12, tzinfo=UTC)
HUSH = "old_key_hush0123456789"


def rows(count: int) -> Iterator[ImportRow]:
    for number in range(count):
        yield ImportRow(external_id=f"id-{number}", name="n", sha256="ab" * 32)


def taken(requests: list[keys_pb2.ImportKeysRequest]) -> keys_pb2.ImportKeysResponse:
    """Answer as a server that takes in every row."""
    results = [
        keys_pb2.ImportResult(
            external_id=request.row.external_id,
            outcome=keys_pb2.IMPORT_OUTCOME_CREATED,
            key_id=f"key_{request.row.external_id}",
        )
        for request in requests[1:]
    ]
    return keys_pb2.ImportKeysResponse(results=results, revision=5)


def sent(door: Door) -> list[list[str]]:
    """The external ids of each stream."""
    return [[request.row.external_id for request in asked.request[1:]] for asked in door.asked]


def test_every_row_has_its_result_in_order(client: Any, door: Door) -> None:
    door.will("ImportKeys", taken)
    told: list[ImportResult] = []
    results = client.import_keys(rows(1200), keyspace="aiia", organization="acme", progress=told.extend)
    assert [result.external_id for result in results] == [f"id-{number}" for number in range(1200)]
    assert results[7] == ImportResult("id-7", ImportOutcome.CREATED, "key_id-7")
    assert told == results


def test_streams_are_a_few_hundred_rows_at_most_and_each_begins_with_the_header(client: Any, door: Door) -> None:
    door.will("ImportKeys", taken)
    client.import_keys(rows(1200), keyspace="aiia", organization="acme")
    sizes = [len(ids) for ids in sent(door)]
    assert sum(sizes) == 1200
    assert sizes[0] == 25
    assert max(sizes) <= 500
    for asked in door.asked:
        assert asked.request[0].header == keys_pb2.ImportHeader(organization="acme", keyspace="aiia")
        assert 60 < (asked.seconds or 0) <= 302  # gRPC rounds up


def test_slow_streams_get_shorter_and_quick_ones_longer() -> None:
    assert [imports._paced(25, took) for took in (0.1, 5.0, 60.0)] == [50, 25, 25]
    assert [imports._paced(400, took) for took in (0.1, 5.0, 60.0)] == [500, 400, 200]


def test_heavy_rows_are_sent_a_few_at_a_time(client: Any, door: Door) -> None:
    """A server takes 64 MiB in a stream, and 256 KiB in a row."""
    door.will("ImportKeys", taken)
    heavy = (ImportRow(external_id=str(n), name="n", text="t", description="x" * 250_000) for n in range(100))
    assert len(client.import_keys(heavy, keyspace="aiia", dry_run=True)) == 100
    assert len(door.asked) > 2
    assert all(sum(request.ByteSize() for request in asked.request) < 10 << 20 for asked in door.asked)


def test_a_row_that_is_too_large_to_send_spoils_no_other(client: Any, door: Door) -> None:
    door.will("ImportKeys", taken)
    large = ImportRow(external_id="large", name="n", text=HUSH, description="x" * 300_000)
    results = client.import_keys([*rows(1), large, *rows(1)], keyspace="aiia")
    assert [result.outcome for result in results] == ["CREATED", "REJECTED", "CREATED"]
    assert (results[1].external_id, results[1].reason, results[1].key_id) == ("large", "INVALID_FIELD", "")
    assert "256 KiB" in results[1].message
    assert sent(door) == [["id-0", "id-0"]]


def test_a_dry_run_sees_many_rows_at_once(client: Any, door: Door) -> None:
    door.will("ImportKeys", taken)
    client.import_keys(rows(6000), keyspace="aiia", dry_run=True)
    assert [len(ids) for ids in sent(door)] == [5000, 1000]
    assert all(asked.request[0].header.dry_run for asked in door.asked)


def test_no_rows_are_still_a_question(client: Any, door: Door) -> None:
    door.will("ImportKeys", failure(grpc.StatusCode.PERMISSION_DENIED, "CALLER_FORBIDDEN"), taken)
    with pytest.raises(CallerForbidden):
        client.import_keys([], keyspace="aiia")
    assert client.import_keys([], keyspace="aiia") == []
    assert len(door.asked) == 2


def test_a_failure_ends_it_and_nothing_is_tried_again(client: Any, door: Door) -> None:
    door.will("ImportKeys", taken, Failure(grpc.StatusCode.UNAVAILABLE))
    told: list[ImportResult] = []
    with pytest.raises(Unavailable):
        client.import_keys(rows(1000), keyspace="aiia", progress=told.extend)
    assert len(door.asked) == 2
    assert len(told) == 25
    door.will("ImportKeys", taken)
    assert len(client.import_keys(rows(1000), keyspace="aiia")) == 1000


def test_a_refusal_before_the_rows_are_read_is_told_as_it_is(client: Any, door: Door) -> None:
    refusal = failure(grpc.StatusCode.PERMISSION_DENIED, "CALLER_FORBIDDEN", permission="keys:import")
    door.will("ImportKeys", Failure(refusal.code, "No.", refusal.details, early=True))
    heavy = [ImportRow(external_id=str(n), name="n", text="t", description="x" * 250_000) for n in range(30)]
    for sending in [heavy] + [list(rows(100))] * 50:  # grpc.aio loses one status in ten
        with pytest.raises(CallerForbidden) as caught:
            client.import_keys(sending, keyspace="aiia")
        assert caught.value.metadata == {"permission": "keys:import"}


def test_the_timeout_is_for_each_stream(client: Any, door: Door) -> None:
    def wait(requests: Any) -> keys_pb2.ImportKeysResponse:
        time.sleep(1)
        return taken(requests)

    door.will("ImportKeys", wait)
    with pytest.raises(DeadlineExceeded):
        client.import_keys(rows(3), keyspace="aiia", timeout=0.1)
    assert len(client.import_keys(rows(60), keyspace="aiia", timeout=2.9)) == 60


def test_an_answer_that_does_not_fit_the_rows_is_a_failure(client: Any, door: Door) -> None:
    door.will("ImportKeys", keys_pb2.ImportKeysResponse())
    with pytest.raises(Internal, match="another number of results"):
        client.import_keys(rows(1), keyspace="aiia")


def test_rows_that_cannot_be_read_end_it(client: Any, door: Door) -> None:
    def broken() -> Iterator[ImportRow]:
        yield from rows(30)
        raise OSError("the disk is gone")

    door.will("ImportKeys", taken)
    with pytest.raises(OSError, match="the disk is gone"):
        client.import_keys(broken(), keyspace="aiia")
    assert sent(door) == [[f"id-{number}" for number in range(25)]]


def message(**settings: Any) -> keys_pb2.ImportRow:
    (stream,) = imports.import_keys([ImportRow(external_id="7", name="n", **settings)], keyspace="aiia")
    request = stream.requests[1]
    assert isinstance(request, keys_pb2.ImportKeysRequest)
    return request.row


def test_a_row_is_sent_whole() -> None:
    row = message(
        text=HUSH, description="d", owner="alice", environment="test", type="ci", ceiling=Ceiling.LIST,
        scopes=["read:findings"], bindings=[KeyBinding("reader", ("flows/*",))], allowed_cidrs=["::1/128"],
        metadata={"team": "blue"}, created_at=NOON, expires_at=NOON.replace(year=2028), api_version="2024-01",
    )  # fmt: skip
    assert (row.external_id, row.name, row.text) == ("7", "n", HUSH)
    assert (row.description, row.owner, row.environment, row.type) == ("d", "alice", "test", "ci")
    assert row.ceiling == keys_pb2.CEILING_LIST
    assert list(row.scopes) == ["read:findings"]
    assert row.bindings[0] == keys_pb2.KeyBinding(role="reader", resources=["flows/*"])
    assert (list(row.allowed_cidrs), dict(row.metadata)) == (["::1/128"], {"team": "blue"})
    assert (row.created_at.ToDatetime(UTC), row.expires_at.ToDatetime(UTC).year) == (NOON, 2028)
    assert row.api_version == "2024-01"


def test_a_row_has_one_proof() -> None:
    assert message(text=Secret(HUSH)).text == HUSH
    row = message(sha256="ab" * 32, last4="6789")
    assert (row.hash, row.hash_kind, row.last4) == ("ab" * 32, keys_pb2.IMPORTED_HASH_SHA256, "6789")
    row = message(bcrypt="$2b$10$x", lookup="old_key")
    assert (row.hash, row.hash_kind, row.lookup) == ("$2b$10$x", keys_pb2.IMPORTED_HASH_BCRYPT, "old_key")
    for proofs in ({}, {"text": HUSH, "sha256": "ab" * 32}, {"sha256": HUSH, "bcrypt": HUSH}):
        with pytest.raises(ValueError, match="exactly one of") as caught:
            message(**proofs)
        assert "hush" not in repr(caught.value)


def test_what_proves_a_row_does_not_print() -> None:
    proofs: list[dict[str, Any]] = [{"text": HUSH}, {"sha256": HUSH}, {"bcrypt": HUSH, "lookup": HUSH}]
    for proof in proofs:
        row = ImportRow(external_id="7", name="n", **proof)
        assert "hush" not in repr(row)
        assert "hush" not in repr(list(imports.import_keys([row], keyspace="aiia")))
        broken: dict[str, Any] = dict.fromkeys(proof, HUSH + chr(0xD800))
        with pytest.raises(ValueError, match="half a character") as caught:
            ImportRow(external_id="7", name="n", **broken)
        assert "hush" not in repr(caught.value)
    assert isinstance(ImportRow(external_id="7", name="n", text=HUSH).text, Secret)


def test_a_result_of_the_future_is_none_that_is_known() -> None:
    (stream,) = imports.import_keys(rows(1), keyspace="aiia")
    result = keys_pb2.ImportResult(
        external_id="id-0", outcome=9, reason="R", message="M"  # type: ignore[arg-type]
    )  # fmt: skip
    answer = keys_pb2.ImportKeysResponse(results=[result])
    assert stream.read(answer) == [ImportResult("id-0", ImportOutcome.UNKNOWN, "", "R", "M")]
