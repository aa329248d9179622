"""README.md's quick start, and what `make run` says to type, work as they stand.

Each block below the heading "Quick start" that `<!-- test: NAME -->` precedes is run, in order, in a folder that looks
like a clone in which `make run` is running: the server is started as make starts it. Every `# → TEXT` in a block must
come out, in that order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import furnished
from tests.e2e.processes import ROOT, Process, run, server

README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^<!-- test: (\S+) -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNERS = {"sh": ["bash"], "bash": ["bash"], "python": [".venv/bin/python"]}


def quick_start() -> str:
    (section,) = re.findall(r"^## Quick start\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    return str(section)


BLOCKS = {name: (language, code) for name, language, code in BLOCK.findall(quick_start())}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A folder like a clone, with a demo server on SQLite running in it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in (".venv", "examples"):
        (folder / name).symlink_to(ROOT / name)
    with server(folder, "", "--demo", "examples/keyspaces", cwd=folder, state_dir="var") as process:
        furnished(process)
        yield process


def environment_of(clone: Process) -> dict[str, str]:
    """What a newcomer's terminal has, and where this test's server is."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOORWARD_")}
    return {**inherited, "DOORWARD_TARGET": clone.target}


def test_the_quick_start_has_all_three_means_and_no_block_that_is_not_tested() -> None:
    assert {"cli", "python", "grpcurl"} <= BLOCKS.keys()
    assert len(re.findall(r"^```\w", quick_start(), re.MULTILINE)) == len(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_does_what_it_says(clone: Process, name: str) -> None:
    language, code = BLOCKS[name]
    script = clone.folder / f"block-{name}"
    script.write_text(code, "utf-8")
    done = run(*RUNNERS[language], script, env=environment_of(clone), cwd=clone.folder)
    output = done.stdout + done.stderr
    position = 0
    for expected in re.findall(r"# → (.*)", code):
        position = output.find(expected, position) + len(expected)
        assert position >= len(expected), f"{expected!r} is not (or not there) in:\n{output}"
    assert "Traceback" not in output


def test_the_three_commands_that_the_demo_prints_can_be_pasted(clone: Process) -> None:
    said = clone.output.partition("In another terminal")[2]
    commands = [line for line in said.splitlines() if line.startswith(("export", "doorward"))]
    assert len(commands) == 3
    script = clone.folder / "pasted"
    script.write_text("\n".join(commands), "utf-8")
    done = run("bash", script, env=environment_of(clone), cwd=clone.folder)
    assert done.returncode == 0, done.stderr
    assert "ALLOWED" in done.stdout + done.stderr
    assert Path(clone.folder / "var" / "servicenow.key").read_text().startswith("aiia_key_live_")
