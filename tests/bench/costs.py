"""What single things cost: a cold lookup, a store of a million keys, a start, a second worker, a thousand streams."""

from __future__ import annotations

import contextlib
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from doorward.v1 import authz_pb2
from tests.bench.calls import AUTHZ, Load, Row, checked, go_round
from tests.bench.machine import HERE, LOAD, PATIENCE, USABLE, BenchFailed, NotThere, Server, doorward, pinned, root_of
from tests.bench.million import Million
from tests.bench.world import World, authorize, seeder, warm

BLOCK = 50
IMPATIENT = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 20),
)


class Caller:
    """One caller that asks one question after the other: what is measured is latency, the client's part included."""

    def __init__(self, target: str, key: str) -> None:
        self._channel = grpc.insecure_channel(target, IMPATIENT)
        self._ask: Any = self._channel.unary_unary(f"{AUTHZ}/Authorize")
        self._metadata = (("authorization", f"Bearer {key}"),)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def ask(self, text: str) -> float:
        """Return the milliseconds of an Authorize that must be allowed; waits for the server to be there."""
        body = authorize(text)
        began = time.perf_counter()
        answered = self._ask(body, metadata=self._metadata, timeout=PATIENCE, wait_for_ready=True)
        took = time.perf_counter() - began
        answer = authz_pb2.AuthorizeResponse.FromString(answered)
        if answer.reason != authz_pb2.REASON_ALLOWED:
            raise BenchFailed(f"a key that may is denied: {authz_pb2.Reason.Name(answer.reason)}")
        return took * 1000


def lookups(small: Server, few: World, large: Server, many: Million, count: int) -> dict[str, float]:
    """Ask about *count* keys of each store twice, in blocks in turn: first cold, then warm."""
    took: dict[str, list[float]] = {name: [] for name in ("cold few", "warm few", "cold many", "warm many")}
    callers = {"few": Caller(small.target, few.backend), "many": Caller(large.target, many.backend)}
    texts = {"few": list(few.keys[:count]), "many": many.texts(count, seed=time.time_ns())}
    with pinned({LOAD}):
        for name, caller in callers.items():
            caller.ask(few.keys[-1] if name == "few" else many.world().keys[0])
        for start in range(0, min(map(len, texts.values())), BLOCK):
            for name, caller in callers.items():
                block = texts[name][start : start + BLOCK]
                took[f"cold {name}"] += map(caller.ask, block)
                took[f"warm {name}"] += map(caller.ask, block)
    for caller in callers.values():
        caller.close()
    p50 = {name: statistics.median(each) for name, each in took.items()}
    return {
        "cold_p50_per_warm": p50["cold many"] / p50["warm many"],
        "p50_million_keys_per_thousand": p50["warm many"] / p50["warm few"],
        "cold_p50_million_keys_per_thousand": p50["cold many"] / p50["cold few"],
    }


def starts(million: Million, times: int) -> dict[str, float]:
    """Seconds from the start of the process to its first answer."""
    took = []
    (text,) = million.texts(1, seed=1)
    for _ in range(times):
        began = time.perf_counter()
        with doorward(million.folder) as server:
            caller = Caller(server.target, million.backend)
            caller.ask(text)
            took.append(time.perf_counter() - began)
            caller.close()
    return {"start_seconds_million_keys": statistics.median(took)}


def workers(folder: Path, load: Load, rounds: int, seconds: float) -> dict[str, float]:
    """CPU for one request with two workers, by that with one, all on both cores; the load's own is left out."""
    with contextlib.ExitStack() as stack:
        servers, rows = {}, []
        for count in (1, 2):
            place = folder / f"workers{count}"
            server = stack.enter_context(doorward(place, "--workers", str(count), cores=set(USABLE)))
            with seeder(server.target, root_of(place)) as seeding:
                world = seeding.seed(1)
            servers[str(count)] = server
            rows.append(warm(f"workers_{count}", world, str(count)))
        go_round(rows, servers, load, rounds, seconds)
    one, two = rows
    return {
        "cpu_per_request_2_workers_per_1": two.median(two.costs) / one.median(one.costs),
        "throughput_2_workers_per_1": two.median(two.rates) / one.median(one.rates),
    }


def idle_streams(server: Server, row: Row, load: Load, folder: Path, streams: int, seconds: float) -> dict[str, float]:
    """What *streams* idle Lease streams take of a core, and what they do to the latency of a third of the load that
    the server can carry: before, beside and after them.
    """
    rate = row.median(row.rates) / 3
    calls = max(20, int(rate * seconds))

    def p99() -> float:
        return checked(row, server, calls, lambda: load.calls(row, server, calls, rate=rate)).percentile(0.99)

    before = p99()
    with _streams(server, row.key, folder, streams):
        cpu, began = server.cpu(), time.perf_counter()
        time.sleep(seconds)
        share = (server.cpu() - cpu) / (time.perf_counter() - began)
        beside = [p99() for _ in range(3)]
    after = p99()
    return {
        "lease_streams": streams,
        "lease_streams_share_of_core": share,
        "authorize_p99_beside_lease_streams": statistics.median(beside) / ((before + after) / 2),
    }


@contextlib.contextmanager
def _streams(server: Server, key: str, folder: Path, streams: int) -> Iterator[None]:
    file = folder / "streams.key"
    file.touch(0o600)
    file.write_text(key)
    command = [sys.executable, str(HERE / "streams.py"), server.target, "--key", str(file), "--streams", str(streams)]
    with pinned({LOAD}):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            raise NotThere(f"{streams} streams had no answer within {PATIENCE} s")
        if process.stdout.readline().strip() != "ready":
            raise BenchFailed("the Lease streams failed")
        yield
        if process.poll() is not None:
            raise BenchFailed("the Lease streams did not last")
    finally:
        process.terminate()
        process.wait(30)
