"""Relations, resources and groups within groups, in the client and on its command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from doorward import Client, GroupMember, KeyBinding, Relation, StoredResource
from doorward.calls import facts, groups, keys
from doorward.v1 import directory_pb2 as pb
from tests.client.door import Door

Run = Callable[..., Result]
ALICE = Relation("assessments/42", "assigned", principal="alice@acme.example")
STAFF = Relation("assessments/42", "contact", group="staff")
AT = Timestamp(seconds=1_800_000_000)


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("assessments/42#assigned@user:alice@acme.example", ALICE),
        ("assessments/42#contact@group:staff", STAFF),
        ("flows/a#b/7#owner@user:bob", Relation("flows/a#b/7", "owner", principal="bob")),
    ],
)
def test_a_relation_is_written_as_it_is_read(text: str, relation: Relation) -> None:
    assert Relation.parse(text) == relation
    assert str(relation) == text


@pytest.mark.parametrize(
    "text", ["", "assessments/42", "a/1#r", "a/1#r@alice", "a/1#r@robot:r2", "#r@user:a", "a/1#@user:a"]
)
def test_what_is_no_relation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no relation; write"):
        Relation.parse(text)


def test_relations_are_sent_as_they_are(door: Door, client: Client) -> None:
    door.will("WriteRelations", pb.WriteRelationsResponse(written=1, revision=7))
    changed = client.write_relations([ALICE, STAFF], keyspace="faction", organization="acme")
    assert (changed.count, changed.revision) == (1, 7)
    first, second = door.last.request.relations
    assert (first.resource, first.relation, first.principal) == ("assessments/42", "assigned", "alice@acme.example")
    assert (second.WhichOneof("subject"), second.group) == ("group", "staff")
    assert (door.last.request.keyspace, door.last.request.organization) == ("faction", "acme")
    door.will("DeleteRelations", pb.DeleteRelationsResponse(deleted=2, revision=8))
    assert client.delete_relations([ALICE, STAFF], keyspace="faction").count == 2
    for nobody in (Relation("a/1", "r"), Relation("a/1", "r", "alice", "staff")):
        with pytest.raises(ValueError, match="one of principal and group"):
            facts.write_relations([nobody], keyspace="faction")


def test_relations_come_in_pages(door: Door, client: Client) -> None:
    def page(request: Any) -> pb.ListRelationsResponse:
        subject = {"group": "staff"} if request.page_token else {"principal": "alice@acme.example"}
        name = "contact" if request.page_token else "assigned"
        relation = pb.Relation(resource="assessments/42", relation=name, created_at=AT, **subject)
        return pb.ListRelationsResponse(relations=[relation], next_page_token="" if request.page_token else "more")

    door.will("ListRelations", page)
    found = list(client.list_relations(keyspace="faction", principal="alice", page_size=1))
    assert found == [ALICE, STAFF]
    assert found[0].created_at == datetime.fromtimestamp(AT.seconds, UTC)
    assert door.last.request.principal == "alice"


def test_a_resource_is_put_and_read(door: Door, client: Client) -> None:
    stored = pb.StoredResource(
        organization="acme", keyspace="faction", resource="vulnerabilities/7", parent="assessments/42",
        attributes={"open": pb.AttributeValue(flag=True)}, created_at=AT, updated_at=AT, etag="2",
    )  # fmt: skip
    door.will("PutResource", pb.PutResourceResponse(resource=stored, revision=9))
    made = client.put_resource(
        "vulnerabilities/7", keyspace="faction", attributes={"open": True}, parent="assessments/42", etag="1"
    )
    sent = door.last.request.resource
    assert (sent.resource, sent.parent, sent.etag, sent.attributes["open"].flag) == (
        "vulnerabilities/7", "assessments/42", "1", True
    )  # fmt: skip
    at = datetime.fromtimestamp(AT.seconds, UTC)
    assert made == StoredResource(
        organization="acme", keyspace="faction", resource="vulnerabilities/7", attributes={"open": True},
        parent="assessments/42", created_at=at, updated_at=at, etag="2",
    )  # fmt: skip
    assert made.revision == 9
    door.will("GetResource", pb.GetResourceResponse(resource=stored))
    assert client.get_resource("vulnerabilities/7", keyspace="faction") == made
    door.will("DeleteResource", pb.DeleteResourceResponse(relations=3, revision=10))
    gone = client.delete_resource("vulnerabilities/7", keyspace="faction")
    assert (gone.count, gone.revision) == (3, 10)


def test_members_are_principals_and_groups(door: Door, client: Client) -> None:
    members = [pb.GroupMember(group="admins"), pb.GroupMember(principal="alice")]
    door.will("ListGroupMembers", pb.ListGroupMembersResponse(members=members))
    assert list(client.list_group_members("staff")) == [GroupMember(group="admins"), GroupMember(principal="alice")]
    client.add_group_member("staff", member_group="admins")
    assert (door.last.request.principal, door.last.request.member_group) == ("", "admins")
    client.remove_group_member("staff", "alice")
    assert (door.last.request.principal, door.last.request.member_group) == ("alice", "")
    door.will("DeletePrincipal", pb.DeletePrincipalResponse(keys=2, revision=3, relations=4))
    assert client.delete_principal("alice").relations == 4


def test_bindings_have_conditions(door: Door, client: Client) -> None:
    made: Any = groups.create_binding(keyspace="aiia", role="r", group="staff", condition="a == b").request
    assert groups.read_binding(made.binding).condition == "a == b"
    cleared: Any = groups.update_binding("bnd_1", condition="").request
    assert list(cleared.update_mask.paths) == ["condition"]
    kept: Any = groups.update_binding("bnd_1", resources=["x"]).request
    assert list(kept.update_mask.paths) == ["resources"]
    binding = KeyBinding("runner", ("flows/*",), condition="a == b")
    assert keys.write_binding(binding).condition == "a == b"


def test_the_command_line_keeps_relations(run: Run, door: Door) -> None:
    door.will("WriteRelations", pb.WriteRelationsResponse(written=1))
    done = run("relations", "write", str(ALICE), str(STAFF), "--keyspace", "faction", "--organization", "acme")
    assert (done.exit_code, done.stderr) == (0, "1 of 2 are new.\n")
    assert [it.relation for it in door.last.request.relations] == ["assigned", "contact"]
    done = run("relations", "write", "nonsense", "--keyspace", "faction")
    assert done.exit_code != 0
    assert "is no relation" in done.stderr
    door.will("DeleteRelations", pb.DeleteRelationsResponse(deleted=1))
    assert run("relations", "delete", str(ALICE), "--keyspace", "faction").stderr == "1 of 1 are deleted.\n"
    relation = pb.Relation(resource="assessments/42", relation="contact", group="staff", created_at=AT)
    door.will("ListRelations", pb.ListRelationsResponse(relations=[relation]))
    told = run("relations", "list", "--keyspace", "faction", "--group", "staff", "--output", "json").stdout
    assert json.loads(told)[0]["group"] == "staff"
    assert "assessments/42" in run("relations", "list", "--keyspace", "faction").stdout


def test_the_command_line_keeps_resources(run: Run, door: Door) -> None:
    stored = pb.StoredResource(resource="flows/1", attributes={"published": pb.AttributeValue(flag=False)})
    door.will("PutResource", pb.PutResourceResponse(resource=stored))
    done = run("resources", "put", "flows/1", "--keyspace", "ft", "--attribute", "published=false", "--parent", "a/1")
    assert done.exit_code == 0
    assert "published=no" in done.stdout
    sent = door.last.request.resource
    assert (sent.attributes["published"].WhichOneof("value"), sent.parent) == ("flag", "a/1")
    door.will("GetResource", pb.GetResourceResponse(resource=stored))
    assert "flows/1" in run("resources", "show", "flows/1", "--keyspace", "ft").stdout
    door.will("ListResources", pb.ListResourcesResponse(resources=[stored]))
    assert "published=no" in run("resources", "list", "--keyspace", "ft", "--type", "flows").stdout
    assert door.last.request.type == "flows"
    door.will("DeleteResource", pb.DeleteResourceResponse(relations=2))
    done = run("resources", "delete", "flows/1", "--keyspace", "ft", "--yes")
    assert done.stderr == "Resource flows/1 is deleted, with 2 relations to it.\n"


def test_the_command_line_puts_groups_into_groups(run: Run, door: Door) -> None:
    assert run("groups", "add", "staff", "--member-group", "admins").stderr == "admins is in staff.\n"
    assert door.last.request.member_group == "admins"
    assert run("groups", "remove", "staff", "alice").stderr == "alice is not in staff.\n"
    door.will("ListGroupMembers", pb.ListGroupMembersResponse(members=[pb.GroupMember(group="admins")]))
    assert "admins" in run("groups", "members", "staff").stdout
    run("bindings", "create", "--keyspace", "aiia", "--role", "r", "--group", "staff", "--condition", "a == b")
    assert door.last.request.binding.condition == "a == b"
    door.will("ListBindings", pb.ListBindingsResponse(bindings=[pb.Binding(id="bnd_1", condition="a == b")]))
    assert "ONLY IF" in run("bindings", "list").stdout
