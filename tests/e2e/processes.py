"""`doorward-server` as people start it: a process of its own, from the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PROGRAM = (str(BIN / "doorward-server"),)
TIMEOUT = 60.0
"""Seconds: a bound for what hangs, not an expectation."""


def environment(folder: Path, store: str, **settings: str) -> dict[str, str]:
    """The variables of a server that keeps its files in *folder*; none of DOORWARD_* is inherited."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOORWARD_")}
    own = {"listen": "127.0.0.1:0", "metrics_listen": "", "state_dir": str(folder / "var"), "store": store, **settings}
    return {**inherited, **{f"DOORWARD_{name.upper()}": value for name, value in own.items()}}


def run(*command: str | Path, env: dict[str, str], cwd: Path = ROOT, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [str(part) for part in command], env=env, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, **more
    )


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@dataclass
class Process:
    """A running server. `lines` is what it has written so far, to standard output and standard error."""

    popen: subprocess.Popen[str]
    folder: Path
    environ: dict[str, str] = field(repr=False)
    lines: list[str] = field(default_factory=list, repr=False)
    port: int = 0
    _serving: threading.Event = field(default_factory=threading.Event, repr=False)
    _reader: threading.Thread | None = field(default=None, repr=False)

    @classmethod
    def start(
        cls, env: dict[str, str], folder: Path, *arguments: str, cwd: Path = ROOT, program: tuple[str, ...] = PROGRAM
    ) -> Self:
        """Start `doorward-server serve`; `wait` tells when it serves."""
        command = [*program, "serve", *arguments]
        popen = subprocess.Popen(
            command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        process = cls(popen, folder, env)
        process._reader = threading.Thread(target=process._read, daemon=True)
        process._reader.start()
        return process

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line)
            if line.startswith("{"):
                said = json.loads(line)
                if said["event"] == "serving":
                    self.port = said["port"]
                    self._serving.set()
        self._serving.set()

    def wait(self) -> Self:
        """Wait until it serves. Fails with what it wrote if it ended instead."""
        assert self._serving.wait(TIMEOUT), self.output
        assert self.port, self.output
        return self

    def wait_for(self, text: str) -> None:
        """Wait until it has written *text*."""
        end = time.monotonic() + TIMEOUT
        while text not in self.output:
            assert time.monotonic() < end, self.output
            if self.popen.poll() is not None and self._reader is not None:
                self._reader.join(TIMEOUT)  # what it wrote last may not have been read yet
                assert text in self.output, self.output
            time.sleep(0.02)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def var(self) -> Path:
        return self.folder / "var"

    @property
    def root(self) -> str:
        """The root key's text."""
        return (self.var / "root-key").read_text("utf-8").strip()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; all output has been read then."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        code = self.popen.wait(TIMEOUT)
        assert self._reader is not None
        self._reader.join(TIMEOUT)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return code


@contextmanager
def server(
    folder: Path, store: str, *arguments: str, cwd: Path = ROOT, program: tuple[str, ...] = PROGRAM, **settings: str
) -> Iterator[Process]:
    """A server that runs, stopped at the end if it still does."""
    process = Process.start(environment(folder, store, **settings), folder, *arguments, cwd=cwd, program=program)
    try:
        yield process.wait()
    finally:
        process.stop()


def client_environment(process: Process) -> dict[str, str]:
    """The variables of a client that calls *process* with its root key."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOORWARD_")}
    return {**inherited, "DOORWARD_TARGET": process.target, "DOORWARD_KEY_FILE": str(process.var / "root-key")}
