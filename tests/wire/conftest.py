"""One server for each module and store, shared by tests that each make an organization of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from doorward.v1 import keyspaces_pb2
from tests import databases
from tests.wire.clinics import CLINIC
from tests.wire.serving import Server, serving
from tests.wire.tenants import Tenant, new_tenant

HOOKS: dict[str, Any] = {"webhook_allow_http": True, "webhook_allow_private": True}
"""So that tests can be receivers."""


@pytest.fixture(scope="module")
def transport() -> str:
    """Who speaks HTTP/2 in this module's servers."""
    return "grpcio"


@pytest.fixture(scope="module", params=databases.BACKENDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A furnished server on a store of either kind."""
    folder = tmp_path_factory.mktemp("server")
    with databases.fresh(str(request.param), folder) as url, serving(url, folder, **HOOKS) as server:
        yield server


@pytest.fixture
def acme(server: Server) -> Tenant:
    """A new organization."""
    return new_tenant(server, "acme")


@pytest.fixture
def globex(server: Server) -> Tenant:
    """Another one."""
    return new_tenant(server, "globex")


@pytest.fixture
def clinic(acme: Tenant) -> Tenant:
    """A new organization, where the keyspace `clinic` is applied."""
    acme.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=CLINIC))
    return acme
