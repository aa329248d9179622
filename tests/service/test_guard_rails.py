"""Guard rails as callers meet them: in creating, changing, rotating, importing and ending keys alike."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.v1 import authz_pb2, directory_pb2, keys_pb2
from doorward_server.core.errors import (
    CallerForbidden,
    DoorwardError,
    Immutable,
    InvalidField,
    TooManyActiveKeys,
)
from doorward_server.core.model import DAY, State
from doorward_server.service.guard import Caller
from tests.fakes import SECOND
from tests.service.door import Door, keyspace, row

DAYS = 86_400


def stamp(at: int) -> Timestamp:
    return Timestamp(seconds=at // SECOND, nanos=at % SECOND * 1000)


def lifetime(days: int) -> keys_pb2.Expiry:
    return keys_pb2.Expiry(duration=Duration(seconds=days * DAYS))


class Shop:
    """A keyspace with guard rails, and an organization with alice and bob in it."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.organization = door.organization("acme", "alice", "bob")
        self._rails: tuple[str, ...] = ()
        self.rails()

    def rails(self, *lines: str, **top: str) -> None:
        """Give the keyspace these guard rails, and no others."""
        others = [f"{name}: {value}" for name, value in {"prefix": "sh", **top}.items()]
        keys = ["keys:", *(f"  {line}" for line in lines)] if lines else []
        self.door.apply(keyspace("shop", *others, *keys), force=True)

    def make(self, **settings: Any) -> keys_pb2.CreateKeyResponse:
        return self.door.create(self.organization, "shop", **settings)

    def update(self, id: str, *paths: str, expiry: Any = None, **settings: Any) -> keys_pb2.UpdateKeyResponse:
        key = keys_pb2.Key(organization=self.organization, id=id, **settings)
        mask = FieldMask(paths=paths or list(settings))
        request = keys_pb2.UpdateKeyRequest(key=key, update_mask=mask, expiry=expiry)
        return self.door.run(self.door.keys.UpdateKey(request, self.door.caller()))

    def rotate(self, id: str, grace: int = 0) -> keys_pb2.RotateKeyResponse:
        request = keys_pb2.RotateKeyRequest(organization=self.organization, id=id, grace=Duration(seconds=grace))
        return self.door.run(self.door.keys.RotateKey(request, self.door.caller()))

    def revoke(self, id: str, by: Caller) -> None:
        request = keys_pb2.RevokeKeyRequest(organization=self.organization, id=id)
        self.door.run(self.door.keys.RevokeKey(request, by))

    def state(self, id: str) -> State:
        key = self.door.app.store.find_key(self.organization, id)
        assert key is not None
        return key.state(self.door.clock())

    def member(self, principal: str) -> Caller:
        """A key of *principal*, who may see to keys of its own."""
        made = self.door.create(
            self.organization, "doorward", owner=principal, scopes=["admin"], name=f"{principal}'s laptop"
        )
        self.door.run(
            self.door.directory.CreateBinding(
                self._binding(principal, "admin"),
                self.door.caller(),
            )
        )
        return self.door.caller(made.secret)

    def _binding(self, principal: str, role: str) -> Any:
        binding = directory_pb2.Binding(
            organization=self.organization, keyspace="doorward", role=role, principal=principal
        )
        return directory_pb2.CreateBindingRequest(binding=binding)


@pytest.fixture
def shop(door: Door) -> Shop:
    return Shop(door)


def at_fault(error: type[DoorwardError], work: Any) -> str:
    """The field of the refusal."""
    with pytest.raises(error) as refused:
        work()
    return refused.value.metadata.get("field", "")


def test_what_is_not_said_the_keyspace_says(shop: Shop) -> None:
    shop.rails(
        "expiry: {default: 90d}",
        "default_type: {live: production, test: development}",
        "rotation: {every: 90d, types: {development: 30d}}",
        'api_version: "2026-02-01"',
    )
    now = shop.door.clock()
    live, test = shop.make().key, shop.make(environment="test").key
    assert (live.type, live.api_version, live.expires_at) == ("production", "2026-02-01", stamp(now + 90 * DAY))
    assert (test.type, test.rotate_by) == ("development", stamp(now + 30 * DAY))
    assert live.rotate_by == stamp(now + 90 * DAY)
    said = shop.make(
        type="partner", api_version="v2.beta_1", expiry=keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_NONE)
    ).key
    assert (said.type, said.api_version, said.HasField("expires_at")) == ("partner", "v2.beta_1", False)
    assert at_fault(InvalidField, lambda: shop.make(api_version="no spaces")) == "api_version"


def test_the_api_version_is_pinned_for_good(shop: Shop) -> None:
    shop.rails('api_version: "2026-02-01"')
    made = shop.make()
    shop.rails('api_version: "2027-01-01"')
    shop.update(made.key.id, name="another name")
    secret = shop.rotate(made.key.id).secret
    request = authz_pb2.AuthorizeRequest(keyspace="shop", key=secret, action="things:read")
    told = shop.door.run(shop.door.authz.Authorize(request, shop.door.caller()))
    answer = authz_pb2.AuthorizeResponse.FromString(told)
    assert answer.identity.api_version == "2026-02-01"
    assert shop.make().key.api_version == "2027-01-01"


def test_a_rail_binds_what_is_done_afterwards(shop: Shop) -> None:
    made = shop.make(name="old name", scopes=["reader", "writer"])
    shop.rails('name: {pattern: "*-live"}', "scopes: {max: 1}")
    assert shop.door.verdict("shop", made.secret) == "ALLOWED"
    shop.update(made.key.id, enabled=False)
    shop.update(made.key.id, enabled=True, description="as before")
    assert at_fault(InvalidField, lambda: shop.update(made.key.id, name="new name")) == "name"
    assert at_fault(InvalidField, lambda: shop.rotate(made.key.id)) == "name"
    shop.update(made.key.id, name="new-live")
    assert at_fault(InvalidField, lambda: shop.rotate(made.key.id)) == "scopes"
    shop.update(made.key.id, scopes=["reader"])
    assert shop.rotate(made.key.id).secret


def test_where_texts_must_not_overlap_no_rotation_has_a_grace(shop: Shop) -> None:
    made = shop.make()
    overlapping = shop.rotate(made.key.id, grace=DAYS).secret
    shop.rails("rotation: {overlap: false}")
    assert at_fault(InvalidField, lambda: shop.rotate(made.key.id, grace=1)) == "grace"
    assert shop.door.verdict("shop", made.secret) == "ALLOWED"  # a rail binds what is done afterwards
    assert shop.rotate(made.key.id).secret
    assert shop.door.verdict("shop", made.secret) == shop.door.verdict("shop", overlapping) == "SECRET_SUPERSEDED"


def test_the_maximum_counts_from_when_an_expiry_is_set(shop: Shop) -> None:
    shop.rails("expiry: {default: 30d, maximum: 30d}")
    made = shop.make().key
    assert at_fault(InvalidField, lambda: shop.make(expiry=lifetime(31))) == "expiry"
    assert (
        at_fault(InvalidField, lambda: shop.make(expiry=keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_NONE)))
        == "expiry"
    )
    shop.door.clock.advance(20 * DAYS)
    shop.update(made.id, "expires_at", expiry=lifetime(30))
    assert at_fault(InvalidField, lambda: shop.update(made.id, "expires_at", expiry=lifetime(31))) == "expiry"
    assert at_fault(InvalidField, lambda: shop.update(made.id, "expires_at")) == "expiry"


def test_presets_and_what_is_beside_them(shop: Shop) -> None:
    shop.rails("expiry: {allowed: [30d, 1y], custom: false}")
    shop.make(expiry=keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_YEAR_1))
    for other in (
        keys_pb2.Expiry(preset=keys_pb2.EXPIRY_PRESET_DAYS_90),
        keys_pb2.Expiry(instant=stamp(shop.door.clock() + 30 * DAY)),
        keys_pb2.Expiry(date=keys_pb2.ExpiryDate(date="2027-03-31")),
    ):
        assert at_fault(InvalidField, lambda other=other: shop.make(expiry=other)) == "expiry"


def test_imports_keep_to_the_rails(shop: Shop) -> None:
    legacy = "[{name: old, prefix: 'old_', alphabet: hex, length: 32, entropy_bits: 128}]"
    shop.rails(
        "owner: required",
        "made_by: [administrator]",
        "types: [ci]",
        "default_type: {live: ci}",
        "expiry: {maximum: 30d}",
        "active_per_owner: {maximum: 1}",
        legacy=legacy,
    )

    def taken(number: int, **settings: Any) -> str:
        good = {
            "text": f"old_{number:032x}",
            "owner": "alice",
            "expires_at": stamp(shop.door.clock() + DAY),
            **settings,
        }
        (result,) = shop.door.take_in(shop.organization, "shop", row(**good)).results
        return result.reason or keys_pb2.ImportOutcome.Name(result.outcome)

    assert taken(1, owner="") == "INVALID_FIELD"
    assert taken(2, type="partner") == "INVALID_FIELD"
    assert taken(3, expires_at=None) == "INVALID_FIELD"
    assert taken(4, expires_at=stamp(shop.door.clock() + 31 * DAY)) == "INVALID_FIELD"
    assert taken(5) == "IMPORT_OUTCOME_CREATED"
    assert taken(6) == "TOO_MANY_ACTIVE_KEYS"
    assert taken(7, owner="bob") == "IMPORT_OUTCOME_CREATED"


def test_one_key_replaces_the_other(shop: Shop) -> None:
    shop.rails("active_per_owner: {maximum: 1, on_exceed: revoke_oldest}")
    first, second = shop.make(owner="alice"), shop.make(owner="alice", request_id="again")
    assert list(first.replaced_keys) == []
    assert list(second.replaced_keys) == [first.key.id]
    assert shop.door.verdict("shop", first.secret) == "KEY_REVOKED"
    bobs = shop.make(owner="bob")
    nobodys = [shop.make(), shop.make()]
    again = shop.make(owner="alice", request_id="again")
    assert (again.key.id, again.replayed, list(again.replaced_keys)) == (second.key.id, True, [])
    for living in (second, bobs, *nobodys):
        assert shop.door.verdict("shop", living.secret) == "ALLOWED"
    ended = [event for event in shop.door.events(shop.organization, "keys:create") if event.target == first.key.id]
    assert [event.note for event in ended] == ["", f"replaced by {second.key.id}"]
    assert ended[1].after["revoke_reason"] == f"replaced by {second.key.id}"


def test_a_key_that_works_again_takes_a_place_again(shop: Shop) -> None:
    made = [shop.make(owner="alice").key.id for _ in range(3)]
    shop.rails("active_per_owner: {maximum: 2}")
    shop.update(made[0], description="three were there before the rail")
    assert at_fault(TooManyActiveKeys, lambda: shop.make(owner="alice")) == ""
    shop.update(made[0], enabled=False)
    assert at_fault(TooManyActiveKeys, lambda: shop.update(made[0], enabled=True)) == ""
    shop.update(made[1], "expires_at", expiry=lifetime(1))
    shop.door.clock.advance(2 * DAYS)
    shop.update(made[0], enabled=True)
    assert at_fault(TooManyActiveKeys, lambda: shop.update(made[1], "expires_at", expiry=lifetime(1))) == ""
    assert at_fault(TooManyActiveKeys, lambda: shop.update(made[1], "expires_at")) == ""
    assert [shop.state(id) for id in made] == [State.ACTIVE, State.EXPIRED, State.ACTIVE]


def test_the_key_that_works_again_is_not_the_one_that_goes(shop: Shop) -> None:
    shop.rails("active_per_owner: {maximum: 1, on_exceed: revoke_oldest}")
    oldest = shop.make(owner="alice").key.id
    shop.update(oldest, enabled=False)
    shop.door.clock.advance(1)
    younger = shop.make(owner="alice").key.id
    shop.rotate(younger)
    assert shop.state(oldest) is State.DISABLED
    shop.update(oldest, enabled=True)
    assert (shop.state(oldest), shop.state(younger)) == (State.ACTIVE, State.REVOKED)


def test_a_key_for_later_takes_its_place_now(shop: Shop) -> None:
    shop.rails("active_per_owner: {maximum: 1}")
    shop.make(owner="alice", not_before=stamp(shop.door.clock() + DAY))
    assert at_fault(TooManyActiveKeys, lambda: shop.make(owner="alice")) == ""


def test_who_may_make_and_end_keys(shop: Shop) -> None:
    alice, bob = shop.member("alice"), shop.member("bob")
    shop.rails("made_by: [owner]", "ended_by: [administrator]")
    request = keys_pb2.CreateKeyRequest(
        organization=shop.organization, keyspace="shop", name="alice's own", owner="alice", scopes=["reader"]
    )
    with pytest.raises(CallerForbidden, match="made by their owner only"):
        shop.door.run(shop.door.keys.CreateKey(request, bob))
    with pytest.raises(CallerForbidden):
        shop.door.run(shop.door.keys.CreateKey(request, shop.door.caller()))
    first = shop.door.run(shop.door.keys.CreateKey(request, alice)).key.id
    with pytest.raises(CallerForbidden, match="ended by an administrator only"):
        shop.revoke(first, alice)
    delete = keys_pb2.DeleteKeyRequest(organization=shop.organization, id=first)
    with pytest.raises(CallerForbidden):
        shop.door.run(shop.door.keys.DeleteKey(delete, alice))
    shop.revoke(first, bob)
    root_for_alice = shop.door.run(shop.door.app.authorizer.act_for(shop.door.caller(), shop.organization, "alice"))
    second = shop.door.run(shop.door.keys.CreateKey(request, root_for_alice)).key.id
    with pytest.raises(CallerForbidden):
        shop.revoke(second, root_for_alice)


def test_whoever_must_not_end_keys_ends_none_by_making_another(shop: Shop) -> None:
    shop.rails("ended_by: [owner]", "active_per_owner: {maximum: 1, on_exceed: revoke_oldest}")
    alice = shop.member("alice")
    first = shop.make(owner="alice").key.id
    assert at_fault(TooManyActiveKeys, lambda: shop.make(owner="alice")) == ""
    assert shop.state(first) is State.ACTIVE
    request = keys_pb2.CreateKeyRequest(
        organization=shop.organization, keyspace="shop", name="alice's own", owner="alice", scopes=["reader"]
    )
    assert list(shop.door.run(shop.door.keys.CreateKey(request, alice)).replaced_keys) == [first]


def test_what_is_unwise_is_said(shop: Shop) -> None:
    def said(**settings: Any) -> list[str]:
        warnings = shop.make(**settings).warnings
        assert all(it.message for it in warnings)
        return [it.code for it in warnings]

    assert said(name="erp-order-sync-production", expiry=lifetime(90)) == []
    assert said(name="erp-order-sync-test", environment="test") == []
    assert said(name="key1") == ["NO_EXPIRY", "NAME_SAYS_NOTHING"]


def test_format_and_prefix_stay(shop: Shop) -> None:
    with pytest.raises(Immutable, match="prefix"):
        shop.rails(prefix="other")
    with pytest.raises(Immutable, match="format"):
        shop.door.apply(keyspace("shop", "format: uuid"))
