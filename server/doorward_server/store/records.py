"""The hot reads: all that one decision needs, in one statement written by hand, which is a snapshot of its own."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from doorward_server.core.model import Binding, PrincipalRecord, Record, SubjectKind

from .dialect import Dialect, Sqlite
from .rows import (
    KEY,
    KEYSPACE,
    ORGANIZATION,
    PRINCIPAL,
    SECRET_NAMES,
    Row,
    Rows,
    _texts,
    to_key,
    to_keyspace,
    to_organization,
    to_principal,
    to_secret,
)
from .values import KeyspaceSnapshot, PrincipalSnapshot, Snapshot

_BINDING = (
    "id", "subject_kind", "subject", "role", "resources", "not_before", "expires_at", "created_at", "updated_at",
    "version",
)  # fmt: skip

_OWN = """(SELECT {array}({pair}({binding})){text} FROM binding AS b
  WHERE b.organization = p.organization AND b.subject_kind = 'PRINCIPAL' AND b.subject = p.id
    AND b.keyspace = ks.name)"""
# The groups first, then their bindings by the index: a join would let the planner read all groups' bindings.
_BY_GROUP = """(SELECT {array}({pair}({binding})){text} FROM binding AS b
  WHERE b.organization = p.organization AND b.subject_kind = 'GROUP' AND b.keyspace = ks.name AND b.subject {any_of} (
    SELECT m.group_id FROM membership AS m
    JOIN principal_group AS g ON g.organization = m.organization AND g.id = m.group_id
    WHERE m.organization = p.organization AND m.principal = p.id AND g.deleted_at IS NULL){end})"""
_RECORD = """
SELECT r.value, ks.version, {secret}, {key}, {organization}, {principal}, {own}, {by_group}
FROM revision AS r
LEFT JOIN keyspace AS ks ON ks.name = ?
LEFT JOIN secret AS s ON s.keyspace = ks.name AND s.lookup = ?
LEFT JOIN key AS k ON k.organization = s.organization AND k.id = s.key
LEFT JOIN organization AS o ON o.id = k.organization
LEFT JOIN principal AS p ON p.organization = k.organization AND p.id = k.owner
WHERE r.id = 1
"""
_PRINCIPAL_RECORD = """
SELECT r.value, ks.version, {organization}, {principal}, {own}, {by_group}
FROM revision AS r
LEFT JOIN keyspace AS ks ON ks.name = ?
LEFT JOIN principal AS p ON p.organization = ? AND p.id = ?
LEFT JOIN organization AS o ON o.id = p.organization
WHERE r.id = 1
"""
_KEYSPACE_RECORD = """
SELECT r.value, {keyspace} FROM revision AS r LEFT JOIN keyspace AS ks ON ks.name = ? WHERE r.id = 1
"""


def find_record(dialect: Dialect, keyspace: str, lookup: str) -> Snapshot:
    """Return what the store knows about the secret that *lookup* names. Last uses are left out: none decides."""
    row = dialect.database.execute_sql(_statement(dialect.param, _RECORD), (keyspace, lookup)).fetchone()
    revision, version, *rest = row
    if rest[0] is None:
        return Snapshot(revision, version, None)
    secret, rest = rest[: len(SECRET_NAMES)], rest[len(SECRET_NAMES) :]
    key, rest = rest[: len(KEY.names)], rest[len(KEY.names) :]
    organization, rest = rest[: len(ORGANIZATION.names)], rest[len(ORGANIZATION.names) :]
    *owner, own, by_group = rest
    bindings = _bindings(key[0], keyspace, own, by_group) if owner[0] is not None else ()
    record = Record(
        to_key(tuple(key), (to_secret(tuple(secret), None),), None),
        to_organization(tuple(organization)),
        to_principal(tuple(owner)) if owner[0] is not None else None,
        bindings,
    )
    return Snapshot(revision, version, record)


def find_principal_record(dialect: Dialect, organization: str, principal: str, keyspace: str) -> PrincipalSnapshot:
    """Return what the store knows about a principal and its rights in one keyspace."""
    statement = _statement(dialect.param, _PRINCIPAL_RECORD)
    row = dialect.database.execute_sql(statement, (keyspace, organization, principal)).fetchone()
    revision, version, *rest = row
    if rest[0] is None:
        return PrincipalSnapshot(revision, version, None)
    tenant, rest = rest[: len(ORGANIZATION.names)], rest[len(ORGANIZATION.names) :]
    *found, own, by_group = rest
    bindings = _bindings(organization, keyspace, own, by_group)
    record = PrincipalRecord(to_principal(tuple(found)), to_organization(tuple(tenant)), bindings)
    return PrincipalSnapshot(revision, version, record)


def find_keyspace_record(dialect: Dialect, name: str) -> KeyspaceSnapshot:
    """Return what the store knows about a keyspace."""
    row = dialect.database.execute_sql(_statement(dialect.param, _KEYSPACE_RECORD), (name,)).fetchone()
    revision, *found = row
    return KeyspaceSnapshot(revision, to_keyspace(tuple(found)) if found[0] is not None else None)


@cache
def _statement(param: str, text: str) -> str:
    binding = ", ".join(f"b.{name}" for name in _BINDING)
    words = {"array": "json_group_array", "pair": "json_array", "text": "", "any_of": "IN", "end": ""}
    if param != Sqlite.param:
        words = {
            "array": "json_agg",
            "pair": "json_build_array",
            "text": "::text",
            "any_of": "= ANY (ARRAY",
            "end": ")",
        }
    words["binding"] = binding
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


def _columns(alias: str, table: Rows) -> str:
    return ", ".join(f"{alias}.{name}" for name in table.names)


def _bindings(organization: str, keyspace: str, *found: str | None) -> tuple[Binding, ...]:
    rows: list[list[Any]] = [row for text in found if text and text != "[]" for row in json.loads(text)]
    if len(rows) > 1:
        rows.sort()
    return tuple(_binding(organization, keyspace, tuple(row)) for row in rows)


def _binding(organization: str, keyspace: str, row: Row) -> Binding:
    id, kind, subject, role, resources, *rest = row
    return Binding(organization, id, SubjectKind(kind), subject, keyspace, role, _texts(resources), *rest)
