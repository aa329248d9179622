"""What the audit log tells: events, and whether they are what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ChainStatus(StrEnum):
    """What is known of an audit chain: UNFINISHED until its last page."""

    UNKNOWN = "UNKNOWN"
    INTACT = "INTACT"
    BROKEN = "BROKEN"
    UNFINISHED = "UNFINISHED"


class HeadStatus(StrEnum):
    """What became of a head that was kept: IN_CHAIN, cut off (NOT_IN_CHAIN), or PRUNED, so that nobody can say."""

    UNKNOWN = "UNKNOWN"
    IN_CHAIN = "IN_CHAIN"
    NOT_IN_CHAIN = "NOT_IN_CHAIN"
    PRUNED = "PRUNED"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditActor:
    """Who did something: a key, its owner, and `<organization>/<principal>` for whom a backend called."""

    organization: str
    key: str
    principal: str
    acting_for: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One change, as the audit log keeps it. `before` is None for what was made, `after` for what was ended."""

    organization: str
    sequence: int
    at: datetime
    actor: AuditActor
    action: str
    target_type: str
    target: str
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None
    note: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """Where an audit chain ended once; `seal` proves that Doorward said so. Hash and seal are hexadecimal."""

    organization: str
    sequence: int
    hash: str
    at: datetime
    pepper: int
    seal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """How far an audit chain is verified. `broken_at`: the first event that is missing, changed or out of place.

    `first` is the oldest event that is kept, and `length` how many there ever were; both are told at the end. `head` is
    what became of the head that was given; None without one.
    """

    status: ChainStatus
    verified_to: int
    broken_at: int | None
    first: int | None
    length: int
    head: HeadStatus | None

    @property
    def intact(self) -> bool:
        """Whether all of it is verified, and the head that was given is in it."""
        return self.status is ChainStatus.INTACT and self.head in (None, HeadStatus.IN_CHAIN)
