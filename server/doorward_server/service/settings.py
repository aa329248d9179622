"""The settings of a key: each checked by its rule, and against the keyspace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from doorward_server.core.errors import InvalidField, UnknownReference
from doorward_server.core.fields import (
    MAX_LIST,
    check_cidrs,
    check_expiry,
    check_id,
    check_list,
    check_metadata,
    check_patterns,
    check_text,
    check_type,
    check_window,
)
from doorward_server.core.model import Ceiling, Instant, Key, KeyBinding, KeyFilter
from doorward_server.core.policy import Keyspace

SETTINGS = (
    "name",
    "description",
    "type",
    "metadata",
    "scopes",
    "bindings",
    "expires_at",
    "allowed_cidrs",
    "enabled",
)
"""What UpdateKey can change."""


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
        "enabled": bool,
    }
    return {name: checks[name](value) for name, value in settings.items()}


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
        resources = check_resources(f"bindings[{i}].resources", binding.resources, keyspace)
        checked.append(replace(binding, resources=resources))
    return tuple(checked)


def check_role(field: str, role: str, keyspace: Keyspace) -> None:
    """Refuse a role that *keyspace* does not declare. Raises UnknownReference."""
    if role not in keyspace.roles:
        raise UnknownReference(field, "role", role[:128], ", ".join(sorted(keyspace.roles)))


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
    """Check what concerns several settings at once."""
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
