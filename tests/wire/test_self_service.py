"""Who may what with keys: users with their own, backends in a user's name, administrators, operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from doorward.v1 import keyspaces_pb2
from tests.wire.serving import Api, Held, Refusal, refused
from tests.wire.tenants import HOUR, Tenant, asked, ids, stamp

OWNER = keys.CEILING_OWNER
VAULTS = """
keyspace: vaults
prefix: vt
credentials: [{header: x-api-key}]
types: {doors: [open]}
roles:
  opener: {rules: [{actions: [doors:open]}]}
  no-vault: {rules: [{effect: DENY, actions: [doors:open], resources: [doors/vault]}]}
"""


def create(api: Api, tenant: Tenant, keyspace: str = "aiia", **fields: object) -> Held:
    made = api.keys.CreateKey(tenant.new_key(keyspace, **fields))
    return Held(made.key, made.secret)


def forbidden(refusal: Refusal, permission: str, decision: str) -> None:
    assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "CALLER_FORBIDDEN")
    assert (refusal.metadata["permission"], refusal.metadata["decision"]) == (permission, decision)


def grant_forbidden(refusal: Refusal, role: str) -> None:
    assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "GRANT_FORBIDDEN")
    assert refusal.metadata["role"] == role


# --- users ------------------------------------------------------------------------------------------------------------


def test_a_member_sees_to_its_own_keys(acme: Tenant) -> None:
    alice = acme.person()
    api = acme.member(alice)
    held = create(api, acme, "factorythread", owner=alice, ceiling=OWNER)
    me: dict[str, Any] = {"organization": acme.id, "id": held.id}
    mine = keys.ListKeysRequest(filter=keys.KeyFilter(owner=alice, keyspace="factorythread"))
    assert ids(api.keys.ListKeys(mine).keys) == [held.id]
    assert api.keys.GetKey(keys.GetKeyRequest(**me)).key.id == held.id
    assert api.keys.UpdateKey(acme.changed(held.id, name="mine")).key.name == "mine"
    assert api.keys.RotateKey(keys.RotateKeyRequest(**me)).secret
    assert api.keys.RevokeKey(keys.RevokeKeyRequest(**me)).key.state == keys.KEY_STATE_REVOKED
    api.keys.DeleteKey(keys.DeleteKeyRequest(**me))
    assert api.directory.GetPrincipal(directory.GetPrincipalRequest(id=alice)).principal.id == alice
    events = acme.events(target=held.id)
    assert {event.actor.principal for event in events} == {alice}
    assert len(events) == 5


def test_a_member_has_no_say_in_others_keys(acme: Tenant) -> None:
    alice, bob = acme.person(), acme.person()
    api, theirs = acme.member(alice), acme.key("factorythread", owner=bob, ceiling=OWNER)
    nobodys = acme.key("factorythread")
    missing = "RELATION_MISSING"
    for id in (theirs.id, nobodys.id, "key_of_nobody"):
        me: dict[str, Any] = {"organization": acme.id, "id": id}
        attempts: dict[str, Callable[[], object]] = {
            "keys:get": partial(api.keys.GetKey, keys.GetKeyRequest(**me)),
            "keys:update": partial(api.keys.UpdateKey, acme.changed(id, name="x")),
            "keys:rotate": partial(api.keys.RotateKey, keys.RotateKeyRequest(**me)),
            "keys:revoke": partial(api.keys.RevokeKey, keys.RevokeKeyRequest(**me)),
            "keys:delete": partial(api.keys.DeleteKey, keys.DeleteKeyRequest(**me)),
        }
        for permission, attempt in attempts.items():
            forbidden(refused(attempt), permission, "RESOURCE_NOT_GRANTED")  # of nobody's, too
    forbidden(refused(lambda: create(api, acme, owner=bob)), "keys:create", missing)
    forbidden(refused(lambda: create(api, acme)), "keys:create", missing)
    forbidden(refused(lambda: api.keys.ListKeys(keys.ListKeysRequest())), "keys:list", missing)
    theirs_listed = keys.ListKeysRequest(filter=keys.KeyFilter(owner=bob))
    forbidden(refused(lambda: api.keys.ListKeys(theirs_listed)), "keys:list", missing)
    refused(lambda: api.directory.GetPrincipal(directory.GetPrincipalRequest(id=bob)))


def test_a_namesake_in_another_organization_is_somebody_else(acme: Tenant, globex: Tenant) -> None:
    acme.person("alice")
    globex.person("alice")
    api, theirs = acme.member("alice"), globex.key("factorythread", owner="alice", ceiling=OWNER)
    get = keys.GetKeyRequest(organization=globex.id, id=theirs.id)
    forbidden(refused(lambda: api.keys.GetKey(get)), "keys:get", "ORGANIZATION_MISMATCH")


def test_a_member_grants_what_it_holds_and_no_more(acme: Tenant) -> None:
    alice = acme.person()
    api = acme.member(alice)
    grant_forbidden(refused(lambda: create(api, acme, owner=alice, scopes=["read:findings"])), "read:findings")
    acme.bind("aiia", "read:findings", principal=alice)
    held = create(api, acme, owner=alice, scopes=["read:findings"])
    assert asked(acme, held.text) == "ALLOWED"
    grant_forbidden(
        refused(lambda: create(api, acme, owner=alice, scopes=["read:findings", "admin:sync"])), "admin:sync"
    )
    widen = acme.changed(held.id, scopes=["read:findings", "write:findings"])
    grant_forbidden(refused(lambda: api.keys.UpdateKey(widen)), "write:findings")
    assert acme.get(held.id).scopes == ["read:findings"]


def test_a_member_grants_on_no_wider_resources_and_for_no_longer_than_it_holds(acme: Tenant) -> None:
    alice, end = acme.person(), acme.server.clock.now + HOUR * 1_000_000
    api = acme.member(alice)
    acme.bind("aiia", "read:findings", "findings/1", principal=alice, expires_at=stamp(end))
    expiry = keys.Expiry(instant=stamp(end))
    narrow = [keys.KeyBinding(role="read:findings", resources=["findings/1"])]
    wide = [keys.KeyBinding(role="read:findings", resources=["findings/*"])]
    held = create(api, acme, owner=alice, bindings=narrow, expiry=expiry)
    assert asked(acme, held.text, about="findings/1") == "ALLOWED"
    grant_forbidden(refused(lambda: create(api, acme, owner=alice, bindings=wide, expiry=expiry)), "read:findings")
    grant_forbidden(refused(lambda: create(api, acme, owner=alice, bindings=narrow)), "read:findings")
    longer = acme.changed(held.id, "expires_at")
    grant_forbidden(refused(lambda: api.keys.UpdateKey(longer)), "read:findings")


def test_what_is_not_held_yet_or_only_by_a_wider_key_is_not_granted(acme: Tenant) -> None:
    alice = acme.person()
    api = acme.member(alice)
    later = stamp(acme.server.clock.now + HOUR * 1_000_000)
    coming = acme.bind("aiia", "read:findings", principal=alice, not_before=later)
    grant_forbidden(refused(lambda: create(api, acme, owner=alice, scopes=["read:findings"])), "read:findings")
    acme.unbind(coming)
    acme.bind("aiia", "read:findings", principal=alice)
    narrow = acme.server.api(acme.key("doorward", owner=alice, scopes=["member"]).text)
    create(narrow, acme, owner=alice)
    grant_forbidden(refused(lambda: create(narrow, acme, owner=alice, scopes=["read:findings"])), "read:findings")
    create(api, acme, owner=alice, scopes=["read:findings"])


def test_whoever_is_under_a_deny_rule_grants_nothing_that_would_be_free_of_it(acme: Tenant) -> None:
    acme.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=VAULTS))
    alice = acme.person()
    api = acme.member(alice)
    acme.bind("vaults", "opener", principal=alice)
    create(api, acme, "vaults", owner=alice, scopes=["opener"])
    acme.bind("vaults", "no-vault", principal=alice)
    grant_forbidden(refused(lambda: create(api, acme, "vaults", owner=alice, scopes=["opener"])), "opener")


def test_an_inheriting_key_may_ask_for_any_scope_for_it_can_do_no_more_than_its_owner(acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("factorythread", "editor", principal=alice)
    held = create(acme.member(alice), acme, "factorythread", owner=alice, scopes=["admin"])

    def may(action: str) -> str:
        return asked(acme, held.text, keyspace="factorythread", action=action)

    assert may("flows:list") == "ALLOWED"
    assert may("connections:manage") == "OWNER_PERMISSION_INSUFFICIENT"


# --- backends in a user's name ----------------------------------------------------------------------------------------


def portal_for(tenant: Tenant, principal: str, *scopes: str) -> Api:
    text = tenant.key("doorward", scopes=scopes or ["portal"]).text
    return tenant.server.api(text, acting_for=f"{tenant.id}/{principal}")


def test_a_portal_acts_for_a_user_with_the_rights_of_both(acme: Tenant) -> None:
    alice, bob = acme.person(), acme.person()
    acme.bind("doorward", "member", principal=alice)
    api = portal_for(acme, alice)
    held = create(api, acme, "factorythread", owner=alice, ceiling=OWNER)
    forbidden(refused(lambda: create(api, acme, owner=bob)), "keys:create", "RELATION_MISSING")
    forbidden(refused(lambda: create(api, acme)), "keys:create", "RELATION_MISSING")
    groups = directory.ListGroupsRequest()
    forbidden(refused(lambda: api.directory.ListGroups(groups)), "groups:list", "SCOPE_INSUFFICIENT")
    (event,) = acme.events("keys:create", held.id)
    assert event.actor.acting_for == f"{acme.id}/{alice}"
    assert (event.actor.organization, event.actor.principal) == (acme.id, "")
    assert event.actor.key.startswith("key_")


def test_acting_for_a_user_without_the_right_gives_none(acme: Tenant) -> None:
    refusal = refused(lambda: create(portal_for(acme, acme.person()), acme))
    forbidden(refusal, "keys:create", "OWNER_PERMISSION_INSUFFICIENT")
    assert f"The principal {acme.id}/" in refusal.message


def test_what_a_portal_grants_both_must_hold_or_may_grant(acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("doorward", "member", principal=alice)
    api = portal_for(acme, alice)
    grant_forbidden(refused(lambda: create(api, acme, owner=alice, scopes=["read:findings"])), "read:findings")
    acme.bind("aiia", "read:findings", principal=alice)
    assert asked(acme, create(api, acme, owner=alice, scopes=["read:findings"]).text) == "ALLOWED"


def test_acting_for_nobody_or_without_the_right_to_act_is_forbidden_alike(acme: Tenant, globex: Tenant) -> None:
    alice = acme.person()
    acme.bind("doorward", "admin", principal=alice)
    get = keys.ListKeysRequest(organization=acme.id)
    unknown = refused(lambda: portal_for(acme, "nobody").keys.ListKeys(get))
    forbidden(unknown, "principals:act", "OWNER_DISABLED")
    without = refused(lambda: portal_for(acme, alice, "admin").keys.ListKeys(get))
    forbidden(without, "principals:act", "SCOPE_INSUFFICIENT")
    nobody = refused(lambda: portal_for(acme, "nobody", "admin").keys.ListKeys(get))
    assert nobody.about("nobody") == without.about(alice)
    text = acme.key("doorward", scopes=["portal"]).text
    stranger = acme.server.api(text, acting_for=f"{globex.id}/{globex.person()}")
    forbidden(refused(lambda: stranger.keys.ListKeys(get)), "principals:act", "ORGANIZATION_MISMATCH")
    acme.enable_person(alice, False)
    disabled = refused(lambda: portal_for(acme, alice).keys.ListKeys(get))
    assert (disabled.reason, disabled.metadata["decision"]) == ("CALLER_FORBIDDEN", "OWNER_DISABLED")


# --- administrators ---------------------------------------------------------------------------------------------------


def test_an_administrator_runs_its_organization(acme: Tenant) -> None:
    api = acme.caller("admin")
    held = create(api, acme, scopes=["admin:sync"])
    assert asked(acme, held.text, action="connectors:refresh") == "ALLOWED"
    create(api, acme, "doorward", scopes=["admin"])
    named = directory.Organization(display_name="Renamed")
    update = directory.UpdateOrganizationRequest(organization=named, update_mask=FieldMask(paths=["display_name"]))
    assert api.directory.UpdateOrganization(update).organization.id == acme.id


def test_an_administrator_makes_no_root_by_any_way(acme: Tenant) -> None:
    boss, helper = acme.person(), acme.person()
    acme.bind("doorward", "root", principal=boss)
    rulers = acme.group()
    acme.bind("doorward", "root", group=rulers)
    root, bossed = acme.key("doorward", scopes=["root"]), acme.key("doorward", owner=boss, ceiling=OWNER)
    plain, narrow = acme.key("doorward"), acme.bind("doorward", "root", "organizations/x", principal=helper)
    api = acme.caller("admin")
    binding = directory.Binding(keyspace="doorward", role="root", principal=helper)
    widened = directory.Binding(id=narrow, resources=["*"])
    ways = {
        "a new key": lambda: create(api, acme, "doorward", scopes=["root"]),
        "a new key on some resources": lambda: create(
            api, acme, "doorward", bindings=[keys.KeyBinding(role="root", resources=["organizations/x"])]
        ),
        "a key of somebody who is root": lambda: create(api, acme, "doorward", owner=boss, ceiling=OWNER),
        "more scopes for a key": lambda: api.keys.UpdateKey(acme.changed(plain.id, scopes=["root"])),
        "the text of a root key": lambda: api.keys.RotateKey(keys.RotateKeyRequest(id=root.id)),
        "the text of a root's key": lambda: api.keys.RotateKey(keys.RotateKeyRequest(id=bossed.id)),
        "a binding": lambda: api.directory.CreateBinding(directory.CreateBindingRequest(binding=binding)),
        "a wider binding": lambda: api.directory.UpdateBinding(
            directory.UpdateBindingRequest(binding=widened, update_mask=FieldMask(paths=["resources"]))
        ),
        "a group that is root": lambda: api.directory.AddGroupMember(
            directory.AddGroupMemberRequest(group=rulers, principal=helper)
        ),
    }
    before = acme.server.mark(acme.id)
    for way, attempt in ways.items():
        refusal = refused(attempt)
        assert (way, refusal.reason, refusal.metadata.get("role")) == (way, "GRANT_FORBIDDEN", "root")
    assert acme.server.mark(acme.id) == before


def test_an_administrator_touches_no_other_organization(acme: Tenant, globex: Tenant) -> None:
    api, theirs = acme.caller("admin"), globex.key()
    forbidden(refused(lambda: create(api, globex)), "keys:create", "ORGANIZATION_MISMATCH")
    revoke = keys.RevokeKeyRequest(organization=globex.id, id=theirs.id)
    forbidden(refused(lambda: api.keys.RevokeKey(revoke)), "keys:revoke", "ORGANIZATION_MISMATCH")
    here = keys.RevokeKeyRequest(id=theirs.id)
    assert refused(lambda: api.keys.RevokeKey(here)).reason == "NOT_FOUND"
    member = directory.AddGroupMemberRequest(group=acme.group(), principal=globex.person())
    assert refused(lambda: api.directory.AddGroupMember(member)).reason == "UNKNOWN_REFERENCE"
    assert refused(lambda: create(api, acme, owner=globex.person())).reason == "UNKNOWN_REFERENCE"


def test_a_root_within_an_organization_is_none_outside_of_it(acme: Tenant) -> None:
    api = acme.caller("root")
    forbidden(
        refused(lambda: api.directory.ListOrganizations(directory.ListOrganizationsRequest())),
        "organizations:list",
        "ORGANIZATION_MISMATCH",
    )
    operator = keys.CreateKeyRequest(organization="operator", keyspace="doorward", name="x", scopes=["root"])
    forbidden(refused(lambda: api.keys.CreateKey(operator)), "keys:create", "ORGANIZATION_MISMATCH")
    create(api, acme, "doorward", scopes=["root"])


def test_whoever_creates_inheriting_keys_for_others_needs_nothing_else(acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("factorythread", "admin", principal=alice)
    issue = keys.KeyBinding(role="admin", resources=["organizations/*/keyspaces/factorythread/keys"])
    clerk = acme.server.api(acme.key("doorward", bindings=[issue]).text)
    held = create(clerk, acme, "factorythread", owner=alice, scopes=["full-access"])
    assert asked(acme, held.text, keyspace="factorythread", action="connections:manage") == "ALLOWED"
    grant_forbidden(refused(lambda: create(clerk, acme, "factorythread", scopes=["read-only"])), "read-only")


# --- operators --------------------------------------------------------------------------------------------------------


def test_an_operators_key_crosses_exactly_as_far_as_its_bindings_name(acme: Tenant, globex: Tenant) -> None:
    operator = Tenant(acme.server, "operator")
    here = [f"organizations/{acme.id}", f"organizations/{acme.id}/*"]
    api = acme.server.api(operator.key("doorward", bindings=[keys.KeyBinding(role="admin", resources=here)]).text)
    create(api, acme, scopes=["read:findings"])
    assert api.directory.GetOrganization(directory.GetOrganizationRequest(id=acme.id)).organization.enabled
    forbidden(refused(lambda: create(api, globex)), "keys:create", "RESOURCE_NOT_GRANTED")
    organizations = directory.ListOrganizationsRequest()
    forbidden(
        refused(lambda: api.directory.ListOrganizations(organizations)), "organizations:list", "SCOPE_INSUFFICIENT"
    )
    own = directory.GetOrganizationRequest()
    forbidden(refused(lambda: api.directory.GetOrganization(own)), "organizations:get", "RESOURCE_NOT_GRANTED")
