"""doorward authorize, doorward whoami."""

from __future__ import annotations

import getpass
import math
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from doorward.cli.output import labelled, show
from doorward.cli.session import Session, plain
from doorward.cli.words import facts, instant_or_none
from doorward.decision import CreditStatus, Identity, Reason, SentRelation
from doorward.model import Ceiling, Principal

Presented = Annotated[
    str, typer.Option("--presented-key", metavar="FILE", help="File with the key to judge; '-': standard input.")
]
SignedIn = Annotated[str | None, typer.Option("--principal", help="Judge this principal, e.g. acme/alice, not a key.")]
InKeyspace = Annotated[str, typer.Option("--keyspace", help="The keyspace of the key.")]
Environment = Annotated[str, typer.Option("--environment", help="Default: the keyspace's.")]
ClientIp = Annotated[str, typer.Option("--client-ip", help="Where the request comes from.")]
At = Annotated[str | None, typer.Option("--at", help="The moment for conditions that ask for one. Default: now.")]
Facts = Annotated[
    list[str] | None, typer.Option("--context", metavar="NAME=VALUE", help="A fact about the call, for conditions.")
]
OfResource = Annotated[
    list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="A fact about the resource.")
]
Parent = Annotated[str | None, typer.Option("--parent", help="What the resource is part of, e.g. assessments/7.")]
Relations = Annotated[
    list[str] | None,
    typer.Option(
        "--relation",
        metavar="RELATION",
        help="A relation that there is, e.g. assigned, or assessments/7#assigned@user:alice.",
    ),
]


def authorize(
    ctx: typer.Context,
    action: Annotated[str, typer.Argument(help="What is to be done, e.g. findings:read.")],
    keyspace: InKeyspace,
    resource: Annotated[str | None, typer.Argument(help="What to, e.g. findings/42. Default: the collection.")] = None,
    presented_key: Presented = "-",
    principal: SignedIn = None,
    environment: Environment = "",
    client_ip: ClientIp = "",
    attribute: OfResource = None,
    parent: Parent = None,
    relation: Relations = None,
    at: At = None,
    context: Facts = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Leave no trace in last use.")] = False,
) -> None:
    """Ask whether the holder of a key may do something. Exit code 0: allowed, 1: denied, 2: could not ask.

    --organization is the one that owns the resource.
    """
    session: Session = ctx.obj
    decision = session.client.authorize(
        presented(presented_key, principal),
        keyspace=keyspace,
        action=action,
        resource=resource,
        organization=session.organization,
        environment=environment,
        client_ip=client_ip,
        principal=principal,
        attributes=facts(attribute),
        parent=parent,
        relations=list(map(SentRelation.parse, relation or ())),
        at=instant_or_none(at),
        facts=facts(context),
        dry_run=dry_run,
    )
    if session.json:
        show(session, decision)
    else:
        print(verdict(bool(decision), decision.reason, decision.message))
        for limit in decision.limits:
            if limit.retry_after is not None:
                waiting = (
                    f"{limit.name} allows {limit.limit} in {limit.window}: try again in {_whole(limit.retry_after)}"
                )
                typer.echo(plain(waiting), err=True)
        if decision.reason is Reason.CREDITS_EXHAUSTED and decision.credits is not None:
            typer.echo(plain(_unpaid(decision.credits)), err=True)
    raise typer.Exit(0 if decision else 1)


def _whole(wait: timedelta) -> timedelta:
    """Return *wait* in seconds, none too few."""
    return timedelta(seconds=math.ceil(wait.total_seconds()))


def _unpaid(left: CreditStatus) -> str:
    wait = f"try again in {_whole(left.retry_after)}" if left.retry_after is not None else "somebody has to add to them"
    return f"{left.balance} credits are left: {wait}"


def verdict(allowed: bool, reason: str, message: str) -> str:
    """Return a decision on one line."""
    return plain(f"{'ALLOWED' if allowed else f'DENIED {reason}'}: {message}")


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


def presented(file: str, principal: str | None) -> str | None:
    """Return the key's text, exactly, but for the line end that files have; None where a principal is judged."""
    if principal:
        return None
    if file != "-":
        text = Path(file).read_bytes().decode("utf-8", "replace")
    elif sys.stdin.isatty():
        text = getpass.getpass("Key: ", sys.stderr)
    else:
        text = sys.stdin.readline()
    return text.removesuffix("\n").removesuffix("\r")
