"""What goes on in the background goes on: a defect is logged without its text, and the next attempt is made."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from doorward_server import app as app_module
from doorward_server.service.expiring import Expiring
from doorward_server.service.replica import Membership
from doorward_server.service.usage import LastUse
from doorward_server.service.waiting import Registry
from doorward_server.store import Store
from tests import databases
from tests.wire.serving import TIMEOUT, serving

CANARY = "canary-in-a-defect-5e1d"
WORK: dict[str, tuple[type, str]] = {
    "last uses": (LastUse, "flush"),
    "expiries": (Expiring, "sweep"),
    "this replica's beat": (Membership, "beat"),
    "the registry": (Registry, "tidy"),
    "the change log": (Store, "prune_changes"),
}


@pytest.mark.parametrize("name", WORK)
def test_a_defect_in_the_background_is_logged_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for seconds in ("FLUSH_SECONDS", "SWEEP_SECONDS", "BEAT_SECONDS", "TIDY_SECONDS", "PRUNE_SECONDS"):
        monkeypatch.setattr(app_module, seconds, 0.05)
    owner, method = WORK[name]
    tried, done = [0], threading.Event()
    original = getattr(owner, method)

    def failing(*given: Any, **named: Any) -> Any:
        tried[0] += 1
        if tried[0] <= 2:
            raise ZeroDivisionError(CANARY)
        done.set()
        return original(*given, **named)

    with databases.fresh("sqlite", tmp_path) as url, serving(url, tmp_path, furnished=False) as server:
        monkeypatch.setattr(owner, method, failing)
        assert done.wait(TIMEOUT)
        log = server.log.getvalue()
    lines = [json.loads(line) for line in log.splitlines()]
    defects = [line for line in lines if line["event"] == "defect"]
    assert [line["kind"] for line in defects] == ["ZeroDivisionError"] * 2
    assert all(line["where"][-1].startswith("failing:") for line in defects)
    assert CANARY not in log
