"""What time brings about that somebody must be told of: nobody calls for it, so replicas look, one at a time.

Every minute at how much keys do in this hour, every ten minutes at their expiries, last uses and rotations. A replica
that dies over it leaves the rest to the next one's turn; what two find is kept once. A rule that cannot be looked at
keeps no other from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import structlog

from doorward_server.core import alerts as rules
from doorward_server.core.alerts import HOUR, WEEK, WEEKS, Alert, AlertKind, KeyFacts
from doorward_server.core.model import DAY, SECOND, Instant
from doorward_server.core.policy import Keyspace
from doorward_server.core.sections import AlertRule
from doorward_server.service.catalog import Catalog
from doorward_server.service.own_rules import OwnRules
from doorward_server.store import Store
from doorward_server.store.alerts import Place, Whose

SWEEP_SECONDS = 20.0
ACTIVITY = 60 * SECOND
"""How often all replicas together look at what keys do."""
LATE = 600 * SECOND
"""For how long an hour that is over is looked at again: its end was seen by no look, or is counted late."""
KEYS = 600 * SECOND
"""How often they look at keys themselves."""
AT_ONCE = 5_000
"""Keys that are looked at in one transaction."""
CHUNK = 250
"""Alerts that are kept in one transaction."""
KEPT = 400 * DAY
"""How long alerts stay in the store."""
KINDS = (AlertKind.EXPIRING, AlertKind.UNUSED, AlertKind.ROTATION_OVERDUE)
Work = tuple[str, Callable[[], int]]
"""What it is about, for the log; what it returns is how many alerts came of it."""
log = structlog.get_logger("doorward")


class AlertSweeps:
    """Finds what is due. Blocking; one thread at a time."""

    def __init__(self, store: Store, catalog: Catalog, own_rules: OwnRules) -> None:
        self._store = store
        self._catalog = catalog
        self._own_rules = own_rules

    def sweep(self, now: Instant) -> int:
        """Do what no replica has done lately; return how many alerts there are for it.

        Raises StoreUnavailable, and whatever else kept it from a part: then all others were done.
        """
        activity = self._store.alerts.is_due("alerts/activity", now, ACTIVITY)
        keys = self._store.alerts.is_due("alerts/keys", now, KEYS)
        told, problems = 0, []
        for about, work in self._work(now, activity=activity, keys=keys):
            try:
                told += work()
            except Exception as problem:  # noqa: BLE001  # whatever it is, it is no reason to look at nothing else
                log.warning("alerts of a rule wait for the next sweep", rule=about, why=type(problem).__name__)
                problems.append(problem)
                self._own_rules.look()  # raises if it is the store that is away: nothing else could be done either
        if problems:
            raise problems[0]
        return told

    def _work(self, now: Instant, *, activity: bool, keys: bool) -> Iterator[Work]:
        if keys:
            yield "pruning", partial(self._prune, now)
        if activity or keys:
            self._own_rules.look()
            for keyspace in self._keyspaces():
                if activity:
                    yield f"{keyspace.name} activity", partial(self._look_at_activity, keyspace, now)
                for rule, whose in self._rules(keyspace) if keys else ():
                    about = f"{keyspace.name} {whose.organization}/{rule.name}"
                    yield about, partial(self._look_at_keys, keyspace, rule, whose, now)

    def _prune(self, now: Instant) -> int:
        while self._store.alerts.prune(now, now - KEPT):
            pass
        return 0

    def _keyspaces(self) -> Iterator[Keyspace]:
        after = ""
        while page := self._store.list_keyspaces(after, 100):
            yield from (self._catalog.compiled(it.name, it.source) for it in page)
            after = page[-1].name

    def _rules(self, keyspace: Keyspace) -> Iterator[tuple[AlertRule, Whose]]:
        """Yield each rule about keys: the keyspace's for all who have none of its name, and those of organizations."""
        for rule in _of_kinds(KINDS, keyspace.sections.alerts):
            yield rule, Whose(rule=rule.name)
        for organization, apart in self._own_rules.apart(keyspace):
            for rule in _of_kinds(KINDS, apart):
                yield rule, Whose(organization=organization)

    def _look_at_activity(self, keyspace: Keyspace, now: Instant) -> int:
        """Read once what is busy for anybody's rule, and judge it by the rules of whose it is."""
        apart = [rule for _, found in self._own_rules.apart(keyspace) for rule in found]
        leasts = [rules.least(it) for it in _unusual([*keyspace.sections.alerts, *apart])]
        if not leasts:
            return 0

        def of(organization: str) -> list[AlertRule]:
            return _unusual(self._own_rules.of(organization, keyspace))

        def much(organization: str, count: int) -> bool:
            return any(count >= rules.least(it) for it in of(organization))

        told = 0
        for hour in _hours(now):
            before = [hour - n * WEEK for n in range(1, WEEKS + 1)]
            busy = self._store.alerts.list_busy(keyspace.name, hour, min(leasts), before, much)
            found = (rules.unusual(rule, it, now) for it in busy for rule in of(it.organization))
            told += self._tell([it for it in found if it is not None])
        return told

    def _look_at_keys(self, keyspace: Keyspace, rule: AlertRule, whose: Whose, now: Instant) -> int:
        told = 0
        for keys in self._due(keyspace, rule, whose, now):
            facts = (keyspace.rails, keyspace.name)
            told += self._tell([it for key in keys for it in rules.timely([rule], *facts, key, now)])
        return told

    def _due(self, keyspace: Keyspace, rule: AlertRule, whose: Whose, now: Instant) -> Iterator[list[KeyFacts]]:
        look = partial(self._store.alerts.list_due, keyspace.name, rules.kind_of(rule), _bounds(keyspace, rule, now))
        after: Place | None = ("", "")
        while after is not None:
            page, after = look(after, AT_ONCE, whose)
            yield page

    def _tell(self, alerts: Sequence[Alert]) -> int:
        chunks = (alerts[start : start + CHUNK] for start in range(0, len(alerts), CHUNK))
        return sum(len(self._store.alerts.add(chunk)) for chunk in chunks)


def _hours(now: Instant) -> tuple[Instant, ...]:
    """Return the hours whose activity is looked at, in order."""
    hour = now - now % HOUR
    return (hour - HOUR, hour) if now - hour < LATE else (hour,)


def _of_kinds(kinds: Iterable[AlertKind], found: Iterable[AlertRule]) -> list[AlertRule]:
    return [rule for rule in found if rules.kind_of(rule) in kinds]


_unusual = partial(_of_kinds, (AlertKind.UNUSUAL_ACTIVITY,))


def _bounds(keyspace: Keyspace, rule: AlertRule, now: Instant) -> tuple[object, ...]:
    """Return what the store narrows the keys by that *rule* may be due for."""
    if rules.kind_of(rule) is AlertKind.EXPIRING:
        return now, now + max(rule.settings["before"])
    if rules.kind_of(rule) is AlertKind.UNUSED:
        return now - rule.settings["after"], rule.name
    every = (*keyspace.rails.rotate_every_by_type.values(), keyspace.rails.rotate_every)
    return now - min(span for span in every if span is not None), rule.name
