"""Page tokens: opaque, bound to the list and filter they came from, and never an authorization."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re

from doorward_server.core.errors import InvalidField, PageTokenInvalid

DEFAULT_SIZE = 50
MAX_SIZE = 1000
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


def _possible(position: str | int) -> bool:
    """Whether a store could have given it: tokens are not signed, so anybody can make one."""
    if isinstance(position, int):
        return 0 <= position < 2**63
    return "\0" not in position and not _SURROGATE.search(position)


def _mark(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:16]
