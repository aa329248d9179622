"""The audit log: one chain of events per organization, each sealed over the one before.

hash(n) = HMAC-SHA256(audit key of the pepper version, hash(n-1) || canonical row n); hash(0) is 32 zero bytes. The
canonical row is a JSON array of fixed shape, so no two rows are written alike. Whoever can write to the database but
has no pepper can neither change, remove, insert nor reorder an event unnoticed; a chain that was cut back together with
its row of `tally` shows only against a head that was kept elsewhere. Where old events were pruned, the chain begins
behind a checkpoint that is sealed under a key of its own (`audit_store`).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from doorward_server.core.audit import StoredEvent
from doorward_server.core.model import Actor, Event

from .rows import EVENT, Row, insert_into, to_json

GENESIS = bytes(32)
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

    def mac(self, what: str, pepper: int, content: Sequence[str | int]) -> bytes:
        """Return the seal of *content*, under a key that nothing but *what* is sealed with."""
        key = hmac.digest(self.key(pepper), what.encode(), "sha256")
        return hmac.digest(key, to_json(content).encode(), "sha256")


def append(run: Callable[..., int], seal: Seal, previous: bytes, sequence: int, event: Event) -> bytes:
    """Write *event* at *sequence* and return its hash."""
    row = _row(event, sequence, seal.pepper())
    head = seal.hash(previous, row)
    run(_NEW_EVENT, **dict(zip(EVENT.names, (*row, head), strict=True)))
    return head


def to_stored(row: Row) -> StoredEvent:
    """Return the event of a row of EVENT."""
    (
        organization, sequence, at, actor_organization, actor_key, actor_principal, acting_for, action, target_type,
        target, before, after, note, pepper, digest,
    ) = row  # fmt: skip
    actor = Actor(actor_organization, actor_key, actor_principal, acting_for)
    was, became = before and json.loads(before), after and json.loads(after)
    event = Event(organization, at, actor, action, target_type, target, was, became, note)
    return StoredEvent(sequence, event, pepper, bytes(digest))


def _row(event: Event, sequence: int, pepper: int) -> Row:
    actor = event.actor
    return (
        event.organization, sequence, event.at, actor.organization, actor.key, actor.principal, actor.acting_for,
        event.action, event.target_type, event.target, _optional_json(event.before), _optional_json(event.after),
        event.note, pepper,
    )  # fmt: skip


def _optional_json(value: Mapping[str, object] | None) -> str | None:
    return None if value is None else to_json(value)
