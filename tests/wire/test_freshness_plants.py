"""Each clause is needed: with one of them taken out, what test_freshness.py forbids comes to pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.v1 import keys_pb2, keyspaces_pb2
from doorward_server.core.freshness import Outcome
from tests import databases
from tests.wire.replicas import Pair, blocked_tail, pair, reason, shop, warm
from tests.wire.serving import Held, unique
from tests.wire.tenants import Tenant, new_tenant


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Pair]:
    with databases.fresh("sqlite", tmp_path) as url, pair(url, tmp_path) as made:
        warm(made.one)
        warm(made.other)
        yield made


@pytest.fixture
def warmed(both: Pair) -> tuple[Tenant, str, Held]:
    """A key that the other replica knows by heart."""
    tenant, keyspace = new_tenant(both.one), unique("shop")
    tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=shop(keyspace)))
    held = tenant.key(keyspace, ceiling=keys_pb2.CEILING_LIST, scopes=["reader"])
    misses = -1
    while both.other.app.freshness.misses != misses:  # until all that is asked for is remembered
        misses = both.other.app.freshness.misses
        assert reason(both.other, held.text, tenant.id, keyspace) == "ALLOWED"
    return tenant, keyspace, held


def test_a_cache_that_drops_nothing_is_found_out(
    both: Pair, warmed: tuple[Tenant, str, Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, keyspace, held = warmed
    monkeypatch.setattr(both.other.app.freshness.cache, "_drop", lambda key: None)
    tenant.revoke(held.id)
    assert reason(both.other, held.text, tenant.id, keyspace) == "ALLOWED"


def test_a_change_that_does_not_wait_is_found_out(
    both: Pair, warmed: tuple[Tenant, str, Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, keyspace, held = warmed

    async def at_once(revision: int | None) -> Outcome:
        return Outcome.ACKNOWLEDGED

    monkeypatch.setattr(both.one.app._gate, "_spread", at_once)
    with blocked_tail(both.other):
        monkeypatch.setattr(both.other.app.freshness.lease, "until", 2**62)  # a slow test must not end it
        tenant.revoke(held.id)
        assert reason(both.other, held.text, tenant.id, keyspace) == "ALLOWED"


def test_a_lease_without_an_end_is_found_out(
    both: Pair, warmed: tuple[Tenant, str, Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, keyspace, held = warmed
    with blocked_tail(both.other):
        monkeypatch.setattr(both.other.app.freshness.lease, "until", 2**62)
        tenant.revoke(held.id)
        assert reason(both.other, held.text, tenant.id, keyspace) == "ALLOWED"
