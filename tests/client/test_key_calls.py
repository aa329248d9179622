"""What came with other systems' keys: batches, revealing, versions and warnings, as they are asked for and read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from doorward import CountMismatch, KeyState, KeyWarning, NotRecoverable, Secret, Unavailable
from doorward.calls import authz, keys
from doorward.v1 import authz_pb2, keys_pb2, keyspaces_pb2
from tests.client.door import KEY, Door, Failure, failure

NOON = datetime(2027, 3, 31, 12, tzinfo=UTC)


def test_a_batch_is_revoked_by_the_filter_of_lists(client: Any, door: Door) -> None:
    conditions: dict[str, Any] = {
        "keyspace": "aiia", "owner": "alice", "environment": "live", "type": "ci", "states": [KeyState.ACTIVE],
        "name_contains": "n", "created_after": NOON, "created_before": NOON, "expires_before": NOON,
        "last_used_before": NOON, "never_used": True,
    }  # fmt: skip
    list(client.list_keys(**conditions))
    listed = door.last.request.filter
    assert {field.name for field, _ in listed.ListFields()} == {field.name for field in listed.DESCRIPTOR.fields}
    answer = keys_pb2.BatchRevokeKeysResponse(count=3, sample=[keys_pb2.Key(id="key_1")], revision=9)
    door.will("BatchRevokeKeys", answer)
    done = client.batch_revoke_keys(**conditions, organization="acme", reason="leaked", dry_run=True, expected_count=0)
    request = door.last.request
    assert request.filter == listed
    assert (request.organization, request.reason, request.dry_run) == ("acme", "leaked", True)
    assert request.HasField("expected_count")
    assert (done.count, [key.id for key in done.sample], done.revision) == (3, ["key_1"], 9)
    client.batch_revoke_keys(owner="alice", reason="leaked")
    assert not door.last.request.HasField("expected_count")
    assert not door.last.request.dry_run


def test_a_batch_has_time_and_is_not_tried_again(make: Any, door: Door) -> None:
    """A second try would not find the keys that the first one ended, and count too few."""
    door.will("BatchRevokeKeys", Failure(grpc.StatusCode.UNAVAILABLE))
    client = make(door.target, KEY)
    with pytest.raises(Unavailable):
        client.batch_revoke_keys(owner="alice", reason="leaked")
    assert len(door.asked) == 1
    door.will("BatchRevokeKeys", keys_pb2.BatchRevokeKeysResponse())
    patient = make(door.target, KEY, timeout=200)
    for caller, given, wanted in ((client, None, 60), (client, 5, 5), (patient, None, 200)):
        caller.batch_revoke_keys(owner="alice", reason="leaked", timeout=given)
        assert wanted - 5 < (door.last.seconds or 0) <= wanted + 2  # gRPC rounds up


def test_another_count_than_expected_says_both(client: Any, door: Door) -> None:
    door.will(
        "BatchRevokeKeys", failure(grpc.StatusCode.FAILED_PRECONDITION, "COUNT_MISMATCH", expected="2", found="3")
    )
    with pytest.raises(CountMismatch) as caught:
        client.batch_revoke_keys(owner="alice", reason="leaked", expected_count=2)
    assert caught.value.metadata == {"expected": "2", "found": "3"}


def test_a_revealed_text_is_a_secret(client: Any, door: Door) -> None:
    gone = failure(grpc.StatusCode.FAILED_PRECONDITION, "NOT_RECOVERABLE")
    door.will("RevealKey", keys_pb2.RevealKeyResponse(secret="hush"), gone)
    assert client.reveal_key("key_1", organization="acme") == Secret("hush")
    assert (door.last.request.organization, door.last.request.id) == ("acme", "key_1")
    with pytest.raises(NotRecoverable):
        client.reveal_key("key_1")


def test_public_keys_are_a_json_web_key_set(client: Any, door: Door) -> None:
    door.will("GetJsonWebKeySet", keyspaces_pb2.GetJsonWebKeySetResponse(jwks='{"keys": [{"kty": "OKP"}]}'))
    assert client.get_json_web_key_set("invicti") == {"keys": [{"kty": "OKP"}]}
    assert door.last.request.name == "invicti"


def test_a_new_key_has_a_version_warnings_and_those_it_replaced() -> None:
    call = keys.create_key(keyspace="fegura", name="n", api_version="2026-02-01")
    assert isinstance(call.request, keys_pb2.CreateKeyRequest)
    assert call.request.api_version == "2026-02-01"
    warning = keys_pb2.Warning(code="NO_EXPIRY", message="It never ends.")
    answer = keys_pb2.CreateKeyResponse(secret="hush", warnings=[warning], replaced_keys=["key_0"])
    issued = call.read(answer)
    assert issued.warnings == (KeyWarning("NO_EXPIRY", "It never ends."),)
    assert (issued.replaced_keys, issued.secret) == (("key_0",), Secret("hush"))
    rotated = keys.rotate_key("key_1").read(keys_pb2.RotateKeyResponse(secret="hush"))
    assert (rotated.warnings, rotated.replaced_keys) == ((), ())


def test_a_key_tells_its_version_its_old_id_and_when_to_rotate_it() -> None:
    key = keys_pb2.Key(api_version="2026-02-01", external_id="7")
    key.rotate_by.FromDatetime(NOON)
    read = keys.read_key(key)
    assert (read.api_version, read.external_id, read.rotate_by) == ("2026-02-01", "7", NOON)
    assert keys.read_key(keys_pb2.Key()).rotate_by is None


def test_an_identity_tells_its_version() -> None:
    answer = authz_pb2.IntrospectResponse(identity=authz_pb2.Identity(api_version="2026-02-01"))
    assert authz.whoami().read(answer).api_version == "2026-02-01"
