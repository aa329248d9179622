"""What another system kept of a key's text, read into what Doorward keeps of it.

A hash says nothing about the format of its text, so its row must say how the text will be found: by `lookup`, the part
of the text that a legacy format calls so, or, for SHA-256 without one, by the whole text. Which of several legacy
formats that is decides nothing else: any that fits will do, and a hash that fits none is refused, for no text could
ever prove it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from enum import StrEnum

from .errors import InvalidField
from .fields import check_text
from .formats import ALPHABETS, Format, Legacy, Presented, lookup_of_digest, lookup_of_part, present
from .keytext import MalformedText, SecretText, parse
from .verify import Verifier

MAX_BCRYPT_COST = 16
"""4 s of a core for each proof; more would be a way to keep the server busy."""
_HEX = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
# The last characters of salt and hash carry two and four bits only: others are nothing that bcrypt could have made,
# and would never prove.
_BCRYPT = re.compile(r"\$2[ab]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26]", re.ASCII)
_LAST4 = re.compile(r"[!-~]{0,4}", re.ASCII)
_SHORTEST_SIGNATURE = 43
"""Characters of 256 bits in base64url, HS256's; EdDSA's has 86."""
_LONG = 12
"""Characters of a text so long that showing four of them leaves enough to guess."""


class HashKind(StrEnum):
    """How a foreign hash was made of the text."""

    SHA256 = "SHA256"
    BCRYPT = "BCRYPT"


@dataclass(frozen=True, slots=True)
class ForeignHash:
    """A hash as it came in, with what the row says about its text."""

    kind: HashKind
    text: SecretText
    lookup: str
    """The part of the text that finds it; empty: the whole text does."""
    last4: str


def read_text(
    text: SecretText, own: Format, prefix: str, environment: str, legacy: tuple[Legacy, ...], key: bytes
) -> Presented:
    """Recognize an imported text exactly as it will be when it is presented. Raises InvalidField."""
    known = present(text.reveal(), own, prefix, legacy, key)
    if known is None:
        raise InvalidField("text", "is of none of the formats that the keyspace declares")
    foreign = any(old.matches(text.reveal()) for old in legacy)
    if own is Format.JWT and not foreign and len(text.reveal().rpartition(".")[2]) < _SHORTEST_SIGNATURE:
        raise InvalidField("text", "has a signature that is too short to keep it from being guessed")
    try:
        said = parse(text.reveal())
    except MalformedText:
        return known
    if own is Format.OPAQUE and said.prefix == prefix and said.environment != environment:
        raise InvalidField("environment", f"must be {said.environment!r}, as the text says")
    return known


def last4_of(text: SecretText) -> str:
    """Return the last four characters for display, or none of a text so short that they would give it away."""
    return text.reveal()[-4:] if len(text.reveal()) >= _LONG else ""


def read_hash(foreign: ForeignHash, own: Format, legacy: tuple[Legacy, ...], key: bytes) -> tuple[str, Verifier]:
    """Return the lookup of a foreign hash and what to keep of it. Raises InvalidField, which never shows the hash."""
    if not _LAST4.fullmatch(foreign.last4):
        raise InvalidField("last4", "must be at most four characters of print")
    if foreign.kind is HashKind.BCRYPT:
        verifier = Verifier("bcrypt", 0, _read_bcrypt(foreign.text.reveal()))
        if not foreign.lookup:
            raise InvalidField("lookup", "is required with a bcrypt hash, which cannot find itself")
    else:
        verifier = Verifier("sha256", 0, _read_sha256(foreign.text.reveal()))
    if foreign.lookup:
        return lookup_of_part(_checked_part(foreign.lookup, legacy)), verifier
    if own is Format.OPAQUE and all(old.lookup for old in legacy):
        raise InvalidField("lookup", "is required: no format of the keyspace is found by its whole text")
    return lookup_of_digest(key, verifier.digest), verifier


def _checked_part(lookup: str, legacy: tuple[Legacy, ...]) -> str:
    check_text("lookup", lookup, 256)
    for old in legacy:
        if len(lookup) == old.lookup and all(c in ALPHABETS[old.alphabet] for c in lookup):
            return lookup
    raise InvalidField("lookup", "does not fit the lookup part of any legacy format of the keyspace")


def _read_sha256(text: str) -> bytes:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    bare = text.removesuffix("=")
    alternative = b"-_" if set(text) & set("-_") else b"+/"
    try:
        digest = base64.b64decode(bare + "=", altchars=alternative, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    # Encoded again, for stray bits or a mixture of alphabets show that it was not made by anybody's library.
    if len(digest) != 32 or base64.b64encode(digest, alternative).decode().rstrip("=") != bare:
        raise InvalidField("hash", "must be a SHA-256 as 64 hexadecimal digits or in base64")
    return digest


def _read_bcrypt(text: str) -> bytes:
    match = _BCRYPT.fullmatch(text)
    if match is None:
        raise InvalidField("hash", "must be a bcrypt hash of 60 characters that begins with $2a$ or $2b$")
    if not 4 <= int(match[1]) <= MAX_BCRYPT_COST:
        raise InvalidField("hash", f"must have a bcrypt cost of 4 to {MAX_BCRYPT_COST}")
    return text.encode("ascii")
