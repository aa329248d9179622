"""The command line, through its own parser, against a real connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from doorward import Client, Misconfigured, errors
from doorward.cli import words
from doorward.cli.app import app
from doorward.cli.session import exit_code
from doorward.v1 import authz_pb2, directory_pb2, keys_pb2, keyspaces_pb2
from tests.client.door import Door, Failure, failure

Run = Callable[..., Result]
SECRET = "aiia_key_live_canary0123456789"


def test_a_new_secret_stands_alone_on_standard_output(run: Run, door: Door) -> None:
    key = keys_pb2.Key(id="key_1", name="ServiceNow")
    door.will("CreateKey", keys_pb2.CreateKeyResponse(key=key, secret=SECRET))
    done = run("keys", "create", "--keyspace", "aiia", "--name", "ServiceNow", "--scope", "read:findings")
    assert (done.exit_code, done.stdout) == (0, f"{SECRET}\n")
    assert "Key key_1 (ServiceNow) is made." in done.stderr
    assert SECRET not in done.stderr
    assert list(door.last.request.scopes) == ["read:findings"]


def test_with_json_a_new_secret_is_in_the_one_object(run: Run, door: Door) -> None:
    door.will("RotateKey", keys_pb2.RotateKeyResponse(key=keys_pb2.Key(id="key_1"), secret=SECRET, revision=4))
    done = run("keys", "rotate", "key_1", "--grace", "7d", "--output", "json")
    told = json.loads(done.stdout)
    assert (told["secret"], told["key"]["id"], told["revision"]) == (SECRET, "key_1", 4)
    assert done.stdout.count(SECRET) == 1
    assert SECRET not in done.stderr
    assert door.last.request.grace.ToTimedelta() == timedelta(days=7)


def test_a_replayed_creation_says_that_there_is_no_secret(run: Run, door: Door) -> None:
    door.will("CreateKey", keys_pb2.CreateKeyResponse(replayed=True))
    done = run("keys", "create", "--keyspace", "aiia", "--name", "n", "--request-id", "r")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "rotate the key" in done.stderr


def test_a_key_is_made_of_what_is_typed(run: Run, door: Door) -> None:
    run(
        "keys", "create", "--keyspace=aiia", "--name=n", "--owner=alice", "--organization", "acme", "--ceiling=list",
        "--binding", "flow-runner=flows/a,flows/b", "--binding", "reader", "--cidr", "10.0.0.0/8", "--cidr", "::1/128",
        "--metadata", "team=blue=green", "--expires", "2027-03-31", "--time-zone", "Europe/Berlin",
        "--not-before", "2027-01-01", "--request-id", "r",
    )  # fmt: skip
    request = door.last.request
    assert (request.organization, request.owner, request.request_id) == ("acme", "alice", "r")
    assert request.ceiling == keys_pb2.CEILING_LIST
    assert [(binding.role, list(binding.resources)) for binding in request.bindings] == [
        ("flow-runner", ["flows/a", "flows/b"]),
        ("reader", []),
    ]
    assert list(request.allowed_cidrs) == ["10.0.0.0/8", "::1/128"]
    assert dict(request.metadata) == {"team": "blue=green"}
    assert request.expiry.date == keys_pb2.ExpiryDate(date="2027-03-31", time_zone="Europe/Berlin")
    assert request.not_before.ToDatetime(UTC) == datetime(2027, 1, 1, tzinfo=UTC)


def test_an_update_sends_what_is_given_and_what_is_cleared(run: Run, door: Door) -> None:
    run("keys", "update", "key_1", "--disable", "--clear", "metadata", "--clear", "cidrs", "--expires", "none")
    assert list(door.last.request.update_mask.paths) == ["allowed_cidrs", "enabled", "metadata", "expires_at"]
    assert not door.last.request.key.enabled
    run("keys", "update", "key_1", "--name", "n", "--etag", "3")
    assert list(door.last.request.update_mask.paths) == ["name"]
    assert door.last.request.key.etag == "3"
    run("organizations", "update", "acme", "--enable", "--attribute", "seats=5", "--attribute", 'tags=["a"]')
    assert list(door.last.request.update_mask.paths) == ["attributes", "enabled"]
    assert door.last.request.organization.attributes["seats"].integer == 5
    assert list(door.last.request.organization.attributes["tags"].texts.values) == ["a"]


@pytest.mark.parametrize(
    ("decision", "code", "told"),
    [
        (authz_pb2.DECISION_ALLOW, 0, "ALLOWED: Fine.\n"),
        (authz_pb2.DECISION_DENY, 1, "DENIED KEY_REVOKED: Fine.\n"),
        (authz_pb2.DECISION_UNSPECIFIED, 1, "DENIED KEY_REVOKED: Fine.\n"),
    ],
)
def test_authorize_is_an_exit_code(decision: Any, code: int, told: str, run: Run, door: Door) -> None:
    answer = authz_pb2.AuthorizeResponse(decision=decision, reason=authz_pb2.REASON_KEY_REVOKED, message="Fine.")
    door.will("Authorize", answer)
    asking = ("authorize", "findings:read", "findings/42", "--keyspace", "aiia", "--organization", "acme")
    done = run(*asking, stdin=f"{SECRET}\n")
    assert (done.exit_code, done.stdout) == (code, told)
    request = door.last.request
    assert (request.key, request.action, request.organization) == (SECRET, "findings:read", "acme")
    assert (request.resource.type, request.resource.id) == ("findings", "42")
    done = run(*asking, "--output", "json", stdin=SECRET)
    assert done.exit_code == code
    assert json.loads(done.stdout)["allowed"] is (code == 0)
    assert SECRET not in done.output


def test_the_presented_key_comes_from_a_file_as_it_is(run: Run, door: Door, tmp_path: Path) -> None:
    for written, sent in ((f"{SECRET}\n", SECRET), (f"{SECRET}\r\n", SECRET), (f" {SECRET} \n\n", f" {SECRET} \n")):
        (tmp_path / "key").write_bytes(written.encode())
        run("authorize", "findings:read", "--keyspace", "aiia", "--presented-key", str(tmp_path / "key"))
        assert door.last.request.key == sent
    run("authorize", "findings:read", "--keyspace", "aiia", "--principal", "acme/alice")
    assert door.last.request.principal.principal == "alice"


@pytest.mark.parametrize(
    "sent",
    [
        failure(grpc.StatusCode.PERMISSION_DENIED, "CALLER_FORBIDDEN"),
        failure(grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_REFERENCE"),
        failure(grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED"),
        Failure(grpc.StatusCode.UNAVAILABLE),
        Failure(grpc.StatusCode.INTERNAL),
    ],
)
def test_authorize_that_cannot_ask_is_no_denial(sent: Failure, run: Run, door: Door) -> None:
    door.will("Authorize", sent)
    done = run("authorize", "findings:read", "--keyspace", "aiia", stdin=SECRET)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("No.")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("INVALID_FIELD", 2), ("STORE_UNAVAILABLE", 2), ("INTERNAL", 2), ("CALLER_UNAUTHENTICATED", 3),
        ("CALLER_FORBIDDEN", 3), ("GRANT_FORBIDDEN", 3), ("NOT_FOUND", 4), ("ALREADY_EXISTS", 5), ("KEY_IS_REVOKED", 5),
        ("ETAG_MISMATCH", 5), ("QUOTA_EXCEEDED", 5),
    ],
)  # fmt: skip
def test_errors_have_exit_codes(reason: str, code: int, run: Run, door: Door) -> None:
    kind = errors.BY_REASON[reason]
    door.will("GetKey", failure(grpc.StatusCode[kind.code], reason))
    done = run("keys", "show", "key_1")
    assert (done.exit_code, done.stdout) == (code, "")
    assert "No." in done.stderr
    assert "Traceback" not in done.stderr
    assert exit_code(kind("No.")) == code


def test_errors_tell_the_field_the_request_and_what_to_do(run: Run, door: Door) -> None:
    door.will(
        "GetKey",
        failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="filter.owner"),
        failure(grpc.StatusCode.INTERNAL, "INTERNAL", request="req_7"),
    )
    assert "The field is filter.owner." in run("keys", "show", "x").stderr
    assert "The request is req_7." in run("keys", "show", "x").stderr
    told = run("whoami", DOORWARD_TARGET="127.0.0.1:1").stderr
    assert "Is the server up" in told
    assert "--target" in told


def test_all_problems_of_the_configuration_are_told(run: Run) -> None:
    done = run("whoami", "--target", "doorward.example:1", "--key-file", "/missing", "--tls-cert", "/missing.pem")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 3
    with pytest.raises(Misconfigured):
        Client.from_env({"DOORWARD_TARGET": "doorward.example:1", "DOORWARD_KEY_FILE": "/missing"})


def test_global_options_stand_anywhere(run: Run, door: Door, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("dw_live_another")
    file = f"--key-file={tmp_path / 'key'}"
    for args in (
        ("--organization", "acme", "--acting-for=acme/alice", file, "--timeout", "60", "keys", "show", "key_1"),
        ("keys", "show", "key_1", "--organization", "acme", "--acting-for=acme/alice", file, "--timeout", "60"),
        ("keys", "--organization=acme", "show", "--acting-for", "acme/alice", "key_1", file, "--timeout=60"),
    ):
        assert run(*args).exit_code == 0
        assert (door.last.request.organization, door.last.request.id) == ("acme", "key_1")
        assert door.last.metadata["doorward-acting-for"] == "acme/alice"
        assert door.last.metadata["authorization"] == "Bearer dw_live_another"
        assert (door.last.seconds or 0) > 50
    assert run("keys", "show", "--", "--timeout").exit_code == 0
    assert door.last.request.id == "--timeout"


def test_wrong_usage_is_exit_code_two(run: Run, door: Door) -> None:
    for args in (
        ("keys", "create", "--keyspace", "aiia"),
        ("keys", "list", "--state", "dead"),
        ("keys", "create", "--keyspace", "aiia", "--name", "n", "--expires", "soon"),
        ("keys", "create", "--keyspace", "aiia", "--name", "n", "--metadata", "novalue"),
        ("keys", "rotate", "key_1", "--grace", "long"),
        ("authorize", "findings:read", "findings/", "--keyspace", "aiia"),
        ("authorize", "findings:read", "--keyspace", "aiia", "--presented-key", "/missing"),
        ("keyspaces", "apply", "/missing"),
        ("keys", "show", "key_1", "--output"),
        ("frobnicate",),
    ):
        done = run(*args)
        assert done.exit_code == 2, args
        assert done.stdout == ""
        assert done.stderr
        assert "Traceback" not in done.stderr
    assert not door.asked


def test_lists_are_rows_or_one_array(run: Run, door: Door) -> None:
    keys = [keys_pb2.Key(id="key_1", name="a\x1b[31mb", state=keys_pb2.KEY_STATE_ACTIVE), keys_pb2.Key(id="key_2")]
    keys[0].expires_at.FromDatetime(datetime(2027, 3, 31, 22, tzinfo=UTC))
    door.will("ListKeys", keys_pb2.ListKeysResponse(keys=keys))
    rows = run("keys", "list", "--state", "active", "--state", "not-yet-valid").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["ID", "key_1", "key_2"]
    assert "2027-03-31 22:00:00Z" in rows[1]
    assert "\x1b" not in rows[1]
    assert list(door.last.request.filter.states) == [keys_pb2.KEY_STATE_ACTIVE, keys_pb2.KEY_STATE_NOT_YET_VALID]
    told = json.loads(run("--output", "json", "keys", "list").stdout)
    assert [key["id"] for key in told] == ["key_1", "key_2"]
    assert told[0]["expires_at"] == "2027-03-31T22:00:00Z"


def test_rows_are_not_cut_where_nobody_looks(run: Run, door: Door) -> None:
    door.will("ListOrganizations", directory_pb2.ListOrganizationsResponse(
        organizations=[directory_pb2.Organization(id="acme", display_name="n" * 200)]
    ))  # fmt: skip
    assert "n" * 200 in run("organizations", "list").stdout


def test_keyspaces_are_applied_from_files_and_shown_as_files(run: Run, door: Door, tmp_path: Path) -> None:
    (tmp_path / "aiia.yaml").write_text("name: aiia\n")
    door.will("ApplyKeyspace", keyspaces_pb2.ApplyKeyspaceResponse(
        keyspace=keyspaces_pb2.Keyspace(name="aiia"), outcome=keyspaces_pb2.APPLY_OUTCOME_CHANGED, diff="-a\n+b\n"
    ))  # fmt: skip
    done = run("keyspaces", "apply", str(tmp_path / "aiia.yaml"), "--dry-run")
    assert (done.stdout, done.stderr) == ("-a\n+b\n", "Keyspace aiia: changed (dry run).\n")
    assert (door.last.request.source, door.last.request.dry_run) == ("name: aiia\n", True)
    run("keyspaces", "apply", "-", stdin="name: other\n")
    assert door.last.request.source == "name: other\n"
    door.will("GetKeyspace", keyspaces_pb2.GetKeyspaceResponse(keyspace=keyspaces_pb2.Keyspace(source="name: aiia\n")))
    assert run("keyspaces", "show", "aiia", "--source").stdout == "name: aiia\n"


@pytest.mark.parametrize(
    ("args", "rpc"),
    [
        ("whoami", "Introspect"),
        ("keyspaces list", "ListKeyspaces"),
        ("keyspaces show aiia", "GetKeyspace"),
        ("organizations create acme", "CreateOrganization"),
        ("organizations list", "ListOrganizations"),
        ("organizations show acme", "GetOrganization"),
        ("organizations update acme --enable", "UpdateOrganization"),
        ("organizations delete acme --yes", "DeleteOrganization"),
        ("principals create alice --kind service-account", "CreatePrincipal"),
        ("principals list", "ListPrincipals"),
        ("principals show alice", "GetPrincipal"),
        ("principals update alice --email a@acme.example", "UpdatePrincipal"),
        ("principals delete alice --yes", "DeletePrincipal"),
        ("groups create devs", "CreateGroup"),
        ("groups list", "ListGroups"),
        ("groups delete devs --yes", "DeleteGroup"),
        ("groups add devs alice", "AddGroupMember"),
        ("groups remove devs alice", "RemoveGroupMember"),
        ("groups members devs", "ListGroupMembers"),
        ("bindings create --keyspace aiia --role manager --principal alice", "CreateBinding"),
        ("bindings list --principal alice", "ListBindings"),
        ("bindings delete bnd_1 --yes", "DeleteBinding"),
        ("keys show key_1", "GetKey"),
        ("keys update key_1 --enable", "UpdateKey"),
        ("keys rotate key_1 --finish", "RotateKey"),
        ("keys revoke key_1 --reason lost --yes", "RevokeKey"),
        ("keys delete key_1 --yes", "DeleteKey"),
        ("keys revoke-all --owner alice --reason leaked --yes", "BatchRevokeKeys"),
        ("keys reveal key_1", "RevealKey"),
    ],
)
def test_every_command_asks_its_rpc(args: str, rpc: str, run: Run, door: Door) -> None:
    for output in ("table", "json"):
        done = run(*args.split(), "--output", output)
        assert done.exit_code == 0, done.output
        assert door.last.rpc == rpc
        assert done.output
        if output == "json" and done.stdout:
            json.loads(done.stdout)


def test_help_tells_the_exit_codes_and_every_command() -> None:
    told = CliRunner().invoke(app, ["--help"]).stdout
    assert "authorize: denied" in told
    for name in ("authorize", "whoami", "keyspaces", "organizations", "principals", "groups", "bindings", "keys"):
        assert f"  {name} " in told
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        ("30d", "30d"),
        ("none", "none"),
        ("45d", timedelta(days=45)),
        ("90m", timedelta(minutes=90)),
        ("2027-03-31", date(2027, 3, 31)),
        ("2027-03-31T12:00Z", datetime(2027, 3, 31, 12, tzinfo=UTC)),
        ("2027-03-31T12:00", datetime(2027, 3, 31, 12, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_read(text: str | None, value: Any) -> None:
    assert words.expiry(text) == value


@pytest.mark.parametrize("text", ["", "soon", "2027-13-01", "3w", "-1d", "2027-03-31T25:00"])
def test_what_is_no_expiry_is_refused(text: str) -> None:
    with pytest.raises(words.BadWord):
        words.expiry(text)
