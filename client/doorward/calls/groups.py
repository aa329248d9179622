"""DirectoryService: groups and bindings, which give roles to principals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Unpack

from doorward.calls import Call, Pages
from doorward.calls.values import KEEP, Effect, Keep, effect, given, instant, instant_or_none, mask, timestamp
from doorward.model import Binding, Changed, Group, GroupMember
from doorward.v1 import directory_pb2 as pb


def create_group(
    id: str, *, organization: str = "", display_name: str = "", no_wait: bool = False, timeout: float | None = None
) -> Call[pb.CreateGroupResponse, Group]:
    """Make a group, without members. No organization means the caller's own, here as below."""
    return Call(
        pb.CreateGroupRequest(
            group=pb.Group(id=id, organization=organization, display_name=display_name), no_wait=no_wait
        ),
        pb.CreateGroupResponse,
        lambda answer: read_group(answer.group, **effect(answer)),
        timeout,
    )


def get_group(id: str, *, organization: str = "", timeout: float | None = None) -> Call[pb.GetGroupResponse, Group]:
    """Return a group."""
    return Call(
        pb.GetGroupRequest(organization=organization, id=id),
        pb.GetGroupResponse,
        lambda answer: read_group(answer.group),
        timeout,
    )


def list_groups(
    *, organization: str = "", page_size: int = 0, timeout: float | None = None
) -> Pages[pb.ListGroupsResponse, Group]:
    """The groups of an organization, by id."""
    return Pages(
        pb.ListGroupsRequest(organization=organization, page_size=page_size),
        pb.ListGroupsResponse,
        lambda answer: map(read_group, answer.groups),
        timeout,
    )


def update_group(
    id: str,
    *,
    organization: str = "",
    display_name: str | Keep = KEEP,
    etag: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.UpdateGroupResponse, Group]:
    """Change what is given."""
    changes = given(display_name=display_name)
    return Call(
        pb.UpdateGroupRequest(
            group=pb.Group(id=id, organization=organization, etag=etag, **changes),
            update_mask=mask(changes),
            no_wait=no_wait,
        ),
        pb.UpdateGroupResponse,
        lambda answer: read_group(answer.group, **effect(answer)),
        timeout,
    )


def delete_group(
    id: str, *, organization: str = "", no_wait: bool = False, timeout: float | None = None
) -> Call[pb.DeleteGroupResponse, Changed]:
    """End a group for good, with its bindings, members, memberships and relations."""
    return Call(
        pb.DeleteGroupRequest(organization=organization, id=id, no_wait=no_wait),
        pb.DeleteGroupResponse,
        lambda answer: Changed(**effect(answer)),
        timeout,
    )


def add_group_member(
    group: str,
    principal: str = "",
    *,
    member_group: str = "",
    organization: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.AddGroupMemberResponse, Changed]:
    """Put a principal, or another group, into a group, and so give it the group's roles.

    Twice is like once. Raises GroupCycle if the group would be in itself.
    """
    return Call(
        pb.AddGroupMemberRequest(
            organization=organization, group=group, principal=principal, member_group=member_group, no_wait=no_wait
        ),
        pb.AddGroupMemberResponse,
        lambda answer: Changed(**effect(answer)),
        timeout,
    )


def remove_group_member(
    group: str,
    principal: str = "",
    *,
    member_group: str = "",
    organization: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.RemoveGroupMemberResponse, Changed]:
    """Take a principal, or another group, out of a group, whether or not it is in it."""
    return Call(
        pb.RemoveGroupMemberRequest(
            organization=organization, group=group, principal=principal, member_group=member_group, no_wait=no_wait
        ),
        pb.RemoveGroupMemberResponse,
        lambda answer: Changed(**effect(answer)),
        timeout,
    )


def list_group_members(
    group: str, *, organization: str = "", page_size: int = 0, timeout: float | None = None
) -> Pages[pb.ListGroupMembersResponse, GroupMember]:
    """The members of a group: groups first, then principals, each by id."""
    return Pages(
        pb.ListGroupMembersRequest(organization=organization, group=group, page_size=page_size),
        pb.ListGroupMembersResponse,
        lambda answer: (GroupMember(principal=it.principal or None, group=it.group or None) for it in answer.members),
        timeout,
    )


def create_binding(
    *,
    keyspace: str,
    role: str,
    principal: str | None = None,
    group: str | None = None,
    resources: Sequence[str] = (),
    not_before: datetime | None = None,
    expires_at: datetime | None = None,
    condition: str = "",
    organization: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.CreateBindingResponse, Binding]:
    """Give a principal or a group a role of a keyspace, on some resources (none given: on every one), for some time.

    With a condition, in CEL, it counts only where that holds.
    """
    binding = pb.Binding(
        organization=organization,
        keyspace=keyspace,
        role=role,
        resources=resources,
        not_before=timestamp("not_before", not_before),
        expires_at=timestamp("expires_at", expires_at),
        condition=condition,
        **subject(principal, group),
    )
    return Call(
        pb.CreateBindingRequest(binding=binding, no_wait=no_wait),
        pb.CreateBindingResponse,
        lambda answer: read_binding(answer.binding, **effect(answer)),
        timeout,
    )


def get_binding(
    id: str, *, organization: str = "", timeout: float | None = None
) -> Call[pb.GetBindingResponse, Binding]:
    """Return a binding."""
    return Call(
        pb.GetBindingRequest(organization=organization, id=id),
        pb.GetBindingResponse,
        lambda answer: read_binding(answer.binding),
        timeout,
    )


def list_bindings(
    *,
    organization: str = "",
    principal: str = "",
    group: str = "",
    keyspace: str = "",
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[pb.ListBindingsResponse, Binding]:
    """The bindings of an organization for which everything given holds, by id."""
    return Pages(
        pb.ListBindingsRequest(
            organization=organization, principal=principal, group=group, keyspace=keyspace, page_size=page_size
        ),
        pb.ListBindingsResponse,
        lambda answer: map(read_binding, answer.bindings),
        timeout,
    )


def update_binding(
    id: str,
    *,
    organization: str = "",
    resources: Sequence[str] | Keep = KEEP,
    not_before: datetime | Keep | None = KEEP,
    expires_at: datetime | Keep | None = KEEP,
    condition: str | Keep = KEEP,
    etag: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.UpdateBindingResponse, Binding]:
    """Change what is given; None lifts a bound in time, an empty text a condition."""
    changes = given(
        resources=resources,
        not_before=not_before if not_before is KEEP else timestamp("not_before", not_before),
        expires_at=expires_at if expires_at is KEEP else timestamp("expires_at", expires_at),
        condition=condition,
    )
    return Call(
        pb.UpdateBindingRequest(
            binding=pb.Binding(id=id, organization=organization, etag=etag, **changes),
            update_mask=mask(changes),
            no_wait=no_wait,
        ),
        pb.UpdateBindingResponse,
        lambda answer: read_binding(answer.binding, **effect(answer)),
        timeout,
    )


def delete_binding(
    id: str, *, organization: str = "", no_wait: bool = False, timeout: float | None = None
) -> Call[pb.DeleteBindingResponse, Changed]:
    """Take a role away again."""
    return Call(
        pb.DeleteBindingRequest(organization=organization, id=id, no_wait=no_wait),
        pb.DeleteBindingResponse,
        lambda answer: Changed(**effect(answer)),
        timeout,
    )


def subject(principal: str | None, group: str | None) -> dict[str, Any]:
    """Return the field that says who it is. Raises ValueError unless it is one."""
    if (principal is None) == (group is None):
        raise ValueError("give one of principal and group: there is one subject")
    return {"group": group} if principal is None else {"principal": principal}


def read_group(group: pb.Group, **written: Unpack[Effect]) -> Group:
    return Group(
        organization=group.organization,
        id=group.id,
        display_name=group.display_name,
        created_at=instant(group.created_at),
        updated_at=instant(group.updated_at),
        etag=group.etag,
        **written,
    )


def read_binding(binding: pb.Binding, **written: Unpack[Effect]) -> Binding:
    return Binding(
        id=binding.id,
        organization=binding.organization,
        principal=binding.principal if binding.HasField("principal") else None,
        group=binding.group if binding.HasField("group") else None,
        keyspace=binding.keyspace,
        role=binding.role,
        resources=tuple(binding.resources),
        not_before=instant_or_none(binding, "not_before"),
        expires_at=instant_or_none(binding, "expires_at"),
        created_at=instant(binding.created_at),
        updated_at=instant(binding.updated_at),
        etag=binding.etag,
        condition=binding.condition,
        **written,
    )
