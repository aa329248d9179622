"""Proof of possession: what is stored of a secret, and how a presented text is compared with it.

Every secret that Doorward mints has 142 random bits, so one keyed hash is enough: HMAC-SHA256 under a pepper that
lives outside the database. Whoever reads the database can use no key, and whoever writes to it can make no text that
proves one (docs/decisions/0002-verifiers.md).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256

from .keytext import SecretText

PEPPER_BYTES = 32
KIND = "hmac-sha256"
_CANARY = b"doorward pepper canary"
_AUDIT = b"doorward audit chain"


class UnknownPepper(Exception):
    """A stored verifier was made with a pepper version, or in a way, that this process was not given."""


class RetiredPepper(UnknownPepper):
    """A stored verifier would be proved by a retired pepper alone: whoever has that could have made it."""

    def __init__(self, version: int) -> None:
        super().__init__(f"pepper version {version} is retired")
        self.version = version


class PepperState(StrEnum):
    """How far a pepper version has come. It only ever goes forward; one version at most is ACTIVE."""

    ADDED = "ADDED"
    """On its way to the replicas: nothing was made with it yet."""
    ACTIVE = "ACTIVE"
    """New secrets and audit events are made with it."""
    REPLACED = "REPLACED"
    """Was active: it proves what was made with it."""
    RETIRED = "RETIRED"
    """Proves nothing by itself: only below an active one, and only old audit events are checked with it."""


@dataclass(frozen=True, slots=True)
class KnownPepper:
    """What the store says of one pepper version."""

    version: int
    canary: bytes = field(repr=False)
    """`Peppers.canary` of the right pepper."""
    state: PepperState


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is stored of one secret: how it was hashed, with which pepper, and the hash."""

    kind: str
    """`hmac-sha256` or `bcrypt-sha256` for what Doorward mints; `sha256` or `bcrypt` for what was imported so."""
    pepper: int
    """Version of the outermost pepper; 0 where none takes part."""
    digest: bytes = field(repr=False)
    inner: tuple[int, ...] = ()
    """Versions below it, innermost first: a re-wrapped hash is the hash of a hash."""


@dataclass(frozen=True, slots=True)
class Peppers:
    """The peppers of this process by version, and the one for new secrets. Never printed."""

    versions: Mapping[int, bytes] = field(repr=False)
    active: int
    retired: frozenset[int] = frozenset()
    """Versions that prove nothing when they are the outermost one."""

    def verifier(self, secret: SecretText) -> Verifier:
        """Return what to store of a newly minted secret."""
        return Verifier(KIND, self.active, self._digest(self.active, secret))

    def proves(self, secret: SecretText, verifier: Verifier) -> bool:
        """Tell whether *secret* is the text that *verifier* was made from, in constant time.

        Raises UnknownPepper if this process cannot tell, RetiredPepper if it must not: an outage, never a denial.
        """
        if verifier.kind == "sha256":
            return hmac.compare_digest(sha256(_bytes(secret)).digest(), verifier.digest)
        if verifier.kind != KIND:
            raise UnknownPepper(f"verifier {verifier.kind}")
        if verifier.pepper in self.retired:
            raise RetiredPepper(verifier.pepper)
        first, *others = (*verifier.inner, verifier.pepper)
        digest = self._digest(first, secret)
        for version in others:
            digest = self._wrap(version, digest)
        return hmac.compare_digest(digest, verifier.digest)

    def proves_at_once(self, secret: SecretText, verifier: Verifier) -> bool | None:
        """Tell whether *secret* is the text of *verifier* if that is one keyed hash, as of nearly all; else None."""
        pepper = self.versions.get(verifier.pepper)
        if verifier.kind != KIND or verifier.inner or pepper is None or verifier.pepper in self.retired:
            return None
        return hmac.compare_digest(hmac.digest(pepper, _bytes(secret), "sha256"), verifier.digest)

    def rewrapped(self, verifier: Verifier) -> Verifier:
        """Return *verifier* under the active pepper as well: whoever has only the older one can no longer make it."""
        digest = self._wrap(self.active, verifier.digest)
        return Verifier(KIND, self.active, digest, (*verifier.inner, verifier.pepper))

    def canary(self, version: int) -> bytes:
        """Return a value that shows whether a process has the same pepper, and nothing else about it."""
        return hmac.digest(self._pepper(version), _CANARY, sha256)

    def audit_key(self, version: int) -> bytes:
        """Return the key of the audit chains that were begun under this pepper version."""
        return hmac.digest(self._pepper(version), _AUDIT, sha256)

    def _digest(self, version: int, secret: SecretText) -> bytes:
        return hmac.digest(self._pepper(version), _bytes(secret), "sha256")

    def _wrap(self, version: int, digest: bytes) -> bytes:
        return hmac.digest(self._pepper(version), digest, "sha256")

    def _pepper(self, version: int) -> bytes:
        try:
            return self.versions[version]
        except KeyError:
            raise UnknownPepper(f"pepper version {version}") from None


def _bytes(secret: SecretText) -> bytes:
    return secret.reveal().encode("utf-8", "surrogatepass")
