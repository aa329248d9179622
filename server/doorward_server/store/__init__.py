"""The only place that knows SQL: one `Store`, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from .store import Store
from .values import (
    ChainReport,
    LookupTaken,
    PrincipalSnapshot,
    Snapshot,
    StoredEvent,
    StoreNotReady,
    Written,
)

__all__ = [
    "ChainReport",
    "LookupTaken",
    "PrincipalSnapshot",
    "Snapshot",
    "Store",
    "StoreNotReady",
    "StoredEvent",
    "Written",
]
