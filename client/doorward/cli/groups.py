"""doorward groups …, doorward bindings …"""

from __future__ import annotations

from typing import Annotated

import typer

from doorward.cli.output import changed, listed, show
from doorward.cli.session import Session
from doorward.cli.words import NoWait, PageSize, Resources, Yes, instant_or_none

groups = typer.Typer(help="Several principals that hold roles together.", no_args_is_help=True)
bindings = typer.Typer(help="Who holds which role, on what, and when.", no_args_is_help=True)

Principal = Annotated[str, typer.Argument(help="A principal.")]
MemberGroup = Annotated[str, typer.Option(help="Instead of a principal: a group.")]


@groups.command("create")
def create_group(ctx: typer.Context, id: str, display_name: str = "") -> None:
    """Make a group."""
    session: Session = ctx.obj
    show(session, session.client.create_group(id, organization=session.organization, display_name=display_name))


@groups.command("list")
def list_groups(ctx: typer.Context, page_size: PageSize = 0) -> None:
    """List the groups of an organization."""
    session: Session = ctx.obj
    columns = {"ID": "id", "DISPLAY NAME": "display_name", "CREATED": "created_at"}
    listed(session, session.client.list_groups(organization=session.organization, page_size=page_size), columns)


@groups.command("delete")
def delete_group(ctx: typer.Context, id: str, yes: Yes = False, no_wait: NoWait = False) -> None:
    """End a group for good, with its bindings, members, memberships and relations."""
    session: Session = ctx.obj
    session.confirm(f"End the group {id!r} for good", yes)
    deleted = session.client.delete_group(id, organization=session.organization, no_wait=no_wait)
    changed(f"Group {id} is deleted", deleted.propagation)


@groups.command("add")
def add_member(
    ctx: typer.Context,
    group: str,
    principal: Principal = "",
    member_group: MemberGroup = "",
    no_wait: NoWait = False,
) -> None:
    """Put a principal, or with --member-group another group, into a group, and so give it the group's roles."""
    session: Session = ctx.obj
    added = session.client.add_group_member(
        group, principal, member_group=member_group, organization=session.organization, no_wait=no_wait
    )
    changed(f"{principal or member_group} is in {group}", added.propagation)


@groups.command("remove")
def remove_member(
    ctx: typer.Context,
    group: str,
    principal: Principal = "",
    member_group: MemberGroup = "",
    no_wait: NoWait = False,
) -> None:
    """Take a principal, or with --member-group another group, out of a group."""
    session: Session = ctx.obj
    removed = session.client.remove_group_member(
        group, principal, member_group=member_group, organization=session.organization, no_wait=no_wait
    )
    changed(f"{principal or member_group} is not in {group}", removed.propagation)


@groups.command("members")
def list_members(ctx: typer.Context, group: str, page_size: PageSize = 0) -> None:
    """List the members of a group; those of groups in it are not listed."""
    session: Session = ctx.obj
    members = session.client.list_group_members(group, organization=session.organization, page_size=page_size)
    listed(session, members, {"PRINCIPAL": "principal", "GROUP": "group"})


@bindings.command("create")
def create_binding(
    ctx: typer.Context,
    keyspace: Annotated[str, typer.Option(help="The keyspace that has the role; 'doorward' for rights in Doorward.")],
    role: Annotated[str, typer.Option(help="The role.")],
    principal: Annotated[str | None, typer.Option(help="Who gets it: a principal, or …")] = None,
    group: Annotated[str | None, typer.Option(help="… a group.")] = None,
    resource: Resources = None,
    not_before: Annotated[str | None, typer.Option(help="From this instant on.")] = None,
    expires: Annotated[str | None, typer.Option(help="Until this instant.")] = None,
    condition: Annotated[str, typer.Option(metavar="CEL", help="Only where this holds.")] = "",
    no_wait: NoWait = False,
) -> None:
    """Give a principal or a group a role."""
    session: Session = ctx.obj
    binding = session.client.create_binding(
        keyspace=keyspace,
        role=role,
        principal=principal,
        group=group,
        resources=resource or (),
        not_before=instant_or_none(not_before),
        expires_at=instant_or_none(expires),
        condition=condition,
        organization=session.organization,
        no_wait=no_wait,
    )
    show(session, binding)


@bindings.command("list")
def list_bindings(
    ctx: typer.Context,
    principal: Annotated[str, typer.Option(help="Only this principal's.")] = "",
    group: Annotated[str, typer.Option(help="Only this group's.")] = "",
    keyspace: Annotated[str, typer.Option(help="Only this keyspace's.")] = "",
    page_size: PageSize = 0,
) -> None:
    """List the bindings of an organization."""
    session: Session = ctx.obj
    found = session.client.list_bindings(
        organization=session.organization, principal=principal, group=group, keyspace=keyspace, page_size=page_size
    )
    columns = {"ID": "id", "PRINCIPAL": "principal", "GROUP": "group", "KEYSPACE": "keyspace", "ROLE": "role"}
    columns |= {"ONLY ON": "resources", "FROM": "not_before", "UNTIL": "expires_at"}
    listed(session, found, columns, rare={"ONLY IF": "condition"})


@bindings.command("delete")
def delete_binding(ctx: typer.Context, id: str, yes: Yes = False, no_wait: NoWait = False) -> None:
    """Take a role away again."""
    session: Session = ctx.obj
    session.confirm(f"Delete the binding {id!r}", yes)
    deleted = session.client.delete_binding(id, organization=session.organization, no_wait=no_wait)
    changed(f"Binding {id} is deleted", deleted.propagation)
