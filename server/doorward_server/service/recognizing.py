"""Recognizing callers: a key that calls again is not looked for, parsed and proved anew.

What is kept is to which record a header belonged, not whether it may call: that record must still be the one that is
remembered under a live lease, and its key must be good as of now.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from doorward_server.service.catalog import DOORWARD
from doorward_server.service.finding import Found, found
from doorward_server.service.freshness import Freshness, Known
from doorward_server.service.peppers import Keyring, Ring

MAX_CALLERS = 10_000
"""Headers that are kept, some 300 bytes each; then all are forgotten, and each costs one proof more."""
Place = tuple[str, str, str]


class Recognition:
    """Whose header it was. Belongs to the event loop."""

    def __init__(self, freshness: Freshness, keyring: Keyring, key: bytes) -> None:
        self._freshness = freshness
        self._keyring = keyring
        self._key = key  # of this process only: what is kept is no key text, and of no use elsewhere
        self._proven: dict[bytes, tuple[Place, Known, Ring]] = {}

    def find(self, headers: Sequence[tuple[str, str]]) -> Found | None:
        """Return what the one `authorization` in *headers* was found to be, as of now; None: find out."""
        proven = self._proven.get(self._mark(headers))
        if proven is None:
            return None
        place, known, ring = proven
        if ring is not self.ring:  # a pepper may have been retired
            return None
        seen = self._freshness.recall(place)
        return found(seen) if seen is not None and seen.known is known else None

    @property
    def ring(self) -> Ring:
        """The keys that proofs go by; read it before one that is to be kept: they change on another thread."""
        return self._keyring.current

    def keep(self, headers: Sequence[tuple[str, str]], proved: Found, ring: Ring) -> None:
        """Keep that *headers* proved, by *ring*, what was *proved*, if that is remembered for as long as it is true."""
        known, mark = proved.known, self._mark(headers)
        if not mark or not proved.tokens or known is None or known.subject is None or known.subject.secret is None:
            return
        secret = known.subject.secret
        if secret.verifier.inner:  # it shall be proved again: each proof is an attempt to store a better hash
            return
        if len(self._proven) >= MAX_CALLERS:
            self._proven.clear()
        self._proven[mark] = (("key", DOORWARD, secret.lookup), known, ring)

    def _mark(self, headers: Sequence[tuple[str, str]]) -> bytes:
        """Return what stands for the one header; empty if there are none, or several, or others."""
        match headers:
            case [("authorization", value)]:
                return blake2b(value.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()
            case _:
                return b""
