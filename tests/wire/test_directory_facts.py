"""Relations, resources, groups within groups and conditions on bindings, as callers of DirectoryService see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import directory_pb2 as pb
from doorward.v1 import keys_pb2, keyspaces_pb2
from tests.wire.requests import at_desk
from tests.wire.serving import Api, Server, refused, unique
from tests.wire.tenants import Tenant, new_tenant

OPEN = {"open": pb.AttributeValue(flag=True), "weight": pb.AttributeValue(integer=3)}
GOLD = 'organization.plan == "gold"'


def to(resource: str, relation: str = "assigned", **subject: Any) -> pb.Relation:
    return pb.Relation(resource=resource, relation=relation, **subject)


def write(t: Tenant, *relations: pb.Relation, api: Api | None = None) -> pb.WriteRelationsResponse:
    request = pb.WriteRelationsRequest(**at_desk(t, relations=relations))
    return (api or t.root).directory.WriteRelations(request)


def delete(t: Tenant, *relations: pb.Relation) -> pb.DeleteRelationsResponse:
    return t.root.directory.DeleteRelations(pb.DeleteRelationsRequest(**at_desk(t, relations=relations)))


def put(t: Tenant, resource: str, api: Api | None = None, **fields: Any) -> pb.PutResourceResponse:
    stored = pb.StoredResource(**at_desk(t, resource=resource, **fields))
    return (api or t.root).directory.PutResource(pb.PutResourceRequest(resource=stored))


def get(t: Tenant, resource: str) -> pb.StoredResource:
    return t.root.directory.GetResource(pb.GetResourceRequest(**at_desk(t, resource=resource))).resource


def listed(t: Tenant, size: int = 0, **filter: str) -> list[str]:
    found, token = [], ""
    while True:
        request = pb.ListRelationsRequest(**at_desk(t, page_size=size, page_token=token, **filter))
        page = t.root.directory.ListRelations(request)
        assert len(page.relations) <= (size or 50)
        found += [f"{it.resource}#{it.relation}@{it.principal}{it.group}" for it in page.relations]
        token = page.next_page_token
        if not token:
            return found


def nest(t: Tenant, outer: str, inner: str, api: Api | None = None) -> pb.AddGroupMemberResponse:
    request = pb.AddGroupMemberRequest(organization=t.id, group=outer, member_group=inner)
    return (api or t.root).directory.AddGroupMember(request)


def join(t: Tenant, group: str, principal: str, api: Api | None = None) -> pb.AddGroupMemberResponse:
    request = pb.AddGroupMemberRequest(organization=t.id, group=group, principal=principal)
    return (api or t.root).directory.AddGroupMember(request)


def events(t: Tenant) -> list[Any]:
    return [it.event for it in t.server.app.store.list_events(t.id, 0, 999)]


# --- relations --------------------------------------------------------------------------------------------------------


def test_relations_are_written_listed_and_deleted(acme: Tenant) -> None:
    alice, bob, staff = acme.person(), acme.person(), acme.group()
    ones = [to("tickets/1", principal=alice), to("tickets/1", "watching", group=staff), to("tickets/2", principal=bob)]
    written = write(acme, *ones)
    again = write(acme, *ones, to("tickets/1", principal=bob))
    assert (written.written, again.written) == (3, 1)
    assert again.revision > written.revision
    assert events(acme)[-1].action == "relations:write"
    assert events(acme)[-1].after == {"relations": [f"tickets/1#assigned@user:{bob}"]}
    everything = listed(acme)
    assert len(everything) == 4
    assert listed(acme, size=1) == everything
    assert listed(acme, resource="tickets/2") == [f"tickets/2#assigned@{bob}"]
    assert listed(acme, principal=bob) == [f"tickets/1#assigned@{bob}", f"tickets/2#assigned@{bob}"]
    assert listed(acme, relation="watching") == listed(acme, group=staff) == [f"tickets/1#watching@{staff}"]
    assert delete(acme, *ones, to("tickets/9", principal=alice)).deleted == 3
    assert listed(acme) == [f"tickets/1#assigned@{bob}"]
    assert events(acme)[-1].before["relations"][-1] == f"tickets/2#assigned@user:{bob}"
    before = acme.server.mark(acme.id)
    assert delete(acme, *ones).deleted == write(acme, to("tickets/1", principal=bob)).written == 0
    assert acme.server.mark(acme.id) == before


def test_a_page_token_belongs_to_its_list(acme: Tenant) -> None:
    alice, directory = acme.person(), acme.root.directory
    write(acme, to("tickets/1", principal=alice), to("tickets/2", principal=alice))
    page = directory.ListRelations(pb.ListRelationsRequest(**at_desk(acme, page_size=1, principal=alice)))
    other = pb.ListRelationsRequest(**at_desk(acme, page_size=1, page_token=page.next_page_token))
    assert refused(lambda: directory.ListRelations(other)).reason == "PAGE_TOKEN_INVALID"


BAD_RELATIONS: dict[str, tuple[Callable[[str], list[pb.Relation]], str]] = {
    "none": (lambda _: [], "relations"),
    "too many": (lambda p: [to(f"tickets/{number}", principal=p) for number in range(101)], "relations"),
    "no subject": (lambda _: [to("tickets/1")], "relations[0].subject"),
    "empty subject": (lambda _: [to("tickets/1", principal="")], "relations[0].principal"),
    "a principal that is not there": (
        lambda p: [to("tickets/1", principal=p), to("tickets/1", principal="no")], "relations[1].principal"
    ),
    "a group that is not there": (lambda _: [to("tickets/1", group="no")], "relations[0].group"),
    "no resource": (lambda p: [to("", principal=p)], "relations[0].resource"),
    "a collection": (lambda p: [to("tickets", principal=p)], "relations[0].resource"),
    "a pattern": (lambda p: [to("tickets/*", principal=p)], "relations[0].resource"),
    "a long resource": (lambda p: [to("tickets/" + "x" * 600, principal=p)], "relations[0].resource"),
    "an unknown type": (lambda p: [to("nothing/1", principal=p)], "relations[0].resource"),
    "another type's relation": (lambda p: [to("tickets/1", "lead", principal=p)], "relations[0].relation"),
    "no relation": (lambda p: [to("tickets/1", "", principal=p)], "relations[0].relation"),
    "the parent's relation": (lambda p: [to("tickets/1", "parent.lead", principal=p)], "relations[0].relation"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_RELATIONS)
def test_a_wrong_relation_is_told_by_its_field(acme: Tenant, name: str) -> None:
    make, field = BAD_RELATIONS[name]
    relations = make(acme.person())
    at_desk(acme)
    before = acme.server.mark(acme.id)
    refusal = refused(lambda: write(acme, *relations))
    assert (refusal.code, refusal.metadata["field"]) == ("INVALID_ARGUMENT", field)
    assert acme.server.mark(acme.id) == before


def test_a_keyspace_is_named_and_declares_what_is_written(acme: Tenant) -> None:
    relation = to("tickets/1", principal=acme.person())
    for keyspace, reason in (("", "INVALID_FIELD"), ("nowhere", "UNKNOWN_REFERENCE"), ("aiia", "UNKNOWN_REFERENCE")):
        request = pb.WriteRelationsRequest(organization=acme.id, keyspace=keyspace, relations=[relation])
        assert refused(partial(acme.root.directory.WriteRelations, request)).reason == reason
    both = pb.ListRelationsRequest(**at_desk(acme, principal="a", group="b"))
    assert refused(lambda: acme.root.directory.ListRelations(both)).metadata["field"] == "group"


def test_nobody_becomes_the_owner_of_doorwards_own_things(acme: Tenant) -> None:
    alice = acme.person()
    for relation in ("owner", "acting"):
        wanted = to(f"organizations/{acme.id}/principals/{alice}", relation, principal=alice)
        request = pb.WriteRelationsRequest(organization=acme.id, keyspace="doorward", relations=[wanted])
        refusal = refused(partial(acme.root.directory.WriteRelations, request))
        assert refusal.metadata["field"] == "relations[0].relation"


# --- resources --------------------------------------------------------------------------------------------------------


def test_a_resource_is_kept_read_replaced_and_deleted(acme: Tenant) -> None:
    made = put(acme, "tickets/1", attributes=OPEN, parent="boards/7").resource
    assert made == get(acme, "tickets/1")
    assert (dict(made.attributes), made.parent, made.etag) == (OPEN, "boards/7", "1")
    before = acme.server.mark(acme.id)
    assert put(acme, "tickets/1", attributes=OPEN, parent="boards/7").resource == made
    assert acme.server.mark(acme.id) == before
    replaced = put(acme, "tickets/1", etag="1").resource
    assert (dict(replaced.attributes), replaced.parent, replaced.etag) == ({}, "", "2")
    assert replaced.created_at == made.created_at
    assert events(acme)[-1].before == {"attributes": {"open": True, "weight": 3}, "parent": "boards/7"}
    for id in ("tickets/1", "tickets/2"):
        refusal = refused(partial(put, acme, id, etag="1"))
        assert (refusal.code, refusal.metadata) == ("ABORTED", {"type": "resource", "id": id})
    alice = acme.person()
    write(acme, to("tickets/1", principal=alice), to("tickets/1", "watching", principal=alice))
    request = pb.DeleteResourceRequest(**at_desk(acme, resource="tickets/1"))
    assert acme.root.directory.DeleteResource(request).relations == 2
    assert listed(acme) == []
    for call in (lambda: acme.root.directory.DeleteResource(request), lambda: get(acme, "tickets/1")):
        assert refused(call).code == "NOT_FOUND"


def test_resources_are_listed_by_type_and_parent(acme: Tenant) -> None:
    put(acme, "boards/7")
    put(acme, "tickets/1", parent="boards/7")
    put(acme, "tickets/2")

    def paths(**filter: str) -> list[str]:
        request = pb.ListResourcesRequest(**at_desk(acme, **filter))
        return [it.resource for it in acme.root.directory.ListResources(request).resources]

    assert paths() == ["boards/7", "tickets/1", "tickets/2"]
    assert paths(type="tickets") == ["tickets/1", "tickets/2"]
    assert paths(parent="boards/7") == ["tickets/1"]
    assert paths(type="boards", parent="boards/7") == []


WIDE = """
keyspace: {name}
prefix: wide
environments: [live]
credentials: [{{header: x-api-key}}]
attributes: {{resource: {{things: {{text: string}}}}}}
types: {{things: [read]}}
roles: {{}}
"""


def test_a_page_of_resources_fits_into_a_message(acme: Tenant) -> None:
    """300 of 8 kB each."""
    keyspace = unique("wide")
    acme.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=WIDE.format(name=keyspace)))
    attributes = {"text": pb.AttributeValue(text="x" * 8000)}
    for number in range(300):
        stored = pb.StoredResource(
            organization=acme.id, keyspace=keyspace, resource=f"things/{number}", attributes=attributes
        )
        acme.root.directory.PutResource(pb.PutResourceRequest(resource=stored))
    found, token = 0, ""
    while True:
        request = pb.ListResourcesRequest(organization=acme.id, keyspace=keyspace, page_size=1000, page_token=token)
        page = acme.root.directory.ListResources(request)
        assert page.ByteSize() < 3 * 1024 * 1024
        found, token = found + len(page.resources), page.next_page_token
        if not token:
            break
    assert found == 300


BAD_RESOURCES: dict[str, tuple[dict[str, Any], str]] = {
    "no resource": ({"resource": ""}, "resource.resource"),
    "a collection": ({"resource": "tickets"}, "resource.resource"),
    "an unknown type": ({"resource": "nothing/1"}, "resource.resource"),
    "an undeclared attribute": ({"attributes": {"color": OPEN["open"]}}, "resource.attributes[color]"),
    "another type's attribute": ({"resource": "boards/1", "attributes": OPEN}, "resource.attributes[open]"),
    "a wrong type": ({"attributes": {"open": OPEN["weight"]}}, "resource.attributes[open]"),
    "no value": ({"attributes": {"open": pb.AttributeValue()}}, "resource.attributes[open]"),
    "a parent of a wrong type": ({"parent": "tickets/2"}, "resource.parent"),
    "a parent without id": ({"parent": "boards"}, "resource.parent"),
    "a parent of what has none": ({"resource": "boards/1", "parent": "boards/2"}, "resource.parent"),
}


@pytest.mark.parametrize("name", BAD_RESOURCES)
def test_a_wrong_resource_is_told_by_its_field(acme: Tenant, name: str) -> None:
    fields, field = BAD_RESOURCES[name]
    at_desk(acme)
    before = acme.server.mark(acme.id)
    refusal = refused(lambda: put(acme, **{"resource": "tickets/1", **fields}))
    assert (refusal.code, refusal.metadata["field"]) == ("INVALID_ARGUMENT", field)
    assert acme.server.mark(acme.id) == before


def test_the_role_facts_writes_for_its_keyspace_alone(acme: Tenant) -> None:
    alice = acme.person()
    binding = keys_pb2.KeyBinding(role="facts", resources=[f"organizations/{acme.id}/keyspaces/desk/*"])
    api = acme.server.api(acme.key("doorward", bindings=[binding]).text)
    assert write(acme, to("tickets/1", principal=alice), api=api).written == 1
    assert put(acme, "tickets/1", api=api).resource.etag == "1"
    relation = to("findings/1", principal=alice)
    elsewhere = pb.WriteRelationsRequest(organization=acme.id, keyspace="aiia", relations=[relation])
    refusal = refused(lambda: api.directory.WriteRelations(elsewhere))
    assert (refusal.reason, refusal.metadata["decision"]) == ("CALLER_FORBIDDEN", "RESOURCE_NOT_GRANTED")


def test_what_becomes_of_a_deleted_ones_relations_is_done_and_told(acme: Tenant) -> None:
    alice, staff, store = acme.person(), acme.group(), acme.server.app.store
    write(acme, *(to(f"tickets/{number}", principal=alice) for number in range(3)), to("tickets/1", group=staff))
    gone = acme.root.directory.DeletePrincipal(pb.DeletePrincipalRequest(organization=acme.id, id=alice))
    assert (gone.relations, gone.revision) == (3, store.revision())
    assert events(acme)[-1].note == "3 relations went with it"
    assert events(acme)[-1].before["relations"][0] == f"desk: tickets/0#assigned@user:{alice}"
    ended = acme.root.directory.DeleteGroup(pb.DeleteGroupRequest(organization=acme.id, id=staff))
    assert (ended.relations, ended.revision) == (1, store.revision())
    assert listed(acme) == []
    request = pb.DeletePrincipalRequest(organization=acme.id, id=alice)
    assert refused(lambda: acme.root.directory.DeletePrincipal(request)).code == "NOT_FOUND"


def test_after_a_crash_in_between_the_same_call_goes_on(acme: Tenant) -> None:
    """The first transaction ends the principal or the group; the relations wait for those after it."""
    alice, staff, store = acme.person(), acme.group(), acme.server.app.store
    write(acme, to("tickets/1", principal=alice), to("tickets/1", group=staff))
    event = replace(events(acme)[-1], before={})
    store.delete_principal(acme.id, alice, lambda it, _: (replace(it, deleted_at=1), event))
    store.delete_group(acme.id, staff, lambda it: (replace(it, deleted_at=1), event))
    directory = acme.root.directory
    assert len(listed(acme)) == 2
    assert directory.DeletePrincipal(pb.DeletePrincipalRequest(organization=acme.id, id=alice)).relations == 1
    assert directory.DeleteGroup(pb.DeleteGroupRequest(organization=acme.id, id=staff)).relations == 1
    assert listed(acme) == []
    for call in (
        lambda: directory.DeletePrincipal(pb.DeletePrincipalRequest(organization=acme.id, id=alice)),
        lambda: directory.DeleteGroup(pb.DeleteGroupRequest(organization=acme.id, id=staff)),
    ):
        assert refused(call).code == "NOT_FOUND"


def test_facts_stay_in_their_organization(server: Server, acme: Tenant) -> None:
    other = new_tenant(server)
    write(acme, to("tickets/1", principal=acme.person()))
    put(acme, "tickets/1")
    assert listed(other) == []
    assert refused(lambda: get(other, "tickets/1")).code == "NOT_FOUND"
    stranger = other.caller("admin")
    assert refused(lambda: put(acme, "tickets/2", api=stranger)).metadata["decision"] == "ORGANIZATION_MISMATCH"


# --- groups within groups ---------------------------------------------------------------------------------------------


def test_groups_are_members_of_groups(acme: Tenant) -> None:
    alice, outer, inner = acme.person(), acme.group(), acme.group()
    nest(acme, outer, inner)
    join(acme, outer, alice)

    def members(**page: Any) -> pb.ListGroupMembersResponse:
        request = pb.ListGroupMembersRequest(organization=acme.id, group=outer, **page)
        return acme.root.directory.ListGroupMembers(request)

    assert list(members().members) == [pb.GroupMember(group=inner), pb.GroupMember(principal=alice)]
    first = members(page_size=1)
    rest = members(page_size=1, page_token=first.next_page_token)
    assert [*first.members, *rest.members] == list(members().members)
    removal = pb.RemoveGroupMemberRequest(organization=acme.id, group=outer, member_group=inner)
    acme.root.directory.RemoveGroupMember(removal)
    assert events(acme)[-1].before == {"member_group": inner}
    assert list(members().members) == [pb.GroupMember(principal=alice)]


def test_a_circle_of_groups_is_refused(acme: Tenant) -> None:
    one, two = acme.group(), acme.group()
    nest(acme, one, two)
    refusal = refused(lambda: nest(acme, two, one))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "GROUP_CYCLE")
    assert refusal.metadata == {"path": f"{two} → {one} → {two}"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "principal"),
        ({"principal": "a", "member_group": "b"}, "principal"),
        ({"member_group": "Not A Group"}, "member_group"),
        ({"member_group": "nogroup"}, "member_group"),
    ],
)
def test_a_member_is_one_principal_or_one_group(acme: Tenant, fields: dict[str, Any], field: str) -> None:
    request = pb.AddGroupMemberRequest(organization=acme.id, group=acme.group(), **fields)
    refusal = refused(lambda: acme.root.directory.AddGroupMember(request))
    assert (refusal.code, refusal.metadata["field"]) == ("INVALID_ARGUMENT", field)


def test_who_joins_a_group_gets_what_the_groups_around_it_hold(acme: Tenant) -> None:
    """An admin can grant everything but the role root: neither directly nor by a group that is in one that holds it."""
    admin, outer, middle, inner, person = acme.caller("admin"), acme.group(), acme.group(), acme.group(), acme.person()
    acme.bind("doorward", "root", group=outer)
    nest(acme, middle, inner, admin)
    nest(acme, outer, middle)
    for call in (
        lambda: join(acme, middle, person, admin),
        lambda: nest(acme, inner, acme.group(), admin),
        lambda: nest(acme, outer, acme.group(), admin),
    ):
        assert refused(call).reason == "GRANT_FORBIDDEN"
    join(acme, middle, person)


# --- bindings under a condition ---------------------------------------------------------------------------------------


def bind(t: Tenant, **fields: Any) -> pb.Binding:
    binding = pb.Binding(**at_desk(t, role="guest", **fields))
    return t.root.directory.CreateBinding(pb.CreateBindingRequest(binding=binding)).binding


def update(t: Tenant, id: str, condition: str) -> pb.Binding:
    binding, mask = pb.Binding(organization=t.id, id=id, condition=condition), FieldMask(paths=["condition"])
    request = pb.UpdateBindingRequest(binding=binding, update_mask=mask)
    return t.root.directory.UpdateBinding(request).binding


def guest_key(t: Tenant, condition: str, **fields: Any) -> keys_pb2.CreateKeyRequest:
    at_desk(t)
    binding = keys_pb2.KeyBinding(role="guest", condition=condition)
    return t.new_key("desk", ceiling=keys_pb2.CEILING_LIST, bindings=[binding], **fields)


def test_a_bindings_condition_is_kept_shown_and_changed(acme: Tenant) -> None:
    person = acme.person()
    made = bind(acme, principal=person, condition=GOLD)
    assert made.condition == GOLD
    shown = acme.root.directory.GetBinding(pb.GetBindingRequest(organization=acme.id, id=made.id)).binding
    page = acme.root.directory.ListBindings(pb.ListBindingsRequest(organization=acme.id, principal=person))
    assert shown == made == page.bindings[0]
    assert update(acme, made.id, "").condition == ""
    assert events(acme)[-1].before == {"condition": GOLD}
    assert update(acme, made.id, GOLD).condition == GOLD


BAD_CONDITIONS = {
    "no CEL": "organization.plan ==",
    "not declared": "organization.color == 'red'",
    "of a wrong type": "organization.plan == 3",
    "no yes or no": "organization.plan",
    "a comprehension": "principal.groups.exists(g, g == 'staff')",
    "too long": "organization.plan == '" + "x" * 3000 + "'",
}


@pytest.mark.parametrize("name", BAD_CONDITIONS)
def test_a_condition_that_does_not_compile_is_told_by_its_field(acme: Tenant, name: str) -> None:
    condition, person = BAD_CONDITIONS[name], acme.person()
    made = bind(acme, principal=person)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: bind(acme, principal=person, condition=condition), "binding.condition"),
        (lambda: update(acme, made.id, condition), "binding.condition"),
        (lambda: acme.root.keys.CreateKey(guest_key(acme, condition, owner=person)), "bindings[0].condition"),
    ]
    for call, field in calls:
        refusal = refused(call)
        assert (refusal.code, refusal.metadata["field"]) == ("INVALID_ARGUMENT", field)
        assert refusal.metadata["rule"]


def test_a_keys_binding_has_a_condition_too(acme: Tenant) -> None:
    made = acme.root.keys.CreateKey(guest_key(acme, GOLD)).key
    assert [it.condition for it in acme.get(made.id).bindings] == [GOLD]
    acme.update(made.id, bindings=[keys_pb2.KeyBinding(role="guest")])
    assert [it.condition for it in acme.get(made.id).bindings] == [""]


def test_who_holds_a_role_under_a_condition_cannot_pass_it_on(acme: Tenant) -> None:
    person = acme.person()
    api, made = acme.member(person), bind(acme, principal=person, condition=GOLD)
    for passed_on in ("", GOLD):
        request = guest_key(acme, passed_on, owner=person)
        assert refused(partial(api.keys.CreateKey, request)).reason == "GRANT_FORBIDDEN"
    update(acme, made.id, "")
    for passed_on in ("", GOLD):
        assert api.keys.CreateKey(guest_key(acme, passed_on, owner=person)).key.bindings[0].condition == passed_on


def test_putting_a_condition_on_ones_key_takes_no_right_to_grant(acme: Tenant) -> None:
    """It only narrows. Taking it off again is passing the role on."""
    person = acme.person()
    made, api = bind(acme, principal=person), acme.member(person)
    key = api.keys.CreateKey(guest_key(acme, "", owner=person)).key
    acme.unbind(made.id)
    conditional, free = (keys_pb2.KeyBinding(role="guest", condition=it) for it in (GOLD, ""))
    assert api.keys.UpdateKey(acme.changed(key.id, bindings=[conditional])).key.bindings[0].condition == GOLD
    widening = acme.changed(key.id, bindings=[free])
    assert refused(lambda: api.keys.UpdateKey(widening)).reason == "GRANT_FORBIDDEN"
