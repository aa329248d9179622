"""The only place that knows SQL: one `Store`, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from .store import Store
from .tail import TailConnection
from .values import (
    ChainReport,
    HeldVerifier,
    Imported,
    KeyspaceSnapshot,
    LookupTaken,
    PrincipalSnapshot,
    Replica,
    Snapshot,
    StoredEvent,
    StoredFacts,
    StoreNotReady,
    Written,
)

__all__ = [
    "ChainReport",
    "HeldVerifier",
    "Imported",
    "KeyspaceSnapshot",
    "LookupTaken",
    "PrincipalSnapshot",
    "Replica",
    "Snapshot",
    "Store",
    "StoreNotReady",
    "StoredEvent",
    "StoredFacts",
    "TailConnection",
    "Written",
]
