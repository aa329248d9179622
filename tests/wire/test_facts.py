"""What is known about a resource and a call: sent, or stored in the directory; and which of them counts."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import directory_pb2 as directory
from doorward_server.core.model import SECOND
from tests.wire.clinics import CASE_7, MFA, ask, doctor, flag, integer, put, relate
from tests.wire.serving import refused
from tests.wire.tenants import Tenant, question, reason_of, stamp

# --- relations --------------------------------------------------------------------------------------------------------


def test_a_relation_counts_whether_it_is_stored_or_sent(clinic: Tenant) -> None:
    person, key = doctor(clinic, "doctor")
    sent = [authz.SentRelation(relation="doctor")]
    for credential in (key, person):
        assert reason_of(ask(clinic, credential, "cases:read", "cases/1")) == "RELATION_MISSING"
        assert reason_of(ask(clinic, credential, "cases:read", "cases/1", relations=sent)) == "ALLOWED"
    relate(clinic, "cases/1", "doctor", principal=person)
    for credential in (key, person):
        assert reason_of(ask(clinic, credential, "cases:read", "cases/1")) == "ALLOWED"
        assert reason_of(ask(clinic, credential, "cases:read", "cases/2")) == "RELATION_MISSING"


def test_a_sent_relation_is_of_whom_and_of_what_it_says(clinic: Tenant) -> None:
    person, key = doctor(clinic, "doctor")
    group = clinic.group(person)
    about, another = (authz.ResourceReference(type="cases", id=id) for id in "12")
    for relation, expected in (
        (authz.SentRelation(relation="doctor", principal=person), "ALLOWED"),
        (authz.SentRelation(relation="doctor", resource=about, principal=person), "ALLOWED"),
        (authz.SentRelation(relation="doctor", group=group), "ALLOWED"),
        (authz.SentRelation(relation="doctor", principal="somebody-else"), "RELATION_MISSING"),
        (authz.SentRelation(relation="doctor", group="another"), "RELATION_MISSING"),
        (authz.SentRelation(relation="doctor", resource=another), "RELATION_MISSING"),
    ):
        assert reason_of(ask(clinic, key, "cases:read", "cases/1", relations=[relation])) == expected


def test_a_relation_of_a_group_is_its_members(clinic: Tenant) -> None:
    person, key = doctor(clinic, "doctor")
    outer = clinic.group()
    clinic.root.directory.AddGroupMember(
        directory.AddGroupMemberRequest(organization=clinic.id, group=outer, member_group=clinic.group(person))
    )
    relate(clinic, "cases/1", "doctor", group=outer)
    assert reason_of(ask(clinic, key, "cases:read", "cases/1")) == "ALLOWED"
    assert reason_of(ask(clinic, doctor(clinic, "doctor")[1], "cases:read", "cases/1")) == "RELATION_MISSING"


def test_a_relation_to_the_parent_counts_one_step_down(clinic: Tenant) -> None:
    person, key = doctor(clinic, "doctor")
    relate(clinic, "cases/7", "doctor", principal=person)
    for credential in (key, person):
        assert reason_of(ask(clinic, credential, "notes:read", "notes/1")) == "RELATION_MISSING"
        assert reason_of(ask(clinic, credential, "notes:read", "notes/1", about=CASE_7)) == "ALLOWED"
        # What is yet to be made has a parent, too.
        assert reason_of(ask(clinic, credential, "notes:create", "notes", about=CASE_7)) == "ALLOWED"
    sent = authz.SentRelation(relation="doctor", resource=CASE_7["parent"])
    _, other = doctor(clinic, "doctor")
    assert reason_of(ask(clinic, other, "notes:read", "notes/1", about=CASE_7, relations=[sent])) == "ALLOWED"


def test_a_sent_parent_counts_only_where_none_is_stored(clinic: Tenant) -> None:
    person, key = doctor(clinic, "doctor")
    relate(clinic, "cases/7", "doctor", principal=person)
    put(clinic, "notes/1", parent="cases/8")
    assert reason_of(ask(clinic, key, "notes:read", "notes/1", about=CASE_7)) == "RELATION_MISSING"
    put(clinic, "notes/1", parent="cases/7")
    eight = {"parent": authz.ResourceReference(type="cases", id="8")}
    assert reason_of(ask(clinic, key, "notes:read", "notes/1", about=eight)) == "ALLOWED"
    assert reason_of(ask(clinic, key, "notes:read", "notes/1")) == "ALLOWED"


def test_nothing_that_is_stored_reaches_another_organization(clinic: Tenant, globex: Tenant) -> None:
    person, key = doctor(clinic, "doctor")
    globex.person(person)
    relate(globex, "cases/1", "doctor", principal=person)
    put(globex, "cases/1", severity=integer(9))
    clinic.bind("clinic", "triage", principal=person)
    assert reason_of(ask(clinic, key, "cases:read", "cases/1")) == "CONTEXT_MISSING"


# --- attributes and context -------------------------------------------------------------------------------------------


def test_a_stored_attribute_beats_a_sent_one(clinic: Tenant) -> None:
    person, key = doctor(clinic, "triage")
    severe, mild = {"attributes": {"severity": integer(9)}}, {"attributes": {"severity": integer(1)}}
    for credential in (key, person):
        assert reason_of(ask(clinic, credential, "cases:read", "cases/1", about=severe)) == "ALLOWED"
        assert reason_of(ask(clinic, credential, "cases:read", "cases/1", about=mild)) == "CONDITION_FALSE"
    put(clinic, "cases/1", severity=integer(1))
    for credential in (key, person):
        assert reason_of(ask(clinic, credential, "cases:read", "cases/1", about=severe)) == "CONDITION_FALSE"
    put(clinic, "cases/1", severity=integer(7))
    assert reason_of(ask(clinic, key, "cases:read", "cases/1", about=mild)) == "ALLOWED"
    put(clinic, "cases/1", ward=directory.AttributeValue(text="north"))  # says nothing about severity
    assert reason_of(ask(clinic, key, "cases:read", "cases/1", about=severe)) == "ALLOWED"


def test_what_a_condition_lacks_is_named(clinic: Tenant) -> None:
    _, key = doctor(clinic, "closer")
    put(clinic, "cases/1", open=flag(True))
    lacking = ask(clinic, key, "cases:close", "cases/1")
    assert (reason_of(lacking), list(lacking.missing_context)) == ("CONTEXT_MISSING", ["context.mfa"])
    assert reason_of(ask(clinic, key, "cases:close", "cases/1", context=MFA)) == "ALLOWED"
    unknown = ask(clinic, key, "cases:close", "cases/2", context=MFA)
    assert (reason_of(unknown), list(unknown.missing_context)) == ("CONTEXT_MISSING", ["resource.open"])


def test_the_context_has_the_servers_time_unless_the_caller_says_another(clinic: Tenant) -> None:
    assert clinic.server.clock.now >= 1_800_000_000 * SECOND  # 2027-01-15T08:00:00Z
    _, key = doctor(clinic, "day")
    assert reason_of(ask(clinic, key, "rooms:read", "rooms/1")) == "CONDITION_FALSE"
    earlier = authz.Context(time=stamp(1_799_999_999 * SECOND))
    assert reason_of(ask(clinic, key, "rooms:read", "rooms/1", context=earlier)) == "ALLOWED"


def test_the_clients_address_is_part_of_the_context(clinic: Tenant) -> None:
    _, key = doctor(clinic, "inside")
    for address, expected in (("10.1.2.3", "ALLOWED"), ("192.0.2.1", "CONDITION_FALSE"), ("", "CONTEXT_MISSING")):
        context = authz.Context(client_ip=address)
        assert reason_of(ask(clinic, key, "rooms:read", "rooms/1", context=context)) == expected


# --- what makes no sense ----------------------------------------------------------------------------------------------

TEXT = directory.AttributeValue(text="x")
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("resource.attributes[colour]", {"about": {"attributes": {"colour": TEXT}}}),
    ("resource.attributes[open]", {"about": {"attributes": {"open": TEXT}}}),
    ("resource.attributes[open]", {"about": {"attributes": {"open": directory.AttributeValue()}}}),
    ("resource.attributes[severity]", {"about": {"attributes": {"severity": directory.AttributeValue(number=1.5)}}}),
    ("context.attributes[mfa]", {"context": authz.Context(attributes={"mfa": TEXT})}),
    ("context.attributes[colour]", {"context": authz.Context(attributes={"colour": TEXT})}),
    ("context.time", {"context": authz.Context(time=stamp(-SECOND))}),
    ("context.client_ip", {"context": authz.Context(client_ip="here")}),
    ("resource.parent.type", {"about": CASE_7}),  # a case has no parent
    ("relations[0].relation", {"relations": [authz.SentRelation(relation="writer")]}),
    ("relations[1].relation", {"relations": [authz.SentRelation(relation="doctor"), authz.SentRelation()]}),
    ("relations[0].resource.id", {"relations": [
        authz.SentRelation(relation="doctor", resource=authz.ResourceReference(type="cases"))]}),
    ("relations[0].principal", {"relations": [authz.SentRelation(relation="doctor", principal="no body")]}),
    ("relations[0].group", {"relations": [authz.SentRelation(relation="doctor", group="No Group")]}),
    ("relations", {"relations": [authz.SentRelation(relation="doctor")] * 101}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "sent"), WRONG)
def test_an_error_names_the_field(clinic: Tenant, field: str, sent: dict[str, Any]) -> None:
    _, key = doctor(clinic, "doctor")
    refusal = refused(lambda: ask(clinic, key, "cases:read", "cases/1", **sent))
    assert (refusal.code, refusal.metadata["field"]) == ("INVALID_ARGUMENT", field)
    assert refusal.reason in ("INVALID_FIELD", "UNKNOWN_REFERENCE")


def test_whoever_may_not_ask_is_not_told_what_is_wrong(clinic: Tenant, globex: Tenant) -> None:
    wrong = authz.Resource(type="cases", id="1", attributes={"colour": TEXT})
    request = question("", "cases:read", keyspace="clinic", organization=clinic.id)
    request.resource.CopyFrom(wrong)
    assert refused(lambda: globex.caller("backend").authz.Authorize(request)).reason == "CALLER_FORBIDDEN"


# --- for HTTP ---------------------------------------------------------------------------------------------------------


def http(*headers: tuple[str, str]) -> authz.HttpRequest:
    return authz.HttpRequest(headers=[authz.HttpHeader(name=name, value=value) for name, value in headers])


def test_the_answer_says_what_to_send_to_an_http_client(clinic: Tenant) -> None:
    _, key = doctor(clinic, "doctor")
    allowed = ask(clinic, key, "cases:read", "cases/1", relations=[authz.SentRelation(relation="doctor")])
    assert (allowed.http.status, allowed.http.body) == (200, "")
    missing = ask(clinic, key, "cases:read", "cases/1")
    assert (missing.http.status, missing.http.body) == (404, "Nothing here.")
    assert ("X-Why", "RELATION_MISSING") in [(it.name, it.value) for it in missing.http.headers]
    forbidden = ask(clinic, key, "rooms:read")
    assert forbidden.http.status == 403
    assert forbidden.message in forbidden.http.body


def test_requests_and_batches_and_introspections_have_it_too(clinic: Tenant) -> None:
    nothing = http(("Accept", "*/*"))
    who: dict[str, Any] = {"http": nothing, "keyspace": "clinic"}
    single = clinic.root.authz.Authorize(authz.AuthorizeRequest(action="rooms:read", **who))
    items = [authz.BatchAuthorizeItem(action="rooms:read"), authz.BatchAuthorizeItem(action="rooms:paint")]
    batch = clinic.root.authz.BatchAuthorize(authz.BatchAuthorizeRequest(items=items, **who))
    told = clinic.root.authz.Introspect(authz.IntrospectRequest(**who))
    for answer in (single, batch.results[0], told):
        assert reason_of(answer) == "CREDENTIAL_MISSING"
        assert answer.http == single.http
    assert single.http.status == 401
    assert '"code": "CREDENTIAL_MISSING"' in single.http.body
    assert "WWW-Authenticate" in [it.name for it in single.http.headers]
    assert batch.results[1].error.reason == "UNKNOWN_REFERENCE"
    assert not batch.results[1].HasField("http")


def test_the_version_in_effect_is_the_one_that_the_request_names(clinic: Tenant) -> None:
    _, key = doctor(clinic, "doctor")
    for header, expected in (("2", "2"), ("9", "1"), ("", "1")):
        headers = [("X-Key", key.text), *([("clinic-version", header)] if header else [])]
        who: dict[str, Any] = {"http": http(*headers), "keyspace": "clinic", "organization": clinic.id}
        answer = clinic.root.authz.Authorize(authz.AuthorizeRequest(action="rooms:read", **who))
        assert answer.identity.api_version == expected
        del who["organization"]
        assert clinic.root.authz.Introspect(authz.IntrospectRequest(**who)).identity.api_version == expected
