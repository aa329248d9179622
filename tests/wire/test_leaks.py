"""ReportLeak: whoever has found a text may say so, and nobody learns from it more than they had."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import MessageToDict

from doorward.v1 import audit_pb2, keys_pb2, keyspaces_pb2
from tests.wire.serving import Api, Held, Server, broken, refused
from tests.wire.tenants import Tenant, asked, never_made, state_of

UNKNOWN, ALERTED = keys_pb2.LEAK_OUTCOME_KEY_UNKNOWN, keys_pb2.LEAK_OUTCOME_ALERTED
REVOKED, DISABLED = keys_pb2.LEAK_OUTCOME_REVOKED, keys_pb2.LEAK_OUTCOME_DISABLED
ENDED_BEFORE = keys_pb2.LEAK_OUTCOME_ENDED_BEFORE
SOURCE = """
keyspace: leaky-{policy}
prefix: leaky{policy}
credentials: [{{header: x-api-key}}]
leaks: {{policy: {policy}}}
types: {{findings: [read]}}
roles: {{"read:findings": {{rules: [{{actions: ["findings:read"]}}]}}}}
keys: {{ended_by: [owner], expiry: {{maximum: 90d}}}}
"""


def report(api: Api, text: str, keyspace: str, found_in: str = "web/.env line 3") -> keys_pb2.ReportLeakResponse:
    request = keys_pb2.ReportLeakRequest(key=text, keyspace=keyspace, found_in=found_in)
    answer: keys_pb2.ReportLeakResponse = api.keys.ReportLeak(request)
    return answer


def leaky(tenant: Tenant, policy: str) -> Held:
    """A key of a keyspace with *policy*."""
    tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=SOURCE.format(policy=policy)))
    expiry = keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_DAYS_30)
    return tenant.key(f"leaky-{policy}", scopes=["read:findings"], expiry=expiry)


def events(tenant: Tenant, key: str) -> list[audit_pb2.AuditEvent]:
    wanted = audit_pb2.EventFilter(key=key, actions=["keys:leaked"])
    return list(tenant.root.audit.ListEvents(audit_pb2.ListEventsRequest(organization=tenant.id, filter=wanted)).events)


@pytest.mark.parametrize(
    ("policy", "outcome", "state", "reason"),
    [
        ("alert", ALERTED, "ACTIVE", "ALLOWED"),
        ("disable", DISABLED, "DISABLED", "KEY_DISABLED"),
        ("revoke", REVOKED, "REVOKED", "KEY_REVOKED"),
    ],
)
def test_a_found_key_becomes_what_its_keyspace_says(
    acme: Tenant, policy: str, outcome: int, state: str, reason: str
) -> None:
    held, scanner = leaky(acme, policy), acme.caller("scanner")
    answer = report(scanner, held.text, f"leaky-{policy}")
    assert (answer.outcome, answer.key_id, answer.organization) == (outcome, held.id, acme.id)
    assert answer.revision > 0
    assert answer.propagation
    assert state_of(acme.get(held.id)) == state
    assert asked(acme, held.text, keyspace=f"leaky-{policy}") == reason
    (event,) = events(acme, held.id)
    assert event.note == "web/.env line 3"
    assert event.actor.organization == acme.id
    told = MessageToDict(event.after)
    assert told["outcome"] == keys_pb2.LeakOutcome.Name(answer.outcome).removeprefix("LEAK_OUTCOME_")
    assert told["found_in"] == "web/.env line 3"
    assert held.text.encode() not in event.SerializeToString()


def test_a_text_that_ended_before_ends_nothing_but_is_written_down(server: Server, acme: Tenant) -> None:
    held = leaky(acme, "revoke")
    acme.rotate(held.id)  # without a grace: the old text is dead at once
    server.clock.now += 1
    assert report(acme.root, held.text, "leaky-revoke").outcome == ENDED_BEFORE
    assert state_of(acme.get(held.id)) == "ACTIVE"
    assert len(events(acme, held.id)) == 1
    other = leaky(acme, "revoke")
    acme.revoke(other.id)
    before = acme.get(other.id)
    assert report(acme.root, other.text, "leaky-revoke").outcome == ENDED_BEFORE
    assert acme.get(other.id) == before
    acme.root.keys.DeleteKey(keys_pb2.DeleteKeyRequest(organization=acme.id, id=other.id))
    assert report(acme.root, other.text, "leaky-revoke").outcome == ENDED_BEFORE


def test_an_expired_key_is_ended_too_since_it_could_be_given_more_time(server: Server, acme: Tenant) -> None:
    held, began = leaky(acme, "revoke"), server.clock.now
    server.clock.now += 31 * 86_400 * 1_000_000
    try:
        assert state_of(acme.get(held.id)) == "EXPIRED"
        assert report(acme.root, held.text, "leaky-revoke").outcome == REVOKED
    finally:
        server.clock.now = began


def test_whoever_lacks_the_text_learns_and_ends_nothing(server: Server, acme: Tenant) -> None:
    held = leaky(acme, "revoke")
    texts = [never_made("leakyrevoke"), broken(held.text), broken(held.text, -10), held.text[:-1], "", "x" * 5000]
    before = server.mark(acme.id)
    answers = [report(acme.root, text, "leaky-revoke") for text in texts]
    answers.append(report(acme.root, held.text, "aiia"))
    assert {answer.SerializeToString() for answer in answers} == {answers[0].SerializeToString()}
    assert answers[0].outcome == UNKNOWN
    assert server.mark(acme.id) == before


def test_another_organizations_key_is_an_unknown_text(server: Server, acme: Tenant, globex: Tenant) -> None:
    held = leaky(acme, "revoke")
    stranger = globex.caller("root")
    before = server.mark(acme.id, globex.id)
    assert report(stranger, held.text, "leaky-revoke") == report(stranger, never_made("leakyrevoke"), "leaky-revoke")
    assert server.mark(acme.id, globex.id) == before
    assert state_of(acme.get(held.id)) == "ACTIVE"
    assert report(acme.root, held.text, "leaky-revoke").outcome == REVOKED, "the operator's scanner reaches all"


def test_a_leaked_key_of_doorward_itself_is_revoked(server: Server, acme: Tenant) -> None:
    held = acme.key("doorward", scopes=["viewer"])
    assert report(acme.caller("scanner"), held.text, "doorward").outcome == REVOKED
    assert refused(lambda: server.api(held.text).keys.ListKeys(keys_pb2.ListKeysRequest())).reason == (
        "CALLER_UNAUTHENTICATED"
    )


@pytest.mark.parametrize("found_in", ["line 3: {text}", "…{end}", "x" * 501, "a\nb\0"])
def test_where_it_was_found_is_bounded_and_holds_no_secret(acme: Tenant, found_in: str) -> None:
    held = leaky(acme, "revoke")
    place = found_in.format(text=held.text, end=held.text[-16:])
    refusal = refused(lambda: report(acme.root, held.text, "leaky-revoke", place))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "found_in")
    assert held.text not in refusal.message
    assert state_of(acme.get(held.id)) == "ACTIVE"


def test_a_keyspace_without_a_word_only_alerts(acme: Tenant) -> None:
    held = acme.key("aiia", scopes=["read:findings"])
    assert report(acme.root, held.text, "aiia").outcome == ALERTED
    assert report(acme.root, held.text, "aiia").outcome == ALERTED
    assert len(events(acme, held.id)) == 2
    assert acme.get(held.id).etag == held.key.etag
