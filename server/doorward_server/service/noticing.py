"""What calls bring about that somebody must be told of: failed authentications, replaced secrets, limits, leaks.

Noted in memory on the event loop, without a lock and without asking anybody; written once a second. Failures of all
replicas are added up in the store, in cells of a tenth of their rule's window. kill -9 loses what was noted since the
last flush.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from doorward_server.core import alerts as rules
from doorward_server.core.alerts import HOUR, Alert, AlertKind, Failure
from doorward_server.core.decide import Question
from doorward_server.core.limits import Per
from doorward_server.core.model import Instant, Key, Secret
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import UNAUTHENTICATED, Reason
from doorward_server.core.sections import AlertRule
from doorward_server.core.subject import Subject
from doorward_server.service.catalog import Catalog
from doorward_server.service.guard import Clock
from doorward_server.service.leasing import Hit
from doorward_server.service.noted import Noted
from doorward_server.service.own_rules import OwnRules
from doorward_server.service.pool import Pool
from doorward_server.store import Store
from doorward_server.store.alerts import FailureCell

MOST = 10_000
"""Things that are remembered of what was told, so that it is not made up again. Beyond that, all of it begins anew."""
CHUNK = 500
"""Cells in one transaction."""
AT_ONCE = 250
"""Alerts in one transaction: it holds what all of their organizations write to."""
NOTHING_SHOWN = frozenset({Reason.CREDENTIAL_MISSING, Reason.CREDENTIAL_AMBIGUOUS})
"""Denials of calls that are no attempt with a key."""
Known = tuple[str, str]
"""Organization and id of a key."""


class _News(NamedTuple):
    """When a limit or secret is worth another look: from so many *units* on, later than *at*, or with other *rules*."""

    units: int
    at: Instant
    rules: tuple[AlertRule, ...]

    def is_due(self, units: int, now: Instant, rules: tuple[AlertRule, ...]) -> bool:
        return units >= self.units or now >= self.at or rules is not self.rules


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
        self._noted = Noted()
        self._dropped = 0
        self._told: dict[tuple[str, str], Alert] = {}
        self._looked: dict[tuple[str, ...], _News] = {}

    @property
    def dropped(self) -> int:
        """Failures and alerts that there was no room for, since the start."""
        return self._dropped + self._noted.dropped

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
            self._noted.count(Failure(key[0], keyspace.name, "key", key[1]))
        if "address" in pers and address:
            self._noted.count(Failure(organization, keyspace.name, "address", address))
        if "prefix" in pers and prefix:
            self._noted.count(Failure(organization, keyspace.name, "prefix", prefix))

    def hit(self, hit: Hit) -> None:
        """Note authentications that a client has said from its cache have failed: with texts of keys that it knows."""
        if hit.reason not in UNAUTHENTICATED:
            return
        keyspace = self._catalog.known(hit.keyspace)  # perhaps another replica was asked about it, and not this one
        if keyspace is None or "key" in _pers(self._rules.of(hit.organization, keyspace)):
            self._noted.count(Failure(hit.organization, hit.keyspace, "key", hit.key), hit.count)

    def used(self, keyspace: Keyspace, subject: Subject, now: Instant) -> None:
        """Note that a text proved possession of a key, if it is one that a rotation has replaced."""
        key, secret = subject.key, subject.secret
        if key is None or secret is None or secret.expires_at is None:
            return
        self._superseded(keyspace, key, secret, secret.expires_at, now)

    def _superseded(self, keyspace: Keyspace, key: Key, secret: Secret, ends_at: Instant, now: Instant) -> None:
        of = (key.organization, keyspace.name)
        mark, all_rules = (*of, key.id, secret.id), self._rules.of(key.organization, keyspace)
        if not self._is_due(mark, 0, now, all_rules):
            return
        found = _of_kind(all_rules, AlertKind.SUPERSEDED_USED)
        alerts = [rules.superseded_used(rule, of, key.id, secret.id, ends_at, now) for rule in found]
        if self._raise_all(alerts):
            self._keep(mark, _News(1, now + HOUR, all_rules))

    def nearly_used(
        self, subject: Subject, question: Question, keyspace: Keyspace, window: tuple[str, int], limit: int, used: int
    ) -> None:
        """Note that much of a limit is used by a call. *window* is its name and length in microseconds."""
        (name, length), now = window, self._clock()
        whom, key = _counted_together(subject, question, keyspace, name)
        of = (subject.organization.id, keyspace.name)
        mark, all_rules = (*of, whom, name, str(limit)), self._rules.of(subject.organization.id, keyspace)
        if not self._is_due(mark, used, now, all_rules):
            return
        found = _of_kind(all_rules, AlertKind.LIMIT_NEARLY_USED)
        alerts = (rules.nearly_used(rule, of, whom, key, window, limit, used, now) for rule in found)
        if self._raise_all(it for it in alerts if it is not None):
            steps = [-(-percent * limit // 100) for rule in found for percent in rule.settings["percent"]]
            units = min((it for it in steps if it > used), default=limit + 1)
            self._keep(mark, _News(units, now + length, all_rules))

    def leaked(self, organization: str, keyspace: Keyspace, key: str, place: str, done: str) -> None:
        """Note that a key's text was found at *place* (may be empty); *done* says in words what became of the key."""
        for rule in _of_kind(self._rules.of(organization, keyspace), AlertKind.LEAKED):
            self._raise(rules.leaked(rule, (organization, keyspace.name), key, place, done, self._clock()))

    def _is_due(self, mark: tuple[str, ...], units: int, now: Instant, all_rules: tuple[AlertRule, ...]) -> bool:
        """Tell whether alerts may come of another look: nothing is made up, on a call's way, that was told already."""
        known = self._looked.get(mark)
        return known is None or known.is_due(units, now, all_rules)

    def _keep(self, mark: tuple[str, ...], news: _News) -> None:
        if len(self._looked) >= MOST:
            self._looked.clear()
        self._looked[mark] = news

    def _raise_all(self, alerts: Iterable[Alert]) -> bool:
        """Raise them; tell whether there was room for all."""
        taken = [self._raise(it) for it in alerts]
        return all(taken)

    def _raise(self, alert: Alert) -> bool:
        return self._is_told(alert) or self._noted.tell(alert)

    def _is_told(self, alert: Alert) -> bool:
        """Tell whether this process knows that it is: then the store need not be asked."""
        told = self._told.get((alert.organization, alert.topic))
        return told is not None and (alert.quiet == 0 or alert.at - told.at < alert.quiet)

    async def flush(self) -> None:
        """Write what was noted. Raises StoreUnavailable, Overloaded: then it stays for the next flush.

        After a failure whose outcome is unknown, failures may count twice: an alert comes early rather than not.
        """
        noted, self._noted = self._noted, Noted()
        self._dropped += noted.dropped
        noted.dropped = 0
        try:
            if noted:
                self._remember(await self._writes.run(self._write, noted))
        except BaseException:
            since, self._noted = self._noted, noted
            noted.add(since)
            raise
        self._dropped += noted.dropped

    def _remember(self, told: Iterable[Alert]) -> None:
        for alert in told:
            if len(self._told) >= MOST:
                self._told.clear()
            self._told[alert.organization, alert.topic] = alert

    def _write(self, noted: Noted) -> list[Alert]:
        """Add up, and keep what is due; return all that was due, by whomever it was told."""
        now = self._clock()
        failures = list(noted.failures.items())
        counted = [it for failure, count in failures for it in self._cells(failure, count, now)]
        for start in range(0, len(counted), CHUNK):
            chunk = sorted(counted[start : start + CHUNK], key=lambda it: it[0])
            totals = self._store.alerts.count_failures([cell for cell, _ in chunk])
            for (cell, found), total in zip(chunk, totals, strict=True):
                for alert in (rules.too_many_failures(rule, cell.failure, total, now) for rule in found):
                    if alert is not None and not self._is_told(alert):
                        noted.tell(alert)
        alerts = list(noted.alerts.values())
        for start in range(0, len(alerts), AT_ONCE):  # what is there already is not told again
            self._store.alerts.add(alerts[start : start + AT_ONCE])
        return alerts

    def _cells(self, failure: Failure, count: int, now: Instant) -> Iterator[tuple[FailureCell, list[AlertRule]]]:
        """Yield what is counted of a failure, once for windows of one length, with the rules that go by it."""
        keyspace = self._catalog.known(failure.keyspace) or self._catalog.find(failure.keyspace)
        all_rules = self._rules.of(failure.organization, keyspace) if keyspace else ()
        found = sorted(rules.failure_rules(all_rules, failure.per), key=_window)
        for window, group in groupby(found, _window):
            cell, length = rules.cell_of(window, now)
            whole = rules.CELLS * length
            name = rules.counted_as(failure.per, window)
            yield FailureCell(failure, name, cell, cell + whole, cell - whole, count), list(group)


def _of_kind(found: Iterable[AlertRule], kind: AlertKind) -> list[AlertRule]:
    return [rule for rule in found if rules.kind_of(rule) is kind]


def _window(rule: AlertRule) -> int:
    return int(rule.settings["window"])


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
