"""Relations and resources: kept once, listed in order, forgotten with what they are about, and read in one look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from peewee import QueryEvent

from doorward_server.core.directory import Relation, Resource, SubjectKind
from doorward_server.core.errors import NotFound, QuotaExceeded, UnknownReference
from doorward_server.core.model import Event, Quotas
from doorward_server.store import Store, StoredFacts, Written
from tests import databases
from tests.store import hands
from tests.store.statements import counted
from tests.store.values import NOW, QUOTAS, add_key, add_keyspace, event, group, principal, secret

PRINCIPAL, GROUP = SubjectKind.PRINCIPAL, SubjectKind.GROUP


def relation(text: str, organization: str = "acme", keyspace: str = "aiia") -> Relation:
    """Read "flows/1#owner@alice", or "…@@staff" for a group."""
    resource, _, rest = text.partition("#")
    name, _, subject = rest.partition("@")
    kind = GROUP if subject.startswith("@") else PRINCIPAL
    return Relation(organization, keyspace, resource, name, kind, subject.removeprefix("@"), NOW)


def resource(path: str = "flows/1", organization: str = "acme", **changes: Any) -> Resource:
    made = Resource(organization, "aiia", path, {"published": False, "tags": ("a", "b"), "cost": 1.0}, "", NOW, NOW)
    return replace(made, **changes)


def told(relations: Sequence[Relation]) -> Event:
    return event(relations[0].organization, note=str(len(relations)))


def write(store: Store, *texts: str, organization: str = "acme", quotas: Quotas = QUOTAS) -> Written[int]:
    wanted = [relation(text, organization) for text in texts]
    return store.facts.write_relations(organization, "aiia", wanted, told, quotas)


def put(store: Store, it: Resource, quotas: Quotas = QUOTAS) -> Written[Resource]:
    change = lambda _: (it, event(it.organization))  # noqa: E731  # shorter than its name
    return store.facts.put_resource(it.organization, it.keyspace, it.resource, change, quotas)


def listed(store: Store, **filter: Any) -> list[str]:
    found = store.facts.list_relations("acme", "aiia", **filter)
    mark = {PRINCIPAL: "@", GROUP: "@@"}
    return [f"{it.resource}#{it.relation}{mark[it.subject_kind]}{it.subject}" for it in found]


def test_relations_are_kept_once(store: Store) -> None:
    length = store.verify_chain("acme").length
    assert write(store, "flows/1#owner@alice", "flows/1#owner@@staff", "flows/1#owner@alice").value == 2
    assert store.list_events("acme", length, 9)[-1].event.note == "2"
    revision = store.revision()
    assert write(store, "flows/1#owner@alice") == Written(0, revision)
    assert write(store, "flows/1#owner@alice", "flows/1#viewer@alice").value == 1
    assert listed(store) == ["flows/1#owner@@staff", "flows/1#owner@alice", "flows/1#viewer@alice"]
    assert store.facts.list_relations("acme", "aiia")[1] == relation("flows/1#owner@alice")
    assert store.verify_chain("acme").length == length + 2


def test_relations_are_forgotten(store: Store) -> None:
    write(store, "flows/1#owner@alice", "flows/1#viewer@alice", "flows/2#owner@alice")
    length = store.verify_chain("acme").length
    gone = [relation("flows/1#owner@alice"), relation("flows/9#owner@alice"), relation("flows/2#owner@@staff")]
    assert store.facts.delete_relations("acme", gone, told).value == 1
    revision = store.revision()
    assert store.facts.delete_relations("acme", gone, told) == Written(0, revision)
    assert listed(store) == ["flows/1#viewer@alice", "flows/2#owner@alice"]
    assert store.verify_chain("acme").length == length + 1


def test_all_or_none(store: Store) -> None:
    before = store.revision(), store.verify_chain("acme")
    for wrong, field, kind in (
        ("flows/2#owner@carol", "relations[1].principal", "principal"),
        ("flows/2#owner@@nogroup", "relations[1].group", "group"),
        ("flows/2#owner@@alice", "relations[1].group", "group"),
    ):
        with pytest.raises(UnknownReference) as missing:
            write(store, "flows/1#owner@alice", wrong)
        assert missing.value.metadata["field"] == field
        assert missing.value.metadata["type"] == kind
    with pytest.raises(UnknownReference):
        store.facts.write_relations("acme", "nowhere", [relation("a/1#b@alice", keyspace="nowhere")], told, QUOTAS)
    assert (store.revision(), store.verify_chain("acme")) == before
    assert listed(store) == []


def test_an_organization_must_be_there(store: Store) -> None:
    calls = (
        lambda: write(store, "flows/1#owner@alice", organization="nobody"),
        lambda: store.facts.delete_relations("nobody", [relation("flows/1#owner@alice", "nobody")], told),
        lambda: put(store, resource(organization="nobody")),
        lambda: store.facts.delete_resource("nobody", "aiia", "flows/1", lambda *_: event("nobody")),
    )
    for call in calls:
        with pytest.raises(NotFound) as missing:
            call()
        assert missing.value.metadata == {"type": "organization", "id": "nobody"}


def test_relations_are_listed_by_what_is_asked_for(store: Store) -> None:
    texts = ["flows/1#a@@staff", "flows/1#a@alice", "flows/1#b@alice", "flows/1#a@bob", "flows/2#a@alice"]
    write(store, *texts[::-1])
    write(store, "flows/1#a@bob", organization="umbra")
    add_keyspace(store, "other")
    other = [relation("flows/1#a@alice", keyspace="other")]
    store.facts.write_relations("acme", "other", other, told, QUOTAS)
    assert listed(store) == ["flows/1#a@@staff", "flows/1#a@alice", "flows/1#b@alice", "flows/1#a@bob", texts[4]]
    assert listed(store, resource="flows/2") == ["flows/2#a@alice"]
    assert listed(store, relation="b") == ["flows/1#b@alice"]
    assert listed(store, subject=(GROUP, "staff")) == ["flows/1#a@@staff"]
    assert listed(store, subject=(PRINCIPAL, "alice"), relation="a") == ["flows/1#a@alice", "flows/2#a@alice"]
    assert store.facts.list_relations("umbra", "aiia") == [relation("flows/1#a@bob", "umbra")]
    assert store.facts.list_relations("acme", "other") == other
    found: list[Relation] = []
    while page := store.facts.list_relations("acme", "aiia", after=position(found), limit=2):
        assert len(page) <= 2
        found += page
    assert found == store.facts.list_relations("acme", "aiia")


def position(found: list[Relation]) -> tuple[str, str, str, str] | None:
    if not found:
        return None
    last = found[-1]
    return last.resource, last.subject_kind.value, last.subject, last.relation


@pytest.mark.parametrize(
    ("quotas", "fitting", "over", "quota"),
    [
        (Quotas(relations=2), ["a/1#r@alice", "a/2#r@bob"], "a/3#r@@staff", "relations per organization"),
        (
            Quotas(relations_per_subject=1), ["a/1#r@alice", "a/1#r@bob"], "a/2#r@alice",
            "relations per principal or group",
        ),
        (Quotas(relations_per_resource=2), ["a/1#r@alice", "a/1#r@bob"], "a/1#r@@staff", "relations to one resource"),
    ],
)  # fmt: skip
def test_quotas_bound_relations(store: Store, quotas: Quotas, fitting: list[str], over: str, quota: str) -> None:
    write(store, *fitting, quotas=quotas)
    with pytest.raises(QuotaExceeded) as full:
        write(store, over, quotas=quotas)
    assert full.value.metadata["quota"] == quota
    assert write(store, *fitting, quotas=quotas).value == 0
    store.facts.delete_relations("acme", [relation(fitting[0])], told)
    assert write(store, over, quotas=quotas).value == 1


def test_a_resource_is_kept_changed_and_left(store: Store) -> None:
    made = resource(parent="folders/7")
    assert store.facts.find_resource("acme", "aiia", "flows/1") is None
    assert put(store, made).value == made == store.facts.find_resource("acme", "aiia", "flows/1")
    assert store.facts.find_resource("umbra", "aiia", "flows/1") is None
    seen: list[Resource | None] = []

    def publish(current: Resource | None) -> tuple[Resource, Event] | None:
        seen.append(current)
        return replace(made, attributes={"published": True}, version=2), event()

    changed = store.facts.put_resource("acme", "aiia", "flows/1", publish, QUOTAS).value
    assert seen == [made]
    assert changed == store.facts.find_resource("acme", "aiia", "flows/1")
    before = store.revision(), store.verify_chain("acme")
    left = store.facts.put_resource("acme", "aiia", "flows/1", lambda _: None, QUOTAS)
    assert left == Written(changed, before[0])
    assert (store.revision(), store.verify_chain("acme")) == before


def test_resources_are_listed_by_type_and_parent(store: Store) -> None:
    for path, parent in (("a/1", ""), ("a/2", "p/1"), ("a-b/1", "p/1"), ("a0/1", ""), ("ab/1", "")):
        put(store, resource(path, parent=parent))
    put(store, resource("a/1", "umbra"))

    def paths(**filter: Any) -> list[str]:
        return [it.resource for it in store.facts.list_resources("acme", "aiia", **filter)]

    assert paths() == ["a-b/1", "a/1", "a/2", "a0/1", "ab/1"]
    assert paths(type="a") == ["a/1", "a/2"]
    assert paths(type="a", after="a/1") == ["a/2"]
    assert paths(parent="p/1") == ["a-b/1", "a/2"]
    assert paths(parent="p/1", type="a") == ["a/2"]
    assert paths(after="a/1", limit=2) == ["a/2", "a0/1"]


def test_a_quota_bounds_resources(store: Store) -> None:
    two = Quotas(resources=2)
    for path in ("a/1", "a/2", "a/2"):
        put(store, resource(path), two)
    with pytest.raises(QuotaExceeded) as full:
        put(store, resource("a/3"), two)
    assert full.value.metadata == {"quota": "resources per organization", "limit": "2"}
    store.facts.delete_resource("acme", "aiia", "a/1", lambda *_: event())
    put(store, resource("a/3"), two)


def test_a_deleted_resource_takes_the_relations_to_it_along(store: Store) -> None:
    put(store, resource())
    put(store, resource("flows/2", parent="flows/1"))
    write(store, "flows/1#owner@alice", "flows/1#owner@@staff", "flows/2#owner@alice")
    seen: list[Any] = []

    def note(current: Resource | None, relations: Sequence[Relation]) -> Event:
        seen.append((current, list(relations)))
        return event()

    assert store.facts.delete_resource("acme", "aiia", "flows/1", note).value == 2
    assert seen == [(resource(), [relation("flows/1#owner@@staff"), relation("flows/1#owner@alice")])]
    assert store.facts.find_resource("acme", "aiia", "flows/1") is None
    assert listed(store) == ["flows/2#owner@alice"]
    child = store.facts.find_resource("acme", "aiia", "flows/2")
    assert child is not None
    assert child.parent == "flows/1"
    with pytest.raises(NotFound):
        store.facts.delete_resource("acme", "aiia", "flows/1", note)
    write(store, "flows/1#owner@bob")
    assert store.facts.delete_resource("acme", "aiia", "flows/1", note).value == 1
    assert seen[-1] == (None, [relation("flows/1#owner@bob")])
    assert write(store, "flows/3#r@bob", quotas=Quotas(relations=2)).value == 1, "what went no longer counts"


def test_a_subjects_relations_go_in_chunks(store: Store) -> None:
    write(store, *(f"flows/{number}#{name}@alice" for number in range(4) for name in ("a", "b")))
    write(store, "flows/1#a@bob", "flows/1#a@@staff")
    write(store, "flows/1#a@alice", organization="umbra")
    chunks: list[int] = []

    def note(relations: Sequence[Relation]) -> Event:
        chunks.append(len(relations))
        return event()

    counts = []
    while count := store.facts.drop_relations_of("acme", PRINCIPAL, "alice", note, 3).value:
        counts.append(count)
    assert counts == chunks == [3, 3, 2]
    assert listed(store) == ["flows/1#a@@staff", "flows/1#a@bob"]
    assert len(store.facts.list_relations("umbra", "aiia")) == 1
    assert write(store, "flows/9#a@bob", quotas=Quotas(relations=3)).value == 1


# --- what decisions read ----------------------------------------------------------------------------------------------


def test_facts_are_of_the_resource_and_its_parent(store: Store) -> None:
    put(store, resource("flows/1", parent="folders/7"))
    put(store, resource("folders/7", attributes={"open": True}))
    store.add_group(group("late"), event())
    write(
        store, "flows/1#owner@alice", "flows/1#viewer@@staff", "flows/1#editor@bob", "flows/1#auditor@@late",
        "folders/7#owner@@staff", "folders/7#lead@alice", "folders/8#sent@alice",
    )  # fmt: skip
    (found,) = store.find_facts("acme", "aiia", [("flows/1", "")], "alice", ("staff", "other"))
    assert found == StoredFacts(
        store.revision(),
        resource().attributes,
        "folders/7",
        {"open": True},
        frozenset({("resource", "owner"), ("resource", "viewer"), ("parent", "owner"), ("parent", "lead")}),
    )
    (same,) = store.find_facts("acme", "aiia", [("flows/1", "folders/8")], "alice", ("staff",))
    assert same == found, "a parent that is kept is believed rather than one that is sent"
    (nobodys,) = store.find_facts("acme", "aiia", [("flows/1", "")])
    assert nobodys.relations == frozenset()
    (groups,) = store.find_facts("acme", "aiia", [("flows/1", "")], "", ("late",))
    assert groups.relations == {("resource", "auditor")}


def test_a_sent_parent_counts_where_none_is_kept(store: Store) -> None:
    put(store, resource("folders/8", attributes={"open": False}))
    write(store, "folders/8#lead@alice")
    expected = ("folders/8", {"open": False}, frozenset({("parent", "lead")}))
    put(store, resource("flows/2"))
    for path in ("flows/1", "flows/2"):
        (found,) = store.find_facts("acme", "aiia", [(path, "folders/8")], "alice")
        assert (found.parent, found.parent_attributes, found.relations) == expected
    (nothing,) = store.find_facts("acme", "aiia", [("flows/1", "")], "alice", ("staff",))
    assert nothing == StoredFacts(store.revision(), {}, "", {}, frozenset())


def test_facts_of_another_organization_or_keyspace_do_not_count(store: Store) -> None:
    put(store, resource(organization="umbra"))
    write(store, "flows/1#owner@alice", organization="umbra")
    for organization, keyspace in (("acme", "aiia"), ("umbra", "other")):
        (found,) = store.find_facts(organization, keyspace, [("flows/1", "")], "alice")
        assert found == StoredFacts(store.revision(), {}, "", {}, frozenset())


def test_a_record_comes_with_facts_for_its_owner_and_groups(store: Store) -> None:
    store.add_group(group("outer"), event())
    store.add_group_member("acme", "outer", GROUP, "staff", event())
    store.add_group_member("acme", "staff", PRINCIPAL, "alice", event())
    write(store, "flows/1#owner@alice", "flows/1#viewer@@outer", "flows/2#owner@alice", "flows/1#editor@bob")
    add_key(store, owner="alice", secrets=(secret("here"),))
    add_key(store, secrets=(secret("nobodys"),))
    abouts = [("flows/1", ""), ("flows/2", "")]
    expected = [{("resource", "owner"), ("resource", "viewer")}, {("resource", "owner")}]
    snapshot, facts = store.find_record_with_facts("aiia", "here", abouts)
    assert snapshot == store.find_record("aiia", "here")
    assert [it.relations for it in facts] == expected
    found, facts = store.find_principal_record_with_facts("acme", "alice", "aiia", abouts)
    assert found == store.find_principal_record("acme", "alice", "aiia")
    assert [it.relations for it in facts] == expected
    assert facts == store.find_facts("acme", "aiia", abouts, "alice", ("outer", "staff"))
    assert [it.relations for it in store.find_record_with_facts("aiia", "nobodys", abouts)[1]] == [set(), set()]
    assert store.find_record_with_facts("aiia", "nope", abouts)[1] == ()
    assert store.find_principal_record_with_facts("acme", "carol", "aiia", abouts)[1] == ()


class Meddler:
    """Somebody who writes between the statements of a read."""

    def __init__(self, store: Store, url: str) -> None:
        self._hooks = store._dialect.database.query_hooks
        self._other = databases.open_store(url)
        self._count = 0

    def __enter__(self) -> None:
        self._hooks.append(self._write)

    def __exit__(self, *_: object) -> None:
        self._hooks.remove(self._write)
        self._other.close()

    def _write(self, query: QueryEvent) -> None:
        if "FROM revision" in query.sql:
            self._count += 1
            self._other.add_principal(principal(f"new{self._count}"), event())


def check_record_and_facts_are_of_one_moment(store: Store, url: str) -> None:
    """The planted bug `no-snapshot` must fail here."""
    add_key(store, owner="alice", secrets=(secret("here"),))
    abouts = [("flows/1", ""), ("flows/2", "")]
    with Meddler(store, url):
        snapshot, facts = store.find_record_with_facts("aiia", "here", abouts)
        found, others = store.find_principal_record_with_facts("acme", "alice", "aiia", abouts)
        several = store.find_facts("acme", "aiia", abouts, "alice")
    assert {it.revision for it in facts} == {snapshot.revision}
    assert {it.revision for it in others} == {found.revision}
    assert len({it.revision for it in several}) == 1
    assert store.revision() > several[0].revision >= found.revision >= snapshot.revision


def test_record_and_facts_are_of_one_moment(store: Store, store_url: str) -> None:
    check_record_and_facts_are_of_one_moment(store, store_url)


def test_one_resources_facts_are_one_statement(store: Store) -> None:
    with counted(store) as statements:
        store.find_facts("acme", "aiia", [("flows/1", "")], "alice", ("staff",))
    assert len(statements) == 1


@pytest.fixture
def plan(store: Store, store_url: str) -> Iterator[list[str]]:
    """How the database goes about reading facts, whatever it believes about the sizes of tables."""
    with counted(store) as statements:
        store.find_facts("acme", "aiia", [("flows/1", "")], "alice", ("staff",))
    sql = statements[0].replace("%s", "?")
    with hands.at(store_url) as prompt:
        explain = "EXPLAIN" if prompt.postgresql else "EXPLAIN QUERY PLAN"
        params = ["[]" if _is_list(sql, number) else "x" for number in range(sql.count("?"))]
        yield [str(row[-1]) for row in prompt.run(f"{explain} {sql}", *params)]


def _is_list(sql: str, number: int) -> bool:
    before, after = "?".join(sql.split("?")[: number + 1]), sql.split("?")[number + 1]
    return before.endswith(("json_each(", "json_array_elements_text(")) or after.startswith("::json")


def test_facts_are_found_by_indices_alone(plan: list[str]) -> None:
    scanned = [line for line in plan if "Seq Scan" in line or line.startswith("SCAN")]
    assert [line for line in scanned if "revision" not in line and "json_" not in line and "SCAN r" not in line] == []
    by_subject = [line for line in plan if "subject=?" in line or "(subject =" in line]
    assert len(by_subject) == 4, plan
    for line in by_subject:
        assert "resource" in line, line
