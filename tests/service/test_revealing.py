"""RevealKey: only where texts are kept, only for whom may, and never before the audit log has it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from doorward.v1 import directory_pb2, keys_pb2
from doorward_server.core.errors import CallerForbidden, NotFound, NotRecoverable, StoreUnavailable
from doorward_server.core.model import Key, Sealed
from doorward_server.service.guard import Caller
from tests.service.door import Door, keyspace, row

LEGACY = "legacy: [{name: old, prefix: 'old_', alphabet: hex, length: 32, entropy_bits: 128}]"
OLD = "old_" + "0f" * 16


@pytest.fixture
def vault(door: Door) -> Door:
    door.apply(keyspace("vault", "prefix: vault", "recoverable: true", LEGACY))
    door.apply(keyspace("once", "prefix: once"))
    return door


def reveal(door: Door, organization: str, id: str, by: Caller | None = None) -> str:
    request = keys_pb2.RevealKeyRequest(organization=organization, id=id)
    return door.run(door.keys.RevealKey(request, by or door.caller())).secret


def not_recoverable(door: Door, organization: str, id: str) -> str:
    request = keys_pb2.RevealKeyRequest(organization=organization, id=id)
    refusal = door.refused(door.keys.RevealKey(request, door.caller()))
    assert isinstance(refusal, NotRecoverable)
    return refusal.message


def ending(kind: Any, organization: str, id: str) -> Any:
    return kind(organization=organization, id=id)


def test_a_text_is_shown_again_and_the_audit_log_knows(vault: Door) -> None:
    acme = vault.organization()
    made = vault.create(acme, "vault")
    assert reveal(vault, acme, made.key.id) == made.secret
    assert reveal(vault, acme, made.key.id) == made.secret
    events = vault.events(acme, "keys:reveal")
    assert [(it.target_type, it.target) for it in events] == [("key", made.key.id)] * 2
    assert made.secret not in repr(events)


def test_the_newest_text_is_the_one_that_is_shown(vault: Door) -> None:
    acme = vault.organization()
    made = vault.create(acme, "vault")
    rotated = vault.run(vault.keys.RotateKey(ending(keys_pb2.RotateKeyRequest, acme, made.key.id), vault.caller()))
    assert reveal(vault, acme, made.key.id) == rotated.secret != made.secret
    assert vault.app.store.find_sealed(acme, made.key.id, made.key.secrets[0].id) is None


def test_an_imported_text_is_shown_and_an_imported_hash_is_not(vault: Door) -> None:
    acme = vault.organization()
    other = "old_" + "1e" * 16
    digest = hashlib.sha256(other.encode()).hexdigest()
    hashed = row(hash=digest, hash_kind=keys_pb2.IMPORTED_HASH_SHA256)
    text, bare = (it.key_id for it in vault.take_in(acme, "vault", row(text=OLD), hashed).results)
    assert reveal(vault, acme, text) == OLD
    assert "hash" in not_recoverable(vault, acme, bare)
    assert vault.verdict("vault", other) == "ALLOWED"
    vault.settle()
    assert "hash" in not_recoverable(vault, acme, bare)


def test_nothing_is_shown_of_what_is_not_kept_or_has_ended(vault: Door) -> None:
    acme = vault.organization()
    once, revoked, deleted = (vault.create(acme, name).key.id for name in ("once", "vault", "vault"))
    assert "not recoverable" in not_recoverable(vault, acme, once)
    vault.run(vault.keys.RevokeKey(ending(keys_pb2.RevokeKeyRequest, acme, revoked), vault.caller()))
    assert "revoked" in not_recoverable(vault, acme, revoked)
    vault.run(vault.keys.DeleteKey(ending(keys_pb2.DeleteKeyRequest, acme, deleted), vault.caller()))
    with pytest.raises(NotFound):
        reveal(vault, acme, deleted)
    for id in (revoked, deleted):
        key = vault.app.store.find_key(acme, id)
        secrets = [s.id for s in key.secrets] if key else []
        assert all(vault.app.store.find_sealed(acme, id, secret) is None for secret in secrets)
    assert vault.events(acme, "keys:reveal") == []


def test_revealing_is_a_right_of_its_own(vault: Door) -> None:
    acme, globex = vault.organization("acme", "alice", "bob"), vault.organization("globex")
    hers = vault.create(acme, "vault", owner="alice")
    for role in ("admin", "viewer", "backend"):
        with pytest.raises(CallerForbidden):
            reveal(vault, acme, hers.key.id, vault.staff(acme, role))
    alice, bob = (vault.create(acme, "doorward", owner=name, scopes=["member"]).secret for name in ("alice", "bob"))
    bind(vault, acme, "alice", "member")
    bind(vault, acme, "bob", "member")
    assert reveal(vault, acme, hers.key.id, vault.caller(alice)) == hers.secret
    for other in (vault.caller(bob), vault.staff(globex, "root")):
        with pytest.raises(CallerForbidden):
            reveal(vault, acme, hers.key.id, other)
    (event,) = vault.events(acme, "keys:reveal")
    assert event.actor.principal == "alice"


def bind(door: Door, organization: str, principal: str, role: str) -> None:
    binding = directory_pb2.Binding(organization=organization, principal=principal, keyspace="doorward", role=role)
    door.run(door.directory.CreateBinding(directory_pb2.CreateBindingRequest(binding=binding), door.caller()))


def test_an_answer_that_cannot_be_audited_is_none(vault: Door) -> None:
    acme = vault.organization()
    made = vault.create(acme, "vault")
    seen: list[str] = []

    def fail(key: Key, sealed: Sealed | None) -> Any:
        seen.append(key.id)
        return "the text", None

    with pytest.raises(AttributeError):
        vault.app.store.reveal_key(acme, made.key.id, fail)
    assert seen == [made.key.id]
    assert vault.events(acme, "keys:reveal") == []


def test_a_sealed_text_opens_in_its_own_row_only(vault: Door) -> None:
    acme, globex = vault.organization(), vault.organization("globex")
    mine, other = vault.create(acme, "vault"), vault.create(acme, "vault")
    theirs = vault.create(globex, "vault")
    mint = vault.keys._reveals._mint

    def stored(organization: str, id: str) -> tuple[Key, Sealed]:
        key = vault.app.store.find_key(organization, id)
        assert key is not None
        sealed = vault.app.store.find_sealed(organization, id, key.secrets[0].id)
        assert sealed is not None
        return key, sealed

    key, sealed = stored(acme, mine.key.id)
    assert mint.opened(key, key.secrets[0].id, sealed).reveal() == mine.secret
    for organization, id in ((acme, other.key.id), (globex, theirs.key.id)):
        foreign, _ = stored(organization, id)
        with pytest.raises(InvalidTag):
            mint.opened(foreign, foreign.secrets[0].id, sealed)
    with pytest.raises(InvalidTag):
        mint.opened(key, "sec_other", sealed)
    for position in range(len(sealed.ciphertext)):
        changed = bytearray(sealed.ciphertext)
        changed[position] ^= 1
        with pytest.raises(InvalidTag):
            mint.opened(key, key.secrets[0].id, Sealed(bytes(changed), sealed.version))


def test_a_text_that_does_not_open_is_an_outage_and_leaves_no_trace(vault: Door, tmp_path: Path) -> None:
    acme = vault.organization()
    mine, other = vault.create(acme, "vault"), vault.create(acme, "vault")
    database = vault.app.store._dialect.database
    database.connect()
    try:
        _move_sealed(database, mine.key.id, other.key.id)
        request = keys_pb2.RevealKeyRequest(organization=acme, id=other.key.id)
        assert isinstance(vault.refused(vault.keys.RevealKey(request, vault.caller())), StoreUnavailable)
        database.execute_sql(f"UPDATE sealed SET version = 77 WHERE key = '{mine.key.id}'")
        request = keys_pb2.RevealKeyRequest(organization=acme, id=mine.key.id)
        assert isinstance(vault.refused(vault.keys.RevealKey(request, vault.caller())), StoreUnavailable)
    finally:
        database.close()
    assert vault.events(acme, "keys:reveal") == []


def _move_sealed(database: Any, source: str, target: str) -> None:
    taken = f"(SELECT ciphertext FROM sealed WHERE key = '{source}')"
    database.execute_sql(f"UPDATE sealed SET ciphertext = {taken} WHERE key = '{target}'")
