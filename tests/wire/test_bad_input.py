"""Bad input: each gets the documented error, which names the field, and changes nothing."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.v1 import authz_pb2 as authz
from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from doorward.v1 import keyspaces_pb2 as keyspaces
from tests.wire.bad_requests import (
    AIIA,
    HOUR,
    INVALID,
    UNKNOWN,
    Make,
    Place,
    ask,
    batch,
    binding,
    bound,
    create,
    date,
    expiring,
    flag,
    foreign_token,
    forged,
    forged_moment,
    headers,
    keyspace,
    listing,
    one_of_many_roles,
    organization,
    other_filter,
    principal,
    rotate,
    stale,
    unknown_state,
    update,
    without_credential,
    without_test_environment,
)
from tests.wire.serving import Server, refused
from tests.wire.tenants import new_tenant, stamp


@pytest.fixture(scope="module")
def place(server: Server) -> Place:
    tenant = new_tenant(server, "badlands")
    person = tenant.person()
    binding = tenant.bind("aiia", "read:findings", principal=person)
    return Place(tenant, person, tenant.group(person), binding, tenant.key(scopes=["read:findings"]))


CASES: dict[str, tuple[str, Make, str, str]] = {
    "no keyspace": ("CreateKey", create(keyspace=""), INVALID, "keyspace"),
    "unknown keyspace": ("CreateKey", create(keyspace="nope"), UNKNOWN, "keyspace"),
    "keyspace of no form": ("CreateKey", create(keyspace="No/Such"), INVALID, "keyspace"),
    "organization of no form": ("CreateKey", create(organization="a/b"), INVALID, "organization"),
    "unknown scope": ("CreateKey", create(scopes=["read:findings", "read:minds"]), UNKNOWN, "scopes[1]"),
    "101 scopes": ("CreateKey", create(scopes=["read:findings"] * 101), INVALID, "scopes"),
    "unknown role": ("CreateKey", bound(role="nope"), UNKNOWN, "bindings[0].role"),
    "unknown owner": ("CreateKey", create(owner="nobody"), UNKNOWN, "owner"),
    "owner of no form": ("CreateKey", create(owner="a b"), INVALID, "owner"),
    "unknown environment": ("CreateKey", create(environment="mars"), UNKNOWN, "environment"),
    "environment of 100 KB": ("CreateKey", create(environment="🚪" * 25_000), UNKNOWN, "environment"),
    "no name": ("CreateKey", create(name=""), INVALID, "name"),
    "blank name": ("CreateKey", create(name=" \n "), INVALID, "name"),
    "name of 201": ("CreateKey", create(name="x" * 201), INVALID, "name"),
    "name of 200 KB": ("CreateKey", create(name="x" * 200_000), INVALID, "name"),
    "NUL in the name": ("CreateKey", create(name="a\0b"), INVALID, "name"),
    "description of 2001": ("CreateKey", create(description="x" * 2001), INVALID, "description"),
    "type of no form": ("CreateKey", create(type="<b>"), INVALID, "type"),
    "ceiling that the keyspace forbids": ("CreateKey", create(ceiling=keys.CEILING_OWNER), INVALID, "ceiling"),
    "unknown ceiling": ("CreateKey", create(ceiling=99), INVALID, "ceiling"),
    "owner's ceiling without owner": (
        "CreateKey", create(keyspace="factorythread", ceiling=keys.CEILING_OWNER), INVALID, "owner",
    ),
    "star within a segment": ("CreateKey", bound(resources=["find*/1"]), INVALID, "bindings[0].resources"),
    "pattern of an unknown type": ("CreateKey", bound(resources=["minds/*"]), INVALID, "bindings[0].resources"),
    "pattern with an empty segment": ("CreateKey", bound(resources=["findings//1"]), INVALID, "bindings[0].resources"),
    "pattern that climbs": ("CreateKey", bound(resources=["findings/../x"]), INVALID, "bindings[0].resources"),
    "empty pattern": ("CreateKey", bound(resources=[""]), INVALID, "bindings[0].resources"),
    "pattern of 513 bytes": ("CreateKey", bound(resources=["findings/" + "x" * 504]), INVALID, "bindings[0].resources"),
    "window that ends first": (
        "CreateKey", bound(not_before=Timestamp(seconds=9), expires_at=Timestamp(seconds=9)), INVALID,
        "bindings[0].not_before",
    ),
    "window before 1970": ("CreateKey", bound(not_before=Timestamp(seconds=-9)), INVALID, "bindings[0].not_before"),
    "no network": ("CreateKey", create(allowed_cidrs=["10.0.0.0/8", "home"]), INVALID, "allowed_cidrs"),
    "network with host bits": ("CreateKey", create(allowed_cidrs=["10.0.0.1/8"]), INVALID, "allowed_cidrs"),
    "65 labels": ("CreateKey", create(metadata={f"n{i}": "" for i in range(65)}), INVALID, "metadata"),
    "9 KB of labels": ("CreateKey", create(metadata={"a": "x" * 9000}), INVALID, "metadata"),
    "label of no form": ("CreateKey", create(metadata={"a b": ""}), INVALID, "metadata"),
    "label of 65": ("CreateKey", create(metadata={"x" * 65: ""}), INVALID, "metadata"),
    "NUL in a label": ("CreateKey", create(metadata={"a": "\0"}), INVALID, "metadata[a]"),
    "expiry in the past": ("CreateKey", expiring(instant=Timestamp(seconds=1)), INVALID, "expiry"),
    "expiry now": ("CreateKey", lambda p: expiring(instant=stamp(p.now))(p), INVALID, "expiry"),
    "expiry before 1970": ("CreateKey", expiring(instant=Timestamp(seconds=-1)), INVALID, "expiry.instant"),
    "expiry in 10000": ("CreateKey", expiring(instant=Timestamp(seconds=253402300800)), INVALID, "expiry.instant"),
    "nanos out of range": ("CreateKey", expiring(instant=Timestamp(seconds=9, nanos=-1)), INVALID, "expiry.instant"),
    "no duration": ("CreateKey", expiring(duration=Duration()), INVALID, "expiry"),
    "negative duration": ("CreateKey", expiring(duration=Duration(seconds=-1)), INVALID, "expiry"),
    "duration of 10,000 years": ("CreateKey", expiring(duration=Duration(seconds=315576000000)), INVALID, "expiry"),
    "impossible duration": ("CreateKey", expiring(duration=Duration(seconds=1 << 62)), INVALID, "expiry.duration"),
    "unknown preset": ("CreateKey", expiring(preset=99), INVALID, "expiry.preset"),
    "unset preset": ("CreateKey", expiring(preset=0), INVALID, "expiry.preset"),
    "yesterday": ("CreateKey", date("2020-01-01"), INVALID, "expiry"),
    "30 February": ("CreateKey", date("2030-02-30"), INVALID, "expiry.date"),
    "date in short": ("CreateKey", date("30-2-3"), INVALID, "expiry.date"),
    "last day of all": ("CreateKey", date("9999-12-31"), INVALID, "expiry.date"),
    "no date": ("CreateKey", date(""), INVALID, "expiry.date"),
    "unknown zone": ("CreateKey", date("2030-01-01", "Mars/Olympus"), INVALID, "expiry.time_zone"),
    "zone that is a path": ("CreateKey", date("2030-01-01", "../../etc/passwd"), INVALID, "expiry.time_zone"),
    "zone that is a folder": ("CreateKey", date("2030-01-01", "Europe"), INVALID, "expiry.time_zone"),
    "zone with NUL": ("CreateKey", date("2030-01-01", "Europe/Ber\0lin"), INVALID, "expiry.time_zone"),
    "zone of 5,000": ("CreateKey", date("2030-01-01", "x" * 5000), INVALID, "expiry.time_zone"),
    "begins after its end": (
        "CreateKey",
        lambda p: create(not_before=stamp(p.now + 2 * HOUR), expiry=keys.Expiry(instant=stamp(p.now + HOUR)))(p),
        INVALID, "not_before",
    ),
    "request_id of 65": ("CreateKey", create(request_id="x" * 65), INVALID, "request_id"),
    "no id": ("GetKey", lambda p: keys.GetKeyRequest(organization=p.org), INVALID, "id"),
    "id of no form": ("GetKey", lambda p: keys.GetKeyRequest(organization=p.org, id="k/1"), INVALID, "id"),
    "no mask": ("UpdateKey", lambda p: keys.UpdateKeyRequest(key=keys.Key(id=p.key.id)), INVALID, "update_mask"),
    "path that cannot change": ("UpdateKey", update("environment", environment="test"), INVALID, "update_mask"),
    "path that is none": ("UpdateKey", update("name", "nmae", name="x"), INVALID, "update_mask"),
    "star as a mask": ("UpdateKey", update("*", name="x"), INVALID, "update_mask"),
    "name removed": ("UpdateKey", update("name"), INVALID, "name"),
    "scope unknown to an update": ("UpdateKey", update(scopes=["nope"]), UNKNOWN, "scopes[0]"),
    "moved into the past": ("UpdateKey", update(expires_at=Timestamp(seconds=9)), INVALID, "expiry"),
    "old etag": ("UpdateKey", update("name", name="x", etag="77"), "ETAG_MISMATCH", ""),
    "negative grace": ("RotateKey", lambda p: rotate(p, seconds=-1), INVALID, "grace"),
    "grace of 91 days": ("RotateKey", lambda p: rotate(p, seconds=91 * 86400), INVALID, "grace"),
    "impossible grace": ("RotateKey", lambda p: rotate(p, seconds=1, nanos=-2_000_000_000), INVALID, "grace"),
    "reason of 501": (
        "RevokeKey", lambda p: keys.RevokeKeyRequest(organization=p.org, id=p.key.id, reason="x" * 501), INVALID,
        "reason",
    ),
    "negative page": ("ListKeys", listing(page_size=-1), INVALID, "page_size"),
    "garbage as a token": ("ListKeys", listing(page_token="garbage"), "PAGE_TOKEN_INVALID", "page_token"),
    "token that is no text": ("ListKeys", listing(page_token="\0é"), "PAGE_TOKEN_INVALID", "page_token"),
    "token of another list": ("ListKeys", foreign_token, "PAGE_TOKEN_INVALID", "page_token"),
    "token of another filter": ("ListKeys", other_filter, "PAGE_TOKEN_INVALID", "page_token"),
    "forged position": ("ListPrincipals", lambda p: forged(p, "a\0b"), "PAGE_TOKEN_INVALID", "page_token"),
    "forged half character": ("ListPrincipals", lambda p: forged(p, "\ud800"), "PAGE_TOKEN_INVALID", "page_token"),
    "forged moment": ("ListKeys", lambda p: forged_moment(p, 1 << 70), "PAGE_TOKEN_INVALID", "page_token"),
    "unknown state": ("ListKeys", unknown_state, INVALID, "filter.states"),
    "NUL to look for": (
        "ListKeys", listing(filter=keys.KeyFilter(name_contains="\0")), INVALID, "filter.name_contains",
    ),
    "NUL as a type": ("ListKeys", listing(filter=keys.KeyFilter(type="\0")), INVALID, "filter.type"),
    "NUL as an owner": ("ListKeys", listing(filter=keys.KeyFilter(owner="a\0")), INVALID, "filter.owner"),
    "keyspace to list of no form": (
        "ListKeys", listing(filter=keys.KeyFilter(keyspace="a b")), INVALID, "filter.keyspace",
    ),
    "environment to list of no form": (
        "ListKeys", listing(filter=keys.KeyFilter(environment="\0")), INVALID, "filter.environment",
    ),
    "ask of unknown keyspace": ("Authorize", ask(keyspace="nope"), UNKNOWN, "keyspace"),
    "ask of no keyspace": ("Authorize", ask(keyspace=""), INVALID, "keyspace"),
    "unknown action": ("Authorize", ask(action="findings:burn"), UNKNOWN, "action"),
    "no action": ("Authorize", ask(action=""), UNKNOWN, "action"),
    "action with a star": ("Authorize", ask(action="findings:*"), UNKNOWN, "action"),
    "unknown environment to ask of": ("Authorize", ask(environment="mars"), UNKNOWN, "environment"),
    "unknown resource type": ("Authorize", ask(about="minds/1"), UNKNOWN, "resource.type"),
    "star as a resource": ("Authorize", ask(about="findings/*"), INVALID, "resource.id"),
    "star in a resource": ("Authorize", ask(about="findings/a*b"), INVALID, "resource.id"),
    "NUL in a resource": ("Authorize", ask(about="findings/a\0"), INVALID, "resource.id"),
    "resource that climbs": ("Authorize", ask(about="findings/.."), INVALID, "resource.id"),
    "empty segment": ("Authorize", ask(about="findings/a//b"), INVALID, "resource.id"),
    "resource of 513 bytes": ("Authorize", ask(about="findings/" + "é" * 252), INVALID, "resource.id"),
    "no organization where one is needed": ("Authorize", ask(organization=""), INVALID, "organization"),
    "organization with a star": ("Authorize", ask(organization="*"), INVALID, "organization"),
    "address that is none": ("Authorize", ask(context=authz.Context(client_ip="home")), INVALID, "context.client_ip"),
    "address with a port": (
        "Authorize", ask(context=authz.Context(client_ip="10.0.0.1:80")), INVALID, "context.client_ip",
    ),
    "no credential": ("Authorize", without_credential, INVALID, "credential"),
    "101 headers": ("Authorize", lambda p: headers(p, 101), INVALID, "http.headers"),
    "no items": ("BatchAuthorize", lambda p: batch(p, 0), INVALID, "items"),
    "101 items": ("BatchAuthorize", lambda p: batch(p, 101), INVALID, "items"),
    "batch of unknown keyspace": ("BatchAuthorize", lambda p: batch(p, 1, keyspace="nope"), UNKNOWN, "keyspace"),
    "introspection of no keyspace": ("Introspect", lambda p: authz.IntrospectRequest(key="x"), INVALID, "keyspace"),
    "organization id in capitals": ("CreateOrganization", organization(id="Acme"), INVALID, "organization.id"),
    "organization id of 64": ("CreateOrganization", organization(id="x" * 64), INVALID, "organization.id"),
    "no organization id": ("CreateOrganization", organization(id=""), INVALID, "organization.id"),
    "taken organization id": ("CreateOrganization", organization(id="operator"), "ALREADY_EXISTS", ""),
    "attribute without a value": (
        "CreateOrganization", organization(attributes=flag()), INVALID, "organization.attributes[x]",
    ),
    "attribute that is no number": (
        "CreateOrganization", organization(attributes=flag(number=float("nan"))), INVALID, "organization.attributes[x]",
    ),
    "endless attribute": (
        "CreatePrincipal", principal(attributes=flag(number=float("inf"))), INVALID, "principal.attributes[x]",
    ),
    "9 KB of attributes": (
        "CreateOrganization", organization(attributes=flag(text="x" * 9000)), INVALID, "attributes",
    ),
    "no id to delete": ("DeleteOrganization", lambda _: directory.DeleteOrganizationRequest(), INVALID, "id"),
    "operator to delete": (
        "DeleteOrganization", lambda _: directory.DeleteOrganizationRequest(id="operator"), "BUILT_IN", "",
    ),
    "operator to disable": (
        "UpdateOrganization",
        lambda _: directory.UpdateOrganizationRequest(
            organization=directory.Organization(id="operator"), update_mask=FieldMask(paths=["enabled"])
        ),
        "BUILT_IN", "",
    ),
    "principal id of no form": ("CreatePrincipal", principal(id="a/b"), INVALID, "principal.id"),
    "principal id that climbs": ("CreatePrincipal", principal(id=".."), INVALID, "principal.id"),
    "unknown kind": ("CreatePrincipal", principal(kind=99), INVALID, "principal.kind"),
    "email that is none": ("CreatePrincipal", principal(email="a@b@c"), INVALID, "email"),
    "organization that is none": ("CreatePrincipal", principal(organization="a b"), INVALID, "organization"),
    "principal of a missing organization": (
        "CreatePrincipal",
        lambda _: directory.CreatePrincipalRequest(principal=directory.Principal(organization="umbra", id="a")),
        "NOT_FOUND", "",
    ),
    "group id of no form": (
        "CreateGroup",
        lambda p: directory.CreateGroupRequest(group=directory.Group(organization=p.org, id="G")), INVALID, "group",
    ),
    "unknown member": (
        "AddGroupMember",
        lambda p: directory.AddGroupMemberRequest(organization=p.org, group=p.group, principal="nobody"), UNKNOWN,
        "principal",
    ),
    "binding of nobody": ("CreateBinding", binding(nobody=True), INVALID, "binding.subject"),
    "binding of unknown principal": ("CreateBinding", binding(principal="nobody"), UNKNOWN, "principal"),
    "binding of unknown group": ("CreateBinding", binding(group="nobody"), UNKNOWN, "group"),
    "binding in unknown keyspace": ("CreateBinding", binding(keyspace="nope"), UNKNOWN, "binding.keyspace"),
    "binding to unknown role": ("CreateBinding", binding(role="nope"), UNKNOWN, "binding.role"),
    "binding that can never match": ("CreateBinding", binding(resources=["minds/*"]), INVALID, "binding.resources"),
    "binding that ends first": (
        "CreateBinding", binding(not_before=Timestamp(seconds=9), expires_at=Timestamp(seconds=8)), INVALID,
        "binding.not_before",
    ),
    "NUL to list bindings of": (
        "ListBindings", lambda p: directory.ListBindingsRequest(organization=p.org, principal="a\0"), INVALID,
        "principal",
    ),
    "group to list bindings of no form": (
        "ListBindings", lambda p: directory.ListBindingsRequest(organization=p.org, group="A/b"), INVALID, "group",
    ),
    "binding's role in the mask": (
        "UpdateBinding",
        lambda p: directory.UpdateBindingRequest(
            binding=directory.Binding(organization=p.org, id=p.binding, role="write:findings"),
            update_mask=FieldMask(paths=["role"]),
        ),
        INVALID, "update_mask",
    ),
    "organization's old etag": ("UpdateOrganization", stale("Organization", lambda p: p.org), "ETAG_MISMATCH", ""),
    "principal's old etag": ("UpdatePrincipal", stale("Principal", lambda p: p.person), "ETAG_MISMATCH", ""),
    "group's old etag": ("UpdateGroup", stale("Group", lambda p: p.group), "ETAG_MISMATCH", ""),
    "binding's old etag": ("UpdateBinding", stale("Binding", lambda p: p.binding), "ETAG_MISMATCH", ""),
    "no YAML": ("ApplyKeyspace", keyspace("a: [1"), "KEYSPACE_INVALID", "file"),
    "empty file": ("ApplyKeyspace", keyspace(""), "KEYSPACE_INVALID", "file"),
    "NUL in a file": ("ApplyKeyspace", keyspace("a: \0"), "KEYSPACE_INVALID", "file"),
    "aliases": ("ApplyKeyspace", keyspace("a: &x [1]\nb: *x"), "KEYSPACE_INVALID", "file"),
    "file of 129 KiB": ("ApplyKeyspace", keyspace(AIIA + "#" * 132_000), "KEYSPACE_INVALID", "file"),
    "deep file": ("ApplyKeyspace", keyspace("[" * 100_000), "KEYSPACE_INVALID", "file"),
    "unknown setting": ("ApplyKeyspace", keyspace(AIIA + "colour: red\n"), "KEYSPACE_INVALID", "colour"),
    "setting of 2 KB": ("ApplyKeyspace", keyspace(AIIA + "é" * 1000 + ": red\n"), "KEYSPACE_INVALID", "é" * 254 + "…"),
    "role of many": ("CreateKey", one_of_many_roles, UNKNOWN, "scopes[0]"),
    "setting twice": ("ApplyKeyspace", keyspace(AIIA + "prefix: x\n"), "KEYSPACE_INVALID", "prefix"),
    "rule about nothing": (
        "ApplyKeyspace", keyspace(AIIA.replace("[universe:read, hierarchies:read]", "[minds:read]")),
        "KEYSPACE_INVALID", "roles.read:universe.rules[0].actions[0]",
    ),
    "the built-in keyspace": (
        "ApplyKeyspace", keyspace(AIIA.replace("keyspace: aiia", "keyspace: doorward")), "BUILT_IN", "",
    ),
    "another prefix": ("ApplyKeyspace", keyspace(AIIA.replace("aiia_key ", "other ")), "IMMUTABLE", "prefix"),
    "an environment less": ("ApplyKeyspace", without_test_environment, "KEYS_STRANDED", "environments"),
    "nothing to test": ("TestKeyspace", lambda _: keyspaces.TestKeyspaceRequest(), INVALID, "name"),
    "two things to test": (
        "TestKeyspace", lambda _: keyspaces.TestKeyspaceRequest(source=AIIA, name="aiia"), INVALID, "source",
    ),
    "a test that makes no sense": (
        "TestKeyspace",
        lambda _: keyspaces.TestKeyspaceRequest(
            source=AIIA.partition("\ntests:")[0] + "\ntests: [{name: x, ask: {action: a:b}, expect: ALLOW}]"
        ),
        "KEYSPACE_INVALID", "tests[0].ask",
    ),
    "keyspace's old etag": ("ApplyKeyspace", keyspace(AIIA, etag="77"), "ETAG_MISMATCH", ""),
    "missing keyspace": ("GetKeyspace", lambda _: keyspaces.GetKeyspaceRequest(name="nope"), "NOT_FOUND", ""),
}  # fmt: skip
"""RPC, request, reason, field."""

CODES = {
    "NOT_FOUND": "NOT_FOUND",
    "ALREADY_EXISTS": "ALREADY_EXISTS",
    "BUILT_IN": "FAILED_PRECONDITION",
    "IMMUTABLE": "FAILED_PRECONDITION",
    "KEYS_STRANDED": "FAILED_PRECONDITION",
    "ETAG_MISMATCH": "ABORTED",
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_by_name_and_changes_nothing(server: Server, place: Place, case: str) -> None:
    rpc, make, reason, field = CASES[case]
    request = make(place)
    before = server.mark(place.org)
    api = server.api()
    stub = next(s for s in (api.keys, api.authz, api.directory, api.keyspaces) if hasattr(s, rpc))
    refusal = refused(lambda: getattr(stub, rpc)(request))
    assert (refusal.reason, refusal.metadata.get("field", "")) == (reason, field), refusal.message
    assert refusal.code == CODES.get(reason, "INVALID_ARGUMENT")
    assert server.mark(place.org) == before
