"""Keys and their secrets: added, found, listed, changed; when they were last used; and calls that are retried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

import peewee
from peewee import Case, Tuple, fn

from doorward_server.core.errors import (
    NotFound,
    OrganizationIsDisabled,
    PrincipalIsDisabled,
    QuotaExceeded,
    RequestIdReused,
    UnknownReference,
)
from doorward_server.core.model import DAY, Event, Instant, Key, KeyFilter, Quotas, Replay, Secret, State, Use

from .entities import KEYSPACES, ORGANIZATIONS, PRINCIPALS, find, get
from .rows import KEY, KEY_USE, REPLAY, SECRET, SECRET_USE, Row, of_key, of_secret, to_key, to_secret
from .transaction import Transaction
from .values import LookupTaken

ChangeKey = Callable[[Key], tuple[Key, Event] | None]
CHUNK = 1000
_ASCII_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_LIVE = KEY.revoked_at.is_null() & KEY.deleted_at.is_null()


def add(tx: Transaction, key: Key, event: Event, quotas: Quotas, replay: Replay | None) -> Key:
    """Add a key with its secrets, or return the one that the same request made before."""
    tally = tx.tally(key.organization)
    organization = get(tx, ORGANIZATIONS, key.organization)
    known = _replayed(tx, replay)
    if known is not None:
        return known
    if not organization.enabled:
        raise OrganizationIsDisabled(key.organization)
    _require_owner(tx, key)
    if find(tx, KEYSPACES, key.keyspace) is None:
        raise UnknownReference("keyspace", "keyspace", key.keyspace)
    if tally.keys >= quotas.keys:
        raise QuotaExceeded("keys per organization", quotas.keys)
    insert(tx, key)
    _remember(tx, replay, key)
    tx.append(event)
    return key


def insert(tx: Transaction, key: Key) -> None:
    """Write a new key with its secrets and count it. Raises LookupTaken."""
    try:
        tx.run(KEY.insert(of_key(key)))
    except peewee.IntegrityError:
        raise LookupTaken from None
    for ordinal, secret in enumerate(reversed(key.secrets), 1):
        _insert_secret(tx, key, secret, ordinal)
    tx.tally(key.organization).keys += _counts(key)


def _require_owner(tx: Transaction, key: Key) -> None:
    if key.owner is None:
        return
    owner = find(tx, PRINCIPALS, key.organization, key.owner, lock=True)
    if owner is None:
        raise UnknownReference("owner", "principal", key.owner)
    if not owner.enabled:
        raise PrincipalIsDisabled(key.owner)


def _insert_secret(tx: Transaction, key: Key, secret: Secret, ordinal: int) -> None:
    try:
        tx.run(SECRET.insert(of_secret(secret, key, ordinal)))
    except peewee.IntegrityError:
        raise LookupTaken from None


def _counts(key: Key) -> int:
    return int(key.revoked_at is None and key.deleted_at is None)


def find_one(tx: Transaction, organization: str, id: str, lock: bool = False, deleted: bool = False) -> Key | None:
    """Return a key with all secrets and last uses; with *deleted* also one that was deleted."""
    query = KEY.where_all(KEY.select(*KEY.all_columns()), {"organization": organization, "id": id})
    if not deleted:
        query = query.where(KEY.deleted_at.is_null())
    rows = tx.rows(tx.dialect.locked(query) if lock else query)
    return _with_secrets(tx, organization, rows)[0] if rows else None


def _with_secrets(tx: Transaction, organization: str, rows: list[Row]) -> list[Key]:
    """Return the keys of *rows* of one organization, in their order: two more queries, however many they are."""
    ids = [row[1] for row in rows]
    used = KEY_USE.select(KEY_USE.key, KEY_USE.at).where((KEY_USE.organization == organization) & KEY_USE.key.in_(ids))
    last: dict[str, Instant] = dict(tx.rows(used))
    return_columns = [SECRET.key, *(getattr(SECRET, name) for name in _SECRET_NAMES), SECRET_USE.at]
    query = SECRET.select(*return_columns).join(
        SECRET_USE,
        "LEFT OUTER JOIN",
        on=(
            (SECRET_USE.organization == SECRET.organization)
            & (SECRET_USE.key == SECRET.key)
            & (SECRET_USE.secret == SECRET.id)
        ),
    )
    query = query.where((SECRET.organization == organization) & SECRET.key.in_(ids))
    found = tx.rows(query.order_by(SECRET.key, SECRET.ordinal.desc()))
    secrets = {
        id: tuple(to_secret(tuple(columns), at) for _, *columns, at in group)
        for id, group in groupby(found, lambda it: it[0])
    }
    return [to_key(row, secrets.get(row[1], ()), last.get(row[1])) for row in rows]


_SECRET_NAMES = ("id", "lookup", "verifier", "pepper", "digest", "last4", "created_at", "expires_at")


def list_some(
    tx: Transaction,
    organization: str,
    filter: KeyFilter,
    after: tuple[Instant, str] | None,
    limit: int,
    now: Instant,
) -> list[Key]:
    """Return keys, newest first, behind *after*."""
    query = KEY.select(*KEY.all_columns()).where((KEY.organization == organization) & KEY.deleted_at.is_null())
    for name in ("keyspace", "owner", "environment", "type"):
        if value := getattr(filter, name):
            query = query.where(getattr(KEY, name) == value)
    for condition in _conditions(tx, filter, now):
        query = query.where(condition)
    if after is not None:
        query = query.where(Tuple(KEY.created_at, KEY.id) < after)
    query = _narrow_by_use(query, filter)
    query = query.order_by(KEY.created_at.desc(), KEY.id.desc()).limit(limit)
    return _with_secrets(tx, organization, tx.rows(query))


def _conditions(tx: Transaction, filter: KeyFilter, now: Instant) -> list[Any]:
    conditions: list[Any] = []
    if filter.states:
        conditions.append(_state(now).in_(sorted(state.value for state in filter.states)))
    if filter.name_contains:
        # lower() of both databases changes A to Z and nothing else: SQLite's by design, PostgreSQL's by the collation.
        part = filter.name_contains.translate(_ASCII_LOWER)
        conditions.append(tx.dialect.contains(fn.LOWER(KEY.name), part))
    if filter.created_after is not None:
        conditions.append(KEY.created_at >= filter.created_after)
    if filter.created_before is not None:
        conditions.append(KEY.created_at < filter.created_before)
    if filter.expires_before is not None:
        conditions.append(KEY.expires_at < filter.expires_before)
    return conditions


def _state(now: Instant) -> Any:
    """Return `Key.state` as SQL."""
    return Case(
        None,
        [
            (KEY.revoked_at.is_null(False), State.REVOKED.value),
            (KEY.expires_at <= now, State.EXPIRED.value),
            (KEY.enabled == False, State.DISABLED.value),  # noqa: E712  # SQL
            (KEY.not_before > now, State.NOT_YET_VALID.value),
        ],
        State.ACTIVE.value,
    )


def _narrow_by_use(query: Any, filter: KeyFilter) -> Any:
    if not filter.never_used and filter.last_used_before is None:
        return query
    on = (KEY_USE.organization == KEY.organization) & (KEY_USE.key == KEY.id)
    query = query.join(KEY_USE, "LEFT OUTER JOIN", on=on)
    never = KEY_USE.at.is_null()
    if filter.never_used:
        return query.where(never)
    return query.where(never | (KEY_USE.at < filter.last_used_before))


def update(tx: Transaction, organization: str, id: str, change: ChangeKey, replay: Replay | None) -> Key:
    """Apply *change* to a key, or return it as it is if the same request did so before."""
    tx.tally(organization)
    known = _replayed(tx, replay)
    if known is not None and known.deleted_at is None:
        return known
    key = find_one(tx, organization, id, lock=True)
    if key is None:
        raise NotFound("key", id)
    changed = _apply(tx, key, change)
    if changed is None:
        return key
    _remember(tx, replay, changed)
    return changed


def _apply(tx: Transaction, key: Key, change: ChangeKey) -> Key | None:
    changed = change(key)
    if changed is None:
        return None
    new, event = changed
    _save(tx, key, new)
    tx.append(event)
    return new


def _save(tx: Transaction, old: Key, new: Key) -> None:
    row = of_key(new)
    where = {name: row.pop(name) for name in ("organization", "id")}
    tx.run(KEY.where_all(KEY.change(row), where))
    tx.tally(new.organization).keys += _counts(new) - _counts(old)
    if new.secrets != old.secrets:
        _save_secrets(tx, old, new)


def _save_secrets(tx: Transaction, old: Key, new: Key) -> None:
    ordinal = SECRET.where_all(SECRET.select(fn.MAX(SECRET.ordinal)), {"organization": new.organization, "key": new.id})
    highest = (tx.row(ordinal) or (0,))[0] or 0
    before = {secret.id: secret for secret in old.secrets}
    for secret in reversed(new.secrets):
        known = before.pop(secret.id, None)
        if known is None:
            highest += 1
            _insert_secret(tx, new, secret, highest)
        elif replace(known, last_used_at=None) != replace(secret, last_used_at=None):
            row = of_secret(secret, new, 0)
            del row["ordinal"]
            where = {name: row.pop(name) for name in ("organization", "key", "id")}
            tx.run(SECRET.where_all(SECRET.change(row), where))
    for id in before:
        where = {"organization": new.organization, "key": new.id, "id": id}
        tx.run(SECRET.where_all(SECRET.delete(), where))


def count(tx: Transaction, organization: str, owner: str | None) -> int:
    """Count the unrevoked keys of an organization, or of one owner in it."""
    query = KEY.select(fn.COUNT(KEY.id)).where((KEY.organization == organization) & _LIVE)
    if owner is not None:
        query = query.where(KEY.owner == owner)
    row = tx.row(query)
    return int(row[0]) if row else 0


def revoke_some(tx: Transaction, organization: str, owner: str, change: ChangeKey, limit: int) -> int:
    """Apply *change* to the next *limit* unrevoked keys of an owner, and return how many it changed."""
    tx.tally(organization)
    query = KEY.select(*KEY.all_columns()).where((KEY.organization == organization) & (KEY.owner == owner) & _LIVE)
    rows = tx.rows(tx.dialect.locked(query.order_by(KEY.id).limit(limit)))
    return sum(_apply(tx, key, change) is not None for key in _with_secrets(tx, organization, rows))


def _replayed(tx: Transaction, replay: Replay | None) -> Key | None:
    """Return the key that the same request made or changed within a day, as it is now, deleted or not."""
    if replay is None:
        return None
    columns = (REPLAY.digest, REPLAY.at, REPLAY.organization, REPLAY.key)
    row = tx.row(REPLAY.where_all(REPLAY.select(*columns), _who(replay)))
    if row is None or replay.at - row[1] >= DAY:
        return None
    if bytes(row[0]) != replay.digest:
        raise RequestIdReused
    tx.replayed = True
    return find_one(tx, row[2], row[3], deleted=True)


def _remember(tx: Transaction, replay: Replay | None, key: Key) -> None:
    """Keep the request for a day, and forget this caller's older ones."""
    if replay is None:
        return
    tx.run(REPLAY.delete().where((REPLAY.caller == replay.caller) & (REPLAY.at <= replay.at - DAY)))
    what = {"digest": replay.digest, "at": replay.at, "organization": key.organization, "key": key.id}
    tx.run(REPLAY.insert(_who(replay) | what))


def _who(replay: Replay) -> dict[str, str]:
    return {"caller": replay.caller, "method": replay.method, "request_id": replay.request_id}


_USES_OF_KEYS = """
WITH u (organization, key, at) AS (VALUES {values})
INSERT INTO key_use (organization, key, at)
SELECT u.organization, u.key, u.at FROM u JOIN key AS k ON k.organization = u.organization AND k.id = u.key
WHERE true ORDER BY u.organization, u.key
ON CONFLICT (organization, key) DO UPDATE SET at = excluded.at WHERE key_use.at < excluded.at
"""
_USES_OF_SECRETS = """
WITH u (organization, key, secret, at) AS (VALUES {values})
INSERT INTO secret_use (organization, key, secret, at)
SELECT u.organization, u.key, u.secret, u.at FROM u
JOIN secret AS s ON s.organization = u.organization AND s.key = u.key AND s.id = u.secret
WHERE true ORDER BY u.organization, u.key, u.secret
ON CONFLICT (organization, key, secret) DO UPDATE SET at = excluded.at WHERE secret_use.at < excluded.at
"""


def record_uses(tx: Transaction, uses: Sequence[Use]) -> None:
    """Move last uses forward. In order of id, so that two replicas that flush at once do not wait in a circle."""
    of_keys: dict[tuple[str, ...], Instant] = {}
    of_secrets: dict[tuple[str, ...], Instant] = {}
    for use in uses:
        for latest, id in (
            (of_keys, (use.organization, use.key)),
            (of_secrets, (use.organization, use.key, use.secret)),
        ):
            latest[id] = max(use.at, latest.get(id, use.at))
    _upsert(tx, _USES_OF_KEYS, of_keys)
    _upsert(tx, _USES_OF_SECRETS, of_secrets)


def _upsert(tx: Transaction, statement: str, latest: dict[tuple[str, ...], Instant]) -> None:
    if not latest:
        return
    rows = [(*id, at) for id, at in sorted(latest.items())]
    one = f"({', '.join('?' * len(rows[0]))})"
    text = statement.format(values=", ".join([one] * len(rows)))
    tx.dialect.database.execute_sql(text.replace("?", tx.dialect.param), tuple(value for row in rows for value in row))


def chunks(uses: Sequence[Use]) -> list[list[Use]]:
    """Cut *uses* into transactions of at most `CHUNK`."""
    rest = iter(sorted(uses, key=lambda use: (use.organization, use.key, use.secret)))
    return list(iter(lambda: list(islice(rest, CHUNK)), []))
