"""The registry of replicas: who may hold caches, for how long, how far each has acknowledged, and when one is out.

A row stays for as long as anything that was cached under it may still be believed. So rows are never taken for dead by
a clock: one that does not answer is condemned, which its replica notices with its next poll, and only deleted once that
replica's last lease, and its clients', must be over (core.freshness has the rule).
"""

from __future__ import annotations

from collections.abc import Sequence

from doorward_server.core.errors import InvalidField
from doorward_server.core.model import SECOND, Event
from doorward_server.core.verify import KnownPepper

from .acknowledgements import Acknowledgements
from .peppers import list_replicas, list_shared
from .rows import REPLICA, SETTING, Columns, to_json
from .transaction import Transaction, Transactions
from .values import Replica, Written

MAX_STALENESS = SECOND
"""Microseconds, unless the store has another setting."""
BOUNDS = (SECOND // 5, 60 * SECOND)
"""Microseconds. With less, ordinary pauses of a process would cost it its lease all the time."""
_SETTING = "max_staleness"


class ReplicaStore:
    """The part of `Store` that knows replicas; like there, every public method is one transaction.

    None makes a revision: no decision reads any of it.
    """

    def __init__(self, transactions: Transactions, acknowledgements: Acknowledgements) -> None:
        self._write, self._look = transactions.write, transactions.look
        self._acknowledgements = acknowledgements

    def register(self, replica: Replica, former: str = "") -> list[KnownPepper]:
        """Add *replica* under an id that never was in use, and condemn *former*, its id before if it had one.

        Returns all pepper versions as of the same moment, as `beat` does.
        """
        return self._write(lambda tx: self._register(tx, replica, former)).value

    def beat(self, replica: Replica) -> list[KnownPepper]:
        """Write when *replica* was seen and its peppers; return all pepper versions as of the same moment.

        One that is not registered, or no longer, is not made: it must `register` anew.
        """
        return self._write(lambda tx: _beat(tx, replica)).value

    def list_all(self) -> list[Replica]:
        """Return all replicas, dead and condemned ones too, oldest first."""
        return self._look(list_replicas)

    def condemn(self, ids: Sequence[str]) -> None:
        """Tell *ids* that they are out: committed when it returns. They count until they are deleted."""
        if ids:
            self._write(lambda tx: _condemn(tx, ids))

    def delete(self, ids: Sequence[str]) -> None:
        """Forget *ids* and what they acknowledged; they may be forgotten already.

        Only for those that no lease is left of: nobody waits for them from here on.
        """
        if ids:
            self._write(lambda tx: self._delete(tx, ids))

    def list_acknowledgements(self) -> dict[str, int]:
        """Return the revision that each replica has acknowledged, in the history that this store has.

        Replicas that have acknowledged nothing, or in a history before a restore, are not in it.
        """
        return self._look(self._acknowledgements.list_valid)

    def max_staleness(self) -> int:
        """Return the setting, in microseconds: a replica goes by it from its next registration on."""
        row = self._look(lambda tx: tx.row(SETTING.select(SETTING.value).where(SETTING.name == _SETTING)))
        return int(row[0]) if row else MAX_STALENESS

    def update_max_staleness(self, microseconds: int, event: Event) -> Written[int]:
        """Change the setting. Raises InvalidField if it is not within `BOUNDS`."""
        low, high = BOUNDS
        if not low <= microseconds <= high:
            raise InvalidField("max_staleness", f"must be from {low / SECOND} to {high // SECOND} seconds")
        return self._write(lambda tx: _set(tx, microseconds, event))

    def _register(self, tx: Transaction, replica: Replica, former: str) -> list[KnownPepper]:
        known = list_shared(tx)
        tx.run(REPLICA.insert({"id": replica.id, **_seen(replica), **_leased(replica)}))
        _condemn(tx, [former])
        self._acknowledgements.delete_orphans(tx)
        return known

    def _delete(self, tx: Transaction, ids: Sequence[str]) -> None:
        tx.run(REPLICA.delete().where(REPLICA.id.in_(list(ids))))
        self._acknowledgements.delete(tx, ids)


def _beat(tx: Transaction, replica: Replica) -> list[KnownPepper]:
    known = list_shared(tx)
    tx.run(REPLICA.change(_seen(replica)).where(REPLICA.id == replica.id))
    return known


def _condemn(tx: Transaction, ids: Sequence[str]) -> None:
    tx.run(REPLICA.change({"condemned": True}).where(REPLICA.id.in_(list(ids))))


def _set(tx: Transaction, microseconds: int, event: Event) -> int:
    tx.append(event)
    if not tx.run(SETTING.change({"value": str(microseconds)}).where(SETTING.name == _SETTING)):
        tx.run(SETTING.insert({"name": _SETTING, "value": str(microseconds)}))
    return microseconds


def _seen(replica: Replica) -> Columns:
    states = {str(version): state.value for version, state in replica.peppers.items()}
    return {"started_at": replica.started_at, "seen_at": replica.seen_at, "peppers": to_json(states)}


def _leased(replica: Replica) -> Columns:
    return {
        "max_staleness": replica.max_staleness,
        "serve_stale_for": replica.serve_stale_for,
        "condemned": replica.condemned,
    }
