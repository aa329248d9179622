"""The formats of key texts that a keyspace knows: its own, and those of keys that were imported.

Whatever the format, a text becomes two things: the lookup that finds a secret's row and proves nothing, and the text
itself, which is compared with what is stored. `opaque` texts carry their lookup and a checksum (`keytext`); `uuid`,
`jwt` and most imported texts do not, so theirs is a keyed hash of the whole. A JWT is never parsed here: its text is
proved like any other, so no signature, algorithm or claim in it can persuade anybody.
"""

from __future__ import annotations

import hmac
import math
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple

from .errors import KeyspaceInvalid
from .keytext import SecretText, split

MAX_TEXT = 4096
"""Characters of the longest text that is looked at."""
SOUND_BITS = 112
"""Entropy from which on a fast keyed hash is enough (NIST SP 800-63B)."""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)
_JWT = re.compile(r"[A-Za-z0-9_-]{1,1024}\.[A-Za-z0-9_-]{1,2048}\.[A-Za-z0-9_-]{1,512}", re.ASCII)
ALPHABETS = {
    "digits": string.digits,
    "hex": string.digits + "abcdef",
    "base32": string.ascii_uppercase + "234567",
    "base62": string.digits + string.ascii_letters,
    "base64url": string.digits + string.ascii_letters + "-_",
    "print": "".join(c for c in string.printable if not c.isspace()),
}


class Format(StrEnum):
    """How the texts of newly made keys look."""

    OPAQUE = "OPAQUE"
    UUID = "UUID"
    JWT = "JWT"


@dataclass(frozen=True, slots=True)
class Legacy:
    """A format of imported texts: *prefix*, then *shortest* to *longest* characters of one alphabet. No checksum."""

    name: str
    prefix: str
    alphabet: str
    """A name in `ALPHABETS`."""
    shortest: int
    longest: int
    entropy_bits: int
    """What its makers vouch for; at most what its length can hold."""
    lookup: int
    """So many characters after the prefix find it; 0: the whole text does."""

    def matches(self, text: str) -> bool:
        """Tell whether *text* is of this format; costs O(len)."""
        body = text[len(self.prefix) :]
        fits = text.startswith(self.prefix) and self.shortest <= len(body) <= self.longest
        return fits and all(c in ALPHABETS[self.alphabet] for c in body)

    def lookup_part(self, text: str) -> str:
        """Return the part of a matching *text* that finds it; empty if only the whole does."""
        return text[len(self.prefix) :][: self.lookup]

    @property
    def finding(self) -> tuple[int, int]:
        """What of a text finds it: from where, and how much."""
        return (len(self.prefix), self.lookup) if self.lookup else (0, 0)

    def overlaps(self, other: Legacy) -> bool:
        """Tell whether there may be a text of both formats; may say so of formats that are only nearly alike."""
        mine, theirs = len(self.prefix), len(other.prefix)
        alike = self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix)
        return (
            alike
            and self.shortest + mine <= other.longest + theirs
            and other.shortest + theirs <= self.longest + mine
            and bool(set(ALPHABETS[self.alphabet]) & set(ALPHABETS[other.alphabet]))
        )

    @property
    def capacity(self) -> int:
        """The bits that its shortest text can hold."""
        return int(self.shortest * math.log2(len(ALPHABETS[self.alphabet])))

    @property
    def sound(self) -> bool:
        """Whether a fast keyed hash may replace what was imported."""
        return self.entropy_bits >= SOUND_BITS


class Presented(NamedTuple):
    """A text that is well-formed in its keyspace, which says nothing about whether it is known."""

    secret: SecretText
    lookup: str
    sound: bool
    """Whether its format holds enough entropy for a fast keyed hash."""


def lookup_of(key: bytes, text: str) -> str:
    """Return the lookup of a whole text. *key* lives with the peppers and never rotates."""
    return lookup_of_digest(key, sha256(text.encode("utf-8", "surrogatepass")).digest())


def lookup_of_digest(key: bytes, digest: bytes) -> str:
    """Return the same from the text's SHA-256, which is all that some systems kept of it."""
    return "=" + hmac.digest(key, digest, sha256)[:16].hex()


def lookup_of_part(part: str) -> str:
    """Return the lookup of an imported text that carries its own, apart from those that Doorward makes."""
    return "~" + part


def present(text: str, own: Format, prefix: str, legacy: tuple[Legacy, ...], key: bytes) -> Presented | None:
    """Recognize *text*; None if it is of no format that the keyspace knows."""
    if not 0 < len(text) <= MAX_TEXT or not text.isascii():
        return None
    secret = SecretText(text)
    if own is Format.OPAQUE:
        parts = split(text)
        if parts is not None and parts[0] == prefix:
            return Presented(secret, parts[2], True)
    elif (_UUID if own is Format.UUID else _JWT).fullmatch(text):
        # A weak imported text may look like one of ours: then it is treated as weak.
        return Presented(secret, lookup_of(key, text), all(old.sound for old in legacy if old.matches(text)))
    for old in legacy:
        if old.matches(text):
            part = old.lookup_part(text)
            return Presented(secret, lookup_of_part(part) if part else lookup_of(key, text), old.sound)
    return None


def belongs(text: str, own: Format, prefix: str, legacy: tuple[Legacy, ...]) -> bool:
    """Tell whether *text* claims to be a key of the keyspace: the others' are none of ours to judge."""
    if own is not Format.OPAQUE or text.startswith(prefix + "_"):
        return True
    return any(old.matches(text) if not old.prefix else text.startswith(old.prefix) for old in legacy)


def mint_uuid(entropy: bytes) -> SecretText:
    """Make a lower-case version 4 UUID from 16 random bytes: 122 random bits."""
    if len(entropy) != 16:
        raise ValueError(f"mint_uuid wants 16 bytes of entropy, got {len(entropy)}")
    number = int.from_bytes(entropy, "big") & ~(0xF << 76) & ~(0x3 << 62) | 4 << 76 | 0x2 << 62
    digits = f"{number:032x}"
    return SecretText("-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])))


def compile_legacy(documents: Iterable[Mapping[str, Any]]) -> tuple[Legacy, ...]:
    """Compile the formats that a keyspace file declares. Raises KeyspaceInvalid.

    A text that is of two of them must be found, and trusted, by both alike.
    """
    formats: list[Legacy] = []
    for i, document in enumerate(documents):
        new = _legacy(f"legacy[{i}]", document)
        for old in formats:
            if old.overlaps(new) and (old.finding, old.sound) != (new.finding, new.sound):
                why = f"a text of it may be of {old.name!r} too, which has another lookup or entropy: tell them apart"
                raise KeyspaceInvalid(f"legacy[{i}]", f"{why} by prefix, alphabet or length")
        formats.append(new)
    return tuple(formats)


def _legacy(place: str, document: Mapping[str, Any]) -> Legacy:
    length = document["length"]
    shortest, longest = (length, length) if isinstance(length, int) else length
    legacy = Legacy(
        name=document["name"],
        prefix=document.get("prefix") or "",
        alphabet=document["alphabet"],
        shortest=shortest,
        longest=longest,
        entropy_bits=document["entropy_bits"],
        lookup=document.get("lookup") or 0,
    )
    if not 1 <= shortest <= longest <= MAX_TEXT:
        raise KeyspaceInvalid(f"{place}.length", f"must be a number or [shortest, longest], 1 to {MAX_TEXT}")
    if legacy.lookup > shortest:
        raise KeyspaceInvalid(f"{place}.lookup", "must not be longer than the shortest text")
    held = legacy.capacity - int(legacy.lookup * legacy.capacity / shortest)
    if not 0 <= legacy.entropy_bits <= held:
        raise KeyspaceInvalid(f"{place}.entropy_bits", f"texts like these hold at most {held}, the lookup part aside")
    return legacy
