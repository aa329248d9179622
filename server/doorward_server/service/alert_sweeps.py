"""What time brings about that somebody must be told of: nobody calls for it, so replicas look, one at a time.

Every minute at how much keys do in this hour, every ten minutes at their expiries, last uses and rotations. A replica
that dies over it leaves the rest to the next one's turn; what two find is kept once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doorward_server.core import alerts as rules
from doorward_server.core.alerts import HOUR, LEAST, WEEK, WEEKS, Alert, AlertKind, KeyFacts
from doorward_server.core.model import DAY, SECOND, Instant
from doorward_server.core.policy import Keyspace
from doorward_server.core.sections import AlertRule
from doorward_server.service.catalog import Catalog
from doorward_server.service.own_rules import OwnRules
from doorward_server.store import Store
from doorward_server.store.alerts import Whose

SWEEP_SECONDS = 20.0
ACTIVITY = 60 * SECOND
"""How often all replicas together look at what keys do."""
KEYS = 600 * SECOND
"""How often they look at keys themselves."""
CHUNK = 250
"""Keys that are looked at, and alerts that are kept, at a time."""
KEPT = 400 * DAY
"""How long alerts stay in the store."""
KINDS = (AlertKind.EXPIRING, AlertKind.UNUSED, AlertKind.ROTATION_OVERDUE)
ACTIVITIES = (AlertKind.UNUSUAL_ACTIVITY,)
Looking = tuple[Keyspace, AlertRule, Whose]
"""A rule, and whose keys it looks at."""


class AlertSweeps:
    """Finds what is due. Blocking; one thread at a time."""

    def __init__(self, store: Store, catalog: Catalog, own_rules: OwnRules) -> None:
        self._store = store
        self._catalog = catalog
        self._own_rules = own_rules

    def sweep(self, now: Instant) -> int:
        """Do what no replica has done lately; return how many alerts there are for it. Raises StoreUnavailable."""
        told = 0
        if self._store.alerts.is_due("alerts/activity", now, ACTIVITY):
            told += sum(self._look_at_activity(*it, now) for it in self._rules() if _kind(it) in ACTIVITIES)
        if self._store.alerts.is_due("alerts/keys", now, KEYS):
            told += sum(self._look_at_keys(*it, now) for it in self._rules() if _kind(it) in KINDS)
            while self._store.alerts.prune(now, now - KEPT):
                pass
        return told

    def _rules(self) -> Iterator[Looking]:
        """Yield each rule there is: the keyspaces' for all who have none of its name, and those of organizations."""
        self._own_rules.look()
        for keyspace in self._keyspaces():
            for rule in keyspace.sections.alerts:
                yield keyspace, rule, Whose(rule=rule.name)
            for organization, own in self._own_rules.own(keyspace):
                for rule in own:
                    yield keyspace, rule, Whose(organization=organization)

    def _keyspaces(self) -> Iterator[Keyspace]:
        after = ""
        while page := self._store.list_keyspaces(after, 100):
            yield from (self._catalog.compiled(it.name, it.source) for it in page)
            after = page[-1].name

    def _look_at_activity(self, keyspace: Keyspace, rule: AlertRule, whose: Whose, now: Instant) -> int:
        hour = now - now % HOUR
        before = [hour - n * WEEK for n in range(1, WEEKS + 1)]
        least = int(rule.settings.get("factor", rules.FACTOR) * LEAST)
        busy = self._store.alerts.list_busy(keyspace.name, hour, least, before, whose)
        return self._tell([it for it in (rules.unusual(rule, activity, now) for activity in busy) if it is not None])

    def _look_at_keys(self, keyspace: Keyspace, rule: AlertRule, whose: Whose, now: Instant) -> int:
        told = 0
        for keys in self._due(keyspace, rule, whose, now):
            facts = (keyspace.rails, keyspace.name)
            told += self._tell([it for key in keys for it in rules.timely([rule], *facts, key, now)])
        return told

    def _due(self, keyspace: Keyspace, rule: AlertRule, whose: Whose, now: Instant) -> Iterator[list[KeyFacts]]:
        bounds, after = _bounds(keyspace, rule, now), ("", "")
        while page := self._store.alerts.list_due(keyspace.name, rules.kind_of(rule), bounds, after, CHUNK, whose):
            yield page
            after = (page[-1].organization, page[-1].id)

    def _tell(self, alerts: Sequence[Alert]) -> int:
        chunks = (alerts[start : start + CHUNK] for start in range(0, len(alerts), CHUNK))
        return sum(len(self._store.alerts.add(chunk)) for chunk in chunks)


def _kind(looking: Looking) -> AlertKind:
    return rules.kind_of(looking[1])


def _bounds(keyspace: Keyspace, rule: AlertRule, now: Instant) -> tuple[object, ...]:
    """Return what the store narrows the keys by that *rule* may be due for."""
    if rules.kind_of(rule) is AlertKind.EXPIRING:
        return now, now + max(rule.settings["before"])
    if rules.kind_of(rule) is AlertKind.UNUSED:
        return now - rule.settings["after"], rule.name
    every = (*keyspace.rails.rotate_every_by_type.values(), keyspace.rails.rotate_every)
    return now - min(span for span in every if span is not None), rule.name
