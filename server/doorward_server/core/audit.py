"""What the audit log tells: events in their places, where a chain ended, and whether it is what was written."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .model import Event, Instant


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events of an organization; empty and None leave nothing out."""

    target_type: str = ""
    target: str = ""
    """Id of what they are about; only together with its type."""
    actor_key: str = ""
    """The key that did it."""
    actor_principal: str = ""
    """The principal who did it, by its own key or by a backend that acted for it."""
    actor_organization: str = ""
    """Of that principal; empty: the one whose events they are."""
    actions: frozenset[str] = frozenset()
    keyspace: str = ""
    """Which they are about, or in which the thing is that they are about."""
    since: Instant | None = None
    before: Instant | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event in its place in the organization's audit chain."""

    sequence: int
    """From 1, without gaps."""
    event: Event
    pepper: int
    """Version of the pepper whose audit key sealed it."""
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Link:
    """A place in an audit chain: how many events it has up to there, and the hash of the last of them."""

    sequence: int
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where an organization's audit chain ended once. Kept elsewhere, it shows whether the chain was cut back since."""

    organization: str
    sequence: int
    """Of the last event; 0: there was none."""
    hash: bytes = field(repr=False)
    at: Instant
    """When that was."""
    pepper: int
    seal: bytes = field(repr=False)
    """Proves that Doorward said so: whoever can write to the database cannot make one."""


class HeadFound(StrEnum):
    """What became of a head that was kept elsewhere."""

    IN_CHAIN = "IN_CHAIN"
    NOT_IN_CHAIN = "NOT_IN_CHAIN"
    """The chain was cut back behind it, or is another one."""
    PRUNED = "PRUNED"
    """The chain begins after it by now: nothing can be said."""


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Whether an organization's audit chain is what was written."""

    ok: bool
    length: int
    """Events that were written, by the chain's own count."""
    head: bytes
    """Hash of the last one; 32 zero bytes for an empty chain. Keep it elsewhere to notice a chain that was cut back."""
    broken_at: int | None = None
    """Sequence of the first event that is missing, changed or not where it belongs."""
    first: int = 1
    """Sequence of the oldest event that is kept; those before it were pruned. Only told of a chain that holds."""
