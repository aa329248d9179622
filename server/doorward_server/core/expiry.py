"""What the audit log says of a key that passed its expiry: nobody did it, so Doorward itself says so."""

from __future__ import annotations

from dataclasses import replace

from .model import Actor, Event, Instant, Key, State

ACTOR = Actor("operator", "expiry")
"""Nobody's hand."""


def has_passed(key: Key, now: Instant) -> bool:
    """Tell whether the expiry of *key* came by *now*, and found it neither revoked nor deleted."""
    if key.expires_at is None or key.expires_at > now:
        return False
    return key.revoked_at is None or key.revoked_at >= key.expires_at


def expiry_event(key: Key, expires_at: Instant) -> Event:
    """Return the event for *key* having passed *expires_at*, dated to that moment however late it is noticed."""
    before = replace(key, expires_at=expires_at, revoked_at=None, deleted_at=None).state(expires_at - 1)
    after = {"state": State.EXPIRED.value}
    return Event(key.organization, expires_at, ACTOR, "keys:expire", "key", key.id, {"state": before.value}, after)
