"""The clock and the dice of tests: the only things that are not real."""

from __future__ import annotations

import hashlib

SECOND = 1_000_000


class FakeClock:
    """A clock that stands still until it is moved. Microseconds since 1970, like every `Instant`."""

    def __init__(self, now: int = 1_800_000_000 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> int:
        """Move it, and return the new moment."""
        self.now += round(seconds * SECOND)
        return self.now


class FakeRandom:
    """Bytes that look random, are never the same twice and the same in every run."""

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed}/{self._count}".encode()).digest(size)
