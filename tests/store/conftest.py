"""Stores for the store's own tests, and the switch that plants a bug in all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doorward_server.store import Store
from tests import databases
from tests.store import plants, values

plants.plant_the_one_asked_for()


@pytest.fixture
def empty(store_url: str) -> Iterator[Store]:
    """A migrated store with nothing in it."""
    store = databases.open_store(store_url)
    yield store
    store.close()


@pytest.fixture
def store(empty: Store) -> Store:
    """A store with the keyspace aiia and the organizations acme and umbra."""
    values.populate(empty, "acme", "umbra")
    return empty
