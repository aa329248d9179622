"""doorward keys compromised: the drill for a key that has leaked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from doorward.cli.keys import EXPIRES
from doorward.cli.output import changed, issued
from doorward.cli.session import Session, tell
from doorward.cli.words import Yes, expiry
from doorward.errors import DoorwardError
from doorward.model import Ceiling, Key, KeyState
from doorward.usage import UsageDimension

if TYPE_CHECKING:
    from datetime import datetime

    from doorward import IssuedKey

MOST_TOLD = 10
"""Addresses, and resources, that are told of."""


def compromised(
    ctx: typer.Context,
    id: str,
    reason: Annotated[str, typer.Option(help="Kept with the key and in the audit log.")] = "compromised",
    expires: Annotated[
        str | None, typer.Option(help=f"When the new one ends: {EXPIRES} Default: as the old one.")
    ] = None,
    yes: Yes = False,
) -> None:
    """The drill for a key that has leaked: end it, make another with the same settings, tell where it was used.

    Writes the secret of the new key. Repeated within a day, makes no further one.
    """
    session: Session = ctx.obj
    old = session.client.get_key(id, organization=session.organization)
    session.confirm(f"Revoke the key {old.id} ({old.name}) for good, and make another in its place", yes)
    dead = session.client.revoke_key(old.id, organization=old.organization, reason=reason)
    changed(f"Key {old.id} ({old.name}) is revoked", dead.propagation)
    _tell_use(session, dead)
    if old.state is KeyState.EXPIRED and expires is None:
        tell("It had expired before, so none is made in its place; --expires says until when one shall live.")
        raise typer.Exit(5)
    try:
        new = _replace(session, old, expires)
    except DoorwardError:
        tell("None could be made in its place. Put right what follows, and give the same command again:")
        raise
    issued(session, new, f"is made in place of {old.id}", revoked=dead)
    if not old.enabled:
        session.client.update_key(new.key.id, organization=old.organization, enabled=False)
        tell("It is disabled, as the old one was; `doorward keys update --enable` ends that.")


def _replace(session: Session, old: Key, expires: str | None) -> IssuedKey:
    until: Any = expiry(expires) if expires else old.expires_at or "none"
    return session.client.create_key(
        keyspace=old.keyspace,
        name=old.name,
        organization=old.organization,
        owner=old.owner,
        description=old.description,
        environment=old.environment,
        type=old.type,
        ceiling=None if old.ceiling is Ceiling.UNKNOWN else old.ceiling,
        scopes=old.scopes,
        bindings=old.bindings,
        allowed_cidrs=old.allowed_cidrs,
        metadata=old.metadata,
        not_before=old.not_before if old.state is KeyState.NOT_YET_VALID else None,
        expires=until,
        api_version=old.api_version,
        limits=old.limits,
        request_id=f"compromised {old.id}"[:64],
    )


def _tell_use(session: Session, dead: Key) -> None:
    """Tell what is known of where the key was used, in the last 30 days."""
    tell(f"Its last use: {_at(dead.last_used_at)}.")
    for secret in dead.secrets:
        old = ", superseded" if secret.superseded else ""
        tell(f"  secret {secret.masked} (made {_at(secret.created_at)}{old}): {_at(secret.last_used_at)}")
    kinds = {UsageDimension.ADDRESS: "from", UsageDimension.RESOURCE: "on"}
    try:
        usage = session.client.get_usage(organization=dead.organization, key_id=dead.id, by=kinds, limit=MOST_TOLD)
    except DoorwardError as problem:
        tell(f"What it was used for cannot be told: {problem}")
        return
    for dimension, word in kinds.items():
        for it in usage.by[dimension].values if dimension in usage.by else ():
            tell(f"  {word} {it.value}: {it.count.allowed} allowed, {it.count.denied} denied")
    tell(f"More of it: doorward usage show --key {dead.id} or, where all is recorded, doorward usage decisions.")


def _at(instant: datetime | None) -> str:
    return instant.isoformat(" ", "seconds").replace("+00:00", "Z") if instant else "never"
