"""What a hit in a client's cache costs, beside the call that it saves: over real gRPC, on this machine.

`microseconds` is for other benchmarks; `python tests/bench/hits.py` prints both figures, and their ratio, as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from doorward import Ceiling, Client, Decision  # noqa: E402
from tests.chaos.fleet import Replica  # noqa: E402
from tests.wire.replicas import shop, until  # noqa: E402

ROUNDS, HITS, CALLS = 15, 2_000, 50
"""Rounds, of so many hits and calls each, in turn: what else the machine does strikes both."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over all rounds."""

    hit_us: float
    """Microseconds for a decision from memory."""
    call_us: float
    """Microseconds for the same decision by a call, from a server that remembers the key."""

    @property
    def ratio(self) -> float:
        """How many hits take as long as one call."""
        return self.call_us / self.hit_us


def microseconds(rounds: int = ROUNDS) -> float:
    """Return what a hit costs."""
    return measured(rounds).hit_us


def measured(rounds: int = ROUNDS) -> Cost:
    """Measure beside a server of its own, on SQLite, in a process of its own."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        own = {"store": f"sqlite:///{folder / 'store.sqlite'}", "state_dir": str(folder / "var"), "metrics_listen": ""}
        server = Replica("server", {f"DOORWARD_{word.upper()}": value for word, value in own.items()}, folder)
        stack.callback(server.stop)
        server.start()
        target, root = f"127.0.0.1:{server.port}", (folder / "var" / "root-key").read_text("utf-8").strip()
        plain = stack.enter_context(Client(target, root))
        caching = stack.enter_context(Client(target, root, cache=100))
        text = _key(plain)

        def ask(client: Client) -> Decision:
            return client.authorize(
                text, keyspace="shop", action="things:read", resource="things/42", organization="acme"
            )

        return _compared(lambda: ask(caching), lambda: ask(plain), caching, rounds)


def _key(client: Client) -> str:
    client.create_organization("acme")
    client.apply_keyspace(shop("shop"))
    made = client.create_key(
        keyspace="shop", name="k", organization="acme", scopes=["reader"], ceiling=Ceiling.LIST, timeout=60
    )
    assert made.secret is not None
    return made.secret.reveal()


def _compared(hit: Callable[[], Decision], call: Callable[[], Decision], caching: Client, rounds: int) -> Cost:
    hits, calls = list[float](), list[float]()
    for _ in range(rounds):
        until(lambda: _all_hits(hit, caching, hits))
        calls.append(_each(call, CALLS))
    return Cost(statistics.median(hits), statistics.median(calls))


def _all_hits(hit: Callable[[], Decision], caching: Client, taken: list[float]) -> bool:
    """Measure one round; one in which the lease ran out, as it does on a machine that stalls, says nothing."""
    before = caching.cache_info()
    spent = _each(hit, HITS)
    after = caching.cache_info()
    assert before is not None
    assert after is not None
    if after.hits - before.hits != HITS:
        return False
    taken.append(spent)
    return True


def _each(ask: Callable[[], Decision], times: int) -> float:
    began = time.perf_counter_ns()
    for _ in range(times):
        ask()
    return (time.perf_counter_ns() - began) / times / 1_000


if __name__ == "__main__":
    cost = measured()
    print(json.dumps({**asdict(cost), "ratio": cost.ratio}, indent=2))
