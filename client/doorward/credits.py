"""Credits: balances that calls use up. Frozen values without any gRPC in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditAccount:
    """A balance, as it was when the call was answered, and what becomes of it by itself.

    It is a key's, an owner's, or, with neither, the organization's.
    """

    organization: str
    keyspace: str
    key_id: str
    owner: str
    balance: int
    refills_at: datetime | None
    """None: no refill comes."""
    refill_amount: int | None
    """What a refill gives; None: none comes."""
    own_refill_amount: bool
    """Whether that is this account's own, and not the keyspace's."""
    opened: bool
    """False: nothing is kept of it yet; its first call opens it so."""
