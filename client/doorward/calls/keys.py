"""KeyService: keys, from creation to deletion."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Unpack

from doorward.calls import Call, Pages
from doorward.calls.values import (
    KEEP,
    Effect,
    Expires,
    Keep,
    duration,
    effect,
    expiry,
    given,
    instant,
    instant_or_none,
    mask,
    numbers,
    timestamp,
    words,
)
from doorward.model import Ceiling, Changed, IssuedKey, Key, KeyBinding, KeySecret, KeyState, KeyWarning, RevokedKeys
from doorward.secret import Secret
from doorward.v1 import keys_pb2 as pb

STATES = words(KeyState, pb.KeyState, "KEY_STATE_")
CEILINGS = words(Ceiling, pb.Ceiling, "CEILING_")
_BATCH_PATIENCE = 60.0
_STATE_NUMBERS = numbers(STATES)
_CEILING_NUMBERS = numbers(CEILINGS)


def create_key(
    *,
    keyspace: str,
    name: str,
    organization: str = "",
    owner: str = "",
    description: str = "",
    environment: str = "",
    type: str = "",
    ceiling: Ceiling | None = None,
    scopes: Iterable[str] = (),
    bindings: Iterable[KeyBinding] = (),
    allowed_cidrs: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
    not_before: datetime | None = None,
    expires: Expires = None,
    time_zone: str = "",
    api_version: str = "",
    limits: Mapping[str, int] | None = None,
    request_id: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.CreateKeyResponse, IssuedKey]:
    """Make a key, and return it with the full text of its secret: the only time it leaves Doorward.

    No organization means the caller's own, here as below; no owner, that the key belongs to the organization alone. A
    date in `expires` is the last day of use, in `time_zone` (an IANA name; UTC if empty); with None, the keyspace may
    say when it ends. No API version means the keyspace's current one. A retry with the same `request_id` gives the same
    key, without its secret; every call is given one of its own if you give none.
    """
    return Call(
        pb.CreateKeyRequest(
            organization=organization,
            keyspace=keyspace,
            owner=owner,
            name=name,
            description=description,
            environment=environment,
            type=type,
            ceiling=write_ceiling(ceiling),
            scopes=scopes,
            bindings=map(write_binding, bindings),
            allowed_cidrs=allowed_cidrs,
            metadata=metadata,
            not_before=timestamp("not_before", not_before),
            expiry=expiry(expires, time_zone),
            request_id=request_id or str(uuid.uuid4()),
            api_version=api_version,
            limits=limits,
            no_wait=no_wait,
        ),
        pb.CreateKeyResponse,
        _made,
        timeout,
    )


def get_key(id: str, *, organization: str = "", timeout: float | None = None) -> Call[pb.GetKeyResponse, Key]:
    """Return a key; revoked and expired ones are found, deleted ones are not."""
    return Call(
        pb.GetKeyRequest(organization=organization, id=id),
        pb.GetKeyResponse,
        lambda answer: read_key(answer.key),
        timeout,
    )


def list_keys(
    *,
    organization: str = "",
    keyspace: str = "",
    owner: str = "",
    environment: str = "",
    type: str = "",
    states: Iterable[KeyState] = (),
    name_contains: str = "",
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    expires_before: datetime | None = None,
    last_used_before: datetime | None = None,
    never_used: bool = False,
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[pb.ListKeysResponse, Key]:
    """The keys of an organization for which everything given holds, newest first."""
    key_filter = _filter(
        keyspace=keyspace,
        owner=owner,
        environment=environment,
        type=type,
        states=states,
        name_contains=name_contains,
        created_after=created_after,
        created_before=created_before,
        expires_before=expires_before,
        last_used_before=last_used_before,
        never_used=never_used,
    )
    return Pages(
        pb.ListKeysRequest(organization=organization, filter=key_filter, page_size=page_size),
        pb.ListKeysResponse,
        lambda answer: map(read_key, answer.keys),
        timeout,
    )


def update_key(
    id: str,
    *,
    organization: str = "",
    name: str | Keep = KEEP,
    description: str | Keep = KEEP,
    type: str | Keep = KEEP,
    metadata: Mapping[str, str] | Keep = KEEP,
    scopes: Iterable[str] | Keep = KEEP,
    bindings: Iterable[KeyBinding] | Keep = KEEP,
    allowed_cidrs: Iterable[str] | Keep = KEEP,
    limits: Mapping[str, int] | Keep = KEEP,
    enabled: bool | Keep = KEEP,
    expires: Expires | Keep = KEEP,
    time_zone: str = "",
    etag: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.UpdateKeyResponse, Key]:
    """Change what is given. An etag, if given, is the one that the key must have now."""
    changes = given(
        name=name,
        description=description,
        type=type,
        metadata=metadata,
        scopes=scopes,
        bindings=bindings if isinstance(bindings, Keep) else map(write_binding, bindings),
        allowed_cidrs=allowed_cidrs,
        limits=limits,
        enabled=enabled,
    )
    request = pb.UpdateKeyRequest(
        key=pb.Key(id=id, organization=organization, etag=etag, **changes), update_mask=mask(changes), no_wait=no_wait
    )
    if not isinstance(expires, Keep):
        request.update_mask.paths.append("expires_at")
        request.expiry.CopyFrom(expiry(expires, time_zone) or pb.Expiry(preset=pb.EXPIRY_PRESET_NONE))
    return Call(request, pb.UpdateKeyResponse, lambda answer: read_key(answer.key, **effect(answer)), timeout)


def rotate_key(
    id: str,
    *,
    organization: str = "",
    grace: timedelta | None = None,
    finish: bool = False,
    request_id: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.RotateKeyResponse, IssuedKey]:
    """Add a secret, and let the older ones end after `grace` (none: at once). `request_id` as in create_key.

    With `finish`: end the overlap of the last rotation now, and make no new secret.
    """
    return Call(
        pb.RotateKeyRequest(
            organization=organization,
            id=id,
            grace=duration(grace),
            finish=finish,
            request_id=request_id or str(uuid.uuid4()),
            no_wait=no_wait,
        ),
        pb.RotateKeyResponse,
        _issued,
        timeout,
    )


def revoke_key(
    id: str, *, organization: str = "", reason: str = "", no_wait: bool = False, timeout: float | None = None
) -> Call[pb.RevokeKeyResponse, Key]:
    """End a key for good. When this returns, the key is dead everywhere. Revoking a revoked key changes nothing."""
    return Call(
        pb.RevokeKeyRequest(organization=organization, id=id, reason=reason, no_wait=no_wait),
        pb.RevokeKeyResponse,
        lambda answer: read_key(answer.key, **effect(answer)),
        timeout,
    )


def delete_key(
    id: str, *, organization: str = "", no_wait: bool = False, timeout: float | None = None
) -> Call[pb.DeleteKeyResponse, Changed]:
    """End a key, if it is live, and take it off the lists."""
    return Call(
        pb.DeleteKeyRequest(organization=organization, id=id, no_wait=no_wait),
        pb.DeleteKeyResponse,
        lambda answer: Changed(**effect(answer)),
        timeout,
    )


def batch_revoke_keys(
    *,
    reason: str,
    organization: str = "",
    keyspace: str = "",
    owner: str = "",
    environment: str = "",
    type: str = "",
    states: Iterable[KeyState] = (),
    name_contains: str = "",
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    expires_before: datetime | None = None,
    last_used_before: datetime | None = None,
    never_used: bool = False,
    dry_run: bool = False,
    expected_count: int | None = None,
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.BatchRevokeKeysResponse, RevokedKeys]:
    """End for good all keys for which everything given holds; with `dry_run`, only tell how many, and show some.

    At least one condition must be given. With `expected_count`, CountMismatch is raised, and nothing ended, if the
    filter finds another number. Many keys end in several steps: after a failure some have ended, and the same call
    goes on with the rest. It waits at least 60 seconds if not told otherwise, and is never tried again by itself.
    """
    key_filter = _filter(
        keyspace=keyspace,
        owner=owner,
        environment=environment,
        type=type,
        states=states,
        name_contains=name_contains,
        created_after=created_after,
        created_before=created_before,
        expires_before=expires_before,
        last_used_before=last_used_before,
        never_used=never_used,
    )
    return Call(
        pb.BatchRevokeKeysRequest(
            organization=organization,
            filter=key_filter,
            reason=reason,
            dry_run=dry_run,
            expected_count=expected_count,
            no_wait=no_wait,
        ),
        pb.BatchRevokeKeysResponse,
        lambda answer: RevokedKeys(answer.count, tuple(map(read_key, answer.sample)), **effect(answer)),
        timeout,
        _BATCH_PATIENCE,
    )


def reveal_key(id: str, *, organization: str = "", timeout: float | None = None) -> Call[pb.RevealKeyResponse, Secret]:
    """Return the full text of a key's newest secret again, where the keyspace is recoverable. Each time is audited.

    Raises NotRecoverable if the text is not kept.
    """
    return Call(
        pb.RevealKeyRequest(organization=organization, id=id),
        pb.RevealKeyResponse,
        lambda answer: Secret(answer.secret),
        timeout,
    )


def _filter(*, states: Iterable[KeyState], **conditions: Any) -> pb.KeyFilter:
    given: dict[str, Any] = {
        name: timestamp(name, value) if name.endswith(("_after", "_before")) else value
        for name, value in conditions.items()
    }
    return pb.KeyFilter(states=[pb.KeyState.ValueType(_STATE_NUMBERS[state]) for state in states], **given)


def write_ceiling(ceiling: Ceiling | None) -> pb.Ceiling.ValueType:
    return pb.Ceiling.ValueType(_CEILING_NUMBERS[ceiling] if ceiling else 0)


def write_binding(binding: KeyBinding) -> pb.KeyBinding:
    return pb.KeyBinding(
        role=binding.role,
        resources=binding.resources,
        not_before=timestamp("not_before", binding.not_before),
        expires_at=timestamp("expires_at", binding.expires_at),
        condition=binding.condition,
    )


def _made(answer: pb.CreateKeyResponse) -> IssuedKey:
    return replace(
        _issued(answer),
        warnings=tuple(KeyWarning(warning.code, warning.message) for warning in answer.warnings),
        replaced_keys=tuple(answer.replaced_keys),
    )


def _issued(answer: pb.CreateKeyResponse | pb.RotateKeyResponse) -> IssuedKey:
    return IssuedKey(
        key=read_key(answer.key, **effect(answer)),
        secret=Secret(answer.secret) if answer.secret else None,
        replayed=answer.replayed,
        **effect(answer),
    )


def read_key(key: pb.Key, **written: Unpack[Effect]) -> Key:
    return Key(
        id=key.id,
        organization=key.organization,
        keyspace=key.keyspace,
        owner=key.owner,
        name=key.name,
        description=key.description,
        environment=key.environment,
        type=key.type,
        state=STATES.get(key.state, KeyState.UNKNOWN),
        enabled=key.enabled,
        masked=key.masked,
        ceiling=CEILINGS.get(key.ceiling, Ceiling.UNKNOWN),
        scopes=tuple(key.scopes),
        bindings=tuple(map(_read_binding, key.bindings)),
        allowed_cidrs=tuple(key.allowed_cidrs),
        metadata=dict(key.metadata),
        not_before=instant_or_none(key, "not_before"),
        expires_at=instant_or_none(key, "expires_at"),
        created_at=instant(key.created_at),
        updated_at=instant(key.updated_at),
        revoked_at=instant_or_none(key, "revoked_at"),
        revoke_reason=key.revoke_reason,
        last_used_at=instant_or_none(key, "last_used_at"),
        secrets=tuple(map(_read_secret, key.secrets)),
        etag=key.etag,
        api_version=key.api_version,
        limits=dict(key.limits),
        external_id=key.external_id,
        rotate_by=instant_or_none(key, "rotate_by"),
        **written,
    )


def _read_binding(binding: pb.KeyBinding) -> KeyBinding:
    return KeyBinding(
        role=binding.role,
        resources=tuple(binding.resources),
        not_before=instant_or_none(binding, "not_before"),
        expires_at=instant_or_none(binding, "expires_at"),
        condition=binding.condition,
    )


def _read_secret(secret: pb.KeySecret) -> KeySecret:
    return KeySecret(
        id=secret.id,
        masked=secret.masked,
        created_at=instant(secret.created_at),
        expires_at=instant_or_none(secret, "expires_at"),
        last_used_at=instant_or_none(secret, "last_used_at"),
        superseded=secret.superseded,
    )
