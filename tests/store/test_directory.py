"""Organizations, principals, groups, members and bindings: the same life for each, and what goes with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from doorward_server.core.directory import Group, Organization, Principal, SubjectKind
from doorward_server.core.errors import AlreadyExists, NotFound, QuotaExceeded, UnknownReference
from doorward_server.core.model import Quotas
from doorward_server.store import Store, Written
from tests.store.values import (
    NOW,
    QUOTAS,
    add_key,
    add_keyspace,
    binding,
    event,
    group,
    organization,
    principal,
)

BEGINNING = ("", "")


@dataclass
class Life:
    """How one kind of thing is made, found, listed, changed and ended, in acme or (organizations) on its own."""

    make: Callable[[str], Any]
    add: Callable[[Any], Written[Any]]
    find: Callable[[str], Any]
    page: Callable[[str, int], list[Any]]
    update: Callable[[str, Callable[[Any], Any]], Written[Any]]
    delete: Callable[[str, Callable[[Any], Any]], Written[Any]]
    there: list[str]


def lives(store: Store) -> dict[str, Life]:
    """By kind."""
    return {
        "organization": Life(
            make=organization,
            add=lambda it: store.add_organization(it, event()),
            find=store.find_organization,
            page=store.list_organizations,
            update=lambda id, change: store.update_organization(id, lambda it, _: change(it)),
            delete=lambda id, change: store.delete_organization(id, lambda it, _: change(it)),
            there=["acme", "umbra"],
        ),
        "principal": Life(
            make=principal,
            add=lambda it: store.add_principal(it, event()),
            find=lambda id: store.find_principal("acme", id),
            page=lambda after, limit: store.list_principals("acme", after, limit),
            update=lambda id, change: store.update_principal("acme", id, lambda it, _: change(it)),
            delete=lambda id, change: store.delete_principal("acme", id, lambda it, _: change(it)),
            there=["alice", "bob"],
        ),
        "group": Life(
            make=group,
            add=lambda it: store.add_group(it, event()),
            find=lambda id: store.find_group("acme", id),
            page=lambda after, limit: store.list_groups("acme", after, limit),
            update=lambda id, change: store.update_group("acme", id, change),
            delete=lambda id, change: store.delete_group("acme", id, change),
            there=["staff"],
        ),
    }


@pytest.fixture(params=["organization", "principal", "group"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def life(store: Store, kind: str) -> Life:
    return lives(store)[kind]


def ended(it: Any) -> Any:
    return replace(it, deleted_at=NOW, version=it.version + 1), event()


def test_it_comes_back_as_it_went_in(life: Life) -> None:
    made = life.make("zoe")
    assert life.find("zoe") is None
    assert life.add(made).value == made
    assert life.find("zoe") == made


def test_an_id_is_taken_once_and_for_good(life: Life, kind: str, store: Store) -> None:
    life.add(life.make("zoe"))
    for _ in range(2):  # while it is there, and after its end
        before = store.verify_chain("acme")
        with pytest.raises(AlreadyExists) as taken:
            life.add(life.make("zoe"))
        assert taken.value.metadata == {"type": kind, "id": "zoe"}
        assert store.verify_chain("acme") == before
        if life.find("zoe"):
            life.delete("zoe", ended)
    assert life.find("zoe") is None


def test_a_change_is_written_and_audited(life: Life, store: Store) -> None:
    made = life.add(life.make("zoe")).value
    before = store.revision()
    written = life.update("zoe", lambda it: (replace(it, display_name="Zoë", version=2), event(note="renamed")))
    assert written.value == replace(made, display_name="Zoë", version=2) == life.find("zoe")
    assert written.revision == store.revision() > before
    assert store.list_events("acme", 0, 99)[-1].event.note == "renamed"


def test_no_change_writes_nothing(life: Life, store: Store) -> None:
    made = life.add(life.make("zoe")).value
    before = store.revision(), store.verify_chain("acme")
    assert life.update("zoe", lambda _: None) == Written(made, before[0])
    assert life.delete("zoe", lambda _: None) == Written(made, before[0])
    assert (store.revision(), store.verify_chain("acme")) == before


def test_what_has_ended_is_neither_found_nor_listed_nor_changed(life: Life, kind: str) -> None:
    life.add(life.make("zoe"))
    assert life.delete("zoe", ended).value.deleted_at == NOW
    assert life.find("zoe") is None
    assert [it.id for it in life.page("", 99)] == life.there
    for change in (life.update, life.delete):
        with pytest.raises(NotFound) as gone:
            change("zoe", ended)
        assert gone.value.metadata == {"type": kind, "id": "zoe"}
        with pytest.raises(NotFound):
            change("nobody", ended)


def test_pages_are_in_order_of_id(life: Life) -> None:
    ids = sorted(life.there + [life.add(life.make(f"x{number}")).value.id for number in range(5)])
    found: list[str] = []
    while page := life.page(found[-1] if found else "", 2):
        assert len(page) <= 2
        found += [it.id for it in page]
    assert found == ids


def test_nothing_is_added_to_an_organization_that_is_not_there(store: Store) -> None:
    store.delete_organization("umbra", ended_organization)
    for id in ("nobody", "umbra"):
        for add in (
            lambda id=id: store.add_principal(principal("zoe", id), event(id)),
            lambda id=id: store.add_group(group("zoe", id), event(id)),
            lambda id=id: store.add_binding(binding("b1", organization=id), event(id), QUOTAS),
        ):
            with pytest.raises(NotFound) as missing:
                add()
            assert missing.value.metadata == {"type": "organization", "id": id}


def ended_organization(it: Organization, _: Callable[[], int]) -> Any:
    return ended(it)


def test_changes_are_told_how_many_keys_they_stop(store: Store) -> None:
    for owner in ("alice", "alice", "bob", None):
        add_key(store, owner=owner)
    add_key(store, organization="umbra", owner="alice")
    gone = add_key(store, owner="alice")
    store.update_key("acme", gone.id, lambda it: (it.revoke(NOW, ""), event()))
    told = []

    def disable(it: Any, count: Callable[[], int]) -> Any:
        told.append(count())
        return replace(it, enabled=False), event(note=f"{told[-1]} keys stopped")

    store.update_principal("acme", "alice", disable)
    store.update_organization("acme", disable)
    store.delete_principal("acme", "bob", lambda it, count: disable(ended(it)[0], count))
    store.delete_organization("acme", lambda it, count: disable(ended(it)[0], count))
    assert told == [2, 4, 1, 4]


def test_an_organization_in_the_operators_chain(store: Store) -> None:
    before = store.verify_chain("acme").length
    store.add_organization(organization("zeta"), event("acme"))
    store.add_organization(organization("beta"), event("acme"))
    assert store.verify_chain("acme").length == before + 2
    assert store.verify_chain("zeta").length == 0


def test_members_come_and_go(store: Store) -> None:
    length = store.verify_chain("acme").length
    assert store.add_group_member("acme", "staff", SubjectKind.PRINCIPAL, "bob", event()).value is True
    assert store.add_group_member("acme", "staff", SubjectKind.PRINCIPAL, "alice", event()).value is True
    revision = store.revision()
    assert store.add_group_member("acme", "staff", SubjectKind.PRINCIPAL, "bob", event()) == Written(False, revision)
    alice, bob = (SubjectKind.PRINCIPAL, "alice"), (SubjectKind.PRINCIPAL, "bob")
    assert store.list_group_members("acme", "staff", BEGINNING, 99) == [alice, bob]
    assert store.list_group_members("acme", "staff", BEGINNING, 1) == [alice]
    assert store.list_group_members("acme", "staff", alice, 9) == [bob]
    assert store.list_group_members("umbra", "staff", BEGINNING, 9) == []
    assert store.remove_group_member("acme", "staff", SubjectKind.PRINCIPAL, "bob", event()).value is True
    revision = store.revision()
    assert store.remove_group_member("acme", "staff", SubjectKind.PRINCIPAL, "bob", event()) == Written(False, revision)
    assert store.list_group_members("acme", "staff", BEGINNING, 99) == [alice]
    assert store.verify_chain("acme").length == length + 3


def test_members_and_groups_must_be_there(store: Store) -> None:
    with pytest.raises(NotFound) as missing:
        store.add_group_member("acme", "nogroup", SubjectKind.PRINCIPAL, "alice", event())
    assert missing.value.metadata == {"type": "group", "id": "nogroup"}
    with pytest.raises(NotFound):
        store.remove_group_member("acme", "nogroup", SubjectKind.PRINCIPAL, "alice", event())
    with pytest.raises(UnknownReference) as nobody:
        store.add_group_member("acme", "staff", SubjectKind.PRINCIPAL, "carol", event())
    assert nobody.value.metadata == {"field": "principal", "type": "principal", "id": "carol"}


def test_a_binding_comes_back_as_it_went_in(store: Store) -> None:
    of_principal = binding("b1", resources=("a/*", "b"), not_before=NOW, expires_at=None)
    of_group = binding("b2", "staff", subject_kind=SubjectKind.GROUP)
    for made in (of_principal, of_group):
        assert store.add_binding(made, event(), QUOTAS).value == made
        assert store.find_binding("acme", made.id) == made
    assert store.find_binding("umbra", "b1") is None
    with pytest.raises(AlreadyExists):
        store.add_binding(of_principal, event(), QUOTAS)
    store.add_binding(binding("b1", organization="umbra"), event("umbra"), QUOTAS)


def test_a_binding_names_what_exists(store: Store) -> None:
    for wrong, field in (
        (binding("b", "staff"), "principal"),
        (binding("b", "alice", subject_kind=SubjectKind.GROUP), "group"),
        (binding("b", keyspace="nowhere"), "keyspace"),
    ):
        with pytest.raises(UnknownReference) as missing:
            store.add_binding(wrong, event(), QUOTAS)
        assert missing.value.metadata["field"] == field


def test_a_binding_is_changed_and_removed(store: Store) -> None:
    store.add_binding(binding("b1"), event(), QUOTAS)
    length = store.verify_chain("acme").length
    changed = store.update_binding("acme", "b1", lambda it: (replace(it, resources=("x",), version=2), event())).value
    assert store.find_binding("acme", "b1") == changed
    assert changed.resources == ("x",)
    assert store.update_binding("acme", "b1", lambda _: None).value == changed
    store.delete_binding("acme", "b1", event())
    assert store.find_binding("acme", "b1") is None
    assert store.verify_chain("acme").length == length + 2
    with pytest.raises(NotFound):
        store.delete_binding("acme", "b1", event())
    with pytest.raises(NotFound):
        store.update_binding("acme", "b1", lambda _: None)


def test_the_quota_counts_bindings(store: Store) -> None:
    two = Quotas(bindings=2)
    for id in ("b1", "b2"):
        store.add_binding(binding(id), event(), two)
    with pytest.raises(QuotaExceeded) as full:
        store.add_binding(binding("b3"), event(), two)
    assert full.value.metadata == {"quota": "bindings per organization", "limit": "2"}
    store.delete_binding("acme", "b1", event())
    store.add_binding(binding("b3", "bob"), event(), two)
    store.delete_principal("acme", "bob", lambda it, _: ended(it))
    store.add_binding(binding("b4"), event(), two)
    with pytest.raises(QuotaExceeded):
        store.add_binding(binding("b5"), event(), two)


def test_bindings_are_listed_by_subject_and_keyspace(store: Store) -> None:
    add_keyspace(store, "other")
    made = [
        binding("b1"),
        binding("b2", "bob"),
        binding("b3", "staff", subject_kind=SubjectKind.GROUP),
        binding("b4", keyspace="other"),
    ]
    for it in made:
        store.add_binding(it, event(), QUOTAS)

    def ids(**filter: Any) -> list[str]:
        return [it.id for it in store.list_bindings("acme", **filter)]

    assert store.list_bindings("acme") == made
    assert ids(principal="alice") == ["b1", "b4"]
    assert ids(principal="alice", keyspace="other") == ["b4"]
    assert ids(group="staff") == ["b3"]
    assert ids(keyspace="aiia") == ["b1", "b2", "b3"]
    assert ids(principal="staff") == []
    assert ids(principal="alice", group="staff") == []
    assert ids(after="b1", limit=2) == ["b2", "b3"]
    assert store.list_bindings("umbra") == []


def test_held_bindings_are_ones_own_and_the_groups(store: Store) -> None:
    add_keyspace(store, "other")
    store.add_group(group("late"), event())
    for it in (
        binding("b4"),
        binding("b1", "staff", subject_kind=SubjectKind.GROUP),
        binding("b3", "late", subject_kind=SubjectKind.GROUP, keyspace="other"),
        binding("b2", "bob"),
    ):
        store.add_binding(it, event(), QUOTAS)
    store.add_group_member("acme", "staff", SubjectKind.PRINCIPAL, "alice", event())
    store.add_group_member("acme", "late", SubjectKind.PRINCIPAL, "alice", event())
    assert [it.id for it in store.list_held_bindings("acme", "alice")] == ["b1", "b3", "b4"]
    store.delete_group("acme", "late", ended_group)
    assert [it.id for it in store.list_held_bindings("acme", "alice")] == ["b1", "b4"]
    assert store.list_held_bindings("umbra", "alice") == []


def ended_group(it: Group) -> Any:
    return ended(it)


def test_a_deleted_principal_leaves_no_rights_behind(store: Store) -> None:
    store.add_group_member("acme", "staff", SubjectKind.PRINCIPAL, "alice", event())
    store.add_binding(binding("b1"), event(), QUOTAS)
    store.add_binding(binding("b1", organization="umbra"), event("umbra"), QUOTAS)
    store.add_binding(binding("b2", "staff", subject_kind=SubjectKind.GROUP), event(), QUOTAS)
    deleted: Written[Principal] = store.delete_principal("acme", "alice", lambda it, _: ended(it))
    assert deleted.value.deleted_at == NOW
    assert store.list_group_members("acme", "staff", BEGINNING, 9) == []
    assert [it.id for it in store.list_bindings("acme")] == ["b2"]
    assert [it.id for it in store.list_bindings("umbra")] == ["b1"]


def test_a_deleted_group_leaves_no_rights_behind(store: Store) -> None:
    store.add_group_member("acme", "staff", SubjectKind.PRINCIPAL, "alice", event())
    store.add_binding(binding("b1"), event(), QUOTAS)
    store.add_binding(binding("b2", "staff", subject_kind=SubjectKind.GROUP), event(), QUOTAS)
    store.delete_group("acme", "staff", ended_group)
    assert store.list_group_members("acme", "staff", BEGINNING, 9) == []
    assert [it.id for it in store.list_bindings("acme")] == ["b1"]
