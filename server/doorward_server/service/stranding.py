"""Keys and bindings that another version of a keyspace file would strand: what they hold, or are, would be no more.

Whoever applies such a file must say that it is meant (`force`). What cannot be meant is refused whatever is said:
`keyspaces.check_fixed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from doorward_server.core.errors import InvalidField
from doorward_server.core.holders import Holders, KeyShape
from doorward_server.core.model import Ceiling, Key
from doorward_server.core.policy import Effect, Keyspace
from doorward_server.core.rails import Rails, check_rotated


@dataclass(frozen=True, slots=True)
class Stranding:
    """One part of the file, and what its change takes from whom."""

    field: str
    """The place in the file, e.g. `roles.viewer`."""
    why: str
    """In words that end a sentence: "the role is removed"."""
    keys: int
    bindings: int = 0


def find_stranded(old: Keyspace, new: Keyspace, holders: Holders) -> tuple[Stranding, ...]:
    """Return every part of *new* that strands some of *holders*, which are those of *old*."""
    found = (
        *_roles(old, new, holders),
        *_permissions(old, new, holders),
        *_environments(old, new, holders),
        *_rails(old, new, holders),
        *_limits(old, new, holders),
        *_reach(old, new, holders),
        *_conditions(old, new, holders),
    )
    return tuple(it for it in found if it.keys or it.bindings)


def asks_for_names(old: Keyspace, new: Keyspace) -> bool:
    """Tell whether the names of keys matter to what *new* strands."""
    return new.rails.name_pattern not in ("", old.rails.name_pattern)


def _roles(old: Keyspace, new: Keyspace, holders: Holders) -> Iterator[Stranding]:
    for role in sorted(old.roles.keys() - new.roles.keys()):
        keys, bindings = _holding(frozenset({role}), holders)
        yield Stranding(f"roles.{role}", "the role is removed", keys, bindings)


def _permissions(old: Keyspace, new: Keyspace, holders: Holders) -> Iterator[Stranding]:
    """Whoever may do something that can no longer be asked about."""
    for permission in sorted(old.permissions - new.permissions):
        granting = {
            name
            for name, role in old.roles.items()
            if any(rule.effect is Effect.ALLOW for rule in role.rules.get(permission, ()))
        }
        if permission in old.authenticated:
            yield Stranding(f"types.{permission}", "the permission is removed", holders.count_keys(lambda _: True))
            continue
        keys, bindings = _holding(frozenset(granting), holders)
        yield Stranding(f"types.{permission}", "the permission is removed", keys, bindings)


def _holding(roles: frozenset[str], holders: Holders) -> tuple[int, int]:
    return (
        holders.count_keys(lambda shape: not roles.isdisjoint(shape.roles)),
        holders.count_bindings(lambda binding: binding.role in roles),
    )


def _environments(old: Keyspace, new: Keyspace, holders: Holders) -> Iterator[Stranding]:
    for environment in sorted(set(old.environments) - set(new.environments)):
        keys = holders.count_keys(lambda shape, gone=environment: shape.environment == gone)  # type: ignore[misc]  # bound now
        yield Stranding("environments", f"{environment!r} is removed", keys)


def _rails(old: Keyspace, new: Keyspace, holders: Holders) -> Iterator[Stranding]:
    """Keys that meet the guard rails as they are, and would not any more: they could not be rotated."""
    # Where names do not matter, they were not asked for.
    named = asks_for_names(old, new)
    earlier, later = (it.rails if named else replace(it.rails, name_pattern="") for it in (old, new))
    broken: dict[tuple[str, str], int] = {}
    for shape, count in holders.keys:
        key = _key_of(shape)
        breaks = _breaks(later, key)
        if breaks is not None and _breaks(earlier, key) is None:
            broken[breaks] = broken.get(breaks, 0) + count
    for (field, rule), count in sorted(broken.items()):
        yield Stranding("keys", f"{field} {rule}, so they could not be rotated", count)


def _breaks(rails: Rails, key: Key) -> tuple[str, str] | None:
    try:
        check_rotated(rails, key)
    except InvalidField as problem:
        return problem.metadata["field"], problem.metadata["rule"]
    return None


def _limits(old: Keyspace, new: Keyspace, holders: Holders) -> Iterator[Stranding]:
    """Keys that would be allowed less because of what they are."""
    for ceiling in sorted(set(old.ceilings) - set(new.ceilings)):
        keys = holders.count_keys(lambda shape, gone=ceiling: shape.ceiling is gone)  # type: ignore[misc]  # bound now
        yield Stranding("ceilings", f"{ceiling.lower()!r} is removed", keys)
    if new.inherits and not old.inherits:
        keys = holders.count_keys(lambda shape: shape.owned and shape.ceiling is Ceiling.LIST)
        yield Stranding("inherit", "keys with an owner would do at most what it may", keys)


def _reach(old: Keyspace, new: Keyspace, holders: Holders) -> Iterator[Stranding]:
    """Keys that could no longer be presented as they are."""
    if set(old.sources) - set(new.sources):
        keys = holders.count_keys(lambda _: True)
        yield Stranding("credentials", "a place where callers may put them is removed", keys)
    gone = {it.name for it in old.legacy if it not in new.legacy}
    if gone:
        keys = holders.count_keys(lambda shape: shape.imported)
        yield Stranding("legacy", f"the format {', '.join(sorted(gone))} of imported keys changes or goes", keys)


def _conditions(old: Keyspace, new: Keyspace, holders: Holders) -> Iterator[Stranding]:
    """Bindings whose condition reads what is no longer declared, or is no longer of that type."""
    texts = {binding.condition for binding, _ in holders.bindings}
    texts |= {binding.condition for shape, _ in holders.keys for binding in shape.bindings}
    broken = frozenset(it for it in texts - {""} if _compiles(old, it) and not _compiles(new, it))
    if broken:
        keys = holders.count_keys(lambda shape: any(it.condition in broken for it in shape.bindings))
        bindings = holders.count_bindings(lambda binding: binding.condition in broken)
        yield Stranding("attributes", "conditions of bindings could no longer be evaluated", keys, bindings)


def _compiles(keyspace: Keyspace, condition: str) -> bool:
    try:
        keyspace.conditions.compile(condition)
    except ValueError:
        return False
    return True


def _key_of(shape: KeyShape) -> Key:
    """Return a key that has what those of *shape* have in common, for the guard rails to judge."""
    return Key(
        organization="",
        id="",
        keyspace="",
        owner="owner" if shape.owned else None,
        name=shape.name,
        description="",
        environment=shape.environment,
        type=shape.type,
        enabled=True,
        ceiling=shape.ceiling,
        scopes=shape.scopes,
        bindings=shape.bindings,
        allowed_cidrs=(),
        metadata={},
        not_before=None,
        expires_at=1 if shape.expires else None,
        created_at=0,
        updated_at=0,
        secrets=(),
    )
