"""What was charged to limits, over all replicas. Neither a revision nor an audit event: no record has it.

Charges against one meter come one after the other: SQLite has one writer, and in PostgreSQL they take a lock of its
name before anything is read; but a charge waits for none. The time is read after that, and is the store's: PostgreSQL's
own clock, or with SQLite, whose processes are on one machine, that machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from doorward_server.core.limits import Cell, Grant, Meter, cell_of, grant, horizon
from doorward_server.core.model import Instant

from .transaction import Transaction, Transactions

CHUNK = 1_000
_CELLS = """
SELECT starts, ends, units FROM limit_cell
WHERE organization = ? AND keyspace = ? AND subject = ? AND name = ? AND ends > ?
"""
_CHARGED = """
INSERT INTO limit_cell (organization, keyspace, subject, name, starts, ends, units) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (organization, keyspace, subject, name, ends, starts) DO UPDATE
SET units = limit_cell.units + excluded.units
"""
_IDENTITY = "organization, keyspace, subject, name, ends, starts"
# What ended a window ago may still count for a window that was made longer since, but not for one twice so long.
_PRUNED = f"""
DELETE FROM limit_cell WHERE ({_IDENTITY}) IN (
    SELECT {_IDENTITY} FROM limit_cell WHERE ends < ? AND ends + 20 * (ends - starts) < ? LIMIT ?
)
"""  # noqa: S608  # columns


@dataclass(frozen=True, slots=True)
class Charge:
    """What is asked for: at least *cost* units of every meter or none of any, and for a lease up to *wanted*."""

    meters: tuple[Meter, ...]
    cost: int
    wanted: int


class LimitStore:
    """The part of `Store` that counts against limits; like there, every public method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._write = transactions.write

    def charge(self, charges: Sequence[Charge], clock: Callable[[], Instant]) -> list[Grant | None]:
        """Charge each of *charges* in turn, and return what they came to; None: somebody else has one of its meters
        just now. *clock* is for SQLite, which has none.
        """
        return self._write(lambda tx: _charge(tx, charges, clock)).value

    def prune(self, now: Instant, limit: int = CHUNK) -> int:
        """Remove up to *limit* cells that are long over; return how many: call until 0."""
        return self._write(lambda tx: tx.change(_PRUNED, now, now, limit)).value


def _charge(tx: Transaction, charges: Sequence[Charge], clock: Callable[[], Instant]) -> list[Grant | None]:
    names = [{"/".join(_identity(meter)) for meter in charge.meters} for charge in charges]
    had, now = tx.dialect.at_once(sorted(set().union(*names)), clock)
    return [_charge_one(tx, charge, now) if mine <= had else None for charge, mine in zip(charges, names, strict=True)]


def _charge_one(tx: Transaction, charge: Charge, now: Instant) -> Grant:
    charged = [[Cell(*row) for row in tx.ask(_CELLS, *_identity(it), horizon(it, now))] for it in charge.meters]
    granted = grant(charge.meters, charged, charge.cost, charge.wanted, now)
    if granted.units:
        for meter in charge.meters:
            tx.change(_CHARGED, *_identity(meter), *cell_of(meter, granted.now), granted.units)
    return granted


def _identity(meter: Meter) -> tuple[str, str, str, str]:
    return meter.organization, meter.keyspace, meter.subject, meter.name
