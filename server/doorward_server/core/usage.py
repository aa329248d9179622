"""What is counted of decisions: hourly cells, and how single decisions are folded into a bounded number of them.

A cell is what happened in one hour to one key (or, without one, to one owner or to nobody): action, resource, reason.
Resources and addresses come from outside, so that their number is bounded here: of each key and hour, a process tells
`RESOURCES` allowed resources and `ADDRESSES` addresses apart. What is beyond, and every denied resource, counts as all
of its type (`flows/*`), addresses beyond as `*`. No request can hold a `*`, so neither is mistaken for a real one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple, TypeVar

from .errors import InvalidField
from .fields import check_address
from .model import SECOND, Instant
from .policy import Path
from .reasons import Reason

K = TypeVar("K")
HOUR = 3600 * SECOND
RESOURCES = 100
ADDRESSES = 50
STRANGERS = 1_000
"""Combinations of caller, prefix, address and reason, of each organization, keyspace and hour."""
TRACKED = 200_000
"""Keys and hours whose resources are told apart at the same time."""
OTHER = "*"
INTROSPECT = "introspect"
"""The action of a question that names none: whose a credential is."""
AUTHENTICATE = "authenticate"
"""The action of a call to Doorward itself that its own key did not get in."""


class Stranger(NamedTuple):
    """What is known of a credential that is nobody's: what it began like, and who was shown it."""

    prefix: str
    caller: str


class Counted(NamedTuple):
    """What is the same of decisions that are counted together until they are folded."""

    organization: str
    """Of the key or principal; of the caller, where the credential was nobody's."""
    key: str
    """Empty: there is none."""
    owner: str
    """Empty: there is none."""
    keyspace: str
    action: str
    path: Path
    """Empty: nothing was asked about."""
    reason: str
    address: str
    """As it was told; empty: it was not."""
    hour: Instant
    """When the hour began."""
    stranger: Stranger | None


class Cell(NamedTuple):
    """Decisions of one hour, by what they were about and what became of them."""

    organization: str
    key: str
    hour: Instant
    keyspace: str
    owner: str
    action: str
    resource: str
    reason: str


class AddressCell(NamedTuple):
    """The same decisions by where they came from."""

    organization: str
    key: str
    hour: Instant
    keyspace: str
    owner: str
    address: str
    """IPv4, or the /64 network of an IPv6 address; empty: not told; `*`: others."""
    reason: str


class StrangerCell(NamedTuple):
    """Those of them whose credential was nobody's."""

    organization: str
    keyspace: str
    hour: Instant
    caller: str
    """Id of the calling service's key; `*`: others."""
    prefix: str
    address: str
    reason: str


@dataclass(slots=True)
class Cells:
    """Counts by cell."""

    cells: Counter[Cell] = field(default_factory=Counter)
    addresses: Counter[AddressCell] = field(default_factory=Counter)
    strangers: Counter[StrangerCell] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.cells) + len(self.addresses) + len(self.strangers)

    def take(self, most: int) -> Cells:
        """Take out about *most* cells of each kind."""
        return Cells(_taken(self.cells, most), _taken(self.addresses, most), _taken(self.strangers, most))


class Dimension(Enum):
    """What sums can be told apart by."""

    HOUR = "hour"
    KEY = "key"
    ACTION = "action"
    RESOURCE = "resource"
    REASON = "reason"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose usage, and when: whole hours from *since*, before *until*. Empty names leave nothing out."""

    organization: str
    """`-`: every one."""
    since: Instant
    until: Instant
    keyspace: str = ""
    key: str = ""
    owner: str = ""


class Sum(NamedTuple):
    """How often, under one value of a dimension."""

    value: str | int
    allowed: int
    denied: int


@dataclass(frozen=True, slots=True)
class CellCount:
    """A cell and its count."""

    cell: Cell
    count: int


@dataclass(frozen=True, slots=True)
class StrangerCount:
    """How often credentials were shown that were nobody's."""

    prefix: str
    address: str
    caller: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One decision for the decision log. Holds no secret."""

    at: Instant
    id: str
    organization: str
    """Of the key or principal; of the caller, where the credential was nobody's."""
    keyspace: str
    key: str
    owner: str
    action: str
    resource: str
    reason: str
    client_ip: str
    caller: str
    """`<organization>/<key>` of the calling service."""


class Folding:
    """Folds decisions into cells. Remembers, for the hours under way, what is told apart already."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[set[str], set[str]]] = {}
        self._seen: dict[tuple[str, str], set[StrangerCell]] = {}
        self._hour = 0

    def fold(self, counts: Mapping[Counted, int], into: Cells) -> None:
        """Add *counts* to *into*."""
        for counted, count in counts.items():
            if counted.hour > self._hour:
                self._hour = counted.hour
                self._known.clear()
                self._seen.clear()
            resources, addresses = self._told_apart(counted)
            resource = _resource(counted, resources)
            address = _within(shown_address(counted.address), addresses, ADDRESSES)
            organization, key, owner, keyspace, hour = (
                counted.organization, counted.key, counted.owner, counted.keyspace, counted.hour,
            )  # fmt: skip
            into.cells[Cell(organization, key, hour, keyspace, owner, counted.action, resource, counted.reason)] += (
                count
            )
            into.addresses[AddressCell(organization, key, hour, keyspace, owner, address, counted.reason)] += count
            if counted.stranger is not None:
                into.strangers[self._stranger(counted, counted.stranger)] += count

    def _told_apart(self, counted: Counted) -> tuple[set[str] | None, set[str] | None]:
        of = (counted.organization, counted.keyspace, counted.key, counted.owner)
        known = self._known.get(of)
        if known is None:
            if len(self._known) >= TRACKED:
                return None, None
            known = self._known[of] = (set(), set())
        return known

    def _stranger(self, counted: Counted, stranger: Stranger) -> StrangerCell:
        of = (counted.organization, counted.keyspace)
        seen = self._seen.setdefault(of, set())
        cell = StrangerCell(
            *of, counted.hour, stranger.caller, stranger.prefix, shown_address(counted.address), counted.reason
        )
        if cell not in seen:
            if len(seen) >= STRANGERS:
                return cell._replace(caller=OTHER, prefix=OTHER, address=OTHER)
            seen.add(cell)
        return cell


def hour_of(at: Instant) -> Instant:
    """Return when the hour of *at* began."""
    return at - at % HOUR


@lru_cache(maxsize=16_384)
def told_address(text: str) -> str:
    """Return an address in its one spelling; what is none was not told."""
    try:
        return str(check_address("address", text) or "")
    except InvalidField:
        return ""


@lru_cache(maxsize=16_384)
def shown_address(text: str) -> str:
    """Return what an address counts as."""
    address = told_address(text)
    return str(ip_network((address, 64), strict=False)) if ":" in address else address


def _resource(counted: Counted, known: set[str] | None) -> str:
    path = counted.path
    if len(path) < 2:
        return path[0] if path else ""
    whole = f"{path[0]}/{OTHER}"
    if counted.reason != Reason.ALLOWED or known is None:
        return whole
    resource = "/".join(path)
    return resource if _within(resource, known, RESOURCES) == resource else whole


def _within(text: str, known: set[str] | None, most: int) -> str:
    """Return *text* if it is, or can become, one of *most* that are told apart; else `OTHER`."""
    if not text:
        return text
    if known is None or (text not in known and len(known) >= most):
        return OTHER
    known.add(text)
    return text


def _taken(counts: Counter[K], most: int) -> Counter[K]:
    taken: Counter[K] = Counter()
    for _ in range(min(most, len(counts))):
        cell, count = counts.popitem()
        taken[cell] = count
    return taken
