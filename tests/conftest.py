"""What every test may ask for: a store on both backends, a clock that stands still, dice that repeat themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.fakes import FakeClock, FakeRandom


@pytest.fixture(params=databases.BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Both backends, one after the other."""
    return str(request.param)


@pytest.fixture
def store_url(backend: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated store with nothing in it."""
    with databases.fresh(backend, tmp_path) as url:
        yield url


@pytest.fixture
def empty_store_url(backend: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table; on SQLite, of a file that does not exist."""
    with databases.fresh(backend, tmp_path, migrated=False) as url:
        yield url


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def random() -> FakeRandom:
    """Bytes that look random and are the same in every run."""
    return FakeRandom()
