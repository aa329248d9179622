"""Requests as they are built, and answers as they are read. Nothing here calls anybody."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from doorward import (
    Ceiling,
    Decision,
    Denied,
    HttpRequest,
    InvalidField,
    KeyBinding,
    KeyState,
    PrincipalKind,
    Question,
    Reason,
    Secret,
)
from doorward.calls import authz, decided, directory, groups, keys, keyspaces
from doorward.calls.values import KEEP
from doorward.model import Attribute
from doorward.v1 import authz_pb2, directory_pb2, keys_pb2, keyspaces_pb2

NOON = datetime(2027, 3, 31, 12, tzinfo=UTC)


def told(question: authz.Deciding, answer: authz_pb2.AuthorizeResponse) -> Decision:
    """What a client returns for an answer."""
    return question.check(decided.read_decision(answer))


def authorize_request(*args: Any, **kwargs: Any) -> authz_pb2.AuthorizeRequest:
    request = authz.authorize(*args, **{"keyspace": "aiia", "action": "findings:read"} | kwargs).request
    assert isinstance(request, authz_pb2.AuthorizeRequest)
    return request


def create_request(**kwargs: Any) -> keys_pb2.CreateKeyRequest:
    request = keys.create_key(keyspace="aiia", name="ServiceNow", **kwargs).request
    assert isinstance(request, keys_pb2.CreateKeyRequest)
    return request


def update_request(**kwargs: Any) -> keys_pb2.UpdateKeyRequest:
    request = keys.update_key("key_1", **kwargs).request
    assert isinstance(request, keys_pb2.UpdateKeyRequest)
    return request


@pytest.mark.parametrize("key", ["aiia_key_live_x", Secret("aiia_key_live_x")])
def test_a_question_says_who_what_where(key: str | Secret) -> None:
    request = authorize_request(
        key, resource="flows/team-a/42", organization="acme", environment="test", client_ip="::1", dry_run=True
    )
    assert request == authz_pb2.AuthorizeRequest(
        key="aiia_key_live_x",
        keyspace="aiia",
        environment="test",
        action="findings:read",
        resource=authz_pb2.Resource(type="flows", id="team-a/42"),
        organization="acme",
        context=authz_pb2.Context(client_ip="::1"),
        dry_run=True,
    )


def test_a_question_may_come_with_an_http_request_or_a_principal() -> None:
    headers = [("X-Api-Key", "a"), ("x-api-key", "b")]
    http = authorize_request(http=HttpRequest(headers, "page=2")).http
    assert [(header.name, header.value) for header in http.headers] == headers
    assert http.query == "page=2"
    assert authorize_request(http=HttpRequest({"X-Api-Key": "a"})).http.headers[0].value == "a"
    principal = authorize_request(principal="acme/alice@acme.example").principal
    assert (principal.organization, principal.principal) == ("acme", "alice@acme.example")


def test_a_missing_key_is_asked_about_and_two_credentials_are_refused() -> None:
    """A header that was not sent is None: the server answers that with CREDENTIAL_MISSING."""
    assert authorize_request(None).WhichOneof("credential") == "key"
    with pytest.raises(ValueError, match="one of key, http and principal"):
        authorize_request("key", principal="acme/alice")


def test_a_resource_is_a_type_and_an_id_and_an_empty_id_is_refused() -> None:
    """f"findings/{id}" with an empty id must not become the question about all findings."""
    assert not authorize_request("k").HasField("resource")
    assert authorize_request("k", resource="findings").resource == authz_pb2.Resource(type="findings")
    with pytest.raises(ValueError, match="'findings/' has an empty id"):
        authorize_request("k", resource="findings/")


def test_a_key_that_has_no_utf8_is_refused_without_being_shown() -> None:
    for credential in ({"key": "hush\ud800"}, {"http": HttpRequest({"x-api-key": "hush\udcff"})}):
        with pytest.raises(ValueError, match="half a character") as caught:
            authorize_request(**credential)
        assert "hush" not in repr(caught.value)
        assert caught.value.__context__ is None
    assert authorize_request("käse").key == "käse"


@pytest.mark.parametrize(
    ("outcome", "allowed"),
    [(0, False), (1, True), (2, False), (3, False), (-1, False)],
)
def test_only_allow_allows(outcome: Any, allowed: bool) -> None:
    call = authz.authorize("k", keyspace="aiia", action="findings:read")
    decision = told(call, authz_pb2.AuthorizeResponse(decision=outcome, reason=authz_pb2.REASON_ALLOWED))
    assert decision.allowed is allowed
    assert bool(decision) is allowed


def test_an_unknown_reason_is_unknown() -> None:
    call = authz.authorize("k", keyspace="aiia", action="findings:read")
    answer = authz_pb2.AuthorizeResponse.FromString(bytes([0x08, 2, 0x10, 77]))
    assert told(call, answer).reason is Reason.UNKNOWN


def test_a_decision_is_read_whole() -> None:
    answer = authz_pb2.AuthorizeResponse(
        decision=authz_pb2.DECISION_DENY,
        reason=authz_pb2.REASON_SCOPE_INSUFFICIENT,
        message="Not with this key.",
        identity=authz_pb2.Identity(
            key_id="key_1",
            owner=directory_pb2.Principal(id="alice", attributes={"level": directory_pb2.AttributeValue(integer=3)}),
            ceiling=keys_pb2.CEILING_LIST,
            scopes=["read:findings"],
            metadata={"team": "blue"},
        ),
        rule=authz_pb2.MatchedRule(role="read:findings", rule=2),
        missing_permissions=["findings:write"],
        revision=7,
    )
    answer.identity.expires_at.FromDatetime(NOON)
    decision = told(authz.authorize("k", keyspace="aiia", action="findings:write"), answer)
    assert (decision.reason, decision.message, decision.revision) == (
        Reason.SCOPE_INSUFFICIENT,
        "Not with this key.",
        7,
    )
    assert decision.missing_permissions == ("findings:write",)
    assert decision.rule
    assert decision.rule.position == 2
    identity = decision.identity
    assert identity
    assert identity.owner
    assert (identity.key_id, identity.owner.attributes, identity.expires_at) == ("key_1", {"level": 3}, NOON)
    assert (identity.ceiling, identity.scopes, identity.metadata) == (
        Ceiling.LIST,
        ("read:findings",),
        {"team": "blue"},
    )


def test_require_raises_what_authorize_returns() -> None:
    answer = authz_pb2.AuthorizeResponse(
        decision=authz_pb2.DECISION_DENY, reason=authz_pb2.REASON_KEY_REVOKED, message="This key has ended."
    )
    call = authz.require("k", keyspace="aiia", action="findings:read")
    assert call.request == authorize_request("k")
    with pytest.raises(Denied, match=r"KEY_REVOKED: This key has ended\.") as caught:
        told(call, answer)
    assert caught.value.decision == told(authz.authorize("k", keyspace="aiia", action="findings:read"), answer)
    assert told(call, authz_pb2.AuthorizeResponse(decision=authz_pb2.DECISION_ALLOW)).allowed


def test_a_batch_keeps_its_order_and_tells_what_could_not_be_decided() -> None:
    questions = [Question("findings:read", "findings/1"), Question("findings:read", organization="globex")]
    call = authz.batch_authorize("k", keyspace="aiia", organization="acme", questions=questions)
    assert call.request == authz_pb2.BatchAuthorizeRequest(
        key="k",
        keyspace="aiia",
        organization="acme",
        items=[
            authz_pb2.BatchAuthorizeItem(action="findings:read", resource=authz_pb2.Resource(type="findings", id="1")),
            authz_pb2.BatchAuthorizeItem(action="findings:read", organization="globex"),
        ],
    )
    error = authz_pb2.ItemError(code=3, reason="INVALID_FIELD", message="No.", metadata={"field": "action"})
    allowed, undecided = call.read(
        authz_pb2.BatchAuthorizeResponse(
            results=[
                authz_pb2.BatchAuthorizeResult(decision=authz_pb2.DECISION_ALLOW),
                authz_pb2.BatchAuthorizeResult(decision=authz_pb2.DECISION_ALLOW, error=error),
            ],
            identity=authz_pb2.Identity(key_id="key_1"),
            revision=9,
        )
    )
    assert allowed.allowed
    assert not undecided.allowed
    assert allowed.identity == undecided.identity
    assert (allowed.error, allowed.revision) == (None, 9)
    assert isinstance(undecided.error, InvalidField)
    assert (undecided.error.code, undecided.error.field) == ("INVALID_ARGUMENT", "action")


def test_introspection_is_of_a_credential_and_whoami_of_the_caller() -> None:
    assert authz.introspect("k", keyspace="aiia").request == authz_pb2.IntrospectRequest(key="k", keyspace="aiia")
    assert authz.whoami().request == authz_pb2.IntrospectRequest()
    answer = authz_pb2.IntrospectResponse(
        decision=authz_pb2.DECISION_ALLOW, identity=authz_pb2.Identity(key_id="key_1")
    )
    assert authz.introspect("k", keyspace="aiia").read(answer).allowed
    assert authz.whoami().read(answer).key_id == "key_1"


@pytest.mark.parametrize(
    ("expires", "expiry"),
    [
        ("30d", keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_DAYS_30)),
        ("90d", keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_DAYS_90)),
        ("1y", keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_YEAR_1)),
        ("none", keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_NONE)),
        (date(2027, 3, 31), keys_pb2.Expiry(date=keys_pb2.ExpiryDate(date="2027-03-31", time_zone="Europe/Berlin"))),
    ],
)
def test_an_expiry_is_sent_as_it_was_meant(expires: Any, expiry: keys_pb2.Expiry) -> None:
    assert create_request(expires=expires, time_zone="Europe/Berlin").expiry == expiry


def test_an_expiry_may_be_an_instant_or_a_while() -> None:
    in_berlin = NOON.astimezone(timezone(timedelta(hours=2)))
    assert create_request(expires=in_berlin).expiry.instant.ToDatetime(UTC) == NOON
    assert create_request(expires=timedelta(hours=1)).expiry.duration.ToTimedelta() == timedelta(hours=1)
    assert not create_request().HasField("expiry")


def test_an_expiry_that_could_mean_two_things_is_refused() -> None:
    with pytest.raises(ValueError, match="expires: an instant needs a time zone"):
        create_request(expires=NOON.replace(tzinfo=None))
    with pytest.raises(ValueError, match="'2w' is none of 30d, 90d, 1y, none"):
        create_request(expires="2w")


def test_creations_and_rotations_always_carry_a_request_id() -> None:
    """Without one they must not be tried twice, and they are."""
    first, second = create_request(), create_request(request_id="")
    assert len(first.request_id) == len(second.request_id) == 36
    assert first.request_id != second.request_id
    assert create_request(request_id="mine").request_id == "mine"
    assert len(keys.rotate_key("key_1").request.request_id) == 36  # type: ignore[attr-defined]


def test_an_update_changes_exactly_what_is_given() -> None:
    request = update_request(organization="acme", etag="3", name="n", description="", scopes=[], enabled=False)
    assert request.key == keys_pb2.Key(id="key_1", organization="acme", etag="3", name="n")
    assert list(request.update_mask.paths) == ["description", "enabled", "name", "scopes"]
    assert not request.HasField("expiry")
    assert list(update_request().update_mask.paths) == []


def test_an_update_tells_no_expiry_from_the_same_expiry() -> None:
    for never in (None, "none"):
        request = update_request(expires=never)
        assert list(request.update_mask.paths) == ["expires_at"]
        assert request.expiry.preset == keys_pb2.EXPIRY_PRESET_NONE
    assert update_request(expires=KEEP) == update_request()


def test_bindings_of_keys_go_out_and_come_back() -> None:
    binding = KeyBinding("flow-runner", ("flows/*",), NOON, NOON + timedelta(days=1))
    request = update_request(bindings=[binding])
    assert list(request.update_mask.paths) == ["bindings"]
    read = keys.read_key(keys_pb2.Key(bindings=request.key.bindings))
    assert read.bindings == (binding,)


def test_a_key_is_read_whole() -> None:
    key = keys_pb2.Key(
        id="key_1",
        state=keys_pb2.KEY_STATE_REVOKED,
        ceiling=keys_pb2.CEILING_OWNER,
        metadata={"a": "b"},
        secrets=[keys_pb2.KeySecret(id="sec_1", superseded=True)],
    )
    key.revoked_at.FromDatetime(NOON)
    read = keys.get_key("key_1").read(keys_pb2.GetKeyResponse(key=key))
    assert (read.id, read.state, read.ceiling, read.metadata) == ("key_1", KeyState.REVOKED, Ceiling.OWNER, {"a": "b"})
    assert (read.revoked_at, read.expires_at, read.revision) == (NOON, None, None)
    assert read.secrets[0].superseded
    changed = keys.update_key("key_1").read(keys_pb2.UpdateKeyResponse(key=key, revision=5))
    assert changed == read
    assert changed.revision == 5
    assert keys.read_key(keys_pb2.Key(state=77)).state is KeyState.UNKNOWN  # type: ignore[arg-type]


def test_an_issued_key_has_a_secret_unless_replayed() -> None:
    call = keys.create_key(keyspace="aiia", name="n")
    issued = call.read(keys_pb2.CreateKeyResponse(secret="hush", revision=3))
    assert issued.secret == Secret("hush")
    assert (issued.replayed, issued.revision, issued.key.revision) == (False, 3, 3)
    assert call.read(keys_pb2.CreateKeyResponse(replayed=True)).secret is None


def test_filters_of_lists_are_sent() -> None:
    pages = keys.list_keys(organization="acme", states=[KeyState.ACTIVE], created_after=NOON, never_used=True)
    request = pages.page("next").request
    assert isinstance(request, keys_pb2.ListKeysRequest)
    assert (request.organization, request.page_token) == ("acme", "next")
    assert list(request.filter.states) == [keys_pb2.KEY_STATE_ACTIVE]
    assert request.filter.created_after.ToDatetime(UTC) == NOON
    assert request.filter.never_used
    assert pages.page("").request.page_token == ""  # type: ignore[attr-defined]


def test_attributes_keep_their_types() -> None:
    attributes: dict[str, Attribute] = {"plan": "enterprise", "seats": 5, "rate": 0.5, "beta": True, "tags": ("a", "b")}
    request = directory.create_organization("acme", attributes=attributes).request
    assert isinstance(request, directory_pb2.CreateOrganizationRequest)
    read = directory.read_organization(request.organization)
    assert read.attributes == attributes
    assert type(read.attributes["beta"]) is bool
    assert directory.read_organization(
        directory_pb2.Organization(attributes={"newer": directory_pb2.AttributeValue()})
    ).attributes == {"newer": ""}


def test_organizations_and_principals_are_updated_by_what_is_given() -> None:
    organization = directory.update_organization("acme", enabled=False, attributes={}).request
    assert isinstance(organization, directory_pb2.UpdateOrganizationRequest)
    assert list(organization.update_mask.paths) == ["attributes", "enabled"]
    principal = directory.update_principal("alice", organization="acme", email="a@acme.example").request
    assert isinstance(principal, directory_pb2.UpdatePrincipalRequest)
    assert list(principal.update_mask.paths) == ["email"]
    assert (principal.principal.organization, principal.principal.id) == ("acme", "alice")


def test_what_an_update_stopped_and_a_deletion_ended_is_told() -> None:
    updated = directory.update_principal("alice").read(directory_pb2.UpdatePrincipalResponse(keys=2, revision=8))
    assert (updated.keys, updated.revision) == (2, 8)
    ended = directory.delete_principal("alice").read(directory_pb2.DeletePrincipalResponse(keys=2, revision=9))
    assert (ended.keys, ended.revision) == (2, 9)


def test_principals_have_a_kind() -> None:
    request = directory.create_principal("ci", kind=PrincipalKind.SERVICE_ACCOUNT).request
    assert isinstance(request, directory_pb2.CreatePrincipalRequest)
    assert directory.read_principal(request.principal).kind is PrincipalKind.SERVICE_ACCOUNT
    with pytest.raises(KeyError):
        directory.create_principal("ci", kind=PrincipalKind.UNKNOWN)


def test_a_binding_has_one_subject() -> None:
    call = groups.create_binding(keyspace="aiia", role="manager", group="devs", resources=["assessments/*"])
    assert isinstance(call.request, directory_pb2.CreateBindingRequest)
    read = groups.read_binding(call.request.binding)
    assert (read.principal, read.group, read.resources) == (None, "devs", ("assessments/*",))
    for principal, group in ((None, None), ("alice", "devs")):
        with pytest.raises(ValueError, match="one subject"):
            groups.create_binding(keyspace="aiia", role="manager", principal=principal, group=group)


def test_a_bound_in_time_can_be_lifted() -> None:
    request = groups.update_binding("bnd_1", expires_at=None, not_before=NOON).request
    assert isinstance(request, directory_pb2.UpdateBindingRequest)
    assert list(request.update_mask.paths) == ["expires_at", "not_before"]
    assert not request.binding.HasField("expires_at")


def test_applying_a_keyspace_tells_what_it_did() -> None:
    call = keyspaces.apply_keyspace("name: aiia", dry_run=True)
    assert call.request == keyspaces_pb2.ApplyKeyspaceRequest(source="name: aiia", dry_run=True)
    answer = keyspaces_pb2.ApplyKeyspaceResponse(
        keyspace=keyspaces_pb2.Keyspace(name="aiia", environments=["live", "test"]),
        outcome=keyspaces_pb2.APPLY_OUTCOME_CREATED,
        diff="+name",
        revision=4,
    )
    applied = call.read(answer)
    assert (applied.outcome, applied.diff, applied.keyspace.environments) == ("CREATED", "+name", ("live", "test"))


def test_what_is_to_be_sent_does_not_print() -> None:
    assert "hush" not in repr(authz.authorize("hush", keyspace="aiia", action="findings:read"))
    assert "hush" not in repr(HttpRequest({"x-api-key": "hush"}, "api_key=hush"))
