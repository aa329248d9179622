"""KeyspaceService: API products, one YAML file each."""

# ruff: noqa: PT028  # TestKeyspace is an RPC, not a test

from __future__ import annotations

import json
from typing import Any

from doorward.calls import Call, Pages
from doorward.calls.values import effect, instant, words
from doorward.model import AppliedKeyspace, ApplyOutcome, Keyspace, KeyspaceTestResult, Stranding
from doorward.v1 import keyspaces_pb2 as pb

OUTCOMES = words(ApplyOutcome, pb.ApplyOutcome, "APPLY_OUTCOME_")


def apply_keyspace(
    source: str,
    *,
    dry_run: bool = False,
    force: bool = False,
    etag: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.ApplyKeyspaceResponse, AppliedKeyspace]:
    """Make a keyspace what the text of a YAML file says. With dry_run: check and compare, but change nothing.

    Only with force although its tests fail (`KeyspaceTestsFailed`) or keys are stranded (`KeysStranded`). An etag, if
    given, is the one that the keyspace must have now.
    """
    return Call(
        pb.ApplyKeyspaceRequest(source=source, dry_run=dry_run, etag=etag, force=force, no_wait=no_wait),
        pb.ApplyKeyspaceResponse,
        lambda answer: AppliedKeyspace(
            keyspace=read_keyspace(answer.keyspace),
            outcome=OUTCOMES.get(answer.outcome, ApplyOutcome.UNKNOWN),
            diff=answer.diff,
            changes=tuple(answer.changes),
            stranded=tuple(
                Stranding(field=it.field, why=it.why, keys=it.keys, bindings=it.bindings) for it in answer.stranded
            ),
            tests=tuple(map(_read_result, answer.tests)),
            **effect(answer),
        ),
        timeout,
    )


def test_keyspace(
    *, source: str = "", name: str = "", timeout: float | None = None
) -> Call[pb.TestKeyspaceResponse, tuple[KeyspaceTestResult, ...]]:
    """Run the tests in the text of a YAML file, or in a keyspace as it is. Changes nothing."""
    return Call(
        pb.TestKeyspaceRequest(source=source, name=name),
        pb.TestKeyspaceResponse,
        lambda answer: tuple(map(_read_result, answer.results)),
        timeout,
    )


def get_keyspace(name: str, *, timeout: float | None = None) -> Call[pb.GetKeyspaceResponse, Keyspace]:
    """Return a keyspace, with its source."""
    return Call(
        pb.GetKeyspaceRequest(name=name),
        pb.GetKeyspaceResponse,
        lambda answer: read_keyspace(answer.keyspace),
        timeout,
    )


def list_keyspaces(*, page_size: int = 0, timeout: float | None = None) -> Pages[pb.ListKeyspacesResponse, Keyspace]:
    """All keyspaces, by name, the built-in one among them; without their sources."""
    return Pages(
        pb.ListKeyspacesRequest(page_size=page_size),
        pb.ListKeyspacesResponse,
        lambda answer: map(read_keyspace, answer.keyspaces),
        timeout,
    )


def get_json_web_key_set(
    keyspace: str, *, timeout: float | None = None
) -> Call[pb.GetJsonWebKeySetResponse, dict[str, Any]]:
    """Return the public keys with which a keyspace's JWT keys can be checked, as a JSON Web Key Set (RFC 7517).

    A signature only says that Doorward made the key; whether it holds now, `authorize` says.
    """
    return Call(
        pb.GetJsonWebKeySetRequest(name=keyspace),
        pb.GetJsonWebKeySetResponse,
        lambda answer: dict(json.loads(answer.jwks)),
        timeout,
    )


def read_keyspace(keyspace: pb.Keyspace) -> Keyspace:
    return Keyspace(
        name=keyspace.name,
        display_name=keyspace.display_name,
        source=keyspace.source,
        prefix=keyspace.prefix,
        environments=tuple(keyspace.environments),
        roles=tuple(keyspace.roles),
        permissions=tuple(keyspace.permissions),
        created_at=instant(keyspace.created_at),
        updated_at=instant(keyspace.updated_at),
        etag=keyspace.etag,
    )


def _read_result(result: pb.KeyspaceTestResult) -> KeyspaceTestResult:
    return KeyspaceTestResult(
        name=result.name,
        asked=result.asked,
        line=result.line,
        passed=result.passed,
        problem=result.problem,
    )
