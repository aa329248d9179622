"""Alerts as Doorward tells of them: frozen values, like those of `doorward.model`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AlertKind(StrEnum):
    """What an alert is about."""

    UNKNOWN = "UNKNOWN"
    FAILED_AUTHENTICATION = "FAILED_AUTHENTICATION"
    UNUSUAL_ACTIVITY = "UNUSUAL_ACTIVITY"
    LIMIT_NEARLY_USED = "LIMIT_NEARLY_USED"
    EXPIRING = "EXPIRING"
    UNUSED = "UNUSED"
    ROTATION_OVERDUE = "ROTATION_OVERDUE"
    SUPERSEDED_USED = "SUPERSEDED_USED"
    LEAKED = "LEAKED"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that somebody is to be told of, by a rule of a keyspace file or of the organization."""

    id: str
    organization: str
    sequence: int
    """Its place among the organization's alerts, from 1 without gaps."""
    keyspace: str
    rule: str
    kind: AlertKind
    subject: str
    """Whom it is about: id of a key, address, prefix; of a limit, whatever it counts together."""
    key: str
    """Id of the key that it is about; empty: of none."""
    at: datetime
    message: str
    threshold: int | None
    """The number from which the rule tells; None: it is not about a number."""
    expected: int | None
    """What would have been usual; None: it makes no difference."""
    observed: int | None
    acknowledged_at: datetime | None
    acknowledged_by: str
    note: str


@dataclass(frozen=True, slots=True)
class WatchedAlert:
    """What a watch has come to: an alert, or, in the first answer, only where it begins."""

    alert: Alert | None
    sequence: int
    """To go on from here, over a broken connection too, watch with this as `after`."""


class AlertRuleOrigin(StrEnum):
    """Where a rule comes from."""

    UNKNOWN = "UNKNOWN"
    KEYSPACE = "KEYSPACE"
    """The keyspace file: all organizations have it that have none of their own of the same name."""
    ORGANIZATION = "ORGANIZATION"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """What an organization is to be told of."""

    organization: str
    keyspace: str
    name: str
    rule: str
    """In the words of keyspace files, e.g. "{when: expiring, before: [30d, 1d]}"; of one that is silenced, what the
    keyspace's says."""
    origin: AlertRuleOrigin
    silenced: bool
    """Whether the organization is not told of what the keyspace's rule of this name tells."""
    problem: str
    """Why it is passed over, as if it were not there; empty: it is not."""
    updated_at: datetime | None
    """When the organization set it; None: it is the keyspace's."""
