"""What an HTTP service answers: by reason or group, from the file or the defaults; a denial never looks allowed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from doorward_server.core import http_profile
from doorward_server.core.errors import KeyspaceInvalid
from doorward_server.core.http_profile import WORDS, HttpAnswer, compile_http
from doorward_server.core.reasons import TOO_MUCH, UNAUTHENTICATED, Reason

BEARER = [{"header": "Authorization", "scheme": "Bearer"}]
X_AUTH = [{"header": "X-Auth"}]
INVICTI = {
    "unauthenticated": {"body": {"error": "Unauthorized", "message": "Invalid or missing authentication token"}},
    "unauthorized": {"body": {"error": "Forbidden", "message": "Insufficient permissions for this operation"}},
}
FEGURA_BODY = {"success": False, "error": {"code": "UNAUTHORIZED", "message": "Invalid or missing API key"}}
DENIALS = [it for it in Reason if it != Reason.ALLOWED]


def answer(document: Any, reason: str, *missing: str, credentials: Any = BEARER) -> HttpAnswer:
    return compile_http(document, credentials, "space").answer(reason, f"About {reason}.", missing)


def header(answer: HttpAnswer, name: str) -> str | None:
    found = [value for known, value in answer.headers if known.lower() == name.lower()]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize("reason", DENIALS)
def test_without_a_word_in_the_file_a_denial_is_a_problem_as_rfc_9457_has_it(reason: str) -> None:
    got = answer(None, reason)
    status = 429 if reason in TOO_MUCH else 401 if reason in UNAUTHENTICATED else 403
    title = {401: "Unauthorized", 403: "Forbidden", 429: "Too Many Requests"}[status]
    assert got.status == status
    assert header(got, "content-type") == "application/problem+json"
    assert header(got, "www-authenticate") == ('Bearer realm="space"' if status == 401 else None)
    assert json.loads(got.body) == {
        "type": "about:blank", "title": title, "status": status, "detail": f"About {reason}.", "reason": reason,
    }  # fmt: skip


def test_what_is_allowed_is_the_services_to_answer() -> None:
    assert answer(None, "ALLOWED") == HttpAnswer(200)
    assert answer({"denied": {"status": 404}}, "ALLOWED") == HttpAnswer(200)
    assert answer({"allowed": {"status": 204, "headers": {"X-Door": "open"}}}, "ALLOWED").status == 204


def test_the_bodies_and_statuses_of_the_five() -> None:
    got = answer(INVICTI, "KEY_UNKNOWN", credentials=X_AUTH)
    assert (got.status, json.loads(got.body)) == (401, INVICTI["unauthenticated"]["body"])
    assert header(got, "content-type") == "application/json"
    got = answer(INVICTI, "OWNER_PERMISSION_INSUFFICIENT", credentials=X_AUTH)
    assert (got.status, json.loads(got.body)) == (403, INVICTI["unauthorized"]["body"])
    fegura = {"denied": {"status": 401, "body": FEGURA_BODY}}
    for reason in ("CREDENTIAL_MISSING", "KEY_REVOKED", "SCOPE_INSUFFICIENT"):
        got = answer(fegura, reason)
        assert (got.status, json.loads(got.body)) == (401, FEGURA_BODY)
        assert header(got, "www-authenticate") == 'Bearer realm="space"'
    faction = {"unauthorized": {"status": 401}}
    got = answer(faction, "RELATION_MISSING", credentials=[{"header": "FACTION-API-KEY"}])
    assert got.status == 401
    assert header(got, "www-authenticate") == 'ApiKey realm="space", in="header", name="FACTION-API-KEY"'
    assert [answer(None, it).status for it in ("KEY_EXPIRED", "RESOURCE_NOT_GRANTED", "RATE_LIMITED")] == [
        401,
        403,
        429,
    ]
    assert header(answer(None, "KEY_UNKNOWN", credentials=[{"header": "Authorization", "scheme": "ApiKey"}]),
                  "www-authenticate") == 'ApiKey realm="space"'  # fmt: skip


def test_a_reason_counts_before_its_group_and_that_before_denied() -> None:
    document = {
        "denied": {"status": 418, "headers": {"X-From": "denied"}, "body": "denied"},
        "unauthorized": {"headers": {"X-From": "group"}},
        "RELATION_MISSING": {"status": 404},
    }
    for reason, status, origin in (
        ("RELATION_MISSING", 404, "group"),
        ("DENIED_BY_RULE", 418, "group"),
        ("KEY_UNKNOWN", 418, "denied"),
    ):
        got = answer(document, reason)
        assert (got.status, header(got, "x-from"), got.body) == (status, origin, "denied")
        assert header(got, "content-type") == "text/plain; charset=utf-8"
    assert answer(document, "RATE_LIMITED").status == 429, "what is too much is told apart"


def test_placeholders_are_filled_in_once_and_escaped_where_it_is_json() -> None:
    document = {
        "denied": {
            "headers": {"X-Missing": "{missing}", "X-Reason": "{reason}"},
            "body": {"text": "{message} {missing} {other} {}", "{message}": "{reason}"},
        }
    }
    profile = compile_http(document, BEARER, "space")
    got = profile.answer("SCOPE_INSUFFICIENT", 'a "quoted" {missing}\n', ["flows:get", "flows:list"])
    assert json.loads(got.body) == {
        "text": 'a "quoted" {missing}\n flows:get, flows:list {other} {}',
        'a "quoted" {missing}\n': "SCOPE_INSUFFICIENT",
    }
    assert header(got, "x-missing") == "flows:get, flows:list"
    assert header(got, "x-reason") == "SCOPE_INSUFFICIENT"
    plain = compile_http({"denied": {"body": "{message}"}}, BEARER, "space").answer("KEY_UNKNOWN", 'a "quoted" one')
    assert plain.body == 'a "quoted" one'


def test_an_answer_without_placeholders_is_made_once() -> None:
    profile = compile_http(INVICTI, X_AUTH, "space")
    assert profile.answer("KEY_UNKNOWN", "a") is profile.answer("KEY_UNKNOWN", "b")


def test_given_headers_are_not_doubled() -> None:
    got = answer({"unauthenticated": {"headers": {"www-authenticate": "X", "content-type": "a/b"}}}, "KEY_UNKNOWN")
    assert got.headers == (("www-authenticate", "X"), ("content-type", "a/b"))


@pytest.mark.parametrize("status", [100, 200, 299, 302, 399, 500, 503, 600])
@pytest.mark.parametrize("word", [word for word in WORDS if word not in ("allowed", "ALLOWED")])
def test_no_denial_looks_like_anything_else(word: str, status: int) -> None:
    with pytest.raises(KeyspaceInvalid) as refused:
        compile_http({word: {"status": status}}, BEARER, "space")
    assert refused.value.field == f"http.{word}.status"


def test_a_profile_that_lets_denials_look_allowed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: every status is fine for everything."""
    groups = tuple(replace(group, statuses=range(1000)) for group in http_profile._GROUPS)
    monkeypatch.setattr(http_profile, "_GROUPS", groups)
    with pytest.raises(pytest.fail.Exception):
        test_no_denial_looks_like_anything_else("RELATION_MISSING", 200)


def test_schemes_are_told_in_the_order_of_the_file_and_query_parameters_by_name() -> None:
    both = [{"header": "authorization", "scheme": "Bearer"}, {"header": "Authorization", "scheme": "ApiKey"}, *X_AUTH]
    got = header(answer(None, "KEY_UNKNOWN", credentials=both), "www-authenticate")
    assert got == 'Bearer realm="space", ApiKey realm="space"'
    got = header(answer(None, "KEY_UNKNOWN", credentials=[{"query": 'api"key'}]), "www-authenticate")
    assert got == 'ApiKey realm="space", in="query", name="api%22key"'
