"""Between messages and values, both ways. What comes in is parsed here once; InvalidField names the field."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sized
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.v1 import directory_pb2, freshness_pb2, keys_pb2, keyspaces_pb2
from doorward_server.core.directory import (
    Attribute,
    Attributes,
    Binding,
    Group,
    Organization,
    Principal,
    PrincipalKind,
    SubjectKind,
)
from doorward_server.core.errors import InvalidField
from doorward_server.core.fields import LAST_INSTANT, MAX_ENTRIES, MAX_LIST, PRESETS, Day, Default, Expiry, Lifetime
from doorward_server.core.keytext import mask
from doorward_server.core.model import SECOND, Ceiling, Instant, Key, KeyBinding, Secret, State, StoredKeyspace
from doorward_server.core.policy import Keyspace
from doorward_server.core.rails import rotate_by
from doorward_server.service.requests import Repeat

Many = TypeVar("Many", bound=Sized)

STATES = {state: keys_pb2.KeyState.Value(f"KEY_STATE_{state}") for state in State}
CEILINGS = {ceiling: keys_pb2.Ceiling.Value(f"CEILING_{ceiling}") for ceiling in Ceiling}
KINDS = {kind: directory_pb2.PrincipalKind.Value(f"PRINCIPAL_KIND_{kind}") for kind in PrincipalKind}


def bounded(field: str, many: Many, most: int = MAX_LIST) -> Many:
    """Return a repeated field or map as it is. Raises InvalidField, before any of it is looked at, if it is too long.

    Conversion runs on the event loop, before the guard is asked: it must not cost more than a request is allowed to.
    """
    if len(many) > most:
        raise InvalidField(field, f"must have at most {most} entries")
    return many


def repeat_of(request: Any) -> Repeat:
    """Return what a retry of *request* is recognized by: the content without the id that makes it a retry."""
    content = type(request)()
    content.CopyFrom(request)
    for field in ("request_id", "no_wait"):
        if field in content.DESCRIPTOR.fields_by_name:
            content.ClearField(field)
    return Repeat(request.request_id, hashlib.sha256(content.SerializeToString(deterministic=True)).digest())


def to_duration(microseconds: int) -> Duration:
    """Return a length of time as a message."""
    return Duration(seconds=microseconds // SECOND, nanos=microseconds % SECOND * 1000)


def to_propagation(*, nothing_to_drop: bool) -> freshness_pb2.Propagation.ValueType:
    """Return what an answer says of its change; unless there is nothing to drop, the gate says it when it is known."""
    return freshness_pb2.PROPAGATION_NOT_NEEDED if nothing_to_drop else freshness_pb2.PROPAGATION_UNSPECIFIED


def to_timestamp(at: Instant | None) -> Timestamp | None:
    """Return *at* as a message; None stays None, which leaves a field unset."""
    return None if at is None else Timestamp(seconds=at // SECOND, nanos=at % SECOND * 1000)


def from_timestamp(field: str, message: Message, name: str) -> Instant | None:
    """Return the Timestamp *name* of *message* in microseconds (finer parts are cut off); None if it is unset."""
    if not message.HasField(name):
        return None
    stamp: Timestamp = getattr(message, name)
    at = stamp.seconds * SECOND + stamp.nanos // 1000
    if not (0 <= stamp.nanos < 1_000_000_000 and 0 <= at <= LAST_INSTANT):
        raise InvalidField(field, "must lie between 1970 and the year 10000")
    return at


def from_duration(field: str, duration: Duration) -> int:
    """Return *duration* in microseconds."""
    if abs(duration.nanos) >= 1_000_000_000 or abs(duration.seconds) > 315_576_000_000:
        raise InvalidField(field, "is not a valid duration")
    return duration.seconds * SECOND + duration.nanos // 1000


def from_expiry(expiry: keys_pb2.Expiry, unset: Expiry | Default) -> Expiry | Default:
    """Return when a key shall expire, as it was said, or *unset*."""
    match expiry.WhichOneof("expiry"):
        case "instant":
            return from_timestamp("expiry.instant", expiry, "instant")
        case "duration":
            return Lifetime(from_duration("expiry.duration", expiry.duration))
        case "preset":
            try:
                return PRESETS[keys_pb2.ExpiryPreset.Name(expiry.preset).removeprefix("EXPIRY_PRESET_")]
            except (ValueError, KeyError):
                raise InvalidField("expiry.preset", "must be DAYS_30, DAYS_90, YEAR_1 or NONE") from None
        case "date":
            return Day(expiry.date.date, expiry.date.time_zone)
        case _:
            return unset


def from_enum(field: str, value: int, known: Mapping[Any, int], default: Any) -> Any:
    """Return the value of the domain that an enum's number stands for; 0 is *default*."""
    if value == 0:
        return default
    for meaning, number in known.items():
        if number == value:
            return meaning
    raise InvalidField(field, f"must be one of {', '.join(known)}")


def masked(message: Any, mask: FieldMask, parsers: Mapping[str, Callable[[Any], object]]) -> dict[str, object]:
    """Return the fields of *message* that *mask* names, each parsed once. Raises InvalidField for any other path."""
    if not mask.paths:
        raise InvalidField("update_mask", f"is required; it can name {', '.join(parsers)}")
    paths = dict.fromkeys(bounded("update_mask", mask.paths, len(parsers)))
    for path in paths:
        if path not in parsers:
            raise InvalidField("update_mask", f"cannot change {path[:64]!r}; it can name {', '.join(parsers)}")
    return {path: parsers[path](message) for path in paths}


def from_texts(field: str, texts: Any) -> tuple[str, ...]:
    """Return a repeated text."""
    return tuple(bounded(field, texts))


def from_metadata(metadata: Any) -> dict[str, str]:
    """Return a key's metadata."""
    return dict(bounded("metadata", metadata, MAX_ENTRIES))


def from_key_bindings(bindings: Any) -> tuple[KeyBinding, ...]:
    """Return a key's bindings; patterns and roles are checked where the keyspace is known."""
    return tuple(
        KeyBinding(
            binding.role,
            from_texts(f"bindings[{i}].resources", binding.resources),
            from_timestamp(f"bindings[{i}].not_before", binding, "not_before"),
            from_timestamp(f"bindings[{i}].expires_at", binding, "expires_at"),
            binding.condition,
        )
        for i, binding in enumerate(bounded("bindings", bindings))
    )


def to_key(key: Key, now: Instant, keyspace: Keyspace) -> keys_pb2.Key:
    """Return *key* for a caller, as of *now*, in its keyspace's way of display."""
    return keys_pb2.Key(
        id=key.id,
        organization=key.organization,
        keyspace=key.keyspace,
        owner=key.owner or "",
        name=key.name,
        description=key.description,
        environment=key.environment,
        type=key.type,
        state=STATES[key.state(now)],
        enabled=key.enabled,
        masked=masked_text(key, key.secrets[0], keyspace),
        ceiling=CEILINGS[key.ceiling],
        scopes=key.scopes,
        bindings=[_to_key_binding(binding) for binding in key.bindings],
        allowed_cidrs=key.allowed_cidrs,
        metadata=key.metadata,
        not_before=to_timestamp(key.not_before),
        expires_at=to_timestamp(key.expires_at),
        created_at=to_timestamp(key.created_at),
        updated_at=to_timestamp(key.updated_at),
        revoked_at=to_timestamp(key.revoked_at),
        revoke_reason=key.revoke_reason,
        last_used_at=to_timestamp(key.last_used_at),
        secrets=[_to_secret(key, secret, i > 0, keyspace) for i, secret in enumerate(key.secrets)],
        etag=str(key.version),
        api_version=key.api_version,
        external_id=key.external_id or "",
        rotate_by=to_timestamp(rotate_by(keyspace.rails, key)),
        limits=key.limits,
    )


def masked_text(key: Key, secret: Secret, keyspace: Keyspace) -> str:
    """Return one of *key*'s texts for display."""
    return mask(keyspace.mask, keyspace.prefix, key.environment, secret.last4)


def _to_secret(key: Key, secret: Secret, superseded: bool, keyspace: Keyspace) -> keys_pb2.KeySecret:
    return keys_pb2.KeySecret(
        id=secret.id,
        masked=masked_text(key, secret, keyspace),
        created_at=to_timestamp(secret.created_at),
        expires_at=to_timestamp(secret.expires_at),
        last_used_at=to_timestamp(secret.last_used_at),
        superseded=superseded,
    )


def _to_key_binding(binding: KeyBinding) -> keys_pb2.KeyBinding:
    return keys_pb2.KeyBinding(
        role=binding.role,
        resources=_to_patterns(binding.resources),
        not_before=to_timestamp(binding.not_before),
        expires_at=to_timestamp(binding.expires_at),
        condition=binding.condition,
    )


def _to_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return () if patterns == ("*",) else patterns


def to_organization(organization: Organization) -> directory_pb2.Organization:
    """Return *organization* for a caller."""
    return directory_pb2.Organization(
        id=organization.id,
        display_name=organization.display_name,
        attributes=to_attributes(organization.attributes),
        enabled=organization.enabled,
        created_at=to_timestamp(organization.created_at),
        updated_at=to_timestamp(organization.updated_at),
        etag=str(organization.version),
    )


def to_principal(principal: Principal) -> directory_pb2.Principal:
    """Return *principal* for a caller."""
    return directory_pb2.Principal(
        organization=principal.organization,
        id=principal.id,
        kind=KINDS[principal.kind],
        display_name=principal.display_name,
        email=principal.email,
        attributes=to_attributes(principal.attributes),
        enabled=principal.enabled,
        created_at=to_timestamp(principal.created_at),
        updated_at=to_timestamp(principal.updated_at),
        etag=str(principal.version),
    )


def to_group(group: Group) -> directory_pb2.Group:
    """Return *group* for a caller."""
    return directory_pb2.Group(
        organization=group.organization,
        id=group.id,
        display_name=group.display_name,
        created_at=to_timestamp(group.created_at),
        updated_at=to_timestamp(group.updated_at),
        etag=str(group.version),
    )


def to_binding(binding: Binding) -> directory_pb2.Binding:
    """Return *binding* for a caller."""
    shown = directory_pb2.Binding(
        id=binding.id,
        organization=binding.organization,
        keyspace=binding.keyspace,
        role=binding.role,
        resources=_to_patterns(binding.resources),
        not_before=to_timestamp(binding.not_before),
        expires_at=to_timestamp(binding.expires_at),
        created_at=to_timestamp(binding.created_at),
        updated_at=to_timestamp(binding.updated_at),
        etag=str(binding.version),
        condition=binding.condition,
    )
    if binding.subject_kind is SubjectKind.PRINCIPAL:
        shown.principal = binding.subject
    else:
        shown.group = binding.subject
    return shown


def to_keyspace(stored: StoredKeyspace, keyspace: Keyspace, *, source: bool) -> keyspaces_pb2.Keyspace:
    """Return a keyspace for a caller, with its file or without."""
    return keyspaces_pb2.Keyspace(
        name=keyspace.name,
        display_name=keyspace.display_name,
        source=keyspace.source if source else "",
        prefix=keyspace.prefix,
        environments=keyspace.environments,
        roles=sorted(keyspace.roles),
        permissions=sorted(keyspace.permissions),
        created_at=to_timestamp(stored.created_at),
        updated_at=to_timestamp(stored.updated_at),
        etag=str(stored.version),
    )


def to_attributes(attributes: Attributes) -> dict[str, directory_pb2.AttributeValue]:
    """Return typed facts for a caller."""
    return {name: _to_attribute(value) for name, value in attributes.items()}


def _to_attribute(value: Attribute) -> directory_pb2.AttributeValue:
    match value:
        case bool():
            return directory_pb2.AttributeValue(flag=value)
        case int():
            return directory_pb2.AttributeValue(integer=value)
        case float():
            return directory_pb2.AttributeValue(number=value)
        case str():
            return directory_pb2.AttributeValue(text=value)
        case _:
            return directory_pb2.AttributeValue(texts=directory_pb2.TextList(values=value))


def from_attributes(field: str, attributes: Mapping[str, directory_pb2.AttributeValue]) -> dict[str, Attribute]:
    """Return typed facts. Raises InvalidField for one without a value, or with a number that is none."""
    parsed: dict[str, Attribute] = {}
    for name, value in bounded(field, attributes, MAX_ENTRIES).items():
        kind = value.WhichOneof("value")
        if kind is None:
            raise InvalidField(f"{field}[{name[:64]}]", "must have a value")
        if kind == "number" and not math.isfinite(value.number):
            raise InvalidField(f"{field}[{name[:64]}]", "must be a finite number")
        texts = from_texts(f"{field}[{name[:64]}]", value.texts.values) if kind == "texts" else None
        parsed[name] = getattr(value, kind) if texts is None else texts
    return parsed
