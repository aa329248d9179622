"""The main job by every means: a key is made, authorized, refused and revoked, on both stores."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

import doorward
from tests.e2e.processes import BIN, Process, client_environment, run

SERVICES = {
    "doorward.v1.AuthzService",
    "doorward.v1.DirectoryService",
    "doorward.v1.KeyService",
    "doorward.v1.AuditService",
    "doorward.v1.CreditService",
    "doorward.v1.KeyspaceService",
    "doorward.v1.UsageService",
    "doorward.v1.AlertService",
    "doorward.v1.WebhookService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}


def test_with_grpcurl(demo: Process) -> None:
    def grpcurl(*words: str, asking: dict[str, Any] | None = None) -> str:
        flags = ["-plaintext", "-expand-headers", "-H", "authorization: Bearer ${ROOT}", "-d", "@"]
        env = {**client_environment(demo), "ROOT": demo.root}
        given = json.dumps(asking) if asking is not None else ""
        done = run(
            BIN / "grpcurl", *flags[: None if asking is not None else 1], demo.target, *words, env=env, input=given
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(method: str, **asking: Any) -> Any:
        return json.loads(grpcurl(f"doorward.v1.{method}", asking=asking))

    assert "v1.8.6" in run(BIN / "grpcurl", "-version", env=client_environment(demo)).stderr
    assert set(grpcurl("list").split()) == SERVICES
    assert "rpc RevokeKey ( .doorward.v1.RevokeKeyRequest )" in grpcurl("describe", "doorward.v1.KeyService")
    assert "string request_id = 15" in grpcurl("describe", "doorward.v1.CreateKeyRequest")
    made = call("KeyService/CreateKey", organization="acme", keyspace="aiia", name="curl", scopes=["read:findings"])
    ask = {"key": made["secret"], "keyspace": "aiia", "organization": "acme", "action": "findings:read"}
    allowed = call("AuthzService/Authorize", **ask)
    assert (allowed["decision"], allowed["reason"]) == ("DECISION_ALLOW", "REASON_ALLOWED")
    denied = call("AuthzService/Authorize", **{**ask, "action": "findings:create"})
    assert (denied["decision"], denied["reason"]) == ("DECISION_DENY", "REASON_SCOPE_INSUFFICIENT")
    revoked = call("KeyService/RevokeKey", organization="acme", id=made["key"]["id"], reason="done")
    assert revoked["key"]["state"] == "KEY_STATE_REVOKED"
    dead = call("AuthzService/Authorize", **ask)
    assert (dead["decision"], dead["reason"]) == ("DECISION_DENY", "REASON_KEY_REVOKED")


def test_with_the_client(demo: Process) -> None:
    with doorward.Client(demo.target, demo.root, channels=2) as client:
        client.wait_until_ready(30)
        issued = client.create_key(organization="acme", keyspace="aiia", name="sync", scopes=["read:findings"])
        assert issued.secret is not None

        def ask(text: doorward.Secret, action: str) -> doorward.Decision:
            return client.authorize(text, keyspace="aiia", organization="acme", action=action, resource="findings/42")

        assert ask(issued.secret, "findings:read")
        denied = ask(issued.secret, "findings:create")
        assert (denied.allowed, denied.reason, denied.missing_permissions) == (
            False,
            doorward.Reason.SCOPE_INSUFFICIENT,
            ("findings:create",),
        )
        with pytest.raises(doorward.Denied, match="SCOPE_INSUFFICIENT"):
            client.require(issued.secret, keyspace="aiia", organization="acme", action="findings:create")
        rotated = client.rotate_key(issued.key.id, organization="acme", grace=timedelta(hours=1))
        assert rotated.secret is not None
        assert ask(issued.secret, "findings:read")
        assert ask(rotated.secret, "findings:read")
        client.revoke_key(issued.key.id, organization="acme", reason="done")
        assert ask(rotated.secret, "findings:read").reason == doorward.Reason.KEY_REVOKED
        with pytest.raises(doorward.KeyIsRevoked):
            client.rotate_key(issued.key.id, organization="acme")
        client.delete_key(issued.key.id, organization="acme")
        with pytest.raises(doorward.NotFound):
            client.get_key(issued.key.id, organization="acme")


def test_with_the_async_client(demo: Process) -> None:
    async def scenario() -> None:
        async with doorward.AsyncClient(demo.target, demo.root) as client:
            issued = await client.create_key(
                organization="acme", keyspace="aiia", name="async", scopes=["read:findings"]
            )
            assert issued.secret is not None

            async def ask(action: str) -> doorward.Decision:
                return await client.authorize(issued.secret, keyspace="aiia", organization="acme", action=action)

            together = await asyncio.gather(*(ask("findings:read") for _ in range(20)), ask("findings:create"))
            assert [decision.allowed for decision in together] == [True] * 20 + [False]
            named = [key.id async for key in client.list_keys(organization="acme", name_contains="async", page_size=1)]
            assert issued.key.id in named
            await client.revoke_key(issued.key.id, organization="acme")
            assert (await ask("findings:read")).reason == doorward.Reason.KEY_REVOKED
            with pytest.raises(doorward.KeyIsRevoked):
                await client.update_key(issued.key.id, organization="acme", name="x")

    asyncio.run(scenario())


def test_with_the_command_line(demo: Process) -> None:
    file = demo.folder / "presented.key"

    def doorward_(*words: str, code: int = 0) -> str:
        done = run(BIN / "doorward", *words, env=client_environment(demo))
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout

    scope = ("--organization", "acme", "--keyspace", "aiia")
    secret = doorward_("keys", "create", *scope, "--name", "cli", "--scope", "read:findings")
    assert secret.startswith("aiia_key_live_")
    assert secret.count("\n") == 1
    file.write_text(secret)
    ask = ("--keyspace", "aiia", "--organization", "acme", "--presented-key", str(file))
    assert "ALLOWED" in doorward_("authorize", "findings:read", "findings/42", *ask)
    assert "SCOPE_INSUFFICIENT" in doorward_("authorize", "findings:create", *ask, code=1)
    doorward_("authorize", "findings:burn", *ask, code=2)
    listed = json.loads(doorward_("--output", "json", "keys", "list", *scope, "--name", "cli"))
    (key,) = [key for key in listed if key["name"] == "cli"]
    rotated = doorward_("keys", "rotate", key["id"], "--organization", "acme")
    assert "SECRET_SUPERSEDED" in doorward_("authorize", "findings:read", *ask, code=1)
    file.write_text(rotated)
    doorward_("authorize", "findings:read", *ask)
    assert secret.strip() not in doorward_("--output", "json", "keys", "show", key["id"], "--organization", "acme")
    doorward_("keys", "revoke", key["id"], "--organization", "acme", "--reason", "done", "--yes")
    assert "KEY_REVOKED" in doorward_("authorize", "findings:read", "findings/42", *ask, code=1)
    doorward_("keys", "delete", key["id"], "--organization", "acme", "--yes")
    doorward_("keys", "show", key["id"], "--organization", "acme", code=4)
    assert "root" in doorward_("whoami")
