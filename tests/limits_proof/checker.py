"""How many units were let through, for sure, within one interval: what callers of any server can tell from outside.

A call is let through at one moment between when it was sent and when its answer came. Which, nobody knows; so a call
lies within an interval for sure if both its ends do. Calls without an answer may have been charged, or not.

It knows nothing of Doorward: instants are nanoseconds of any one clock that all callers share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

ALLOWED = "ALLOWED"
UNANSWERED = "UNANSWERED"


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the one who made it saw it."""

    sent: int
    answered: int
    reason: str
    """Of the decision; UNANSWERED if there was none."""
    cost: int = 1
    action: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """What is promised: at most *units* in any interval as long as *window*, of *actions* (None: all)."""

    name: str
    units: int
    window: int
    actions: frozenset[str] | None = None

    def counts(self, call: Call) -> bool:
        """Tell whether it counts such a call."""
        return self.actions is None or call.action in self.actions


@dataclass(frozen=True, slots=True)
class Excess:
    """An interval with more than was promised."""

    limit: str
    units: int
    promised: int
    began: int
    """When the first call in it was sent."""


def most_within(calls: Iterable[Call], window: int) -> tuple[int, int]:
    """Return the most units let through within one interval of *window*, ends included, and when it began.

    The interval that has the most may as well begin when a call in it was sent: so those are all there are to try. From
    the last to the first, each adds a call, and drops for good those that were answered too late.
    """
    most, when, held = 0, 0, 0
    within: list[tuple[int, int]] = []
    for call in sorted((it for it in calls if it.reason == ALLOWED), key=lambda it: -it.sent):
        heappush(within, (-call.answered, call.cost))
        held += call.cost
        while within and -within[0][0] > call.sent + window:
            held -= heappop(within)[1]
        if held > most:
            most, when = held, call.sent
    return most, when


def check(calls: Sequence[Call], limits: Iterable[Limit]) -> list[Excess]:
    """Return where a history of *calls* that were counted together breaks one of *limits*."""
    found = []
    for limit in limits:
        most, began = most_within((it for it in calls if limit.counts(it)), limit.window)
        if most > limit.units:
            found.append(Excess(limit.name, most, limit.units, began))
    return found


def units(calls: Iterable[Call], reason: str = ALLOWED) -> int:
    """Return the units of the calls with that outcome."""
    return sum(it.cost for it in calls if it.reason == reason)


def outcomes(calls: Iterable[Call]) -> Mapping[str, int]:
    """Return how many calls had which outcome."""
    counted: dict[str, int] = {}
    for it in calls:
        counted[it.reason] = counted.get(it.reason, 0) + 1
    return counted
