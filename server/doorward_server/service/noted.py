"""What was noted for alerts and is not written yet. An organization has no more than its part of the room."""

from __future__ import annotations

from collections import Counter

from doorward_server.core.alerts import Alert, AlertKind, Failure

MOST = 10_000
"""Subjects of failures, and alerts, between two flushes."""
MOST_OF_ONE = 500
"""Alerts of one organization, and its keys, addresses and prefixes, each apart: who tries from many addresses hides no
key that is tried. A spike has few subjects, and nobody reads so many alerts."""


class Noted:
    """Failures, added up, and alerts, one of each id. What there is no room for is passed over, and counted.

    Leaks always have room: each was reported by a call, and found a key that works.
    """

    def __init__(self) -> None:
        self.failures: dict[Failure, int] = {}
        self.alerts: dict[str, Alert] = {}
        self.dropped = 0
        """Failures and alerts that there was no room for."""
        self._parts: Counter[tuple[str, str]] = Counter()

    def __bool__(self) -> bool:
        return bool(self.failures or self.alerts)

    def count(self, failure: Failure, count: int = 1) -> None:
        """Add so many failures of one subject."""
        known = self.failures.get(failure)
        if known is None and not self._takes(len(self.failures), (failure.organization, failure.per)):
            self.dropped += count
        else:
            self.failures[failure] = (known or 0) + count

    def tell(self, alert: Alert) -> bool:
        """Take an alert; return whether it is there now."""
        if alert.id in self.alerts:
            return True
        leak = alert.kind is AlertKind.LEAKED
        if not leak and not self._takes(len(self.alerts), (alert.organization, "")):
            self.dropped += 1
            return False
        self.alerts[alert.id] = alert
        return True

    def add(self, later: Noted) -> None:
        """Take what was noted later, too, as far as there is room."""
        for failure, count in later.failures.items():
            self.count(failure, count)
        for alert in later.alerts.values():
            self.tell(alert)
        self.dropped += later.dropped

    def _takes(self, there: int, part: tuple[str, str]) -> bool:
        if there >= MOST or self._parts[part] >= MOST_OF_ONE:
            return False
        self._parts[part] += 1
        return True
