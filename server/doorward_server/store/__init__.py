"""The only place that knows SQL: one `Store`, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from .limits import Charge
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
    "Charge",
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
