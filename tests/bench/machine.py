"""The machine: its cores, the servers that are started on one of them, and what they say of themselves."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import grpc

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
USABLE = sorted(os.sched_getaffinity(0))
SERVERS, LOAD = USABLE[0], USABLE[min(1, len(USABLE) - 1)]
"""The core for the servers and the one for the load; the same one twice if there is no other."""
PATIENCE = 60
"""Seconds in which a server must have started."""


class BenchFailed(SystemExit):
    """Something was not served, or not decided as it should have been: no figure of this run counts."""


class NotThere(Exception):
    """Something cannot be measured here, which takes nothing from the rest; the message says why."""


@dataclass
class Server:
    """A server process, where it listens, and where it can be asked what it did."""

    process: subprocess.Popen[str]
    port: int
    metrics: str = ""

    @property
    def target(self) -> str:
        """Where gRPC calls go."""
        return f"127.0.0.1:{self.port}"

    def cpu(self) -> float:
        """Seconds of CPU that the process and its children have had."""
        return sum(map(_cpu, _family(self.process.pid)))

    def counted(self) -> dict[str, float]:
        """The server's own counters, by series; none if it has no page for them."""
        if not self.metrics:
            return {}
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def ready(self) -> None:
        """Wait until it accepts a connection."""
        with grpc.insecure_channel(self.target) as channel:
            waiting = grpc.channel_ready_future(channel)
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    waiting.result(0.5)
                    return
                except grpc.FutureTimeoutError:
                    if self.process.poll() is not None or time.monotonic() > end:
                        raise BenchFailed(f"a server did not start: {' '.join(map(str, self.process.args))}") from None  # type: ignore[arg-type]  # it is a list


def _family(pid: int) -> list[int]:
    found = [pid]
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            found += _family(int(child))
    return found


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Processes that are started in this block stay on *cores*, with all their threads."""
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, USABLE)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def started(
    command: list[str], environ: dict[str, str], log: Path, cores: set[int] | None = None, *, says: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run a server, pinned to its core unless *cores* says otherwise, until the end of the block.

    What it writes to standard output is thrown away, unless it *says* something that somebody reads.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOORWARD_")}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors:
        with pinned(cores or {SERVERS}):
            process = subprocess.Popen(
                command,
                env=inherited | environ,
                stdout=subprocess.PIPE if says else subprocess.DEVNULL,
                stderr=errors,
                text=True,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)
            if process.stdout:
                process.stdout.close()


@contextlib.contextmanager
def doorward(
    folder: Path, *arguments: str, cores: set[int] | None = None, program: str = "doorward_server"
) -> Iterator[Server]:
    """A Doorward on the SQLite file in *folder*, as `doorward-server serve` starts it, or by another *program*."""
    port, metrics = free_port(), free_port()
    environ = {
        "DOORWARD_LISTEN": f"127.0.0.1:{port}",
        "DOORWARD_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "DOORWARD_STATE_DIR": str(folder / "var"),
    }
    command = [sys.executable, "-m", program, "serve", *arguments]
    with started(command, environ, folder / "server.log", cores) as process:
        server = Server(process, port, f"http://127.0.0.1:{metrics}/metrics")
        server.ready()
        yield server


@contextlib.contextmanager
def nothing(folder: Path, transport: str) -> Iterator[Server]:
    """The server whose one RPC does nothing, on either transport."""
    command = [sys.executable, str(HERE / "empty_server.py"), transport]
    with started(command, {}, folder / f"empty-{transport}.log", says=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            raise BenchFailed(f"the empty server did not start:\n{(folder / f'empty-{transport}.log').read_text()}")
        yield Server(process, int(said))


def root_of(folder: Path) -> str:
    """The root key of the Doorward in *folder*."""
    return (folder / "var" / "root-key").read_text("utf-8").strip()


def facts() -> dict[str, str]:
    """What must be known of this run to compare it with another."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
        "pygrpc_native": version("pygrpc-native"),
        "uvloop": version("uvloop"),
        "machine": f"{len(USABLE)} × {model[0].partition(':')[2].strip() if model else platform.machine()}",
        "kernel": platform.release(),
        "cores": "apart" if SERVERS != LOAD else "shared",
    }
