"""Page tokens: opaque, bound to the list and filter they came from, and never an authorization."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from typing import TypeVar

from doorward_server.core.errors import InvalidField, PageTokenInvalid

DEFAULT_SIZE = 50
MAX_SIZE = 1000
PAGE_BYTES = 2 * 1024 * 1024
"""A page ends early rather than being larger: clients take messages of 4 MiB."""
V = TypeVar("V")
_SURROGATE = re.compile("[\ud800-\udfff]")


def page_size(requested: int, default: int = DEFAULT_SIZE, field: str = "page_size") -> int:
    """Return how many entries a page shall have. Raises InvalidField for a negative number."""
    if requested < 0:
        raise InvalidField(field, "must not be negative")
    return min(requested or default, MAX_SIZE)


def make_token(scope: str, position: list[str | int]) -> str:
    """Return the token for what comes after *position* in the list that *scope* describes, filter and all."""
    text = json.dumps([_mark(scope), position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_token(scope: str, token: str, shape: tuple[type, ...]) -> list[str | int] | None:
    """Return the position in *token*, of types *shape*; None for the first page. Raises PageTokenInvalid."""
    if not token:
        return None
    try:
        mark, position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if mark == _mark(scope) and tuple(map(type, position)) == shape and all(map(_possible, position)):
            return list(position)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        pass
    raise PageTokenInvalid


def shown(row: object) -> int:
    """Return how many bytes *row* has when it is written out: more than its message."""
    return len(repr(row).encode("utf-8", "replace"))


def fitting(rows: list[V], limit: int, size_of: Callable[[V], int] = shown) -> list[V]:
    """Return the first of *rows*, at most *limit* and at least one, that fit into a message of `PAGE_BYTES`.

    *size_of* gives the bytes of each, where its repr does not have all of it.
    """
    size = 0
    for i, row in enumerate(rows[:limit]):
        size += size_of(row)
        if size > PAGE_BYTES and i:
            return rows[:i]
    return rows[:limit]


def page(
    scope: str, size: int, token: str, read: Callable[[str, int], list[V]], position: Callable[[V], str]
) -> tuple[list[V], str]:
    """Return a page of what *read(after, limit)* lists, and the token for the next. Raises PageTokenInvalid."""
    limit = page_size(size)
    start = read_token(scope, token, (str,))
    rows = read(str(start[0]) if start else "", limit + 1)
    shown = fitting(rows, limit)
    return shown, make_token(scope, [position(shown[-1])]) if len(shown) < len(rows) else ""


def _possible(position: str | int) -> bool:
    """Whether a store could have given it: tokens are not signed, so anybody can make one."""
    if isinstance(position, int):
        return 0 <= position < 2**63
    return "\0" not in position and not _SURROGATE.search(position)


def _mark(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:16]
