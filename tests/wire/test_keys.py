"""The life of a key over the wire, on both stores: made, listed, changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from doorward.v1 import keys_pb2 as pb
from doorward_server.core.model import DAY, SECOND
from tests.wire.serving import refused
from tests.wire.tenants import HOUR, Tenant, asked, at_of, hours, ids, listed, stamp, state_of

# --- creation ---------------------------------------------------------------------------------------------------------


def test_a_key_is_what_was_asked_for(acme: Tenant) -> None:
    person, now = acme.person("alice"), acme.server.clock.now
    binding = pb.KeyBinding(role="write:findings", resources=["findings/*"], not_before=stamp(now + SECOND))
    asked_for: dict[str, Any] = {
        "owner": person,
        "name": "ServiceNow é 🚪",
        "description": "for\ntickets",
        "environment": "test",
        "type": "partner",
        "scopes": ["read:findings", "read:universe"],
        "bindings": [binding],
        "allowed_cidrs": ["10.0.0.0/8", "2001:db8::/32"],
        "metadata": {"team": "ops", "a/b.c-d": "é"},
        "not_before": stamp(now + 5 * SECOND),
    }
    made = acme.root.keys.CreateKey(acme.new_key(**asked_for, expiry=pb.Expiry(duration=hours(1))))
    for name, value in asked_for.items():
        shown = getattr(made.key, name)
        assert (dict(shown) if name == "metadata" else list(shown) if isinstance(value, list) else shown) == value
    assert at_of(made.key.expires_at) == now + HOUR * SECOND
    assert at_of(made.key.created_at) == at_of(made.key.updated_at) == now
    assert (made.key.organization, made.key.keyspace, made.key.enabled) == (acme.id, "aiia", True)
    assert made.key.ceiling == pb.CEILING_LIST
    assert state_of(made.key) == "NOT_YET_VALID"
    assert made.secret.startswith("aiia_key_test_")
    assert not made.key.HasField("last_used_at")
    assert not made.key.HasField("revoked_at")
    assert [s.superseded for s in made.key.secrets] == [False]
    assert acme.get(made.key.id) == made.key
    assert made.revision == acme.server.app.store.revision()


@pytest.mark.parametrize(("keyspace", "mask"), [("aiia", "•••••{}"), ("factorythread", "ft_live_…{}")])
def test_a_key_is_shown_masked_in_the_style_of_its_keyspace(acme: Tenant, keyspace: str, mask: str) -> None:
    held = acme.key(keyspace)
    assert held.key.masked == held.key.secrets[0].masked == mask.format(held.text[-4:])
    assert held.text not in str(acme.get(held.id))


PRESETS = {pb.EXPIRY_PRESET_DAYS_30: 30, pb.EXPIRY_PRESET_DAYS_90: 90, pb.EXPIRY_PRESET_YEAR_1: 365}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_count_days_of_24_hours(acme: Tenant, preset: pb.ExpiryPreset.ValueType) -> None:
    key = acme.key(expiry=pb.Expiry(preset=preset)).key
    assert at_of(key.expires_at) == acme.server.clock.now + PRESETS[preset] * DAY


@pytest.mark.parametrize("expiry", [None, pb.Expiry(), pb.Expiry(preset=pb.EXPIRY_PRESET_NONE)])
def test_a_key_may_have_no_end(acme: Tenant, expiry: pb.Expiry | None) -> None:
    assert not acme.key(expiry=expiry).key.HasField("expires_at")


@pytest.mark.parametrize(
    ("date", "zone", "end"),
    [
        ("2030-06-30", "", "2030-07-01T00:00:00+00:00"),
        ("2030-12-31", "UTC", "2031-01-01T00:00:00+00:00"),
        ("2032-02-29", "Europe/Berlin", "2032-03-01T00:00:00+01:00"),
        ("2030-03-31", "Europe/Berlin", "2030-04-01T00:00:00+02:00"),  # a day of 23 hours
        ("2030-10-27", "Europe/Berlin", "2030-10-28T00:00:00+01:00"),  # a day of 25
        ("2030-03-30", "America/New_York", "2030-03-31T00:00:00-04:00"),
        ("2030-06-30", "Pacific/Kiritimati", "2030-07-01T00:00:00+14:00"),
        ("2030-06-30", "Asia/Kathmandu", "2030-07-01T00:00:00+05:45"),
    ],
)
def test_a_day_ends_at_24_00_in_its_zone(acme: Tenant, date: str, zone: str, end: str) -> None:
    key = acme.key(expiry=pb.Expiry(date=pb.ExpiryDate(date=date, time_zone=zone))).key
    assert key.expires_at.ToDatetime(UTC) == datetime.fromisoformat(end)


def test_today_is_a_day_of_use_and_yesterday_is_not(acme: Tenant) -> None:
    now = datetime.fromtimestamp(acme.server.clock.now / SECOND, ZoneInfo("Asia/Tokyo"))
    today = pb.Expiry(date=pb.ExpiryDate(date=now.date().isoformat(), time_zone="Asia/Tokyo"))
    end = at_of(acme.key(expiry=today).key.expires_at)
    assert acme.server.clock.now < end <= acme.server.clock.now + DAY


def test_a_replayed_create_gives_the_same_key_without_its_secret(acme: Tenant) -> None:
    request = acme.new_key(scopes=["read:findings"], metadata={"b": "1", "a": "2"}, request_id="once")
    first = acme.root.keys.CreateKey(request)
    again = acme.root.keys.CreateKey(request)
    assert (first.replayed, bool(first.secret)) == (False, True)
    assert (again.replayed, again.secret, again.key) == (True, "", first.key)
    assert len(acme.events("keys:create")) == 1
    other = acme.caller("admin").keys.CreateKey(request)  # another caller's request_id is another one
    assert other.key.id != first.key.id
    assert not other.replayed


# --- lists ------------------------------------------------------------------------------------------------------------


def test_every_filter_finds_its_keys_and_no_others(acme: Tenant, globex: Tenant) -> None:
    clock, person = acme.server.clock, acme.person()
    plain = acme.key().id
    clock.advance(10)
    then = clock.now
    owned = acme.key(owner=person, type="ci", name="Nightly 50%_Build").id
    ending = acme.key("factorythread", environment="test", expiry=pb.Expiry(duration=hours(1))).id
    globex.key(owner=globex.person(), type="ci")
    later = stamp(clock.now + 2 * HOUR * SECOND)
    assert listed(acme) in ([ending, owned, plain], [owned, ending, plain])
    assert listed(acme, keyspace="factorythread") == listed(acme, environment="test") == [ending]
    assert listed(acme, owner=person) == listed(acme, type="ci") == [owned]
    assert listed(acme, name_contains="nightly 50%_b") == [owned]
    assert listed(acme, name_contains="nightly 50_") == listed(acme, name_contains="y%B") == []
    assert listed(acme, created_before=stamp(then)) == [plain]
    assert set(listed(acme, created_after=stamp(then))) == {owned, ending}
    assert listed(acme, expires_before=later) == [ending]
    assert listed(acme, owner=person, type="other") == []
    assert len(listed(acme, never_used=True)) == len(listed(acme, last_used_before=later)) == 3


def test_the_state_filter_is_as_of_now(acme: Tenant) -> None:
    clock = acme.server.clock
    active = acme.key().id
    expiring = acme.key(expiry=pb.Expiry(duration=hours(1))).id
    coming = acme.key(not_before=stamp(clock.now + 2 * HOUR * SECOND)).id
    disabled, revoked, deleted = acme.key().id, acme.key().id, acme.key().id
    acme.update(disabled, enabled=False)
    acme.revoke(revoked)
    acme.root.keys.DeleteKey(pb.DeleteKeyRequest(organization=acme.id, id=deleted))

    def of(*states: str) -> set[str]:
        return set(listed(acme, states=[pb.KeyState.Value(f"KEY_STATE_{state}") for state in states]))

    assert of("ACTIVE") == {active, expiring}
    assert of("NOT_YET_VALID") == {coming}
    assert of("DISABLED", "REVOKED") == {disabled, revoked}
    clock.advance(HOUR)
    assert of("ACTIVE") == {active}
    assert of("EXPIRED") == {expiring}
    clock.advance(HOUR)
    assert of("ACTIVE") == {active, coming}
    assert of() == {active, expiring, coming, disabled, revoked}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_hold_every_key_once_newest_first(acme: Tenant, size: int) -> None:
    made = []
    for number in range(7):
        made.append(acme.key(name=f"key {number}").id)
        acme.server.clock.advance(1)
    assert listed(acme, size) == made[::-1]
    assert listed(acme, size, name_contains="KEY 3") == [made[3]]


def test_a_page_goes_on_where_the_last_one_ended_whatever_comes_in_between(acme: Tenant) -> None:
    made = []
    for _ in range(4):
        made.append(acme.key().id)
        acme.server.clock.advance(1)
    first = acme.root.keys.ListKeys(pb.ListKeysRequest(organization=acme.id, page_size=2))
    acme.key()
    acme.root.keys.DeleteKey(pb.DeleteKeyRequest(organization=acme.id, id=made[2]))
    rest = pb.ListKeysRequest(organization=acme.id, page_size=1000, page_token=first.next_page_token)
    assert ids(acme.root.keys.ListKeys(rest).keys) == [made[1], made[0]]


# --- update -----------------------------------------------------------------------------------------------------------


def test_an_update_changes_exactly_what_the_mask_names(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"], metadata={"a": "1"}, allowed_cidrs=["10.0.0.0/8"], description="d")
    acme.server.clock.advance(1)
    changed = acme.update(held.id, "name", "scopes", name="new", scopes=["read:universe"], metadata={"b": "2"}).key
    expected = pb.Key.FromString(held.key.SerializeToString())
    expected.MergeFrom(pb.Key(name="new", etag=changed.etag, updated_at=stamp(acme.server.clock.now)))
    del expected.scopes[:]
    expected.scopes.append("read:universe")
    assert changed == expected
    assert acme.get(held.id) == changed
    emptied = acme.update(held.id, "metadata", "allowed_cidrs", "description", "scopes").key
    assert [emptied.description, *emptied.metadata, *emptied.allowed_cidrs, *emptied.scopes] == [""]
    assert asked(acme, held.text) == "SCOPE_INSUFFICIENT"


def test_an_update_that_changes_nothing_leaves_no_trace(acme: Tenant) -> None:
    held = acme.key(name="same")
    before = acme.server.mark(acme.id)
    assert acme.update(held.id, name="same").key == held.key
    assert acme.server.mark(acme.id) == before


def test_an_expiry_can_be_moved_and_removed(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"], expiry=pb.Expiry(duration=hours(1)))
    acme.server.clock.advance(HOUR)
    assert asked(acme, held.text) == "KEY_EXPIRED"
    assert state_of(acme.get(held.id)) == "EXPIRED"
    refusal = refused(lambda: acme.rotate(held.id))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "KEY_IS_EXPIRED")
    moved = acme.update(held.id, "expires_at", expiry=pb.Expiry(duration=hours(2))).key
    assert at_of(moved.expires_at) == acme.server.clock.now + 2 * HOUR * SECOND
    assert asked(acme, held.text) == "ALLOWED"
    later = stamp(acme.server.clock.now + 9 * SECOND)
    assert acme.update(held.id, expires_at=later).key.expires_at == later
    assert not acme.update(held.id, "expires_at").key.HasField("expires_at")


def test_an_etag_is_good_for_one_change(acme: Tenant) -> None:
    held = acme.key()
    changed = acme.update(held.id, "name", name="one", etag=held.key.etag).key
    assert changed.etag != held.key.etag
    refusal = refused(lambda: acme.update(held.id, "name", name="two", etag=held.key.etag))
    assert (refusal.code, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert acme.get(held.id).name == "one"
    acme.update(held.id, "name", name="two", etag=changed.etag)
