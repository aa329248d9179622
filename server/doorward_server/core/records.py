"""What the store reads for one decision, each in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass

from .directory import Binding, Organization, Principal
from .model import Key


@dataclass(frozen=True, slots=True)
class Record:
    """All that a decision about one secret of one key needs, read in one snapshot of the store."""

    key: Key
    """Its `secrets` holds only the one that was looked up."""
    organization: Organization
    owner: Principal | None
    bindings: tuple[Binding, ...]
    """Of the owner, those of its groups included, in the key's keyspace; sorted by id."""
    groups: tuple[str, ...] = ()
    """The owner's, those that they are in included; sorted."""


@dataclass(frozen=True, slots=True)
class PrincipalRecord:
    """The same about a principal that somebody else has authenticated."""

    principal: Principal
    organization: Organization
    bindings: tuple[Binding, ...]
    """Of the principal, those of its groups included, in one keyspace; sorted by id."""
    groups: tuple[str, ...] = ()
    """The principal's, those that they are in included; sorted."""
