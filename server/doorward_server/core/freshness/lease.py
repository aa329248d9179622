"""The right to answer from memory until a moment."""

from __future__ import annotations


class Lease:
    """A replica's lease. `until` and `stale_until` may be read from any thread; only the Tail writes them.

    Read the clock after the request arrived, then compare; a clock read before it would date the request back.
    """

    __slots__ = ("stale_until", "until")

    def __init__(self) -> None:
        self.until = 0
        """The instant from which on it no longer holds."""
        self.stale_until = 0
        """While the store cannot be reached, the instant until which its operator allows stale answers."""

    def live(self, now: int) -> bool:
        """Tell whether what is cached is fresh as of *now*."""
        return now < self.until

    def stale_allowed(self, now: int) -> bool:
        """Tell whether the operator accepts, as of *now*, what is cached in place of an outage."""
        return now < self.stale_until

    def extend(self, poll_started_at: int, max_staleness: int, serve_stale_for: int) -> None:
        """Let it hold for *max_staleness* from the START of a poll all of whose rows are applied."""
        self.until = max(self.until, poll_started_at + max_staleness)
        self.stale_until = self.until + serve_stale_for if serve_stale_for else 0

    def end(self) -> None:
        """Let it end at once."""
        self.until = self.stale_until = 0


def with_margin(duration: int, part: int = 10) -> int:
    """Return *duration* and a *part*-th of it: clocks of two machines do not run alike."""
    return duration + duration // part
