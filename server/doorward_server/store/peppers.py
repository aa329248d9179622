"""Which peppers there are, who has them, and which secrets are under which.

Two rules are kept here, because only a transaction can keep them. No version changes its state between a replica's
saying which versions it has and its learning of the states: so either the change sees the replica, or the replica sees
the change. And nothing is written under a version that is retired, not even by a process that slept meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peewee import Value, fn

from doorward_server.core.errors import AlreadyExists, StoreUnavailable
from doorward_server.core.model import Event
from doorward_server.core.verify import KIND, KnownPepper, PepperState, Verifier

from .rows import PEPPER, REPLICA, SECRET
from .transaction import Transaction, Transactions
from .values import HeldVerifier, Replica, Written

States = Mapping[int, PepperState]
ChangePeppers = Callable[[Sequence[KnownPepper], Sequence[Replica], Callable[[int], int]], tuple[States, Event] | None]
"""Given all versions, all replicas and what counts the secrets under a version, tells the states that become others."""
_COLUMNS = (PEPPER.version, PEPPER.canary, PEPPER.state)


class PepperStore:
    """The part of `Store` that knows peppers; like there, every public method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._write, self._look = transactions.write, transactions.look

    def list_all(self) -> list[KnownPepper]:
        """Return all pepper versions, in order."""
        return self._look(_list)

    def add(self, new: KnownPepper, event: Event | None = None) -> Written[bool]:
        """Keep a version; False, and no event, if it is known. Raises AlreadyExists if it has another canary."""
        return self._write(lambda tx: _add(tx, new, event))

    def update(self, organization: str, change: ChangePeppers) -> Written[bool]:
        """Apply *change*, whose event belongs to *organization*; False if it leaves all as it is.

        While it runs, no replica says which versions it has, and no secret is written under any.
        """
        return self._write(lambda tx: _update(tx, organization, change))

    def announce(self, event: Event) -> None:
        """Write down what is about to be done in many transactions."""
        self._write(lambda tx: tx.append(event))

    def list_under(self, version: int, limit: int) -> list[HeldVerifier]:
        """Return up to *limit* verifiers whose outermost pepper is *version*."""
        return self._look(lambda tx: _list_under(tx, version, limit))

    def count_under(self, version: int) -> int:
        """Count the verifiers whose outermost pepper is *version*."""
        return self._look(lambda tx: _count_under(tx, version))

    def is_inner(self, version: int) -> bool:
        """Tell whether any verifier needs *version* below its outermost pepper. Reads all secrets if none does."""
        return self._look(lambda tx: _is_inner(tx, version))

    def replace(self, changes: Sequence[tuple[HeldVerifier, Verifier]]) -> Written[int]:
        """Put new verifiers in place of at most 1,000 that are held; return how many were still what they had been.

        No audit event: the texts stay the same. Raises StoreUnavailable if a new one is under a retired pepper.
        """
        return self._write(lambda tx: _replace(tx, changes))


def _list(tx: Transaction, lock: Callable[[Any], Any] = lambda query: query) -> list[KnownPepper]:
    rows = tx.rows(lock(PEPPER.select(*_COLUMNS).order_by(PEPPER.version)))
    return [KnownPepper(version, bytes(canary), PepperState(state)) for version, canary, state in rows]


def _add(tx: Transaction, new: KnownPepper, event: Event | None) -> bool:
    if event is not None:
        tx.tally(event.organization)
    for known in _list(tx):
        if known.version == new.version and known.canary != new.canary:
            raise AlreadyExists("pepper", str(new.version))
        if known.version == new.version:
            return False
    tx.run(PEPPER.insert({"version": new.version, "canary": new.canary, "state": new.state.value}))
    if event is not None:
        tx.append(event)
    return True


def _update(tx: Transaction, organization: str, change: ChangePeppers) -> bool:
    tx.tally(organization)
    known = _list(tx, tx.dialect.locked)
    changed = change(known, list_replicas(tx), lambda version: _count_under(tx, version))
    if changed is None:
        return False
    states, event = changed
    for version in sorted(states, key=lambda version: states[version] is PepperState.ACTIVE):  # never two active ones
        tx.run(PEPPER.change({"state": states[version].value}).where(PEPPER.version == version))
    tx.append(event)
    return True


def refuse_retired(tx: Transaction, version: int) -> None:
    """Raise StoreUnavailable if a secret shall be written under a retired *version*; it stays unretired to the end."""
    if version == 0 or version in tx.peppers_held:
        return
    row = tx.row(tx.dialect.shared(PEPPER.select(PEPPER.state).where(PEPPER.version == version)))
    if row is not None and row[0] == PepperState.RETIRED:
        raise StoreUnavailable(
            f"Pepper version {version} was retired, and this replica had not noticed yet. Try again; nothing changed."
        )
    tx.peppers_held.add(version)


def list_shared(tx: Transaction) -> list[KnownPepper]:
    """Return all pepper versions, which stay in their states to the end: whoever says what it has, says it so."""
    return _list(tx, tx.dialect.shared)


def list_replicas(tx: Transaction) -> list[Replica]:
    """Return all replicas, oldest first."""
    rows = tx.rows(REPLICA.select(*REPLICA.all_columns()).order_by(REPLICA.started_at, REPLICA.id))
    return [
        Replica(id, started_at, seen_at, _states(has), max_staleness, serve_stale_for, bool(condemned))
        for id, started_at, seen_at, has, max_staleness, serve_stale_for, condemned in rows
    ]


def _states(text: str) -> States:
    return {int(version): PepperState(state) for version, state in json.loads(text).items()}


# --- the secrets under them -------------------------------------------------------------------------------------------


def _count_under(tx: Transaction, version: int) -> int:
    row = tx.row(SECRET.select(fn.COUNT(SECRET.id)).where(SECRET.pepper == version))
    return int(row[0]) if row else 0


def _is_inner(tx: Transaction, version: int) -> bool:
    among = tx.dialect.contains(Value(",").concat(SECRET.inner_peppers).concat(","), f",{version},")
    return tx.row(SECRET.select(SECRET.id).where((SECRET.inner_peppers != "") & among).limit(1)) is not None


def _list_under(tx: Transaction, version: int, limit: int) -> list[HeldVerifier]:
    columns = (SECRET.organization, SECRET.key, SECRET.id, SECRET.pepper, SECRET.digest, SECRET.inner_peppers)
    query = SECRET.select(*columns).where((SECRET.pepper == version) & (SECRET.verifier == KIND))
    rows = tx.rows(query.order_by(SECRET.organization, SECRET.key, SECRET.id).limit(limit))
    return [
        HeldVerifier(organization, key, id, Verifier(KIND, pepper, bytes(digest), _inner(inner)))
        for organization, key, id, pepper, digest, inner in rows
    ]


_REPLACE = """
UPDATE secret SET verifier = u.column5, pepper = u.column6, digest = u.column7, inner_peppers = u.column8
FROM (VALUES {values}) AS u
WHERE secret.organization = u.column1 AND secret.key = u.column2 AND secret.id = u.column3 AND secret.digest = u.column4
"""


def _replace(tx: Transaction, changes: Sequence[tuple[HeldVerifier, Verifier]]) -> int:
    if not changes:
        return 0
    for version in sorted({new.pepper for _, new in changes}):
        refuse_retired(tx, version)
    rows = [
        (
            *(it.organization, it.key, it.secret, it.verifier.digest),
            *(new.kind, new.pepper, new.digest, _text(new.inner)),
        )
        for it, new in changes
    ]
    one = f"({', '.join('?' * len(rows[0]))})"
    text = _REPLACE.format(values=", ".join([one] * len(rows))).replace("?", tx.dialect.param)
    return int(tx.dialect.database.execute_sql(text, tuple(value for row in rows for value in row)).rowcount)


def _text(inner: tuple[int, ...]) -> str:
    return ",".join(map(str, inner))


def _inner(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()
