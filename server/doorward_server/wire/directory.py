"""DirectoryService on the wire."""

from __future__ import annotations

from typing import Any

from doorward.v1 import directory_pb2 as pb
from doorward_server.core.errors import InvalidField
from doorward_server.core.model import Binding, Group, Organization, Principal, PrincipalKind, SubjectKind
from doorward_server.service.directory import Directory
from doorward_server.service.guard import Caller
from doorward_server.service.pool import Pool
from doorward_server.service.roles import Roles
from doorward_server.wire.convert import (
    KINDS,
    from_attributes,
    from_enum,
    from_texts,
    from_timestamp,
    masked,
    to_binding,
    to_group,
    to_organization,
    to_principal,
    to_propagation,
)


class DirectoryServicer:
    """Parses, calls `Directory` and `Roles` on the management pool, converts."""

    def __init__(self, directory: Directory, roles: Roles, management: Pool) -> None:
        self._directory = directory
        self._roles = roles
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
        keys, revision = await self._run(self._directory.delete_principal, caller, request.organization, request.id)
        return pb.DeletePrincipalResponse(keys=keys, revision=revision)

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
        written = await self._run(self._roles.delete_group, caller, request.organization, request.id)
        return pb.DeleteGroupResponse(revision=written.revision)

    async def AddGroupMember(self, request: pb.AddGroupMemberRequest, caller: Caller) -> pb.AddGroupMemberResponse:
        written = await self._run(
            self._roles.add_group_member, caller, request.organization, request.group, request.principal
        )
        return pb.AddGroupMemberResponse(revision=written.revision)

    async def RemoveGroupMember(
        self, request: pb.RemoveGroupMemberRequest, caller: Caller
    ) -> pb.RemoveGroupMemberResponse:
        written = await self._run(
            self._roles.remove_group_member, caller, request.organization, request.group, request.principal
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
        members = [pb.GroupMember(principal=principal) for principal in rows]
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
    )
