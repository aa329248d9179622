"""The hot reads: all that one decision needs, each in one statement written by hand, a snapshot of its own."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from doorward_server.core.directory import Binding, SubjectKind
from doorward_server.core.records import PrincipalRecord, Record

from .dialect import Dialect, Sqlite
from .nesting import within
from .rows import (
    KEY,
    KEYSPACE,
    ORGANIZATION,
    PRINCIPAL,
    SECRET_NAMES,
    Row,
    Rows,
    _attributes,
    _texts,
    to_key,
    to_keyspace,
    to_organization,
    to_principal,
    to_secret,
)
from .values import About, KeyspaceSnapshot, PrincipalSnapshot, Snapshot, StoredFacts

_BINDING = (
    "id", "subject_kind", "subject", "role", "resources", "not_before", "expires_at", "created_at", "updated_at",
    "version", "condition",
)  # fmt: skip

_OWN = """(SELECT {array}({pair}({binding})){text} FROM binding AS b
  WHERE b.organization = p.organization AND b.subject_kind = 'PRINCIPAL' AND b.subject = p.id
    AND b.keyspace = ks.name)"""
# [the groups, their bindings]. The groups first, then their bindings by the index: a join would let the planner read
# all groups' bindings. Most people are in none, and pay for one look.
_BY_GROUP = """CASE WHEN EXISTS (
    SELECT 1 FROM membership AS m WHERE m.organization = p.organization AND m.principal = p.id
  ) THEN ({within}
  SELECT '[' || (SELECT coalesce({array}(DISTINCT id){text}, '[]') FROM within) || ',' || coalesce((
    SELECT {array}({pair}({binding})){text} FROM binding AS b
    WHERE b.organization = p.organization AND b.subject_kind = 'GROUP' AND b.keyspace = ks.name
      AND b.subject {any_of} (SELECT id FROM within){end}), '[]') || ']') END"""
_RECORD = """
SELECT r.value, ks.source, {secret}, {key}, {organization}, {principal}, {own}, {by_group}
FROM revision AS r
LEFT JOIN keyspace AS ks ON ks.name = ?
LEFT JOIN secret AS s ON s.keyspace = ks.name AND s.lookup = ?
LEFT JOIN key AS k ON k.organization = s.organization AND k.id = s.key
LEFT JOIN organization AS o ON o.id = k.organization
LEFT JOIN principal AS p ON p.organization = k.organization AND p.id = k.owner
WHERE r.id = 1
"""
_PRINCIPAL_RECORD = """
SELECT r.value, ks.source, {organization}, {principal}, {own}, {by_group}
FROM revision AS r
LEFT JOIN keyspace AS ks ON ks.name = ?
LEFT JOIN principal AS p ON p.organization = ? AND p.id = ?
LEFT JOIN organization AS o ON o.id = p.organization
WHERE r.id = 1
"""
_HELD = """(SELECT {array}(h.relation){text} FROM relation AS h
  WHERE h.organization = ? AND h.keyspace = ? AND h.resource = {resource} AND h.subject_kind = {whose})"""
_OWN_RELATIONS = "'PRINCIPAL' AND h.subject = ?"
_GROUPS_RELATIONS = "'GROUP' AND h.subject {any_of} (SELECT {listed}){end}"
_FACTS = """
SELECT r.value, mine.attributes, {parent}, up.attributes, {relations}
FROM revision AS r
LEFT JOIN resource AS mine ON mine.organization = ? AND mine.keyspace = ? AND mine.resource = ?
LEFT JOIN resource AS up ON up.organization = ? AND up.keyspace = ? AND up.resource = {parent}
WHERE r.id = 1
"""
_PARENT = "coalesce(nullif(mine.parent, ''), ?)"
_KEYSPACE_RECORD = """
SELECT r.value, {keyspace} FROM revision AS r LEFT JOIN keyspace AS ks ON ks.name = ? WHERE r.id = 1
"""


def find_record(dialect: Dialect, keyspace: str, lookup: str) -> Snapshot:
    """Return what the store knows about the secret that *lookup* names. Last uses are left out: none decides."""
    row = dialect.database.execute_sql(_statement(dialect.param, _RECORD), (keyspace, lookup)).fetchone()
    revision, source, *rest = row
    if rest[0] is None:
        return Snapshot(revision, source, None)
    secret, rest = rest[: len(SECRET_NAMES)], rest[len(SECRET_NAMES) :]
    key, rest = rest[: len(KEY.names)], rest[len(KEY.names) :]
    organization, rest = rest[: len(ORGANIZATION.names)], rest[len(ORGANIZATION.names) :]
    *owner, own, by_group = rest
    groups, bindings = _held(key[0], keyspace, own, by_group) if owner[0] is not None else ((), ())
    record = Record(
        to_key(tuple(key), (to_secret(tuple(secret), None),), None),
        to_organization(tuple(organization)),
        to_principal(tuple(owner)) if owner[0] is not None else None,
        bindings,
        groups,
    )
    return Snapshot(revision, source, record)


def find_principal_record(dialect: Dialect, organization: str, principal: str, keyspace: str) -> PrincipalSnapshot:
    """Return what the store knows about a principal and its rights in one keyspace."""
    statement = _statement(dialect.param, _PRINCIPAL_RECORD)
    row = dialect.database.execute_sql(statement, (keyspace, organization, principal)).fetchone()
    revision, source, *rest = row
    if rest[0] is None:
        return PrincipalSnapshot(revision, source, None)
    tenant, rest = rest[: len(ORGANIZATION.names)], rest[len(ORGANIZATION.names) :]
    *found, own, by_group = rest
    groups, bindings = _held(organization, keyspace, own, by_group)
    record = PrincipalRecord(to_principal(tuple(found)), to_organization(tuple(tenant)), bindings, groups)
    return PrincipalSnapshot(revision, source, record)


def find_facts(
    dialect: Dialect,
    organization: str,
    keyspace: str,
    abouts: Sequence[About],
    principal: str,
    groups: Collection[str],
) -> tuple[StoredFacts, ...]:
    """Return what the store knows about resources and their parents, and of somebody's relations to them.

    To be called in a transaction if there are several.
    """
    listed = json.dumps(list(groups))
    return tuple(_find_facts(dialect, (organization, keyspace), about, principal, listed) for about in abouts)


def _find_facts(dialect: Dialect, here: tuple[str, str], about: About, principal: str, groups: str) -> StoredFacts:
    resource, parent = about
    relations_here = (*here, resource, principal, *here, resource, groups)
    relations_up = (*here, parent, principal, *here, parent, groups)
    params = (parent, *relations_here, *relations_up, *here, resource, *here, parent)
    row = dialect.database.execute_sql(_facts_statement(dialect.param), params).fetchone()
    revision, attributes, effective, parent_attributes, *relations = row
    return StoredFacts(
        revision,
        _attributes(attributes or "{}"),
        effective,
        _attributes(parent_attributes or "{}"),
        frozenset(
            (place, relation)
            for place, text in zip(("resource", "resource", "parent", "parent"), relations, strict=True)
            for relation in json.loads(text or "[]")
        ),
    )


def find_record_with_facts(
    dialect: Dialect, keyspace: str, lookup: str, abouts: Sequence[About]
) -> tuple[Snapshot, tuple[StoredFacts, ...]]:
    """Return both, if there is a record. To be called in a transaction."""
    snapshot = find_record(dialect, keyspace, lookup)
    record = snapshot.record
    if record is None:
        return snapshot, ()
    owner = record.owner.id if record.owner else ""
    return snapshot, find_facts(dialect, record.organization.id, keyspace, abouts, owner, record.groups)


def find_principal_record_with_facts(
    dialect: Dialect, organization: str, principal: str, keyspace: str, abouts: Sequence[About]
) -> tuple[PrincipalSnapshot, tuple[StoredFacts, ...]]:
    """Return both, if there is a record. To be called in a transaction."""
    snapshot = find_principal_record(dialect, organization, principal, keyspace)
    record = snapshot.record
    if record is None:
        return snapshot, ()
    return snapshot, find_facts(dialect, organization, keyspace, abouts, principal, record.groups)


def find_keyspace_record(dialect: Dialect, name: str) -> KeyspaceSnapshot:
    """Return what the store knows about a keyspace."""
    row = dialect.database.execute_sql(_statement(dialect.param, _KEYSPACE_RECORD), (name,)).fetchone()
    revision, *found = row
    return KeyspaceSnapshot(revision, to_keyspace(tuple(found)) if found[0] is not None else None)


@cache
def _statement(param: str, text: str) -> str:
    words = _words(param) | {
        "binding": ", ".join(f"b.{name}" for name in _BINDING),
        "within": within("p.organization", "p.id"),
    }
    statement = text.format(
        secret=", ".join(f"s.{name}" for name in SECRET_NAMES),
        key=_columns("k", KEY),
        organization=_columns("o", ORGANIZATION),
        principal=_columns("p", PRINCIPAL),
        keyspace=_columns("ks", KEYSPACE),
        own=_OWN.format(**words),
        by_group=_BY_GROUP.format(**words),
    )
    return statement.replace("?", param)


@cache
def _facts_statement(param: str) -> str:
    words = _words(param)
    whose = (_OWN_RELATIONS, _GROUPS_RELATIONS.format(**words))
    relations = [_HELD.format(resource=it, whose=who, **words) for it in ("?", _PARENT) for who in whose]
    return _FACTS.format(parent=_PARENT, relations=", ".join(relations)).replace("?", param)


def _words(param: str) -> dict[str, str]:
    """Return what the databases spell differently."""
    if param == Sqlite.param:
        return {
            "array": "json_group_array",
            "pair": "json_array",
            "text": "",
            "any_of": "IN",
            "end": "",
            "listed": "value FROM json_each(?)",
        }
    return {
        "array": "json_agg",
        "pair": "json_build_array",
        "text": "::text",
        "any_of": "= ANY (ARRAY",
        "end": ")",
        "listed": "json_array_elements_text(?::json)",
    }


def _columns(alias: str, table: Rows) -> str:
    return ", ".join(f"{alias}.{name}" for name in table.names)


def _held(
    organization: str, keyspace: str, own: str | None, by_group: str | None
) -> tuple[tuple[str, ...], tuple[Binding, ...]]:
    """Return the groups and all bindings, by id, from what `_OWN` and `_BY_GROUP` gave."""
    rows: list[list[Any]] = json.loads(own) if own and own != "[]" else []
    groups: list[str] = []
    if by_group:
        groups, theirs = json.loads(by_group)
        rows += theirs
    if len(rows) > 1:
        rows.sort()
    return tuple(sorted(groups)), tuple(_binding(organization, keyspace, tuple(row)) for row in rows)


def _binding(organization: str, keyspace: str, row: Row) -> Binding:
    id, kind, subject, role, resources, *rest = row
    return Binding(organization, id, SubjectKind(kind), subject, keyspace, role, _texts(resources), *rest)
