"""One active key for each owner, whoever asks at the same moment for another: on both stores, by every way in.

The planted bug decides before the transaction what only the transaction can know; the same checks must notice it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from doorward.v1 import keys_pb2
from doorward_server.core.errors import DoorwardError, TooManyActiveKeys
from doorward_server.core.fields import Default
from doorward_server.core.model import DAY, Key, KeyFilter, State
from doorward_server.service.guard import Caller
from doorward_server.service.requests import Repeat
from doorward_server.service.settings import NewKey
from doorward_server.store import Store, Written, keys
from tests.fakes import FakeClock
from tests.service.door import Door, keyspace, row

THREADS = 32
ON_EXCEED = ("reject", "revoke_oldest")
LEGACY = "legacy: [{name: old, prefix: 'old_', alphabet: hex, length: 32, entropy_bits: 128}]"
ALICE = KeyFilter(keyspace="shop", owner="alice")


class Crowd:
    """An organization with alice in it, who may have one active key, and many threads that act for her at once."""

    def __init__(self, door: Door, on_exceed: str) -> None:
        self.door = door
        self.on_exceed = on_exceed
        self.organization = door.organization("acme", "alice")
        self.root = door.caller()
        door.apply(self._file())
        self.new = NewKey(
            organization=self.organization,
            keyspace="shop",
            owner="alice",
            name="alice's laptop",
            description="",
            environment="",
            type="",
            ceiling=None,
            scopes=("reader",),
            bindings=(),
            allowed_cidrs=(),
            metadata={},
            not_before=None,
            expiry=Default(),
        )

    def _file(self, rails: str = "") -> str:
        limit = rails or f"active_per_owner: {{maximum: 1, on_exceed: {self.on_exceed}}}"
        return keyspace("shop", "prefix: sh", LEGACY, f"keys: {{{limit}}}")

    def create(self) -> tuple[str, ...]:
        return self.door.app.keys.create(self.caller(), self.new, Repeat()).replaced

    def update(self, id: str, **settings: Any) -> tuple[str, ...]:
        return self.door.app.keys.update(self.caller(), self.organization, id, settings, "").replaced

    def caller(self) -> Caller:
        """Root, in a call of its own."""
        return self.root._replace(checked=[])

    def sleeping(self, **settings: Any) -> list[str]:
        """Ids of `THREADS` keys of alice, none of which is active."""
        self.door.apply(self._file("owner: required"))
        made = [self.door.app.keys.create(self.caller(), self.new, Repeat()).key.id for _ in range(THREADS)]
        for id in made:
            self.update(id, **settings)
        self.door.apply(self._file())
        return made

    def at_once(self, work: Callable[[int], object]) -> list[DoorwardError]:
        """Run *work* in all threads, and return the refusals."""
        start, refusals, failures = threading.Barrier(THREADS), list[DoorwardError](), list[BaseException]()

        def run(number: int) -> None:
            try:
                start.wait()
                work(number)
            except DoorwardError as refusal:
                refusals.append(refusal)
            except BaseException as failure:  # raised below  # noqa: BLE001
                failures.append(failure)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return refusals

    def hers(self) -> list[Key]:
        """All keys of alice."""
        return self.door.app.store.list_keys(self.organization, ALICE, None, 1000, self.door.clock())

    def count(self, state: State) -> int:
        return sum(key.state(self.door.clock()) is state for key in self.hers())

    def check_one_is_left(self, refusals: list[DoorwardError]) -> None:
        """Exactly one key is active, and each of the others says why it is not."""
        assert self.count(State.ACTIVE) == 1
        assert {type(refusal) for refusal in refusals} <= {TooManyActiveKeys}
        assert len(refusals) == (THREADS - 1 if self.on_exceed == "reject" else 0)
        assert self.count(State.REVOKED) == (0 if self.on_exceed == "reject" else THREADS - 1)
        assert self.door.app.store.verify_chain(self.organization).ok


@pytest.fixture(params=ON_EXCEED)
def crowd(request: pytest.FixtureRequest, door: Door) -> Crowd:
    return Crowd(door, request.param)


def check_creation(crowd: Crowd) -> None:
    replaced: list[str] = []
    refusals = crowd.at_once(lambda _: replaced.extend(crowd.create()))
    crowd.check_one_is_left(refusals)
    assert sorted(replaced) == sorted(key.id for key in crowd.hers() if key.revoked_at is not None)
    assert crowd.door.app.store.count_keys(crowd.organization) == 1
    ended = [event for event in crowd.door.events(crowd.organization, "keys:create") if event.note]
    assert len(ended) == len(replaced)


def check_enabling(crowd: Crowd) -> None:
    asleep = crowd.sleeping(enabled=False)
    crowd.check_one_is_left(crowd.at_once(lambda number: crowd.update(asleep[number], enabled=True)))


def test_of_many_that_are_made_at_once_one_is_left(crowd: Crowd) -> None:
    check_creation(crowd)


def test_of_many_that_are_enabled_at_once_one_is_left(crowd: Crowd) -> None:
    check_enabling(crowd)


def test_of_many_that_get_a_later_expiry_at_once_one_is_left(crowd: Crowd, clock: FakeClock) -> None:
    asleep = crowd.sleeping(expires_at=clock() + DAY)
    clock.advance(2 * DAY / 1_000_000)
    crowd.check_one_is_left(crowd.at_once(lambda number: crowd.update(asleep[number], expires_at=clock() + DAY)))


def test_every_way_in_at_once_leaves_one(crowd: Crowd) -> None:
    """Threads create and enable while others rotate what is active, and an import runs in the middle of it."""
    asleep = crowd.sleeping(enabled=False)
    rows = [row(text=f"old_{number:032x}", owner="alice") for number in range(8)]
    answers: list[keys_pb2.ImportKeysResponse] = []

    def rotate_all() -> None:
        for key in crowd.hers():
            if key.state(crowd.door.clock()) is State.ACTIVE:
                crowd.door.app.keys.rotate(crowd.caller(), crowd.organization, key.id, 0, Repeat())

    def work(number: int) -> None:
        if number == 0:
            answers.append(crowd.door.take_in(crowd.organization, "shop", *rows, by=crowd.caller()))
        elif number % 3 == 0:
            rotate_all()
        elif number % 3 == 1:
            crowd.create()
        else:
            crowd.update(asleep[number], enabled=True)

    refusals = crowd.at_once(work)
    assert crowd.count(State.ACTIVE) == 1
    assert {refusal.reason for refusal in refusals} <= {"TOO_MANY_ACTIVE_KEYS", "KEY_IS_REVOKED"}
    created = {keys_pb2.ImportOutcome.Name(it.outcome) for it in answers[0].results}
    assert created <= {"IMPORT_OUTCOME_CREATED", "IMPORT_OUTCOME_REJECTED"}
    assert crowd.door.app.store.verify_chain(crowd.organization).ok


# --- the planted bug --------------------------------------------------------------------------------------------------


def count_outside_the_transaction(patch: pytest.MonkeyPatch) -> None:
    """The store counts the owner's keys first, and begins the transaction that relies on it when all have counted."""
    counted, told = threading.Barrier(THREADS), threading.local()
    count = keys.too_many

    def too_many(tx: Any, key: Key, limit: Any, unwritten: int = 0) -> int:
        return told.surplus if hasattr(told, "surplus") else count(tx, key, limit, unwritten)

    def early(name: str, of: Callable[[Store, Any], Key]) -> None:
        real = getattr(Store, name)

        def call(self: Store, *args: Any, limit: Any = None, **others: Any) -> Written[Key]:
            if limit is not None and threading.current_thread() is not threading.main_thread():
                key = of(self, args)
                told.surplus = self._read(lambda tx: count(tx, key, limit))
                counted.wait()
            return real(self, *args, limit=limit, **others)  # type: ignore[no-any-return]

        patch.setattr(Store, name, call)

    def enabled(store: Store, args: Any) -> Key:
        key = store.find_key(args[0], args[1])
        assert key is not None
        return replace(key, enabled=True)

    patch.setattr(keys, "too_many", too_many)
    early("add_key", lambda _, args: args[0])
    early("update_key", enabled)


@pytest.mark.parametrize("check", [check_creation, check_enabling])
def test_a_count_outside_the_transaction_is_noticed(
    crowd: Crowd, check: Callable[[Crowd], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    count_outside_the_transaction(monkeypatch)
    with pytest.raises(AssertionError):
        check(crowd)
    assert crowd.count(State.ACTIVE) == THREADS
