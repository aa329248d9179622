"""What a key is asked to be: checked against the rules of fields and keyspace, and made into a `Key`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any

from doorward_server.core.directory import Binding
from doorward_server.core.errors import InvalidField, UnknownReference
from doorward_server.core.fields import (
    LAST_INSTANT,
    MAX_BYTES,
    MAX_LIST,
    Default,
    Expiry,
    Lifetime,
    check_api_version,
    check_cidrs,
    check_expiry,
    check_id,
    check_list,
    check_metadata,
    check_patterns,
    check_text,
    check_type,
    check_window,
    within,
)
from doorward_server.core.limits import Per
from doorward_server.core.model import Ceiling, Instant, Key, KeyBinding, KeyFilter
from doorward_server.core.policy import Keyspace
from doorward_server.core.rails import Rails
from doorward_server.service.ids import Random, new_id

MAX_LIMIT = 1_000_000_000_000
SETTINGS = (
    "name",
    "description",
    "type",
    "metadata",
    "scopes",
    "bindings",
    "expires_at",
    "allowed_cidrs",
    "limits",
    "enabled",
)
"""What UpdateKey can change."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """What CreateKey is asked for, as it came in."""

    organization: str
    keyspace: str
    owner: str
    name: str
    description: str
    environment: str
    type: str
    ceiling: Ceiling | None
    scopes: tuple[str, ...]
    bindings: tuple[KeyBinding, ...]
    allowed_cidrs: tuple[str, ...]
    metadata: Mapping[str, str]
    not_before: Instant | None
    expiry: Expiry | Default
    api_version: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)


def draft(new: NewKey, keyspace: Keyspace, now: Instant, random: Random) -> Key:
    """Return the key that *new* asks for, still without a secret. Raises InvalidField, UnknownReference.

    What the guard rails say instead of silence is in it; whether they allow it is for `rails.check_made` to tell.
    """
    if new.owner:
        check_id("owner", new.owner, "principal")
    environment = new.environment or keyspace.environments[0]
    if environment not in keyspace.environments:
        raise UnknownReference("environment", "environment", environment, ", ".join(keyspace.environments))
    rails = keyspace.rails
    settings = {name: getattr(new, name) for name in SETTINGS if name not in ("expires_at", "enabled")}
    settings |= {"type": new.type or rails.default_types.get(environment, ""), "expires_at": said_expiry(new, rails)}
    key = Key(
        organization=new.organization,
        id=new_id("key", random),
        keyspace=keyspace.name,
        owner=new.owner or None,
        environment=environment,
        enabled=True,
        ceiling=new.ceiling or (Ceiling.LIST if new.scopes or new.bindings else keyspace.ceilings[0]),
        not_before=new.not_before,
        created_at=now,
        updated_at=now,
        secrets=(),
        api_version=check_api_version("api_version", new.api_version or rails.api_version),
        **checked(settings, keyspace, now),  # type: ignore[arg-type]  # names and types are those of `SETTINGS`
    )
    if key.ceiling not in keyspace.ceilings:
        allowed = ", ".join(keyspace.ceilings)
        raise InvalidField("ceiling", f"keys of {keyspace.name!r} can have: {allowed}")
    check_whole(key)
    return key


def said_expiry(new: NewKey, rails: Rails) -> Expiry:
    """Return the expiry that *new* says, or the keyspace says for it."""
    if not isinstance(new.expiry, Default):
        return new.expiry
    return None if rails.default_lifetime is None else Lifetime(rails.default_lifetime)


def span_of(expiry: object) -> int | None:
    """Return the span that was asked for; None if the expiry was said in another way, or is none."""
    return expiry.span if isinstance(expiry, Lifetime) else None


def checked(settings: Mapping[str, object], keyspace: Keyspace, now: Instant) -> dict[str, object]:
    """Return *settings* in the form in which a key holds them. Raises InvalidField, UnknownReference."""
    checks: dict[str, Callable[[Any], object]] = {
        "name": lambda v: check_text("name", v, 200, required=True),
        "description": lambda v: check_text("description", v, 2000),
        "type": lambda v: check_type("type", v),
        "metadata": lambda v: check_metadata("metadata", v),
        "scopes": lambda v: _check_scopes(v, keyspace),
        "bindings": lambda v: _check_bindings(v, keyspace),
        "expires_at": lambda v: check_expiry("expiry", v, now),
        "allowed_cidrs": lambda v: check_cidrs("allowed_cidrs", v),
        "limits": lambda v: _check_limits(v, keyspace),
        "enabled": bool,
    }
    return {name: checks[name](value) for name, value in settings.items()}


def _check_limits(limits: Mapping[str, int], keyspace: Keyspace) -> dict[str, int]:
    windows = {it.name for it in keyspace.sections.limits.windows if it.per in (Per.KEY, Per.KEY_AND_RESOURCE)}
    for name, limit in limits.items():
        if name not in windows:
            raise UnknownReference(f"limits[{name[:64]}]", "limit of keys", name[:64], ", ".join(sorted(windows)))
        if not 0 <= limit <= MAX_LIMIT:
            raise InvalidField(f"limits[{name}]", f"must be 0 to {MAX_LIMIT:,} units")
    return dict(sorted(limits.items()))


def _check_scopes(scopes: Iterable[str], keyspace: Keyspace) -> tuple[str, ...]:
    for i, scope in enumerate(check_list("scopes", scopes)):
        check_role(f"scopes[{i}]", scope, keyspace)
    return tuple(dict.fromkeys(scopes))


def _check_bindings(bindings: Sequence[KeyBinding], keyspace: Keyspace) -> tuple[KeyBinding, ...]:
    if len(bindings) > MAX_LIST:
        raise InvalidField("bindings", f"must have at most {MAX_LIST} entries")
    checked = []
    for i, binding in enumerate(bindings):
        check_role(f"bindings[{i}].role", binding.role, keyspace)
        check_window(binding.not_before, binding.expires_at, f"bindings[{i}].not_before")
        check_condition(f"bindings[{i}].condition", binding.condition, keyspace)
        resources = check_resources(f"bindings[{i}].resources", binding.resources, keyspace)
        checked.append(replace(binding, resources=resources))
    if sum(len(text.encode("utf-8", "surrogatepass")) for b in checked for text in b.resources) > MAX_BYTES:
        raise InvalidField("bindings", f"must have at most {MAX_BYTES // 1024} KiB of patterns in all")
    return tuple(checked)


def check_role(field: str, role: str, keyspace: Keyspace) -> None:
    """Refuse a role that *keyspace* does not declare. Raises UnknownReference."""
    if role not in keyspace.roles:
        raise UnknownReference(field, "role", role[:128], ", ".join(sorted(keyspace.roles)))


def check_condition(field: str, text: str, keyspace: Keyspace) -> str:
    """Return a binding's condition if *keyspace* can compile it; empty is none. Raises InvalidField with the rule."""
    if text:
        try:
            keyspace.conditions.compile(text)
        except ValueError as problem:
            raise InvalidField(field, str(problem)) from None
    return text


def check_resources(field: str, texts: Iterable[str], keyspace: Keyspace) -> tuple[str, ...]:
    """Return patterns as they are stored. Raises InvalidField for one that can match no resource of *keyspace*."""
    patterns = check_patterns(field, texts)
    for text in patterns:
        type = text.split("/", maxsplit=1)[0]
        if type != "*" and type not in keyspace.types:
            known = ", ".join(sorted(keyspace.types))
            raise InvalidField(field, f"the pattern {text[:80]!r} can never match: the types are {known}")
    return patterns


def check_whole(key: Key) -> None:
    """Check what concerns several settings at once. Raises InvalidField."""
    check_window(key.not_before, key.expires_at)
    if key.ceiling is Ceiling.OWNER:
        if key.owner is None:
            raise InvalidField("owner", "is required: the key's ceiling is OWNER")
        if key.scopes or key.bindings:
            field = "scopes" if key.scopes else "bindings"
            raise InvalidField(field, "must be empty: the key's ceiling is OWNER, so it may all that its owner may")


def check_filter(wanted: KeyFilter) -> None:
    """Refuse a filter that no key could match by its shape."""
    for name, kind in (("keyspace", "keyspace"), ("owner", "principal")):
        if value := getattr(wanted, name):
            check_id(f"filter.{name}", value, kind)
    for name in ("environment", "type", "name_contains"):
        check_text(f"filter.{name}", getattr(wanted, name), 200)


def loosens(before: Key, after: Key, keyspace: Keyspace, owners: Iterable[Binding] = ()) -> bool:
    """Tell whether *after* may do anything, anywhere or at any time, that *before* may not.

    *owners* are the bindings of its owner that count, if it may be allowed more by these alone.
    """
    dropped = [keyspace.roles[name] for name in {*before.scopes} - {*after.scopes} if name in keyspace.roles]
    dropped += [keyspace.roles[b.role] for b in {*before.bindings} - {*after.bindings} if b.role in keyspace.roles]
    networks = [ip_network(cidr) for cidr in before.allowed_cidrs]
    return (
        not {*after.scopes} <= {*before.scopes}
        or not all({binding, replace(binding, condition="")} & {*before.bindings} for binding in after.bindings)
        or any(role.denies for role in dropped)
        or (after.enabled and not before.enabled)
        or (after.expires_at or LAST_INSTANT + 1) > (before.expires_at or LAST_INSTANT + 1)
        or (bool(networks) and not within(after.allowed_cidrs, networks))
        or not _retold(before, after).isdisjoint(_read_by_conditions(after, keyspace, owners))
    )


def _retold(before: Key, after: Key) -> set[str]:
    """Return what conditions would find to be otherwise, by name: whoever may rename a key could make one hold."""
    names = {*before.metadata, *after.metadata}
    changed = {f"key.{name}" for name in names if before.metadata.get(name) != after.metadata.get(name)}
    return changed | {f"key.{name}" for name in ("name", "type") if getattr(before, name) != getattr(after, name)}


def _read_by_conditions(key: Key, keyspace: Keyspace, owners: Iterable[Binding]) -> set[str]:
    held: list[KeyBinding | Binding] = [*key.bindings, *(it for it in owners if it.keyspace == keyspace.name)]
    roles = {*key.scopes, *(it.role for it in held)} & keyspace.roles.keys()
    filed = [rules for name in roles for rules in keyspace.roles[name].rules.values()]
    conditions = [keyspace.condition(it.condition) for it in held] + [it.condition for rules in filed for it in rules]
    return {name for condition in conditions if condition is not None for name in condition.reads}
