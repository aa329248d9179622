"""Counting who holds what of a keyspace, before its file changes: two grouped reads, whatever the number of keys."""

from __future__ import annotations

from peewee import fn

from doorward_server.core.holders import HeldBinding, Holders, KeyShape
from doorward_server.core.model import Ceiling, Instant

from .rows import BINDING, KEY, Row, _key_bindings, _texts
from .transaction import Transaction

MAX_SHAPES = 20_000
"""Rows that are read of each kind; beyond, the answer says that it is not complete."""


def count_holders(tx: Transaction, keyspace: str, now: Instant, *, names: bool) -> Holders:
    """Count the keyspace's live keys and its bindings by what they have in common; with *names*, by name, too."""
    shape = [
        KEY.environment, KEY.type, KEY.owner.is_null(), KEY.ceiling, KEY.scopes, KEY.bindings, KEY.expires_at.is_null(),
        KEY.external_id.is_null(),
    ]  # fmt: skip
    shape += [KEY.name] if names else []
    live = KEY.revoked_at.is_null() & KEY.deleted_at.is_null() & (KEY.expires_at.is_null() | (KEY.expires_at > now))
    keys = KEY.select(fn.COUNT(KEY.id), *shape).where((KEY.keyspace == keyspace) & live).group_by(*shape)
    held = (BINDING.role, BINDING.condition)
    bindings = BINDING.select(fn.COUNT(BINDING.id), *held).where(BINDING.keyspace == keyspace).group_by(*held)
    found = tx.rows(keys.limit(MAX_SHAPES + 1))
    bound = tx.rows(bindings.limit(MAX_SHAPES + 1))
    return Holders(
        keys=tuple(_shape(row) for row in found[:MAX_SHAPES]),
        bindings=tuple((HeldBinding(role, condition), count) for count, role, condition in bound[:MAX_SHAPES]),
        complete=len(found) <= MAX_SHAPES and len(bound) <= MAX_SHAPES,
    )


def _shape(row: Row) -> tuple[KeyShape, int]:
    count, environment, type, unowned, ceiling, scopes, bindings, endless, ours, *name = row
    shape = KeyShape(
        environment=environment,
        type=type,
        owned=not unowned,
        ceiling=Ceiling(ceiling),
        scopes=_texts(scopes),
        bindings=_key_bindings(bindings),
        expires=not endless,
        imported=not ours,
        name=name[0] if name else "",
    )
    return shape, count
