"""What goes wrong in a run: two things at a time, each on a replica of its own, dealt from a shuffled deck.

Every kind comes before any comes again, so that a short run has had them all.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from tests.chaos.fleet import ROOT, Program, Replica
from tests.chaos.stores import Database, Postgresql

Fault = Callable[[Replica], None]
LANES = 2
CALLERS, DATABASE = "callers", "database"
"""What the name of a link begins with; the replica's name follows."""


class Faults:
    """Strikes until told to stop; *only* with some kinds, if given. `counts` says how often what was done."""

    def __init__(
        self, replicas: Sequence[Replica], database: Database, proxy: Program, seed: int, only: Sequence[str] = ()
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []
        self._replicas = replicas
        self._database = database
        self._proxy = proxy
        self._dice = random.Random(seed)
        self._only = only
        self._deck: list[tuple[str, Fault]] = []
        self._dealing = threading.Lock()
        self._stopping = threading.Event()
        lanes = 1 if only else LANES
        self._threads = [threading.Thread(target=self._strike, daemon=True) for _ in range(lanes)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let what goes on come to its end; everything runs again afterwards."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _strike(self) -> None:
        while not self._stopping.wait(self._dice.uniform(0.2, 1.5)):
            name, fault, replica = self._deal()
            try:
                fault(replica)
                self.counts[name] += 1
            except Exception as error:  # noqa: BLE001  # whatever it is, the run must hear of it
                self.failed.append(f"{name} on {replica.name}: {type(error).__name__}: {error}")
                return
            finally:
                replica.busy.release()

    def _deal(self) -> tuple[str, Fault, Replica]:
        with self._dealing:
            if not self._deck:
                self._deck = [it for it in self._kinds().items() if not self._only or it[0] in self._only]
                self._dice.shuffle(self._deck)
            name, fault = self._deck.pop()
            while True:
                for replica in self._dice.sample(self._replicas, len(self._replicas)):
                    if replica.busy.acquire(blocking=False):
                        return name, fault, replica

    def _kinds(self) -> dict[str, Fault]:
        kinds: dict[str, Fault] = {
            "stopped for a moment": lambda it: self._pause(it, 0.1, 0.8),
            "stopped for longer than L": lambda it: self._pause(it, 1.5, 3.0),
            "stopped just as it was asked": lambda it: self._pause(it, 0.01, 0.1),
            "killed and started": self._kill,
            "left and came": self._leave,
            **self._spoilt(CALLERS),
        }
        if isinstance(self._database, Postgresql):
            kinds |= self._spoilt(DATABASE)
            kinds["database restarted"] = lambda _: self._restart("fast")
            kinds["database crashed"] = lambda _: self._restart("immediate")
        else:
            kinds["write lock held"] = lambda _: self._lock(0.3, 2.0)
            kinds["write lock held for longer than anybody waits"] = lambda _: self._lock(5.0, 6.0)
        return kinds

    def _spoilt(self, side: str) -> dict[str, Fault]:
        return {
            f"{side}: delayed": lambda it: self._spoil(it, side, "delay", 0.5, 2.0),
            f"{side}: stalled": lambda it: self._spoil(it, side, "stall", 0.3, 2.5),
            f"{side}: half-open": lambda it: self._spoil(it, side, "hold", 0.5, 2.5),
            f"{side}: answers dropped": lambda it: self._spoil(it, side, "deaf", 0.3, 2.0),
            f"{side}: cut": lambda it: self._spoil(it, side, "cut", 0.1, 1.5),
        }

    # --- each -----------------------------------------------------------------------------------------------------

    def _between(self, shortest: float, longest: float) -> None:
        self._stopping.wait(self._dice.uniform(shortest, longest))

    def _pause(self, replica: Replica, shortest: float, longest: float) -> None:
        replica.send(signal.SIGSTOP)
        self._between(shortest, longest)
        replica.send(signal.SIGCONT)

    def _kill(self, replica: Replica) -> None:
        replica.stop(signal.SIGKILL)
        self._between(0.0, 1.5)
        replica.keep_starting()

    def _leave(self, replica: Replica) -> None:
        replica.stop()
        self._between(0.0, 1.0)
        replica.keep_starting()

    def _spoil(self, replica: Replica, side: str, mode: str, shortest: float, longest: float) -> None:
        link = f"{side} {replica.name}"
        self._proxy.tell({"link": link, "mode": mode, "seconds": self._dice.uniform(0.02, 0.3)})
        self._between(shortest, longest)
        self._proxy.tell({"link": link, "mode": "pass"})

    def _restart(self, how: str) -> None:
        assert isinstance(self._database, Postgresql)
        self._database.restart(how)

    def _lock(self, shortest: float, longest: float) -> None:
        seconds = self._dice.uniform(shortest, longest)
        command = [sys.executable, "-m", "tests.chaos.lock", self._database.url, str(seconds)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
