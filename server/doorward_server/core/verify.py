"""Proof of possession: what is stored of a secret, and how a presented text is compared with it.

Every secret that Doorward mints has 142 random bits, so one keyed hash is enough: HMAC-SHA256 under a pepper that
lives outside the database. Whoever reads the database can use no key, and whoever writes to it can make no text that
proves one (docs/decisions/0002-verifiers.md).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from .keytext import SecretText

PEPPER_BYTES = 32
KIND = "hmac-sha256"
_CANARY = b"doorward pepper canary"
_AUDIT = b"doorward audit chain"


class UnknownPepper(Exception):
    """A stored verifier was made with a pepper version, or in a way, that this process was not given."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is stored of one secret: how it was hashed, with which pepper, and the hash."""

    kind: str
    """`hmac-sha256`; later also the verifiers of imported secrets."""
    pepper: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Peppers:
    """The peppers of this process by version, and the one for new secrets. Never printed."""

    versions: Mapping[int, bytes] = field(repr=False)
    active: int

    def verifier(self, secret: SecretText) -> Verifier:
        """Return what to store of a newly minted secret."""
        return Verifier(KIND, self.active, self._digest(self.active, secret))

    def proves(self, secret: SecretText, verifier: Verifier) -> bool:
        """Tell whether *secret* is the text that *verifier* was made from, in constant time.

        Raises UnknownPepper if this process cannot tell: that is an outage, never a denial.
        """
        if verifier.kind != KIND:
            raise UnknownPepper(f"verifier {verifier.kind}")
        return hmac.compare_digest(self._digest(verifier.pepper, secret), verifier.digest)

    def canary(self, version: int) -> bytes:
        """Return a value that shows whether a process has the same pepper, and nothing else about it."""
        return hmac.digest(self._pepper(version), _CANARY, sha256)

    def audit_key(self, version: int) -> bytes:
        """Return the key of the audit chains that were begun under this pepper version."""
        return hmac.digest(self._pepper(version), _AUDIT, sha256)

    def _digest(self, version: int, secret: SecretText) -> bytes:
        return hmac.digest(self._pepper(version), secret.reveal().encode("utf-8", "surrogatepass"), sha256)

    def _pepper(self, version: int) -> bytes:
        try:
            return self.versions[version]
        except KeyError:
            raise UnknownPepper(f"pepper version {version}") from None
