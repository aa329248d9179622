"""Keys: added, found, changed, counted, revoked in bulk, used; and calls that are retried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doorward_server.core.errors import (
    KeyIsRevoked,
    NotFound,
    OrganizationIsDisabled,
    PrincipalIsDisabled,
    QuotaExceeded,
    RequestIdReused,
    UnknownReference,
)
from doorward_server.core.model import DAY, Ceiling, Event, Key, Quotas, Use
from doorward_server.store import LookupTaken, Store
from tests.store.values import NOW, QUOTAS, add_key, add_keyspace, event, key, replay, secret, the_key


def revoked(it: Key) -> tuple[Key, Event]:
    return it.revoke(NOW + 1, "leaked"), event(action="keys:revoke", target=it.id)


def test_a_key_comes_back_as_it_went_in(store: Store) -> None:
    full = key(
        owner="alice", ceiling=Ceiling.OWNER, not_before=NOW - 1, expires_at=NOW + DAY, secrets=(secret(), secret())
    )
    bare = key(description="", type="", scopes=(), bindings=(), allowed_cidrs=(), metadata={}, enabled=False)
    for made in (full, bare):
        written = store.add_key(made, event(), QUOTAS)
        assert written.value == made
        assert not written.replayed
        assert store.find_key("acme", made.id) == made


def test_what_is_not_there_is_not_found(store: Store) -> None:
    made = add_key(store)
    assert store.find_key("acme", "key_other") is None
    assert store.find_key("umbra", made.id) is None
    assert store.find_key("nobody", made.id) is None


def test_add_says_what_is_missing(store: Store) -> None:
    with pytest.raises(NotFound) as missing:
        store.add_key(key(organization="nobody"), event("nobody"), QUOTAS)
    assert missing.value.metadata == {"type": "organization", "id": "nobody"}
    with pytest.raises(UnknownReference) as owner:
        store.add_key(key(owner="carol"), event(), QUOTAS)
    assert owner.value.metadata == {"field": "owner", "type": "principal", "id": "carol"}
    with pytest.raises(UnknownReference) as space:
        store.add_key(key(keyspace="nowhere"), event(), QUOTAS)
    assert space.value.metadata["field"] == "keyspace"
    assert store.verify_chain("acme").length == 5, "what populated it"


def test_nothing_is_added_to_what_is_disabled(store: Store) -> None:
    store.update_principal("acme", "alice", lambda it, _: (replace(it, enabled=False), event()))
    with pytest.raises(PrincipalIsDisabled):
        store.add_key(key(owner="alice"), event(), QUOTAS)
    store.update_organization("acme", lambda it, _: (replace(it, enabled=False), event()))
    with pytest.raises(OrganizationIsDisabled):
        store.add_key(key(), event(), QUOTAS)


def test_deleted_owners_and_organizations_are_gone(store: Store) -> None:
    store.delete_principal("acme", "alice", lambda it, _: (replace(it, deleted_at=NOW), event()))
    with pytest.raises(UnknownReference):
        store.add_key(key(owner="alice"), event(), QUOTAS)
    store.delete_organization("acme", lambda it, _: (replace(it, deleted_at=NOW), event()))
    with pytest.raises(NotFound):
        store.add_key(key(), event(), QUOTAS)


def test_a_taken_lookup_or_id_is_told_and_leaves_nothing(store: Store) -> None:
    first = add_key(store)
    taken = secret(first.secrets[0].lookup)
    before = store.verify_chain("acme").length
    for second in (key(secrets=(taken,)), key(first.id)):
        with pytest.raises(LookupTaken):
            store.add_key(second, event(), QUOTAS)
    with pytest.raises(LookupTaken):
        store.update_key("acme", first.id, lambda it: (it.rotate(replace(taken, id="sec_x"), NOW, 0), event()))
    assert store.find_key("acme", first.id) == first
    assert store.count_keys("acme") == 1
    assert store.verify_chain("acme").length == before


def test_a_lookup_is_unique_in_its_keyspace_over_all_organizations(store: Store) -> None:
    add_keyspace(store, "other")
    first = add_key(store)
    with pytest.raises(LookupTaken):
        add_key(store, organization="umbra", secrets=(secret(first.secrets[0].lookup),))
    add_key(store, organization="umbra", keyspace="other", secrets=(secret(first.secrets[0].lookup),))


def test_a_change_is_given_the_key_and_writes_what_it_returns(store: Store) -> None:
    made = add_key(store)
    written = store.update_key(
        "acme", made.id, lambda it: (it.update(NOW + 1, name="New", scopes=("a",), metadata={"x": "y"}), event())
    )
    assert written.value.version == 2
    assert store.find_key("acme", made.id) == written.value
    assert written.value.name == "New"


def test_no_change_writes_nothing(store: Store) -> None:
    made = add_key(store)
    revision, length = store.revision(), store.verify_chain("acme").length
    written = store.update_key("acme", made.id, lambda _: None)
    assert (written.value, written.revision) == (made, revision)
    assert (store.revision(), store.verify_chain("acme").length) == (revision, length)


def test_a_change_that_raises_leaves_all_as_it_was(store: Store) -> None:
    made = add_key(store)
    store.update_key("acme", made.id, revoked)
    before = store.find_key("acme", made.id), store.revision(), store.verify_chain("acme")
    with pytest.raises(KeyIsRevoked):
        store.update_key("acme", made.id, lambda it: (it.rotate(secret(), NOW, 0), event()))
    assert (store.find_key("acme", made.id), store.revision(), store.verify_chain("acme")) == before


def test_rotation_keeps_the_secrets_newest_first(store: Store) -> None:
    made = add_key(store)
    for turn in range(1, 4):  # all at one instant: the order is that of the rotations
        store.update_key("acme", made.id, lambda it: (it.rotate(secret(), NOW, DAY), event()))
        found = the_key(store, made.id)
        assert len(found.secrets) == turn + 1
    assert found.secrets[-1] == made.secrets[0].end_by(NOW + DAY)
    numbers = [int(it.id.removeprefix("sec_")) for it in found.secrets]
    assert numbers == sorted(numbers, reverse=True)
    finished = store.update_key("acme", made.id, lambda it: (it.finish_rotation(NOW + 1), event())).value
    assert store.find_key("acme", made.id) == finished


def test_a_change_may_drop_a_secret(store: Store) -> None:
    made = add_key(store, secrets=(secret("lookup_new"), secret("lookup_old")))
    store.update_key("acme", made.id, lambda it: (replace(it, secrets=it.secrets[:1], version=2), event()))
    store.update_key("acme", made.id, lambda it: (it.rotate(secret("lookup_3"), NOW, 0), event()))
    assert [it.lookup for it in the_key(store, made.id).secrets] == ["lookup_3", "lookup_new"]
    assert store.find_record("aiia", "lookup_old").record is None


def test_a_deleted_key_is_gone_from_management(store: Store) -> None:
    made = add_key(store)
    store.update_key("acme", made.id, lambda it: (it.delete(NOW), event()))
    assert store.find_key("acme", made.id) is None
    with pytest.raises(NotFound) as gone:
        store.update_key("acme", made.id, revoked)
    assert gone.value.metadata == {"type": "key", "id": made.id}
    assert store.count_keys("acme") == 0


def test_the_quota_counts_unrevoked_keys(store: Store) -> None:
    two = Quotas(keys=2)
    first = add_key(store)
    store.add_key(key(), event(), two)
    with pytest.raises(QuotaExceeded) as full:
        store.add_key(key(), event(), two)
    assert full.value.metadata == {"quota": "keys per organization", "limit": "2"}
    store.add_key(key(organization="umbra"), event("umbra"), two)
    store.update_key("acme", first.id, revoked)
    store.add_key(key(), event(), two)
    store.update_key("acme", first.id, lambda it: (it.delete(NOW), event()))
    with pytest.raises(QuotaExceeded):
        store.add_key(key(), event(), two)


def test_counting_and_revoking_a_principals_keys(store: Store) -> None:
    mine = [add_key(store, owner="alice") for _ in range(5)]
    others = [add_key(store, owner="bob"), add_key(store), add_key(store, organization="umbra", owner="alice")]
    store.update_key("acme", mine[0].id, revoked)
    assert (store.count_keys("acme", "alice"), store.count_keys("acme")) == (4, 6)
    before = store.verify_chain("acme").length
    done = []
    while count := store.revoke_keys_of("acme", "alice", revoked, limit=3).value:
        done.append(count)
    assert done == [3, 1]
    assert store.verify_chain("acme").length == before + 4
    assert (store.count_keys("acme", "alice"), store.count_keys("acme"), store.count_keys("umbra")) == (0, 2, 1)
    for it in mine:
        found = the_key(store, it.id)
        assert found.revoke_reason == "leaked"
    assert all(store.find_key(it.organization, it.id) == it for it in others)


def test_a_replayed_creation_gives_the_key_made_then(store: Store) -> None:
    made = key(owner="alice")
    store.add_key(made, event(), QUOTAS, replay())
    revision, length = store.revision(), store.verify_chain("acme").length
    again = store.add_key(key(owner="alice"), event(), QUOTAS, replay(at=NOW + DAY - 1))
    assert (again.value, again.revision, again.replayed) == (made, revision, True)
    assert store.verify_chain("acme").length == length
    # Not even when nothing could be made any more; and it is told as it is now.
    ended = store.update_key("acme", made.id, lambda it: (it.delete(NOW), event())).value
    store.update_principal("acme", "alice", lambda it, _: (replace(it, enabled=False), event()))
    assert store.add_key(key(owner="alice"), event(), Quotas(keys=0), replay()).value == ended
    assert store.count_keys("acme") == 0


def test_a_request_id_stands_for_one_request(store: Store) -> None:
    made = key()
    store.add_key(made, event(), QUOTAS, replay())
    with pytest.raises(RequestIdReused):
        store.add_key(key(), event(), QUOTAS, replay(digest=b"other"))
    with pytest.raises(RequestIdReused):
        store.update_key("acme", made.id, revoked, replay(digest=b"other"))
    # Another method, another caller: another request.
    assert not store.update_key("acme", made.id, revoked, replay(method="RotateKey")).replayed
    assert not store.add_key(key(), event(), QUOTAS, replace(replay(), caller="acme/key_other")).replayed
    assert not store.add_key(key(), event(), QUOTAS, replay("R1")).replayed


def test_a_request_id_is_forgotten_after_a_day(store: Store) -> None:
    first, second = key(), key()
    store.add_key(first, event(), QUOTAS, replay())
    assert store.add_key(second, event(), QUOTAS, replay(digest=b"other", at=NOW + DAY)).value == second
    assert store.add_key(key(), event(), QUOTAS, replay(digest=b"other", at=NOW + DAY)).value == second


def test_a_replayed_rotation_changes_nothing(store: Store) -> None:
    made = add_key(store)
    rotation = replay(method="RotateKey")
    store.update_key("acme", made.id, lambda it: (it.rotate(secret(), NOW, 0), event()), rotation)
    renamed = store.update_key("acme", made.id, lambda it: (it.update(NOW, name="later"), event())).value
    again = store.update_key("acme", made.id, lambda _: pytest.fail("called"), rotation)
    assert (again.value, again.replayed) == (renamed, True)
    store.update_key("acme", made.id, lambda it: (it.delete(NOW), event()))
    with pytest.raises(NotFound):
        store.update_key("acme", made.id, lambda _: pytest.fail("called"), rotation)


def test_a_failed_creation_is_not_remembered(store: Store) -> None:
    with pytest.raises(UnknownReference):
        store.add_key(key(owner="carol"), event(), QUOTAS, replay())
    assert not store.add_key(key(), event(), QUOTAS, replay(digest=b"other")).replayed


def test_uses_move_forward_and_change_no_revision(store: Store) -> None:
    made = add_key(store, secrets=(secret(), secret()))
    new, old = made.secrets
    revision = store.revision()
    store.record_uses(Use("acme", made.id, it.id, at) for it, at in ((old, NOW + 5), (new, NOW + 3), (old, NOW + 4)))
    store.record_uses([Use("acme", made.id, old.id, NOW + 1)])
    store.record_uses([])
    found = the_key(store, made.id)
    assert found.last_used_at == NOW + 5
    assert [it.last_used_at for it in found.secrets] == [NOW + 3, NOW + 5]
    assert store.revision() == revision
    # A change neither loses nor rewinds them.
    changed = store.update_key("acme", made.id, lambda it: (it.update(NOW, name="x"), event())).value
    assert changed.last_used_at == NOW + 5
    assert store.find_key("acme", made.id) == changed


def test_uses_of_what_does_not_exist_are_ignored(store: Store) -> None:
    made = add_key(store)
    id = made.secrets[0].id
    store.record_uses([Use("acme", "key_x", id, NOW), Use("umbra", made.id, id, NOW), Use("nobody", "x", "y", NOW)])
    store.record_uses([Use("acme", made.id, "sec_x", NOW)])
    found = the_key(store, made.id)
    assert found.secrets[0].last_used_at is None
    assert found.last_used_at == NOW, "the key was used, by a secret that is gone since"


def test_more_uses_than_one_transaction_takes(store: Store) -> None:
    many = [add_key(store, secrets=(secret(),)) for _ in range(30)]
    uses = [Use("acme", it.id, it.secrets[0].id, NOW + turn) for turn in range(80) for it in many]
    store.record_uses(uses)
    assert {the_key(store, it.id).last_used_at for it in many} == {NOW + 79}
