"""Who may ask about whom: batches, impersonation, introspection, and identities kept from strangers."""

from __future__ import annotations

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from tests.wire.serving import Api, refused
from tests.wire.tenants import Tenant, never_made, question, reason_of


def person(tenant: Tenant, id: str) -> authz.PrincipalReference:
    return authz.PrincipalReference(organization=tenant.id, principal=id)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_equals_as_many_single_questions(acme: Tenant, globex: Tenant) -> None:
    owner = acme.person()
    acme.bind("factorythread", "editor", "flows/a", "flows/b", principal=owner)
    texts = [
        acme.key("factorythread", owner=owner, ceiling=keys.CEILING_OWNER).text,
        acme.key("factorythread", scopes=["read-only"]).text,
        never_made("ft"),
        "garbage",
    ]
    questions = [
        ("flows:execute", "flows/a", ""),
        ("flows:execute", "flows/c", acme.id),
        ("flows:get", "", globex.id),
        ("connections:manage", "connections/x", ""),
        ("flows:burn", "", ""),
        ("flows:get", "minds/1", ""),
        ("flows:get", "flows/*", ""),
        ("executions:list", "flows/b", "Not/An/Id"),
    ]
    for text in texts:
        items, singles = [], []
        for action, about, organization in questions:
            single = question(text, action, about, keyspace="factorythread", organization=organization)
            items.append(authz.BatchAuthorizeItem(action=action, organization=organization))
            if about:
                items[-1].resource.CopyFrom(single.resource)
            singles.append(single)
        batch = authz.BatchAuthorizeRequest(key=text, keyspace="factorythread", items=items)
        for api in (acme.root, acme.caller("backend")):  # the second may not ask about the other organization
            answer = api.authz.BatchAuthorize(batch)
            for result, single in zip(answer.results, singles, strict=True):
                _same(api, result, single)


def _same(api: Api, result: authz.BatchAuthorizeResult, single: authz.AuthorizeRequest) -> None:
    if result.HasField("error"):
        assert result.decision == authz.DECISION_UNSPECIFIED
        refusal = refused(lambda: api.authz.Authorize(single))
        assert (refusal.reason, refusal.message) == (result.error.reason, result.error.message)
        assert refusal.metadata == dict(result.error.metadata)
        assert result.error.code == {"INVALID_ARGUMENT": 3, "PERMISSION_DENIED": 7}[refusal.code]
        return
    alone = api.authz.Authorize(single)
    assert reason_of(result) == reason_of(alone)
    assert (result.message, result.rule) == (alone.message, alone.rule)
    assert list(result.missing_permissions) == list(alone.missing_permissions)


# --- signed-in principals ---------------------------------------------------------------------------------------------


def test_a_signed_in_principal_may_what_its_roles_say(acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("factorythread", "editor", "flows/*", principal=alice)

    def asks(action: str, about: str, who: str = alice) -> authz.AuthorizeResponse:
        request = authz.AuthorizeRequest(principal=person(acme, who), keyspace="factorythread", action=action)
        request.resource.type, _, request.resource.id = about.partition("/")
        if action == "flows:execute":
            request.resource.attributes["published"].flag = True
        return acme.root.authz.Authorize(request)

    allowed = asks("flows:execute", "flows/a")
    assert reason_of(allowed) == "ALLOWED"
    assert (allowed.identity.owner.id, allowed.identity.key_id) == (alice, "")
    assert list(allowed.identity.roles) == ["editor"]
    assert reason_of(asks("connections:manage", "connections/x")) == "OWNER_PERMISSION_INSUFFICIENT"
    assert reason_of(asks("flows:get", "flows/a", "nobody")) == "OWNER_DISABLED"
    acme.enable_person(alice, False)
    assert reason_of(asks("flows:execute", "flows/a")) == "OWNER_DISABLED"


def test_asking_about_a_principal_takes_the_right_to_impersonate(acme: Tenant) -> None:
    request = authz.AuthorizeRequest(
        principal=person(acme, acme.person()), keyspace="factorythread", action="flows:list"
    )
    refusal = refused(lambda: acme.caller("backend").authz.Authorize(request))
    assert (refusal.reason, refusal.metadata["permission"]) == ("CALLER_FORBIDDEN", "decisions:impersonate")
    assert reason_of(acme.caller("root").authz.Authorize(request)) == "OWNER_PERMISSION_INSUFFICIENT"


def test_no_backend_asks_about_another_organizations_principal(acme: Tenant, globex: Tenant) -> None:
    request = authz.AuthorizeRequest(
        principal=person(globex, globex.person()), keyspace="factorythread", action="flows:list"
    )
    refusal = refused(lambda: acme.caller("root").authz.Authorize(request))
    assert (refusal.reason, refusal.metadata["decision"]) == ("CALLER_FORBIDDEN", "ORGANIZATION_MISMATCH")
    request.organization = acme.id  # naming one's own does not open the other
    again = refused(lambda: acme.caller("root").authz.Authorize(request))
    assert (again.reason, again.metadata["decision"]) == ("CALLER_FORBIDDEN", "ORGANIZATION_MISMATCH")
    assert again.metadata["permission"] == "decisions:impersonate"


# --- introspection ----------------------------------------------------------------------------------------------------


def test_a_caller_learns_who_it_is(acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("doorward", "member", principal=alice)
    held = acme.key("doorward", owner=alice, ceiling=keys.CEILING_OWNER)
    answer = acme.server.api(held.text).authz.Introspect(authz.IntrospectRequest())
    who = answer.identity
    assert reason_of(answer) == "ALLOWED"
    assert (who.key_id, who.organization, who.owner.id, list(who.roles)) == (held.id, acme.id, alice, ["member"])
    assert who.owner.email == "a@acme.example"
    assert who.masked_key == held.key.masked


def test_a_backend_learns_whose_key_it_was_given(acme: Tenant) -> None:
    backend, held = acme.caller("backend"), acme.key(scopes=["read:findings"], allowed_cidrs=["10.0.0.0/8"])
    request = authz.IntrospectRequest(key=held.text, keyspace="aiia", context=authz.Context(client_ip="10.0.0.1"))
    answer = backend.authz.Introspect(request)
    assert reason_of(answer) == "ALLOWED"
    assert (answer.identity.key_id, list(answer.identity.scopes)) == (held.id, ["read:findings"])
    outside = backend.authz.Introspect(authz.IntrospectRequest(key=held.text, keyspace="aiia"))
    assert (reason_of(outside), outside.identity.key_id) == ("NETWORK_NOT_ALLOWED", held.id)
    acme.revoke(held.id)
    assert reason_of(backend.authz.Introspect(request)) == "KEY_REVOKED"
    unknown = backend.authz.Introspect(authz.IntrospectRequest(key=never_made("aiia_key"), keyspace="aiia"))
    assert (reason_of(unknown), unknown.HasField("identity")) == ("KEY_UNKNOWN", False)


# --- strangers --------------------------------------------------------------------------------------------------------


def test_whose_key_it_is_is_not_told_to_another_organization(acme: Tenant, globex: Tenant) -> None:
    held, stranger = acme.key(scopes=["read:findings"]), globex.caller("root")
    decided = stranger.authz.Authorize(question(held.text, "findings:read", keyspace="aiia", organization=globex.id))
    told = stranger.authz.Introspect(authz.IntrospectRequest(key=held.text, keyspace="aiia"))
    batch = stranger.authz.BatchAuthorize(
        authz.BatchAuthorizeRequest(
            key=held.text,
            keyspace="aiia",
            organization=globex.id,
            items=[authz.BatchAuthorizeItem(action="findings:read")],
        )
    )
    for answer in (decided, told, batch.results[0]):
        assert reason_of(answer) == "ORGANIZATION_MISMATCH"
    assert [answer.HasField("identity") for answer in (decided, told, batch)] == [False] * 3
    assert acme.id not in str((decided, told, batch))


def test_the_operators_backend_reaches_as_far_as_its_bindings_name(acme: Tenant, globex: Tenant) -> None:
    operator = Tenant(acme.server, "operator")
    reach = keys.KeyBinding(role="backend", resources=[f"organizations/{acme.id}/keyspaces/aiia/*"])
    backend = acme.server.api(operator.key("doorward", bindings=[reach]).text)
    here, there = acme.key(scopes=["read:findings"]), globex.key(scopes=["read:findings"])

    def ask(text: str, tenant: Tenant) -> authz.AuthorizeRequest:
        return question(text, "findings:read", keyspace="aiia", organization=tenant.id)

    answer = backend.authz.Authorize(ask(here.text, acme))
    assert (reason_of(answer), answer.identity.key_id) == ("ALLOWED", here.id)
    stranger = backend.authz.Authorize(ask(there.text, acme))
    assert (reason_of(stranger), stranger.HasField("identity")) == ("ORGANIZATION_MISMATCH", False)
    refusal = refused(lambda: backend.authz.Authorize(ask(there.text, globex)))
    assert refusal.metadata["decision"] == "RESOURCE_NOT_GRANTED"
    flows = question(here.text, "flows:list", keyspace="factorythread", organization=acme.id)
    assert refused(lambda: backend.authz.Authorize(flows)).reason == "CALLER_FORBIDDEN"
    missing = refused(lambda: backend.directory.GetOrganization(directory.GetOrganizationRequest(id=acme.id)))
    assert missing.reason == "CALLER_FORBIDDEN"
