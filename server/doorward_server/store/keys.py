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
from .rows import (
    KEY,
    KEY_USE,
    REPLAY,
    SECRET,
    SECRET_NAMES,
    SECRET_USE,
    Prepared,
    Row,
    Slot,
    change_in,
    delete_from,
    insert_into,
    of_key,
    of_secret,
    one_of,
    slots,
    to_key,
    to_secret,
)
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
        tx.run(_NEW, **of_key(key))
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
        tx.run(_NEW_SECRET, **of_secret(secret, key, ordinal))
    except peewee.IntegrityError:
        raise LookupTaken from None


def _counts(key: Key) -> int:
    return int(key.revoked_at is None and key.deleted_at is None)


def find_one(tx: Transaction, organization: str, id: str, lock: bool = False, deleted: bool = False) -> Key | None:
    """Return a key with all secrets and last uses; with *deleted* also one that was deleted."""
    row = tx.row(_ONE_LOCKED if lock else _ONE, organization=organization, id=id)
    if row is None or (row[-1] is not None and not deleted):
        return None
    return _with_secrets(tx, organization, [row])[0]


def _with_secrets(tx: Transaction, organization: str, rows: list[Row]) -> list[Key]:
    """Return the keys of *rows* of one organization, in their order: two more queries, however many they are."""
    if len(rows) == 1:
        which = {"organization": organization, "key": rows[0][1]}
        uses, found = tx.rows(_ONE_USE, **which), tx.rows(_ONES_SECRETS, **which)
    else:
        ids = [row[1] for row in rows]
        uses, found = tx.rows(_uses(organization, ids)), tx.rows(_secrets(organization, ids))
    last: dict[str, Instant] = dict(uses)
    secrets = {id: tuple(_to_secret(row) for row in group) for id, group in groupby(found, lambda row: row[0])}
    return [to_key(row, secrets.get(row[1], ()), last.get(row[1])) for row in rows]


def _to_secret(row: Row) -> Secret:
    _, *columns, last_used_at = row
    return to_secret(tuple(columns), last_used_at)


def _uses(organization: Any, ids: list[Any]) -> Any:
    """Return the SELECT of (key, last use)."""
    return KEY_USE.select(KEY_USE.key, KEY_USE.at).where((KEY_USE.organization == organization) & KEY_USE.key.in_(ids))


def _secrets(organization: Any, ids: list[Any]) -> Any:
    """Return the SELECT of (key, what `to_secret` wants), by key, newest first."""
    on = (
        (SECRET_USE.organization == SECRET.organization)
        & (SECRET_USE.key == SECRET.key)
        & (SECRET_USE.secret == SECRET.id)
    )
    columns = [getattr(SECRET, name) for name in SECRET_NAMES]
    query = SECRET.select(SECRET.key, *columns, SECRET_USE.at).join(SECRET_USE, "LEFT OUTER JOIN", on=on)
    query = query.where((SECRET.organization == organization) & SECRET.key.in_(ids))
    return query.order_by(SECRET.key, SECRET.ordinal.desc())


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
    tx.run(_CHANGED, **of_key(new))
    tx.tally(new.organization).keys += _counts(new) - _counts(old)
    if new.secrets != old.secrets:
        _save_secrets(tx, old, new)


def _save_secrets(tx: Transaction, old: Key, new: Key) -> None:
    which = {"organization": new.organization, "key": new.id}
    ((highest,),) = tx.rows(_HIGHEST, **which)
    before = {secret.id: secret for secret in old.secrets}
    for secret in reversed(new.secrets):
        known = before.pop(secret.id, None)
        if known is None:
            highest = (highest or 0) + 1
            _insert_secret(tx, new, secret, highest)
        elif replace(known, last_used_at=None) != replace(secret, last_used_at=None):
            tx.run(_CHANGED_SECRET, **of_secret(secret, new, 0))
    for id in before:
        tx.run(_GONE_SECRET, **which, id=id)


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
    row = tx.row(_REPLAY, **_who(replay))
    if row is None:
        return None
    *_, digest, at, organization, key = row
    if replay.at - at >= DAY:
        return None
    if bytes(digest) != replay.digest:
        raise RequestIdReused
    tx.replayed = True
    return find_one(tx, organization, key, deleted=True)


def _remember(tx: Transaction, replay: Replay | None, key: Key) -> None:
    """Keep the request for a day, and forget this caller's older ones."""
    if replay is None:
        return
    tx.run(_OLD_REPLAYS, caller=replay.caller, at=replay.at - DAY)
    what = {"digest": replay.digest, "at": replay.at, "organization": key.organization, "key": key.id}
    tx.run(_NEW_REPLAY, **_who(replay), **what)


def _who(replay: Replay) -> dict[str, str]:
    return {"caller": replay.caller, "method": replay.method, "request_id": replay.request_id}


_ONE, _ONE_LOCKED = (one_of(KEY, "organization", "id", lock=lock) for lock in (False, True))
_NEW, _CHANGED = insert_into(KEY), change_in(KEY, "organization", "id")
_ONE_USE = Prepared(_uses(Slot("organization"), [Slot("key")]))
_ONES_SECRETS = Prepared(_secrets(Slot("organization"), [Slot("key")]))
_HIGHEST = Prepared(SECRET.where_all(SECRET.select(fn.MAX(SECRET.ordinal)), slots("organization", "key")))
_NEW_SECRET = insert_into(SECRET)
_CHANGED_SECRET = change_in(SECRET, "organization", "key", "id", keep="ordinal")
_GONE_SECRET = delete_from(SECRET, "organization", "key", "id")
_REPLAY = one_of(REPLAY, "caller", "method", "request_id")
_NEW_REPLAY = insert_into(REPLAY)
_OLD_REPLAYS = Prepared(REPLAY.delete().where((REPLAY.caller == Slot("caller")) & (REPLAY.at <= Slot("at"))))

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
