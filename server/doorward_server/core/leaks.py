"""What becomes of a key whose text was found where it should not be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .model import Instant, Key, Secret, State

LEAKED = "keys:leaked"
"""The kind of event that tells of it, whatever became of the key."""


class LeakPolicy(StrEnum):
    """What a keyspace says."""

    ALERT = "ALERT"
    """The key goes on working, and people are told: an outage is nothing that a finder decides."""
    DISABLE = "DISABLE"
    REVOKE = "REVOKE"


class LeakOutcome(StrEnum):
    """What was done."""

    KEY_UNKNOWN = "KEY_UNKNOWN"
    """Nothing: the text is nobody's, or not for the reporter to know."""
    REVOKED = "REVOKED"
    DISABLED = "DISABLED"
    ALERTED = "ALERTED"
    ENDED_BEFORE = "ENDED_BEFORE"
    """The text was good for nothing any more."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A key after its text was found, and what that changed."""

    key: Key
    outcome: LeakOutcome


def end_leaked(key: Key, secret: str, policy: LeakPolicy, now: Instant) -> Ended:
    """Do to *key* what *policy* says, as the text of its secret with the id *secret* was found.

    A text that no longer proves anything endangers no key: then it stays as it is.
    """
    found = next((it for it in key.secrets if it.id == secret), None)
    if found is None or not _good(key, found, now):
        return Ended(key, LeakOutcome.ENDED_BEFORE)
    if policy is LeakPolicy.REVOKE:
        return Ended(key.revoke(now, "leaked"), LeakOutcome.REVOKED)
    if policy is LeakPolicy.DISABLE:
        return Ended(key.update(now, enabled=False), LeakOutcome.DISABLED)
    return Ended(key, LeakOutcome.ALERTED)


def _good(key: Key, secret: Secret, now: Instant) -> bool:
    """Whether the text may be used, now or once somebody enables the key or lets it live longer."""
    return key.state(now) is not State.REVOKED and secret.alive(now)
