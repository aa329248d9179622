"""doorward audit …"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from doorward.audit import ChainHead, ChainReport, ChainStatus, HeadStatus
from doorward.cli.output import listed, show
from doorward.cli.session import Session, tell
from doorward.cli.words import BadWord, PageSize, instant_or_none

app = typer.Typer(help="The audit log: who changed what, and the proof that it was not changed.", no_args_is_help=True)

_COLUMNS = {
    "SEQUENCE": "sequence",
    "TIME": "at",
    "ACTION": "action",
    "TYPE": "target_type",
    "TARGET": "target",
    "BY": "actor",
}
_SAID = {
    HeadStatus.IN_CHAIN: "the head is in it",
    HeadStatus.NOT_IN_CHAIN: "the head is NOT in it: it was cut back since, or put back to an older state",
    HeadStatus.PRUNED: "events behind the head were pruned since, so nobody can say whether the chain was cut back",
}


@app.command("list")
def list_events(
    ctx: typer.Context,
    key: Annotated[str, typer.Option(help="Only about this key.")] = "",
    principal: Annotated[str, typer.Option(help="Only about this principal.")] = "",
    actor_key: Annotated[str, typer.Option(help="Only what this key did.")] = "",
    actor: Annotated[str, typer.Option(help="Only what this principal did, itself or through a backend.")] = "",
    action: Annotated[list[str] | None, typer.Option(help="Only of this kind, e.g. keys:revoke; repeatable.")] = None,
    keyspace: Annotated[str, typer.Option(help="Only about this keyspace, and what is in it.")] = "",
    since: Annotated[str | None, typer.Option(help="From this instant on.")] = None,
    before: Annotated[str | None, typer.Option(help="Before this instant.")] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Instead of the newest.")] = False,
    page_size: PageSize = 0,
) -> None:
    """List audit events, newest first. What was changed is told with --output json."""
    session: Session = ctx.obj
    events = session.client.list_events(
        organization=session.organization,
        key=key,
        principal=principal,
        actor_key=actor_key,
        actor_principal=actor,
        actions=action or (),
        keyspace=keyspace,
        since=instant_or_none(since),
        before=instant_or_none(before),
        oldest_first=oldest_first,
        page_size=page_size,
    )
    listed(session, events, _COLUMNS, rare={"NOTE": "note"})


@app.command("verify")
def verify(
    ctx: typer.Context,
    head: Annotated[
        Path | None, typer.Option(help="File with a head that was kept: of `audit head`, with --output json.")
    ] = None,
) -> None:
    """Verify the audit log: exit code 1, and the sequence where, if somebody has changed it.

    Only a head that was kept elsewhere shows whether events are missing at its end.
    """
    session: Session = ctx.obj
    kept = None if head is None else _read_head(head)
    report: ChainReport | None = None
    for report in session.client.verify_chain(organization=session.organization, head=kept):
        if report.status is ChainStatus.UNFINISHED and sys.stderr.isatty():
            print(f"\r{report.verified_to:,} events verified", end="", file=sys.stderr, flush=True)
    if report is None:
        raise RuntimeError("every chain has a report")
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    show(session, report)
    tell(_told(report))
    if not report.intact:
        raise typer.Exit(2 if report.status is ChainStatus.INTACT and report.head is HeadStatus.PRUNED else 1)


@app.command("head")
def get_head(ctx: typer.Context) -> None:
    """Tell where the audit log ends now. Keep it, with --output json, where the database's writers cannot reach it."""
    session: Session = ctx.obj
    show(session, session.client.get_head(organization=session.organization))


def _told(report: ChainReport) -> str:
    if report.status is not ChainStatus.INTACT:
        return f"The audit log is BROKEN at event {report.broken_at}: it is missing, changed, or not where it belongs."
    pruned = f"; those before {report.first} were pruned" if (report.first or 1) > 1 else ""
    also = f"; {_SAID[report.head]}" if report.head in _SAID else ""
    return f"All {report.length - (report.first or 1) + 1} events are as they were written{pruned}{also}."


def _read_head(file: Path) -> ChainHead:
    try:
        data = json.loads(file.read_text("utf-8"))
        data["at"] = datetime.fromisoformat(data["at"])
        head = ChainHead(**data)
        bytes.fromhex(head.hash), bytes.fromhex(head.seal)
    except (ValueError, TypeError, KeyError):
        raise BadWord(f"{file} is no head: it must be what `doorward audit head --output json` writes") from None
    return head
