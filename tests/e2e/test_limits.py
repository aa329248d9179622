"""One key, many callers, several processes, one of them killed: no interval of the window's length has too much."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doorward import CallFailed, Client, Reason
from tests import databases
from tests.e2e.processes import TIMEOUT, Process, server

LIMIT, WINDOW, SECONDS = 50, 2.0, 5.0
"""Units in so many seconds, and for how long it is tried."""
CALLERS = 6
SHOP = f"""
keyspace: shop
prefix: shop
credentials: [{{header: x-api-key}}]
types: {{things: [read]}}
roles: {{reader: {{rules: [{{actions: ["things:read"]}}]}}}}
limits: {{windows: {{rate: {{limit: {LIMIT}, window: {WINDOW:.0f}s}}, wide: {{limit: 100000, window: 1d}}}}}}
"""
Span = tuple[float, float]
"""When a call that was allowed began and ended: it was let through somewhere between."""


def most_for_sure(admitted: list[Span], window: float) -> int:
    """The most calls that were let through, whatever the moment in each, within one interval of *window*."""
    most = 0
    for began, _ in admitted:
        most = max(most, sum(began <= start and end <= began + window for start, end in admitted))
    return most


def test_the_checker_counts_what_must_lie_within() -> None:
    spans = [(0.0, 0.1), (0.5, 0.6), (1.9, 2.1), (2.05, 2.2)]
    assert most_for_sure(spans, 2.0) == 3
    assert most_for_sure(spans, 3.0) == 4


@pytest.fixture(params=databases.BACKENDS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Process]]:
    """Two servers on one store, with one pepper file."""
    with databases.fresh(str(request.param), tmp_path) as url, ExitStack() as stack:
        yield [stack.enter_context(server(tmp_path, url)) for _ in range(2)]


def test_no_interval_has_more_than_the_limit_over_several_processes(fleet: list[Process]) -> None:
    root = (fleet[0].folder / "var" / "root-key").read_text().strip()
    with Client(f"127.0.0.1:{fleet[0].port}", root) as client:
        client.apply_keyspace(SHOP)
        client.create_organization("acme")
        made = client.create_key(organization="acme", keyspace="shop", name="busy", scopes=["reader"])
        assert made.secret is not None
        text = made.secret.reveal()
    admitted: list[Span] = []
    refused = itertools.count()
    stopping = threading.Event()
    threads = [
        threading.Thread(target=call_on, args=(fleet[n % 2].port, root, text, admitted, refused, stopping))
        for n in range(CALLERS)
    ]
    for thread in threads:
        thread.start()
    stopping.wait(SECONDS / 2)
    fleet[1].popen.send_signal(signal.SIGKILL)  # what it had leased is gone; nothing comes back twice
    stopping.wait(SECONDS / 2)
    stopping.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert most_for_sure(admitted, WINDOW) <= LIMIT
    # It did not just refuse: in that time two windows were filled at least, less what one process took with it.
    assert len(admitted) >= LIMIT
    assert next(refused) > LIMIT


def call_on(
    port: int, root: str, text: str, admitted: list[Span], refused: itertools.count[int], stopping: threading.Event
) -> None:
    """Ask as fast as it goes, until told to stop or the server is gone."""
    with Client(f"127.0.0.1:{port}", root) as client:
        while not stopping.is_set():
            began = time.monotonic()
            try:
                decision = client.authorize(text, keyspace="shop", action="things:read", organization="acme", timeout=5)
            except CallFailed:
                stopping.wait(0.1)
                continue
            if decision:
                admitted.append((began, time.monotonic()))
            else:
                assert decision.reason is Reason.RATE_LIMITED
                next(refused)
