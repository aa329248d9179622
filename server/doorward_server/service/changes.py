"""Audited changes: checked settings in, the new value and its event out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any, TypeVar

from doorward_server.core.directory import Binding, Group, Organization, Principal
from doorward_server.core.errors import EtagMismatch, NotFound
from doorward_server.core.fields import check_attributes, check_email, check_text
from doorward_server.core.model import Actor, Event, Instant, Key
from doorward_server.service.settings import SETTINGS

T = TypeVar("T", Organization, Principal, Group, Binding)
V = TypeVar("V")

_CHECKS: dict[str, Callable[[Any], object]] = {
    "display_name": lambda value: check_text("display_name", value, 200),
    "email": lambda value: check_email("email", value),
    "attributes": lambda value: check_attributes("attributes", value),
    "enabled": bool,
}
_HOUSEKEEPING = frozenset({"created_at", "updated_at", "version", "deleted_at"})


def checked(settings: Mapping[str, object]) -> dict[str, Any]:
    """Return *settings* if each keeps its rule. Raises InvalidField."""
    return {name: _CHECKS[name](value) for name, value in settings.items()}


def updated(current: T, settings: Mapping[str, Any], now: Instant) -> T:
    """Return *current* with *settings*, or itself if it has them already."""
    if all(getattr(current, name) == value for name, value in settings.items()):
        return current
    return replace(current, **settings, updated_at=now, version=current.version + 1)


def check_etag(etag: str, current: Organization | Principal | Group | Binding, type: str) -> None:
    """Raise EtagMismatch if an etag is given and is not the current one."""
    if etag not in ("", str(current.version)):
        raise EtagMismatch(type, current.id)


def event(
    actor: Actor,
    action: str,
    organization: str,
    target: tuple[str, str],
    now: Instant,
    before: object,
    after: object,
    note: str = "",
) -> Event:
    """Return the audit event of a change; of a *before* and an *after* only what differs. *target* is (type, id)."""
    old, new = _described(before), _described(after)
    if old is not None and new is not None:
        names = [name for name in new if old.get(name) != new[name]]
        old, new = {name: old.get(name) for name in names}, {name: new[name] for name in names}
    return Event(organization, now, actor, action, *target, old, new, note)


def _described(value: object) -> dict[str, object] | None:
    if value is None:
        return None
    fields = asdict(value) if is_dataclass(value) and not isinstance(value, type) else dict(value)  # type: ignore[call-overload]  # a mapping
    return {name: field for name, field in fields.items() if name not in _HOUSEKEEPING}


def found(value: V | None, type: str, id: str) -> V:
    """Return *value*. Raises NotFound if there is none."""
    if value is None:
        raise NotFound(type, id)
    return value


def key_event(actor: Actor, action: str, before: Key | None, after: Key, now: Instant) -> Event:
    """Return the audit event for what differs between *before* and *after*."""
    old, new = describe(before) if before else {}, describe(after)
    names = [name for name in new if before is None or old[name] != new[name]]
    if before and "secrets" in names:  # only those that changed: a key has a long line of them
        was, is_now = list(old["secrets"]), list(new["secrets"])  # type: ignore[call-overload]  # lists, as described
        old["secrets"] = [it for it in was if it not in is_now]
        new["secrets"] = [it for it in is_now if it not in was]
    return Event(
        organization=after.organization,
        at=now,
        actor=actor,
        action=action,
        target_type="key",
        target=after.id,
        before={name: old[name] for name in names} if before else None,
        after={name: new[name] for name in names},
    )


_FIXED = ("keyspace", "owner", "environment", "ceiling", "not_before", "external_id", "api_version")
_ENDS = ("revoked_at", "revoke_reason", "deleted_at")


def describe(key: Key) -> dict[str, object]:
    """Return what the audit log keeps of a key: everything but the proof of its secrets."""
    described: dict[str, object] = {name: getattr(key, name) for name in (*_FIXED, *SETTINGS, *_ENDS)}
    described["bindings"] = [asdict(binding) for binding in key.bindings]
    described["secrets"] = [
        {"id": s.id, "last4": s.last4, "created_at": s.created_at, "expires_at": s.expires_at} for s in key.secrets
    ]
    return described
