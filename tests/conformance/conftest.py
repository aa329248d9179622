"""One server for each module, shared by tests that each make customers of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests import databases
from tests.conformance.products import Desk
from tests.wire.serving import serving


@pytest.fixture(scope="module")
def store() -> str:
    """The kind of store: what it decides is the same on both, which tests/store and tests/wire show."""
    return "sqlite"


@pytest.fixture(scope="module")
def desk(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A Doorward without any keyspace but its own."""
    folder = tmp_path_factory.mktemp("desk")
    with (
        databases.fresh(store, folder) as url,
        serving(url, folder, furnished=False) as server,
        ExitStack() as stack,
    ):
        yield Desk(server, stack)
