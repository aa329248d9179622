"""Keyspaces, and the first start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doorward_server.core.directory import Organization
from doorward_server.core.model import Event, Key, StoredKeyspace

from . import keys
from .entities import KEYSPACES, ORGANIZATIONS, add, find, save
from .rows import ORGANIZATION
from .transaction import Transaction

ChangeKeyspace = Callable[[StoredKeyspace | None], tuple[StoredKeyspace, Event] | None]


def apply(tx: Transaction, name: str, change: ChangeKeyspace) -> StoredKeyspace:
    """Make or change a keyspace. Two that make the same one at once: the second runs again and changes."""
    before = find(tx, KEYSPACES, name, lock=True)
    changed = change(before)
    if changed is None:
        if before is None:
            raise ValueError("a change of a keyspace that does not exist must make it")
        return before
    after, event = changed
    if before is None:
        tx.run(KEYSPACES.new, **KEYSPACES.to_row(after))
    else:
        save(tx, KEYSPACES, after)
    tx.append(event)
    return after


def add_operator(
    tx: Transaction, organization: Organization, keyspace: StoredKeyspace, key: Key, events: Sequence[Event]
) -> bool:
    """Make the operator, unless there is, or was, any organization."""
    for id in sorted({organization.id, *(event.organization for event in events)}):
        tx.tally(id)
    if tx.row(ORGANIZATION.select(ORGANIZATION.id).limit(1)) is not None:
        return False
    add(tx, ORGANIZATIONS, organization)
    add(tx, KEYSPACES, keyspace)
    keys.insert(tx, key)
    for event in events:
        tx.append(event)
    return True
