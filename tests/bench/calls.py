"""Calls: what a row of the benchmark sends, what makes the calls, and the check that they were really served.

h2load counts HTTP statuses, and those of gRPC are always 200: so every measurement is held against the counters of the
server that answered. A call too many or too few, or another decision, ends the run.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import statistics
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.bench.machine import HERE, LOAD, BenchFailed, Server, pinned

CONNECTIONS, STREAMS = 10, 10
AUTHZ = "/doorward.v1.AuthzService"
Expected = Callable[[int], dict[str, float]]
"""By how much which counters rise with so many calls."""


def nothing_counted(calls: int) -> dict[str, float]:
    """For a server without counters."""
    return {}


@dataclass
class Row:
    """One kind of call: what is sent, to which server, what must come of it, and what was measured."""

    name: str
    path: str
    server: str
    body: bytes = b""
    expected: Expected = nothing_counted
    decisions: int = 1
    key: str = ""
    """The caller's key; empty: none is sent."""
    calls: int = 0
    rates: list[float] = field(default_factory=list)
    """Calls per second, one for each round; so in the lists below."""
    costs: list[float] = field(default_factory=list)
    """Seconds of the server's CPU for one call."""
    p50s: list[float] = field(default_factory=list)
    """Milliseconds."""
    p99s: list[float] = field(default_factory=list)

    def median(self, of: list[float]) -> float:
        """The figure that stands for all rounds."""
        return statistics.median(of) if of else 0.0


def decided(keyspace: str, reason: str, method: str, decisions: int = 1) -> Expected:
    """What Doorward counts of calls that are decided with *reason*; without one, of calls that decide nothing."""
    handled = f'grpc_server_handled_total{{grpc_code="OK",grpc_method="{method}",grpc_service="{AUTHZ[1:]}"}}'
    series = f'doorward_decisions_total{{keyspace="{keyspace}",reason="{reason}"}}'

    def expected(calls: int) -> dict[str, float]:
        return {handled: calls, **({series: calls * decisions} if reason else {})}

    return expected


@dataclass(frozen=True)
class Took:
    """What so many calls took: seconds in all, and the time of each in milliseconds, in ascending order."""

    seconds: float
    each: list[float]

    def percentile(self, share: float) -> float:
        """Milliseconds within which *share* of the calls were answered."""
        return self.each[min(len(self.each) - 1, int(len(self.each) * share))]


class Load:
    """Makes calls from the other core, with h2load where there is one. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.h2load = shutil.which("h2load")
        self._folder = folder
        self._slow: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._slow is not None:
            self._slow.communicate()

    @property
    def name(self) -> str:
        """What makes the calls, and its version."""
        return self._run([self.h2load, "--version"]).strip() if self.h2load else "tests/bench/load.py"

    def calls(self, row: Row, server: Server, calls: int, rate: float = 0) -> Took:
        """Make so many calls, as fast as they are answered, or *rate* in a second (with h2load only)."""
        if not self.h2load:
            return self._slowly(row, server, calls)
        body, log = self._folder / f"{row.name}.body", self._folder / "calls.log"
        body.write_bytes(struct.pack(">BI", 0, len(row.body)) + row.body)
        headers = ["content-type: application/grpc", "te: trailers"]
        headers += [f"authorization: Bearer {row.key}"] if row.key else []
        shown = [word for header in headers for word in ("-H", header)]
        sizes = ["-n", str(calls), "-c", str(min(calls, CONNECTIONS)), "-m", str(STREAMS), "-d", str(body)]
        paced = [f"--rps={max(1, round(rate / CONNECTIONS))}"] if rate else []
        log.unlink(missing_ok=True)
        said = self._run(
            [self.h2load, *sizes, *paced, f"--log-file={log}", *shown, f"http://{server.target}{row.path}"]
        )
        failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
        finished = re.search(r"finished in ([\d.]+)(us|ms|s|m)", said)
        if not finished or not failed or any(map(int, failed.groups())):
            raise BenchFailed(f"h2load failed on {row.name}:\n{said}")
        seconds = float(finished[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[finished[2]]
        return Took(seconds, sorted(int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()))

    def _slowly(self, row: Row, server: Server, calls: int) -> Took:
        if self._slow is None:
            command = [sys.executable, str(HERE / "load.py")]
            with pinned({LOAD}):
                self._slow = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._slow.stdin is not None
        assert self._slow.stdout is not None
        body = base64.b64encode(row.body).decode()
        order = {"target": server.target, "path": row.path, "body": body, "key": row.key, "calls": calls}
        self._slow.stdin.write(json.dumps(order | {"connections": CONNECTIONS, "streams": STREAMS}) + "\n")
        self._slow.stdin.flush()
        said = self._slow.stdout.readline()
        if not said:
            raise BenchFailed(f"tests/bench/load.py failed on {row.name}")
        told = json.loads(said)
        return Took(float(told["seconds"]), sorted(told["each"]))

    @staticmethod
    def _run(command: list[str]) -> str:
        with pinned({LOAD}):
            return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout


def checked(row: Row, server: Server, calls: int, make: Callable[[], Took], alone: bool = True) -> Took:
    """Return what *make* measured, once the server's counters have confirmed it; others may call, too, unless *alone*.

    Raises BenchFailed.
    """
    before = server.counted()
    took = make()
    after = server.counted()
    for series, count in row.expected(calls).items():
        rose = after.get(series, 0) - before.get(series, 0)
        if rose < count or (alone and rose > count):
            raise BenchFailed(f"{row.name}: {series} rose by {rose:.0f}, not by {count:.0f}")
    return took


def measure(row: Row, server: Server, load: Load, calls: int, alone: bool = True) -> Took:
    """Make the calls and note what they took and cost with the row."""
    cpu = server.cpu()
    took = checked(row, server, calls, lambda: load.calls(row, server, calls), alone)
    row.rates.append(calls / took.seconds)
    row.costs.append((server.cpu() - cpu) / calls)
    row.p50s.append(took.percentile(0.5))
    row.p99s.append(took.percentile(0.99))
    return took


def go_round(rows: list[Row], servers: dict[str, Server], load: Load, rounds: int, seconds: float) -> None:
    """Warm each row up, choose how many calls take about *seconds*, and measure all in turn, *rounds* times."""
    some = int(300 * min(1.0, seconds))
    for row in rows:
        measure(row, servers[row.server], load, some // (1 if row.decisions == 1 else 10) + 1)
        measure(row, servers[row.server], load, some // (1 if row.decisions == 1 else 10) + 10)
        row.calls = max(40, int(row.rates[-1] * seconds) // 20 * 20)
        for measured in (row.rates, row.costs, row.p50s, row.p99s):
            measured.clear()
    for turn in range(rounds):
        for row in rows if turn % 2 == 0 else reversed(rows):
            measure(row, servers[row.server], load, row.calls)
