"""What calls bring about that somebody must be told of: failed authentications, replaced secrets, limits, leaks.

Noted in memory on the event loop, without a lock and without asking anybody; written once a second. Failures of all
replicas are added up in the store, in cells of a tenth of their rule's window. kill -9 loses what was noted since the
last flush.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from doorward_server.core import alerts as rules
from doorward_server.core.alerts import Alert, AlertKind, Failure
from doorward_server.core.decide import Question
from doorward_server.core.limits import Per
from doorward_server.core.model import Instant, Key, Secret
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import Reason
from doorward_server.core.sections import AlertRule
from doorward_server.core.subject import Subject
from doorward_server.service.catalog import Catalog
from doorward_server.service.guard import Clock
from doorward_server.service.own_rules import OwnRules
from doorward_server.service.pool import Pool
from doorward_server.store import Store
from doorward_server.store.alerts import FailureCell

MOST = 10_000
"""Subjects of failures, and alerts, between two flushes; what is beyond is passed over. A spike has few subjects."""
CHUNK = 500
AT_ONCE = 250
"""Alerts in one transaction: it holds what all of their organizations write to."""
"""Cells in one transaction."""
NOTHING_SHOWN = frozenset({Reason.CREDENTIAL_MISSING, Reason.CREDENTIAL_AMBIGUOUS})
"""Denials of calls that are no attempt with a key."""
Known = tuple[str, str]
"""Organization and id of a key."""


class _News(NamedTuple):
    """When a limit is worth another look: from so many *units* on, later than *at*, or with other *rules*."""

    units: int
    at: Instant
    rules: tuple[AlertRule, ...]


class Noticing:
    """Collects what alerts come from between two flushes. Belongs to the event loop; the store is asked on *writes*."""

    def __init__(self, store: Store, catalog: Catalog, own_rules: OwnRules, writes: Pool, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._rules = own_rules
        self.nearly = own_rules.nearly
        """Tells from which percentage of a limit on it is worth noting; see `OwnRules.nearly`."""
        self._writes = writes
        self._clock = clock
        self._failures: Counter[Failure] = Counter()
        self._alerts: dict[str, Alert] = {}
        self._told: dict[tuple[str, str], Alert] = {}
        self._near: dict[tuple[str, ...], _News] = {}

    def failed(
        self,
        organization: str,
        keyspace: Keyspace,
        reason: Reason,
        key: Known | None,
        address: str,
        prefix: str,
    ) -> None:
        """Note that an authentication failed that a service of *organization* asked about.

        *key* is the one that was meant, whether or not possession was proved; *address* is as usage shows it, and
        *prefix* is what the text began like.
        """
        if reason in NOTHING_SHOWN:
            return
        mine = self._rules.of(organization, keyspace)
        theirs = mine if key is None or key[0] == organization else self._rules.of(key[0], keyspace)
        pers = _pers(mine)
        if "key" in (pers if theirs is mine else _pers(theirs)) and key is not None:
            self._add(Failure(key[0], keyspace.name, "key", key[1]))
        if "address" in pers and address:
            self._add(Failure(organization, keyspace.name, "address", address))
        if "prefix" in pers and prefix:
            self._add(Failure(organization, keyspace.name, "prefix", prefix))

    def used(self, keyspace: Keyspace, subject: Subject, now: Instant) -> None:
        """Note that a text proved possession of a key, if it is one that a rotation has replaced."""
        key, secret = subject.key, subject.secret
        if key is None or secret is None or secret.expires_at is None:
            return
        self._superseded(keyspace, key, secret, secret.expires_at, now)

    def _superseded(self, keyspace: Keyspace, key: Key, secret: Secret, ends_at: Instant, now: Instant) -> None:
        of = (key.organization, keyspace.name)
        for rule in _of_kind(self._rules.of(key.organization, keyspace), AlertKind.SUPERSEDED_USED):
            self._raise(rules.superseded_used(rule, of, key.id, secret.id, ends_at, now))

    def nearly_used(
        self, subject: Subject, question: Question, keyspace: Keyspace, window: tuple[str, int], limit: int, used: int
    ) -> None:
        """Note that much of a limit is used by a call. *window* is its name and length in microseconds."""
        (name, length), now = window, self._clock()
        whom, key = _counted_together(subject, question, keyspace, name)
        of = (subject.organization.id, keyspace.name)
        mark = (*of, whom, name, str(limit))
        all_rules, known = self._rules.of(subject.organization.id, keyspace), self._near.get(mark)
        if known is not None and known.rules is all_rules and used < known.units and now < known.at:
            return
        found = _of_kind(all_rules, AlertKind.LIMIT_NEARLY_USED)
        for rule in found:
            alert = rules.nearly_used(rule, of, whom, key, window, limit, used, now)
            if alert is not None:
                self._raise(alert)
        steps = [-(-percent * limit // 100) for rule in found for percent in rule.settings["percent"]]
        if len(self._near) >= MOST:
            self._near.clear()
        self._near[mark] = _News(min((it for it in steps if it > used), default=limit + 1), now + length, all_rules)

    def leaked(self, organization: str, keyspace: Keyspace, key: str, place: str, done: str) -> None:
        """Note that a key's text was found at *place* (may be empty); *done* says in words what became of the key."""
        for rule in _of_kind(self._rules.of(organization, keyspace), AlertKind.LEAKED):
            self._raise(rules.leaked(rule, (organization, keyspace.name), key, place, done, self._clock()))

    def _add(self, failure: Failure) -> None:
        if failure in self._failures or len(self._failures) < MOST:
            self._failures[failure] += 1

    def _raise(self, alert: Alert) -> None:
        if len(self._alerts) < MOST and not self._is_told(alert):
            self._alerts.setdefault(alert.id, alert)

    def _is_told(self, alert: Alert) -> bool:
        """Tell whether this process knows that it is: then the store need not be asked."""
        told = self._told.get((alert.organization, alert.topic))
        return told is not None and (alert.quiet == 0 or alert.at - told.at < alert.quiet)

    async def flush(self) -> None:
        """Write what was noted. Raises StoreUnavailable, Overloaded: then it stays for the next flush.

        After a failure whose outcome is unknown, failures may count twice: an alert comes early rather than not.
        """
        failures, self._failures = self._failures, Counter()
        alerts, self._alerts = self._alerts, {}
        try:
            if failures or alerts:
                self._remember(await self._writes.run(self._write, dict(failures), list(alerts.values())))
        except BaseException:
            since, self._failures = self._failures, failures
            for failure, count in since.items():
                if failure in failures or len(failures) < MOST:
                    failures[failure] += count
            self._alerts = dict(islice((alerts | self._alerts).items(), MOST))
            raise

    def _remember(self, told: Iterable[Alert]) -> None:
        for alert in told:
            if len(self._told) >= MOST:
                self._told.clear()
            self._told[alert.organization, alert.topic] = alert

    def _write(self, failures: dict[Failure, int], alerts: list[Alert]) -> list[Alert]:
        """Add up, and keep what is due; return all that was due, by whomever it was told."""
        now = self._clock()
        counted = [it for failure, count in failures.items() for it in self._cells(failure, count, now)]
        for start in range(0, len(counted), CHUNK):
            chunk = sorted(counted[start : start + CHUNK], key=lambda it: it[0])
            totals = self._store.alerts.count_failures([cell for cell, _ in chunk])
            for (cell, rule), total in zip(chunk, totals, strict=True):
                alert = rules.too_many_failures(rule, cell.failure, total, now)
                if alert is not None and not self._is_told(alert):
                    alerts.append(alert)
        for start in range(0, len(alerts), AT_ONCE):  # what is there already is not told again
            self._store.alerts.add(alerts[start : start + AT_ONCE])
        return alerts

    def _cells(self, failure: Failure, count: int, now: Instant) -> list[tuple[FailureCell, AlertRule]]:
        keyspace = self._catalog.known(failure.keyspace)
        all_rules = self._rules.of(failure.organization, keyspace) if keyspace else ()
        found = []
        for rule in rules.failure_rules(all_rules, failure.per):
            cell, length = rules.cell_of(rule, now)
            window = rules.CELLS * length
            counted = FailureCell(failure, rules.counted_as(rule), cell, cell + window, cell - window, count)
            found.append((counted, rule))
        return found


def _of_kind(found: Iterable[AlertRule], kind: AlertKind) -> list[AlertRule]:
    return [rule for rule in found if rules.kind_of(rule) is kind]


def _pers(found: Iterable[AlertRule]) -> set[str]:
    return {rule.settings.get("per", "key") for rule in _of_kind(found, AlertKind.FAILED_AUTHENTICATION)}


def _counted_together(subject: Subject, question: Question, keyspace: Keyspace, name: str) -> tuple[str, str]:
    """Return what a limit counts together, of which this call is, and the key that is all of it, if one is."""
    key = subject.key.id if subject.key is not None else ""
    per = next((it.per for it in keyspace.sections.limits.windows if it.name == name), Per.KEY)
    if per is Per.OWNER and subject.owner is not None:
        return subject.owner.id, ""
    if per is Per.ORGANIZATION:
        return subject.organization.id, ""
    return (f"{key} {'/'.join(question.path)}" if per is Per.KEY_AND_RESOURCE else key), key
