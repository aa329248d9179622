"""What organizations, principals, groups, bindings and keyspaces share: found, paged, added and changed by id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import peewee

from doorward_server.core.directory import Binding, Group, Organization, Principal
from doorward_server.core.errors import AlreadyExists, NotFound
from doorward_server.core.model import Event, StoredKeyspace

from . import rows
from .rows import Columns, Prepared, Row, Rows, change_in, insert_into, one_of
from .transaction import Transaction

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """One kind of thing: its word in errors, its table, and the bridges between rows and values."""

    type: str
    table: Rows
    identity: tuple[str, ...]
    """Columns of the primary key; the last one is the id."""
    of_row: Callable[[Row], T]
    to_row: Callable[[T], Columns]

    @cached_property
    def one(self) -> dict[bool, Prepared]:
        """The SELECT of one, without and with a lock."""
        return {lock: one_of(self.table, *self.identity, lock=lock) for lock in (False, True)}

    @cached_property
    def new(self) -> Prepared:
        """The INSERT."""
        return insert_into(self.table)

    @cached_property
    def changed(self) -> Prepared:
        """The UPDATE of one."""
        return change_in(self.table, *self.identity)


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
    row = tx.row(kind.one[lock], **dict(zip(kind.identity, ids, strict=True)))
    value = None if row is None else kind.of_row(row)
    return None if getattr(value, "deleted_at", None) is not None else value


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
        tx.run(kind.new, **row)
    except peewee.IntegrityError:
        raise AlreadyExists(kind.type, row[kind.identity[-1]]) from None


def save(tx: Transaction, kind: Kind[T], value: T) -> None:
    """Write *value* over the row that is there."""
    tx.run(kind.changed, **kind.to_row(value))


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
