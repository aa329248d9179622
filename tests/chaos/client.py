"""A backend that asks all the time, of any replica, and writes down what it is told. A program of a chaos run.

It prefers texts that were changed a moment ago: what is stale is stale there.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import grpc

from tests.chaos.actors import Api, connect, first_order, in_background, orders, question, reason, tell
from tests.chaos.history import DEFAULT, FULL, Recorder, boottime

TIMEOUTS = (0.5, 0.5, 0.5, 0.5, 4.0)
"""Seconds. Most do not wait for a replica that is stopped; some do, so that it has something to answer afterwards."""
REMEMBERED = 30
"""Texts that it goes on asking about after they were retired, so that nothing rises from the dead unseen."""
ONCE_A_SECOND = 1.0


class Asking:
    """What to ask about, as the run says it; asked from the main thread, told by another one."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._known: dict[str, tuple[str, str]] = {}
        self._retired: deque[str] = deque(maxlen=REMEMBERED)
        self._hot: deque[str] = deque(maxlen=12)
        self.stopping = threading.Event()

    def listen(self) -> None:
        """Follow the orders until they end."""
        for order in orders():
            if "credential" in order:
                self._known[order["credential"]] = (order["text"], order["keyspace"])
            self._hot.extend(order.get("hot", ()))
            for id in order.get("retire", ()):
                self._retired.append(id)
            if "retire" in order:
                gone = set(order["retire"])
                keep = set(self._retired)
                self._known = {id: it for id, it in self._known.items() if id not in gone or id in keep}
        self.stopping.set()

    def next(self) -> tuple[str, str, str] | None:
        """Return the id, the text and the keyspace to ask about; None if there is none yet."""
        known, hot = self._known, list(self._hot)
        if not known:
            return None
        if hot and self._dice.random() < 0.7 and (it := known.get(id := self._dice.choice(hot))):
            return id, *it
        id = self._dice.choice(list(known))
        return id, *known[id]


def ask(api: Api, it: tuple[str, str, str], consistency: str, timeout: float, recorder: Recorder) -> bool:
    """Ask one question and write down the answer; tell whether there was one."""
    id, text, keyspace = it
    request = question(text, keyspace, consistency)
    start = boottime()
    try:
        answer = api.call("authz", "Authorize", request, timeout)
    except grpc.RpcError:
        recorder.unanswered()
        return False
    recorder.question(id, start, boottime(), reason(answer), api.place, consistency)
    return True


def main() -> None:
    """Ask until told to stop."""
    told: dict[str, Any] = first_order()
    dice = random.Random(told["seed"])
    recorder = Recorder(Path(told["history"]), told["name"])
    asking = Asking(dice)
    in_background(asking.listen)
    apis = connect(told["targets"], told["key"])
    asked, said_at = 0, time.monotonic()
    while not asking.stopping.is_set():
        if (it := asking.next()) is None:
            asking.stopping.wait(0.05)
            continue
        consistency = FULL if told["full"] and dice.random() < 0.1 else DEFAULT
        answered = ask(dice.choice(apis), it, consistency, dice.choice(TIMEOUTS), recorder)
        asked += answered
        if time.monotonic() - said_at > ONCE_A_SECOND:
            said_at = time.monotonic()
            tell(asked=asked)
        asking.stopping.wait(dice.random() * told["pace"] if answered else 0.02)
    recorder.close()
    tell(asked=asked)


if __name__ == "__main__":
    main()
