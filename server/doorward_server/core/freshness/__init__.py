"""Never stale: the freshness protocol (docs/reliability.md), free of I/O, threads and clocks of its own.

A replica holds one `Cache`, the `ClientLeases` of its callers and one `Tail` that drives both from what it polls; fills
come through `Flights`; mutations end with a `Wait`. The simulation in tests/simulation drives these same classes.

Instants are whole nanoseconds of the process's boot clock (CLOCK_BOOTTIME: it never steps, and runs in suspend);
durations are nanoseconds, too. Instants of two processes are never compared. Nothing here may be called from two
threads at a time: all of it belongs to the event loop, but `Wait` and `Graveyard`, which belong to whoever made them.
"""

from .cache import Cache, Entry, Fill
from .clients import ClientLeases, LeaseStream, Sending
from .dependency import ALL, Change, Dependency, DependencyKind
from .flights import Flight, Flights
from .lease import Lease, with_margin
from .tail import Joined, Poll, Reset, ResetReason, Tail, Taken
from .waiting import Graveyard, Outcome, RegistryRow, Wait

__all__ = [
    "ALL",
    "Cache",
    "Change",
    "ClientLeases",
    "Dependency",
    "DependencyKind",
    "Entry",
    "Fill",
    "Flight",
    "Flights",
    "Graveyard",
    "Joined",
    "Lease",
    "LeaseStream",
    "Outcome",
    "Poll",
    "RegistryRow",
    "Reset",
    "ResetReason",
    "Sending",
    "Tail",
    "Taken",
    "Wait",
    "with_margin",
]
