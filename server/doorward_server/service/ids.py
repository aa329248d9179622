"""Stable ids, and where their randomness comes from."""

from __future__ import annotations

from collections.abc import Callable

from doorward_server.core.keytext import base62

Random = Callable[[int], bytes]
"""Returns so many random bytes, fit for secrets."""


def new_id(kind: str, random: Random) -> str:
    """Return a new stable id, e.g. "key_7hQ2mB9sLx4R": 71 random bits, not secret."""
    return f"{kind}_{base62(int.from_bytes(random(16), 'big'), 12)}"
