"""The tables, and the only bridges between their rows and the values of core.

Tables are bound to no database: a query is built from them and handed to a `Transaction`, so that any number of stores
live in one process. Queries of one shape are `Prepared`. The schema itself stands in `migrations/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from peewee import Table

from doorward_server.core.directory import (
    Attributes,
    Binding,
    Group,
    Organization,
    Principal,
    PrincipalKind,
    Relation,
    Resource,
    SubjectKind,
)
from doorward_server.core.model import Ceiling, Instant, Key, KeyBinding, Secret, StoredKeyspace
from doorward_server.core.verify import Verifier

Row = tuple[Any, ...]
Columns = dict[str, Any]


class Rows(Table):
    """A table with its columns as attributes; `names` is their order in every `SELECT`."""

    def __init__(self, name: str, *names: str) -> None:
        super().__init__(name, names)
        self.names = names

    def all_columns(self) -> tuple[Any, ...]:
        """Return the columns, in order."""
        return tuple(getattr(self, name) for name in self.names)

    def where_all(self, query: Any, values: Columns) -> Any:
        """Narrow *query* to the rows that have these *values*."""
        for name, value in values.items():
            query = query.where(getattr(self, name) == value)
        return query

    def change(self, values: Columns) -> Any:
        """Return the UPDATE that sets *values*."""
        return self.update({getattr(self, name): value for name, value in values.items()})

    if TYPE_CHECKING:  # Peewee's stubs leave these untyped.

        def __getattr__(self, name: str) -> Any: ...
        def select(self, *columns: Any) -> Any: ...
        def insert(self, insert: Any = None, columns: Any = None, **kwargs: Any) -> Any: ...
        def update(self, update: Any = None, **kwargs: Any) -> Any: ...
        def delete(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a value goes in a `Prepared` query."""

    name: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query with slots. Its SQL is written once per dialect: Peewee takes longer over it than SQLite to run it."""

    query: Any
    lock: bool = False
    """Whether the rows that it finds stay as they are until the end of the transaction."""
    written: dict[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict, compare=False, repr=False)
    """SQL and parameters, slots among them, by dialect."""


def slots(*names: str) -> dict[str, Slot]:
    """Return a slot for each name."""
    return {name: Slot(name) for name in names}


def one_of(table: Rows, *identity: str, lock: bool = False) -> Prepared:
    """Prepare the SELECT of all columns by *identity*."""
    return Prepared(table.where_all(table.select(*table.all_columns()), slots(*identity)), lock)


def insert_into(table: Rows) -> Prepared:
    """Prepare the INSERT of a row."""
    return Prepared(table.insert(slots(*table.names)))


def change_in(table: Rows, *identity: str, keep: tuple[str, ...] = ()) -> Prepared:
    """Prepare the UPDATE of all other columns, but for *keep*, by *identity*."""
    others = slots(*(name for name in table.names if name not in (*identity, *keep)))
    return Prepared(table.where_all(table.change(others), slots(*identity)))


def delete_from(table: Rows, *names: str) -> Prepared:
    """Prepare the DELETE of the rows that have these columns' values."""
    return Prepared(table.where_all(table.delete(), slots(*names)))


ORGANIZATION = Rows(
    "organization", "id", "display_name", "attributes", "enabled", "created_at", "updated_at", "version", "deleted_at"
)
KEYSPACE = Rows("keyspace", "name", "source", "created_at", "updated_at", "version")
PRINCIPAL = Rows(
    "principal", "organization", "id", "kind", "display_name", "email", "attributes", "enabled", "created_at",
    "updated_at", "version", "deleted_at",
)  # fmt: skip
GROUP = Rows(
    "principal_group", "organization", "id", "display_name", "created_at", "updated_at", "version", "deleted_at"
)
MEMBERSHIP = Rows("membership", "organization", "group_id", "principal")
NESTING = Rows("nesting", "organization", "group_id", "member")
RELATION = Rows("relation", "organization", "keyspace", "resource", "subject_kind", "subject", "relation", "created_at")
RESOURCE = Rows(
    "resource", "organization", "keyspace", "resource", "attributes", "parent", "created_at", "updated_at", "version"
)
BINDING = Rows(
    "binding", "organization", "id", "subject_kind", "subject", "keyspace", "role", "resources", "not_before",
    "expires_at", "created_at", "updated_at", "version", "condition",
)  # fmt: skip
KEY = Rows(
    "key", "organization", "id", "keyspace", "owner", "name", "description", "environment", "type", "enabled",
    "ceiling", "scopes", "bindings", "allowed_cidrs", "metadata", "not_before", "expires_at", "created_at",
    "updated_at", "version", "revoked_at", "revoke_reason", "deleted_at", "api_version", "external_id", "limits",
)  # fmt: skip
SECRET = Rows(
    "secret", "organization", "key", "id", "ordinal", "keyspace", "lookup", "verifier", "pepper", "digest", "last4",
    "created_at", "expires_at", "inner_peppers",
)  # fmt: skip
SECRET_NAMES = (
    "id", "lookup", "verifier", "pepper", "digest", "last4", "created_at", "expires_at", "inner_peppers",
)  # fmt: skip
"""What `to_secret` wants."""
SEALED = Rows("sealed", "organization", "key", "secret", "ciphertext", "version")
EXPIRED = Rows("expired", "organization", "key", "expires_at")
REPLICA = Rows("replica", "id", "started_at", "seen_at", "peppers", "max_staleness", "serve_stale_for", "condemned")
ACKNOWLEDGEMENT = Rows("acknowledgement", "replica", "revision", "seen", "nonce")
SETTING = Rows("setting", "name", "value")
KEY_USE = Rows("key_use", "organization", "key", "at")
SECRET_USE = Rows("secret_use", "organization", "key", "secret", "at")
REPLAY = Rows("replay", "caller", "method", "request_id", "digest", "at", "organization", "key")
TALLY = Rows("tally", "organization", "keys", "bindings", "events", "head", "metadata", "relations", "resources")
EVENT = Rows(
    "event", "organization", "sequence", "at", "actor_organization", "actor_key", "actor_principal", "acting_for",
    "action", "target_type", "target", "before", "after", "note", "pepper", "hash",
)  # fmt: skip
PEPPER = Rows("pepper", "version", "canary", "state")
REVISION = Rows("revision", "value", "nonce", "floor")
CHANGES = Rows("changes", "revision", "kind", "organization", "name", "nonce")


def to_json(value: object) -> str:
    """Write JSON in its one form: keys sorted, no spaces. Raises TypeError or ValueError for what JSON cannot say."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@lru_cache(4096)
def _texts(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


@lru_cache(4096)
def _key_bindings(text: str) -> tuple[KeyBinding, ...]:
    return tuple(
        KeyBinding(b["role"], tuple(b["resources"]), b["from"], b["to"], b.get("condition", ""))
        for b in json.loads(text)
    )


def _of_key_binding(binding: KeyBinding) -> Columns:
    return {
        "role": binding.role,
        "resources": binding.resources,
        "from": binding.not_before,
        "to": binding.expires_at,
        "condition": binding.condition,
    }


def _attributes(text: str) -> Attributes:
    if text == "{}":
        return {}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}


def _limits(text: str) -> dict[str, int]:
    limits: dict[str, int] = json.loads(text)
    return limits


def _metadata(text: str) -> Mapping[str, str]:
    return {} if text == "{}" else json.loads(text)


def _same(it: object, table: Rows) -> Columns:
    """Return the attributes that have the name of a column."""
    return {name: getattr(it, name) for name in table.names}


def to_organization(row: Row) -> Organization:
    """Return the organization of a row of ORGANIZATION."""
    id, display_name, attributes, enabled, *rest = row
    return Organization(id, display_name, _attributes(attributes), bool(enabled), *rest)


def of_organization(it: Organization) -> Columns:
    """Return the row of an organization."""
    return _same(it, ORGANIZATION) | {"attributes": to_json(it.attributes)}


def to_keyspace(row: Row) -> StoredKeyspace:
    """Return the keyspace of a row of KEYSPACE."""
    return StoredKeyspace(*row)


def of_keyspace(it: StoredKeyspace) -> Columns:
    """Return the row of a keyspace."""
    return _same(it, KEYSPACE)


def to_principal(row: Row) -> Principal:
    """Return the principal of a row of PRINCIPAL."""
    organization, id, kind, display_name, email, attributes, enabled, *rest = row
    return Principal(
        organization, id, PrincipalKind(kind), display_name, email, _attributes(attributes), bool(enabled), *rest
    )


def of_principal(it: Principal) -> Columns:
    """Return the row of a principal."""
    return _same(it, PRINCIPAL) | {"kind": it.kind.value, "attributes": to_json(it.attributes)}


def to_group(row: Row) -> Group:
    """Return the group of a row of GROUP."""
    return Group(*row)


def of_group(it: Group) -> Columns:
    """Return the row of a group."""
    return _same(it, GROUP)


def to_binding(row: Row) -> Binding:
    """Return the binding of a row of BINDING."""
    organization, id, kind, subject, keyspace, role, resources, *rest = row
    return Binding(organization, id, SubjectKind(kind), subject, keyspace, role, _texts(resources), *rest)


def of_binding(it: Binding) -> Columns:
    """Return the row of a binding."""
    return _same(it, BINDING) | {"subject_kind": it.subject_kind.value, "resources": to_json(it.resources)}


def to_relation(row: Row) -> Relation:
    """Return the relation of a row of RELATION."""
    organization, keyspace, resource, kind, subject, relation, created_at = row
    return Relation(organization, keyspace, resource, relation, SubjectKind(kind), subject, created_at)


def of_relation(it: Relation) -> Columns:
    """Return the row of a relation."""
    return _same(it, RELATION) | {"subject_kind": it.subject_kind.value}


def to_resource(row: Row) -> Resource:
    """Return the resource of a row of RESOURCE."""
    organization, keyspace, resource, attributes, *rest = row
    return Resource(organization, keyspace, resource, _attributes(attributes), *rest)


def of_resource(it: Resource) -> Columns:
    """Return the row of a resource."""
    return _same(it, RESOURCE) | {"attributes": to_json(it.attributes)}


def to_secret(row: Row, last_used_at: Instant | None) -> Secret:
    """Return the secret of a row of `SECRET_NAMES`."""
    id, lookup, kind, pepper, digest, last4, created_at, expires_at, inner = row
    verifier = Verifier(kind, pepper, bytes(digest), tuple(map(int, inner.split(","))) if inner else ())
    return Secret(id, lookup, verifier, last4, created_at, expires_at, last_used_at)


def of_secret(it: Secret, key: Key, ordinal: int) -> Columns:
    """Return the row of a secret; *ordinal* counts the secrets of its key from 1."""
    return {
        "organization": key.organization,
        "key": key.id,
        "id": it.id,
        "ordinal": ordinal,
        "keyspace": key.keyspace,
        "lookup": it.lookup,
        "verifier": it.verifier.kind,
        "pepper": it.verifier.pepper,
        "digest": it.verifier.digest,
        "last4": it.last4,
        "created_at": it.created_at,
        "expires_at": it.expires_at,
        "inner_peppers": ",".join(map(str, it.verifier.inner)),
    }


def to_key(row: Row, secrets: tuple[Secret, ...], last_used_at: Instant | None) -> Key:
    """Return the key of a row of KEY, with its secrets."""
    (
        organization, id, keyspace, owner, name, description, environment, type, enabled, ceiling, scopes, bindings,
        allowed_cidrs, metadata, not_before, expires_at, created_at, updated_at, version, revoked_at, revoke_reason,
        deleted_at, api_version, external_id, limits,
    ) = row  # fmt: skip
    return Key(
        organization, id, keyspace, owner, name, description, environment, type, bool(enabled), Ceiling(ceiling),
        _texts(scopes), _key_bindings(bindings), _texts(allowed_cidrs), _metadata(metadata), not_before, expires_at,
        created_at, updated_at, secrets, version, revoked_at, revoke_reason, deleted_at, last_used_at, api_version,
        external_id, _limits(limits),
    )  # fmt: skip


def of_key(it: Key) -> Columns:
    """Return the row of a key; its secrets and uses have their own."""
    return _same(it, KEY) | {
        "ceiling": it.ceiling.value,
        "scopes": to_json(it.scopes),
        "bindings": to_json([_of_key_binding(binding) for binding in it.bindings]),
        "allowed_cidrs": to_json(it.allowed_cidrs),
        "metadata": to_json(it.metadata),
        "limits": to_json(it.limits),
    }
