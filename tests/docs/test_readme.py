"""The README's quick start works as it stands: its blocks are run in order against a server with the example data.

A block that is run comes after `<!-- test: name -->`. A line `# → text` in it says what it prints: those texts must
appear in that order. `var/` stands for a temporary folder here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- test: (?P<name>[a-z-]+) -->\n```(?P<language>sh|python)\n(?P<text>.*?)^```$", re.S | re.M)
PROMISE = re.compile(r"^\s*# → (.+)$", re.M)


@dataclass(frozen=True)
class Block:
    """One block that a reader is asked to run."""

    name: str
    language: str
    text: str

    def command(self, state: Path) -> list[str]:
        """What runs it, with *state* in the place of var/."""
        text = re.sub(r"\bvar/", f"{state}/", self.text)
        return ["bash", "-uc", text] if self.language == "sh" else [sys.executable, "-c", text]


BLOCKS = [Block(*match.group("name", "language", "text")) for match in BLOCK.finditer((ROOT / "README.md").read_text())]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A server as `make run` starts it, elsewhere: its state folder, and the environment of somebody beside it."""
    state = tmp_path_factory.mktemp("var")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("DOORWARD_")}
    settings = {
        "DOORWARD_LISTEN": "127.0.0.1:0",
        "DOORWARD_METRICS_LISTEN": "",
        "DOORWARD_STATE_DIR": str(state),
    }
    command = [sys.executable, "-m", "doorward_server", "serve", "--demo", "examples/keyspaces"]
    log = state / "log"
    with log.open("w") as errors:
        server = subprocess.Popen(command, cwd=ROOT, env=outside | settings, stderr=errors)
    try:
        yield state, outside | {"DOORWARD_TARGET": _target(log, server)}
    finally:
        server.terminate()
        assert server.wait(30) == 0


def _target(log: Path, server: subprocess.Popen[bytes]) -> str:
    """Wait until the example data is there, and return where the server listens."""
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        up = re.search(r"^Doorward is up on (\S+)\.", log.read_text(), re.M)
        if up:
            return up[1]
        time.sleep(0.05)
    raise AssertionError(f"the server did not come up:\n{log.read_text()}")


def test_the_readme_shows_all_three_ways() -> None:
    assert [block.name for block in BLOCKS] == ["cli", "python", "grpcurl"]
    for block in BLOCKS:
        promised = " ".join(PROMISE.findall(block.text))
        assert re.search(r"ALLOW.*SCOPE_INSUFFICIENT.*KEY_REVOKED", promised), block.name


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_prints_what_it_says(block: Block, demo: tuple[Path, dict[str, str]]) -> None:
    state, environ = demo
    done = subprocess.run(
        block.command(state), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    rest = done.stdout
    for promise in PROMISE.findall(block.text):
        before, found, rest = rest.partition(promise)
        assert found, f"{promise!r} is not in the rest of what it printed:\n{before}\n{done.stderr}"
