"""What decisions read: whole, from one moment, and only what belongs together."""

from __future__ import annotations

from dataclasses import replace

from doorward_server.core.directory import SubjectKind
from doorward_server.core.model import Ceiling
from doorward_server.store import PrincipalSnapshot, Snapshot, Store
from tests.store import hands
from tests.store.statements import counted
from tests.store.values import (
    NOW,
    QUOTAS,
    add_key,
    add_keyspace,
    binding,
    event,
    group,
    keyspace,
    organization,
    principal,
    secret,
)


def give_rights(store: Store) -> None:
    """Alice holds b5 herself and b1, b9 by groups in aiia; the others are for somebody or something else."""
    add_keyspace(store, "other")
    store.add_group(group("gone"), event())
    for name in ("staff", "gone"):
        store.add_group_member("acme", name, SubjectKind.PRINCIPAL, "alice", event())
    store.add_group_member("umbra", "staff", SubjectKind.PRINCIPAL, "bob", event("umbra"))
    in_group = {"subject_kind": SubjectKind.GROUP}
    for it in (
        binding("b5", resources=("a/*",), not_before=NOW, expires_at=NOW + 5),
        binding("b9", "staff", **in_group),
        binding("b1", "staff", **in_group),
        binding("b2", "gone", **in_group),
        binding("b3", keyspace="other"),
        binding("b4", "staff", keyspace="other", **in_group),
        binding("b6", "bob"),
    ):
        store.add_binding(it, event(), QUOTAS)
    store.add_binding(binding("b7", "alice", "umbra"), event("umbra"), QUOTAS)
    store.add_binding(binding("b8", "staff", "umbra", **in_group), event("umbra"), QUOTAS)
    store.delete_group("acme", "gone", lambda it: (replace(it, deleted_at=NOW), event()))


def test_a_record_holds_all_that_a_decision_needs(store: Store) -> None:
    give_rights(store)
    made = add_key(store, owner="alice", ceiling=Ceiling.OWNER, secrets=(secret("new"), secret("old")))
    snapshot = store.find_record("aiia", "old")
    record = snapshot.record
    assert record is not None
    assert snapshot.revision == store.revision()
    assert snapshot.keyspace_source == keyspace().source
    assert record.key == replace(made, secrets=made.secrets[1:])
    assert record.organization == organization()
    assert record.owner == principal()
    assert [it.id for it in record.bindings] == ["b1", "b5", "b9"]
    assert record.bindings[1] == store.find_binding("acme", "b5")
    assert record.bindings[0] == store.find_binding("acme", "b1")


def test_a_key_without_owner_has_no_bindings(store: Store) -> None:
    give_rights(store)
    add_key(store, secrets=(secret("here"),))
    record = store.find_record("aiia", "here").record
    assert record is not None
    assert (record.owner, record.bindings) == (None, ())


def test_what_is_not_there_comes_with_its_revision_too(store: Store) -> None:
    add_key(store, secrets=(secret("here"),))
    now = store.revision()
    add_keyspace(store, "other")
    assert store.find_record("aiia", "nope") == Snapshot(store.revision(), keyspace().source, None)
    assert store.find_record("other", "here") == Snapshot(store.revision(), keyspace("other").source, None)
    assert store.find_record("nowhere", "here") == Snapshot(store.revision(), None, None)
    assert store.revision() > now


def test_the_keyspaces_file_is_the_current_one(store: Store) -> None:
    store.apply_keyspace("aiia", lambda it: (keyspace(source="name: aiia, again"), event()))
    assert store.find_record("aiia", "nope").keyspace_source == "name: aiia, again"


def test_the_dead_are_in_the_record_and_say_so(store: Store) -> None:
    made = add_key(store, owner="alice", secrets=(secret("here"),))
    store.update_key("acme", made.id, lambda it: (it.delete(NOW), event()))
    store.delete_principal("acme", "alice", lambda it, _: (replace(it, deleted_at=NOW), event()))
    store.delete_organization("acme", lambda it, _: (replace(it, deleted_at=NOW), event()))
    record = store.find_record("aiia", "here").record
    assert record is not None
    assert record.key.deleted_at == NOW
    assert record.owner is not None
    assert not record.owner.alive
    assert not record.organization.alive


def test_a_principals_record(store: Store) -> None:
    give_rights(store)
    snapshot = store.find_principal_record("acme", "alice", "aiia")
    assert (snapshot.revision, snapshot.keyspace_source) == (store.revision(), keyspace().source)
    assert snapshot.record is not None
    assert snapshot.record.principal == principal()
    assert snapshot.record.organization == organization()
    assert [it.id for it in snapshot.record.bindings] == ["b1", "b5", "b9"]
    other = store.find_principal_record("acme", "alice", "other").record
    assert other is not None
    assert [it.id for it in other.bindings] == ["b3", "b4"]


def test_a_principal_that_is_not_there(store: Store) -> None:
    assert store.find_principal_record("acme", "carol", "aiia") == PrincipalSnapshot(
        store.revision(), keyspace().source, None
    )
    assert store.find_principal_record("nobody", "alice", "aiia").record is None
    unknown = store.find_principal_record("acme", "alice", "nowhere")
    assert unknown.keyspace_source is None
    assert unknown.record is not None
    assert unknown.record.bindings == ()
    store.delete_principal("acme", "alice", lambda it, _: (replace(it, deleted_at=NOW), event()))
    gone = store.find_principal_record("acme", "alice", "aiia").record
    assert gone is not None
    assert not gone.principal.alive


def test_a_record_is_one_statement(store: Store) -> None:
    give_rights(store)
    add_key(store, owner="alice", secrets=(secret("here"),))
    with counted(store) as statements:
        store.find_record("aiia", "here")
        store.find_principal_record("acme", "alice", "aiia")
    assert len(statements) == 2


def test_a_record_is_found_by_indices_alone(store: Store, store_url: str) -> None:
    """Whatever the planner believes about the sizes: an organization may have many groups with many bindings."""
    give_rights(store)
    with counted(store) as statements:
        store.find_record("aiia", "here")
    (sql,) = statements
    with hands.at(store_url) as prompt:
        explain = "EXPLAIN" if prompt.postgresql else "EXPLAIN QUERY PLAN"
        lines = [str(row[-1]) for row in prompt.run(f"{explain} {sql.replace('%s', '?')}", "aiia", "here")]
    scanned = [line for line in lines if ("Seq Scan" in line or line.startswith("SCAN")) and "revision" not in line]
    few = {"SCAN CONSTANT ROW", "SCAN w", "SCAN within"}  # the groups of one principal
    scanned = [line for line in scanned if line not in few]
    assert not scanned
    by_subject = [line for line in lines if "subject_kind" in line]
    assert len(by_subject) == 2
    for line in by_subject:
        assert "subject=?" in line or "(subject =" in line, lines
