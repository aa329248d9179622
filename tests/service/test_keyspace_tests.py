"""The tests in a keyspace file: the world that they describe, and what they find."""

from __future__ import annotations

import json
from typing import Any

import pytest

from doorward_server.core.decide import ALLOWED
from doorward_server.service import keyspace_tests
from doorward_server.service.keyspace_file import load_file
from doorward_server.service.keyspace_tests import CaseResult, run_cases
from tests.service.keyspace_mistakes import PRESS

READER = {"key": {"scopes": ["reader"]}}
ANN = {"principal": {"id": "ann", "bindings": [{"role": "chief"}], "groups": ["desk"]}, "key": {"ceiling": "owner"}}
READ = {"action": "issues:list"}
PUBLISH = {"action": "drafts:publish", "resource": "drafts/1", "context": {"mfa": True}}
EDITED: dict[str, Any] = {
    **ANN,
    "resources": {"drafts/1": {"parent": "issues/7"}},
    "relations": ["issues/7#editor@user:ann"],
}


def run(given: Any, ask: Any, expect: Any) -> CaseResult:
    case = {"name": "the case", "given": given, "ask": ask, "expect": expect}
    (result,) = run_cases(load_file(f"{PRESS[: PRESS.index('tests:')]}tests: {json.dumps([case])}"))
    return result


HOLDS: dict[str, tuple[Any, Any, Any]] = {
    "a scope": (READER, READ, "ALLOW"),
    "nothing given is nothing allowed": ({}, READ, "SCOPE_INSUFFICIENT"),
    "what any good key may": ({}, {"action": "status:get"}, "ALLOWED"),
    "revoked": ({"key": {"scopes": ["reader"], "revoked": True}}, READ, "KEY_REVOKED"),
    "disabled": ({"key": {"scopes": ["reader"], "enabled": False}}, READ, "KEY_DISABLED"),
    "expired": ({"key": {"scopes": ["reader"], "expires_at": "2026-01-01T12:00:00Z"}}, READ, "KEY_EXPIRED"),
    "about to expire": ({"key": {"scopes": ["reader"], "expires_at": "2026-01-01T12:00:01Z"}}, READ, "ALLOWED"),
    "not yet": (
        {"key": {"scopes": ["reader"], "not_before": "2026-06-01T00:00:00+02:00"}}, READ, "KEY_NOT_YET_VALID",
    ),
    "later": (
        {"key": {"scopes": ["reader"], "not_before": "2026-06-01T00:00:00+02:00"}},
        READ | {"at": "2026-05-31T22:00:00Z"}, "ALLOWED",
    ),
    "another environment": (READER, READ | {"environment": "test"}, "ENVIRONMENT_MISMATCH"),
    "another organization": (READER, READ | {"organization": "globex"}, "ORGANIZATION_MISMATCH"),
    "a disabled organization": (READER | {"organization": {"enabled": False}}, READ, "ORGANIZATION_DISABLED"),
    "a disabled owner": ({"principal": {"enabled": False}, "key": {"ceiling": "owner"}}, READ, "OWNER_DISABLED"),
    "outside the networks": (
        {"key": {"scopes": ["reader"], "allowed_cidrs": ["10.0.0.0/8"]}}, READ | {"client_ip": "192.0.2.1"},
        "NETWORK_NOT_ALLOWED",
    ),
    "inside": (
        {"key": {"scopes": ["reader"], "allowed_cidrs": ["10.0.0.0/8"]}}, READ | {"client_ip": "10.9.9.9"}, "ALLOWED",
    ),
    "a key's binding on one resource": (
        {"key": {"bindings": [{"role": "reader", "resources": ["drafts/1"]}]}},
        {"action": "drafts:get", "resource": "drafts/2"}, "RESOURCE_NOT_GRANTED",
    ),
    "a binding that has ended": (
        {"key": {"bindings": [{"role": "reader", "expires_at": "2026-01-01T12:00:00Z"}]}}, READ, "SCOPE_INSUFFICIENT",
    ),
    "a binding's condition": (
        {"key": {"bindings": [{"role": "reader", "condition": "context.mfa"}]}}, READ | {"context": {"mfa": False}},
        "CONDITION_FALSE",
    ),
    "context that nobody sent": (
        {"key": {"bindings": [{"role": "reader", "condition": "context.mfa"}]}}, READ,
        {"reason": "CONTEXT_MISSING", "missing_context": ["context.mfa"]},
    ),
    "the owner has less than the key": (
        {"principal": {"id": "ann"}, "key": {"scopes": ["reader"]}}, READ,
        {"reason": "OWNER_PERMISSION_INSUFFICIENT", "missing": ["issues:list"], "status": 403},
    ),
    "a signed-in principal": ({"principal": {"bindings": [{"role": "reader"}]}}, READ, {"role": "reader"}),
    "a stored parent and a stored relation": (EDITED, PUBLISH, {"decision": "ALLOW", "role": "chief"}),
    "a relation of a group": (EDITED | {"relations": ["issues/7#editor@group:desk"]}, PUBLISH, "ALLOW"),
    "a relation of another": (EDITED | {"relations": ["issues/7#editor@user:bob"]}, PUBLISH, "RELATION_MISSING"),
    "a relation to another issue": (EDITED | {"relations": ["issues/8#editor@user:ann"]}, PUBLISH, "RELATION_MISSING"),
    "a sent parent": (ANN | {"relations": EDITED["relations"]}, PUBLISH | {"parent": "issues/7"}, "ALLOW"),
    "a stored parent beats a sent one": (EDITED, PUBLISH | {"parent": "issues/8"}, "ALLOW"),
    "a sent relation": (ANN, PUBLISH | {"parent": "issues/7", "relations": ["parent.editor"]}, "ALLOW"),
    "a sent relation in full": (
        ANN, PUBLISH | {"parent": "issues/7", "relations": ["issues/7#editor@user:ann"]}, "ALLOW",
    ),
    "a sent relation of another": (
        ANN, PUBLISH | {"parent": "issues/7", "relations": ["issues/7#editor@user:bob"]}, "RELATION_MISSING",
    ),
    "no key in the request": (READER, READ | {"http": {}}, {"reason": "CREDENTIAL_MISSING", "status": 401}),
    "the key in the query": (READER, READ | {"http": {"query": "a=b&api_key={key}"}}, "ALLOWED"),
    "another scheme": (READER, READ | {"http": {"headers": {"Authorization": "Basic {key}"}}}, "CREDENTIAL_MISSING"),
    "two keys": (
        READER, READ | {"http": {"headers": {"Authorization": "Bearer {key}"}, "query": "api_key={other}"}},
        "CREDENTIAL_AMBIGUOUS",
    ),
    "an unknown key": (READER, READ | {"http": {"query": "api_key={other}"}}, "KEY_UNKNOWN"),
    "half a key": (READER, READ | {"http": {"query": "api_key=press_live_x"}}, "CREDENTIAL_MALFORMED"),
    "body of the answer": (
        READER, {"action": "drafts:create"},
        {"body": {"error": "SCOPE_INSUFFICIENT", "message": "This API key lacks the scope for this."}},
    ),
    "text of the answer": (
        {"key": {"bindings": [{"role": "reader", "resources": ["drafts/1"]}]}},
        {"action": "drafts:get", "resource": "drafts/2"}, {"status": 404, "body": "Nothing here."},
    ),
    "the pinned version": (READER, READ, {"api_version": "2026-02-01"}),
    "a key's own version": ({"key": {"api_version": "2026-08-01"}}, READ, {"api_version": "2026-08-01"}),
}  # fmt: skip


@pytest.mark.parametrize("case", HOLDS)
def test_a_world_is_what_the_file_says(case: str) -> None:
    given, ask, expect = HOLDS[case]
    assert run(given, ask, expect).problem == ""


@pytest.mark.parametrize(
    ("expect", "problem"),
    [
        ("DENY", "decision is ALLOW (ALLOWED), not DENY"),
        ("KEY_EXPIRED", "reason is ALLOWED, not KEY_EXPIRED"),
        ({"decision": "DENY", "status": 401}, "decision is ALLOW (ALLOWED), not DENY; status is 200, not 401"),
        ({"missing": ["a:b", "c:d"]}, "missing is nothing, not a:b, c:d"),
        ({"body": {"a": 1}}, 'body is "", not {"a": 1}'),
        ({"role": "chief"}, "role is reader, not chief"),
    ],
)
def test_what_is_otherwise_is_told(expect: Any, problem: str) -> None:
    result = run(READER, READ, expect)
    assert (result.passed, result.problem) == (False, problem)
    assert (result.name, result.asked) == ("the case", "issues:list")


def test_a_runner_that_allows_everything_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: decisions of tests are not those of the product."""
    allowed = run(READER, READ, "ALLOW")
    monkeypatch.setattr(keyspace_tests, "decide", lambda *_: ALLOWED)
    assert run(READER, READ, "ALLOW") == allowed
    assert run({}, READ, "SCOPE_INSUFFICIENT").problem == "reason is ALLOWED, not SCOPE_INSUFFICIENT"
