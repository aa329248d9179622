"""What the texts of a keyspace's keys look like, for whoever looks for them where they should not be.

Pure, and only the standard library. A key that Doorward made in its own format carries a checksum, so one that is
found is one, and none is missed by what stands beside it. Other formats are told by shape, and a UUID only beside the
name of the header that it is sent in.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

LONGEST = 4096
"""Characters of the longest text that is a key."""
CONTEXT = 256
"""Bytes before a text that may tell that it is one."""
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKSUM = 6
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_JWT = r"eyJ[A-Za-z0-9_-]{8,1000}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,1000}"
_BETWEEN = r"[^0-9A-Za-z\r\n]{1,20}"
"""What stands between a header's name and the key in source, whatever the language: `"] = "`, ` => '`, `", "`."""
_CLAIMS = ("sub", "organization", "jti", "iat")
_CLASSES = {
    "digits": "[0-9]",
    "hex": "[0-9a-f]",
    "base32": "[A-Z2-7]",
    "base62": "[0-9A-Za-z]",
    "base64url": "[0-9A-Za-z_-]",
    "print": "[!-~]",
}
_REPEATS = 1000
"""The most that RE2 counts."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One format of one keyspace's keys."""

    keyspace: str
    name: str
    """opaque, uuid, jwt, or that of a legacy format."""
    head: str
    """What stands before the key's own characters, as a regular expression that RE2 knows, too."""
    body: str
    """The rest of it, likewise."""
    keywords: tuple[str, ...]
    """One of these is in every text, in some case: for tools that look for them first."""
    fixed: bool = True
    """Whether `head` is a part of the key; else it is only what tells that a key follows."""

    @property
    def expression(self) -> str:
        """The regular expression of the whole, in the part of the language that RE2 has; the key is group 1."""
        return f"({self.head}{self.body})" if self.fixed else f"{self.head}({self.body})"


@dataclass(frozen=True, slots=True)
class Hit:
    """A text that was found in a stretch of bytes."""

    shape: Shape
    start: int
    """Where it begins."""
    text: str = field(repr=False)

    @property
    def masked(self) -> str:
        """The text for display: what is public of it, and its last four characters."""
        public = re.match(self.shape.head, self.text) if self.shape.fixed and self.shape.name != "jwt" else None
        return f"{public[0] if public else ''}…{self.text[-4:]}"


class Shapes:
    """Finds keys of all given shapes at once."""

    def __init__(self, shapes: Iterable[Shape]) -> None:
        self._all = [(shape, _compiled(shape)) for shape in shapes]

    def hits(self, data: bytes, start: int, end: int) -> Iterator[Hit]:
        """Yield what begins in *data* from *start* to *end*, shape by shape; both ends see what stands around them."""
        for shape, pattern in self._all:
            for match in pattern.finditer(data, max(0, start - CONTEXT)):
                if match.start(1) >= end:
                    break
                if match.start(1) >= start:
                    # The characters of opaque keys were only looked at: others may begin among them.
                    text = (match[1] + (match[2] if shape.name == "opaque" else b"")).decode("ascii")
                    if _holds(shape, text):
                        yield Hit(shape, match.start(1), text)

    def hidden(self, text: str) -> str:
        """Return *text*, e.g. the name of a file, with the keys in it masked."""
        data = text.encode("utf-8", "surrogateescape")
        for hit in self.hits(data, 0, len(data)):
            text = text.replace(hit.text, hit.masked)
        return text


def shapes_of(document: Mapping[str, Any]) -> tuple[list[Shape], list[str]]:
    """Return the shapes of a keyspace file's keys, and what cannot be found, in words.

    Raises ValueError if *document* is no keyspace file.
    """
    try:
        return _shapes_of(document)
    except (KeyError, TypeError, AttributeError, IndexError):
        raise ValueError("this is no keyspace file") from None


def _shapes_of(document: Mapping[str, Any]) -> tuple[list[Shape], list[str]]:
    name, kind = str(document["keyspace"]), document.get("format") or "opaque"
    shapes, missed = [], []
    if kind == "opaque":
        environments = "|".join(sorted(map(re.escape, document.get("environments") or ["live"])))
        prefix = str(document["prefix"])
        shapes.append(Shape(name, kind, f"{re.escape(prefix)}_(?:{environments})_", "[0-9A-Za-z]{40}", (f"{prefix}_",)))
    elif kind == "jwt":
        shapes.append(Shape(name, kind, "", _JWT, ("eyj",)))
    else:
        found = _beside_headers(name, document["credentials"])
        shapes += found
        missed.append(f"{name}: a UUID is only found beside the name of its header")
    for legacy in document.get("legacy") or ():
        if len(legacy.get("prefix") or "") < 3:
            missed.append(f"{name}: texts of the legacy format {legacy['name']} cannot be told from others")
        else:
            shapes.append(_legacy(name, legacy))
    return shapes, missed


def _beside_headers(name: str, credentials: Iterable[Mapping[str, Any]]) -> list[Shape]:
    shapes = []
    for source in credentials:
        word = str(source.get("header") or source.get("query"))
        words = sorted({word, word.replace("-", "_")})  # as variables of the environment are called
        scheme = f"(?:{re.escape(source['scheme'])} +)?" if source.get("scheme") else ""
        head = f"(?i:{'|'.join(map(re.escape, words))}){_BETWEEN}(?:(?i:value){_BETWEEN})?{scheme}"
        shapes.append(Shape(name, "uuid", head, _UUID, tuple(it.lower() for it in words), fixed=False))
    return shapes


def _legacy(name: str, legacy: Mapping[str, Any]) -> Shape:
    length = legacy["length"]
    shortest, longest = (length, length) if isinstance(length, int) else (int(length[0]), int(length[1]))
    most = str(longest) if longest <= _REPEATS else ""
    body = f"{_CLASSES[legacy['alphabet']]}{{{min(shortest, _REPEATS)},{most}}}"
    return Shape(name, str(legacy["name"]), re.escape(legacy["prefix"]), body, (str(legacy["prefix"]).lower(),))


def _compiled(shape: Shape) -> re.Pattern[bytes]:
    if shape.name == "opaque":
        # No boundary is asked for: the checksum tells, whatever a key is pasted to.
        return re.compile(f"({shape.head})(?=({shape.body}))".encode("ascii"))
    alphabet = "[0-9A-Za-z_-]"
    before = f"(?<!{alphabet})" if shape.fixed else ""
    return re.compile(f"{before}{shape.expression}(?!{alphabet})".encode("ascii"))


def _holds(shape: Shape, text: str) -> bool:
    if shape.name == "opaque":
        return _checksum(text[:-_CHECKSUM]) == text[-_CHECKSUM:]
    if shape.name == "jwt":
        return len(text) <= LONGEST and _is_ours(text)
    return len(text) <= LONGEST


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode("ascii")), ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits


def _is_ours(token: str) -> bool:
    """Whether a JWT has the claims that Doorward writes; its signature is not looked at."""
    claims = token.split(".")[1]
    try:
        read = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(read, dict) and all(name in read for name in _CLAIMS)
