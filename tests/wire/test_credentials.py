"""Key texts that are not quite right, and requests that hold none, several or something else."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import keys_pb2 as keys
from tests.wire.serving import Server, broken, refused
from tests.wire.tenants import Tenant, never_made, question, reason_of

MISSING, MALFORMED, KNOWN = "CREDENTIAL_MISSING", "CREDENTIAL_MALFORMED", "KEY_UNKNOWN"

TEXTS: dict[str, tuple[Callable[[str], str], str]] = {
    "whole": (lambda t: t, "ALLOWED"),
    "none": (lambda _: "", MISSING),
    "garbage": (lambda _: "garbage", MISSING),
    "of another keyspace": (lambda _: never_made("ft"), MISSING),
    "never made": (lambda _: never_made("aiia_key"), KNOWN),
    "NUL before": (lambda t: "\0" + t, MISSING),
    "NUL behind": (lambda t: t + "\0", MALFORMED),
    "NUL within": (lambda t: t[:20] + "\0" + t[20:], MALFORMED),
    "NUL for a character": (lambda t: t[:20] + "\0" + t[21:], MALFORMED),
    "full-width digit": (lambda t: t[:-1] + "１", MALFORMED),
    "accent": (lambda t: t[:-1] + "é", MALFORMED),
    "soft hyphen": (lambda t: t[:20] + "\xad" + t[20:], MALFORMED),
    "space before": (lambda t: " " + t, MISSING),
    "space behind": (lambda t: t + " ", MALFORMED),
    "line end behind": (lambda t: t + "\n", MALFORMED),
    "quoted": (lambda t: f'"{t}"', MISSING),
    "with its scheme": (lambda t: "ApiKey " + t, MISSING),
    "upper case": (str.upper, MISSING),
    "lower case": (str.lower, MALFORMED),
    "swapped case": (str.swapcase, MISSING),
    "swapped case of the secret": (lambda t: t[:14] + t[14:].swapcase(), MALFORMED),
    "cut by one": (lambda t: t[:-1], MALFORMED),
    "cut in half": (lambda t: t[: len(t) // 2], MALFORMED),
    "one too many": (lambda t: t + "a", MALFORMED),
    "twice": (lambda t: t + t, MALFORMED),
    "last character changed": (broken, MALFORMED),
    "secret changed": (lambda t: broken(t, -10), MALFORMED),
    "100 KB": (lambda t: t + "a" * 100_000, MALFORMED),
    "of the other environment": (lambda t: t.replace("_live_", "_test_"), MALFORMED),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_key_text_counts_byte_for_byte_or_not_at_all(acme: Tenant, case: str) -> None:
    change, reason = TEXTS[case]
    text = acme.key(scopes=["read:findings"]).text
    before = acme.server.mark(acme.id)
    answer = acme.root.authz.Authorize(question(change(text), "findings:read", keyspace="aiia", organization=acme.id))
    assert reason_of(answer) == reason
    assert answer.HasField("identity") == (reason == "ALLOWED")
    assert acme.server.mark(acme.id) == before


Http = Callable[[str, str], tuple[list[tuple[str, str]], str]]
"""Headers and query, from the text of the key and of another good one."""

FACTORYTHREAD: dict[str, tuple[Http, str]] = {
    "header": (lambda t, _: ([("Authorization", f"Bearer {t}")], ""), "ALLOWED"),
    "header in capitals": (lambda t, _: ([("AUTHORIZATION", f"BEARER {t}")], ""), "ALLOWED"),
    "query": (lambda t, _: ([], f"page=2&api_key={t}"), "ALLOWED"),
    "query, percent-encoded": (lambda t, _: ([], "api_key=" + "".join(f"%{b:02X}" for b in t.encode())), "ALLOWED"),
    "both places, same text": (lambda t, _: ([("authorization", f"Bearer {t}")], f"api_key={t}"), "ALLOWED"),
    "header twice, same text": (lambda t, _: ([("authorization", f"Bearer {t}")] * 2, ""), "ALLOWED"),
    "both places, two texts": (
        lambda t, o: ([("authorization", f"Bearer {t}")], f"api_key={o}"), "CREDENTIAL_AMBIGUOUS",
    ),
    "header twice, two texts": (
        lambda t, o: ([("authorization", f"Bearer {t}"), ("Authorization", f"Bearer {o}")], ""),
        "CREDENTIAL_AMBIGUOUS",
    ),
    "query twice, two texts": (lambda t, o: ([], f"api_key={t}&api_key={o}"), "CREDENTIAL_AMBIGUOUS"),
    "one damaged": (lambda t, _: ([("authorization", f"Bearer {t}")], f"api_key={broken(t)}"), "CREDENTIAL_AMBIGUOUS"),
    "other texts beside it": (
        lambda t, _: ([("authorization", "Basic YTpi"), ("Authorization", f"Bearer {t}")], "api_key=hello"), "ALLOWED",
    ),
    "wrong scheme": (lambda t, _: ([("authorization", f"ApiKey {t}")], ""), MISSING),
    "no scheme": (lambda t, _: ([("authorization", t)], ""), MISSING),
    "two spaces": (lambda t, _: ([("authorization", f"Bearer  {t}")], ""), MISSING),
    "another header": (lambda t, _: ([("x-api-key", t)], ""), MISSING),
    "another parameter": (lambda t, _: ([], f"key={t}"), MISSING),
    "parameter in capitals": (lambda t, _: ([], f"API_KEY={t}"), MISSING),
    "query in a header": (lambda t, _: ([("api_key", t)], ""), MISSING),
    "nothing": (lambda _t, _o: ([], ""), MISSING),
    "bytes that are no UTF-8": (lambda t, _: ([], f"api_key={t}%FF"), MALFORMED),
    "an encoded NUL": (lambda t, _: ([], f"api_key={t}%00"), MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize("case", FACTORYTHREAD)
def test_a_credential_is_found_where_the_keyspace_looks_and_only_there(acme: Tenant, case: str) -> None:
    make, reason = FACTORYTHREAD[case]
    one, other = (acme.key("factorythread", scopes=["read-only"]).text for _ in range(2))
    headers, query = make(one, other)
    http = authz.HttpRequest(headers=[authz.HttpHeader(name=n, value=v) for n, v in headers], query=query)
    answer = acme.root.authz.Authorize(
        authz.AuthorizeRequest(http=http, keyspace="factorythread", action="flows:list", organization=acme.id)
    )
    assert reason_of(answer) == reason


CALLERS: dict[str, tuple[Callable[[str, str], list[tuple[str, str]]], str]] = {
    "nothing": (lambda _t, _o: [], MISSING),
    "another scheme": (lambda t, _: [("authorization", f"Basic {t}")], MISSING),
    "another header": (lambda t, _: [("x-api-key", t)], MISSING),
    "two keys": (lambda t, o: [("authorization", f"Bearer {t}"), ("authorization", f"Bearer {o}")],
                 "CREDENTIAL_AMBIGUOUS"),
    "a key of another keyspace": (lambda _t, _o: [("authorization", f"Bearer {never_made('aiia_key')}")], MISSING),
    "a damaged key": (lambda t, _: [("authorization", f"Bearer {broken(t)}")], MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLERS)
def test_a_caller_presents_one_whole_key_as_bearer(server: Server, acme: Tenant, case: str) -> None:
    make, decision = CALLERS[case]
    metadata = tuple(make(server.root, acme.key("doorward").text))
    refusal = refused(lambda: server.api("-").authz.Introspect(authz.IntrospectRequest(), metadata=metadata))
    assert (refusal.code, refusal.metadata) == ("UNAUTHENTICATED", {"decision": decision})
    assert server.root not in refusal.message


def test_the_same_key_twice_is_one_caller(server: Server) -> None:
    twice = (("authorization", f"Bearer {server.root}"), ("authorization", f"bearer {server.root}"))
    assert reason_of(server.api("-").authz.Introspect(authz.IntrospectRequest(), metadata=twice)) == "ALLOWED"


@pytest.mark.parametrize("value", ["alice", "acme/", "/alice", "a b/alice", "acme/al ice", "acme/alice/bob"])
def test_acting_for_is_an_organization_and_a_principal(server: Server, value: str) -> None:
    refusal = refused(lambda: server.api(acting_for=value).keys.ListKeys(keys.ListKeysRequest()))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "doorward-acting-for")


def test_acting_for_two_is_refused(server: Server) -> None:
    two = (("doorward-acting-for", "acme/alice"), ("doorward-acting-for", "acme/bob"))
    refusal = refused(lambda: server.api().keys.ListKeys(keys.ListKeysRequest(), metadata=two))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "doorward-acting-for")


def test_a_message_of_1_mb_is_refused_by_the_transport(server: Server, acme: Tenant) -> None:
    before = server.mark(acme.id)
    with pytest.raises(grpc.RpcError) as failed:
        acme.root.keys.CreateKey(acme.new_key(name="x" * 1_000_000))
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.mark(acme.id) == before


def test_a_request_id_stands_for_one_request(server: Server, acme: Tenant) -> None:
    acme.root.keys.CreateKey(acme.new_key(request_id="r-1"))
    before = server.mark(acme.id)
    refusal = refused(lambda: acme.root.keys.CreateKey(acme.new_key(name="another", request_id="r-1")))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
    assert refusal.metadata["field"] == "request_id"
    assert server.mark(acme.id) == before
