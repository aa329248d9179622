"""Counting against limits so that no interval of a window's length ever has more than the limit. (design.md section 7)

A window is ten cells. Units are charged, all at once for all windows of a request, to the cell in which the *store*
grants them, if the current cell, the ten before it and the new units together stay within the limit. A replica may
spend them only until that cell ends. So what is spent in any interval as long as the window was charged to the eleven
cells that such an interval can touch, and those never hold more than the limit.

Instants are microseconds, of the clock of whoever grants; so are durations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .model import DAY, Instant
from .reasons import Reason

CELLS = 10
"""Cells of a window."""
SHARE = 8
"""At most one in so many of the units that are left goes into one lease, so that other replicas find some, too."""


class Per(StrEnum):
    """Whose calls are counted together."""

    KEY = "KEY"
    OWNER = "OWNER"
    ORGANIZATION = "ORGANIZATION"
    KEY_AND_RESOURCE = "KEY_AND_RESOURCE"

    def whom(self, key: str, owner: str) -> str:
        """Return what counts the calls of *key* and *owner* (may be empty: then the key counts by itself).

        Of KEY_AND_RESOURCE, it is the key's part.
        """
        if self is Per.ORGANIZATION:
            return "organization"
        return f"owner:{owner}" if self is Per.OWNER and owner else f"key:{key}"


@dataclass(frozen=True, slots=True)
class Meter:
    """One count: of whom, under which name, and how much fits into it.

    The count is of `organization`, `keyspace`, `subject` and `name`; *limit* and *window* may change while it goes on.
    """

    organization: str
    keyspace: str
    subject: str
    """Whose calls are counted together, e.g. `key:key_1`."""
    name: str
    limit: int
    window: int

    @property
    def cell(self) -> int:
        """How long a cell is."""
        return self.window // CELLS

    @property
    def reason(self) -> Reason:
        """Why a call is denied that does not fit: what comes back within a day is a rate, the rest a quota."""
        return Reason.RATE_LIMITED if self.window < DAY else Reason.QUOTA_EXCEEDED


@dataclass(frozen=True, slots=True)
class Cell:
    """Units that were charged to a span of time."""

    starts: Instant
    ends: Instant
    units: int


@dataclass(frozen=True, slots=True)
class Room:
    """What one meter has room for."""

    meter: Meter
    left: int
    """Units that fit now."""
    retry_at: Instant
    """When what was asked for fits if nobody else takes it; the present if it does; never if it is over the limit."""
    reset_at: Instant
    """When the count is back at nothing if nobody takes more."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a charge came to: *units* to spend until *ends*; none, and nothing charged, if it fits not everywhere."""

    units: int
    ends: Instant
    now: Instant
    rooms: tuple[Room, ...]
    """After the charge; in the order of the meters."""


NEVER = 1 << 62


def horizon(meter: Meter, now: Instant) -> Instant:
    """Return the instant such that cells which end after it count: the current one and the ten before it.

    Of cells of another length, from before the window was changed, those that overlap them.
    """
    return now - now % meter.cell - CELLS * meter.cell


def grant(meters: Sequence[Meter], charged: Sequence[Sequence[Cell]], cost: int, wanted: int, now: Instant) -> Grant:
    """Tell how many units may be charged to every one of *meters* at once, if at least *cost* fit.

    *charged* are their cells that end after their horizon. *wanted* is what a lease would like to have, and gets as far
    as `SHARE` lets it.
    """
    # A clock that was set back must not open again what was full: then the latest cell is the present.
    now = max((now, *(cell.starts for cells in charged for cell in cells)))
    left = [it.limit - sum(cell.units for cell in cells) for it, cells in zip(meters, charged, strict=True)]
    least = min(left, default=0)
    units = max(cost, min(wanted, least // SHARE)) if cost <= least else 0
    rooms = tuple(
        Room(it, max(0, free - units), _retry_at(it, cells, cost, now) if units == 0 else now, _reset_at(it, now))
        for it, cells, free in zip(meters, charged, left, strict=True)
    )
    ends = min((now - now % it.cell + it.cell for it in meters), default=now)
    return Grant(units, ends, now, rooms)


def cell_of(meter: Meter, now: Instant) -> tuple[Instant, Instant]:
    """Return when the cell at *now* starts and ends."""
    starts = now - now % meter.cell
    return starts, starts + meter.cell


def _retry_at(meter: Meter, cells: Iterable[Cell], cost: int, now: Instant) -> Instant:
    """Return when *cost* fits: the first start of a cell at which enough old ones count no more."""
    if cost > meter.limit:
        return NEVER
    left = meter.limit - sum(cell.units for cell in cells)
    at = now
    for cell in sorted(cells, key=lambda it: it.ends):
        if cost <= left:
            break
        left += cell.units
        at = max(at, _leaves_at(meter, cell))
    return at


def _leaves_at(meter: Meter, cell: Cell) -> Instant:
    """Return the first instant at which *cell* counts no more: then its end is the horizon of the current cell."""
    return -(-cell.ends // meter.cell) * meter.cell + CELLS * meter.cell


def _reset_at(meter: Meter, now: Instant) -> Instant:
    _, ends = cell_of(meter, now)
    return ends + CELLS * meter.cell
