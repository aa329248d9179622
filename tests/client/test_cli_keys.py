"""Commands for keys that leaked, keys by the dozen and keys that are shown again; and what is told of a new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from typer.testing import Result

from doorward.v1 import authz_pb2, directory_pb2, keys_pb2, keyspaces_pb2, usage_pb2
from tests.client.door import Door, failure

Run = Callable[..., Result]
SECRET = "aiia_key_live_canary0123456789"
NOON = datetime(2027, 3, 31, 12, tzinfo=UTC)


def test_a_new_key_warns_beside_its_secret(run: Run, door: Door) -> None:
    door.will("CreateKey", keys_pb2.CreateKeyResponse(
        key=keys_pb2.Key(id="key_2", name="test"), secret=SECRET, replaced_keys=["key_1"],
        warnings=[keys_pb2.Warning(code="NAME_SAYS_NOTHING", message="Say who uses it.")],
    ))  # fmt: skip
    making = ("keys", "create", "--keyspace", "fegura", "--name", "test", "--api-version", "2026-02-01")
    done = run(*making)
    assert (done.exit_code, done.stdout) == (0, f"{SECRET}\n")
    assert "It took the place of key key_1, which is revoked now.\n" in done.stderr
    assert "Warning NAME_SAYS_NOTHING: Say who uses it.\n" in done.stderr
    assert door.last.request.api_version == "2026-02-01"
    told = json.loads(run(*making, "--output", "json").stdout)
    assert told["replaced_keys"] == ["key_1"]
    assert told["warnings"] == [{"code": "NAME_SAYS_NOTHING", "message": "Say who uses it."}]


def test_versions_and_rotations_are_told_where_there_are_any(run: Run, door: Door) -> None:
    plain, rich = keys_pb2.Key(id="key_1"), keys_pb2.Key(id="key_2", api_version="2026-02-01", external_id="old-7")
    rich.rotate_by.FromDatetime(NOON)
    door.will("ListKeys", keys_pb2.ListKeysResponse(keys=[plain, rich]), keys_pb2.ListKeysResponse(keys=[plain]))
    rows = run("keys", "list").stdout.splitlines()
    assert rows[0].endswith("ROTATE BY             API VERSION")
    assert rows[1].split()[-2:] == ["-", "-"]
    assert rows[2].endswith("2027-03-31 12:00:00Z  2026-02-01")
    assert "ROTATE" not in run("keys", "list").stdout
    door.will("GetKey", keys_pb2.GetKeyResponse(key=rich), keys_pb2.GetKeyResponse(key=plain))
    shown = run("keys", "show", "key_2").stdout
    for word in ("api version", "2026-02-01", "external id", "old-7", "rotate by", "2027-03-31"):
        assert word in shown
    shown = run("keys", "show", "key_1").stdout
    for word in ("api version", "external id", "rotate by"):
        assert word not in shown


def test_a_revealed_secret_stands_alone_on_standard_output(run: Run, door: Door) -> None:
    gone = failure(grpc.StatusCode.FAILED_PRECONDITION, "NOT_RECOVERABLE")
    door.will("RevealKey", keys_pb2.RevealKeyResponse(secret=SECRET))
    done = run("keys", "reveal", "key_1", "--organization", "acme")
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{SECRET}\n", "")
    assert door.last.request.organization == "acme"
    assert json.loads(run("keys", "reveal", "key_1", "--output", "json").stdout) == {"id": "key_1", "secret": SECRET}
    door.will("RevealKey", gone)
    done = run("keys", "reveal", "key_1")
    assert (done.exit_code, done.stdout) == (5, "")


def test_many_keys_are_revoked_by_what_is_typed(run: Run, door: Door) -> None:
    door.will("BatchRevokeKeys", keys_pb2.BatchRevokeKeysResponse(count=1200, sample=[keys_pb2.Key(id="key_1")]))
    conditions = (
        "--keyspace", "aiia", "--owner", "alice", "--environment", "live", "--type", "ci", "--state", "active",
        "--name", "n", "--created-after", "2027-01-01", "--created-before", "2027-01-02", "--expires-before",
        "2027-01-03", "--last-used-before", "2027-01-04", "--never-used",
    )  # fmt: skip
    done = run("keys", "revoke-all", *conditions, "--reason", "leaked", "--expect", "1200", "--organization", "acme")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "Keys that are revoked: 1,200.\n")
    request = door.last.request
    assert (request.organization, request.reason, request.expected_count) == ("acme", "leaked", 1200)
    assert (door.last.seconds or 0) > 30
    run("keys", "list", *conditions)
    assert door.last.request.filter == request.filter
    assert run("keys", "revoke-all", "--owner", "alice").exit_code == 2
    assert len(door.asked) == 2


def test_a_dry_run_shows_some_and_asks_nobody(run: Run, door: Door) -> None:
    door.will("BatchRevokeKeys", keys_pb2.BatchRevokeKeysResponse(count=2, sample=[keys_pb2.Key(id="key_1")]))
    trying = ("keys", "revoke-all", "--owner", "alice", "--reason", "leaked", "--dry-run", "--timeout", "5")
    done = run(*trying)
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["ID", "key_1"]
    assert done.stderr == "Keys that would be revoked: 2.\n"
    assert door.last.request.dry_run
    assert not door.last.request.HasField("expected_count")
    assert (door.last.seconds or 0) <= 6
    told = json.loads(run(*trying, "--output", "json").stdout)
    assert (told["count"], told["sample"][0]["id"]) == (2, "key_1")


def test_another_count_than_expected_is_a_conflict(run: Run, door: Door) -> None:
    door.will("BatchRevokeKeys", failure(grpc.StatusCode.FAILED_PRECONDITION, "COUNT_MISMATCH"))
    assert run("keys", "revoke-all", "--owner", "alice", "--reason", "r", "--expect", "2").exit_code == 5


def leaked(**settings: Any) -> keys_pb2.Key:
    fields: dict[str, Any] = {
        "id": "key_1", "organization": "acme", "keyspace": "aiia", "owner": "alice", "name": "ServiceNow",
        "description": "d", "environment": "live", "type": "ci", "state": keys_pb2.KEY_STATE_ACTIVE, "enabled": True,
        "ceiling": keys_pb2.CEILING_LIST, "scopes": ["read:findings"], "allowed_cidrs": ["10.0.0.0/8"],
        "bindings": [keys_pb2.KeyBinding(role="reader", resources=["flows/*"])], "metadata": {"team": "blue"},
        "api_version": "2026-02-01", "secrets": [keys_pb2.KeySecret(masked="aiia_key_live_…9xQz")],
    }  # fmt: skip
    key = keys_pb2.Key(**fields | settings)
    for field in ("expires_at", "last_used_at"):
        if field not in settings:
            getattr(key, field).FromDatetime(NOON)
    key.secrets[0].last_used_at.FromDatetime(NOON.replace(minute=1))
    return key


def answer(door: Door, key: keys_pb2.Key) -> None:
    door.will("GetKey", keys_pb2.GetKeyResponse(key=key))
    door.will("RevokeKey", keys_pb2.RevokeKeyResponse(key=key))
    door.will("CreateKey", keys_pb2.CreateKeyResponse(key=keys_pb2.Key(id="key_2", name="ServiceNow"), secret=SECRET))


def test_a_leaked_key_ends_and_another_takes_its_place(run: Run, door: Door) -> None:
    key = leaked()
    answer(door, key)
    done = run("keys", "compromised", "key_1")
    assert (done.exit_code, done.stdout) == (0, f"{SECRET}\n")
    assert SECRET not in done.stderr
    assert [asked.rpc for asked in door.asked] == ["GetKey", "RevokeKey", "GetUsage", "CreateKey"]
    revoked, made = door.asked[1].request, door.asked[3].request
    assert (revoked.id, revoked.organization, revoked.reason) == ("key_1", "acme", "compromised")
    for field in (
        "organization", "keyspace", "owner", "name", "description", "environment", "type", "ceiling", "scopes",
        "bindings", "allowed_cidrs", "metadata", "api_version",
    ):  # fmt: skip
        assert getattr(made, field) == getattr(key, field), field
    assert made.expiry.instant == key.expires_at
    assert not made.HasField("not_before")
    run("keys", "compromised", "key_1", "--reason", "seen on a forum")
    assert door.asked[-3].request.reason == "seen on a forum"
    assert door.last.request.request_id == made.request_id  # again, by mistake: no third key


def test_the_drill_tells_where_the_key_was_used_as_far_as_that_is_known(run: Run, door: Door) -> None:
    answer(door, leaked())
    used = usage_pb2.UsageValue(value="198.51.100.7", count=usage_pb2.UsageCount(allowed=3, denied=1))
    by_address = usage_pb2.UsageBreakdown(dimension=usage_pb2.USAGE_DIMENSION_ADDRESS, values=[used])
    door.will("GetUsage", usage_pb2.GetUsageResponse(breakdowns=[by_address]))
    told = run("keys", "compromised", "key_1").stderr
    assert "Key key_1 (ServiceNow) is revoked.\n" in told
    assert "Its last use: 2027-03-31 12:00:00Z.\n" in told
    assert "secret aiia_key_live_…9xQz (made 1970-01-01 00:00:00Z): 2027-03-31 12:01:00Z\n" in told
    assert "  from 198.51.100.7: 3 allowed, 1 denied\n" in told
    assert "doorward usage show --key key_1" in told
    assert "Key key_2 (ServiceNow) is made in place of key_1.\n" in told
    told = json.loads(run("keys", "compromised", "key_1", "--output", "json").stdout)
    assert (told["key"]["id"], told["revoked"]["id"], told["secret"]) == ("key_2", "key_1", SECRET)


def test_a_leaked_key_without_an_end_gets_a_successor_without_one(run: Run, door: Door) -> None:
    answer(door, leaked(expires_at=None, ceiling=keys_pb2.CEILING_OWNER))
    run("keys", "compromised", "key_1")
    assert door.last.request.expiry.preset == keys_pb2.EXPIRY_PRESET_NONE
    assert door.last.request.ceiling == keys_pb2.CEILING_OWNER
    run("keys", "compromised", "key_1", "--expires", "90d")
    assert door.last.request.expiry.preset == keys_pb2.EXPIRY_PRESET_DAYS_90


def test_a_leaked_key_that_had_not_begun_or_was_off_stays_so(run: Run, door: Door) -> None:
    answer(door, leaked(state=keys_pb2.KEY_STATE_NOT_YET_VALID, not_before=leaked().expires_at, enabled=False))
    done = run("keys", "compromised", "key_1")
    assert done.stdout == f"{SECRET}\n"
    assert [asked.rpc for asked in door.asked] == ["GetKey", "RevokeKey", "GetUsage", "CreateKey", "UpdateKey"]
    assert door.asked[3].request.not_before == leaked().expires_at
    changed = door.last.request
    assert (changed.key.id, changed.key.enabled, list(changed.update_mask.paths)) == ("key_2", False, ["enabled"])
    assert "It is disabled" in done.stderr


def test_a_leaked_key_that_had_expired_ends_without_a_successor(run: Run, door: Door) -> None:
    answer(door, leaked(state=keys_pb2.KEY_STATE_EXPIRED))
    done = run("keys", "compromised", "key_1")
    assert (done.exit_code, done.stdout, door.last.rpc) == (5, "", "GetUsage")
    assert "--expires" in done.stderr
    assert run("keys", "compromised", "key_1", "--expires", "30d").stdout == f"{SECRET}\n"


def test_a_leaked_key_ends_also_where_no_successor_can_be_made(run: Run, door: Door) -> None:
    answer(door, leaked())
    door.will("CreateKey", failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="scopes"))
    done = run("keys", "compromised", "key_1")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is revoked" in done.stderr
    assert "None could be made in its place." in done.stderr
    assert "The field is scopes." in done.stderr


def test_what_cannot_be_revoked_has_no_successor(run: Run, door: Door) -> None:
    answer(door, leaked())
    door.will("RevokeKey", failure(grpc.StatusCode.PERMISSION_DENIED, "CALLER_FORBIDDEN"))
    done = run("keys", "compromised", "key_1")
    assert (done.exit_code, done.stdout, door.last.rpc) == (3, "", "RevokeKey")
    assert "is revoked" not in done.stderr


def test_public_keys_are_written_as_json(run: Run, door: Door) -> None:
    door.will("GetJsonWebKeySet", keyspaces_pb2.GetJsonWebKeySetResponse(jwks='{"keys": [{"kty": "OKP"}]}'))
    done = run("keyspaces", "jwks", "invicti")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"keys": [{"kty": "OKP"}]})
    assert door.last.request.name == "invicti"


@pytest.mark.parametrize("owned", [True, False])
def test_whoami_is_a_line_for_each_fact(owned: bool, run: Run, door: Door) -> None:
    alice = directory_pb2.Principal(
        id="alice", kind=directory_pb2.PRINCIPAL_KIND_SERVICE_ACCOUNT, display_name="Alice", email="a@acme.example"
    )
    identity = authz_pb2.Identity(
        key_id="key_1", key_name="back end", masked_key="dw_live_…9xQz", organization="acme", environment="live",
        owner=alice if owned else None, ceiling=keys_pb2.CEILING_OWNER if owned else keys_pb2.CEILING_LIST,
        roles=["backend"], scopes=["issuer"],
    )  # fmt: skip
    door.will("Introspect", authz_pb2.IntrospectResponse(identity=identity))
    lines = dict(line.split("  ", 1) for line in run("whoami").stdout.splitlines())
    told = {label: value.strip() for label, value in lines.items()}
    assert (told["key"], told["name"], told["shown as"]) == ("key_1", "back end", "dw_live_…9xQz")
    assert (told["organization"], told["environment"], told["expires"]) == ("acme", "live", "never")
    if owned:
        assert told["owner"] == "alice (Alice, a@acme.example, service account, disabled)"
        assert (told["owner's roles"], told["rights"]) == ("backend", "all that its owner has")
        assert "scopes" not in told
    else:
        assert told["owner"].startswith("nobody")
        assert (told["scopes"], told["rights"]) == ("issuer", "its own scopes and bindings")
