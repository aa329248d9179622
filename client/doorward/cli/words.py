"""What people type, as values; and the options that several commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import typer

from doorward.model import KeyBinding

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
PageSize = Annotated[int, typer.Option(help="How many to fetch at a time; all are shown in any case.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Return at once; for up to a second old answers may still be given.")
]
Etag = Annotated[str, typer.Option(help="Change nothing unless this is still the etag.")]
Attributes = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute", metavar="NAME=VALUE", help="A fact; numbers, true, false and JSON lists count as such."
    ),
]
Enabled = Annotated[bool | None, typer.Option("--enable/--disable", help="Disabled, no key of it works.")]
Resources = Annotated[
    list[str] | None,
    typer.Option("--resource", metavar="PATTERN", help="Only on these, e.g. 'flows/*'. Default: on all."),
]


class BadWord(ValueError):
    """Something that was typed cannot be read."""


def length(text: str) -> timedelta:
    """Read a length of time: 90s, 15m, 12h, 7d."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if not match:
        raise BadWord(f"{text!r} is no length of time; write e.g. 90s, 15m, 12h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def instant(text: str) -> datetime:
    """Read an instant: 2027-03-31T12:00Z; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadWord(f"{text!r} is no instant; write e.g. 2027-03-31T12:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def instant_or_none(text: str | None) -> datetime | None:
    """Read an instant, if one is given."""
    return instant(text) if text else None


def expiry(text: str | None) -> Any:
    """Read an expiry: 30d, 90d, 1y, none, a length of time, a last day, or an instant."""
    if text in (None, "30d", "90d", "1y", "none"):
        return text
    if re.fullmatch(r"\d+[smhd]", text):
        return length(text)
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise BadWord(f"{text!r} is no day") from None
    return instant(text)


def counts(texts: Iterable[str]) -> dict[str, int]:
    """Return what "name=number" texts say."""
    said = pairs(texts)
    for name, text in said.items():
        if not text.isdecimal():
            raise BadWord(f"{name}={text}: write a whole number")
    return {name: int(text) for name, text in said.items()}


def pairs(texts: Iterable[str] | None) -> dict[str, str]:
    """Read NAME=VALUE texts."""
    read = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise BadWord(f"{text!r}: write NAME=VALUE")
        read[name] = value
    return read


def facts(texts: Iterable[str] | None) -> dict[str, Any]:
    """Read NAME=VALUE texts whose values may be numbers, true, false or lists of texts, as JSON writes them."""
    return {name: _fact(value) for name, value in pairs(texts).items()}


def _fact(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if value is None or isinstance(value, dict) else value


def binding(text: str) -> KeyBinding:
    """Read ROLE or ROLE=PATTERN,PATTERN."""
    role, _, resources = text.partition("=")
    return KeyBinding(role, tuple(filter(None, resources.split(","))))


def given(**values: Any) -> dict[str, Any]:
    """Return the options that were given: an update changes nothing else."""
    return {name: value for name, value in values.items() if value is not None}
