"""`make bench`: how much of an empty RPC's throughput is left once a call is authenticated, authorized and decided.

And what a flood of wrong slow proofs does to it, how fast keys are imported, what the time of a denial tells, and what
`decide` alone costs, with conditions and without.

A real server process on one core, load from h2load (or from `load.py`) on another, all rows in turn in every round, so
that whatever else the machine does hits all of them alike. Ratios are printed, because they can be compared, and the
microseconds of `decide`. What was served is taken from the server's own counters, because h2load counts HTTP statuses,
and those are always 200.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from doorward.v1 import (
    authz_pb2,
    directory_pb2,
    directory_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    keyspaces_pb2,
    keyspaces_pb2_grpc,
)

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.proofs import Proofs, deciding, timing  # noqa: E402
from tests.bench.remembered import bytes_per_key  # noqa: E402
from tests.bench.waits import Waits  # noqa: E402

HERE = Path(__file__).parent
KEYS = 1000
CONNECTIONS, STREAMS = 10, 10
ROUNDS = 5
SECONDS = 1.5
"""How long one row takes in one round, about."""
BATCH = 100
AUTHZ = "/doorward.v1.AuthzService"


@dataclass
class Row:
    """One kind of call: what is sent, what must come of it, and what was measured."""

    name: str
    path: str
    body: bytes = b""
    reason: str = ""
    """The reason with which doorward_decisions_total must count it; empty: no decision."""
    decisions: int = 1
    calls: int = 0
    rates: list[float] = field(default_factory=list)
    """Calls per second, one for each round."""
    costs: list[float] = field(default_factory=list)
    """Seconds of the server's CPU for one call, one for each round."""

    @property
    def empty(self) -> bool:
        """Whether it goes to the server that does nothing."""
        return not self.path.startswith(AUTHZ)


@dataclass
class Server:
    """A server process, where it listens, and where it can be asked what it did."""

    process: subprocess.Popen[str]
    port: int
    metrics: str = ""

    def cpu(self) -> float:
        """Seconds of CPU that the process has had."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counted(self) -> dict[str, float]:
        """The server's own counters, by series."""
        with urllib.request.urlopen(self.metrics, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


USABLE = sorted(os.sched_getaffinity(0))
SERVERS, LOAD = USABLE[0], USABLE[min(1, len(USABLE) - 1)]
"""The core for the servers and the one for the load; the same one twice if there is no other."""


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes that are started in this block stay on *core*, with all their threads."""
    os.sched_setaffinity(0, {core})
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
def started(command: list[str], environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a server, pinned to its core, until the end of the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOORWARD_")}
    with log.open("w") as errors:
        with pinned(SERVERS):
            process = subprocess.Popen(
                command, env=inherited | environ, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)
            if process.stdout:
                process.stdout.close()


@contextlib.contextmanager
def doorward(folder: Path) -> Iterator[Server]:
    """A Doorward on SQLite, as `doorward-server serve` starts it."""
    port, metrics = free_port(), free_port()
    environ = {
        "DOORWARD_LISTEN": f"127.0.0.1:{port}",
        "DOORWARD_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "DOORWARD_STATE_DIR": str(folder / "var"),
    }
    with started([sys.executable, "-m", "doorward_server", "serve"], environ, folder / "server.log") as process:
        yield Server(process, port, f"http://127.0.0.1:{metrics}/metrics")


@contextlib.contextmanager
def nothing(folder: Path) -> Iterator[Server]:
    """The server whose one RPC does nothing."""
    with started([sys.executable, str(HERE / "empty_server.py")], {}, folder / "empty.log") as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            raise SystemExit(f"the empty server did not start:\n{(folder / 'empty.log').read_text()}")
        yield Server(process, int(said))


class Seeder:
    """Fills a new Doorward: an organization, an owner with a role, keys, and a backend's key to ask with."""

    def __init__(self, server: Server, root: str) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        grpc.channel_ready_future(self._channel).result(30)
        self._metadata = (("authorization", f"Bearer {root}"),)

    def seed(self) -> tuple[str, str, str]:
        """Return the backend's key, a key that may change flows, and one that may only read them."""
        source = (ROOT / "examples/keyspaces/factorythread.yaml").read_text("utf-8")
        # As most keyspaces are: to record each decision before it is answered is measured by whoever wants that.
        source = source.replace("decision_log: {record: all}", "decision_log: {to: [file]}")
        self._ask(keyspaces_pb2_grpc.KeyspaceServiceStub, keyspaces_pb2.ApplyKeyspaceRequest(source=source))
        stub = directory_pb2_grpc.DirectoryServiceStub
        organization = directory_pb2.Organization(id="bench")
        self._ask(stub, directory_pb2.CreateOrganizationRequest(organization=organization))
        principal = directory_pb2.Principal(organization="bench", id="alice")
        self._ask(stub, directory_pb2.CreatePrincipalRequest(principal=principal))
        binding = directory_pb2.Binding(
            organization="bench", principal="alice", keyspace="factorythread", role="editor"
        )
        self._ask(stub, directory_pb2.CreateBindingRequest(binding=binding))
        with ThreadPoolExecutor(8) as pool:
            keys = list(pool.map(lambda n: self._key("factorythread", "full-access", f"key {n}", "alice"), range(KEYS)))
        reader = self._key("factorythread", "read-only", "reader", "alice")
        return self._key("doorward", "backend", "backend", ""), keys[KEYS // 2], reader

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _key(self, keyspace: str, scope: str, name: str, owner: str) -> str:
        request = keys_pb2.CreateKeyRequest(
            organization="bench", keyspace=keyspace, owner=owner, name=name, scopes=[scope]
        )
        return str(self._ask(keys_pb2_grpc.KeyServiceStub, request).secret)

    def _ask(self, stub: Callable[[grpc.Channel], Any], request: Message) -> Any:
        method = type(request).__name__.removesuffix("Request")
        return getattr(stub(self._channel), method)(request, metadata=self._metadata, timeout=30)


def rows(key: str, reader: str) -> list[Row]:
    """What is measured. The keys inherit from their owner, so an ALLOW has matched a scope and a role."""
    flow = authz_pb2.Resource(type="flows", id="abc123")

    def authorize(text: str) -> bytes:
        return authz_pb2.AuthorizeRequest(
            key=text, keyspace="factorythread", action="flows:update", resource=flow, organization="bench"
        ).SerializeToString()

    item = authz_pb2.BatchAuthorizeItem(action="flows:update", resource=flow)
    batch = authz_pb2.BatchAuthorizeRequest(
        key=key, keyspace="factorythread", organization="bench", items=[item] * BATCH
    )
    introspect = authz_pb2.IntrospectRequest(key=key, keyspace="factorythread")
    return [
        Row("empty_rpc", "/bench.Empty/Call"),
        Row("authorize", f"{AUTHZ}/Authorize", authorize(key), "ALLOWED"),
        Row("denied", f"{AUTHZ}/Authorize", authorize(reader), "SCOPE_INSUFFICIENT"),
        Row("unknown_key", f"{AUTHZ}/Authorize", authorize(unknown(key)), "KEY_UNKNOWN"),
        Row("malformed_key", f"{AUTHZ}/Authorize", authorize(key[:-1]), "CREDENTIAL_MALFORMED"),
        Row("batch_authorize", f"{AUTHZ}/BatchAuthorize", batch.SerializeToString(), "ALLOWED", BATCH),
        Row("introspect", f"{AUTHZ}/Introspect", introspect.SerializeToString()),
    ]


def unknown(key: str) -> str:
    """A key text with a good checksum that nobody was ever given."""
    from doorward_server.core.keytext import mint

    parts = key.rsplit("_", 2)
    return mint(parts[0], parts[1], bytes(32)).secret.reveal()


class Load:
    """Makes calls from the other core, with h2load where there is one."""

    def __init__(self, folder: Path, caller: str) -> None:
        self.h2load = shutil.which("h2load")
        self._folder = folder
        self._caller = caller
        self._key = folder / "caller"
        self._key.touch(0o600)
        self._key.write_text(caller)

    @property
    def name(self) -> str:
        """What makes the calls."""
        return "h2load" if self.h2load else "tests/bench/load.py"

    def calls(self, row: Row, port: int, calls: int) -> float:
        """Make so many calls, and return the seconds they took."""
        body = self._folder / f"{row.name}.body"
        if self.h2load:
            body.write_bytes(struct.pack(">BI", 0, len(row.body)) + row.body)
            headers = ["content-type: application/grpc", "te: trailers"]
            if not row.empty:
                headers.append(f"authorization: Bearer {self._caller}")
            shown = [word for header in headers for word in ("-H", header)]
            command = [self.h2load, "-n", str(calls), "-c", str(CONNECTIONS), "-m", str(STREAMS), "-d", str(body)]
            said = self._run([*command, *shown, f"http://127.0.0.1:{port}{row.path}"])
            failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
            finished = re.search(r"finished in ([\d.]+)(us|ms|s|m)", said)
            if not finished or not failed or any(map(int, failed.groups())):
                raise SystemExit(f"h2load failed on {row.name}:\n{said}")
            return float(finished[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[finished[2]]
        body.write_bytes(row.body)
        key = [] if row.empty else ["--key", str(self._key)]
        command = [sys.executable, str(HERE / "load.py"), f"127.0.0.1:{port}", row.path, "--body", str(body), *key]
        sizes = ["--calls", str(calls), "--connections", str(CONNECTIONS), "--streams", str(STREAMS)]
        return float(json.loads(self._run([*command, *sizes]))["seconds"])

    @staticmethod
    def _run(command: list[str]) -> str:
        with pinned(LOAD):
            return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


def measure(row: Row, server: Server, load: Load, calls: int, alone: bool = True) -> tuple[float, float]:
    """Make the calls, hold them against the server's counters, and return calls per second and CPU seconds per call."""
    before, cpu = {} if row.empty else server.counted(), server.cpu()
    seconds = load.calls(row, server.port, calls)
    cpu = server.cpu() - cpu
    if not row.empty:
        check(row, calls, before, server.counted(), alone)
    return calls / seconds, cpu / calls


def check(row: Row, calls: int, before: dict[str, float], after: dict[str, float], alone: bool) -> None:
    """Stop everything unless the server served these calls, and no others if *alone*, and decided as it should."""
    service, method = row.path.strip("/").split("/")
    handled = f'grpc_server_handled_total{{grpc_code="OK",grpc_method="{method}",grpc_service="{service}"}}'
    expected = {handled: calls} if alone else {}
    if row.reason:
        series = f'doorward_decisions_total{{keyspace="factorythread",reason="{row.reason}"}}'
        expected[series] = calls * row.decisions
    for series, count in expected.items():
        counted = after.get(series, 0) - before.get(series, 0)
        if counted != count:
            raise SystemExit(f"{row.name}: {series} rose by {counted:.0f}, not by {count}")


def run(table: list[Row], empty: Server, real: Server, load: Load) -> None:
    """Warm up, choose how many calls make a round, and go round."""
    for row in table:
        server = empty if row.empty else real
        measure(row, server, load, 300 if row.decisions == 1 else 50)
        rate, _ = measure(row, server, load, 1000 if row.decisions == 1 else 100)
        row.calls = max(100, int(rate * SECONDS) // 100 * 100)
    for turn in range(ROUNDS):
        for row in table if turn % 2 == 0 else reversed(table):
            rate, cost = measure(row, empty if row.empty else real, load, row.calls)
            row.rates.append(rate)
            row.costs.append(cost)


def ratios(table: list[Row]) -> dict[str, float]:
    """All that is worth keeping: throughput and CPU against an empty RPC, and the kinds against each other."""
    rate = {row.name: statistics.median(row.rates) * row.decisions for row in table}
    cost = {row.name: statistics.median(row.costs) / row.decisions for row in table}
    found = {
        "authorize_per_empty_rpc": rate["authorize"] / rate["empty_rpc"],
        "authorize_cpu_per_empty_rpc_cpu": cost["authorize"] / cost["empty_rpc"],
        "denied_per_authorize": rate["denied"] / rate["authorize"],
        "unknown_key_per_authorize": rate["unknown_key"] / rate["authorize"],
        "malformed_key_per_authorize": rate["malformed_key"] / rate["authorize"],
        "batch_decision_per_authorize": rate["batch_authorize"] / rate["authorize"],
        "introspect_per_authorize": rate["introspect"] / rate["authorize"],
    }
    each = [a / e for a, e in zip(table[1].rates, table[0].rates, strict=True)]
    return found | {"authorize_per_empty_rpc_lowest": min(each), "authorize_per_empty_rpc_highest": max(each)}


def proofs(table: list[Row], real: Server, load: Load, root: str) -> dict[str, float]:
    """What a flood of wrong slow proofs leaves of Authorize, how fast keys are imported, and what denials tell."""
    empty, authorize = table[0], table[1]
    asked = Proofs(real.port, root)
    found = asked.flooded(lambda: measure(authorize, real, load, authorize.calls, alone=False)[0])
    found |= asked.imported(statistics.median(empty.rates))
    asked.close()
    waits = Waits(real.port, root)
    found |= waits.revoked()
    found |= waits.flooded(lambda: measure(authorize, real, load, authorize.calls, alone=False)[0])
    waits.close()
    with pinned(SERVERS):
        return found | timing() | deciding() | {"bytes_per_remembered_key": bytes_per_key()}


def report(found: dict[str, float], facts: dict[str, str]) -> None:
    """Print the table, and write it to build/bench.json."""
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    width = max(map(len, found))
    for name, value in found.items():
        print(f"  {name:<{width}}  {value:8.3f}")
    target = ROOT / "build" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    rounded = {name: round(value, 4) for name, value in found.items()}
    target.write_text(json.dumps(facts | rounded, indent=2) + "\n", "utf-8")
    print(f"written to {target.relative_to(ROOT)}")


def main() -> None:
    """Measure. Exits with 1 if the server did not serve what was sent."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="doorward-bench-")))
        real, empty = stack.enter_context(doorward(folder)), stack.enter_context(nothing(folder))
        root = folder / "var" / "root-key"
        while not root.exists() and real.process.poll() is None and time.monotonic() < began + 30:
            time.sleep(0.05)
        if not root.exists():
            raise SystemExit(f"the server did not start:\n{(folder / 'server.log').read_text()}")
        seeder = Seeder(real, root.read_text().strip())
        caller, key, reader = seeder.seed()
        seeder.close()
        load, table = Load(folder, caller), rows(key, reader)
        run(table, empty, real, load)
        more = proofs(table, real, load, root.read_text().strip())
    facts = {"python": platform.python_version(), "grpcio": version("grpcio"), "protobuf": version("protobuf")}
    facts |= {"load": load.name, "cores": "apart" if SERVERS != LOAD else "shared"}
    if not load.h2load:
        print("h2load is missing (Debian: nghttp2-client); the load is made by Python, which slows cheap calls down.")
    report(ratios(table) | more, facts)
    print(f"{KEYS} keys on SQLite, {ROUNDS} rounds, medians, {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
