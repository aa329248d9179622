"""doorward scan: looks for keys where they should not be."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from doorward.cli.output import jsonable, write_json
from doorward.cli.session import Session, plain, tell
from doorward.cli.words import BadWord
from doorward.errors import DoorwardError
from doorward.scanning import LARGEST, Finding, Scanner
from doorward.shapes import Shape, Shapes, shapes_of

_MIB = 1 << 20


class Rules(StrEnum):
    """Tools for which rules are written."""

    GITLEAKS = "gitleaks"


def scan(
    ctx: typer.Context,
    path: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH…", help="Files and folders; - is standard input.")
    ] = None,
    keyspace_file: Annotated[
        list[Path] | None, typer.Option(help="A keyspace's file, to need no server; repeatable. Default: ask for all.")
    ] = None,
    git: Annotated[
        bool, typer.Option("--git", help="The paths are git repositories: look into all they ever had.")
    ] = False,
    max_size: Annotated[int, typer.Option(min=1, help="MiB of a file that is looked into.")] = LARGEST // _MIB,
    report: Annotated[
        bool, typer.Option("--report", help="Report each key that is found: its keyspace says what becomes of it.")
    ] = False,
    rules: Annotated[
        Rules | None, typer.Option(help="Look for nothing: write a rule file for this tool (and betterleaks).")
    ] = None,
) -> None:
    """Look for keys where they should not be: in source, logs, git history. Exit code 1 if any was found.

    A key is told with file and line, masked, and never whole. Texts in base64, archives and binary files are not looked
    into; UTF-16 is, if it says so at its beginning.
    """
    session: Session = ctx.obj
    shapes, missed = _shapes(session, keyspace_file or [])
    for what in missed:
        tell(f"Note: {what}.")
    if rules is not None:
        print(_gitleaks(shapes), end="")
        return
    if not path:
        raise BadWord("say where to look: files, folders, or - for standard input")
    skipped: list[str] = []
    known = Shapes(shapes)

    def note(place: str, why: str) -> None:
        skipped.append(place)
        tell(f"Skipped {known.hidden(place)}: {why}.")

    scanner = Scanner(known, max_size * _MIB, note)
    found = 0
    told: list[Any] = []
    for it in _found(scanner, path, git):
        found += 1
        finding = dataclasses.replace(it, place=known.hidden(it.place))
        outcome = _reported(session, finding) if report else None
        if session.json:
            told.append(_jsonable(finding, outcome))
        else:
            also = f" ({outcome})" if outcome else ""
            print(plain(f"{finding.place}:{finding.line}: {finding.masked} of {finding.keyspace}{also}"), flush=True)
    if session.json:
        write_json(told)
    tell(f"{found} found{f', {len(skipped)} files skipped' if skipped else ''}.")
    if found:
        raise typer.Exit(1)


def _found(scanner: Scanner, paths: Iterable[Path], git: bool) -> Iterator[Finding]:
    for path in paths:
        if git:
            yield from scanner.git(path)
        elif str(path) == "-":
            yield from scanner.stream(sys.stdin.buffer)
        else:
            yield from scanner.path(path)


def _shapes(session: Session, files: Iterable[Path]) -> tuple[list[Shape], list[str]]:
    """Return the shapes of all keyspaces of the files, or else of the server, and what cannot be found of them."""
    sources = {str(file): file.read_text("utf-8") for file in files}
    if not sources:
        client = session.client
        sources = {it.name: client.get_keyspace(it.name).source for it in client.list_keyspaces()}
    shapes, missed = [], list[str]()
    for where, source in sources.items():
        try:
            found, lost = shapes_of(yaml.safe_load(source))
        except (ValueError, yaml.YAMLError):
            raise BadWord(f"{where} is no keyspace file; `doorward keyspaces test` says what is wrong") from None
        shapes += found
        missed += lost
    return shapes, missed


def _reported(session: Session, finding: Finding) -> str:
    place = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in finding.place)
    if finding.secret.reveal()[-16:] in place:
        place = "a name that holds the key itself"
    found_in = f"{place}:{finding.line}"[-500:]
    try:
        answer = session.client.report_leak(finding.secret, keyspace=finding.keyspace, found_in=found_in)
    except DoorwardError as problem:  # the others are looked for, and reported, all the same
        return f"not reported: {problem}"
    which = f" {answer.key_id}" if answer.key_id else ""
    return f"reported{which}: {answer.outcome}"


def _jsonable(finding: Finding, outcome: str | None) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(finding) if field.name != "secret"]
    told: dict[str, Any] = {name: jsonable(getattr(finding, name)) for name in fields}
    return told | ({"report": outcome} if outcome else {})


def _gitleaks(shapes: Iterable[Shape]) -> str:
    """Return a rule for each shape, as TOML; JSON's texts and lists are TOML's, too."""
    parts = ['title = "Keys that Doorward keeps"\n']
    for shape in shapes:
        lines = {
            "id": f"doorward-{shape.keyspace}-{shape.name}",
            "description": f"A key of {shape.keyspace}. End it: doorward keys compromised",
            "regex": shape.expression,
            "secretGroup": 1,
            "keywords": list(shape.keywords),
        }
        written = "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())
        parts.append(f"\n[[rules]]\n{written}")
    return "".join(parts)
