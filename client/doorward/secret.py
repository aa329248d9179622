"""A text that must not be seen."""

from __future__ import annotations

import hmac
import re
from typing import NoReturn

_SURROGATE = re.compile("[\ud800-\udfff]")


class Secret:
    """The full text of a key. It does not print, format, serialize or pickle; `reveal` is the one way out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one place that has to have it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        """Compare in constant time; equal only to another Secret of the same text."""
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (secret._text.encode("utf-8", "surrogatepass") for secret in (self, other))
        return hmac.compare_digest(mine, theirs)

    __hash__ = None  # type: ignore[assignment]  # a hash table would compare texts in its own, telling way

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: hand its text over yourself, if it must go")


def reveal(key: str | Secret) -> str:
    """Return the text of a key that may or may not be wrapped."""
    return key.reveal() if isinstance(key, Secret) else key


def sendable(text: str) -> str:
    """Return the text. One that has no UTF-8 is refused here, because what refuses it further down would show it."""
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError("a credential holds half a character, which cannot be sent")
    return text
