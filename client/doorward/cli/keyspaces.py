"""doorward keyspaces …"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from doorward.cli.output import changed, listed, show, write_json
from doorward.cli.session import Session, plain
from doorward.cli.words import NoWait

app = typer.Typer(help="API products, one YAML file each.", no_args_is_help=True)


@app.command("apply")
def apply_keyspace(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="The YAML file; '-' is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and compare, but change nothing.")] = False,
    etag: Annotated[str, typer.Option(help="Change nothing unless this is still the etag.")] = "",
    no_wait: NoWait = False,
) -> None:
    """Make a keyspace what a file says. Writes the difference."""
    session: Session = ctx.obj
    source = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    applied = session.client.apply_keyspace(source, dry_run=dry_run, etag=etag, no_wait=no_wait)
    if session.json:
        show(session, applied)
    else:
        print(plain(applied.diff), end="")
    outcome = f"{applied.outcome.lower()}{' (dry run)' if dry_run else ''}"
    changed(f"Keyspace {applied.keyspace.name}: {outcome}", applied.propagation)


@app.command("list")
def list_keyspaces(ctx: typer.Context) -> None:
    """List all keyspaces."""
    session: Session = ctx.obj
    columns = {"NAME": "name", "DISPLAY NAME": "display_name", "PREFIX": "prefix", "ENVIRONMENTS": "environments"}
    listed(session, session.client.list_keyspaces(), columns)


@app.command("show")
def show_keyspace(
    ctx: typer.Context,
    name: str,
    source: Annotated[
        bool, typer.Option("--source", help="Write the file it was made from, and nothing else.")
    ] = False,
) -> None:
    """Show a keyspace."""
    session: Session = ctx.obj
    keyspace = session.client.get_keyspace(name)
    if source:
        print(keyspace.source, end="")
    else:
        show(session, keyspace, hide=["source"])


@app.command("jwks")
def json_web_key_set(ctx: typer.Context, name: str) -> None:
    """Write the public keys that a keyspace's JWT keys can be checked with, as a JSON Web Key Set."""
    session: Session = ctx.obj
    write_json(session.client.get_json_web_key_set(name))
