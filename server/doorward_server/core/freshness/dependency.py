"""What an answer depends on, in the words of the change log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DependencyKind(StrEnum):
    """The kinds of the rows in the log (store/changes.py)."""

    KEY = "KEY"
    PRINCIPAL = "PRINCIPAL"
    ORGANIZATION = "ORGANIZATION"
    KEYSPACE = "KEYSPACE"
    LOOKUP = "LOOKUP"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Dependency:
    """One thing that a cached answer was made from. Empty where the kind has no such part.

    A LOOKUP names `<keyspace>/<lookup>` and no organization: an unknown text belongs to nobody yet.
    """

    kind: DependencyKind
    organization: str
    name: str

    @classmethod
    def logged(cls, kind: str, organization: str, name: str) -> Dependency:
        """Return what a row of the log means. A kind that is not known here, of a newer version, means everything."""
        if kind not in _KINDS:
            return ALL
        return cls(_KINDS[kind], "" if kind == DependencyKind.LOOKUP else organization, name)

    @classmethod
    def on_key(cls, organization: str, key: str) -> Dependency:
        """Return the dependency on a key and its secrets."""
        return cls(DependencyKind.KEY, organization, key)

    @classmethod
    def on_principal(cls, organization: str, principal: str) -> Dependency:
        """Return the dependency on a principal, what it holds and the groups it is in."""
        return cls(DependencyKind.PRINCIPAL, organization, principal)

    @classmethod
    def on_organization(cls, organization: str) -> Dependency:
        """Return the dependency on an organization and all its groups."""
        return cls(DependencyKind.ORGANIZATION, organization, "")

    @classmethod
    def on_keyspace(cls, keyspace: str) -> Dependency:
        """Return the dependency on a keyspace's file."""
        return cls(DependencyKind.KEYSPACE, "", keyspace)

    @classmethod
    def on_lookup(cls, keyspace: str, lookup: str) -> Dependency:
        """Return what "there is no such secret" depends on."""
        return cls(DependencyKind.LOOKUP, "", f"{keyspace}/{lookup}")


_KINDS = {kind.value: kind for kind in DependencyKind if kind is not DependencyKind.ALL}
ALL = Dependency(DependencyKind.ALL, "", "")
"""Everything depends on it, without saying so."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the log: *revision* changed what *dependency* names."""

    revision: int
    dependency: Dependency
