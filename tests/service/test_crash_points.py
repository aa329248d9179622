"""kill -9 between any two statements of CreateKey leaves a whole key with its audit event, or neither."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from doorward_server.core.model import KeyFilter
from doorward_server.service.peppers import read_ring
from doorward_server.store import Store
from tests import databases

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("backend", databases.BACKENDS)
def test_a_crash_at_any_statement_leaves_a_whole_key_or_none(backend: str, tmp_path: Path) -> None:
    with databases.fresh(backend, tmp_path, migrated=False) as url:
        done = subprocess.run(
            [sys.executable, "-m", "tests.service.dying", url, str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        runs = [json.loads(line) for line in done.stdout.splitlines()]
        assert [run["died"] for run in runs] == [True] * (len(runs) - 1) + [False]
        assert len(runs) > 6  # key, secret, request_id, event, tally, commit
        ring = read_ring(tmp_path / "peppers.json")
        assert ring is not None
        store = Store(url, audit_keys=ring.peppers.audit_key, pepper=1)
        keys = {key.name: key for key in store.list_keys("operator", KeyFilter(), None, 1000, 0)}
        events = [stored.event for stored in store.list_events("operator", 0, 1000)]
        report = store.verify_chain("operator")
        counted = store.count_keys("operator")
        store.close()
    made = {event.target for event in events if event.action == "keys:create"}
    assert {key.id for key in keys.values()} == made
    assert all(len(key.secrets) == 1 and key.scopes for key in keys.values())
    assert report.ok
    assert counted == len(keys)
    # What died before its commit is gone whole; what died after it, before the answer, is there whole.
    assert keys.keys() == {"root", f"{len(runs) - 1}", f"{len(runs)}"}
