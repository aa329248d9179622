"""Who holds what of a keyspace: live keys and bindings, counted by all that a change of its file can take from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .model import Ceiling, KeyBinding


@dataclass(frozen=True, slots=True)
class KeyShape:
    """What live keys have in common."""

    environment: str
    type: str
    owned: bool
    ceiling: Ceiling
    scopes: tuple[str, ...]
    bindings: tuple[KeyBinding, ...]
    expires: bool
    imported: bool
    name: str = ""
    """Empty unless names were asked for."""

    @property
    def roles(self) -> frozenset[str]:
        """The roles that these keys hold themselves."""
        return frozenset((*self.scopes, *(binding.role for binding in self.bindings)))


@dataclass(frozen=True, slots=True)
class HeldBinding:
    """What bindings of principals and groups have in common."""

    role: str
    condition: str


@dataclass(frozen=True, slots=True)
class Holders:
    """Live keys and all bindings of one keyspace, in every organization."""

    keys: tuple[tuple[KeyShape, int], ...] = ()
    bindings: tuple[tuple[HeldBinding, int], ...] = ()
    complete: bool = True
    """Whether all were counted: of very many shapes, the rest is left out."""

    def count_keys(self, fits: Callable[[KeyShape], bool]) -> int:
        """Return how many keys *fits* holds for."""
        return sum(count for shape, count in self.keys if fits(shape))

    def count_bindings(self, fits: Callable[[HeldBinding], bool]) -> int:
        """Return how many bindings *fits* holds for."""
        return sum(count for binding, count in self.bindings if fits(binding))
