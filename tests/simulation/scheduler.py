"""Time, chance and processes of the simulation. One thread: the same seed gives the same run, event by event."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from dataclasses import dataclass
from random import Random
from typing import Any

MS = 1_000_000
SECOND = 1000 * MS
FASTEST = 5000
"""Parts per million by which a boot clock may run fast or slow."""

Do = Callable[[], None]


class Scheduler:
    """Runs what is due, in the order of time, then of asking. Instants are nanoseconds of true time."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0
        self.events = 0
        self._due: list[tuple[int, int, Do]] = []
        self._asked = 0

    def after(self, delay: int, do: Do) -> None:
        """Run *do* when *delay* has passed."""
        self._asked += 1
        heapq.heappush(self._due, (self.now + delay, self._asked, do))

    def run_until(self, at: int) -> None:
        """Run all that is due before *at*, and let it be that time."""
        while self._due and self._due[0][0] < at:
            self.now, _, do = heapq.heappop(self._due)
            self.events += 1
            do()
        self.now = at

    def chance(self, probability: float) -> bool:
        """Roll the dice."""
        return self.random.random() < probability

    def between(self, least: int, most: int) -> int:
        """Return a duration, short ones more often than long ones."""
        return least + round((most - least) * self.random.random() ** 2)


@dataclass(frozen=True, slots=True)
class Remote:
    """Yielded by a task: *do* is done elsewhere after *there*, its result is back after another *back*."""

    do: Callable[[], Any]
    there: int
    back: int


class Broken(Exception):
    """What was asked of somebody else did not work out."""


class Gate:
    """Yielded by a task: it goes on when the gate is opened."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: list[Do] = []

    def open(self) -> None:
        """Let all go on."""
        self.is_open = True
        waiting, self._waiting = self._waiting, []
        for do in waiting:
            do()

    def wait(self, do: Do) -> None:
        """Do it when the gate is open."""
        if self.is_open:
            do()
        else:
            self._waiting.append(do)


Task = Generator[Any, Any, None]


class Process:
    """Something that has a boot clock of its own, may be stopped for a while, and may die."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.alive = True
        self._life = 0
        self._stopped = False
        self._backlog: list[Do] = []
        self._offset = scheduler.random.randrange(1, 10_000) * SECOND
        self._rate = scheduler.random.randint(-FASTEST, FASTEST)

    def clock(self) -> int:
        """Return the boot clock. It runs while the process is stopped."""
        now = self.scheduler.now
        return self._offset + now + now * self._rate // 1_000_000

    @property
    def life(self) -> int:
        """Which of its lives this is. What was begun in another one is dead."""
        return self._life

    def stop(self, duration: int) -> None:
        """SIGSTOP, and SIGCONT after *duration*."""
        if self.alive and not self._stopped:
            self._stopped = True
            self.scheduler.after(duration, self._go_on)

    def _go_on(self) -> None:
        self._stopped = False
        backlog, self._backlog = self._backlog, []
        for do in backlog:  # what had become due is due at once, in any order
            self.scheduler.after(self.scheduler.between(0, 3 * MS), do)

    def die(self) -> None:
        """Kill -9: nothing that it began goes on."""
        self._life += 1
        self.alive = False

    def rise(self) -> None:
        """Start again, as another life."""
        self._life += 1
        self.alive = True

    def later(self, delay: int, do: Do) -> None:
        """Do it after *delay*, unless the process has died by then, and not while it is stopped."""
        life = self._life

        def due() -> None:
            if not self.alive or self._life != life:
                return
            if self._stopped:
                self._backlog.append(due)
            else:
                do()

        self.scheduler.after(delay, due)

    def spawn(self, task: Task) -> None:
        """Run a task: a generator that yields durations to sleep, gates to wait for, and what others are to do."""
        self._step(task, None)

    def _step(self, task: Task, result: Any) -> None:
        try:
            wanted = task.throw(result) if isinstance(result, Broken) else task.send(result)
        except StopIteration:
            return
        if isinstance(wanted, int):
            self.later(wanted, lambda: self._step(task, None))
        elif isinstance(wanted, Gate):
            wanted.wait(lambda: self.later(0, lambda: self._step(task, None)))
        else:
            self._ask(task, wanted)

    def _ask(self, task: Task, remote: Remote) -> None:
        life = self._life

        def arrive() -> None:
            if not self.alive or self._life != life:
                return  # a connection that is gone: what was on its way is not done
            try:
                result: Any = remote.do()
            except Broken as broken:
                result = broken
            self.later(remote.back, lambda: self._step(task, result))

        self.scheduler.after(remote.there, arrive)
