"""The audit log: one chain of events per organization, each sealed over the one before.

hash(n) = HMAC-SHA256(audit key of the pepper version, hash(n-1) || canonical row n); hash(0) is 32 zero bytes. The
canonical row is a JSON array of fixed shape, so no two rows are written alike. Whoever can write to the database but
has no pepper can neither change, remove, insert nor reorder an event unnoticed; a chain that was cut back together with
its row of `tally` shows only against a head that was kept elsewhere.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from doorward_server.core.model import Actor, Event

from .rows import EVENT, TALLY, Row, insert_into, to_json
from .values import ChainReport, StoredEvent

if TYPE_CHECKING:
    from .transaction import Transaction

GENESIS = bytes(32)
_PAGE = 1000
_NEW_EVENT = insert_into(EVENT)


@dataclass(frozen=True, slots=True)
class Seal:
    """The keys of the chains: by pepper version, and what tells the version for new events."""

    key: Callable[[int], bytes]
    pepper: Callable[[], int]

    def hash(self, previous: bytes, row: Row) -> bytes:
        """Return the hash of *row* (all columns but the hash) after *previous*; the row says under which pepper."""
        *_, pepper = row
        return hmac.digest(self.key(pepper), previous + to_json(row).encode(), "sha256")


def append(run: Callable[..., int], seal: Seal, previous: bytes, sequence: int, event: Event) -> bytes:
    """Write *event* at *sequence* and return its hash."""
    row = _row(event, sequence, seal.pepper())
    head = seal.hash(previous, row)
    run(_NEW_EVENT, **dict(zip(EVENT.names, (*row, head), strict=True)))
    return head


def list_events(tx: Transaction, organization: str, after: int, limit: int) -> list[StoredEvent]:
    """Return the events of *organization* behind the sequence *after*."""
    return [_to_stored(row) for row in _rows(tx, organization, after, limit)]


def verify(tx: Transaction, seal: Seal, organization: str) -> ChainReport:
    """Compute the chain of *organization* anew and compare. Reads all of it."""
    counted = tx.row(TALLY.select(TALLY.events, TALLY.head).where(TALLY.organization == organization))
    length, head = (counted[0], bytes(counted[1])) if counted else (0, GENESIS)
    previous, sequence = GENESIS, 0
    while rows := _rows(tx, organization, sequence, _PAGE):
        for *row, stored in rows:
            sequence += 1
            if row[1] != sequence or not hmac.compare_digest(seal.hash(previous, tuple(row)), bytes(stored)):
                return ChainReport(False, length, head, sequence)
            previous = bytes(stored)
    if sequence != length or previous != head:
        return ChainReport(False, length, head, min(sequence, length) + 1)
    return ChainReport(True, length, head)


def _rows(tx: Transaction, organization: str, after: int, limit: int) -> list[Row]:
    query = EVENT.select(*EVENT.all_columns()).where((EVENT.organization == organization) & (EVENT.sequence > after))
    return tx.rows(query.order_by(EVENT.sequence).limit(limit))


def _row(event: Event, sequence: int, pepper: int) -> Row:
    actor = event.actor
    return (
        event.organization, sequence, event.at, actor.organization, actor.key, actor.principal, actor.acting_for,
        event.action, event.target_type, event.target, _optional_json(event.before), _optional_json(event.after),
        event.note, pepper,
    )  # fmt: skip


def _optional_json(value: Mapping[str, object] | None) -> str | None:
    return None if value is None else to_json(value)


def _to_stored(row: Row) -> StoredEvent:
    (
        organization, sequence, at, actor_organization, actor_key, actor_principal, acting_for, action, target_type,
        target, before, after, note, pepper, digest,
    ) = row  # fmt: skip
    actor = Actor(actor_organization, actor_key, actor_principal, acting_for)
    was, became = before and json.loads(before), after and json.loads(after)
    event = Event(organization, at, actor, action, target_type, target, was, became, note)
    return StoredEvent(sequence, event, pepper, bytes(digest))
