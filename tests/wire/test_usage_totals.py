"""Usage equals what was handed out, by reason: over replicas, RPCs and client caches; planted bugs turn it red."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from doorward import Client
from doorward.v1 import authz_pb2, keyspaces_pb2
from doorward.v1 import usage_pb2 as pb
from doorward_server.core.errors import DoorwardError, StoreUnavailable
from doorward_server.core.usage import Folding
from doorward_server.service.counting import Counting
from doorward_server.service.telling import Telling
from doorward_server.store.usage import UsageStore
from tests import databases
from tests.wire.replicas import Pair, pair, shop, until
from tests.wire.serving import broken, unique
from tests.wire.tenants import Tenant, never_made, new_tenant

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module", params=databases.BACKENDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two replicas on one store of either kind."""
    folder = tmp_path_factory.mktemp("pair")
    with databases.fresh(str(request.param), folder) as url, pair(url, folder) as both:
        yield both


class Crowd:
    """Callers who ask all kinds of questions, and count the answers by reason."""

    def __init__(self, both: Pair, seed: int) -> None:
        self.both = both
        self.dice = random.Random(seed)
        self.tenant = new_tenant(both.one)
        self.keyspace = unique("shop")
        self.tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=shop(self.keyspace)))
        keys = [self.tenant.key(self.keyspace, ceiling=2, scopes=scopes) for scopes in (["reader"], ["reader"], [])]
        self.texts = [held.text for held in keys]
        self.tenant.revoke(keys[1].id)
        own = self.tenant.key("doorward", scopes=["backend"]).text
        self.apis = [Tenant(server, self.tenant.id).server.api(own) for server in (both.one, both.other)]
        self.own = own
        self.told: Counter[str] = Counter()

    def ask(self) -> None:
        """One call of some kind to one of the replicas."""
        api = self.dice.choice(self.apis).authz
        text = self.dice.choice([*self.texts, broken(self.texts[0]), never_made(self.keyspace), "of_somebody_else"])
        about: dict[str, Any] = {"key": text, "keyspace": self.keyspace}
        kind = self.dice.choice(["one", "one", "batch", "introspect", "dry", "explain"])
        question = authz_pb2.AuthorizeRequest(
            **about, action=self.dice.choice(["things:read", "things:write"]), organization=self.tenant.id
        )
        question.resource.type, question.resource.id = "things", f"t{self.dice.randrange(200)}"
        if kind == "one":
            self._note(api.Authorize(question))
        elif kind == "batch":
            items = [authz_pb2.BatchAuthorizeItem(action=a) for a in ("things:read", "things:write", "no:such")]
            batch = authz_pb2.BatchAuthorizeRequest(**about, organization=self.tenant.id, items=items)
            for result in api.BatchAuthorize(batch).results:
                if not result.HasField("error"):
                    self._note(result)
        elif kind == "introspect":
            self._note(api.Introspect(authz_pb2.IntrospectRequest(**about)))
        elif kind == "dry":
            question.dry_run = True
            api.Authorize(question)
        else:
            explained = authz_pb2.ExplainAuthorizationRequest(question=question)
            self.tenant.root.authz.ExplainAuthorization(explained)

    def _note(self, answer: Any) -> None:
        self.told[authz_pb2.Reason.Name(answer.reason).removeprefix("REASON_")] += 1

    def counted(self) -> Counter[str]:
        """What the store has, by reason."""
        scope = pb.UsageScope(organization=self.tenant.id, keyspace=self.keyspace)
        request = pb.GetUsageRequest(scope=scope, group_by=[pb.USAGE_DIMENSION_REASON])
        (by_reason,) = self.tenant.root.usage.GetUsage(request).breakdowns
        return Counter({it.value: it.count.allowed + it.count.denied for it in by_reason.values})

    def flush(self) -> None:
        for server in (self.both.one, self.both.other):
            with suppress(DoorwardError):
                server.on_loop(server.app.counting.flush)


@pytest.mark.parametrize("seed", range(2))
def test_usage_is_what_was_handed_out(both: Pair, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although every third flush fails, before its commit or, unknown to whoever flushed, after it."""
    crowd, flushes = Crowd(both, seed), [0]
    original = UsageStore.add

    def failing(self: UsageStore, *given: Any) -> bool:
        flushes[0] += 1
        if flushes[0] % 3 == 0:
            if flushes[0] % 2:
                original(self, *given)
            raise StoreUnavailable
        return original(self, *given)

    monkeypatch.setattr(UsageStore, "add", failing)
    for i in range(60):
        crowd.ask()
        if i % 10 == 9:
            crowd.flush()
    monkeypatch.undo()
    crowd.flush()
    assert crowd.counted() == crowd.told
    assert len(crowd.told) >= 4


def test_what_client_caches_answer_is_in_it(both: Pair) -> None:
    crowd = Crowd(both, 0)
    with Client(both.other.target, crowd.own, cache=100) as client:

        def ask() -> None:
            decision = client.authorize(
                crowd.texts[0], keyspace=crowd.keyspace, action="things:read", organization=crowd.tenant.id, timeout=30
            )
            crowd.told[str(decision.reason)] += 1

        def remembered() -> bool:
            ask()
            info = client.cache_info()
            return info is not None and info.hits >= 100

        until(remembered)

        def arrived() -> bool:
            crowd.flush()
            return crowd.counted() == crowd.told

        until(arrived)


def _forgets(patch: pytest.MonkeyPatch) -> None:
    """A flush that fails loses what it had."""
    original = Counting.flush

    async def flush(self: Counting) -> None:
        try:
            await original(self)
        except DoorwardError:
            self._flushing._sent = type(self._flushing._sent)()
            raise

    patch.setattr(Counting, "flush", flush)


def _counts_twice(patch: pytest.MonkeyPatch) -> None:
    """A flush that is sent again is taken for another one."""
    original = UsageStore.add
    numbers = iter(range(1_000_000, 2_000_000))
    patch.setattr(UsageStore, "add", lambda self, source, _, *rest: original(self, source, next(numbers), *rest))


def _counts_dry_runs(patch: pytest.MonkeyPatch) -> None:
    original = Telling.handed_out

    async def handed_out(self: Telling, caller: Any, ask: Any, *rest: Any) -> Any:
        return await original(self, caller, ask._replace(dry_run=False), *rest)

    patch.setattr(Telling, "handed_out", handed_out)


def _folds_away(patch: pytest.MonkeyPatch) -> None:
    """What is too much to be told apart is not counted."""
    original = Folding.fold

    def fold(self: Folding, counts: Any, into: Any) -> None:
        original(self, {it: n for it, n in counts.items() if len(it.path) < 2 or it.reason == "ALLOWED"}, into)

    patch.setattr(Folding, "fold", fold)


@pytest.mark.parametrize("plant", [_forgets, _counts_twice, _counts_dry_runs, _folds_away], ids=lambda it: it.__name__)
def test_planted_bugs_are_found(both: Pair, monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        test_usage_is_what_was_handed_out(both, 1, monkeypatch)
