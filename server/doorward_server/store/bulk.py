"""Many keys at once: taken in from another system, counted, ended. One call is one chunk, and one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from peewee import fn

from doorward_server.core.errors import (
    DoorwardError,
    InvalidField,
    OrganizationIsDisabled,
    PrincipalIsDisabled,
    QuotaExceeded,
    UnknownReference,
)
from doorward_server.core.expiry import has_passed
from doorward_server.core.model import Event, Instant, Key, KeyFilter, Quotas
from doorward_server.core.rails import ActiveLimit

from .entities import ORGANIZATIONS, PRINCIPALS, find, get
from .expiries import mark_silently
from .keys import CHUNK, ChangeKey, _apply, _with_secrets, insert, live, make_room, matching, too_many
from .rows import KEY, SECRET
from .transaction import Transaction
from .values import Imported


def find_imported(tx: Transaction, organization: str, keyspace: str, external_ids: Sequence[str]) -> dict[str, str]:
    """Return the ids of the keys, revoked and deleted ones among them, that have these external ids."""
    found: dict[str, str] = {}
    for some in _chunks(external_ids):
        query = KEY.select(KEY.external_id, KEY.id).where(
            (KEY.organization == organization) & (KEY.keyspace == keyspace) & KEY.external_id.in_(some)
        )
        found.update(tx.rows(query))
    return found


def _taken(tx: Transaction, keyspace: str, lookups: Iterable[str]) -> set[str]:
    query = SECRET.select(SECRET.lookup).where(SECRET.keyspace == keyspace)
    return {row[0] for some in _chunks(lookups) for row in tx.rows(query.where(SECRET.lookup.in_(some)))}


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    return iter(lambda: list(islice(rest, CHUNK)), [])


def take_in(
    tx: Transaction,
    organization: str,
    keyspace: str,
    wanted: Sequence[tuple[Key, Event]],
    quotas: Quotas,
    limit: ActiveLimit | None,
    dry_run: bool,
) -> list[Imported]:
    """Add each of *wanted*, or say why not: what is wrong with one is nothing to the others."""
    tally = tx.tally(organization)
    if not get(tx, ORGANIZATIONS, organization).enabled:
        raise OrganizationIsDisabled(organization)
    keys = [key for key, _ in wanted]
    known = find_imported(tx, organization, keyspace, [key.external_id or "" for key in keys])
    taken = _taken(tx, keyspace, (key.secrets[0].lookup for key in keys))
    owners = _Owners(tx, organization, keys)
    results, unwritten = [], Counter[str | None]()
    for key, event in wanted:
        if key.external_id in known:
            results.append(Imported(known[key.external_id], False))
            continue
        try:
            owners.require(key)
            _require_free(key, taken)
            surplus = too_many(tx, key, limit, min(unwritten[key.owner], limit.maximum) if limit else 0)
            if tally.keys + unwritten.total() - surplus >= quotas.keys:
                raise QuotaExceeded("keys per organization", quotas.keys)
            if tally.metadata + key.metadata_bytes > quotas.metadata_bytes:
                raise QuotaExceeded("metadata bytes per organization", quotas.metadata_bytes)
        except DoorwardError as refusal:
            results.append(Imported("", False, refusal))
            continue
        taken.add(key.secrets[0].lookup)
        if dry_run:
            unwritten[key.owner] += 1
        else:
            make_room(tx, key, limit)
            insert(tx, key)
            if has_passed(key, event.at):
                mark_silently(tx, key)  # it expired elsewhere, before it came here
            tx.append(event)
        results.append(Imported("" if dry_run else key.id, True))
        known[key.external_id or ""] = results[-1].key
    return results


def _require_free(key: Key, taken: set[str]) -> None:
    if key.secrets[0].lookup in taken:
        raise InvalidField("proof", "finds another key of this keyspace already; two keys never share a text or lookup")


class _Owners:
    """The owners that keys name, locked in order of id, so that none is disabled or deleted meanwhile."""

    def __init__(self, tx: Transaction, organization: str, keys: Iterable[Key]) -> None:
        ids = sorted({key.owner for key in keys if key.owner is not None})
        self._known = {id: find(tx, PRINCIPALS, organization, id, lock=True) for id in ids}

    def require(self, key: Key) -> None:
        """Raise UnknownReference or PrincipalIsDisabled if *key* cannot have the owner that it names."""
        if key.owner is None:
            return
        owner = self._known[key.owner]
        if owner is None:
            raise UnknownReference("owner", "principal", key.owner)
        if not owner.enabled:
            raise PrincipalIsDisabled(key.owner)


def list_live(tx: Transaction, organization: str, filter: KeyFilter, now: Instant) -> list[str]:
    """Return the ids of the unrevoked keys that *filter* finds, newest first. Ids only: there may be a million."""
    query = matching(tx, organization, filter, now, KEY.id).where(live())
    return [row[0] for row in tx.rows(query.order_by(KEY.created_at.desc(), KEY.id.desc()))]


def revoke(
    tx: Transaction,
    organization: str,
    ids: Sequence[str],
    filter: KeyFilter,
    change: ChangeKey,
    now: Instant,
) -> list[Key]:
    """Apply *change* to those of *ids* that *filter* still finds unrevoked; return what became of them."""
    tx.tally(organization)
    query = matching(tx, organization, filter, now, *KEY.all_columns()).where(live() & KEY.id.in_(list(ids)))
    rows = tx.rows(query.order_by(KEY.created_at.desc(), KEY.id.desc()))
    ended = (_apply(tx, key, change) for key in _with_secrets(tx, organization, rows))
    return [key for key in ended if key is not None]


def count(tx: Transaction, organization: str, owner: str | None) -> int:
    """Count the unrevoked keys of an organization, or of one owner in it."""
    query = KEY.select(fn.COUNT(KEY.id)).where((KEY.organization == organization) & live())
    if owner is not None:
        query = query.where(KEY.owner == owner)
    row = tx.row(query)
    return int(row[0]) if row else 0


def revoke_some(tx: Transaction, organization: str, owner: str, change: ChangeKey, limit: int) -> int:
    """Apply *change* to the next *limit* unrevoked keys of an owner, and return how many it changed."""
    tx.tally(organization)
    query = KEY.select(*KEY.all_columns()).where((KEY.organization == organization) & (KEY.owner == owner) & live())
    rows = tx.rows(tx.dialect.locked(query.order_by(KEY.id).limit(limit)))
    return sum(_apply(tx, key, change) is not None for key in _with_secrets(tx, organization, rows))
