"""A Doorward on either store, for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeClock
from tests.service.door import Door, opened_door
from tests.service.hosts import Host, host


@pytest.fixture
def door(store_url: str, tmp_path: Path, clock: FakeClock) -> Iterator[Door]:
    """A Doorward on a new store."""
    with opened_door(store_url, tmp_path, clock) as door:
        yield door


@pytest.fixture
def alone(store_url: str, tmp_path: Path, clock: FakeClock) -> Iterator[Host]:
    """One host of which the pepper can be changed, with three keys beside its root key, without load."""
    with host(store_url, tmp_path, clock) as alone:
        for _ in range(3):
            alone.make_key()
        yield alone
