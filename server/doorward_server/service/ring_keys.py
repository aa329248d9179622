"""New versions of the signing and the recovery key, in two steps, so that no replica meets a version that it lacks.

Add makes a version that nothing uses; once every replica has the file, activate makes what is new with it. Older
versions stay: old JWTs are in the JWKS, old texts can be revealed. Decisions use neither, so nothing waits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from doorward_server.core.model import Event
from doorward_server.core.verify import PEPPER_BYTES
from doorward_server.service.catalog import OPERATOR
from doorward_server.service.guard import Clock
from doorward_server.service.ids import Random
from doorward_server.service.peppers import PEPPER_COMMAND, PepperProblem, Ring, Versioned, read_ring, replace_ring
from doorward_server.service.rotation import RotationRefused
from doorward_server.store import Store


class Part(StrEnum):
    """Which keys of the pepper file."""

    SIGNING = "signing"
    RECOVERY = "recovery"


class RingKeys:
    """The two steps for one part. Every step is audited in the operator's chain, and may be run again."""

    def __init__(
        self, store: Store, path: Path, part: Part, clock: Clock, random: Random, say: Callable[[str], None]
    ) -> None:
        self._store = store
        self._path = path
        self._part = part
        self._clock = clock
        self._random = random
        self._say = say

    def add(self) -> None:
        """Put a new version into this host's file. A version that waits to be activated is not added to."""
        with self._store.lock():  # two that add at once would make two different keys of one version
            ring, versions = self._read()
            version = max(versions.keys)
            if version == versions.active:
                version += 1
                keys = {**versions.keys, version: self._random(PEPPER_BYTES)}
                self._write(ring, replace(versions, keys=keys), "add", version)
        self._say(
            f"Version {version} of the {self._part} key is in {self._path}. Nothing is made with it yet.\n"
            f"Next: copy the file to every replica, then: doorward-server {self._part} activate {version}"
        )

    def activate(self, version: int) -> None:
        """Make *version* the one for what is new. Raises RotationRefused if this host's file lacks it."""
        with self._store.lock():
            ring, versions = self._read()
            if version not in versions.keys:
                known = ", ".join(map(str, sorted(versions.keys)))
                raise RotationRefused(f"{self._path} has no version {version} of the {self._part} key, only {known}.")
            if version != versions.active:
                self._write(ring, replace(versions, active=version), "activate", version)
        self._say(
            f"What is new uses version {version} of the {self._part} key; older ones stay for what they made.\n"
            "Next: copy the file to every replica again. Running servers notice within seconds."
        )

    def _read(self) -> tuple[Ring, Versioned]:
        ring = read_ring(self._path)
        if ring is None:
            raise PepperProblem(f"The pepper file {self._path} is missing. Put it back first.")
        return ring, ring.signing if self._part is Part.SIGNING else ring.recovery

    def _write(self, ring: Ring, versions: Versioned, step: str, version: int) -> None:
        signing = self._part is Part.SIGNING
        replace_ring(self._path, replace(ring, signing=versions) if signing else replace(ring, recovery=versions))
        action, target = f"{self._part}:{step}", str(version)
        self._store.peppers.announce(Event(OPERATOR, self._clock(), PEPPER_COMMAND, action, self._part, target))
