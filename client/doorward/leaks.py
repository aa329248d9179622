"""What became of keys whose texts were found where they should not be."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from doorward.model import Propagation


class LeakOutcome(StrEnum):
    """What became of a key whose text was found.

    KEY_UNKNOWN: nobody's, or of a key that the caller may not report. ENDED_BEFORE: the text was good for nothing any
    more. ALERTED: it goes on working.
    """

    UNKNOWN = "UNKNOWN"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    REVOKED = "REVOKED"
    DISABLED = "DISABLED"
    ALERTED = "ALERTED"
    ENDED_BEFORE = "ENDED_BEFORE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedLeak:
    """What became of a key whose text was found where it should not be; which one it was, unless nobody's."""

    outcome: LeakOutcome
    key_id: str
    organization: str
    revision: int | None = field(default=None, compare=False)
    propagation: Propagation | None = field(default=None, compare=False)
