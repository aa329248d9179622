"""What is answered while the store is lost: nothing, unless the operator and the keyspace accept old answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doorward.v1 import authz_pb2, keys_pb2, keyspaces_pb2
from doorward_server.core.errors import StoreUnavailable
from doorward_server.store import Store
from tests import databases
from tests.wire.replicas import asked, reason, shop, until, warm
from tests.wire.serving import Held, Server, refused, serving, unique
from tests.wire.tenants import Tenant, new_tenant


@contextmanager
def lost(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the store not answer until the end, and wait until the lease is over."""

    def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable

    with monkeypatch.context() as broken:
        for name in ("find_record", "find_keyspace_record", "find_principal_record", "open_tail"):
            broken.setattr(Store, name, fail)
        broken.setattr(server.app.tailing, "_connection", None)
        freshness = server.app.freshness
        until(lambda: not freshness.lease.live(freshness.boot()))
        yield
    warm(server)


def key_of(tenant: Tenant, keyspace: str) -> Held:
    return tenant.key(keyspace, ceiling=keys_pb2.CEILING_LIST, scopes=["reader"])


@pytest.mark.parametrize(("seconds", "vetoed"), [(0, False), (3600, True)])
def test_without_consent_a_lost_store_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, vetoed: bool
) -> None:
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(url, tmp_path, furnished=False, serve_stale_for=seconds) as server,
    ):
        tenant, keyspace = new_tenant(server), unique("shop")
        source = shop(keyspace) + ("serve_stale: false\n" if vetoed else "")
        tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=source, no_wait=True))
        held = key_of(tenant, keyspace)
        assert reason(server, held.text, tenant.id, keyspace) == "ALLOWED"
        with lost(server, monkeypatch):
            refusal = refused(lambda: reason(server, held.text, tenant.id, keyspace))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert reason(server, held.text, tenant.id, keyspace) == "ALLOWED"


def test_with_consent_what_is_known_is_answered_and_no_client_may_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        databases.fresh("sqlite", tmp_path) as url,
        serving(url, tmp_path, furnished=False, serve_stale_for=3600) as server,
    ):
        tenant, keyspace = new_tenant(server), unique("shop")
        tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=shop(keyspace), no_wait=True))
        held = key_of(tenant, keyspace)
        assert reason(server, held.text, tenant.id, keyspace) == "ALLOWED"
        with lost(server, monkeypatch):
            answer = asked(server, held.text, tenant.id, keyspace)
            assert answer.decision == authz_pb2.DECISION_ALLOW
            assert not answer.HasField("lease_cacheable_for")
            full = authz_pb2.Consistency(full=True)
            refusal = refused(lambda: asked(server, held.text, tenant.id, keyspace, consistency=full))
            assert refusal.reason == "STORE_UNAVAILABLE"
