"""What keys were used for: sums, and decisions one by one. Frozen values, as in `doorward.model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from doorward.decision import Reason


class UsageDimension(StrEnum):
    """What sums can be told apart by."""

    UNKNOWN = "UNKNOWN"
    HOUR = "HOUR"
    DAY = "DAY"
    KEY = "KEY"
    ACTION = "ACTION"
    RESOURCE = "RESOURCE"
    REASON = "REASON"
    ADDRESS = "ADDRESS"
    UNIDENTIFIED = "UNIDENTIFIED"


class ExportFormat(StrEnum):
    """What an exported document looks like."""

    UNKNOWN = "UNKNOWN"
    CSV = "CSV"
    JSON = "JSON"


@dataclass(frozen=True, slots=True)
class UsageCount:
    """Decisions, counted."""

    allowed: int
    denied: int

    @property
    def total(self) -> int:
        return self.allowed + self.denied


@dataclass(frozen=True, slots=True)
class UsageValue:
    """Sums under one value of a dimension."""

    value: str
    """E.g. "flows:read", or "2026-11-30" for a day. `flows/*` and `*` stand for what is not told apart."""
    count: UsageCount
    start: datetime | None = None
    """When it began, for an hour or a day."""


@dataclass(frozen=True, slots=True)
class UsageBreakdown:
    """Sums by one dimension: time in order, others the most frequent first."""

    values: tuple[UsageValue, ...]
    rest: UsageCount
    """All values beyond the limit together."""


@dataclass(frozen=True, slots=True)
class UnidentifiedUsage:
    """How often credentials were presented that are nobody's."""

    prefix: str
    """What they began like, as far as the keyspace declares it; empty: nothing like that."""
    address: str
    caller: str
    """Id of the key of the service that asked; empty: it was shown to Doorward itself."""
    reason: Reason
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was used in a span of whole hours."""

    total: UsageCount
    success_rate: float | None
    """The part of all that was allowed, 0 to 1; None if there was nothing."""
    failure_rate: float | None
    by: Mapping[UsageDimension, UsageBreakdown]
    unidentified: tuple[UnidentifiedUsage, ...]
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class ExportPart:
    """A part of a document; all of them together, in order, are it."""

    text: str
    rows: int
    total_rows: int = 0
    """Of the whole document, in the first part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedDecision:
    """One decision that was handed out and recorded."""

    id: str
    at: datetime
    organization: str
    keyspace: str
    key_id: str
    owner: str
    action: str
    resource: str
    allowed: bool
    reason: Reason
    client_ip: str
    caller: str
    """`<organization>/<key>` of the service that asked."""
