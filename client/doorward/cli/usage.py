"""doorward usage …"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from doorward.cli.output import jsonable, labelled, listed, write_json
from doorward.cli.session import Session, tell
from doorward.cli.words import PageSize, instant_or_none
from doorward.usage import UsageBreakdown, UsageDimension, UsageValue

app = typer.Typer(help="What keys were used for.", no_args_is_help=True)

OfKeyspace = Annotated[str, typer.Option("--keyspace", help="Only this keyspace.")]
OfKey = Annotated[str, typer.Option("--key", help="Only this key, by its id; it may be a deleted one.")]
OfOwner = Annotated[str, typer.Option("--owner", help="Only this principal's keys.")]
Since = Annotated[str | None, typer.Option("--since", help="From when on. Default: 30 days before the end.")]
Until = Annotated[str | None, typer.Option("--until", help="Until when. Default: now.")]


class Kind(StrEnum):
    """What an export looks like."""

    CSV = "csv"
    JSON = "json"


class By(StrEnum):
    """What sums can be told apart by."""

    HOUR = "hour"
    DAY = "day"
    KEY = "key"
    ACTION = "action"
    RESOURCE = "resource"
    REASON = "reason"
    ADDRESS = "address"
    UNIDENTIFIED = "unidentified"


@app.command("show")
def show_usage(
    ctx: typer.Context,
    keyspace: OfKeyspace = "",
    key: OfKey = "",
    owner: OfOwner = "",
    since: Since = None,
    until: Until = None,
    by: Annotated[list[By] | None, typer.Option("--by", help="What to tell apart; repeat it.")] = None,
    time_zone: Annotated[str, typer.Option("--time-zone", help="Where days begin, e.g. Europe/Vienna.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="So many values each. Default: 100.")] = 0,
) -> None:
    """Show how often keys were used, and how often that was denied."""
    session: Session = ctx.obj
    usage = session.client.get_usage(
        **_scope(session, keyspace, key, owner, since, until),
        by=[UsageDimension(it.upper()) for it in by or ()],
        time_zone=time_zone,
        limit=limit,
    )
    if session.json:
        write_json(jsonable(usage))
        return
    total = usage.total
    share = f" ({usage.success_rate:.1%} of all)" if usage.success_rate is not None else ""
    labelled({"from": usage.since, "to": usage.until, "allowed": f"{total.allowed}{share}", "denied": total.denied})
    for dimension, breakdown in usage.by.items():
        print()
        listed(session, _rows(breakdown), {dimension.value: "value", "ALLOWED": "allowed", "DENIED": "denied"})
    if usage.unidentified:
        print()
        columns = {"PREFIX": "prefix", "ADDRESS": "address", "SERVICE": "caller", "REASON": "reason", "COUNT": "count"}
        listed(session, usage.unidentified, columns)


@app.command("export")
def export_usage(
    ctx: typer.Context,
    kind: Annotated[Kind, typer.Option("--format", help="Of the document.")] = Kind.CSV,
    file: Annotated[str, typer.Option("--file", help="Where it goes; '-': standard output.")] = "-",
    keyspace: OfKeyspace = "",
    key: OfKey = "",
    owner: OfOwner = "",
    since: Since = None,
    until: Until = None,
) -> None:
    """Write all hourly counts as one CSV or JSON document."""
    session: Session = ctx.obj
    parts = session.client.export_usage(
        format=kind.upper(), timeout=session.timeout, **_scope(session, keyspace, key, owner, since, until)
    )
    written = 0
    with _destination(file) as out, _progress() as progress:
        task = progress.add_task("Exporting", total=None)
        for part in parts:
            out.write(part.text)
            written += part.rows
            if part.total_rows:
                progress.update(task, total=part.total_rows)
            progress.advance(task, part.rows)
    tell(f"{written:,} rows{'' if file == '-' else f' in {file}'}.")


@app.command("decisions")
def list_decisions(
    ctx: typer.Context,
    keyspace: OfKeyspace = "",
    key: OfKey = "",
    owner: OfOwner = "",
    since: Since = None,
    until: Until = None,
    page_size: PageSize = 0,
) -> None:
    """List decisions one by one, the newest first, of keyspaces that record all of them."""
    session: Session = ctx.obj
    decisions = session.client.list_decisions(
        page_size=page_size, **_scope(session, keyspace, key, owner, since, until)
    )
    columns = {
        "AT": "at", "KEY": "key_id", "OWNER": "owner", "ACTION": "action", "RESOURCE": "resource", "REASON": "reason",
        "FROM": "client_ip", "ID": "id",
    }  # fmt: skip
    listed(session, decisions, columns)


class _Row:
    """A value of a breakdown as a row of a table."""

    def __init__(self, it: UsageValue) -> None:
        self.value, self.allowed, self.denied = it.value, it.count.allowed, it.count.denied


def _rows(breakdown: UsageBreakdown) -> list[_Row]:
    rest = [UsageValue("(all others)", breakdown.rest)] if breakdown.rest.total else []
    return [_Row(it) for it in (*breakdown.values, *rest)]


def _scope(
    session: Session, keyspace: str, key: str, owner: str, since: str | None, until: str | None
) -> dict[str, Any]:
    return {
        "organization": session.organization,
        "keyspace": keyspace,
        "key_id": key,
        "owner": owner,
        "since": instant_or_none(since),
        "until": instant_or_none(until),
    }


@contextlib.contextmanager
def _destination(file: str) -> Iterator[TextIO]:
    """Open where a document goes. A file is there whole or not at all."""
    if file == "-":
        yield sys.stdout
        return
    unfinished = Path(f"{file}.part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as out:
            yield out
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _progress() -> Progress:
    """Return a bar on standard error; none where that is not a terminal."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
