"""Who there is and what is known of them, as frozen values: organizations, principals, groups, bindings, relations.

Instants are `Instant`s: whole microseconds since 1970-01-01T00:00:00Z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from .model import Instant

Attribute = str | int | float | bool | tuple[str, ...]
Attributes = Mapping[str, Attribute]


class PrincipalKind(StrEnum):
    """Kinds of principals."""

    USER = "USER"
    SERVICE_ACCOUNT = "SERVICE_ACCOUNT"


class SubjectKind(StrEnum):
    """What a stored binding gives its role to, and who has a relation. (A key's bindings are part of the key.)"""

    PRINCIPAL = "PRINCIPAL"
    GROUP = "GROUP"


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant."""

    id: str
    display_name: str
    attributes: Attributes
    enabled: bool
    created_at: Instant
    updated_at: Instant
    version: int = 1
    """Counts the changes; the etag."""
    deleted_at: Instant | None = None

    @property
    def alive(self) -> bool:
        """Whether its keys work."""
        return self.enabled and self.deleted_at is None


@dataclass(frozen=True, slots=True)
class Principal:
    """A user or a service account."""

    organization: str
    id: str
    kind: PrincipalKind
    display_name: str
    email: str
    attributes: Attributes
    enabled: bool
    created_at: Instant
    updated_at: Instant
    version: int = 1
    deleted_at: Instant | None = None

    @property
    def alive(self) -> bool:
        """Whether its keys work."""
        return self.enabled and self.deleted_at is None


@dataclass(frozen=True, slots=True)
class Group:
    """Several principals that hold roles together."""

    organization: str
    id: str
    display_name: str
    created_at: Instant
    updated_at: Instant
    version: int = 1
    deleted_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """A principal or a group holds a role of a keyspace, on resource patterns ("*" is every resource)."""

    organization: str
    id: str
    subject_kind: SubjectKind
    subject: str
    keyspace: str
    role: str
    resources: tuple[str, ...]
    not_before: Instant | None
    expires_at: Instant | None
    created_at: Instant
    updated_at: Instant
    version: int = 1
    condition: str = ""
    """When it counts, in CEL; empty: always."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A fact: a principal, or every member of a group, is *relation* to *resource*, e.g. assigned to it."""

    organization: str
    keyspace: str
    resource: str
    """`type/id…`, e.g. "assessments/42"."""
    relation: str
    subject_kind: SubjectKind
    subject: str
    created_at: Instant


@dataclass(frozen=True, slots=True)
class Resource:
    """What is known of a resource that callers cannot know: attributes, and its parent, one step up."""

    organization: str
    keyspace: str
    resource: str
    """`type/id…`, e.g. "flows/abc123"."""
    attributes: Attributes
    parent: str
    """`type/id…` of the parent; empty: none is known."""
    created_at: Instant
    updated_at: Instant
    version: int = 1
