"""doorward alerts …"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from doorward import errors
from doorward.alerts import Alert, AlertKind
from doorward.cli.output import jsonable, listed, show, write_line
from doorward.cli.session import Session, tell
from doorward.cli.words import BadWord, PageSize, Yes, instant_or_none

app = typer.Typer(help="What rules say that somebody must be told of.", no_args_is_help=True)
rules = typer.Typer(help="The rules: those of keyspace files, and an organization's own.", no_args_is_help=True)
app.add_typer(rules, name="rules")

AGAIN = 1.0
"""Seconds after which a watch that broke off is taken up again."""
Keyspace = Annotated[str, typer.Argument(metavar="KEYSPACE", help="The keyspace.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The rule.")]
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


@rules.command("set")
def set_alert_rule(
    ctx: typer.Context,
    keyspace: Keyspace,
    name: Name,
    rule: Annotated[
        str, typer.Argument(metavar="RULE", help="As in a keyspace file, e.g. '{when: expiring, before: [7d]}'.")
    ] = "",
    silenced: Annotated[
        bool, typer.Option("--silenced", help="Instead of a rule: do not tell of what the keyspace's rule tells.")
    ] = False,
) -> None:
    """Give the organization a rule of its own; it takes the place of the keyspace's of the same name."""
    session: Session = ctx.obj
    organization = session.organization
    show(session, session.client.set_alert_rule(keyspace, name, rule, silenced=silenced, organization=organization))


@rules.command("list")
def list_alert_rules(ctx: typer.Context, keyspace: Keyspace, page_size: PageSize = 0) -> None:
    """List the rules of an organization: the keyspace's that it has not replaced, and its own."""
    session: Session = ctx.obj
    found = session.client.list_alert_rules(keyspace, organization=session.organization, page_size=page_size)
    columns = {"NAME": "name", "ORIGIN": "origin", "SILENCED": "silenced", "RULE": "rule"}
    listed(session, found, columns, rare={"PASSED OVER BECAUSE": "problem"})


@rules.command("delete")
def delete_alert_rule(ctx: typer.Context, keyspace: Keyspace, name: Name, yes: Yes = False) -> None:
    """Remove a rule of the organization; the keyspace's of the same name, if there is one, holds again."""
    session: Session = ctx.obj
    session.confirm(f"Remove the organization's rule {name} of the keyspace {keyspace}", yes)
    session.client.delete_alert_rule(keyspace, name, organization=session.organization)
    tell(f"The organization's rule {name} of the keyspace {keyspace} is removed.")


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
