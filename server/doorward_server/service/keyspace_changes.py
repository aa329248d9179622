"""What another version of a keyspace file changes, in words: "role viewer: gains findings:read"."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Any

from doorward_server.core.holders import Holders
from doorward_server.core.policy import Effect, Keyspace, Role, Rule
from doorward_server.service.keyspace_file import KeyspaceFile

_TOLD_APART = frozenset({"keyspace", "types", "roles"})
MAX_VALUE = 80


def describe(before: KeyspaceFile, after: KeyspaceFile, holders: Holders) -> tuple[str, ...]:
    """Return a line for everything that differs. *holders* are those of *before*."""
    old, new = before.keyspace, after.keyspace
    lines = [
        *_permissions(old, new),
        *_roles(old, new, holders),
        *_descriptions(before.document["roles"], after.document["roles"]),
        *_values("", before.document, after.document),
    ]
    if before.cases != after.cases:
        lines.append(f"tests: {len(after.cases)}, before {len(before.cases)}, or other ones")
    return tuple(lines)


def _permissions(old: Keyspace, new: Keyspace) -> Iterator[str]:
    yield from (f"permission {name}: removed" for name in sorted(old.permissions - new.permissions))
    yield from (f"permission {name}: added" for name in sorted(new.permissions - old.permissions))


def _roles(old: Keyspace, new: Keyspace, holders: Holders) -> Iterator[str]:
    for name in sorted(old.roles.keys() | new.roles.keys()):
        before, after = old.roles.get(name), new.roles.get(name)
        if before is None:
            yield f"role {name}: added"
            continue
        held = _held(name, holders)
        if after is None:
            yield f"role {name}: removed{held}"
            continue
        for line in _rules(before, after):
            yield f"role {name}: {line}{held}"


def _rules(before: Role, after: Role) -> Iterator[str]:
    gains: list[str] = []
    loses: list[str] = []
    shut: list[str] = []
    opened: list[str] = []
    other: list[str] = []
    for permission in sorted(before.rules.keys() | after.rules.keys()):
        old, new = before.rules.get(permission, ()), after.rules.get(permission, ())
        for effect, more, less in ((Effect.ALLOW, gains, loses), (Effect.DENY, shut, opened)):
            was, is_now = _told(old, effect), _told(new, effect)
            if was != is_now:
                (other if was and is_now else more if is_now else less).append(permission)
    lists = {"gains": gains, "loses": loses, "forbids": shut, "no longer forbids": opened}
    for word, found in lists.items():
        if found:
            yield f"{word} {', '.join(found)}"
    if other:
        yield f"other resources, relations or conditions for {', '.join(dict.fromkeys(other))}"


def _told(rules: tuple[Rule, ...], effect: Effect) -> Collection[Hashable]:
    """Return what rules of one effect say, wherever and in whatever order they say it."""
    return {
        (frozenset(pattern.text for pattern in rule.resources), rule.relation, rule.condition and rule.condition.text)
        for rule in rules
        if rule.effect is effect
    }


def _held(role: str, holders: Holders) -> str:
    keys = holders.count_keys(lambda shape: role in shape.roles)
    bindings = holders.count_bindings(lambda binding: binding.role == role)
    return f" ({count_words(keys, bindings, complete=holders.complete)})" if keys or bindings else ""


def count_words(keys: int, bindings: int, *, complete: bool = True) -> str:
    """Return counts for people: "3 keys and 1 binding"."""
    counts = [(keys, "key"), (bindings, "binding")]
    told = " and ".join(f"{count:,} {word}{'' if count == 1 else 's'}" for count, word in counts if count)
    return told if complete else f"at least {told}"


def _descriptions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() & new.keys()):
        if old[name]["description"] != new[name]["description"]:
            yield f"role {name}: another description"


def _values(place: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Compare what is left, mapping by mapping, list by list."""
    for name in dict.fromkeys((*old, *new)):
        if not place and name in _TOLD_APART:
            continue
        was, is_now = old.get(name), new.get(name)
        inner = f"{place}.{name}" if place else name
        if was == is_now:
            continue
        if isinstance(was, dict) and isinstance(is_now, dict):
            yield from _values(inner, was, is_now)
        elif _is_words(was) and _is_words(is_now):
            yield from _lists(inner, was or [], is_now or [])
        else:
            yield f"{inner}: {_value(is_now)}, before {_value(was)}"


def _lists(place: str, old: list[str], new: list[str]) -> Iterator[str]:
    gains, loses = [it for it in new if it not in old], [it for it in old if it not in new]
    if gains:
        yield f"{place}: gains {', '.join(gains)}"
    if loses:
        yield f"{place}: loses {', '.join(loses)}"
    if not gains and not loses:
        yield f"{place}: in another order, {', '.join(new)}"


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(it, str) for it in value)


def _value(value: object) -> str:
    if value in (None, "", [], {}):
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and not _is_words(value):
        return f"{len(value)} entries"
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
