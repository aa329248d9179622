"""This process as one of several: it says that it lives and which peppers it has, and learns which one is active.

Its row in the registry is also what mutations wait for: whatever it caches, it caches as the replica of that row. An id
is used once. Who finds that it is out registers under another one; a beat never brings a row back.

Once a second, off the event loop, `beat` looks whether the pepper file is another one, and writes this replica's row.
What it reads with that decides which ring the process goes by. A file that is damaged or wrong changes nothing: it is
logged, and the ring in use stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from doorward_server.core.model import SECOND, Instant
from doorward_server.core.verify import KnownPepper, PepperState
from doorward_server.service.guard import Clock
from doorward_server.service.peppers import Keyring, PepperProblem, Ring, read_ring, vouched
from doorward_server.store import Replica, Store

BEAT_SECONDS = 1.0
DEAD_AFTER = 10 * SECOND
"""A replica that was not seen for so long need not have a pepper. (What is in its caches has other rules.)"""
log = structlog.get_logger("doorward")
Fingerprint = tuple[int, ...]


class Membership:
    """This process among the replicas. Blocking; one thread at a time, but for `register`."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        path: Path,
        clock: Clock,
        make_id: Callable[[], str],
        serve_stale_for: int = 0,
    ) -> None:
        """*make_id* gives an id that never was in use; *serve_stale_for* is in microseconds."""
        self.id = ""
        """As of the last registration."""
        self.max_staleness = 0
        """Microseconds, as of the last registration."""
        self.serve_stale_for = serve_stale_for
        self._make_id = make_id
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
        known = self._register()
        try:
            self._go_by(self._look() or self._file, known)
        except PepperProblem:
            self.leave()
            raise
        self._write()

    def register(self) -> str:
        """Register anew, under another id, which is returned once it is committed; the one before is condemned.

        From any thread: the one that has found this replica out. Raises StoreUnavailable.
        """
        self._register()
        return self.id

    def _register(self) -> list[KnownPepper]:
        id, max_staleness = self._make_id(), self._store.replicas.max_staleness()
        replica = replace(self._describe(id), max_staleness=max_staleness, serve_stale_for=self.serve_stale_for)
        known = self._store.replicas.register(replica, former=self.id)
        self.id, self.max_staleness = id, max_staleness
        return known

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

    def leave(self, condemn: bool = False) -> None:
        """Stop being one of them, once nothing is answered from its caches any more.

        With *condemn*, others still wait for its clients' last leases, and then delete its row. Raises
        StoreUnavailable: then they find out by themselves that it is gone.
        """
        if condemn:
            self._store.replicas.condemn([self.id])
        else:
            self._store.replicas.delete([self.id])

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
        return self._store.replicas.beat(self._describe(self.id))

    def _describe(self, id: str) -> Replica:
        has = self._keyring.current.peppers.versions
        states = {version: self._states.get(version, PepperState.ADDED) for version in has}
        return Replica(id, self._started_at, self._clock(), states)

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
