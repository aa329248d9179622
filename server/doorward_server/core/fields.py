"""The rules that single fields obey, each checked once, where a request comes in. All raise InvalidField."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .directory import Attribute, Attributes
from .errors import InvalidField
from .model import DAY, SECOND, Instant
from .policy import Path, Pattern, parse_path
from .rails import API_VERSION, TYPE
from .subject import Address, Network
from .words import NAME

ORGANIZATION = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
PRINCIPAL = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._@+-]{1,128}", re.ASCII)
STABLE = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}", re.ASCII)
MAX_ENTRIES = 64
MAX_BYTES = 8192
MAX_LIST = 100
LAST_INSTANT = 253_402_300_799 * SECOND
"""9999-12-31T23:59:59Z, the last second that a Timestamp can say."""

_PATTERNS = {
    "organization": ORGANIZATION, "group": ORGANIZATION, "principal": PRINCIPAL, "keyspace": NAME, "alert rule": NAME,
}  # fmt: skip


def check_id(field: str, text: str, kind: str = "") -> str:
    """Return *text* if it can be the id of a *kind* of thing ("organization", "principal"…; else one we made)."""
    if not text:
        raise InvalidField(field, "is required")
    shape = _PATTERNS.get(kind, STABLE)
    if not shape.fullmatch(text):
        raise InvalidField(field, f"must be of the form {shape.pattern}")
    return text


def check_text(field: str, text: str, longest: int, *, required: bool = False) -> str:
    """Return *text* if it is at most *longest* characters of print; line breaks are print, other controls are not."""
    if required and not text.strip():
        raise InvalidField(field, "is required")
    if len(text) > longest:
        raise InvalidField(field, f"must have at most {longest:,} characters")
    if any((ord(c) < 32 and c not in "\n\t") or ord(c) == 127 for c in text):
        raise InvalidField(field, "must not have control characters")
    return text


def check_type(field: str, text: str) -> str:
    """Return *text* if it can be a key's type; empty is none."""
    if text and not TYPE.fullmatch(text):
        raise InvalidField(
            field, "must be 1 to 63 letters, digits, spaces or . _ / -, beginning with a letter or digit"
        )
    return text


def check_api_version(field: str, text: str) -> str:
    """Return *text* if it can be the version of an API; empty is none."""
    if text and not API_VERSION.fullmatch(text):
        raise InvalidField(field, "must be 1 to 32 letters, digits or . _ -")
    return text


def check_email(field: str, text: str) -> str:
    """Return *text* if it looks like an e-mail address; empty is none."""
    if text and (len(text) > 254 or not EMAIL.fullmatch(text)):
        raise InvalidField(field, "must be an e-mail address of at most 254 characters")
    return text


def check_metadata(field: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return *metadata*, sorted, if it keeps to its bounds."""
    _check_bounds(field, metadata, (len(k.encode()) + len(v.encode()) for k, v in metadata.items()))
    for name, value in metadata.items():
        check_text(f"{field}[{name}]", value, MAX_BYTES)
    return dict(sorted(metadata.items()))


def check_attributes(field: str, attributes: Attributes) -> dict[str, Attribute]:
    """Return *attributes*, sorted, if they keep to their bounds."""
    _check_bounds(field, attributes, (len(k.encode()) + len(repr(v).encode()) for k, v in attributes.items()))
    return dict(sorted(attributes.items()))


def _check_bounds(field: str, names: Iterable[str], sizes: Iterable[int]) -> None:
    names = list(names)
    if len(names) > MAX_ENTRIES:
        raise InvalidField(field, f"must have at most {MAX_ENTRIES} entries")
    for name in names:
        if not LABEL.fullmatch(name):
            raise InvalidField(field, f"every name must be of the form {LABEL.pattern}")
    if sum(sizes) > MAX_BYTES:
        raise InvalidField(field, f"must have at most {MAX_BYTES // 1024} KiB in all")


def check_patterns(field: str, texts: Iterable[str]) -> tuple[str, ...]:
    """Return resource patterns, sorted and without repeats; none at all means every resource."""
    patterns = sorted(set(check_list(field, texts)))
    if sum(len(text.encode("utf-8", "surrogatepass")) for text in patterns) > MAX_BYTES:
        raise InvalidField(field, f"must have at most {MAX_BYTES // 1024} KiB of patterns in all")
    for text in patterns:
        try:
            Pattern.parse(text)
        except ValueError as problem:
            raise InvalidField(field, f"the pattern {text[:80]!r} {problem}") from None
    return tuple(patterns) or ("*",)


def check_list(field: str, items: Iterable[str]) -> list[str]:
    """Return *items* as a list if there are not too many."""
    listed = list(items)
    if len(listed) > MAX_LIST:
        raise InvalidField(field, f"must have at most {MAX_LIST} entries")
    return listed


def check_cidrs(field: str, texts: Iterable[str]) -> tuple[str, ...]:
    """Return networks in their canonical spelling, without repeats. A host address is a network of one."""
    try:
        networks = [ip_network(text) for text in check_list(field, texts)]
    except ValueError:
        raise InvalidField(field, "each must be a network like 10.0.0.0/8 or 2001:db8::/32, no host bits set") from None
    if any(getattr(network.network_address, "ipv4_mapped", None) for network in networks):
        raise InvalidField(field, "must give IPv4 networks as such, not as ::ffff:…: an IPv4 client is never in those")
    return tuple(dict.fromkeys(map(str, networks)))


def within(cidrs: Collection[str], networks: Collection[Network]) -> bool:
    """Tell whether each of *cidrs* lies in one of *networks*. No networks at all are everywhere, and so within none."""
    inner = [ip_network(cidr) for cidr in cidrs]
    return bool(inner) and all(any(_contains(outer, it) for outer in networks) for it in inner)


def _contains(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def check_address(field: str, text: str) -> Address | None:
    """Return an IP address; empty is None. An IPv4 address in IPv6 clothes is the IPv4 address."""
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidField(field, "must be an IPv4 or IPv6 address") from None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def check_path(field: str, type: str, id: str) -> Path:
    """Return the resource `type/id` as segments."""
    try:
        return parse_path(f"{type}/{id}" if id else type)
    except ValueError as problem:
        raise InvalidField(field, str(problem)) from None


@dataclass(frozen=True, slots=True)
class Day:
    """The last day of use, in a time zone."""

    date: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A span from now on, in microseconds."""

    span: int


@dataclass(frozen=True, slots=True)
class Default:
    """Nothing was said: what the keyspace says holds."""


Expiry = Instant | Lifetime | Day | None
"""How somebody may say when a key expires; None: never."""

PRESETS: Mapping[str, Expiry] = {
    "DAYS_30": Lifetime(30 * DAY),
    "DAYS_90": Lifetime(90 * DAY),
    "YEAR_1": Lifetime(365 * DAY),
    "NONE": None,
}


def check_expiry(field: str, expiry: Expiry, now: Instant) -> Instant | None:
    """Return the instant that *expiry* means; it must lie after *now*. A day ends at its 24:00."""
    if expiry is None:
        return None
    if isinstance(expiry, Lifetime):
        at = now + expiry.span
    else:
        at = _end_of(field, expiry) if isinstance(expiry, Day) else expiry
    if at <= now:
        raise InvalidField(field, "must lie in the future")
    if at > LAST_INSTANT:
        raise InvalidField(field, "must lie before the year 10000")
    return at


def _end_of(field: str, day: Day) -> Instant:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", day.date, re.ASCII):
        raise InvalidField(f"{field}.date", "must be a day like 2027-03-31")
    try:
        midnight = datetime.combine(
            date.fromisoformat(day.date) + timedelta(days=1), time(0), check_zone(f"{field}.time_zone", day.time_zone)
        )
    except (ValueError, OverflowError):
        raise InvalidField(f"{field}.date", "must be a day like 2027-03-31") from None
    return int(midnight.timestamp()) * SECOND


def check_zone(field: str, name: str) -> ZoneInfo:
    """Return a time zone by its IANA name; empty is UTC."""
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidField(field, "must be an IANA time zone like Europe/Berlin") from None


def check_window(not_before: Instant | None, expires_at: Instant | None, field: str = "not_before") -> None:
    """Refuse a window that ends before it begins."""
    if not_before is not None and expires_at is not None and not_before >= expires_at:
        raise InvalidField(field, "must lie before the expiry")
