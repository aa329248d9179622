"""doorward authorize, doorward whoami."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from doorward.cli.output import show
from doorward.cli.session import Session, plain


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
    show(session, session.client.whoami())


def _presented(file: str) -> str:
    """Return the key's text, exactly, but for the line end that files have."""
    if file != "-":
        text = Path(file).read_bytes().decode("utf-8", "replace")
    elif sys.stdin.isatty():
        text = getpass.getpass("Key: ", sys.stderr)
    else:
        text = sys.stdin.readline()
    return text.removesuffix("\n").removesuffix("\r")
