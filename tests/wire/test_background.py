"""What goes on in the background goes on: a defect is logged without its text, and the next attempt is made."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from doorward_server import app as app_module
from doorward_server.app import App
from doorward_server.service.auditing import AuditRetention
from doorward_server.service.counting import Counting
from doorward_server.service.decision_log import Recorder
from doorward_server.service.expiring import Expiring
from doorward_server.service.noticing import Noticing
from doorward_server.service.replica import Membership
from doorward_server.service.retention import Retention
from doorward_server.service.usage import LastUse
from doorward_server.service.waiting import Registry
from doorward_server.store import Store
from tests import databases
from tests.wire.replicas import until
from tests.wire.serving import TIMEOUT, serving

CANARY = "canary-in-a-defect-5e1d"
WORK: dict[str, tuple[type, str]] = {
    "last uses": (LastUse, "flush"),
    "expiries": (Expiring, "sweep"),
    "this replica's beat": (Membership, "beat"),
    "the registry": (Registry, "tidy"),
    "the change log": (Store, "prune_changes"),
    "usage": (Counting, "flush"),
    "alerts": (Noticing, "flush"),
    "recorded decisions": (Recorder, "flush"),
    "what is too old": (Retention, "sweep"),
    "audit events": (AuditRetention, "sweep"),
}


@pytest.mark.parametrize("name", WORK)
def test_a_defect_in_the_background_is_logged_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for seconds in (
        "FLUSH_SECONDS",
        "SWEEP_SECONDS",
        "BEAT_SECONDS",
        "TIDY_SECONDS",
        "PRUNE_SECONDS",
        "RETENTION_SECONDS",
    ):
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


@pytest.mark.parametrize("turns", range(6))
def test_flushing_ends_when_it_is_told_to_even_as_a_use_is_noted(tmp_path: Path, turns: int) -> None:
    """asyncio.wait_for of Python 3.11 forgets a cancellation that comes right after what it waited for."""

    async def noted_then_cancelled(app: App) -> bool:
        flushing = asyncio.create_task(app._keep_flushing())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        app.uses.due.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        flushing.cancel()
        ended, _ = await asyncio.wait({flushing}, timeout=TIMEOUT / 2)
        flushing.cancel()
        return bool(ended)

    with databases.fresh("sqlite", tmp_path) as url, serving(url, tmp_path, furnished=False) as server:
        assert server.on_loop(lambda: noted_then_cancelled(server.app))


def test_audit_events_that_are_too_old_are_pruned_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "RETENTION_SECONDS", 0.05)
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(url, tmp_path, furnished=False, audit_retention_days=30) as server,
    ):
        store = server.app.store
        assert store.list_events("operator", 0, 9)[0].sequence == 1
        server.clock.advance(40 * 86_400)
        until(lambda: store.verify_chain("operator").first > 1)
        assert store.verify_chain("operator").ok
