"""The text of a key: how it is minted, parsed, masked and kept from printing.

Default format (design.md section 5), as FactoryThread's keys look:
`<prefix>_<environment>_<10 base62 public id><24 base62 secret><6 base62 CRC32 of all before it>`. The public id finds
the key without telling anything, the secret carries 142 random bits, and the checksum lets garbage be refused without
asking anybody. Bytes are compared exactly: nothing is trimmed, folded or normalised.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LOOKUP_LENGTH = 10
SECRET_LENGTH = 24
CHECKSUM_LENGTH = 6
BODY_LENGTH = LOOKUP_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH
ENTROPY_BYTES = 32
"""Bytes that `mint` wants; 256 bits for 202 of text leave no bias that anybody could measure."""
_DIGITS = {digit: value for value, digit in enumerate(ALPHABET)}

_SHAPE = re.compile(
    r"(?P<prefix>[a-z][a-z0-9]*(?:_[a-z0-9]+)*)_(?P<environment>[a-z][a-z0-9]{0,15})_(?P<body>[0-9A-Za-z]{40})",
    re.ASCII,
)


class MalformedText(ValueError):
    """The text is not one that `mint` could have made. Says no more, and never holds the text."""


class SecretText:
    """A text that must not be seen. It does not print, pickle or format; `reveal` is the one way out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one response or computation that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "SecretText(…)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret text is not pickled")


@dataclass(frozen=True, slots=True)
class KeyText:
    """A parsed key text: well-formed and with the right checksum, which says nothing about whether it is known."""

    prefix: str
    environment: str
    lookup: str
    """The public id: finds the secret's row, proves nothing."""
    secret: SecretText
    """The whole text, as presented."""

    @property
    def last4(self) -> str:
        """The last four characters. They belong to the checksum: who sees them learns at most 24 of the 142 bits."""
        return self.secret.reveal()[-4:]


def base62(number: int, length: int) -> str:
    """Write *number* modulo 62**length in exactly *length* digits of `ALPHABET`."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def checksum(text: str) -> str:
    """Return the six checksum characters for everything that comes before them."""
    return base62(zlib.crc32(text.encode("ascii")), CHECKSUM_LENGTH)


def mint(prefix: str, environment: str, entropy: bytes) -> KeyText:
    """Make a new key text from *entropy*: `ENTROPY_BYTES` bytes, uniformly random and never used again."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"mint wants {ENTROPY_BYTES} bytes of entropy, got {len(entropy)}")
    body = base62(int.from_bytes(entropy, "big"), LOOKUP_LENGTH + SECRET_LENGTH)
    text = f"{prefix}_{environment}_{body}"
    return KeyText(prefix, environment, body[:LOOKUP_LENGTH], SecretText(text + checksum(text)))


def parse(text: str) -> KeyText:
    """Parse a presented text, from the right because prefixes may contain underscores.

    Raises MalformedText; costs O(len) of CPU for texts up to 200 characters and O(1) beyond, and no I/O.
    """
    parts = split(text)
    if parts is None:
        raise MalformedText("not a key text")
    return KeyText(*parts, SecretText(text))


def split(text: str) -> tuple[str, str, str] | None:
    """Return prefix, environment and lookup of *text*; None where `parse` raises."""
    match = _SHAPE.fullmatch(text) if len(text) <= 200 else None
    if match is None or _number(text[-CHECKSUM_LENGTH:]) != zlib.crc32(text[:-CHECKSUM_LENGTH].encode("ascii")):
        return None
    prefix, environment, body = match.groups()
    return prefix, environment, body[:LOOKUP_LENGTH]


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * 62 + _DIGITS[digit]
    return number


def mask(style: str, prefix: str, environment: str, last4: str) -> str:
    """Return a key for display. *style* holds `prefix`, `environment` and `last4` in braces: "{prefix}_…{last4}"."""
    return style.replace("{prefix}", prefix).replace("{environment}", environment).replace("{last4}", last4)
