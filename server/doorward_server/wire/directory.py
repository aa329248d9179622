"""DirectoryService on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doorward.v1 import directory_pb2 as pb
from doorward_server.core.directory import (
    Binding,
    Group,
    Organization,
    Principal,
    PrincipalKind,
    Relation,
    Resource,
    SubjectKind,
)
from doorward_server.core.errors import InvalidField
from doorward_server.service.directory import Directory
from doorward_server.service.facts import MOST, Facts
from doorward_server.service.guard import Caller
from doorward_server.service.pool import Pool
from doorward_server.service.roles import Member, Roles
from doorward_server.wire.convert import (
    KINDS,
    bounded,
    from_attributes,
    from_enum,
    from_texts,
    from_timestamp,
    masked,
    to_attributes,
    to_binding,
    to_group,
    to_organization,
    to_principal,
    to_propagation,
    to_timestamp,
)


class DirectoryServicer:
    """Parses, calls `Directory`, `Roles` and `Facts` on the management pool, converts."""

    def __init__(self, directory: Directory, roles: Roles, facts: Facts, management: Pool) -> None:
        self._directory = directory
        self._roles = roles
        self._facts = facts
        self._run = management.run

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, caller: Caller
    ) -> pb.CreateOrganizationResponse:
        given = request.organization
        attributes = from_attributes("organization.attributes", given.attributes)
        new = Organization(given.id, given.display_name, attributes, True, 0, 0)
        written = await self._run(self._directory.create_organization, caller, new)
        return pb.CreateOrganizationResponse(
            organization=to_organization(written.value),
            revision=written.revision,
            propagation=to_propagation(nothing_to_drop=True),
        )

    async def GetOrganization(self, request: pb.GetOrganizationRequest, caller: Caller) -> pb.GetOrganizationResponse:
        organization = await self._run(self._directory.get_organization, caller, request.id)
        return pb.GetOrganizationResponse(organization=to_organization(organization))

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, caller: Caller
    ) -> pb.ListOrganizationsResponse:
        rows, token = await self._run(self._directory.list_organizations, caller, request.page_size, request.page_token)
        return pb.ListOrganizationsResponse(organizations=map(to_organization, rows), next_page_token=token)

    async def UpdateOrganization(
        self, request: pb.UpdateOrganizationRequest, caller: Caller
    ) -> pb.UpdateOrganizationResponse:
        given = request.organization
        settings = masked(given, request.update_mask, _ORGANIZATION)
        written, keys = await self._run(self._directory.update_organization, caller, given.id, settings, given.etag)
        return pb.UpdateOrganizationResponse(
            organization=to_organization(written.value), keys=keys, revision=written.revision
        )

    async def DeleteOrganization(
        self, request: pb.DeleteOrganizationRequest, caller: Caller
    ) -> pb.DeleteOrganizationResponse:
        written, keys = await self._run(self._directory.delete_organization, caller, request.id)
        return pb.DeleteOrganizationResponse(keys=keys, revision=written.revision)

    async def CreatePrincipal(self, request: pb.CreatePrincipalRequest, caller: Caller) -> pb.CreatePrincipalResponse:
        given = request.principal
        new = Principal(
            organization=given.organization,
            id=given.id,
            kind=from_enum("principal.kind", given.kind, KINDS, PrincipalKind.USER),
            display_name=given.display_name,
            email=given.email,
            attributes=from_attributes("principal.attributes", given.attributes),
            enabled=True,
            created_at=0,
            updated_at=0,
        )
        written = await self._run(self._directory.create_principal, caller, new)
        return pb.CreatePrincipalResponse(
            principal=to_principal(written.value),
            revision=written.revision,
            propagation=to_propagation(nothing_to_drop=True),
        )

    async def GetPrincipal(self, request: pb.GetPrincipalRequest, caller: Caller) -> pb.GetPrincipalResponse:
        principal = await self._run(self._directory.get_principal, caller, request.organization, request.id)
        return pb.GetPrincipalResponse(principal=to_principal(principal))

    async def ListPrincipals(self, request: pb.ListPrincipalsRequest, caller: Caller) -> pb.ListPrincipalsResponse:
        rows, token = await self._run(
            self._directory.list_principals, caller, request.organization, request.page_size, request.page_token
        )
        return pb.ListPrincipalsResponse(principals=map(to_principal, rows), next_page_token=token)

    async def UpdatePrincipal(self, request: pb.UpdatePrincipalRequest, caller: Caller) -> pb.UpdatePrincipalResponse:
        given = request.principal
        settings = masked(given, request.update_mask, _PRINCIPAL)
        written, keys = await self._run(
            self._directory.update_principal, caller, given.organization, given.id, settings, given.etag
        )
        return pb.UpdatePrincipalResponse(principal=to_principal(written.value), keys=keys, revision=written.revision)

    async def DeletePrincipal(self, request: pb.DeletePrincipalRequest, caller: Caller) -> pb.DeletePrincipalResponse:
        ended = await self._run(self._directory.delete_principal, caller, request.organization, request.id)
        return pb.DeletePrincipalResponse(keys=ended.keys, revision=ended.revision, relations=ended.relations)

    async def CreateGroup(self, request: pb.CreateGroupRequest, caller: Caller) -> pb.CreateGroupResponse:
        given = request.group
        new = Group(given.organization, given.id, given.display_name, 0, 0)
        written = await self._run(self._roles.create_group, caller, new)
        return pb.CreateGroupResponse(
            group=to_group(written.value), revision=written.revision, propagation=to_propagation(nothing_to_drop=True)
        )

    async def GetGroup(self, request: pb.GetGroupRequest, caller: Caller) -> pb.GetGroupResponse:
        group = await self._run(self._roles.get_group, caller, request.organization, request.id)
        return pb.GetGroupResponse(group=to_group(group))

    async def ListGroups(self, request: pb.ListGroupsRequest, caller: Caller) -> pb.ListGroupsResponse:
        rows, token = await self._run(
            self._roles.list_groups, caller, request.organization, request.page_size, request.page_token
        )
        return pb.ListGroupsResponse(groups=map(to_group, rows), next_page_token=token)

    async def UpdateGroup(self, request: pb.UpdateGroupRequest, caller: Caller) -> pb.UpdateGroupResponse:
        given = request.group
        settings = masked(given, request.update_mask, _GROUP)
        written = await self._run(self._roles.update_group, caller, given.organization, given.id, settings, given.etag)
        return pb.UpdateGroupResponse(group=to_group(written.value), revision=written.revision)

    async def DeleteGroup(self, request: pb.DeleteGroupRequest, caller: Caller) -> pb.DeleteGroupResponse:
        relations, revision = await self._run(self._roles.delete_group, caller, request.organization, request.id)
        return pb.DeleteGroupResponse(revision=revision, relations=relations)

    async def AddGroupMember(self, request: pb.AddGroupMemberRequest, caller: Caller) -> pb.AddGroupMemberResponse:
        written = await self._run(
            self._roles.add_group_member, caller, request.organization, request.group, _member(request)
        )
        return pb.AddGroupMemberResponse(revision=written.revision)

    async def RemoveGroupMember(
        self, request: pb.RemoveGroupMemberRequest, caller: Caller
    ) -> pb.RemoveGroupMemberResponse:
        written = await self._run(
            self._roles.remove_group_member, caller, request.organization, request.group, _member(request)
        )
        return pb.RemoveGroupMemberResponse(revision=written.revision)

    async def ListGroupMembers(
        self, request: pb.ListGroupMembersRequest, caller: Caller
    ) -> pb.ListGroupMembersResponse:
        rows, token = await self._run(
            self._roles.list_group_members,
            caller,
            request.organization,
            request.group,
            request.page_size,
            request.page_token,
        )
        members = [pb.GroupMember(**{kind.value.lower(): id}) for kind, id in rows]
        return pb.ListGroupMembersResponse(members=members, next_page_token=token)

    async def CreateBinding(self, request: pb.CreateBindingRequest, caller: Caller) -> pb.CreateBindingResponse:
        written = await self._run(self._roles.create_binding, caller, _new_binding(request.binding))
        return pb.CreateBindingResponse(binding=to_binding(written.value), revision=written.revision)

    async def GetBinding(self, request: pb.GetBindingRequest, caller: Caller) -> pb.GetBindingResponse:
        binding = await self._run(self._roles.get_binding, caller, request.organization, request.id)
        return pb.GetBindingResponse(binding=to_binding(binding))

    async def ListBindings(self, request: pb.ListBindingsRequest, caller: Caller) -> pb.ListBindingsResponse:
        rows, token = await self._run(
            self._roles.list_bindings,
            caller,
            request.organization,
            request.principal,
            request.group,
            request.keyspace,
            request.page_size,
            request.page_token,
        )
        return pb.ListBindingsResponse(bindings=map(to_binding, rows), next_page_token=token)

    async def UpdateBinding(self, request: pb.UpdateBindingRequest, caller: Caller) -> pb.UpdateBindingResponse:
        given = request.binding
        settings = masked(given, request.update_mask, _BINDING)
        written = await self._run(
            self._roles.update_binding, caller, given.organization, given.id, settings, given.etag
        )
        return pb.UpdateBindingResponse(binding=to_binding(written.value), revision=written.revision)

    async def DeleteBinding(self, request: pb.DeleteBindingRequest, caller: Caller) -> pb.DeleteBindingResponse:
        written = await self._run(self._roles.delete_binding, caller, request.organization, request.id)
        return pb.DeleteBindingResponse(revision=written.revision)

    async def WriteRelations(self, request: pb.WriteRelationsRequest, caller: Caller) -> pb.WriteRelationsResponse:
        relations = _relations(request.relations)
        written = await self._run(
            self._facts.write_relations, caller, request.organization, request.keyspace, relations
        )
        return pb.WriteRelationsResponse(written=written.value, revision=written.revision)

    async def DeleteRelations(self, request: pb.DeleteRelationsRequest, caller: Caller) -> pb.DeleteRelationsResponse:
        relations = _relations(request.relations)
        written = await self._run(
            self._facts.delete_relations, caller, request.organization, request.keyspace, relations
        )
        return pb.DeleteRelationsResponse(deleted=written.value, revision=written.revision)

    async def ListRelations(self, request: pb.ListRelationsRequest, caller: Caller) -> pb.ListRelationsResponse:
        rows, token = await self._run(
            self._facts.list_relations,
            caller,
            request.organization,
            request.keyspace,
            request.resource,
            request.relation,
            _subject_filter(request),
            request.page_size,
            request.page_token,
        )
        return pb.ListRelationsResponse(relations=map(_to_relation, rows), next_page_token=token)

    async def PutResource(self, request: pb.PutResourceRequest, caller: Caller) -> pb.PutResourceResponse:
        given = request.resource
        attributes = from_attributes("resource.attributes", given.attributes)
        wanted = Resource(given.organization, given.keyspace, given.resource, attributes, given.parent, 0, 0)
        written = await self._run(self._facts.put_resource, caller, wanted, given.etag)
        return pb.PutResourceResponse(resource=_to_resource(written.value), revision=written.revision)

    async def GetResource(self, request: pb.GetResourceRequest, caller: Caller) -> pb.GetResourceResponse:
        found = await self._run(
            self._facts.get_resource, caller, request.organization, request.keyspace, request.resource
        )
        return pb.GetResourceResponse(resource=_to_resource(found))

    async def ListResources(self, request: pb.ListResourcesRequest, caller: Caller) -> pb.ListResourcesResponse:
        rows, token = await self._run(
            self._facts.list_resources,
            caller,
            request.organization,
            request.keyspace,
            request.type,
            request.parent,
            request.page_size,
            request.page_token,
        )
        return pb.ListResourcesResponse(resources=map(_to_resource, rows), next_page_token=token)

    async def DeleteResource(self, request: pb.DeleteResourceRequest, caller: Caller) -> pb.DeleteResourceResponse:
        written = await self._run(
            self._facts.delete_resource, caller, request.organization, request.keyspace, request.resource
        )
        return pb.DeleteResourceResponse(relations=written.value, revision=written.revision)


_ORGANIZATION: dict[str, Any] = {
    "display_name": lambda m: m.display_name,
    "attributes": lambda m: from_attributes("organization.attributes", m.attributes),
    "enabled": lambda m: m.enabled,
}
_PRINCIPAL: dict[str, Any] = {
    "display_name": lambda m: m.display_name,
    "email": lambda m: m.email,
    "attributes": lambda m: from_attributes("principal.attributes", m.attributes),
    "enabled": lambda m: m.enabled,
}
_GROUP: dict[str, Any] = {"display_name": lambda m: m.display_name}
_BINDING: dict[str, Any] = {
    "resources": lambda m: tuple(m.resources),
    "not_before": lambda m: from_timestamp("binding.not_before", m, "not_before"),
    "expires_at": lambda m: from_timestamp("binding.expires_at", m, "expires_at"),
    "condition": lambda m: m.condition,
}


def _new_binding(given: pb.Binding) -> Binding:
    subject = given.WhichOneof("subject")
    if subject is None:
        raise InvalidField("binding.subject", "is required: principal or group")
    return Binding(
        organization=given.organization,
        id="",
        subject_kind=SubjectKind(subject.upper()),
        subject=given.principal or given.group,
        keyspace=given.keyspace,
        role=given.role,
        resources=from_texts("binding.resources", given.resources),
        not_before=from_timestamp("binding.not_before", given, "not_before"),
        expires_at=from_timestamp("binding.expires_at", given, "expires_at"),
        created_at=0,
        updated_at=0,
        condition=given.condition,
    )


def _member(given: pb.AddGroupMemberRequest | pb.RemoveGroupMemberRequest) -> Member:
    if bool(given.principal) == bool(given.member_group):
        raise InvalidField("principal", "is required, or member_group, and not both")
    kind = SubjectKind.GROUP if given.member_group else SubjectKind.PRINCIPAL
    return kind, given.principal or given.member_group


def _relations(given: Sequence[pb.Relation]) -> list[Relation]:
    return [_relation(f"relations[{i}]", it) for i, it in enumerate(bounded("relations", given, MOST))]


def _relation(field: str, given: pb.Relation) -> Relation:
    subject = given.WhichOneof("subject")
    if subject is None:
        raise InvalidField(f"{field}.subject", "is required: principal or group")
    kind = SubjectKind(subject.upper())
    return Relation("", "", given.resource, given.relation, kind, given.principal or given.group, 0)


def _subject_filter(given: pb.ListRelationsRequest) -> Member | None:
    if given.principal and given.group:
        raise InvalidField("group", "must be empty: a relation has one subject, and principal is given")
    if given.group:
        return SubjectKind.GROUP, given.group
    return (SubjectKind.PRINCIPAL, given.principal) if given.principal else None


def _to_relation(relation: Relation) -> pb.Relation:
    return pb.Relation(
        resource=relation.resource,
        relation=relation.relation,
        created_at=to_timestamp(relation.created_at),
        **{relation.subject_kind.value.lower(): relation.subject},
    )


def _to_resource(stored: Resource) -> pb.StoredResource:
    return pb.StoredResource(
        organization=stored.organization,
        keyspace=stored.keyspace,
        resource=stored.resource,
        attributes=to_attributes(stored.attributes),
        parent=stored.parent,
        created_at=to_timestamp(stored.created_at),
        updated_at=to_timestamp(stored.updated_at),
        etag=str(stored.version),
    )
