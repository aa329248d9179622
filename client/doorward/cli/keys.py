"""doorward keys …"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doorward.cli.output import changed, issued, jsonable, listed, show, write_json
from doorward.cli.session import Session
from doorward.cli.words import (
    Etag,
    NoWait,
    PageSize,
    Yes,
    binding,
    counts,
    expiry,
    given,
    instant_or_none,
    length,
    pairs,
)
from doorward.model import Ceiling, KeyState

if TYPE_CHECKING:
    from doorward.model import RevokedKeys

app = typer.Typer(help="API keys: issue, watch and end them.", no_args_is_help=True)

EXPIRES = "30d, 90d, 1y, none, a length (12h), a last day (2027-03-31), or an instant (2027-03-31T12:00Z)."

Description = Annotated[str | None, typer.Option(help="Notes.")]
Type = Annotated[str | None, typer.Option(help="A word for the kind of use, e.g. production.")]
Scopes = Annotated[
    list[str] | None, typer.Option("--scope", metavar="ROLE", help="A role on every resource, e.g. read:findings.")
]
Bindings = Annotated[
    list[str] | None, typer.Option("--binding", metavar="ROLE=PATTERN,…", help="A role on some resources.")
]
Cidrs = Annotated[
    list[str] | None, typer.Option("--cidr", metavar="NETWORK", help="A network that it may be used from.")
]
Metadata = Annotated[list[str] | None, typer.Option("--metadata", metavar="NAME=VALUE", help="A label.")]
OwnLimits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=UNITS", help="How much it may, other than the keyspace says, by window."),
]
Expires = Annotated[str | None, typer.Option(help=f"When it ends: {EXPIRES}")]
TimeZone = Annotated[str, typer.Option(help="Where the last day ends, e.g. Europe/Berlin. Default: UTC.")]
RequestId = Annotated[str, typer.Option(help="Makes it safe to repeat the command, e.g. a UUID.")]
At = Annotated[str | None, typer.Option(metavar="INSTANT")]


class CeilingWord(StrEnum):
    """Where a key's limit of rights comes from, as one types it."""

    OWNER = "owner"
    LIST = "list"


class StateWord(StrEnum):
    """States of keys, as one types them."""

    REVOKED = "revoked"
    EXPIRED = "expired"
    DISABLED = "disabled"
    NOT_YET_VALID = "not-yet-valid"
    ACTIVE = "active"


class Clearable(StrEnum):
    """Settings that can be emptied."""

    SCOPES = "scopes"
    BINDINGS = "bindings"
    CIDRS = "cidrs"
    METADATA = "metadata"
    LIMITS = "limits"


States = Annotated[list[StateWord] | None, typer.Option("--state", help="In one of these states.")]
NamePart = Annotated[str, typer.Option("--name", help="With this text in the name.")]
NeverUsed = Annotated[bool, typer.Option("--never-used", help="Never used.")]

COLUMNS = {
    "ID": "id",
    "NAME": "name",
    "KEYSPACE": "keyspace",
    "OWNER": "owner",
    "STATE": "state",
    "KEY": "masked",
    "EXPIRES": "expires_at",
    "LAST USED": "last_used_at",
}
RARE_COLUMNS = {"ROTATE BY": "rotate_by", "API VERSION": "api_version"}


@app.command("create")
def create_key(
    ctx: typer.Context,
    keyspace: Annotated[str, typer.Option(help="The keyspace.")],
    name: Annotated[str, typer.Option(help="What people call it.")],
    owner: Annotated[str, typer.Option(help="The principal that owns it. Default: the organization alone.")] = "",
    description: Description = None,
    environment: Annotated[str, typer.Option(help="Default: the keyspace's.")] = "",
    type: Type = None,
    ceiling: Annotated[CeilingWord | None, typer.Option(help="All that its owner may, or the scopes given.")] = None,
    scope: Scopes = None,
    binding: Bindings = None,
    cidr: Cidrs = None,
    metadata: Metadata = None,
    limit: OwnLimits = None,
    not_before: At = None,
    expires: Expires = None,
    time_zone: TimeZone = "",
    api_version: Annotated[str, typer.Option(help="Default: the keyspace's current one.")] = "",
    request_id: RequestId = "",
) -> None:
    """Make a key, and write its secret, this once."""
    session: Session = ctx.obj
    key = session.client.create_key(
        keyspace=keyspace,
        name=name,
        organization=session.organization,
        owner=owner,
        environment=environment,
        ceiling=Ceiling[ceiling.name] if ceiling else None,
        not_before=instant_or_none(not_before),
        time_zone=time_zone,
        api_version=api_version,
        request_id=request_id,
        **_settings(description, type, scope, binding, cidr, metadata, limit, expires),
    )
    issued(session, key, "is made")


@app.command("list")
def list_keys(
    ctx: typer.Context,
    keyspace: str = "",
    owner: str = "",
    environment: str = "",
    type: str = "",
    state: States = None,
    name: NamePart = "",
    created_after: At = None,
    created_before: At = None,
    expires_before: At = None,
    last_used_before: At = None,
    never_used: NeverUsed = False,
    page_size: PageSize = 0,
) -> None:
    """List the keys of an organization for which everything given holds, newest first."""
    session: Session = ctx.obj
    found = session.client.list_keys(
        organization=session.organization,
        keyspace=keyspace,
        owner=owner,
        environment=environment,
        type=type,
        name_contains=name,
        never_used=never_used,
        page_size=page_size,
        **_states_and_times(state, created_after, created_before, expires_before, last_used_before),
    )
    listed(session, found, COLUMNS, rare=RARE_COLUMNS)


@app.command("show")
def show_key(ctx: typer.Context, id: str) -> None:
    """Show a key; its secret is not shown again."""
    session: Session = ctx.obj
    key = session.client.get_key(id, organization=session.organization)
    show(session, key, hide=[field for field in ("api_version", "external_id") if not getattr(key, field)])


@app.command("update")
def update_key(
    ctx: typer.Context,
    id: str,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    description: Description = None,
    type: Type = None,
    scope: Scopes = None,
    binding: Bindings = None,
    cidr: Cidrs = None,
    metadata: Metadata = None,
    limit: OwnLimits = None,
    expires: Expires = None,
    time_zone: TimeZone = "",
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Disabled, it does not work.")] = None,
    clear: Annotated[list[Clearable] | None, typer.Option(help="Settings to empty.")] = None,
    etag: Etag = "",
    no_wait: NoWait = False,
) -> None:
    """Change what is given; lists are replaced as a whole."""
    session: Session = ctx.obj
    settings = _settings(description, type, scope, binding, cidr, metadata, limit, expires)
    emptied: dict[str, Any] = {"allowed_cidrs" if word is Clearable.CIDRS else word.value: () for word in clear or ()}
    emptied |= {word: {} for word in ("metadata", "limits") if word in emptied}
    changes = emptied | settings | given(name=name, enabled=enabled)
    show(
        session,
        session.client.update_key(
            id, organization=session.organization, time_zone=time_zone, etag=etag, no_wait=no_wait, **changes
        ),
    )


@app.command("rotate")
def rotate_key(
    ctx: typer.Context,
    id: str,
    grace: Annotated[
        str | None, typer.Option(help="How long older secrets go on, e.g. 7d. Default: not at all.")
    ] = None,
    finish: Annotated[bool, typer.Option("--finish", help="End the last overlap now; no new secret.")] = False,
    request_id: RequestId = "",
    no_wait: NoWait = False,
) -> None:
    """Give a key a new secret, and write it, this once."""
    session: Session = ctx.obj
    key = session.client.rotate_key(
        id,
        organization=session.organization,
        grace=length(grace) if grace else None,
        finish=finish,
        request_id=request_id,
        no_wait=no_wait,
    )
    issued(session, key, "has only its newest secret now" if finish else "is rotated")


@app.command("revoke")
def revoke_key(
    ctx: typer.Context,
    id: str,
    reason: Annotated[str, typer.Option(help="Why; kept with the key and in the audit log.")] = "",
    yes: Yes = False,
    no_wait: NoWait = False,
) -> None:
    """End a key for good. When this returns, it is dead everywhere."""
    session: Session = ctx.obj
    session.confirm(f"Revoke the key {id!r} for good", yes)
    key = session.client.revoke_key(id, organization=session.organization, reason=reason, no_wait=no_wait)
    changed(f"Key {key.id} ({key.name}) is revoked", key.propagation)


@app.command("revoke-all")
def revoke_all(
    ctx: typer.Context,
    reason: Annotated[str, typer.Option(help="Why; kept with each key and in the audit log.")],
    keyspace: str = "",
    owner: str = "",
    environment: str = "",
    type: str = "",
    state: States = None,
    name: NamePart = "",
    created_after: At = None,
    created_before: At = None,
    expires_before: At = None,
    last_used_before: At = None,
    never_used: NeverUsed = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell how many, and show some; end nothing.")] = False,
    expect: Annotated[int | None, typer.Option(min=0, help="End nothing unless it is this many keys.")] = None,
    yes: Yes = False,
    no_wait: NoWait = False,
) -> None:
    """End for good all keys of an organization for which everything given holds: at least one condition.

    On a terminal, tells how many these are, and asks. If it fails on its way, give the same command again.
    """
    session: Session = ctx.obj

    def revoke(*, dry_run: bool, expect: int | None) -> RevokedKeys:
        return session.client.batch_revoke_keys(
            reason=reason,
            organization=session.organization,
            keyspace=keyspace,
            owner=owner,
            environment=environment,
            type=type,
            name_contains=name,
            never_used=never_used,
            dry_run=dry_run,
            expected_count=expect,
            no_wait=no_wait,
            timeout=session.timeout,
            **_states_and_times(state, created_after, created_before, expires_before, last_used_before),
        )

    if session.asks(yes) and not dry_run:
        expect = revoke(dry_run=True, expect=expect).count
        session.confirm(f"Revoke {expect:,} keys for good", yes)
    done = revoke(dry_run=dry_run, expect=expect)
    if session.json:
        write_json(jsonable(done))
    elif dry_run and done.sample:
        listed(session, done.sample, COLUMNS)
    changed(f"Keys that {'would be' if dry_run else 'are'} revoked: {done.count:,}", done.propagation)


@app.command("reveal")
def reveal_key(ctx: typer.Context, id: str) -> None:
    """Write the secret of a key again, where its keyspace is recoverable. Each time is audited."""
    session: Session = ctx.obj
    secret = session.client.reveal_key(id, organization=session.organization)
    if session.json:
        write_json({"id": id, "secret": secret.reveal()})
    else:
        print(secret.reveal())


@app.command("delete")
def delete_key(ctx: typer.Context, id: str, yes: Yes = False, no_wait: NoWait = False) -> None:
    """End a key, if it is live, and take it off the lists."""
    session: Session = ctx.obj
    session.confirm(f"Delete the key {id!r} for good", yes)
    deleted = session.client.delete_key(id, organization=session.organization, no_wait=no_wait)
    changed(f"Key {id} is deleted", deleted.propagation)


def _states_and_times(
    states: list[StateWord] | None,
    created_after: str | None,
    created_before: str | None,
    expires_before: str | None,
    last_used_before: str | None,
) -> dict[str, Any]:
    """Return the conditions that are typed in another way than Client takes them."""
    return {
        "states": [KeyState[word.name] for word in states or ()],
        "created_after": instant_or_none(created_after),
        "created_before": instant_or_none(created_before),
        "expires_before": instant_or_none(expires_before),
        "last_used_before": instant_or_none(last_used_before),
    }


def _settings(
    description: str | None,
    type: str | None,
    scopes: list[str] | None,
    bindings: list[str] | None,
    cidrs: list[str] | None,
    metadata: list[str] | None,
    limits: list[str] | None,
    expires: str | None,
) -> dict[str, Any]:
    """Return the settings that were given, as Client takes them."""
    return given(
        description=description,
        type=type,
        scopes=scopes or None,
        bindings=[binding(text) for text in bindings] if bindings else None,
        allowed_cidrs=cidrs or None,
        metadata=pairs(metadata) if metadata else None,
        limits=counts(limits) if limits else None,
        expires=expiry(expires),
    )
