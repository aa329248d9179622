"""Changing the pepper of a Doorward that is in use: add, activate, rewrap, retire. No proof fails meanwhile.

Each step is one decision, made in one transaction in which no replica can come or learn anything; each may be killed
anywhere and run again. Why it is safe, and against whom, is told in docs/decisions/0008-pepper-rotation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from doorward_server.core.model import Event
from doorward_server.core.verify import PEPPER_BYTES, KnownPepper, Peppers, PepperState
from doorward_server.service.catalog import OPERATOR
from doorward_server.service.guard import Clock
from doorward_server.service.ids import Random
from doorward_server.service.peppers import Keyring, PepperProblem, Ring, pepper_event, read_ring, replace_ring
from doorward_server.service.replica import is_alive
from doorward_server.store import Replica, Store

Say = Callable[[str], None]
"""Shows a line to whoever runs the command."""
Pause = Callable[[float], None]
_Change = tuple[dict[int, PepperState], Event] | None
CHUNK = 1000
_LOOKS = 20
_PAUSE_SECONDS = 0.25


class RotationRefused(Exception):
    """A step must not be made now; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """The steps, on the host whose pepper file *path* is."""

    store: Store
    keyring: Keyring
    path: Path
    clock: Clock
    random: Random
    say: Say
    pause: Pause

    def add(self) -> None:
        """Make a new pepper in this host's file, and its canary in the store. Raises RotationRefused."""
        with self.store.lock():  # two that add at once would make two different peppers of one version
            file, known = self._file(), {it.version: it for it in self.store.peppers.list_all()}
            waiting = [it.version for it in known.values() if it.state is PepperState.ADDED]
            for version in waiting:
                self._say_waiting(version, file)
            if not waiting:
                self._add(file, max(known.keys() | file.peppers.versions.keys()) + 1)

    def _say_waiting(self, version: int, file: Ring) -> None:
        if version not in file.peppers.versions:
            raise RotationRefused(
                f"Version {version} was added on another host, and the pepper file {self.path} lacks it.\n"
                f"Copy the file from that host. If it is lost: doorward-server pepper retire {version}, then add again."
            )
        self.say(f"Version {version} is already added, and not yet active. Nothing was changed.")
        self.say(_after_add(self.path, version))

    def _add(self, file: Ring, version: int) -> None:
        versions = {**file.peppers.versions, version: self.random(PEPPER_BYTES)}
        peppers = Peppers(versions, version, file.peppers.retired)
        replace_ring(self.path, replace(file, peppers=peppers))
        canary = KnownPepper(version, peppers.canary(version), PepperState.ADDED)
        self.store.peppers.add(canary, pepper_event("peppers:add", str(version), self.clock()))
        self.say(f"Version {version} is in {self.path}. Nothing is made with it yet.")
        self.say(_after_add(self.path, version))

    def activate(self, version: int) -> None:
        """Have new secrets made with *version*, which every live replica must have. Raises RotationRefused."""
        if version not in self.keyring.current.peppers.versions:
            raise RotationRefused(
                f"The pepper file {self.path} on this host lacks version {version}. Copy it here first."
            )
        if self.store.peppers.update(OPERATOR, lambda *now: self._activated(version, *now)).value:
            self.say(f"Version {version} is active: new secrets are made with it.")
        else:
            self.say(f"Version {version} was active already. Nothing was changed.")
        self._settle(version, PepperState.ACTIVE)
        self.say("Next: doorward-server pepper rewrap")

    def _activated(self, version: int, known: Sequence[KnownPepper], replicas: Sequence[Replica], _: object) -> _Change:
        state = _state(known, version)
        if state is PepperState.ACTIVE:
            return None
        if state is not PepperState.ADDED:
            raise RotationRefused(f"Version {version} is {state}: a pepper does not come back. Make a new one: add.")
        self._refuse_while_lacking(version, replicas)
        old = next(it.version for it in known if it.state is PepperState.ACTIVE)
        event = pepper_event("peppers:activate", str(version), self.clock(), {"active": old}, {"active": version})
        return {old: PepperState.REPLACED, version: PepperState.ACTIVE}, event

    def rewrap(self, include_retired: bool = False) -> None:
        """Put every secret under the active version. *include_retired*: also those that nothing proves any more.

        Raises RotationRefused.
        """
        active, others = self._outermost(include_retired)
        counts = {version: self.store.peppers.count_under(version) for version in others}
        counts = {version: count for version, count in counts.items() if count}
        total = sum(counts.values())
        if counts:
            what = {"from": sorted(counts), "to": active, "count": total}
            self.store.peppers.announce(pepper_event("peppers:rewrap", str(active), self.clock(), None, what))
            self.say(f"Re-wrapping {total:,} secrets under version {active}.")
        done = 0
        for version in counts:
            for changed in self._rewrapped(version, active):
                done += changed
                self.say(f"{done:,} of {total:,} done.")
        self._say_rewrapped(active, done)

    def _outermost(self, include_retired: bool) -> tuple[int, list[int]]:
        """Return the active version and the others that secrets may be under."""
        known = self.store.peppers.list_all()
        active = next(it.version for it in known if it.state is PepperState.ACTIVE)
        self._refuse_while_lacking(active, self.store.replicas.list_all())
        if active not in self.keyring.current.peppers.versions:
            raise RotationRefused(
                f"The pepper file {self.path} on this host lacks version {active}. Copy it here first."
            )
        skipped = {PepperState.ACTIVE} if include_retired else {PepperState.ACTIVE, PepperState.RETIRED}
        return active, [it.version for it in known if it.state not in skipped]

    def _rewrapped(self, version: int, active: int) -> Iterable[int]:
        """Re-wrap all that is under *version*, chunk by chunk; yield how many of a chunk were still the same."""
        peppers = replace(self.keyring.current.peppers, active=active)
        while held := self.store.peppers.list_under(version, CHUNK):
            if self._outermost(include_retired=True)[0] != active:
                raise RotationRefused("Another version became active meanwhile. Run rewrap again.")
            yield self.store.peppers.replace([(it, peppers.rewrapped(it.verifier)) for it in held]).value

    def _say_rewrapped(self, active: int, done: int) -> None:
        known = self.store.peppers.list_all()
        self.say(f"Every secret is under version {active} now." if done else "There was nothing to re-wrap.")
        for it in known:
            if it.state is PepperState.RETIRED and (left := self.store.peppers.count_under(it.version)):
                self.say(
                    f"But {left:,} secrets are under version {it.version}, which is retired: nothing proves them. "
                    "Either a backup was restored,\nor somebody who has that pepper wrote them. Only after a restore:\n"
                    "  doorward-server pepper rewrap --retired"
                )
        for it in known:
            if it.state is PepperState.REPLACED:
                self.say(f"Next: doorward-server pepper retire {it.version}")

    def retire(self, version: int) -> None:
        """Have *version* prove nothing by itself any more: in the store, then in this host's file.

        Raises RotationRefused while any secret is under it, or any live replica might make one.
        """
        if self.store.peppers.update(OPERATOR, lambda *now: self._retired(version, *now)).value:
            self.say(f"Version {version} is retired: nothing is proved by it alone.")
        else:
            self.say(f"Version {version} was retired already.")
        with self.store.lock():
            file = self._file()
            peppers, retired = file.peppers, file.peppers.retired | {version}
            if version in peppers.versions and retired != peppers.retired:
                first = max(peppers.versions.keys() - retired)  # what an empty store would begin with
                peppers = replace(peppers, active=first, retired=retired)
                replace_ring(self.path, replace(file, peppers=peppers))
        self._settle(version, PepperState.RETIRED)
        self.say(
            f"Next: copy {self.path} to every replica, and into your secret store. It says that version {version} is\n"
            "retired, so that nobody can undo it in the database. The version stays in the file: re-wrapped secrets\n"
            "and older audit events need it."
        )

    def _retired(
        self, version: int, known: Sequence[KnownPepper], replicas: Sequence[Replica], count: Callable[[int], int]
    ) -> _Change:
        state = _state(known, version)
        if state is PepperState.RETIRED:
            return None
        if state is PepperState.ACTIVE:
            raise RotationRefused(f"Version {version} is active. Make, distribute and activate another one first: add.")
        if left := count(version):
            raise RotationRefused(
                f"{left:,} secrets are proved by version {version} alone.\nRun: doorward-server pepper rewrap"
            )
        active = next(it.version for it in known if it.state is PepperState.ACTIVE)
        behind = [it.id for it in self._alive(replicas) if it.peppers.get(active) is not PepperState.ACTIVE]
        if behind:
            raise RotationRefused(
                f"These replicas do not make new secrets with version {active} yet: {', '.join(behind)}.\n"
                "They learn it within a second or two. If it takes longer, look into their logs, or stop them."
            )
        event = pepper_event(
            "peppers:retire", str(version), self.clock(), {"state": state}, {"state": PepperState.RETIRED}
        )
        return {version: PepperState.RETIRED}, event

    # --- replicas -----------------------------------------------------------------------------------------------------

    def _alive(self, replicas: Sequence[Replica]) -> list[Replica]:
        now = self.clock()
        return [it for it in replicas if is_alive(it, now)]

    def _refuse_while_lacking(self, version: int, replicas: Sequence[Replica]) -> None:
        lacking = [it.id for it in self._alive(replicas) if version not in it.peppers]
        if lacking:
            raise RotationRefused(
                f"These replicas lack version {version}: {', '.join(lacking)}.\nCopy {self.path} to their hosts, with "
                "mode 0600. They notice it within a second or two; no restart is needed."
            )

    def _settle(self, version: int, state: PepperState) -> None:
        """Wait a few seconds for the live replicas to go by it, and say who does not."""
        for _ in range(_LOOKS):
            alive = self._alive(self.store.replicas.list_all())
            behind = [it.id for it in alive if it.peppers.get(version, state) is not state]
            if not behind:
                self.say(f"All {len(alive)} live replicas go by it." if alive else "No replica is running.")
                return
            self.pause(_PAUSE_SECONDS)
        self.say(f"These replicas do not go by it yet: {', '.join(behind)}. Look into their logs, or stop them.")

    # --- status -------------------------------------------------------------------------------------------------------

    def status(self) -> None:
        """Say which versions there are, what is under them, who has them, and what to do next."""
        known, file = self.store.peppers.list_all(), self._file().peppers
        self.say(f"{'version':<9}{'state':<10}{'secrets':>12}  in {self.path}")
        for it in known:
            here = "no" if it.version not in file.versions else "as retired" if it.version in file.retired else "yes"
            self.say(f"{it.version:<9}{it.state:<10}{self.store.peppers.count_under(it.version):>12,}  {here}")
        now = self.clock()
        for replica in self.store.replicas.list_all():
            has = ", ".join(f"{version} {state.lower()}" for version, state in sorted(replica.peppers.items()))
            alive = "alive" if is_alive(replica, now) else "dead"
            self.say(f"{replica.id} ({alive}, seen {(now - replica.seen_at) / 1_000_000:.0f} s ago) has {has}")
        self.say(self._next(known))

    def _next(self, known: Sequence[KnownPepper]) -> str:
        for it in known:
            if it.state is PepperState.ADDED:
                return _after_add(self.path, it.version)
        for it in known:
            if it.state is PepperState.REPLACED:
                step = "rewrap" if self.store.peppers.count_under(it.version) else f"retire {it.version}"
                return f"Next: doorward-server pepper {step}"
        return "No rotation is under way. To begin one: doorward-server pepper add"

    def _file(self) -> Ring:
        ring = read_ring(self.path)
        if ring is None:
            raise PepperProblem(f"The pepper file {self.path} is gone. Put back the file that all replicas have.")
        return ring


def _state(known: Sequence[KnownPepper], version: int) -> PepperState:
    for it in known:
        if it.version == version:
            return it.state
    raise RotationRefused(f"There is no version {version}. Look at: doorward-server pepper status")


def _after_add(path: Path, version: int) -> str:
    return (
        f"Next: copy {path} to every replica, with mode 0600, and into your secret store; running servers notice it.\n"
        f"Then: doorward-server pepper activate {version}"
    )
