"""Keys and their secrets: added, found, listed, changed; how many an owner has; and calls that are retried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any, TypeVar

import peewee
from peewee import Case, Tuple, fn

from doorward_server.core.errors import (
    NotFound,
    OrganizationIsDisabled,
    PrincipalIsDisabled,
    QuotaExceeded,
    UnknownReference,
)
from doorward_server.core.model import Event, Instant, Key, KeyFilter, Quotas, Replay, Secret, State
from doorward_server.core.rails import COUNTED, ActiveLimit

from . import expiries, peppers, replays
from .entities import KEYSPACES, ORGANIZATIONS, PRINCIPALS, find, get
from .rows import (
    KEY,
    KEY_USE,
    SEALED,
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

T = TypeVar("T")
ChangeKey = Callable[[Key], tuple[Key, Event] | None]
CHUNK = 1000
_ASCII_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_DELETED_AT = KEY.names.index("deleted_at")
_LIVE = KEY.revoked_at.is_null() & KEY.deleted_at.is_null()


def add(
    tx: Transaction, key: Key, event: Event, quotas: Quotas, replay: Replay | None, limit: ActiveLimit | None
) -> Key:
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
    make_room(tx, key, limit)
    if tally.keys >= quotas.keys:
        raise QuotaExceeded("keys per organization", quotas.keys)
    insert(tx, key)
    check_metadata(tx, key.organization, quotas)
    replays.remember(tx, replay, key.organization, key.id)
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
    tx.tally(key.organization).metadata += key.metadata_bytes


def _require_owner(tx: Transaction, key: Key) -> None:
    if key.owner is None:
        return
    owner = find(tx, PRINCIPALS, key.organization, key.owner, lock=True)
    if owner is None:
        raise UnknownReference("owner", "principal", key.owner)
    if not owner.enabled:
        raise PrincipalIsDisabled(key.owner)


def too_many(tx: Transaction, key: Key, limit: ActiveLimit | None, unwritten: int = 0) -> int:
    """Return how many of its owner's oldest active keys must go for *key*. Raises TooManyActiveKeys.

    Their owner must be locked. *unwritten* ones are counted besides: a dry run's.
    """
    if limit is None or not limit.counts(key):
        return 0
    row = tx.row(KEY.select(fn.COUNT(KEY.id)).where(_active_beside(key, limit)))
    return limit.too_many(key, int(row[0] if row else 0) + unwritten)


def make_room(tx: Transaction, key: Key, limit: ActiveLimit | None) -> None:
    """End as many of its owner's oldest active keys as *key* needs to be one of them. Raises TooManyActiveKeys."""
    surplus = too_many(tx, key, limit)
    if limit is None or not surplus:
        return
    oldest = KEY.select(*KEY.all_columns()).where(_active_beside(key, limit))
    rows = tx.rows(tx.dialect.locked(oldest.order_by(KEY.created_at, KEY.id).limit(surplus)))
    for old in _with_secrets(tx, key.organization, rows):
        _apply(tx, old, lambda it: limit.revoke(it, key))
        tx.replaced.append(old.id)


def _active_beside(key: Key, limit: ActiveLimit) -> Any:
    whose = (KEY.organization == key.organization) & (KEY.owner == key.owner) & (KEY.keyspace == key.keyspace)
    return whose & (KEY.id != key.id) & _LIVE & _state(limit.now).in_(sorted(COUNTED))


def _insert_secret(tx: Transaction, key: Key, secret: Secret, ordinal: int) -> None:
    peppers.refuse_retired(tx, secret.verifier.pepper)
    try:
        tx.run(_NEW_SECRET, **of_secret(secret, key, ordinal))
    except peewee.IntegrityError:
        raise LookupTaken from None
    if secret.sealed is not None:
        which = {"organization": key.organization, "key": key.id, "secret": secret.id}
        tx.run(SEALED.insert(which | {"ciphertext": secret.sealed.ciphertext, "version": secret.sealed.version}))


def check_metadata(tx: Transaction, organization: str, quotas: Quotas) -> None:
    """Raise QuotaExceeded if what was written in this transaction is too much."""
    if tx.tally(organization).metadata > quotas.metadata_bytes:
        raise QuotaExceeded("metadata bytes per organization", quotas.metadata_bytes)


def _counts(key: Key) -> int:
    return int(key.revoked_at is None and key.deleted_at is None)


def find_one(tx: Transaction, organization: str, id: str, lock: bool = False, deleted: bool = False) -> Key | None:
    """Return a key with all secrets and last uses; with *deleted* also one that was deleted."""
    row = tx.row(_ONE_LOCKED if lock else _ONE, organization=organization, id=id)
    if row is None or (row[_DELETED_AT] is not None and not deleted):
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
    query = matching(tx, organization, filter, now, *KEY.all_columns())
    if after is not None:
        query = query.where(Tuple(KEY.created_at, KEY.id) < after)
    query = query.order_by(KEY.created_at.desc(), KEY.id.desc()).limit(limit)
    return _with_secrets(tx, organization, tx.rows(query))


def matching(tx: Transaction, organization: str, filter: KeyFilter, now: Instant, *columns: Any) -> Any:
    """Return the SELECT of *columns* of the keys that *filter* finds; deleted ones are not among them."""
    query = KEY.select(*columns).where((KEY.organization == organization) & KEY.deleted_at.is_null())
    for name in ("keyspace", "owner", "environment", "type"):
        if value := getattr(filter, name):
            query = query.where(getattr(KEY, name) == value)
    for condition in _conditions(tx, filter, now):
        query = query.where(condition)
    return _narrow_by_use(query, filter)


def live() -> Any:
    """Return the condition that a key is not revoked."""
    return _LIVE


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


def update(
    tx: Transaction,
    organization: str,
    id: str,
    change: ChangeKey,
    replay: Replay | None,
    limit: ActiveLimit | None,
    quotas: Quotas | None,
) -> Key:
    """Apply *change* to a key, or return it as it is if the same request did so before."""
    tx.tally(organization)
    known = _replayed(tx, replay)
    if known is not None and known.deleted_at is None:
        return known
    if limit is not None:
        _lock_owner_of(tx, organization, id)
    key = find_one(tx, organization, id, lock=True)
    if key is None:
        raise NotFound("key", id)
    changed = _apply(tx, key, change, limit)
    if changed is None:
        return key
    if quotas is not None and changed.metadata_bytes > key.metadata_bytes:
        check_metadata(tx, organization, quotas)
    replays.remember(tx, replay, changed.organization, changed.id)
    return changed


def _lock_owner_of(tx: Transaction, organization: str, id: str) -> None:
    row = tx.row(KEY.where_all(KEY.select(KEY.owner), {"organization": organization, "id": id}))
    if row is not None and row[0] is not None:
        find(tx, PRINCIPALS, organization, row[0], lock=True)


def _apply(tx: Transaction, key: Key, change: ChangeKey, limit: ActiveLimit | None = None) -> Key | None:
    changed = change(key)
    if changed is None:
        return None
    new, event = changed
    if limit is not None and not limit.counts(key):
        make_room(tx, new, limit)
    expiries.mark_before_change(tx, key, new)
    _save(tx, key, new)
    tx.append(event)
    return new


def _save(tx: Transaction, old: Key, new: Key) -> None:
    tx.run(_CHANGED, **of_key(new))
    tx.tally(new.organization).keys += _counts(new) - _counts(old)
    tx.tally(new.organization).metadata += new.metadata_bytes - old.metadata_bytes
    if not _counts(new):
        tx.run(SEALED.where_all(SEALED.delete(), {"organization": new.organization, "key": new.id}))
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
        tx.run(SECRET_USE.where_all(SECRET_USE.delete(), {**which, "secret": id}))
    if new.secrets[0].id != old.secrets[0].id:  # only the newest is ever revealed
        tx.run(SEALED.where_all(SEALED.delete(), which).where(SEALED.secret != new.secrets[0].id))


def _replayed(tx: Transaction, replay: Replay | None) -> Key | None:
    """Return the key that the same request made or changed within a day, as it is now, deleted or not."""
    known = replays.find(tx, replay)
    return find_one(tx, *known, deleted=True) if known is not None else None


_ONE, _ONE_LOCKED = (one_of(KEY, "organization", "id", lock=lock) for lock in (False, True))
_NEW, _CHANGED = insert_into(KEY), change_in(KEY, "organization", "id")
_ONE_USE = Prepared(_uses(Slot("organization"), [Slot("key")]))
_ONES_SECRETS = Prepared(_secrets(Slot("organization"), [Slot("key")]))
_HIGHEST = Prepared(SECRET.where_all(SECRET.select(fn.MAX(SECRET.ordinal)), slots("organization", "key")))
_NEW_SECRET = insert_into(SECRET)
# What proves a secret changes by `peppers.replace` alone: a change of its key may have read it before that.
_CHANGED_SECRET = change_in(
    SECRET, "organization", "key", "id", keep=("ordinal", "verifier", "pepper", "digest", "inner_peppers")
)
_GONE_SECRET = delete_from(SECRET, "organization", "key", "id")
