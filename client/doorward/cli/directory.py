"""doorward organizations …, doorward principals …"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from doorward.cli.output import changed, listed, show
from doorward.cli.session import Session, tell
from doorward.cli.words import Attributes, Enabled, Etag, NoWait, PageSize, Yes, facts, given
from doorward.model import PrincipalKind

organizations = typer.Typer(help="Tenants: everything belongs to one, and nothing crosses.", no_args_is_help=True)
principals = typer.Typer(help="Users and service accounts of an organization.", no_args_is_help=True)

DisplayName = Annotated[str | None, typer.Option(help="What people call it.")]
Email = Annotated[str | None, typer.Option(help="Handed out with decisions, never written to.")]


class Kind(StrEnum):
    """Kinds of principals, as one types them."""

    USER = "user"
    SERVICE_ACCOUNT = "service-account"


@organizations.command("create")
def create_organization(
    ctx: typer.Context, id: str, display_name: DisplayName = None, attribute: Attributes = None
) -> None:
    """Make an organization."""
    session: Session = ctx.obj
    show(session, session.client.create_organization(id, display_name=display_name or "", attributes=facts(attribute)))


@organizations.command("list")
def list_organizations(ctx: typer.Context, page_size: PageSize = 0) -> None:
    """List all organizations."""
    session: Session = ctx.obj
    columns = {"ID": "id", "DISPLAY NAME": "display_name", "ENABLED": "enabled", "CREATED": "created_at"}
    listed(session, session.client.list_organizations(page_size=page_size), columns)


@organizations.command("show")
def show_organization(ctx: typer.Context, id: Annotated[str, typer.Argument()] = "") -> None:
    """Show an organization; without an id, your own."""
    session: Session = ctx.obj
    show(session, session.client.get_organization(id or session.organization))


@organizations.command("update")
def update_organization(
    ctx: typer.Context,
    id: str,
    display_name: DisplayName = None,
    attribute: Attributes = None,
    enabled: Enabled = None,
    etag: Etag = "",
    no_wait: NoWait = False,
) -> None:
    """Change what is given; attributes are replaced as a whole."""
    session: Session = ctx.obj
    changes = given(display_name=display_name, attributes=facts(attribute) if attribute else None, enabled=enabled)
    organization = session.client.update_organization(id, etag=etag, no_wait=no_wait, **changes)
    show(session, organization)
    _tell_keys(enabled, organization.keys)


@organizations.command("delete")
def delete_organization(ctx: typer.Context, id: str, yes: Yes = False, no_wait: NoWait = False) -> None:
    """End an organization for good, and with it every key that it has."""
    session: Session = ctx.obj
    session.confirm(f"End the organization {id!r} for good, with all its keys", yes)
    ended = session.client.delete_organization(id, no_wait=no_wait)
    changed(f"Organization {id} is deleted, and {ended.keys} keys of it work no more", ended.propagation)


@principals.command("create")
def create_principal(
    ctx: typer.Context,
    id: str,
    kind: Annotated[Kind, typer.Option(help="What it is, for good.")] = Kind.USER,
    display_name: DisplayName = None,
    email: Email = None,
    attribute: Attributes = None,
) -> None:
    """Make a principal."""
    session: Session = ctx.obj
    principal = session.client.create_principal(
        id,
        organization=session.organization,
        kind=PrincipalKind[kind.name],
        display_name=display_name or "",
        email=email or "",
        attributes=facts(attribute),
    )
    show(session, principal)


@principals.command("list")
def list_principals(ctx: typer.Context, page_size: PageSize = 0) -> None:
    """List the principals of an organization."""
    session: Session = ctx.obj
    columns = {"ID": "id", "KIND": "kind", "DISPLAY NAME": "display_name", "EMAIL": "email", "ENABLED": "enabled"}
    listed(session, session.client.list_principals(organization=session.organization, page_size=page_size), columns)


@principals.command("show")
def show_principal(ctx: typer.Context, id: str) -> None:
    """Show a principal."""
    session: Session = ctx.obj
    show(session, session.client.get_principal(id, organization=session.organization))


@principals.command("update")
def update_principal(
    ctx: typer.Context,
    id: str,
    display_name: DisplayName = None,
    email: Email = None,
    attribute: Attributes = None,
    enabled: Enabled = None,
    etag: Etag = "",
    no_wait: NoWait = False,
) -> None:
    """Change what is given; attributes are replaced as a whole."""
    session: Session = ctx.obj
    attributes = facts(attribute) if attribute else None
    changes = given(display_name=display_name, email=email, attributes=attributes, enabled=enabled)
    principal = session.client.update_principal(
        id, organization=session.organization, etag=etag, no_wait=no_wait, **changes
    )
    show(session, principal)
    _tell_keys(enabled, principal.keys)


@principals.command("delete")
def delete_principal(ctx: typer.Context, id: str, yes: Yes = False, no_wait: NoWait = False) -> None:
    """End a principal for good, and revoke every key that it owns."""
    session: Session = ctx.obj
    session.confirm(f"End the principal {id!r} for good, and revoke all its keys", yes)
    ended = session.client.delete_principal(id, organization=session.organization, no_wait=no_wait)
    gone = f"{ended.keys} keys were revoked with it, and {ended.relations} relations went"
    changed(f"Principal {id} is deleted: {gone}", ended.propagation)


def _tell_keys(enabled: bool | None, keys: int | None) -> None:
    if enabled is not None:
        tell(f"{keys} keys {'work again' if enabled else 'work no more, until it is enabled again'}.")
