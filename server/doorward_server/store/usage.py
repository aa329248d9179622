"""Usage by the hour, and the decision log. Neither makes a revision or an audit event: no decision reads them.

Cells are added to by upserts sorted by identity, so that replicas that flush at once do not wait in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from doorward_server.core.model import Instant
from doorward_server.core.usage import (
    AddressCell,
    Cell,
    CellCount,
    Cells,
    DecisionRecord,
    Dimension,
    Scope,
    StrangerCell,
    StrangerCount,
    Sum,
)

from .rows import KEY
from .transaction import Transaction, Transactions

CHUNK = 1_000
_DECISION = (
    "organization", "at", "id", "keyspace", "key", "owner", "action", "resource", "reason", "client_ip", "caller",
)  # fmt: skip
_FLUSHED = """
INSERT INTO usage_flush (source, sequence, at) VALUES (?, ?, ?)
ON CONFLICT (source) DO UPDATE SET sequence = excluded.sequence, at = excluded.at
WHERE usage_flush.sequence < excluded.sequence RETURNING sequence
"""
_ADD = "INSERT INTO {table} ({columns}) VALUES {values} ON CONFLICT ({identity}) DO UPDATE SET {count}"
_KEEP = "INSERT INTO {table} ({columns}) VALUES {values} ON CONFLICT (organization, at, id) DO NOTHING"
_SUMS = """
SELECT {by}, SUM(CASE WHEN reason = 'ALLOWED' THEN count ELSE 0 END),
    SUM(CASE WHEN reason = 'ALLOWED' THEN 0 ELSE count END)
FROM {table} WHERE {where} GROUP BY {by} ORDER BY {order} LIMIT ?
"""
_STRANGERS = """
SELECT prefix, address, caller, reason, SUM(count) FROM usage_stranger WHERE {where}
GROUP BY prefix, address, caller, reason ORDER BY SUM(count) DESC, prefix, address, caller, reason LIMIT ?
"""
_PRUNED = """
DELETE FROM {table} WHERE ({identity}) IN (SELECT {identity} FROM {table} WHERE keyspace = ? AND {when} < ? LIMIT ?)
"""
_IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "usage_cell": Cell._fields,
    "usage_address": AddressCell._fields,
    "usage_stranger": StrangerCell._fields,
    "decision": ("organization", "at", "id"),
}


class UsageStore:
    """The part of `Store` that knows usage; like there, every public method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._write, self._look = transactions.write, transactions.look

    def add(self, source: str, sequence: int, cells: Cells, now: Instant) -> bool:
        """Add counts, once: False, and nothing, if *source* has sent this *sequence*, or a later one, before.

        So a flush whose outcome is unknown is sent again under its number. About `CHUNK` cells of each kind at most.
        """
        return self._write(lambda tx: _add(tx, source, sequence, cells, now)).value

    def sum_by(self, scope: Scope, by: Dimension, limit: int) -> list[Sum]:
        """Return sums by hour in order, or by another dimension, the largest first; at most *limit*."""
        return self._look(lambda tx: _sum_by(tx, scope, by, limit))

    def list_strangers(self, scope: Scope, limit: int) -> list[StrangerCount]:
        """Return who showed credentials that were nobody's, the most frequent first. *scope* names no key or owner."""
        return self._look(lambda tx: _list_strangers(tx, scope, limit))

    def list_cells(self, scope: Scope, after: Cell | None, limit: int) -> list[CellCount]:
        """Return cells in an order of the scope's own, behind *after*."""
        return self._look(lambda tx: _list_cells(tx, scope, after, limit))

    def count_cells(self, scope: Scope) -> int:
        """Count the cells of *scope*."""
        return self._look(lambda tx: _count_cells(tx, scope))

    def find_key(self, organization: str, id: str) -> tuple[str, str | None] | None:
        """Return the keyspace and the owner of a key, also of a deleted one."""
        query = KEY.select(KEY.keyspace, KEY.owner)
        row = self._look(lambda tx: tx.row(KEY.where_all(query, {"organization": organization, "id": id})))
        return (row[0], row[1]) if row else None

    def record(self, records: Sequence[DecisionRecord]) -> None:
        """Keep decisions; one that is there already stays as it is. At most `CHUNK`."""
        self._write(lambda tx: _record(tx, records))

    def list_decisions(self, scope: Scope, before: tuple[Instant, str] | None, limit: int) -> list[DecisionRecord]:
        """Return recorded decisions of *scope*, to the microsecond, the newest first, below *before* = (at, id)."""
        return self._look(lambda tx: _list_decisions(tx, scope, before, limit))

    def prune(self, keyspace: str, usage_before: Instant, decisions_before: Instant, limit: int = CHUNK) -> int:
        """Remove up to *limit* rows of each kind of what is older; return how many: call until 0."""
        return self._write(lambda tx: _prune(tx, keyspace, usage_before, decisions_before, limit)).value

    def prune_flushes(self, before: Instant) -> None:
        """Forget what sources were last heard of before: they must not send anything again."""
        self._write(lambda tx: tx.change("DELETE FROM usage_flush WHERE at < ?", before))


def _add(tx: Transaction, source: str, sequence: int, cells: Cells, now: Instant) -> bool:
    if not tx.ask(_FLUSHED, source, sequence, now):
        return False
    _add_up(tx, "usage_cell", Cell._fields, cells.cells)
    _add_up(tx, "usage_address", AddressCell._fields, cells.addresses)
    _add_up(tx, "usage_stranger", StrangerCell._fields, cells.strangers)
    return True


def _add_up(tx: Transaction, table: str, identity: tuple[str, ...], counts: Mapping[Any, int]) -> None:
    rows = [(*cell, count) for cell, count in sorted(counts.items())]
    words = {"identity": ", ".join(identity), "count": f"count = {table}.count + excluded.count"}
    _insert(tx, _ADD, table, (*identity, "count"), rows, **words)


def _insert(
    tx: Transaction, statement: str, table: str, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]], **words: str
) -> None:
    if not rows:
        return
    values = ", ".join([f"({', '.join('?' * len(names))})"] * len(rows))
    sql = statement.format(table=table, columns=", ".join(names), values=values, **words)
    tx.change(sql, *(value for row in rows for value in row))


def _where(scope: Scope, when: str = "hour") -> tuple[str, list[Any]]:
    named = {
        "organization": "" if scope.organization == "-" else scope.organization,
        "keyspace": scope.keyspace,
        "key": scope.key,
        "owner": scope.owner,
    }
    wanted = {name: value for name, value in named.items() if value}
    conditions = [f"{name} = ?" for name in wanted] + [f"{when} >= ?", f"{when} < ?"]
    if scope.owner:
        conditions.append("owner <> ''")  # what the index is about
    return " AND ".join(conditions), [*wanted.values(), scope.since, scope.until]


def _sum_by(tx: Transaction, scope: Scope, by: Dimension, limit: int) -> list[Sum]:
    where, values = _where(scope)
    table = "usage_address" if by is Dimension.ADDRESS else "usage_cell"
    order = by.value if by is Dimension.HOUR else f"SUM(count) DESC, {by.value}"
    rows = tx.ask(_SUMS.format(by=by.value, table=table, where=where, order=order), *values, limit)
    return [Sum(value, int(allowed), int(denied)) for value, allowed, denied in rows]


def _list_strangers(tx: Transaction, scope: Scope, limit: int) -> list[StrangerCount]:
    where, values = _where(scope)
    rows = tx.ask(_STRANGERS.format(where=where), *values, limit)
    return [
        StrangerCount(prefix, address, caller, reason, int(count)) for prefix, address, caller, reason, count in rows
    ]


def _list_cells(tx: Transaction, scope: Scope, after: Cell | None, limit: int) -> list[CellCount]:
    names, order = ", ".join(Cell._fields), _order(scope)
    if after is not None and order[0] == "hour":
        scope = replace(scope, since=after.hour)
    where, values = _where(scope)
    if after is not None:
        where += f" AND ({', '.join(order)}) > ({', '.join('?' * len(order))})"
        values += [getattr(after, name) for name in order]
    sql = f"SELECT {names}, count FROM usage_cell WHERE {where} ORDER BY {', '.join(order)} LIMIT ?"  # noqa: S608  # names are ours
    return [CellCount(Cell(*row[:-1]), row[-1]) for row in tx.ask(sql, *values, limit)]


def _order(scope: Scope) -> tuple[str, ...]:
    """Return what tells the cells of *scope* apart, in the order of an index that finds them: so a page begins where
    the last one ended, and what is sorted is of one hour.
    """
    fixed = {name for name in ("key", "owner", "keyspace") if getattr(scope, name)}
    if scope.organization != "-":
        fixed.add("organization")
    first = ("hour", "organization") if fixed else ()
    return tuple(it for it in dict.fromkeys((*first, *Cell._fields)) if it not in fixed)


def _count_cells(tx: Transaction, scope: Scope) -> int:
    where, values = _where(scope)
    return int(tx.ask(f"SELECT COUNT(*) FROM usage_cell WHERE {where}", *values)[0][0])  # noqa: S608  # names are ours


def _record(tx: Transaction, records: Sequence[DecisionRecord]) -> None:
    rows = sorted(tuple(getattr(record, name) for name in _DECISION) for record in records)
    _insert(tx, _KEEP, "decision", _DECISION, rows)


def _list_decisions(
    tx: Transaction, scope: Scope, before: tuple[Instant, str] | None, limit: int
) -> list[DecisionRecord]:
    where, values = _where(scope, "at")
    if before is not None:
        where += " AND (at, id) < (?, ?)"
        values += before
    names = ", ".join(_DECISION)
    index = "decision_key" if scope.key else "decision_owner" if scope.owner else ""
    table = f"decision {tx.dialect.through.format(index=index)}" if index else "decision"
    sql = f"SELECT {names} FROM {table} WHERE {where} ORDER BY at DESC, id DESC LIMIT ?"  # noqa: S608  # names are ours
    rows = tx.ask(sql, *values, limit)
    return [DecisionRecord(**dict(zip(_DECISION, row, strict=True))) for row in rows]


def _prune(tx: Transaction, keyspace: str, usage_before: Instant, decisions_before: Instant, limit: int) -> int:
    pruned = 0
    for table, identity in _IDENTITIES.items():
        when, before = ("at", decisions_before) if table == "decision" else ("hour", usage_before)
        sql = _PRUNED.format(table=table, identity=", ".join(identity), when=when)
        pruned += tx.change(sql, keyspace, before, limit)
    return pruned
