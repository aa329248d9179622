"""Ways by which somebody might come to more than they were given: each found by an attack, each shut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import authz_pb2, directory_pb2, keys_pb2, keyspaces_pb2
from doorward_server.core.model import Actor, Event
from tests.wire.serving import Api, Held, Refusal, Server, refused, unique
from tests.wire.tenants import HOUR, Tenant, asked, question, reason_of, stamp

OWNER = keys_pb2.CEILING_OWNER
HANDS = """
keyspace: {name}
prefix: {name}
credentials: [{{header: x-api-key}}]
inherit: {inherit}
types: {{doors: [open, close]}}
roles:
  opener: {{rules: [{{actions: [doors:open]}}]}}
  {deny}: {{rules: [{{effect: DENY, actions: [doors:close]}}]}}
"""


def limited(server: Server, tenant: Tenant, *scopes: str, **fields: Any) -> Api:
    """Call with a key of *scopes* that lasts an hour and works on this machine only."""
    ends = keys_pb2.Expiry(instant=stamp(server.clock() + HOUR * 1_000_000))
    held = tenant.key("doorward", scopes=scopes, expiry=ends, allowed_cidrs=["127.0.0.0/8"], **fields)
    return server.api(held.text)


def create(api: Api, tenant: Tenant, keyspace: str = "aiia", **fields: object) -> Held:
    made = api.keys.CreateKey(tenant.new_key(keyspace, **fields))
    return Held(made.key, made.secret)


def invalid(refusal: Refusal, field: str) -> None:
    assert (refusal.code, refusal.reason, refusal.metadata["field"]) == ("INVALID_ARGUMENT", "INVALID_FIELD", field)


def apply(server: Server, name: str, inherit: str = "true", deny: str = "shut") -> None:
    source = HANDS.format(name=name, inherit=inherit, deny=deny)
    server.api().keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=source))


# --- a portal ---------------------------------------------------------------------------------------------------------


def test_a_portal_that_acts_for_nobody_may_do_nothing(server: Server, acme: Tenant) -> None:
    alice, held = acme.person(), acme.key()
    portal = acme.caller("portal")
    attempts = [
        lambda: create(portal, acme, scopes=["read:findings"]),
        lambda: create(portal, acme, "doorward", scopes=["admin"]),
        lambda: portal.keys.GetKey(keys_pb2.GetKeyRequest(id=held.id)),
        lambda: portal.keys.RotateKey(keys_pb2.RotateKeyRequest(id=held.id)),
        lambda: portal.directory.GetPrincipal(directory_pb2.GetPrincipalRequest(id=alice)),
    ]
    for attempt in attempts:
        assert refused(attempt).reason == "CALLER_FORBIDDEN"


def test_a_portal_hands_out_no_role_of_doorward_itself(server: Server, acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("doorward", "admin", principal=alice)
    text = acme.key("doorward", scopes=["portal"]).text
    acting = server.api(text, acting_for=f"{acme.id}/{alice}")
    assert refused(lambda: create(acting, acme, "doorward", scopes=["admin"])).reason == "GRANT_FORBIDDEN"


# --- a limited key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["admin", "member"])
def test_a_limited_key_makes_itself_no_unlimited_twin(server: Server, acme: Tenant, role: str) -> None:
    alice = acme.person()
    acme.bind("doorward", role, principal=alice)
    api = limited(server, acme, role, owner=alice)
    twin: dict[str, Any] = {"owner": alice, "scopes": [role]}
    invalid(refused(lambda: create(api, acme, "doorward", **twin)), "expiry")
    ends = keys_pb2.Expiry(instant=stamp(server.clock() + HOUR * 500_000))
    invalid(refused(lambda: create(api, acme, "doorward", **twin, expiry=ends)), "allowed_cidrs")
    invalid(
        refused(lambda: create(api, acme, "doorward", **twin, expiry=ends, allowed_cidrs=["0.0.0.0/0"])),
        "allowed_cidrs",
    )
    within = create(api, acme, "doorward", **twin, expiry=ends, allowed_cidrs=["127.0.0.1/32"])
    assert within.key.expires_at == ends.instant


def test_a_limited_key_does_not_loosen_its_own_limits(server: Server, acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("doorward", "member", principal=alice)
    ends = keys_pb2.Expiry(instant=stamp(server.clock() + HOUR * 1_000_000))
    held = acme.key("doorward", owner=alice, scopes=["member"], expiry=ends, allowed_cidrs=["127.0.0.0/8"])
    api = server.api(held.text)
    invalid(refused(lambda: api.keys.UpdateKey(acme.changed(held.id, "expires_at"))), "expiry")
    invalid(refused(lambda: api.keys.UpdateKey(acme.changed(held.id, "allowed_cidrs"))), "allowed_cidrs")
    invalid(refused(lambda: api.keys.UpdateKey(acme.changed(held.id, allowed_cidrs=["10.0.0.0/8"]))), "allowed_cidrs")
    narrower = api.keys.UpdateKey(acme.changed(held.id, allowed_cidrs=["127.0.0.0/16"]))
    assert list(narrower.key.allowed_cidrs) == ["127.0.0.0/16"]


# --- what an administrator took away ----------------------------------------------------------------------------------


def test_a_user_gives_a_key_back_nothing_that_it_could_not_grant(server: Server, acme: Tenant) -> None:
    alice = acme.person()
    api = acme.member(alice)
    held = acme.key(owner=alice, scopes=["admin:sync"], allowed_cidrs=["10.0.0.0/8"])
    acme.update(held.id, enabled=False)
    for change in (
        acme.changed(held.id, enabled=True),
        acme.changed(held.id, "allowed_cidrs"),
        acme.changed(held.id, scopes=["admin:sync", "read:findings"]),
    ):
        assert refused(lambda change=change: api.keys.UpdateKey(change)).reason == "GRANT_FORBIDDEN"  # type: ignore[misc]
    assert asked(acme, held.text) == "KEY_DISABLED"
    assert api.keys.UpdateKey(acme.changed(held.id, name="still mine")).key.name == "still mine"
    assert not api.keys.UpdateKey(acme.changed(held.id, "scopes")).key.scopes, "giving up needs nobody's leave"


TIERS = """
keyspace: {name}
prefix: {name}
credentials: [{{header: x-api-key}}]
types: {{doors: [open, close]}}
attributes: {{key: {{tier: string}}}}
roles:
  opener: {{rules: [{{actions: [doors:open], condition: key.tier == "gold"}}]}}
  closer: {{rules: [{{actions: [doors:close]}}]}}
"""


def test_a_user_does_not_rewrite_what_a_condition_reads_of_its_key(server: Server, acme: Tenant) -> None:
    name = unique("tiers")
    server.api().keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=TIERS.format(name=name)))
    alice = acme.person()
    api = acme.member(alice)
    bound = keys_pb2.KeyBinding(role="closer", condition="key.name == 'caretaker' || key.type == 'ci'")
    held = acme.key(name, owner=alice, scopes=["opener"], bindings=[bound], metadata={"tier": "tin", "note": ""})
    for change in (
        acme.changed(held.id, metadata={"tier": "gold"}),
        acme.changed(held.id, name="caretaker"),
        acme.changed(held.id, type="ci"),
    ):
        assert refused(lambda change=change: api.keys.UpdateKey(change)).reason == "GRANT_FORBIDDEN"  # type: ignore[misc]
    assert asked(acme, held.text, keyspace=name, action="doors:open") == "CONDITION_FALSE"
    api.keys.UpdateKey(acme.changed(held.id, metadata={"tier": "tin", "note": "mine"}))
    acme.update(held.id, metadata={"tier": "gold"})
    assert asked(acme, held.text, keyspace=name, action="doors:open") == "ALLOWED"


def test_a_user_does_not_rewrite_what_a_condition_of_its_own_binding_reads(acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("doorward", "admin", principal=alice, condition="key.type == 'break glass'")
    acme.bind("doorward", "member", principal=alice)
    held = acme.key("doorward", owner=alice, ceiling=OWNER)
    api = acme.server.api(held.text)
    assert refused(lambda: api.keys.UpdateKey(acme.changed(held.id, type="break glass"))).reason == "GRANT_FORBIDDEN"
    assert api.keys.UpdateKey(acme.changed(held.id, name="mine")).key.name == "mine"


def test_a_user_does_not_revive_an_expired_key_that_it_could_not_grant(server: Server, acme: Tenant) -> None:
    alice = acme.person()
    api = acme.member(alice)
    ends = keys_pb2.Expiry(instant=stamp(server.clock() + 1_000_000))
    held = acme.key(owner=alice, scopes=["admin:sync"], expiry=ends)
    server.clock.advance(seconds=2)
    assert asked(acme, held.text) == "KEY_EXPIRED"
    refusal = refused(lambda: api.keys.UpdateKey(acme.changed(held.id, "expires_at")))
    assert refusal.reason == "GRANT_FORBIDDEN"


# --- doorward's own keys ----------------------------------------------------------------------------------------------


def test_nobody_plants_a_key_that_grows_with_its_owner(server: Server, acme: Tenant) -> None:
    bob = acme.person()
    for scope in ("admin", "member"):
        api = acme.caller(scope)
        refusal = refused(lambda api=api: create(api, acme, "doorward", owner=bob, ceiling=OWNER))  # type: ignore[misc]
        assert refusal.code == "PERMISSION_DENIED"
    acme.bind("doorward", "member", principal=bob)
    own = server.api(create(server.api(), acme, "doorward", owner=bob, ceiling=OWNER).text)
    assert create(own, acme, "doorward", owner=bob, ceiling=OWNER).text, "one's own key is no plant"


# --- keyspaces --------------------------------------------------------------------------------------------------------


def test_applying_a_keyspace_takes_no_limit_off_keys_that_exist(server: Server) -> None:
    name = unique("hands").replace("-", "")
    apply(server, name)
    refusal = refused(lambda: apply(server, name, inherit="false"))
    assert (refusal.reason, refusal.metadata["field"]) == ("IMMUTABLE", "inherit")
    refusal = refused(lambda: apply(server, name, deny="renamed"))
    assert (refusal.reason, refusal.metadata["field"]) == ("IMMUTABLE", "roles.shut")


def test_a_keyspace_that_went_back_is_decided_by_as_it_is(server: Server, acme: Tenant) -> None:
    """After a restore the store has a file from before the one that this process knew."""
    name = unique("back").replace("-", "")
    apply(server, name, inherit="false")
    held = acme.key(name, scopes=["opener"])
    about: dict[str, Any] = {"keyspace": name, "action": "doors:open"}
    assert asked(acme, held.text, **about) == "ALLOWED"
    compiled = server.app.authorizer._finder._catalog._compiled
    source, known = compiled[name]
    compiled[name] = (f"{source}# later", known)
    assert asked(acme, held.text, **about, consistency=authz_pb2.Consistency(full=True)) == "ALLOWED"
    assert compiled[name][0] == source


# --- asking -----------------------------------------------------------------------------------------------------------


def test_nobody_finds_out_who_is_in_another_organization(server: Server, acme: Tenant, globex: Tenant) -> None:
    bob = globex.person()
    asker = acme.caller("impersonator")
    for organization, principal in ((globex.id, bob), (globex.id, "nobody0"), ("no-such-organization", bob)):
        who = authz_pb2.PrincipalReference(organization=organization, principal=principal)
        request = question("", "flows:get", keyspace="factorythread", organization=acme.id)
        request.principal.CopyFrom(who)
        refusal = refused(lambda request=request: asker.authz.Authorize(request))  # type: ignore[misc]
        assert (refusal.reason, refusal.metadata["permission"]) == ("CALLER_FORBIDDEN", "decisions:impersonate")


def test_a_batch_answers_what_it_may_although_it_may_not_answer_all(acme: Tenant, globex: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    backend = acme.caller("backend")
    organizations = (acme.id, globex.id, "not/an/organization", acme.id)
    items = [authz_pb2.BatchAuthorizeItem(action="findings:read", organization=it) for it in organizations]
    answer = backend.authz.BatchAuthorize(authz_pb2.BatchAuthorizeRequest(key=held.text, keyspace="aiia", items=items))
    first, foreign, malformed, last = answer.results
    assert reason_of(first) == reason_of(last) == "ALLOWED"
    assert (foreign.error.reason, malformed.error.reason) == ("CALLER_FORBIDDEN", "INVALID_FIELD")
    assert answer.identity.key_id == held.id


# --- what goes with what ----------------------------------------------------------------------------------------------


def test_what_ends_with_a_group_or_a_person_is_in_the_audit_log(acme: Tenant) -> None:
    alice = acme.person()
    team = acme.group(alice)
    of_team = acme.bind("doorward", "admin", group=team)
    of_alice = acme.bind("factorythread", "editor", "flows/1", principal=alice)
    acme.root.directory.DeleteGroup(directory_pb2.DeleteGroupRequest(organization=acme.id, id=team))
    (ended,) = acme.events("groups:delete", team)
    assert [it["id"] for it in ended.before["bindings"]] == [of_team]
    assert ended.before["members"] == [alice]
    acme.root.directory.DeletePrincipal(directory_pb2.DeletePrincipalRequest(organization=acme.id, id=alice))
    (gone,) = acme.events("principals:delete", alice)
    assert [(it["id"], it["role"], it["resources"]) for it in gone.before["bindings"]] == [
        (of_alice, "editor", ["flows/1"])
    ]


def test_deleting_a_person_again_finishes_what_a_crash_left(server: Server, acme: Tenant) -> None:
    """Killed between the person's end and the revocation of its keys: the keys are dead, and the next call says so."""
    alice = acme.person()
    held = acme.key("factorythread", owner=alice, ceiling=OWNER)
    store, at = server.app.store, server.clock()
    ended = Event(acme.id, at, Actor("operator", "x"), "principals:delete", "principal", alice)
    store.delete_principal(acme.id, alice, lambda it, _: (replace(it, deleted_at=at), ended))
    assert acme.get(held.id).state == keys_pb2.KEY_STATE_ACTIVE
    request = directory_pb2.DeletePrincipalRequest(organization=acme.id, id=alice)
    assert acme.root.directory.DeletePrincipal(request).keys == 1
    assert acme.get(held.id).state == keys_pb2.KEY_STATE_REVOKED
    assert refused(lambda: acme.root.directory.DeletePrincipal(request)).code == "NOT_FOUND"


def test_emptying_the_resources_of_a_binding_does_not_widen_it_to_all(acme: Tenant) -> None:
    binding = acme.bind("factorythread", "editor", "flows/1", principal=acme.person())
    request = directory_pb2.UpdateBindingRequest(
        binding=directory_pb2.Binding(organization=acme.id, id=binding), update_mask=FieldMask(paths=["resources"])
    )
    invalid(refused(lambda: acme.root.directory.UpdateBinding(request)), "binding.resources")


def test_a_deleted_organization_gives_out_no_more_secrets(acme: Tenant) -> None:
    held = acme.key()
    acme.root.directory.DeleteOrganization(directory_pb2.DeleteOrganizationRequest(id=acme.id))
    refusal = refused(lambda: acme.rotate(held.id))
    assert (refusal.reason, refusal.metadata["type"]) == ("NOT_FOUND", "organization")


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_rotating_for_ever_grows_neither_the_key_nor_its_audit_events(acme: Tenant) -> None:
    held = acme.key()
    for _ in range(40):
        acme.rotate(held.id)
    assert len(acme.get(held.id).secrets) == 21
    assert max(len(str(event.after)) for event in acme.events("keys:rotate", held.id)) < 2_000


def test_what_every_decision_looks_at_is_bounded(acme: Tenant) -> None:
    long = [f"flows/{n:0>400}" for n in range(40)]
    wide = [keys_pb2.KeyBinding(role="flow-access", resources=half) for half in (long[:20], long[20:])]
    invalid(refused(lambda: acme.key("factorythread", bindings=wide)), "bindings")
    alice = acme.person()
    invalid(refused(lambda: acme.bind("factorythread", "editor", *long, principal=alice)), "binding.resources")


def test_a_page_of_large_keys_ends_before_the_message_is_too_large(acme: Tenant) -> None:
    """Clients take 4 MiB: the page is cut, nothing is lost, and the next token goes on."""
    large: dict[str, Any] = {
        "metadata": {f"label{n}": "x" * 4000 for n in range(2)},
        "bindings": [keys_pb2.KeyBinding(role="flow-access", resources=[f"flows/{n:0>480}" for n in range(16)])],
    }
    made = {acme.key("factorythread", **large).id for _ in range(160)}
    found: list[str] = []
    token, pages = "", 0
    while not pages or token:
        request = keys_pb2.ListKeysRequest(organization=acme.id, page_size=1000, page_token=token)
        page = acme.root.keys.ListKeys(request)
        assert page.ByteSize() < 3 * 1024 * 1024
        found += [key.id for key in page.keys]
        token, pages = page.next_page_token, pages + 1
    assert pages > 1
    assert len(found) == len(made)
    assert set(found) == made


def test_an_organization_does_not_say_itself_what_it_has_bought(acme: Tenant) -> None:
    """Conditions read its attributes: an administrator of it could satisfy them."""
    admin = acme.caller("admin")
    bought = directory_pb2.Organization(
        id=acme.id, attributes={"plan": directory_pb2.AttributeValue(text="enterprise")}
    )
    request = directory_pb2.UpdateOrganizationRequest(organization=bought, update_mask=FieldMask(paths=["attributes"]))
    refusal = refused(lambda: admin.directory.UpdateOrganization(request))
    assert (refusal.reason, refusal.metadata["permission"]) == ("CALLER_FORBIDDEN", "organizations:set-attributes")
    named = directory_pb2.Organization(id=acme.id, display_name="Acme")
    shown = directory_pb2.UpdateOrganizationRequest(organization=named, update_mask=FieldMask(paths=["display_name"]))
    assert admin.directory.UpdateOrganization(shown).organization.display_name == "Acme"
    assert acme.root.directory.UpdateOrganization(request).organization.attributes == bought.attributes
