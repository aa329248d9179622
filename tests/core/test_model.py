"""Keys and what may become of them: a machine that does anything in any order, next to a dull account of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from doorward_server.core import decide, keytext, model, policy, verify
from doorward_server.core.directory import Organization, Principal, PrincipalKind
from doorward_server.core.errors import InvalidField, KeyIsExpired, KeyIsRevoked, QuotaExceeded
from doorward_server.core.model import (
    DAY,
    KEPT_SECRETS,
    MAX_GRACE,
    MAX_LIVE_SECRETS,
    SECOND,
    Ceiling,
    Key,
    Secret,
    State,
)
from doorward_server.core.verify import Verifier
from tests.core import worlds

START = worlds.NOW
NEVER = 10**30
SETTINGS = ("name", "description", "enabled", "expires_at", "not_before", "scopes", "allowed_cidrs", "metadata")
SEEN = ("revoked", "expired", "too many", "rotated", "overlapping", "finished", "deleted", "deleted after revoked")
"""What the machine must have met often enough."""
GRACES = (0, 1, SECOND, DAY, MAX_GRACE)


def secret(number: int, at: int) -> Secret:
    """Return the secret of this number, made at *at*."""
    return Secret(f"s{number}", f"l{number}", Verifier("hmac-sha256", 1, b"%d" % number), "1234", at)


def new_key(**settings: Any) -> Key:
    """Return a key with one secret."""
    key = Key(
        organization="acme",
        id="k1",
        keyspace="ks",
        owner="alice",
        name="ci",
        description="",
        environment="live",
        type="",
        enabled=True,
        ceiling=Ceiling.LIST,
        scopes=("read",),
        bindings=(),
        allowed_cidrs=(),
        metadata={},
        not_before=None,
        expires_at=None,
        created_at=START,
        updated_at=START,
        secrets=(secret(0, START),),
    )
    return dataclasses.replace(key, **settings)


class KeyMachine(RuleBasedStateMachine):
    """Does to a key whatever can be done, and keeps its own account of when each secret ends."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.key = new_key()
        self.before = self.key
        self.ends = {"s0": NEVER}
        """By secret, oldest first."""
        self.dead: set[str] = set()
        self.revoked: tuple[int, str] | None = None
        self.deleted: int | None = None

    def become(self, key: Key) -> None:
        """Take over what a change returned: the same object if nothing changed, else the next version."""
        if key is not self.key:
            assert key != self.key
            assert key.version == self.key.version + 1
            assert key.updated_at == self.now
        for name in ("organization", "id", "keyspace", "owner", "environment", "type", "ceiling", "created_at"):
            assert getattr(key, name) == getattr(self.key, name)
        self.before, self.key = self.key, key

    @rule(by=st.sampled_from([1, SECOND, DAY, MAX_GRACE, 400 * DAY]))
    def time_passes(self, by: int) -> None:
        self.now += by

    @rule(grace=st.sampled_from(GRACES))
    def rotate(self, grace: int) -> None:
        newest = secret(len(self.ends), self.now)
        ends = {id: min(end, self.now + grace) for id, end in self.ends.items()}
        if self.revoked is not None:
            self.seen["revoked"] += 1
            with pytest.raises(KeyIsRevoked):
                self.key.rotate(newest, self.now, grace)
        elif self.key.state(self.now) is State.EXPIRED:
            self.seen["expired"] += 1
            with pytest.raises(KeyIsExpired):
                self.key.rotate(newest, self.now, grace)
        elif sum(end > self.now for end in ends.values()) >= MAX_LIVE_SECRETS:
            self.seen["too many"] += 1
            with pytest.raises(QuotaExceeded):
                self.key.rotate(newest, self.now, grace)
        else:
            self.seen["rotated"] += 1
            self.seen["overlapping"] += grace > 0
            self.become(self.key.rotate(newest, self.now, grace))
            self.ends = ends | {newest.id: NEVER}
            assert dataclasses.replace(self.key, secrets=(), version=0, updated_at=0) == dataclasses.replace(
                self.before, secrets=(), version=0, updated_at=0
            )

    @rule(times=st.integers(8, 12))
    def rotate_often(self, times: int) -> None:
        for _ in range(times):
            self.rotate(MAX_GRACE)

    @rule(grace=st.sampled_from([-1, MAX_GRACE + 1]))
    @precondition(lambda self: self.key.state(self.now) is State.ACTIVE)
    def rotate_with_a_wrong_grace(self, grace: int) -> None:
        with pytest.raises(InvalidField, match="grace"):
            self.key.rotate(secret(99, self.now), self.now, grace)

    @rule()
    def finish_rotation(self) -> None:
        newest = max(self.ends, key=lambda id: int(id[1:]))
        if self.revoked is not None:
            with pytest.raises(KeyIsRevoked):
                self.key.finish_rotation(self.now)
        else:
            self.become(self.key.finish_rotation(self.now))
            overlapping = any(end > self.now for id, end in self.ends.items() if id != newest)
            assert (self.key is not self.before) is overlapping
            self.seen["finished"] += overlapping
            self.ends = {id: end if id == newest else min(end, self.now) for id, end in self.ends.items()}

    @rule(
        name=st.sampled_from(["ci", "deploy"]),
        enabled=st.booleans(),
        expires_in=st.sampled_from([None, 0, 1, 500 * DAY]),
        starts_in=st.sampled_from([None, None, 0, 1]),
    )
    def update(self, name: str, enabled: bool, expires_in: int | None, starts_in: int | None) -> None:
        settings: dict[str, Any] = {
            "name": name,
            "enabled": enabled,
            "expires_at": None if expires_in is None else self.now + expires_in,
            "not_before": None if starts_in is None else self.now + starts_in,
        }
        if self.revoked is not None:
            with pytest.raises(KeyIsRevoked):
                self.key.update(self.now, **settings)
        else:
            same = all(getattr(self.key, field) == value for field, value in settings.items())
            self.become(self.key.update(self.now, **settings))
            assert (self.key is self.before) is same
            assert all(getattr(self.key, field) == value for field, value in settings.items())
            assert self.key.secrets == self.before.secrets

    @rule()
    def update_with_what_it_has(self) -> None:
        settings = {name: getattr(self.key, name) for name in SETTINGS}
        if self.revoked is None:
            assert self.key.update(self.now, **settings) is self.key
            assert self.key.update(self.now) is self.key

    @rule(reason=st.sampled_from(["", "leaked"]), dice=st.integers(0, 3))
    def revoke(self, reason: str, dice: int) -> None:
        if dice == 3 or self.revoked is not None:
            self.become(self.key.revoke(self.now, reason))
            assert (self.key is self.before) is (self.revoked is not None)
            self.revoked = self.revoked or (self.now, reason)

    @rule(dice=st.integers(0, 5))
    def delete(self, dice: int) -> None:
        if dice == 5 or self.revoked is not None:
            self.seen["deleted"] += 1
            self.seen["deleted after revoked"] += self.revoked is not None and self.deleted is None
            self.become(self.key.delete(self.now))
            assert (self.key is self.before) is (self.deleted is not None)
            self.revoked = self.revoked or (self.now, "deleted")
            self.deleted = self.now if self.deleted is None else self.deleted

    @invariant()
    def revocation_is_permanent(self) -> None:
        assert self.key.deleted_at == self.deleted
        if self.revoked is None:
            assert self.key.revoked_at is None
            assert self.key.state(self.now) is not State.REVOKED
        else:
            assert (self.key.revoked_at, self.key.revoke_reason) == self.revoked
            for moment in (0, self.now, self.now + 1, NEVER):
                assert self.key.state(moment) is State.REVOKED

    @invariant()
    def each_secret_ends_when_the_account_says(self) -> None:
        for held in self.key.secrets:
            end = NEVER if held.expires_at is None else held.expires_at
            assert end == self.ends[held.id]
            assert held.alive(self.now) is (self.now < end)

    @invariant()
    def the_dead_stay_dead(self) -> None:
        alive = {held.id for held in self.key.secrets if held.alive(self.now)}
        assert not alive & self.dead
        self.dead |= set(self.ends) - alive

    @invariant()
    def not_too_many_secrets_live(self) -> None:
        assert 1 <= sum(held.alive(self.now) for held in self.key.secrets) <= MAX_LIVE_SECRETS

    @invariant()
    def the_newest_and_all_live_secrets_are_there_newest_first(self) -> None:
        ever = list(reversed(self.ends))
        held = [it.id for it in self.key.secrets]
        assert held == [id for id in ever if id in set(held)]
        assert held[: KEPT_SECRETS + 1] == ever[: KEPT_SECRETS + 1]
        assert {id for id, end in self.ends.items() if self.now < end} <= set(held)
        assert all(one.created_at >= two.created_at for one, two in itertools.pairwise(self.key.secrets))
        assert self.key.secrets[0].expires_at is None


def test_a_key_keeps_its_promises_whatever_is_done_to_it() -> None:
    KeyMachine.seen.clear()
    run_state_machine_as_test(KeyMachine, settings=worlds.examples(300, steps=30))
    worlds.assert_reached(KeyMachine.seen, SEEN, 20)


def test_the_bounds_are_these() -> None:
    """Instants are microseconds. What else counts in them would be wrong by as much."""
    assert (SECOND, DAY, MAX_GRACE) == (1_000_000, 86_400_000_000, 90 * 86_400_000_000)
    assert MAX_LIVE_SECRETS == 10
    assert new_key().version == 1


# --- the same, one by one ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revoked", [None, START])
@pytest.mark.parametrize("deleted", [None, START])
@pytest.mark.parametrize("expires", [None, START - 1, START, START + 1])
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("begins", [None, START - 1, START, START + 1])
def test_the_first_state_that_holds_is_shown(
    revoked: int | None, deleted: int | None, expires: int | None, enabled: bool, begins: int | None
) -> None:
    key = new_key(revoked_at=revoked, deleted_at=deleted, expires_at=expires, enabled=enabled, not_before=begins)
    holding = [
        (State.REVOKED, revoked is not None or deleted is not None),
        (State.EXPIRED, expires in (START - 1, START)),
        (State.DISABLED, not enabled),
        (State.NOT_YET_VALID, begins == START + 1),
        (State.ACTIVE, True),
    ]
    assert key.state(START) is next(state for state, holds in holding if holds)


@pytest.mark.parametrize("end", [{"revoked_at": START}, {"deleted_at": START}, {"revoked_at": 0, "deleted_at": 0}])
def test_nothing_is_done_to_a_key_that_ended(end: dict[str, int]) -> None:
    key = new_key(**end, secrets=(secret(1, START), secret(0, START)))
    changes: tuple[Callable[[], Key], ...] = (
        lambda: key.rotate(secret(2, START), START, 0),
        lambda: key.finish_rotation(START),
        lambda: key.update(START, name="other"),
        lambda: key.update(START, name=key.name),
        lambda: key.update(START, expires_at=None),
    )
    for change in changes:
        with pytest.raises(KeyIsRevoked):
            change()


def test_revoking_twice_keeps_the_first_reason() -> None:
    once = new_key().revoke(START + 1, "leaked")
    assert once.revoke(START + 2, "again") is once
    assert (once.revoked_at, once.revoke_reason, once.version) == (START + 1, "leaked", 2)


def test_deleting_a_revoked_key_keeps_when_and_why_and_counts_as_a_change() -> None:
    revoked = new_key().revoke(START + 1, "leaked")
    deleted = revoked.delete(START + 2)
    assert (deleted.revoked_at, deleted.revoke_reason, deleted.deleted_at) == (START + 1, "leaked", START + 2)
    assert (deleted.version, deleted.updated_at) == (revoked.version + 1, START + 2)
    assert deleted.delete(START + 3) is deleted
    assert deleted.revoke(START + 3, "again") is deleted


def test_deleting_a_live_key_revokes_it_in_one_change() -> None:
    deleted = new_key().delete(START + 1)
    assert (deleted.revoked_at, deleted.revoke_reason, deleted.deleted_at) == (START + 1, "deleted", START + 1)
    assert deleted.version == 2


@pytest.mark.parametrize("grace", GRACES)
def test_a_rotation_never_prolongs_a_secret(grace: int) -> None:
    dying = secret(0, START).end_by(START + SECOND)
    rotated = new_key(secrets=(dying,)).rotate(secret(1, START), START, grace)
    assert rotated.secrets[1].expires_at == min(START + SECOND, START + grace)
    again = rotated.rotate(secret(2, START), START + 2 * SECOND, grace)
    assert again.secrets[2].expires_at == rotated.secrets[1].expires_at


def test_a_rotation_leaves_the_key_as_it_is() -> None:
    """Id, expiry, scopes, networks and use stay: nothing doubles, nothing's life is extended."""
    key = new_key(expires_at=START + DAY, allowed_cidrs=("10.0.0.0/8",), last_used_at=START)
    rotated = key.rotate(secret(1, START), START + 1, MAX_GRACE)
    for field in dataclasses.fields(Key):
        if field.name not in ("secrets", "version", "updated_at"):
            assert getattr(rotated, field.name) == getattr(key, field.name), field.name


def test_an_expired_key_is_prolonged_first_and_rotated_then() -> None:
    expired = new_key(expires_at=START)
    with pytest.raises(KeyIsExpired):
        expired.rotate(secret(1, START), START, 0)
    prolonged = expired.update(START, expires_at=START + DAY)
    assert prolonged.rotate(secret(1, START), START, 0).state(START) is State.ACTIVE


@pytest.mark.parametrize("state", [{"enabled": False}, {"not_before": START + DAY}])
def test_a_key_that_is_not_in_use_can_be_rotated(state: dict[str, Any]) -> None:
    rotated = new_key(**state).rotate(secret(1, START), START, 0)
    assert [held.alive(START) for held in rotated.secrets] == [True, False]


def test_rotations_with_a_long_grace_do_not_pile_up() -> None:
    key = new_key()
    for number in range(1, MAX_LIVE_SECRETS):
        key = key.rotate(secret(number, START), START, DAY)
    with pytest.raises(QuotaExceeded):
        key.rotate(secret(99, START), START, DAY)
    assert sum(held.alive(START) for held in key.rotate(secret(99, START), START, 0).secrets) == 1
    assert sum(held.alive(START) for held in key.finish_rotation(START).secrets) == 1
    assert len(key.rotate(secret(99, START), START + DAY, DAY).secrets) == MAX_LIVE_SECRETS + 1


def test_use_is_no_change() -> None:
    """When a key was last used is not part of what it is: it is written elsewhere, without a version."""
    assert new_key(last_used_at=START) == new_key(last_used_at=None)


def test_values_are_frozen() -> None:
    """All of the core's: a change is a new value. Slots, because a million of them are kept."""
    values = {
        value
        for module in (decide, keytext, model, policy, verify)
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    }
    assert {Key, Secret, policy.Keyspace, verify.Verifier} <= values
    for value in values:
        assert value.__dataclass_params__.frozen, value  # type: ignore[attr-defined]
        assert "__slots__" in vars(value), value
    # What is made anew for each call is a named tuple: those are frozen, too, and cheaper to make.
    assert issubclass(decide.Decision, tuple)
    assert issubclass(decide.Question, tuple)
    key = new_key()
    for frozen, name in ((key, "revoked_at"), (key.secrets[0], "expires_at"), (key, "secrets")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, name, None)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("deleted", [None, START])
def test_organizations_and_principals_live_while_enabled_and_there(enabled: bool, deleted: int | None) -> None:
    organization = Organization("acme", "", {}, enabled, 0, 0, 1, deleted)
    principal = Principal("acme", "alice", PrincipalKind.USER, "", "", {}, enabled, 0, 0, 1, deleted)
    assert organization.alive is principal.alive is (enabled and deleted is None)
