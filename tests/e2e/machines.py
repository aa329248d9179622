"""Doorward as an operator has it: processes, started by their command line, each on a host of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from doorward.v1 import authz_pb2, authz_pb2_grpc

T = TypeVar("T")
TIMEOUT = 60.0
"""Seconds: a bound for what hangs, not an expectation."""
COMMAND = (sys.executable, "-m", "doorward_server")


def eventually(look: Callable[[], T | None]) -> T:
    """Return what *look* returns as soon as that is something."""
    deadline, tick = time.monotonic() + TIMEOUT, threading.Event()
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        tick.wait(0.05)
    raise AssertionError("it did not come about")


@dataclass
class Machine:
    """A host with a state directory, and so a pepper file, of its own."""

    store: str
    folder: Path

    @property
    def peppers(self) -> Path:
        return self.folder / "peppers.json"

    @property
    def root(self) -> str:
        return (self.folder / "root-key").read_text("utf-8").strip()

    @property
    def environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("DOORWARD_")}
        return mine | {
            "DOORWARD_STORE": self.store,
            "DOORWARD_STATE_DIR": str(self.folder),
            "DOORWARD_LISTEN": "127.0.0.1:0",
            "DOORWARD_METRICS_LISTEN": "",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [*COMMAND, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=TIMEOUT)

    @contextmanager
    def serving(self) -> Iterator[Serving]:
        """Serve until the end of the block."""
        with subprocess.Popen([*COMMAND, "serve"], env=self.environment, stderr=subprocess.PIPE, text=True) as process:
            serving = Serving(process)
            try:
                serving.wait()
                yield serving
            finally:
                serving.stop()


@dataclass
class Serving:
    """A server process; what it logs is collected."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    port: int = 0

    def wait(self) -> None:
        """Return when it serves."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = eventually(self._find_port)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def _find_port(self) -> int | None:
        assert self.process.poll() is None, "".join(self.lines)
        for event in self.logged("serving"):
            return int(event["port"])
        return None

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind."""
        lines = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT) == 0, "".join(self.lines)
        self._reader.join(TIMEOUT)


@dataclass
class Load:
    """Callers that prove their keys over and over, and what came of it."""

    texts: list[str] = field(repr=False)
    proofs: int = 0
    failures: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def on(self, *servers: Serving, threads: int = 2) -> Iterator[None]:
        """Call all *servers*."""
        workers = [threading.Thread(target=self._call, args=(it.port,)) for it in servers for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            self.stopping.set()
            for worker in workers:
                worker.join(TIMEOUT)
            self.stopping.clear()

    def _call(self, port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = authz_pb2_grpc.AuthzServiceStub(channel)
            while not self.stopping.is_set():
                for text in list(self.texts):
                    self._prove(stub, text)

    def _prove(self, stub: authz_pb2_grpc.AuthzServiceStub, text: str) -> None:
        try:
            answer = stub.Introspect(
                authz_pb2.IntrospectRequest(), metadata=(("authorization", f"Bearer {text}"),), timeout=TIMEOUT
            )
        except grpc.RpcError as error:
            self.failures.append(f"{error.code()} {error.details()}")
        else:
            self.proofs += 1
            if answer.decision != authz_pb2.DECISION_ALLOW:
                self.failures.append(authz_pb2.Reason.Name(answer.reason))

    def go_round(self) -> None:
        """Return when every key was proved once more by everybody."""
        enough = self.proofs + 8 * len(self.texts)
        eventually(lambda: True if self.proofs >= enough or self.failures else None)
