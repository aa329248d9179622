"""The only place that knows SQL: one `Store`, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from doorward_server.core.audit import ChainReport, StoredEvent

from .credits import Debit
from .limits import Charge
from .store import Store
from .tail import TailConnection
from .values import (
    ChainBroken,
    ChainPage,
    HeldVerifier,
    Imported,
    KeyspaceSnapshot,
    LookupTaken,
    PrincipalSnapshot,
    Replica,
    Snapshot,
    StoredFacts,
    StoreNotReady,
    Written,
)

__all__ = [
    "ChainBroken",
    "ChainPage",
    "ChainReport",
    "Charge",
    "Debit",
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
