"""A backend that asks all the time, of any replica, and writes down what it is told. A program of a chaos run.

Some have a cache of decisions: the client library's, over several connections that lead to all replicas.

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

from doorward import CallFailed, Client
from tests.chaos.actors import Api, connect, first_order, in_background, orders, question, reason, tell
from tests.chaos.history import DEFAULT, FULL, Recorder, boottime
from tests.chaos.plants import PLANTS

TIMEOUTS = (0.5, 0.5, 0.5, 0.5, 4.0)
"""Seconds. Most do not wait for a replica that is stopped; some do, so that it has something to answer afterwards."""
REMEMBERED = 30
"""Texts that it goes on asking about after they were retired, so that nothing rises from the dead unseen."""
ONCE_A_SECOND = 1.0
CHANNELS = 2
OFTEN_REOPENED = 0.003
"""Of the questions to a client with a cache, so many break its stream off first."""


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


class Door:
    """All replicas, asked by themselves."""

    hits = 0

    def __init__(self, targets: list[tuple[str, int]], key: str, dice: random.Random) -> None:
        self._apis = connect(targets, key)
        self._dice = dice

    def ask(self, it: tuple[str, str, str], consistency: str, timeout: float, recorder: Recorder) -> bool:
        """Ask one question and write down the answer; tell whether there was one."""
        return ask(self._dice.choice(self._apis), it, consistency, timeout, recorder)


class CachingDoor:
    """The client library with a cache. It asks whichever replica comes next."""

    def __init__(self, targets: list[tuple[str, int]], key: str, dice: random.Random) -> None:
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for _, port in targets)
        self._client = Client(target, key, insecure=True, channels=CHANNELS, cache=1000)
        self._dice = dice

    @property
    def hits(self) -> int:
        """How often it answered from memory."""
        info = self._client.cache_info()
        return info.hits if info is not None else 0

    def ask(self, it: tuple[str, str, str], consistency: str, timeout: float, recorder: Recorder) -> bool:
        """As `Door`."""
        id, text, keyspace = it
        if self._dice.random() < OFTEN_REOPENED:
            self._reopen()
        start = boottime()
        try:
            decision = self._client.authorize(
                text,
                keyspace=keyspace,
                action="things:read",
                resource="things/1",
                consistency="full" if consistency == FULL else None,
                timeout=timeout,
            )
        except CallFailed:
            recorder.unanswered()
            return False
        recorder.question(id, start, boottime(), str(decision.reason), "cache", consistency)
        return True

    def _reopen(self) -> None:
        keeper: Any = self._client._cached._keeper  # type: ignore[union-attr]  # it has one
        if keeper._call is not None:
            keeper._call.cancel()


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
    if told["plant"]:
        PLANTS[told["plant"]].plant()
    door = (CachingDoor if told["cache"] else Door)(told["targets"], told["key"], dice)
    asked, said_at = 0, time.monotonic()
    while not asking.stopping.is_set():
        if (it := asking.next()) is None:
            asking.stopping.wait(0.05)
            continue
        consistency = FULL if told["full"] and dice.random() < 0.1 else DEFAULT
        answered = door.ask(it, consistency, dice.choice(TIMEOUTS), recorder)
        asked += answered
        if time.monotonic() - said_at > ONCE_A_SECOND:
            said_at = time.monotonic()
            tell(asked=asked, hits=door.hits)
        asking.stopping.wait(dice.random() * told["pace"] if answered else 0.02)
    recorder.close()
    tell(asked=asked, hits=door.hits)


if __name__ == "__main__":
    main()
