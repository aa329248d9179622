"""How Invicti's keys are made, seen, copied and ended: one of each user.

The sentences are in docs/systems/invicti.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from doorward import CallerForbidden, InvalidField, KeyState, NotFound, NotRecoverable
from tests.conformance.invicti import unauthorized, x_auth
from tests.conformance.products import EXAMPLES, Credential, Customer, Desk, text_of


@pytest.fixture(scope="module")
def acme(desk: Desk) -> Customer:
    return desk.product(EXAMPLES / "invicti.yaml").customer("acme", account_type="enterprise")


def working(acme: Customer, keys: Sequence[Credential]) -> list[bool]:
    return [bool(acme.ask(key, "identity:read")) for key in keys]


def test_users_generate_their_own_key(acme: Customer) -> None:
    alice = acme.person("viewer")
    made = acme.key(owner=alice, client=acme.member(alice))
    assert acme.ask(x_auth(made), "targets:list")


def test_a_new_key_invalidates_the_previous_one_at_once(acme: Customer) -> None:
    alice, bob = acme.person("viewer"), acme.person("viewer")
    foreign, first = acme.key(owner=bob), acme.key(owner=alice)
    second = acme.key(owner=alice)
    assert second.replaced_keys == (first.key.id,)
    assert working(acme, [first, second, foreign]) == [False, True, True]
    assert unauthorized(acme.ask(x_auth(first), "targets:list"))


def test_regenerating_a_key_invalidates_its_text_at_once(acme: Customer) -> None:
    alice = acme.person("viewer")
    made = acme.key(owner=alice)
    profile = acme.member(alice)
    again = profile.rotate_key(made.key.id, organization=acme.id)
    assert working(acme, [made, again]) == [False, True]
    assert unauthorized(acme.ask(x_auth(made), "targets:list"))
    with pytest.raises(InvalidField) as refused:
        profile.rotate_key(made.key.id, organization=acme.id, grace=timedelta(hours=1))
    assert refused.value.field == "grace"
    assert working(acme, [again]) == [True]


def test_only_one_key_of_a_user_is_active_however_many_are_made_at_once(acme: Customer) -> None:
    alice = acme.person("viewer")
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda n: acme.key(owner=alice, name=f"key {n}"), range(8)))
    assert sum(working(acme, keys)) == 1
    active = acme.root.list_keys(organization=acme.id, owner=alice, states=[KeyState.ACTIVE])
    assert len(list(active)) == 1


def test_a_disabled_key_is_not_a_second_one(acme: Customer) -> None:
    alice = acme.person("viewer")
    first = acme.key(owner=alice)
    acme.root.update_key(first.key.id, organization=acme.id, enabled=False)
    second = acme.key(owner=alice)
    assert working(acme, [first, second]) == [False, True]
    acme.root.update_key(first.key.id, organization=acme.id, enabled=True)
    assert working(acme, [first, second]) == [True, False]


def test_a_key_is_valid_until_it_is_deleted(acme: Customer) -> None:
    customer = acme.product.customer()
    alice = customer.person("viewer")
    key = customer.key(owner=alice)
    assert key.key.expires_at is None
    customer.desk.advance(10 * 365 * 86400)
    assert customer.ask(x_auth(key), "targets:list")
    customer.root.delete_key(key.key.id, organization=customer.id)
    assert unauthorized(customer.ask(x_auth(key), "targets:list"))


def test_no_key_expires_by_itself(acme: Customer) -> None:
    alice = acme.person("viewer")
    with pytest.raises(InvalidField):
        acme.key(owner=alice, expires="1y")
    made = acme.key(owner=alice)
    with pytest.raises(InvalidField):
        acme.root.update_key(made.key.id, organization=acme.id, expires="30d")


def test_users_see_their_key_masked(acme: Customer) -> None:
    alice = acme.person("viewer")
    made = acme.key(owner=alice)
    (seen,) = acme.member(alice).list_keys(organization=acme.id, keyspace="invicti", owner=alice)
    assert seen.masked == f"…{text_of(made)[-4:]}"
    assert text_of(made)[:-4] not in repr(seen)


def test_users_copy_the_full_value_when_they_need_it(acme: Customer) -> None:
    alice, bob = acme.person("viewer"), acme.person("viewer")
    made = acme.key(owner=alice)
    profile = acme.member(alice)
    assert [profile.reveal_key(made.key.id, organization=acme.id).reveal() for _ in range(2)] == [text_of(made)] * 2
    for other in (acme.member(bob), acme.member(acme.person(), "admin")):
        with pytest.raises(CallerForbidden):
            other.reveal_key(made.key.id, organization=acme.id)
    again = profile.rotate_key(made.key.id, organization=acme.id)
    assert profile.reveal_key(made.key.id, organization=acme.id).reveal() == text_of(again)


def test_deleting_the_key_ends_all_access(acme: Customer) -> None:
    alice = acme.person("owner")
    made = acme.key(owner=alice)
    profile = acme.member(alice)
    profile.delete_key(made.key.id, organization=acme.id)
    assert all(unauthorized(acme.ask(made, action)) for action in ("identity:read", "targets:list", "users:create"))
    with pytest.raises(NotFound):
        acme.root.reveal_key(made.key.id, organization=acme.id)


def test_a_compromised_key_is_regenerated(acme: Customer) -> None:
    alice = acme.person("viewer")
    leaked = acme.key(owner=alice)
    fresh = acme.key(owner=alice, name="after the leak")
    assert unauthorized(acme.ask(x_auth(leaked), "targets:list"))
    assert acme.ask(x_auth(fresh), "targets:list")
    assert acme.root.get_key(leaked.key.id, organization=acme.id).state is KeyState.REVOKED
    with pytest.raises(NotRecoverable):
        acme.root.reveal_key(leaked.key.id, organization=acme.id)


# --- practices --------------------------------------------------------------------------------------------------------


def test_audits_show_which_users_have_keys(acme: Customer) -> None:
    customer = acme.product.customer()
    alice, bob, carol = (customer.person("viewer", id=f"audited-{name}") for name in ("alice", "bob", "carol"))
    for owner in (alice, alice, bob, carol):
        key = customer.key(owner=owner)
    customer.root.delete_key(key.key.id, organization=customer.id)
    listed = customer.root.list_keys(organization=customer.id, keyspace="invicti", states=[KeyState.ACTIVE])
    assert {it.owner for it in listed} == {alice, bob}


def test_keys_of_members_who_leave_are_ended(acme: Customer) -> None:
    alice = acme.person("admin")
    key = acme.key(owner=alice)
    ended = acme.root.delete_principal(alice, organization=acme.id)
    assert ended.keys == 1
    assert unauthorized(acme.ask(x_auth(key), "targets:list"))
