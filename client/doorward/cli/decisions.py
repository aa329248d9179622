"""doorward authorize, doorward whoami."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from doorward.cli.output import labelled, show
from doorward.cli.session import Session, plain
from doorward.model import Ceiling, Identity, Principal


def authorize(
    ctx: typer.Context,
    action: Annotated[str, typer.Argument(help="What is to be done, e.g. findings:read.")],
    keyspace: Annotated[str, typer.Option(help="The keyspace of the key.")],
    resource: Annotated[str | None, typer.Argument(help="What to, e.g. findings/42. Default: the collection.")] = None,
    presented_key: Annotated[
        str, typer.Option(metavar="FILE", help="File with the key to judge; '-' is standard input, or a prompt.")
    ] = "-",
    principal: Annotated[
        str | None, typer.Option(help="Judge this principal, e.g. acme/alice, instead of a key.")
    ] = None,
    environment: Annotated[str, typer.Option(help="Default: the keyspace's.")] = "",
    client_ip: Annotated[str, typer.Option(help="Where the request comes from.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Leave no trace in last use.")] = False,
) -> None:
    """Ask whether the holder of a key may do something. Exit code 0: allowed, 1: denied, 2: could not ask.

    --organization is the one that owns the resource.
    """
    session: Session = ctx.obj
    decision = session.client.authorize(
        None if principal else _presented(presented_key),
        keyspace=keyspace,
        action=action,
        resource=resource,
        organization=session.organization,
        environment=environment,
        client_ip=client_ip,
        principal=principal,
        dry_run=dry_run,
    )
    if session.json:
        show(session, decision)
    else:
        print(plain(f"{'ALLOWED' if decision else f'DENIED {decision.reason}'}: {decision.message}"))
    raise typer.Exit(0 if decision else 1)


def whoami(ctx: typer.Context) -> None:
    """Show who your own key belongs to."""
    session: Session = ctx.obj
    identity = session.client.whoami()
    if session.json:
        show(session, identity)
    else:
        labelled(_told(identity))


def _told(identity: Identity) -> dict[str, Any]:
    """Return what is known of the caller, by labels for people."""
    owner = identity.owner
    return {
        "key": identity.key_id,
        "name": identity.key_name,
        "shown as": identity.masked_key,
        "organization": identity.organization,
        "owner": _person(owner) if owner else "nobody: it belongs to the organization alone",
        "owner's roles": identity.roles if owner else None,
        "rights": "all that its owner has" if identity.ceiling is Ceiling.OWNER else "its own scopes and bindings",
        "scopes": None if identity.ceiling is Ceiling.OWNER else identity.scopes,
        "environment": identity.environment,
        "type": identity.key_type or None,
        "metadata": identity.metadata or None,
        "API version": identity.api_version or None,
        "expires": identity.expires_at or "never",
    }


def _person(owner: Principal) -> str:
    kind = owner.kind.lower().replace("_", " ")
    names = ", ".join(filter(None, [owner.display_name, owner.email, kind, "" if owner.enabled else "disabled"]))
    return f"{owner.id} ({names})"


def _presented(file: str) -> str:
    """Return the key's text, exactly, but for the line end that files have."""
    if file != "-":
        text = Path(file).read_bytes().decode("utf-8", "replace")
    elif sys.stdin.isatty():
        text = getpass.getpass("Key: ", sys.stderr)
    else:
        text = sys.stdin.readline()
    return text.removesuffix("\n").removesuffix("\r")
