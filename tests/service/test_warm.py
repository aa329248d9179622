"""A warm Authorize stays lean: what it does is counted, not timed, from the handler that grpcio calls to its bytes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from doorward.v1 import authz_pb2, keys_pb2
from doorward_server.core.errors import CallerForbidden, CallerUnauthenticated, StoreUnavailable
from doorward_server.core.freshness import Change, Dependency
from doorward_server.service import finding
from doorward_server.service.freshness import Memo
from doorward_server.service.pool import Pool
from doorward_server.service.recognizing import Recognition
from tests import databases
from tests.bench.warm import Context, bodies, furnished, handler, warmed
from tests.fakes import SECOND, FakeClock
from tests.service.door import Door, opened_door

FRAMES = 160
"""Calls of Python functions that a warm Authorize may take, coroutines included, but not asyncio's own. Some 145."""
DAY = 86_400


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with databases.fresh("sqlite", tmp_path) as url, opened_door(url, tmp_path, FakeClock()) as made:
        yield made


def ask(door: Door, key: str, body: bytes) -> authz_pb2.AuthorizeResponse:
    """One call, as grpcio would make it."""

    async def scene() -> bytes:
        call, _ = handler(door, "Authorize")
        return bytes(await call(body, Context(key)))

    answer = authz_pb2.AuthorizeResponse.FromString(door.run(scene()))
    answer.ClearField("decision_id")  # each has its own
    return answer


def frames(door: Door, key: str, body: bytes) -> int:
    """How many Python functions one more call enters."""
    entered: list[str] = []
    loops_own = str(Path(asyncio.__file__).parent)

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not frame.f_code.co_filename.startswith(loops_own):
            entered.append(frame.f_code.co_qualname)

    async def scene() -> None:
        call, _ = handler(door, "Authorize")
        context = Context(key)
        sys.setprofile(note)
        try:
            await call(body, context)
        finally:
            sys.setprofile(None)

    door.run(scene())
    return len(entered)


def test_a_warm_authorize_enters_few_functions_and_no_pool(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, keys, _ = furnished(door, 2)
    body, other = bodies(door.caller(backend).organization, keys)[:2]
    warmed(door)
    answers = [ask(door, backend, it) for it in (body, other)]

    async def refused(*_: Any) -> None:
        raise AssertionError("a warm Authorize asked the store")

    monkeypatch.setattr(Pool, "run", refused)
    assert [ask(door, backend, it) for it in (body, other)] == answers  # what is kept serialized says the same
    assert answers[0].identity.key_id != answers[1].identity.key_id
    assert frames(door, backend, body) <= FRAMES


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What callers presented whenever it was looked for, and not recognized."""
    seen: list[object] = []
    right = finding.Finder.find

    async def counted(self: finding.Finder, presented: Any, *more: Any) -> Any:
        if isinstance(presented, finding.HttpParts):
            seen.append(presented)
        return await right(self, presented, *more)

    monkeypatch.setattr(finding.Finder, "find", counted)
    return seen


def test_a_caller_is_recognized_only_while_its_record_is_remembered_under_a_lease(
    door: Door, looks: list[object]
) -> None:
    backend, *_ = furnished(door, 1)

    def looked(times: int) -> int:
        looks.clear()
        for _ in range(times):
            door.caller(backend)
        return len(looks)

    assert looked(3) == 3  # there is no lease yet
    warmed(door)
    assert looked(3) == 1
    caller, revision = door.caller(backend), door.app.store.revision()
    assert caller.subject.key is not None
    door.app.freshness.cache.apply(
        [Change(revision + 1, Dependency.on_key(caller.organization, caller.subject.key.id))], revision + 1
    )
    assert looked(2) == 2  # what is read now is older than the change, and not remembered
    warmed(door)
    assert looked(3) == 1
    door.app.freshness.lease.until = 0
    assert looked(2) == 2


def test_a_caller_is_proved_anew_with_new_peppers(door: Door, looks: list[object]) -> None:
    backend, *_ = furnished(door, 1)
    warmed(door)
    for _ in range(2):
        door.caller(backend)
    looks.clear()
    ring = door.app.servicers.keys._keys._mint._keyring  # type: ignore[attr-defined]  # of the whole process
    peppers = ring.current.peppers
    ring.current = replace(ring.current, peppers=replace(peppers, retired=frozenset({peppers.active})))
    with pytest.raises(StoreUnavailable):
        door.caller(backend)
    assert len(looks) == 1


def test_a_caller_that_is_recognized_is_good_for_no_longer(door: Door, looks: list[object]) -> None:
    backend, *_ = furnished(door, 1)
    organization = door.caller(backend).organization
    now = door.clock.now // SECOND
    ending = door.create(
        organization,
        "doorward",
        scopes=["backend"],
        not_before={"seconds": now},
        expiry={"instant": {"seconds": now + DAY}},
    ).secret
    warmed(door)
    for _ in range(2):
        door.caller(ending)
    looks.clear()
    for day, refused in ((DAY - 1, False), (1, True), (-2, False), (-DAY, True)):
        door.clock.advance(day)
        if refused:
            with pytest.raises(CallerUnauthenticated):
                door.caller(ending)
        else:
            door.caller(ending)
    assert not looks


def test_what_a_caller_may_ask_begins_and_ends_with_its_binding(door: Door) -> None:
    backend, keys, _ = furnished(door, 1)
    organization = door.caller(backend).organization
    now = door.clock.now // SECOND
    bound = {"role": "backend", "not_before": {"seconds": now + DAY}, "expires_at": {"seconds": now + 2 * DAY}}
    key = door.create(organization, "doorward", scopes=[], ceiling=keys_pb2.CEILING_LIST, bindings=[bound]).secret
    warmed(door)
    request = authz_pb2.AuthorizeRequest.FromString(bodies(organization, keys)[0])
    for day, allowed in ((0, False), (DAY, True), (0, True), (DAY, False), (-1, True), (-DAY, False), (DAY, True)):
        door.clock.advance(day)
        for _ in range(2):
            if allowed:
                door.run(door.authz.Authorize(request, door.caller(key)))
            else:
                with pytest.raises(CallerForbidden):
                    door.run(door.authz.Authorize(request, door.caller(key)))
    request.organization = "another"
    with pytest.raises(CallerForbidden):
        door.run(door.authz.Authorize(request, door.caller(key)))


PLANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[..., None]]] = {
    "passes outlive the moments of their record": (
        lambda patch: patch.setattr(Memo, "passes", lambda self, leave, now: leave in (self._passes or ())),
        test_what_a_caller_may_ask_begins_and_ends_with_its_binding,
    ),
    "a caller is recognized, whatever peppers have become of it": (
        lambda patch: patch.setattr(Recognition, "ring", None),
        test_a_caller_is_proved_anew_with_new_peppers,
    ),
    "what a caller was is remembered without its record": (
        lambda patch: patch.setattr(Recognition, "find", _remembering({}, Recognition.find)),
        test_a_caller_is_recognized_only_while_its_record_is_remembered_under_a_lease,
    ),
}


def _remembering(before: dict[Any, Any], right: Any) -> Any:
    def find(self: Recognition, headers: Any) -> Any:
        found = right(self, headers)
        return before.setdefault(tuple(headers), found) if found else before.get(tuple(headers))

    return find


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found_out(
    plant: str, door: Door, looks: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, notices = PLANTS[plant]
    spoil(monkeypatch)
    asked = (door, looks) if "looks" in notices.__code__.co_varnames else (door,)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        notices(*asked)
