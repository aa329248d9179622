"""What is done to a fleet, and what must hold afterwards whatever the moment: each returns what does not."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from random import Random

from tests.chaos.history import boottime
from tests.limits_proof.checker import UNANSWERED, Call, Limit, check, outcomes, units
from tests.limits_proof.fleet import READ, WRITE, Caller, Crowd, Fleet

PATIENCE = 60.0
"""Seconds: a bound for what hangs, not an expectation."""
SECOND = 1_000_000_000


@dataclass
class Report:
    """What came of one scenario."""

    wrong: list[str]
    """What does not hold; nothing, if all is well."""
    calls: list[Call] = field(repr=False)
    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many calls had which outcome."""
        return dict(outcomes(self.calls))


@dataclass(frozen=True)
class Enough:
    """How much must have happened before it is any proof."""

    admitted: int
    refused: int
    faults: int = 0

    def lacks(self, calls: list[Call], faults: int) -> bool:
        """Tell whether it is not yet so much."""
        counted = outcomes(list(calls))
        refused = sum(count for reason, count in counted.items() if reason in ("RATE_LIMITED", "QUOTA_EXCEEDED"))
        return units(list(calls)) < self.admitted or refused < self.refused or faults < self.faults


class Faults:
    """Strikes any of the servers at any moment: kill -9 and a new start, or a stop for up to a second."""

    def __init__(self, fleet: Fleet, seed: int, pause: float) -> None:
        self._fleet = fleet
        self._dice = Random(seed)
        self._pause = pause
        self.done: dict[str, int] = {"kill": 0, "stop": 0}

    def strike(self) -> None:
        """Wait for a moment, and strike one."""
        time.sleep(self._dice.random() * self._pause)
        seat = self._dice.choice(self._fleet.seats)
        if self.done["stop"] < self.done["kill"]:
            seat.process.popen.send_signal(signal.SIGSTOP)
            time.sleep(self._dice.random())
            seat.process.popen.send_signal(signal.SIGCONT)
            self.done["stop"] += 1
        else:
            seat.kill()
            seat.start()
            self.done["kill"] += 1


def sliding(fleet: Fleet, enough: Enough, seed: int, patience: float = PATIENCE) -> Report:
    """Callers everywhere, in bursts, on a limit for each second and one for two: no interval has more than they say."""
    limits = [Limit("second", 40, SECOND), Limit("two", 60, 2 * SECOND)]
    held = fleet.key(_limits(**{it.name: f"limit: {it.units}, window: {it.window // SECOND}s" for it in limits}))
    crowd, faults = Crowd(fleet, held, 3), Faults(fleet, seed, 0.5)
    began = time.monotonic()
    crowd.ask_on(seed, (1, 1, 1, 2, 5))
    while enough.lacks(crowd.calls, sum(faults.done.values())) and time.monotonic() < began + patience:
        if sum(faults.done.values()) < enough.faults:
            faults.strike()
        else:
            time.sleep(0.05)
    crowd.close()
    wrong = [str(it) for it in check(crowd.calls, limits)]
    if enough.lacks(crowd.calls, sum(faults.done.values())):
        wrong.append(f"too little happened: {outcomes(crowd.calls)}, {faults.done}")
    return Report(wrong, crowd.calls, time.monotonic() - began, faults.done)


def drains(fleet: Fleet, most: int = 200, reads: int = 60) -> Report:
    """All is drawn out of a limit and a narrower one, at all servers at once: the last unit is there, and no more.

    Their window is so long that no cell ends meanwhile. So nothing that is leased is lost, and what was refused by one
    window costs nothing in the other: else the last units would be missing.
    """
    held = fleet.key(
        _limits(all=f"limit: {most}, window: 360d", reads=f"limit: {reads}, window: 360d, actions: ['{READ}']")
    )
    crowd = Crowd(fleet, held, 3)
    began = time.monotonic()
    crowd.drain(3, 1, action=READ, refusals=5)
    crowd.drain(7, 2, 1, action=WRITE)
    crowd.close()
    got = {action: units(it for it in crowd.calls if it.action == action) for action in (READ, WRITE)}
    wrong = []
    if got != {READ: reads, WRITE: most - reads}:
        wrong.append(f"got {got} of {reads} and {most - reads} units")
    return Report(wrong, crowd.calls, time.monotonic() - began)


def edges(fleet: Fleet, window: int) -> Report:
    """Calls where cells meet, at one server: the tail of one window and the head of the next must not add up.

    *window* is in seconds. Some units are leased and left in one cell, all others are drawn out late in the next, and
    what comes back after that early in the eleventh: all within one window, if the machine is not too busy.
    """
    limit = Limit("edgy", 1_000, window * SECOND)
    held = fleet.key(_limits(edgy=f"limit: {limit.units}, window: {window}s"))
    calls: list[Call] = []
    caller = Caller(fleet.seats[0], held, calls)
    began = time.monotonic()
    caller.ask()
    cell = limit.window // 10
    first = time.time_ns() // cell + 1
    _wait_until(first * cell + cell // 10)
    for cost in (100, 100, 2):
        caller.ask(cost)
    for at in ((first + 1) * cell + cell * 6 // 10, (first + 11) * cell + cell // 20):
        _wait_until(at)
        caller.drain(90, 500, 100, 50, 10, 5, 1)
    caller.close()
    return Report([str(it) for it in check(calls, [limit])], calls, time.monotonic() - began)


def killed(fleet: Fleet, seed: int, most: int = 400) -> Report:
    """All is drawn out of a limit while one server after the other is killed: a kill costs what that one had leased.

    That is less than a lease of one in eight of the limit and a call; and calls that were not answered may be charged.
    """
    crowd, seconds = _drawn_out(fleet, _limits(all=f"limit: {most}, window: 360d"), seed, most)
    lost = len(fleet.seats) * (most // 8 + 1) + units(crowd.calls, UNANSWERED)
    return _all_but(lost, most, crowd, seconds, len(fleet.seats))


def pays(fleet: Fleet, most: int = 200) -> Report:
    """All credits are used up at all servers at once: each is there for one call, and for no other."""
    crowd, began = Crowd(fleet, fleet.key(f"credits: {{initial: {most}}}"), 3), time.monotonic()
    crowd.drain(7, 3, 1)
    crowd.close()
    return _all_but(0, most, crowd, time.monotonic() - began)


def pays_killed(fleet: Fleet, seed: int, most: int = 300) -> Report:
    """All credits are used up while one server after the other is killed: only calls without an answer may be lost."""
    crowd, seconds = _drawn_out(fleet, f"credits: {{initial: {most}}}", seed, most)
    return _all_but(units(crowd.calls, UNANSWERED), most, crowd, seconds, len(fleet.seats))


def comes_back(fleet: Fleet, seconds: float = 4.0) -> Report:
    """Credits that come back each second are used up as they come, at all servers: each comes once, whoever looks."""
    initial, amount = 20, 10
    held = fleet.key(f"credits: {{initial: {initial}, refill: {{amount: {amount}, period: 1s}}}}")
    crowd, began = Crowd(fleet, held, 3), boottime()
    crowd.ask_on(0, (1,), 0)
    time.sleep(seconds)
    least = initial + amount * (int(seconds) - 1)
    _until_admitted(crowd.calls, least)  # on a machine that stalls, the last may still be on their way
    crowd.close()
    most = initial + amount * ((boottime() - began) // SECOND)
    got = units(crowd.calls)
    wrong = [] if least <= got <= most else [f"got {got} of {least} to {most} credits"]
    return Report(wrong, crowd.calls, (boottime() - began) / SECOND)


def _drawn_out(fleet: Fleet, more: str, seed: int, most: int) -> tuple[Crowd, float]:
    """Have all of *most* units be drawn out while one server after the other is killed; return also the seconds."""
    crowd = Crowd(fleet, fleet.key(more), 3)
    began, dice = time.monotonic(), Random(seed)
    crowd.begin_to_drain(1)
    starting = []
    for number, seat in enumerate(fleet.seats, 1):
        _until_admitted(crowd.calls, number * most // (len(fleet.seats) + 1))
        time.sleep(dice.random() / 50)
        seat.kill()
        starting.append(threading.Thread(target=seat.start))
        starting[-1].start()
    for it in starting:
        it.join()
    crowd.close()
    return crowd, time.monotonic() - began


def _all_but(lost: int, most: int, crowd: Crowd, seconds: float, kills: int = 0) -> Report:
    """Return what does not hold, if all of *most* units were let through but for *lost*, which may be."""
    got = units(crowd.calls)
    wrong = [] if most - lost <= got <= most else [f"got {got} of {most} units, of which {lost} may be lost"]
    return Report(wrong, crowd.calls, seconds, {"kill": kills})


def _until_admitted(calls: list[Call], wanted: int) -> None:
    end = time.monotonic() + PATIENCE
    while units(list(calls)) < wanted and time.monotonic() < end:
        time.sleep(0.001)


def full_load(fleet: Fleet, amount: int, window: int, seconds: float) -> tuple[Report, float]:
    """Ask as fast as it goes, and return also which part of the limit was let through: over whole turns of it.

    A limit that is always used up is so in turns of eleven cells.
    """
    limit = Limit("full", amount, window * SECOND)
    crowd = Crowd(fleet, fleet.key(_limits(full=f"limit: {amount}, window: {window}s")), 3)
    turn = 1.1 * window
    turns = max(2, int(seconds / turn))
    began = boottime()
    crowd.ask_on(0, (1,), 0)
    time.sleep(turn * (turns + 1.5))
    crowd.close()
    first, last = began + turn * SECOND, began + turn * (turns + 1) * SECOND
    through = units(it for it in crowd.calls if first <= it.sent < last)
    report = Report([str(it) for it in check(crowd.calls, [limit])], crowd.calls, turn * (turns + 1.5))
    return report, through * window / (amount * turn * turns)


def _limits(**windows: str) -> str:
    return "limits: {windows: {" + ", ".join(f"{name}: {{{it}}}" for name, it in windows.items()) + "}}"


def _wait_until(moment: int) -> None:
    while (left := moment - time.time_ns()) > 0:
        time.sleep(left / SECOND)
