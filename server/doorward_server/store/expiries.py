"""Keys that passed their expiry, and the marks of those whose event is written: one mark, one event.

Every change of a key holds its organization's tally, and so does marking: of two replicas that notice the same expiry
the second finds the mark of the first. A key that is changed in between keeps what it has passed: whatever moves its
expiry marks the old one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doorward_server.core.expiry import expiry_event, has_passed
from doorward_server.core.model import Instant, Key

from .rows import EXPIRED, KEY, insert_into, to_key
from .transaction import Transaction


def list_unmarked(tx: Transaction, since: Instant, now: Instant, limit: int) -> list[tuple[str, str]]:
    """Return (organization, key) of up to *limit* keys that passed their expiry from *since* to *now*, unmarked."""
    query = _unmarked(now, KEY.organization, KEY.id).where(KEY.expires_at >= since)
    return [(organization, id) for organization, id in tx.rows(query.order_by(KEY.expires_at).limit(limit))]


def mark(tx: Transaction, organization: str, ids: Sequence[str], now: Instant) -> int:
    """Mark those of *ids* that are still unmarked, each with its event; return how many that were."""
    tx.tally(organization)
    query = _unmarked(now, *KEY.all_columns()).where((KEY.organization == organization) & KEY.id.in_(list(ids)))
    rows = tx.rows(query.order_by(KEY.expires_at, KEY.id))
    for row in rows:
        key = to_key(row, (), None)
        mark_silently(tx, key)
        tx.append(expiry_event(key, key.expires_at or 0))
    return len(rows)


def mark_before_change(tx: Transaction, old: Key, new: Key) -> None:
    """Mark an expiry that *old* has passed and *new* no longer has, as nobody could find it afterwards."""
    if old.expires_at == new.expires_at or not has_passed(old, new.updated_at):
        return
    which = {"organization": old.organization, "key": old.id, "expires_at": old.expires_at}
    if tx.row(EXPIRED.where_all(EXPIRED.select(EXPIRED.key), which)) is None:
        mark_silently(tx, old)
        tx.append(expiry_event(old, old.expires_at or 0))


def mark_silently(tx: Transaction, key: Key) -> None:
    """Mark the expiry of *key* without an event: to be called under the tally, once."""
    tx.run(_NEW, organization=key.organization, key=key.id, expires_at=key.expires_at)


def _unmarked(now: Instant, *columns: Any) -> Any:
    """Return the SELECT of *columns* of the keys for which `has_passed` is true and that have no mark."""
    on = (EXPIRED.organization == KEY.organization) & (EXPIRED.key == KEY.id) & (EXPIRED.expires_at == KEY.expires_at)
    in_time = KEY.revoked_at.is_null() | (KEY.revoked_at >= KEY.expires_at)
    query = KEY.select(*columns).join(EXPIRED, "LEFT OUTER JOIN", on=on)
    return query.where((KEY.expires_at <= now) & in_time & EXPIRED.key.is_null())


_NEW = insert_into(EXPIRED)
