"""Reads of the store that several callers may share, and when they may."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from .cache import Cache, Fill
from .lease import Lease

T = TypeVar("T")


class Flight(Generic[T]):
    """One read of the store under way, or done."""

    __slots__ = ("began_at", "fill", "generation", "key")

    def __init__(self, key: Hashable, began_at: int, generation: int) -> None:
        self.key = key
        self.began_at = began_at
        self.generation = generation
        self.fill: Fill[T] | None = None
        """What it found, once it has landed."""


class Flights(Generic[T]):
    """The reads under way, at most one per key. The way to use them, for a caller that arrived at `arrived_at`:

        while True:
            flight = flights.find(key)
            if flight is None:
                flight = flights.begin(key, clock())    # then start the read; whoever does calls land or fail
            ... wait until it is done; an error is raised to all who wait, but a cancelled read is begun again, and so
            is, for who arrived after it began, one whose error tells what the store has ...
            if flights.usable(flight, arrived_at, clock()):
                return flight.fill.value

    It ends with the second flight at the latest: that one began after every caller that the first one failed.
    """

    def __init__(self, cache: Cache[T], lease: Lease) -> None:
        self._cache = cache
        self._lease = lease
        self._flights: dict[Hashable, Flight[T]] = {}

    def __len__(self) -> int:
        """Count the reads under way."""
        return len(self._flights)

    def find(self, key: Hashable) -> Flight[T] | None:
        """Return the read of *key* under way. What it finds need not be usable: see `usable`."""
        return self._flights.get(key)

    def begin(self, key: Hashable, now: int) -> Flight[T]:
        """Return a flight to read *key* on. *now* is before the snapshot is taken."""
        flight: Flight[T] = Flight(key, now, self._cache.generation)
        self._flights[key] = flight
        return flight

    def land(self, flight: Flight[T], fill: Fill[T]) -> bool:
        """Take what *flight* found; remember it if no change overtook it. Returns whether it was remembered."""
        flight.fill = fill
        self.fail(flight)
        return self._cache.offer(flight.key, fill, flight.generation)

    def fail(self, flight: Flight[T]) -> None:
        """Take note that *flight* found nothing out: the read failed or was cancelled. Nothing is remembered."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def usable(self, flight: Flight[T], arrived_at: int, now: int) -> bool:
        """Tell whether a caller that arrived at *arrived_at* may be given what *flight* found.

        Either it began after the caller arrived; or the lease is live, so that every mutation that returned before the
        caller arrived is applied here, and none that is applied touched what was found.
        """
        if flight.fill is None:
            return False
        if flight.began_at >= arrived_at:
            return True
        return (
            self._lease.live(now)
            and flight.generation == self._cache.generation
            and self._cache.fresh(flight.fill.revision, flight.fill.dependencies)
        )
