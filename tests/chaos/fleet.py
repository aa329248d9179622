"""The processes of a run: programs of ours, and the replicas, which faults strike."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60.0
"""Seconds: a bound for what hangs, not an expectation."""


class Program:
    """One of our own programs: told in lines of JSON, and telling."""

    def __init__(self, module: str, first: Mapping[str, Any], folder: Path) -> None:
        self._errors = (folder / f"{first.get('name', module)}.log").open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], cwd=ROOT, text=True, bufsize=1, env=_environment({}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.name = str(first.get("name", module))
        self._telling = threading.Lock()
        self.tell(first)

    def tell(self, order: Mapping[str, Any]) -> None:
        """Give an order; one that has ended hears nothing."""
        assert self.process.stdin is not None
        with self._telling, suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def said(self) -> Iterator[dict[str, Any]]:
        """Give what it says, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def end(self) -> None:
        """Tell it to stop, and see that it does. Fails if it ended badly."""
        self.tell({"stop": True})
        try:
            code = self.process.wait(TIMEOUT)
        finally:
            self.kill()
        assert code == 0, f"{self.name} ended with {code}: {Path(self._errors.name).read_text()[-2000:]}"

    def kill(self) -> None:
        """See that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(TIMEOUT)
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def _environment(doorward: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DOORWARD_", "PLANT"))}
    return {**inherited, **doorward, "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class StartFailed(Exception):
    """A replica ended before it served; the text is what it wrote."""


@dataclass
class Replica:
    """A `doorward-server serve`, which may be stopped, killed and started again, always on its own port."""

    name: str
    settings: Mapping[str, str]
    folder: Path
    port: int = field(default_factory=free_port)
    plant: str = ""
    starts: int = 0
    """How often it got as far as serving."""
    fell: list[str] = field(default_factory=list)
    """How it ended where nobody had asked it to."""
    process: subprocess.Popen[str] | None = None
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever is doing something to it."""
    events: Counter[str] = field(default_factory=Counter)
    """What it logged, by event."""

    def start(self) -> Self:
        """Start, and wait until it serves. Raises StartFailed if it ends instead."""
        own = {"DOORWARD_LISTEN": f"127.0.0.1:{self.port}", **self.settings}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.replica", "serve"], cwd=ROOT, text=True,
            env=_environment(own) | {"PLANT": self.plant}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        serving = threading.Event()
        threading.Thread(target=self._read, args=(self.process, serving), daemon=True).start()
        if not serving.wait(TIMEOUT):
            raise TimeoutError(f"{self.name} does not serve: {self.tail()}")
        if self.process.poll() is not None:
            raise StartFailed(f"{self.name} ended with {self.process.returncode}: {self.tail()}")
        self.starts += 1
        return self

    def _read(self, process: subprocess.Popen[str], serving: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr, (self.folder / f"{self.name}.log").open("a", encoding="utf-8") as log:
            for line in process.stderr:
                log.write(line)
                if line.startswith("{"):
                    event = json.loads(line).get("event", "")
                    self.events[event] += 1
                    if event == "serving":
                        serving.set()
        process.wait()
        serving.set()

    def tail(self) -> str:
        """The end of what it wrote."""
        return (self.folder / f"{self.name}.log").read_text("utf-8")[-2000:]

    def keep_starting(self) -> None:
        """Start, as often as it takes: a database may be away."""
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                self.start()
            except StartFailed:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                return

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it. Notes it as fallen if it was gone already, or did not end as asked."""
        if self.process is None:
            return
        if self.process.poll() is not None:
            self.fell.append(f"{self.name} had ended with {self.process.returncode}")
        self.send(number)
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.fell.append(f"{self.name} did not end within 20 s of {number.name}")
            self.process.kill()
            code = self.process.wait(TIMEOUT)
        else:
            if number is signal.SIGTERM and code not in (0, -signal.SIGTERM):
                self.fell.append(f"{self.name} ended with {code} after SIGTERM")
        self.process = None
