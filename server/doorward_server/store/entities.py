"""What organizations, principals, groups, bindings and keyspaces share: found, paged, added and changed by id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import peewee

from doorward_server.core.errors import AlreadyExists, NotFound
from doorward_server.core.model import Binding, Event, Group, Organization, Principal, StoredKeyspace

from . import rows
from .rows import Columns, Row, Rows
from .transaction import Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of thing: its word in errors, its table, and the bridges between rows and values."""

    type: str
    table: Rows
    identity: tuple[str, ...]
    """Columns of the primary key; the last one is the id."""
    of_row: Callable[[Row], T]
    to_row: Callable[[T], Columns]

    def where(self, ids: tuple[str, ...]) -> Columns:
        """Return the condition of being the one with *ids*."""
        return dict(zip(self.identity, ids, strict=True))


ORGANIZATIONS: Kind[Organization] = Kind(
    "organization", rows.ORGANIZATION, ("id",), rows.to_organization, rows.of_organization
)
PRINCIPALS: Kind[Principal] = Kind(
    "principal", rows.PRINCIPAL, ("organization", "id"), rows.to_principal, rows.of_principal
)
GROUPS: Kind[Group] = Kind("group", rows.GROUP, ("organization", "id"), rows.to_group, rows.of_group)
BINDINGS: Kind[Binding] = Kind("binding", rows.BINDING, ("organization", "id"), rows.to_binding, rows.of_binding)
KEYSPACES: Kind[StoredKeyspace] = Kind("keyspace", rows.KEYSPACE, ("name",), rows.to_keyspace, rows.of_keyspace)


def find(tx: Transaction, kind: Kind[T], *ids: str, lock: bool = False) -> T | None:
    """Return the one with *ids* unless it was deleted. With *lock* it stays as it is until the end."""
    table = kind.table
    query = table.where_all(table.select(*table.all_columns()), kind.where(ids))
    if "deleted_at" in table.names:
        query = query.where(table.deleted_at.is_null())
    row = tx.row(tx.dialect.locked(query) if lock else query)
    return None if row is None else kind.of_row(row)


def get(tx: Transaction, kind: Kind[T], *ids: str, lock: bool = False) -> T:
    """Return the one with *ids*. Raises NotFound if there is none, or it was deleted."""
    found = find(tx, kind, *ids, lock=lock)
    if found is None:
        raise NotFound(kind.type, ids[-1])
    return found


def page(tx: Transaction, kind: Kind[T], where: Columns, after: str, limit: int) -> list[T]:
    """Return those that have *where*, by id, behind the id *after*; deleted ones are not among them."""
    table = kind.table
    id = getattr(table, kind.identity[-1])
    query = table.where_all(table.select(*table.all_columns()), where).where(id > after)
    if "deleted_at" in table.names:
        query = query.where(table.deleted_at.is_null())
    return [kind.of_row(row) for row in tx.rows(query.order_by(id).limit(limit))]


def add(tx: Transaction, kind: Kind[T], value: T) -> None:
    """Insert *value*. Raises AlreadyExists if its id is, or was, in use."""
    row = kind.to_row(value)
    try:
        tx.run(kind.table.insert(row))
    except peewee.IntegrityError:
        raise AlreadyExists(kind.type, row[kind.identity[-1]]) from None


def save(tx: Transaction, kind: Kind[T], value: T) -> None:
    """Write *value* over the row that is there."""
    row = kind.to_row(value)
    where = {name: row.pop(name) for name in kind.identity}
    tx.run(kind.table.where_all(kind.table.change(row), where))


def update(
    tx: Transaction, kind: Kind[T], ids: tuple[str, ...], change: Callable[[T], tuple[T, Event] | None]
) -> tuple[T, bool]:
    """Lock, apply *change*, write; return what it is now, and whether it was changed. Raises NotFound."""
    tx.tally(ids[0])
    value = get(tx, kind, *ids, lock=True)
    changed = change(value)
    if changed is None:
        return value, False
    value, event = changed
    save(tx, kind, value)
    tx.append(event)
    return value, True
