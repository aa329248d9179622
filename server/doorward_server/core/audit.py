"""What the audit log tells: events in their places, where a chain ended, and whether it is what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from .model import SECOND, Event, Instant

_INSTANTS = ("_at", "not_before")
"""How the names of instants end."""
_GIVEN = frozenset({"attributes", "limits", "metadata"})
"""What callers name as they like."""


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


def readable(value: Any) -> Any:
    """Return what an event keeps of before or after, with its instants as people read them: RFC 3339, in UTC."""
    if isinstance(value, Mapping):
        return {name: inner if name in _GIVEN else _told(name, inner) for name, inner in value.items()}
    return [readable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _told(name: str, value: Any) -> Any:
    return _text_of(value) if name.endswith(_INSTANTS) and type(value) is int else readable(value)


def _text_of(at: Instant) -> str:
    exact = datetime.fromtimestamp(at // SECOND, UTC).replace(microsecond=at % SECOND)
    return exact.isoformat(timespec="microseconds" if at % SECOND else "seconds").replace("+00:00", "Z")
