"""doorward alerts …"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from doorward import errors
from doorward.alerts import Alert, AlertKind
from doorward.cli.output import jsonable, listed, write_line
from doorward.cli.session import Session, tell
from doorward.cli.words import BadWord, PageSize, instant_or_none

app = typer.Typer(help="What the rules of keyspace files say that somebody must be told of.", no_args_is_help=True)

AGAIN = 1.0
"""Seconds after which a watch that broke off is taken up again."""
Kind = Annotated[str, typer.Option(help="Only of this kind, e.g. failed_authentication.")]


@app.command("list")
def list_alerts(
    ctx: typer.Context,
    keyspace: Annotated[str, typer.Option(help="Only of this keyspace.")] = "",
    kind: Kind = "",
    key: Annotated[str, typer.Option(help="Only about the key with this id.")] = "",
    unacknowledged: Annotated[
        bool, typer.Option("--unacknowledged", help="Only those that nobody has acknowledged.")
    ] = False,
    since: Annotated[str | None, typer.Option(help="Only from this instant on.")] = None,
    until: Annotated[str | None, typer.Option(help="Only before this instant.")] = None,
    page_size: PageSize = 0,
) -> None:
    """List alerts, the latest first."""
    session: Session = ctx.obj
    found = session.client.list_alerts(
        organization=session.organization,
        keyspace=keyspace,
        kind=_kind(kind),
        key=key,
        unacknowledged=unacknowledged,
        since=instant_or_none(since),
        until=instant_or_none(until),
        page_size=page_size,
    )
    columns = {"ID": "id", "AT": "at", "KIND": "kind", "ABOUT": "subject", "ACKNOWLEDGED": "acknowledged_by"}
    listed(session, found, columns | {"MESSAGE": "message"})


@app.command("watch")
def watch_alerts(
    ctx: typer.Context,
    after: Annotated[
        int | None, typer.Option(help="Only those of a higher sequence; 0: all. Default: from now on.")
    ] = None,
) -> None:
    """Write alerts as they come, one to a line, until Ctrl-C; --output json writes whole objects.

    A connection that breaks is taken up again where it was: none is missed.
    """
    session: Session = ctx.obj
    connected = False
    while True:
        try:
            for watched in session.client.watch_alerts(organization=session.organization, after=after):
                connected, after = True, watched.sequence
                if watched.alert is not None:
                    _write(session, watched.alert)
        except errors.Unavailable as lost:
            if not connected:
                raise
            tell(f"{lost} Trying again.")
        time.sleep(AGAIN)


@app.command("acknowledge")
def acknowledge_alert(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="The alert.")],
    note: Annotated[str, typer.Option(help="Something for others to know.")] = "",
) -> None:
    """Say that you have seen an alert."""
    session: Session = ctx.obj
    alert = session.client.acknowledge_alert(id, organization=session.organization, note=note)
    tell(f"Alert {alert.id} is acknowledged by {alert.acknowledged_by}.")


def _kind(text: str) -> AlertKind | None:
    word = text.upper().replace("-", "_")
    if word and word not in set(AlertKind) - {AlertKind.UNKNOWN}:
        raise BadWord(
            f"{text!r} is no kind of alert; there are {', '.join(it.lower() for it in AlertKind if it != 'UNKNOWN')}"
        )
    return AlertKind(word) if word else None


def _write(session: Session, alert: Alert) -> None:
    at = alert.at.isoformat(" ", "seconds").replace("+00:00", "Z")
    write_line(session, jsonable(alert), f"{alert.sequence}  {at}  {alert.kind}  {alert.subject}  {alert.message}")
