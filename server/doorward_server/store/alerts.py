"""Alerts, the counts that some come from, and what the others are found by. None makes a revision.

An organization's alerts are added under its tally, one after the other: so they are numbered without gaps in the order
of their commits, and whoever has read up to a number has missed none below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from doorward_server.core.alerts import Acknowledgement, Activity, Alert, AlertFilter, AlertKind, Failure, KeyFacts
from doorward_server.core.errors import NotFound
from doorward_server.core.model import Event, Instant

from .transaction import Transaction, Transactions
from .values import Written

CHUNK = 500
"""Rows that one statement reads or removes."""
_NAMES = (
    "organization", "keyspace", "rule", "kind", "subject", "key", "at", "message", "topic", "quiet", "threshold",
    "expected", "observed", "sequence",
)  # fmt: skip
_COLUMNS = f"{', '.join(_NAMES)}, acknowledged_at, acknowledged_by, note"
_ADD = (
    f"INSERT INTO alert (id, {', '.join(_NAMES)}) VALUES (?, {', '.join('?' * len(_NAMES))}) "  # noqa: S608  # names are ours
    "ON CONFLICT (organization, id) DO NOTHING"
)
_COUNT = """
INSERT INTO failure_cell (organization, keyspace, rule, subject, cell, count, ends_at) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (organization, keyspace, rule, subject, cell) DO UPDATE SET count = failure_cell.count + excluded.count
"""
_SUM = """
SELECT SUM(count) FROM failure_cell
WHERE organization = ? AND keyspace = ? AND rule = ? AND subject = ? AND cell > ? AND cell <= ?
"""
_OLD_CELLS = """
DELETE FROM failure_cell WHERE (organization, keyspace, rule, subject, cell) IN
(SELECT organization, keyspace, rule, subject, cell FROM failure_cell WHERE ends_at < ? LIMIT ?)
"""
_OLD_ALERTS = """
DELETE FROM alert WHERE (organization, id) IN (
    SELECT a.organization, a.id FROM alert AS a
    WHERE a.at < ? AND a.sequence < (SELECT MAX(sequence) FROM alert WHERE organization = a.organization) LIMIT ?
)
"""
# The newest secret is the one with the highest ordinal.
_FACTS = """
SELECT k.organization, k.id, k.name, k.type, k.created_at, k.expires_at, u.at, s.id, s.created_at, k.not_before
FROM key AS k
JOIN secret AS s ON s.organization = k.organization AND s.key = k.id AND s.ordinal = (
    SELECT MAX(ordinal) FROM secret WHERE organization = k.organization AND key = k.id
)
LEFT OUTER JOIN key_use AS u ON u.organization = k.organization AND u.key = k.id
WHERE k.keyspace = ? AND k.revoked_at IS NULL AND k.deleted_at IS NULL AND {due} AND {within}
AND EXISTS (SELECT 1 FROM organization AS o WHERE o.id = k.organization AND o.deleted_at IS NULL)
ORDER BY k.organization, k.id
"""
_LAST = "SELECT k.organization, k.id FROM key AS k WHERE {within} ORDER BY k.organization, k.id LIMIT 1 OFFSET ?"
_TOLD = """
EXISTS (
    SELECT 1 FROM alert AS a
    WHERE a.organization = k.organization AND a.subject = k.id AND a.keyspace = k.keyspace AND a.rule = ?
    AND a.at >= {} AND a.kind = '{}'
)
"""
_SINCE = "COALESCE(u.at, CASE WHEN k.not_before > k.created_at THEN k.not_before ELSE k.created_at END)"
_DUE = {
    AlertKind.EXPIRING: "k.expires_at > ? AND k.expires_at <= ?",
    AlertKind.UNUSED: f"{_SINCE} <= ? AND NOT {_TOLD.format(_SINCE, AlertKind.UNUSED)}",
    AlertKind.ROTATION_OVERDUE: f"s.created_at <= ? AND NOT {_TOLD.format('s.created_at', AlertKind.ROTATION_OVERDUE)}",
}
_BUSY = """
SELECT organization, key, SUM(count) FROM usage_cell WHERE keyspace = ? AND hour = ? AND key <> ''
GROUP BY organization, key HAVING SUM(count) >= ?
"""
_MADE = """
SELECT k.created_at, (
    SELECT CASE WHEN e.action = 'keys:import' THEN e.at END FROM event AS e
    WHERE e.organization = k.organization AND e.target = k.id AND e.target_type = 'key' ORDER BY e.sequence LIMIT 1
)
FROM key AS k WHERE k.organization = ? AND k.id = ?
"""
_MINE = "k.organization = ?"
_OTHERS = """
NOT EXISTS (
    SELECT 1 FROM alert_rule AS r WHERE r.organization = k.organization AND r.keyspace = k.keyspace AND r.name = ?
)
"""
_SCHEDULED = "UPDATE schedule SET next_at = ? WHERE name = ? AND (next_at <= ? OR next_at > ?)"
_FIRST_TIME = "INSERT INTO schedule (name, next_at) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"


@dataclass(frozen=True, slots=True, order=True)
class FailureCell:
    """Failures of one cell of a rule's window, to be added to what others have counted."""

    failure: Failure
    rule: str
    """What counts together; see `counted_as`."""
    cell: Instant
    """When it began."""
    ends_at: Instant
    """From when on no window has it."""
    since: Instant
    """The window's cells that are summed begin after this."""
    count: int


class Whose(NamedTuple):
    """Whose keys a rule looks at."""

    rule: str = ""
    """Not those of organizations that have a rule of this name for themselves."""
    organization: str = ""
    """Only those of this one, whatever rules it has; empty: of all."""


ANYBODYS = Whose()
Place = tuple[str, str]
"""Organization and id of a key; those of ("", "") are before all others."""
Much = Callable[[str, int], bool]
"""Tells of an organization whether so many decisions about one of its keys are worth another look."""


class AlertStore:
    """The part of `Store` that knows alerts; like there, every public method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._write, self._read, self._look = transactions.write, transactions.read, transactions.look

    def add(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Keep those that nothing of the same topic was told of within their quiet span; return them, numbered.

        All of one organization, or of few: it holds the tallies of all of them.
        """
        return self._write(lambda tx: _add(tx, alerts)).value

    def find(self, organization: str, id: str) -> Alert | None:
        """Return an alert."""
        rows = self._look(lambda tx: tx.ask(_SELECT + " WHERE organization = ? AND id = ?", organization, id))
        return _alert(rows[0]) if rows else None

    def list_some(self, organization: str, filter: AlertFilter, before: int | None, limit: int) -> list[Alert]:
        """Return alerts, the latest first, of a lower sequence than *before*."""
        return self._look(lambda tx: _list_some(tx, organization, filter, before, limit))

    def list_after(self, organization: str, sequence: int, limit: int) -> list[Alert]:
        """Return alerts in the order in which they were added, behind *sequence*."""
        return self._look(lambda tx: list_after(tx, organization, sequence, limit))

    def last_sequence(self, organization: str) -> int:
        """Return how many alerts an organization has had; 0: none yet."""
        return self._look(lambda tx: last_sequence(tx, organization))

    def acknowledge(self, organization: str, id: str, acknowledgement: Acknowledgement, event: Event) -> Written[Alert]:
        """Mark an alert as seen, with *event*; one that is so already stays as it is. Raises NotFound."""
        return self._write(lambda tx: _acknowledge(tx, organization, id, acknowledgement, event))

    def count_failures(self, cells: Sequence[FailureCell]) -> list[int]:
        """Add to cells, which are sorted, and return for each what all replicas have counted in its window by then."""
        return self._write(lambda tx: [_count(tx, cell) for cell in cells]).value

    def list_due(
        self,
        keyspace: str,
        kind: AlertKind,
        bounds: Sequence[object],
        after: Place,
        most: int,
        whose: Whose = ANYBODYS,
    ) -> tuple[list[KeyFacts], Place | None]:
        """Look at *most* keys behind *after*, by (organization, id): one look is short, however few there are to find.

        Returns those for which a rule of *kind* may be due, and behind which the next ones are; None: there are none.
        *bounds*: from and to when they expire; or the rule's time and name (unused, rotation_overdue): then those that
        it has told of since are left out.
        """
        return self._read(lambda tx: _list_due(tx, keyspace, kind, bounds, after, most, whose))

    def list_busy(
        self, keyspace: str, hour: Instant, least: int, hours_before: Sequence[Instant], much: Much
    ) -> list[Activity]:
        """Return the keys that did *least* or more in *hour*, and *much* for their organization, with what they did in
        *hours_before*.

        Hours that had begun when the key was made or imported are left out, and those up to the first in which anything
        of the keyspace was counted.
        """
        return self._read(lambda tx: _list_busy(tx, keyspace, hour, least, hours_before, much))

    def is_due(self, name: str, now: Instant, every: int) -> bool:
        """Tell whether periodic work is due, and if so say that it is being done: one replica is told so.

        A time that is further ahead than *every* comes from a clock that was wrong, and is passed over.
        """
        return self._write(lambda tx: _is_due(tx, name, now, every)).value

    def prune(self, cells_before: Instant, alerts_before: Instant) -> int:
        """Remove up to `CHUNK` rows of each kind that are over; return how many: call until 0.

        The last alert of each organization stays, so that no number is given twice.
        """

        def work(tx: Transaction) -> int:
            return tx.change(_OLD_CELLS, cells_before, CHUNK) + tx.change(_OLD_ALERTS, alerts_before, CHUNK)

        return self._write(work).value


_SELECT = f"SELECT {_COLUMNS} FROM alert"  # noqa: S608  # names are ours


def _add(tx: Transaction, alerts: Sequence[Alert]) -> list[Alert]:
    added = []
    for organization, group in groupby(sorted(alerts, key=lambda it: it.organization), lambda it: it.organization):
        tx.tally(organization)  # one after the other: so the numbers have no gaps, and nobody tells twice
        sequence = last_sequence(tx, organization)
        for alert in group:
            if not _told(tx, alert) and tx.change(_ADD, alert.id, *_values(alert, sequence + 1)):
                sequence += 1
                added.append(_numbered(alert, sequence))
    return added


def _told(tx: Transaction, alert: Alert) -> bool:
    sql = "SELECT MAX(at) FROM alert WHERE organization = ? AND topic = ?"
    ((last,),) = tx.ask(sql, alert.organization, alert.topic)
    return last is not None and (alert.quiet == 0 or alert.at - last < alert.quiet)


def _values(alert: Alert, sequence: int) -> list[Any]:
    return [*(getattr(alert, name) for name in _NAMES[:-1]), sequence]


def _numbered(alert: Alert, sequence: int) -> Alert:
    return _alert((*_values(alert, sequence), None, "", ""))


def list_after(tx: Transaction, organization: str, sequence: int, limit: int) -> list[Alert]:
    """Return alerts in the order in which they were added, behind *sequence*."""
    where = " WHERE organization = ? AND sequence > ? ORDER BY sequence LIMIT ?"
    return [_alert(row) for row in tx.ask(_SELECT + where, organization, sequence, limit)]


def last_sequence(tx: Transaction, organization: str) -> int:
    """Return the number of the last alert; 0: there was none yet."""
    ((last,),) = tx.ask("SELECT MAX(sequence) FROM alert WHERE organization = ?", organization)
    return last or 0


def _list_some(tx: Transaction, organization: str, filter: AlertFilter, before: int | None, limit: int) -> list[Alert]:
    conditions: list[tuple[str, Any]] = [("organization = ?", organization)]
    if before is not None:
        conditions.append(("sequence < ?", before))
    for name in ("keyspace", "kind", "key"):
        if value := getattr(filter, name):
            conditions.append((f"{name} = ?", str(value)))
    if filter.since is not None:
        conditions.append(("at >= ?", filter.since))
    if filter.until is not None:
        conditions.append(("at < ?", filter.until))
    where = " AND ".join(condition for condition, _ in conditions)
    if filter.unacknowledged:
        where += " AND acknowledged_at IS NULL"
    sql = f"{_SELECT} WHERE {where} ORDER BY sequence DESC LIMIT ?"
    return [_alert(row) for row in tx.ask(sql, *(value for _, value in conditions), limit)]


def _acknowledge(tx: Transaction, organization: str, id: str, acknowledgement: Acknowledgement, event: Event) -> Alert:
    tx.tally(organization)
    sql = (
        "UPDATE alert SET acknowledged_at = ?, acknowledged_by = ?, note = ? "
        "WHERE organization = ? AND id = ? AND acknowledged_at IS NULL"
    )
    new = acknowledgement
    if tx.change(sql, new.at, new.by, new.note, organization, id):
        tx.append(event)
    rows = tx.ask(_SELECT + " WHERE organization = ? AND id = ?", organization, id)
    if not rows:
        raise NotFound("alert", id)
    return _alert(rows[0])


def _count(tx: Transaction, cell: FailureCell) -> int:
    of = (cell.failure.organization, cell.failure.keyspace, cell.rule, cell.failure.subject)
    tx.change(_COUNT, *of, cell.cell, cell.count, cell.ends_at)
    ((total,),) = tx.ask(_SUM, *of, cell.since, cell.cell)
    return int(total)


def _list_due(
    tx: Transaction, keyspace: str, kind: AlertKind, bounds: Sequence[object], after: Place, most: int, whose: Whose
) -> tuple[list[KeyFacts], Place | None]:
    within, place = _within(whose.organization, ">", after)
    rows = tx.ask(_LAST.format(within=within), *place, most - 1)
    last = (rows[0][0], rows[0][1]) if rows else None
    if last is not None:
        until, end = _within(whose.organization, "<=", last)
        within, place = f"{within} AND {until}", (*place, *end)
    if not whose.organization:
        within, place = f"{within} AND {_OTHERS}", (*place, whose.rule)
    sql = _FACTS.format(due=_DUE[kind], within=within)
    return [KeyFacts(*row) for row in tx.ask(sql, keyspace, *bounds, *place)], last


def _within(organization: str, side: str, place: Place) -> tuple[str, tuple[str, ...]]:
    """Return what is on one side of a place, among all keys or those of an organization, and the parameters of that.

    Said like this, both stores find the keys of one organization in order, and sort none of them.
    """
    if organization:
        return f"{_MINE} AND k.id {side} ?", (organization, place[1])
    return f"(k.organization, k.id) {side} (?, ?)", place


def _list_busy(
    tx: Transaction, keyspace: str, hour: Instant, least: int, hours_before: Sequence[Instant], much: Much
) -> list[Activity]:
    # Before that nothing was counted: the keyspace was new, or Doorward was of an older version, or it was pruned. In
    # that hour, perhaps not all of it.
    ((first,),) = tx.ask("SELECT MIN(hour) FROM usage_cell WHERE keyspace = ?", keyspace)
    found = []
    for organization, key, count in tx.ask(_BUSY, keyspace, hour, least):
        made = tx.ask(_MADE, organization, key) if much(organization, int(count)) else []
        for created_at, imported_at in made:
            since = max(created_at, imported_at or 0)
            hours = [it for it in hours_before if it > first and it >= since]
            before = tuple(_sum(tx, organization, key, it) for it in hours)
            found.append(Activity(organization, keyspace, key, hour, int(count), before))
    return found


def _sum(tx: Transaction, organization: str, key: str, hour: Instant) -> int:
    sql = "SELECT SUM(count) FROM usage_cell WHERE organization = ? AND key = ? AND hour = ?"
    ((total,),) = tx.ask(sql, organization, key, hour)
    return int(total or 0)


def _is_due(tx: Transaction, name: str, now: Instant, every: int) -> bool:
    if tx.change(_SCHEDULED, now + every, name, now, now + every):
        return True
    return bool(tx.change(_FIRST_TIME, name, now + every))


def _alert(row: Sequence[Any]) -> Alert:
    *values, acknowledged_at, acknowledged_by, note = row
    given = dict(zip(_NAMES, values, strict=True))
    given["kind"] = AlertKind(given["kind"])
    seen = None if acknowledged_at is None else Acknowledgement(acknowledged_at, acknowledged_by, note)
    return Alert(**given, acknowledgement=seen)
