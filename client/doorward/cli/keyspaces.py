"""doorward keyspaces …"""

# ruff: noqa: PT028  # a command is no test

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from doorward import errors
from doorward.cli import keyspace_files
from doorward.cli.output import changed, jsonable, listed, show, write_json
from doorward.cli.session import Session, exit_code, plain, tell
from doorward.cli.words import NoWait
from doorward.model import KeyspaceTestResult

app = typer.Typer(help="API products, one YAML file each.", no_args_is_help=True)


@app.command("apply")
def apply_keyspace(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="The YAML file; '-' is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and compare, but change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Although its tests fail or keys are stranded.")] = False,
    etag: Annotated[str, typer.Option(help="Change nothing unless this is still the etag.")] = "",
    no_wait: NoWait = False,
) -> None:
    """Make a keyspace what a file says. Writes the difference; in words to standard error."""
    session: Session = ctx.obj
    with _about(file):
        applied = session.client.apply_keyspace(_text(file), dry_run=dry_run, force=force, etag=etag, no_wait=no_wait)
    if session.json:
        show(session, applied)
    else:
        print(plain(applied.diff), end="")
    for change in applied.changes:
        tell(change)
    failed = _tell_failures(applied.tests)
    for it in applied.stranded:
        tell(f"Strands {_counted(it.keys, 'key')} and {_counted(it.bindings, 'binding')}: {it.field}: {it.why}.")
    outcome = f"{applied.outcome.lower()}{' (dry run)' if dry_run else ''}"
    changed(f"Keyspace {applied.keyspace.name}: {outcome}", applied.propagation)
    if dry_run and not force and (failed or applied.stranded):
        tell("It would be refused without --force.")
        raise typer.Exit(5)


@app.command("test")
def test_keyspace(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="A YAML file; '-' is standard input. No server is needed.")] = "",
    applied: Annotated[str, typer.Option(help="Instead: the name of a keyspace, as the server has it.")] = "",
) -> None:
    """Run the tests in a keyspace file."""
    session: Session = ctx.obj
    if bool(file) == bool(applied):
        raise typer.BadParameter("give a file, or --applied NAME")
    if applied:
        results = session.client.test_keyspace(name=applied)
    else:
        results = keyspace_files.run_tests(_text(file), file)
    if session.json:
        write_json(jsonable(results))
    failed = _tell_failures(results)
    tell(f"{len(results) - failed} passed, {failed} failed.")
    if failed:
        raise typer.Exit(1)


@app.command("schema")
def schema() -> None:
    """Write the JSON Schema of keyspace files, with which editors check and complete them."""
    print(keyspace_files.schema(), end="")


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


def _text(file: str) -> str:
    return sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")


@contextmanager
def _about(file: str) -> Iterator[None]:
    """Name the file in what is wrong with it."""
    try:
        yield
    except (errors.KeyspaceInvalid, errors.KeyspaceTestsFailed) as problem:
        tell(f"{file}: {problem.message}")
        raise typer.Exit(exit_code(problem)) from None


def _tell_failures(results: Sequence[KeyspaceTestResult]) -> int:
    """Tell each question that is answered otherwise than expected; return how many there are."""
    failed = [it for it in results if not it.passed]
    for it in failed:
        tell(f"line {it.line}: {it.name}: {it.asked}: {it.problem}")
    return len(failed)


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
