"""Alert rules of single organizations. None makes a revision: no decision reads them.

Every change gives one stamp another value in its transaction, so whoever keeps the rules in memory sees with one small
read that they are no longer what it has. The value is random: no other history of the store comes by it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from doorward_server.core.alert_rules import MOST, MOST_OF_A_KIND, OwnRule
from doorward_server.core.errors import NotFound, QuotaExceeded
from doorward_server.core.model import Event

from .dialect import Sqlite
from .entities import ORGANIZATIONS, get
from .transaction import Transaction, Transactions
from .values import Written

ChangeRule = Callable[[OwnRule | None], tuple[OwnRule, Event] | None]
_SELECT = "SELECT organization, keyspace, name, text, updated_at, kind FROM alert_rule"
_ONE = f"{_SELECT} WHERE organization = ? AND keyspace = ? AND name = ?"
_OF = f"{_SELECT} WHERE organization = ? AND keyspace = ? ORDER BY name"
_LIVE = "SELECT id FROM organization WHERE deleted_at IS NULL"
_ALL = f"{_SELECT} WHERE organization IN ({_LIVE}) ORDER BY organization, keyspace, name"
_PUT = """
INSERT INTO alert_rule (organization, keyspace, name, text, updated_at, kind) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (organization, keyspace, name)
DO UPDATE SET text = excluded.text, updated_at = excluded.updated_at, kind = excluded.kind
"""
_DELETE = "DELETE FROM alert_rule WHERE organization = ? AND keyspace = ? AND name = ?"
_DROP = "DELETE FROM alert_rule WHERE organization = ?"
_OTHERS = "SELECT kind FROM alert_rule WHERE organization = ? AND keyspace = ? AND name <> ?"
_STAMP = "SELECT value FROM alert_rule_stamp"
_MOVE_SQLITE = "UPDATE alert_rule_stamp SET value = lower(hex(randomblob(16)))"
_MOVE_POSTGRESQL = "UPDATE alert_rule_stamp SET value = gen_random_uuid()::text"


class AlertRuleStore:
    """The part of `Store` that knows rules of organizations; like there, every public method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._write, self._read, self._look = transactions.write, transactions.read, transactions.look

    def put(self, organization: str, keyspace: str, name: str, change: ChangeRule) -> Written[OwnRule]:
        """Apply *change* to a rule, or to None if there is none yet: then it must make one.

        Raises NotFound (organization), QuotaExceeded.
        """
        return self._write(lambda tx: _put(tx, (organization, keyspace, name), change))

    def delete(self, organization: str, keyspace: str, name: str, told: Callable[[OwnRule], Event]) -> Written[None]:
        """Remove a rule, with the event that *told* makes of it. Raises NotFound."""
        return self._write(lambda tx: _delete(tx, (organization, keyspace, name), told))

    def list_some(self, organization: str, keyspace: str) -> list[OwnRule]:
        """Return the rules that an organization has for a keyspace, by name; there are at most `MOST`."""
        return self._look(lambda tx: [OwnRule(*row) for row in tx.ask(_OF, organization, keyspace)])

    def stamp(self) -> str:
        """Return what every change of rules makes another; equal ones go with the same rules."""
        return self._look(_stamp)

    def list_all(self) -> tuple[str, list[OwnRule]]:
        """Return all rules, by organization, keyspace and name, and the stamp that goes with them.

        For who keeps them in memory. Those of deleted organizations are not among them.
        """
        return self._read(lambda tx: (_stamp(tx), [OwnRule(*row) for row in tx.ask(_ALL)]))


def _put(tx: Transaction, which: Sequence[str], change: ChangeRule) -> OwnRule:
    tx.tally(which[0])
    get(tx, ORGANIZATIONS, which[0])
    current = _find(tx, which)
    changed = change(current)
    if changed is None:
        if current is None:
            raise ValueError("a change of what is not there must make it")
        return current
    rule, event = changed
    if current is None or current.kind != rule.kind:
        _check_room(tx, which, rule.kind)
    _change(tx, event, _PUT, *which, rule.text, rule.updated_at, rule.kind)
    return rule


def _check_room(tx: Transaction, which: Sequence[str], kind: str) -> None:
    others = [other for (other,) in tx.ask(_OTHERS, *which)]
    if len(others) >= MOST:
        raise QuotaExceeded("alert rules per organization and keyspace", MOST)
    if kind and others.count(kind) >= MOST_OF_A_KIND:
        raise QuotaExceeded(f"alert rules with 'when: {kind}' per organization and keyspace", MOST_OF_A_KIND)


def _delete(tx: Transaction, which: Sequence[str], told: Callable[[OwnRule], Event]) -> None:
    tx.tally(which[0])
    current = _find(tx, which)
    if current is None:
        raise NotFound("alert rule", which[2])
    _change(tx, told(current), _DELETE, *which)


def _change(tx: Transaction, event: Event, sql: str, *params: Any) -> None:
    tx.change(sql, *params)
    tx.append(event)
    _move(tx)


def drop(tx: Transaction, organization: str) -> None:
    """Remove the rules of an organization that ends."""
    if tx.change(_DROP, organization):
        _move(tx)


def _move(tx: Transaction) -> None:
    """Last in a change: whoever changes rules of another organization waits for it."""
    tx.change(_MOVE_SQLITE if isinstance(tx.dialect, Sqlite) else _MOVE_POSTGRESQL)


def _find(tx: Transaction, which: Sequence[str]) -> OwnRule | None:
    rows = tx.ask(_ONE, *which)
    return OwnRule(*rows[0]) if rows else None


def _stamp(tx: Transaction) -> str:
    ((value,),) = tx.ask(_STAMP)
    return str(value)
