"""Groups within groups: whose roles somebody has by way of which groups, and what cannot be put into what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from doorward_server.core.directory import Group, SubjectKind
from doorward_server.core.errors import GroupCycle, NotFound, QuotaExceeded, UnknownReference
from doorward_server.store import Store, Written
from tests.store import hands
from tests.store.hands import Hands
from tests.store.values import NOW, QUOTAS, add_key, binding, event, group, secret

DEEPEST = 8
PRINCIPAL, GROUP = SubjectKind.PRINCIPAL, SubjectKind.GROUP


def make(store: Store, *ids: str) -> None:
    for id in ids:
        store.add_group(group(id), event())


def nest(store: Store, *ways: str) -> None:
    """Put groups into each other: "a<b<c" says that c is in b, and b in a."""
    for way in ways:
        ids = way.split("<")
        for outer, inner in pairwise(ids):
            store.add_group_member("acme", outer, GROUP, inner, event())


def chain(store: Store, length: int) -> list[str]:
    """Make groups g0 to g<length - 1>, each in the one before."""
    ids = [f"g{number}" for number in range(length)]
    make(store, *ids)
    nest(store, "<".join(ids))
    return ids


def groups_of(store: Store, who: str = "alice") -> list[str]:
    record = store.find_principal_record("acme", who, "aiia").record
    assert record is not None
    return list(record.groups)


def by_definition(store: Store, who: str, ids: Iterable[str]) -> list[str]:
    """The groups of somebody, found in the dullest way there is, over the public lists."""
    members = {id: store.list_group_members("acme", id, ("", ""), 999) for id in ids}
    found = {id for id in members if (PRINCIPAL, who) in members[id]}
    while more := {id for id in members for inner in found if (GROUP, inner) in members[id]} - found:
        found |= more
    return sorted(found)


@pytest.fixture
def prompt(store: Store, store_url: str) -> Iterator[Hands]:
    with hands.at(store_url) as opened:
        yield opened


def type_circle(prompt: Hands, *ids: str) -> None:
    """By hand, as no call of the store can: each of *ids* in the next, and the last one in the first."""
    for inner, outer in zip(ids, (*ids[1:], ids[0]), strict=True):
        prompt.run("INSERT INTO nesting VALUES ('acme', ?, ?)", outer, inner)


def test_a_record_has_the_groups_that_one_is_in_by_way_of_others(store: Store) -> None:
    make(store, "top", "left", "right", "aside")
    nest(store, "top<left<staff", "top<right<staff", "aside<right")
    store.add_group_member("acme", "staff", PRINCIPAL, "alice", event())
    add_key(store, owner="alice", secrets=(secret("here"),))
    record = store.find_record("aiia", "here").record
    assert record is not None
    assert record.groups == ("aside", "left", "right", "staff", "top")
    assert groups_of(store) == by_definition(store, "alice", ["staff", "top", "left", "right", "aside"])
    assert groups_of(store, "bob") == []


def test_what_the_outer_group_holds_its_inner_groups_members_hold(store: Store) -> None:
    make(store, "outer", "inner")
    nest(store, "outer<inner")
    store.add_group_member("acme", "inner", PRINCIPAL, "alice", event())
    store.add_group_member("acme", "outer", PRINCIPAL, "bob", event())
    for id, subject in (("b1", "outer"), ("b2", "inner")):
        store.add_binding(binding(id, subject, subject_kind=GROUP, condition="a == b"), event(), QUOTAS)
    for who, held in (("alice", ["b1", "b2"]), ("bob", ["b1"])):
        record = store.find_principal_record("acme", who, "aiia").record
        assert record is not None
        assert [it.id for it in record.bindings] == held
        assert [it.id for it in store.list_held_bindings("acme", who)] == held
        assert {it.condition for it in record.bindings} == {"a == b"}
    store.remove_group_member("acme", "outer", GROUP, "inner", event())
    assert groups_of(store) == ["inner"]
    assert [it.id for it in store.list_held_bindings("acme", "alice")] == ["b2"]


def test_a_key_without_owner_is_in_no_group(store: Store) -> None:
    add_key(store, secrets=(secret("here"),))
    record = store.find_record("aiia", "here").record
    assert record is not None
    assert record.groups == ()


def test_members_are_listed_groups_first(store: Store) -> None:
    make(store, "a", "b")
    nest(store, "staff<b", "staff<a")
    for who in ("bob", "alice"):
        store.add_group_member("acme", "staff", PRINCIPAL, who, event())
    everybody = [(GROUP, "a"), (GROUP, "b"), (PRINCIPAL, "alice"), (PRINCIPAL, "bob")]
    assert store.list_group_members("acme", "staff", ("", ""), 99) == everybody
    for size in (1, 2, 3):
        found: list[tuple[SubjectKind, str]] = []
        while page := store.list_group_members("acme", "staff", found[-1] if found else ("", ""), size):
            assert len(page) <= size
            found += page
        assert found == everybody


def test_a_group_comes_and_goes_once(store: Store) -> None:
    make(store, "a")
    length = store.verify_chain("acme").length
    assert store.add_group_member("acme", "staff", GROUP, "a", event()).value is True
    revision = store.revision()
    assert store.add_group_member("acme", "staff", GROUP, "a", event()) == Written(False, revision)
    assert store.remove_group_member("acme", "staff", GROUP, "a", event()).value is True
    revision = store.revision()
    assert store.remove_group_member("acme", "staff", GROUP, "a", event()) == Written(False, revision)
    assert store.verify_chain("acme").length == length + 2


def test_groups_must_be_there(store: Store) -> None:
    with pytest.raises(UnknownReference) as nobody:
        store.add_group_member("acme", "staff", GROUP, "nogroup", event())
    assert nobody.value.metadata == {"field": "member_group", "type": "group", "id": "nogroup"}
    with pytest.raises(NotFound):
        store.add_group_member("acme", "nogroup", GROUP, "staff", event())


def check_circles_are_refused(store: Store) -> None:
    """The planted bug `endless-groups` must fail here."""
    make(store, "a", "b", "c")
    nest(store, "a<b<c")
    before = store.revision()
    for outer, inner, way in (
        ("c", "a", "c → a → b → c"),
        ("b", "a", "b → a → b"),
        ("a", "a", "a → a"),
    ):
        assert refusal(store, outer, inner) == way
    assert store.revision() == before


def refusal(store: Store, outer: str, inner: str) -> str:
    """The way round that a refusal tells; empty if there was none."""
    try:
        store.add_group_member("acme", outer, GROUP, inner, event())
    except GroupCycle as circle:
        return circle.metadata["path"]
    return ""


def test_a_circle_is_refused_and_its_way_is_told(store: Store) -> None:
    check_circles_are_refused(store)


def test_a_chain_has_at_most_eight_groups(store: Store) -> None:
    ids = chain(store, DEEPEST)
    make(store, "more", "pair", "apart")
    nest(store, "pair<apart")
    for outer, inner in ((ids[-1], "more"), ("more", ids[0]), (ids[-2], "pair")):
        with pytest.raises(QuotaExceeded) as deep:
            store.add_group_member("acme", outer, GROUP, inner, event())
        assert deep.value.metadata == {"quota": "groups within each other", "limit": "8"}
    nest(store, f"{ids[-2]}<more", f"{ids[-3]}<pair")  # other chains, of eight
    store.add_group_member("acme", ids[-1], PRINCIPAL, "alice", event())
    assert groups_of(store) == ids


def test_the_longest_of_several_chains_counts(store: Store) -> None:
    """A breadth-first search that visits each group once would call this one short."""
    ids = chain(store, 7)
    nest(store, f"{ids[0]}<{ids[-1]}")  # the short way to the last one
    make(store, "x", "y")
    nest(store, f"{ids[-1]}<x")
    with pytest.raises(QuotaExceeded):
        nest(store, "x<y")


def test_what_is_in_a_circle_all_the_same_is_survived(store: Store, prompt: Hands) -> None:
    make(store, "a", "b", "c", "out")
    nest(store, "out<a")
    type_circle(prompt, "a", "b", "c")
    store.add_group_member("acme", "b", PRINCIPAL, "alice", event())
    store.add_binding(binding("b1", "c", subject_kind=GROUP), event(), QUOTAS)
    assert groups_of(store) == ["a", "b", "c", "out"]
    assert [it.id for it in store.list_held_bindings("acme", "alice")] == ["b1"]
    assert store.list_groups_around("acme", "a") == ["a", "b", "c", "out"]
    with pytest.raises(GroupCycle):
        store.add_group_member("acme", "a", GROUP, "b", event())
    with pytest.raises(QuotaExceeded):  # no group can be said to be deep enough below
        store.add_group_member("acme", "staff", GROUP, "a", event())
    store.remove_group_member("acme", "a", GROUP, "c", event())  # and so it is undone
    assert groups_of(store) == ["b", "c"]


def test_a_chain_that_somebody_typed_is_followed_eight_groups_far(store: Store, prompt: Hands) -> None:
    ids = [f"g{number:02}" for number in range(12)]
    make(store, *ids)
    for inner, outer in pairwise(ids):
        prompt.run("INSERT INTO nesting VALUES ('acme', ?, ?)", outer, inner)
    store.add_group_member("acme", ids[0], PRINCIPAL, "alice", event())
    assert groups_of(store) == ids[:DEEPEST]


def test_many_ways_to_one_group_are_one(store: Store) -> None:
    """Three groups on each of seven levels, each in all of the next: 3^7 ways."""
    levels = [[f"g{level}-{number}" for number in range(3)] for level in range(7)]
    make(store, *(id for level in levels for id in level))
    for below, above in pairwise(levels):
        nest(store, *(f"{outer}<{inner}" for outer in above for inner in below))
    for id in levels[0]:
        store.add_group_member("acme", id, PRINCIPAL, "alice", event())
    assert len(groups_of(store)) == 21


def end(it: Group) -> Any:
    return replace(it, deleted_at=NOW, version=it.version + 1), event(before={})


def test_a_deleted_group_passes_nothing_on(store: Store, prompt: Hands) -> None:
    make(store, "a", "b", "c")
    nest(store, "a<b<c")
    store.add_group_member("acme", "c", PRINCIPAL, "alice", event())
    store.delete_group("acme", "b", end)
    assert groups_of(store) == ["c"]
    told = store.list_events("acme", 0, 999)[-1].event.before
    assert told is not None
    assert (told["groups"], told["member_groups"]) == (["a"], ["c"])
    assert store.list_group_members("acme", "a", ("", ""), 9) == []
    prompt.run("INSERT INTO nesting VALUES ('acme', 'a', 'b')")
    prompt.run("INSERT INTO nesting VALUES ('acme', 'b', 'c')")
    assert groups_of(store) == ["c"], "what somebody typed does not bring it back"


def test_groups_of_another_organization_do_not_count(store: Store) -> None:
    make(store, "outer")
    store.add_group(group("outer", "umbra"), event("umbra"))
    store.add_group_member("umbra", "outer", GROUP, "staff", event("umbra"))
    store.add_group_member("acme", "staff", PRINCIPAL, "alice", event())
    assert groups_of(store) == ["staff"]
