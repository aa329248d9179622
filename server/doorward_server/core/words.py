"""The shapes of words in a keyspace document, and the checks that all its parts share. All raise KeyspaceInvalid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import KeyspaceInvalid
from .model import DAY

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
PREFIX = re.compile(r"(?=.{1,40}$)[a-z][a-z0-9]*(?:_[a-z0-9]+)*", re.ASCII)
ENVIRONMENT = re.compile(r"[a-z][a-z0-9]{0,15}", re.ASCII)
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", re.ASCII)
ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,127}", re.ASCII)
RELATION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}", re.ASCII)
"""No dot: `parent.assigned` is the relation `assigned` to the parent."""
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
"""Of attributes: what conditions can spell."""
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)
SPAN = re.compile(r"([1-9][0-9]{0,3})([hdy])", re.ASCII)
MAX_SPAN = 100 * 365 * DAY
_UNITS = {"h": DAY // 24, "d": DAY, "y": 365 * DAY}

Document = Mapping[str, Any]


def matching(place: str, word: str, shape: re.Pattern[str]) -> str:
    """Return *word* if it is of *shape*."""
    if not shape.fullmatch(word):
        raise KeyspaceInvalid(place, f"{word!r} must be of the form {shape.pattern}")
    return word


def check_each(place: str, words: Iterable[str], shape: re.Pattern[str]) -> None:
    """Refuse words that are not of *shape*, or stand there twice."""
    seen: set[str] = set()
    for i, word in enumerate(words):
        matching(f"{place}[{i}]", word, shape)
        if word in seen:
            raise KeyspaceInvalid(f"{place}[{i}]", f"{word!r} stands here twice")
        seen.add(word)


def check_known(place: str, kind: str, word: str, known: Iterable[str]) -> None:
    """Refuse a *word* that is not among the *known* ones."""
    if word not in known:
        raise KeyspaceInvalid(place, f"there is no {kind} {word!r}")


def span(place: str, text: str) -> int:
    """Return the microseconds of a span like 12h, 90d or 1y (365 days)."""
    match = SPAN.fullmatch(text)
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < size <= MAX_SPAN:
        raise KeyspaceInvalid(place, f"{text!r} must be a span like 12h, 90d or 1y, at most 100y")
    return size
