"""kill -9 at every point of every step of a rotation: run again, it finishes, and meanwhile every key is proved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from doorward_server.core.verify import PepperState
from doorward_server.service.catalog import OPERATOR
from tests.fakes import FakeClock
from tests.service.hosts import host

ROOT = Path(__file__).parents[2]
LEAST = {"add": 8, "activate": 6, "rewrap": 12, "retire": 12}
"""Touches that a step has at least: fewer, and the harness kills nothing."""


def run_killing(url: str, folder: Path, step: str, *version: str) -> int:
    """How many processes were killed before one lived."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, str(Path(__file__).parent / "rotation_killing.py"), url, str(folder), step, *version]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_a_killed_step_finishes_when_it_is_run_again(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    with host(store_url, tmp_path, clock) as first:
        for _ in range(5):
            first.make_key()
        folder = first.config.state_dir
        texts = list(first.texts.values())
        (folder / "texts").write_text("\n".join(texts), "utf-8")
    for step, *version in (("add",), ("activate", "2"), ("rewrap",), ("retire", "1")):
        assert run_killing(store_url, folder, step, *version) >= LEAST[step]
    with host(store_url, tmp_path, clock, first) as second:
        assert {it.version: it.state for it in second.store.peppers.list_all()} == {
            1: PepperState.RETIRED,
            2: PepperState.ACTIVE,
        }
        assert second.ring().peppers.retired == {1}
        assert second.store.peppers.count_under(1) == 0
        assert [second.prove(text) for text in texts] == ["proved"] * len(texts)
        assert second.store.verify_chain(OPERATOR).ok
        events = [it.event.action for it in second.store.list_events(OPERATOR, 0, 1000)]
        done = [action for action in events if action.startswith("peppers:")]
        assert list(dict.fromkeys(done)) == [f"peppers:{step}" for step in LEAST], "each step is in the chain, in order"
        assert all(done.count(f"peppers:{step}") == 1 for step in ("add", "activate", "retire"))
    assert sorted(path.name for path in folder.iterdir() if ".new" in path.name) == []
