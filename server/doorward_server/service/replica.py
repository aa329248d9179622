"""This process as one of several: it says that it lives and which peppers it has, and learns which one is active.

Once a second, off the event loop, `beat` looks whether the pepper file is another one, and writes this replica's row.
What it reads with that decides which ring the process goes by. A file that is damaged or wrong changes nothing: it is
logged, and the ring in use stays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import structlog

from doorward_server.core.model import SECOND, Instant
from doorward_server.core.verify import KnownPepper, PepperState
from doorward_server.service.guard import Clock
from doorward_server.service.peppers import Keyring, PepperProblem, Ring, read_ring, vouched
from doorward_server.store import Replica, Store

BEAT_SECONDS = 1.0
DEAD_AFTER = 10 * SECOND
"""A replica that was not seen for so long does not count as one."""
_FORGOTTEN_AFTER = 3600 * SECOND
log = structlog.get_logger("doorward")
Fingerprint = tuple[int, ...]


class Membership:
    """This process among the replicas. Blocking; one thread at a time."""

    def __init__(self, store: Store, keyring: Keyring, path: Path, clock: Clock, id: str) -> None:
        self.id = id
        self._store = store
        self._keyring = keyring
        self._path = path
        self._clock = clock
        self._started_at = clock()
        self._file = keyring.current
        self._seen: Fingerprint = ()
        self._states: dict[int, PepperState] = {}
        self._complaint = ""

    def enter(self) -> None:
        """Register, before anything is served. Raises PepperProblem if the store's active pepper is not here."""
        known = self._write()
        try:
            self._go_by(self._look() or self._file, known)
        except PepperProblem:
            self.leave()
            raise
        self._write()

    def beat(self) -> None:
        """Look at the file, say what is here, go by what the store says. Raises StoreUnavailable."""
        before, known = self._keyring.current, self._write()
        complaint = self._follow(known)
        if complaint and complaint != self._complaint:
            log.error("a change of the peppers is not followed; those in use stay", why=complaint)
        self._complaint = complaint
        if self._keyring.current is not before:
            self._write()  # whoever waits for the change need not wait for the next beat

    def _follow(self, known: Sequence[KnownPepper]) -> str:
        """Go by the file if it is another one, or else by the one before if the store changed; say what is wrong."""
        complaint = ""
        try:
            if (file := self._look()) is not None:
                self._go_by(file, known)
        except PepperProblem as problem:
            complaint, self._seen = str(problem), ()  # and look at it again next time
        try:
            if {it.version: it.state for it in known} != self._states:
                self._go_by(self._file, known)
        except PepperProblem as problem:
            complaint = complaint or str(problem)
        return complaint

    def leave(self) -> None:
        """Stop being one of them. Raises StoreUnavailable: then the others wait until it counts as dead."""
        self._store.peppers.remove_replica(self.id)

    def _look(self) -> Ring | None:
        """Return what is in the file if it is another one than last time. Raises PepperProblem."""
        seen = _fingerprint(self._path)
        if seen == self._seen:
            return None
        ring = read_ring(self._path)
        if ring is None or not _only_adds(self._keyring.current, ring):
            raise PepperProblem(f"The pepper file {self._path} is gone, or has lost or changed keys that are in use.")
        self._seen = seen
        return ring

    def _write(self) -> list[KnownPepper]:
        now = self._clock()
        has = self._keyring.current.peppers.versions
        peppers = {version: self._states.get(version, PepperState.ADDED) for version in has}
        replica = Replica(self.id, self._started_at, now, peppers)
        return self._store.peppers.beat(replica, now - _FORGOTTEN_AFTER)

    def _go_by(self, file: Ring, known: Sequence[KnownPepper]) -> None:
        before = self._keyring.current.peppers
        self._keyring.current = ring = vouched(self._store, file, known, self._path)
        self._file, self._states = file, {it.version: it.state for it in known}
        if before.active != ring.peppers.active or before.versions.keys() != ring.peppers.versions.keys():
            log.info("peppers changed", active=ring.peppers.active, versions=sorted(ring.peppers.versions))


def is_alive(replica: Replica, now: Instant) -> bool:
    """Tell whether *replica* was seen lately."""
    return now - replica.seen_at < DEAD_AFTER


def _fingerprint(path: Path) -> Fingerprint:
    try:
        it = os.stat(path)
    except OSError:
        return ()
    return it.st_ino, it.st_mtime_ns, it.st_ctime_ns, it.st_size


def _only_adds(old: Ring, new: Ring) -> bool:
    """Tell whether *new* has all that *old* has: others may count on it that this replica does.

    Retired peppers may go, if nothing needs them; whether peppers are the same ones, their canaries tell.
    """
    kept = (old.peppers.versions.keys() - old.peppers.retired) <= new.peppers.versions.keys()
    return (
        kept
        and old.lookup == new.lookup
        and all(
            after.keys.get(version) == key
            for before, after in ((old.recovery, new.recovery), (old.signing, new.signing))
            for version, key in before.keys.items()
        )
    )
