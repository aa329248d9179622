"""When a mutation may return: everybody has answered, or nobody's lease from before it can be live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from .lease import with_margin


class Outcome(StrEnum):
    """How a wait ended; the words of the contract's `Propagation`."""

    ACKNOWLEDGED = "ACKNOWLEDGED"
    """Every replica, and every client cache behind it, has dropped what it knew."""
    EXPIRED = "EXPIRED"
    """Some did not answer, but no lease from before is left."""


@dataclass(frozen=True, slots=True)
class RegistryRow:
    """One replica as the registry has it. Durations in nanoseconds."""

    id: str
    max_staleness: int
    serve_stale_for: int = 0
    condemned: bool = False


class Wait:
    """One mutation's wait for *revision*.

    *rows* are ALL rows of the registry, condemned ones too, read after the mutation committed; *now* is an instant
    after that commit; *own* is the row this process registered (None: it is no replica). A process whose own row is not
    among them is looking at another registry than the one it is in, so it trusts time alone.
    """

    def __init__(self, revision: int, rows: Iterable[RegistryRow], now: int, own: RegistryRow | None) -> None:
        self.revision = revision
        self._rows = tuple(rows)
        bounds = [*self._rows, *([own] if own is not None else [])]
        longest = max((row.max_staleness for row in bounds), default=0)
        stale = max((row.serve_stale_for for row in bounds), default=0)
        self.deadline = now + with_margin(longest + stale)
        """The instant from which on it has EXPIRED."""
        self._complete = own is None or any(row.id == own.id for row in self._rows)

    def outcome(self, acknowledged: Mapping[str, int], now: int) -> Outcome | None:
        """Return how it ended, as of *now*, or None: go on waiting. *acknowledged*: revision by replica id."""
        if self._complete and not self._missing(acknowledged):
            return Outcome.ACKNOWLEDGED
        return Outcome.EXPIRED if now >= self.deadline else None

    def narrow(self, rows: Iterable[RegistryRow]) -> None:
        """Wait no longer for those that a later reading of the registry, *rows*, does not have any more.

        A row is only deleted when no lease of its replica is left: see `Graveyard`, and how a replica leaves.
        """
        left = {row.id for row in rows}
        self._rows = tuple(row for row in self._rows if row.id in left)

    def silent(self, acknowledged: Mapping[str, int]) -> list[str]:
        """Return the replicas that let it expire and are not condemned yet: condemn them, or all later waits expire."""
        return [row.id for row in self._missing(acknowledged) if not row.condemned]

    def _missing(self, acknowledged: Mapping[str, int]) -> list[RegistryRow]:
        return [row for row in self._rows if acknowledged.get(row.id, 0) < self.revision]


class Graveyard:
    """When a condemned row may be deleted: one process has itself seen it condemned for longer than any lease lasts.

    A replica that is condemned gets no lease from any poll that began after that was committed.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def look(self, rows: Iterable[RegistryRow], now: int) -> list[str]:
        """Return the rows to delete. *rows* are all of the registry, read before *now*."""
        condemned = {row.id: row for row in rows if row.condemned}
        self._seen = {id: self._seen.get(id, now) for id in condemned}
        return [id for id, row in condemned.items() if now > self._seen[id] + _longest(row)]


def _longest(row: RegistryRow) -> int:
    return with_margin(row.max_staleness + row.serve_stale_for)
