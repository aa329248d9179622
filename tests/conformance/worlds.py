"""Generated worlds for worlds.yaml, and what their selectors mean, in the dullest words there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from doorward import AccessibleResources, Ceiling, IssuedKey, KeyBinding, Selector
from tests.conformance.products import Customer, Product

ROLES = ("reader", "runner", "assignee", "contact", "careful", "reviewer", "leveled", "drafts-frozen", "hands-off")
ACTIONS = ("flows:get", "flows:run", "flows:list", "steps:get", "steps:run")
FLOWS = ("flows/a", "flows/b", "flows/a/x", "flows/b/x/y")
STEPS = ("steps/a", "steps/a/1", "steps/b")
RESOURCES = (*FLOWS, *STEPS)
PATTERNS = ("*", "flows/*", "steps/*", "flows/a", "flows/*/x", "flows/b/*", "steps/a/*", "*/a", "*/a/*")
CONDITIONS = ("", "", "", "context.mfa", "principal.level > 1", "resource.published", "parent.level <= principal.level")

Facts = Mapping[str, object]


@dataclass(frozen=True)
class Bound:
    """A role that somebody holds."""

    role: str
    patterns: tuple[str, ...]
    condition: str
    by_group: bool = False


@dataclass(frozen=True)
class World:
    """Who may what, and what is stored."""

    level: int | None
    grouped: int
    """How many groups lie around the person, one in the other; the outermost holds what is held by group."""
    bindings: tuple[Bound, ...]
    ceiling: tuple[Bound, ...] | None
    """None: all that the owner may."""
    attributes: Mapping[str, dict[str, object]]
    """Stored ones, by resource."""
    parents: Mapping[str, str]
    relations: frozenset[tuple[str, str, bool]]
    """Resource, relation, and whether the outermost group has it instead of the person."""

    def looked_at(self, resource: str, mfa: bool | None) -> Facts:
        """What conditions read of a resource."""
        parent = self.parents.get(resource, "")
        return {
            **{f"resource.{name}": value for name, value in self.attributes.get(resource, {}).items()},
            **{f"parent.{name}": value for name, value in self.attributes.get(parent, {}).items()},
            "principal.level": self.level,
            "context.mfa": mfa,
        }

    def related(self, relation: str, resource: str) -> bool:
        """Whether the person has a relation, itself or by its groups."""
        has = {(about, word) for about, word, by_group in self.relations if self.grouped or not by_group}
        return (resource, relation) in has


def _bounds() -> st.SearchStrategy[Bound]:
    patterns = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True).map(tuple)
    return st.builds(Bound, st.sampled_from(ROLES), patterns, st.sampled_from(CONDITIONS), st.booleans())


def _attributes(resource: str) -> st.SearchStrategy[dict[str, object]]:
    possible: dict[str, st.SearchStrategy[object]] = {"published": st.booleans()}
    if resource.startswith("flows"):
        possible["level"] = st.integers(0, 3)
    return st.fixed_dictionaries({}, optional=possible)


WORLDS = st.builds(
    World,
    level=st.none() | st.integers(0, 3),
    grouped=st.integers(0, 3),
    bindings=st.lists(_bounds(), min_size=1, max_size=5).map(tuple),
    ceiling=st.none() | st.lists(_bounds(), max_size=3).map(tuple),
    attributes=st.fixed_dictionaries({}, optional={it: _attributes(it) for it in RESOURCES}),
    parents=st.fixed_dictionaries({}, optional={it: st.sampled_from(FLOWS) for it in STEPS}),
    relations=st.frozensets(
        st.tuples(st.sampled_from(RESOURCES), st.sampled_from(["assigned", "contact"]), st.booleans()).filter(
            lambda it: it[0].startswith("flows") or it[1] == "assigned"
        ),
        max_size=6,
    ),
)


@dataclass(frozen=True)
class Built:
    """A world that exists."""

    customer: Customer
    person: str
    key: IssuedKey


def build(world: World, product: Product) -> Built:
    """Make a world in an organization of its own."""
    customer = product.customer("world")
    known: dict[str, Any] = {} if world.level is None else {"level": world.level}
    person = customer.person(**known)
    group = ""
    for i in range(world.grouped):
        group = customer.group(person) if i == 0 else customer.group(groups=[group])
    for bound in world.bindings:
        if bound.by_group and group:
            customer.bind(bound.role, *bound.patterns, group=group, condition=bound.condition)
        else:
            customer.bind(bound.role, *bound.patterns, principal=person, condition=bound.condition)
    for resource in {*world.attributes, *world.parents}:
        parent = world.parents.get(resource, "")
        customer.put(resource, parent=parent, **world.attributes.get(resource, {}))
    for resource, relation, by_group in sorted(world.relations):
        if by_group and group:
            customer.relate(f"{resource}#{relation}@group:{group}")
        elif not by_group:
            customer.relate(f"{resource}#{relation}@user:{person}")
    listed = world.ceiling
    key = customer.key(
        owner=person,
        ceiling=Ceiling.OWNER if listed is None else Ceiling.LIST,
        bindings=[KeyBinding(it.role, it.patterns, condition=it.condition) for it in listed or ()],
    )
    return Built(customer, person, key)


# --- what selectors mean ----------------------------------------------------------------------------------------------


def includes(access: AccessibleResources, world: World, resource: str, mfa: bool | None) -> bool:
    """Whether a resource is among those that *access* stands for."""
    return any(_fits(it, world, resource, mfa, unknown=False) for it in access.allowed) and not any(
        _fits(it, world, resource, mfa, unknown=True) for it in access.denied
    )


def _fits(selector: Selector, world: World, resource: str, mfa: bool | None, *, unknown: bool) -> bool:
    facts = world.looked_at(resource, mfa)
    for needed in selector.relations:
        about = world.parents.get(resource, "") if needed.on_parent else resource
        if not world.related(needed.relation, about):
            return False
    for text in selector.conditions:
        holds = _MEANING[text](facts)
        if not (unknown if holds is None else holds):
            return False
    return _matches(selector.pattern.split("/"), resource.split("/"))


def _matches(pattern: list[str], path: list[str]) -> bool:
    if pattern[-1] == "*":
        return len(path) >= len(pattern) and _matches_each(pattern[:-1], path)
    return len(path) == len(pattern) and _matches_each(pattern, path)


def _matches_each(pattern: list[str], path: list[str]) -> bool:
    return all(mine in ("*", theirs) for mine, theirs in zip(pattern, path, strict=False))


def _at_most(mine: str, theirs: str) -> Callable[[Facts], bool | None]:
    def holds(facts: Facts) -> bool | None:
        one, other = facts.get(mine), facts.get(theirs)
        return one <= other if isinstance(one, int) and isinstance(other, int) else None

    return holds


def _is(name: str, wanted: bool) -> Callable[[Facts], bool | None]:
    def holds(facts: Facts) -> bool | None:
        found = facts.get(name)
        return found is wanted if isinstance(found, bool) else None

    return holds


_MEANING: Mapping[str, Callable[[Facts], bool | None]] = {
    "resource.published": _is("resource.published", True),
    "!resource.published": _is("resource.published", False),
    "resource.level <= principal.level": _at_most("resource.level", "principal.level"),
    "parent.level <= principal.level": _at_most("parent.level", "principal.level"),
}
"""The conditions of worlds.yaml that read a resource: true, false, or None if something is not known."""
