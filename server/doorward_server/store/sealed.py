"""The sealed texts of recoverable keys, which leave only after it is written down that they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from doorward_server.core.errors import NotFound
from doorward_server.core.model import Event, Key, Sealed

from .keys import find_one
from .rows import SEALED
from .transaction import Transaction

T = TypeVar("T")


def reveal(tx: Transaction, organization: str, id: str, read: Callable[[Key, Sealed | None], tuple[T, Event]]) -> T:
    """Apply *read* to a key and the sealed text of its newest secret; what it returns is audited first."""
    tx.tally(organization)
    key = find_one(tx, organization, id, lock=True)
    if key is None:
        raise NotFound("key", id)
    value, event = read(key, find_sealed(tx, organization, id, key.secrets[0].id))
    tx.append(event)
    return value


def find_sealed(tx: Transaction, organization: str, key: str, secret: str) -> Sealed | None:
    """Return a secret's sealed text; None if it is not kept."""
    which = {"organization": organization, "key": key, "secret": secret}
    row = tx.row(SEALED.where_all(SEALED.select(SEALED.ciphertext, SEALED.version), which))
    return Sealed(bytes(row[0]), row[1]) if row else None
