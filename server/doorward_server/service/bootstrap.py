"""The first start on an empty store, and the way back in when the root key is lost."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from doorward_server.core.directory import Organization
from doorward_server.core.keytext import ENTROPY_BYTES, SecretText, mint
from doorward_server.core.model import Actor, Ceiling, Event, Instant, Key, Quotas, Secret, StoredKeyspace
from doorward_server.core.policy import Keyspace
from doorward_server.core.verify import Peppers
from doorward_server.service.catalog import DOORWARD, OPERATOR, RELATIONS, Catalog
from doorward_server.service.changes import key_event
from doorward_server.service.ids import Random, new_id
from doorward_server.service.keyspace_file import load_keyspace
from doorward_server.service.keyspaces import apply
from doorward_server.service.peppers import write_secret
from doorward_server.store import Store


class RootKeyProblem(Exception):
    """The file for the root key cannot be used; the message says what to do."""


BOOTSTRAP = Actor(OPERATOR, "bootstrap")
RECOVERY = Actor(OPERATOR, "recover-root")


def built_in() -> Keyspace:
    """Return the keyspace `doorward` as this version of Doorward ships it."""
    source = files("doorward_server.service").joinpath("doorward.yaml").read_text("utf-8")
    return load_keyspace(source, operator=OPERATOR, relations=RELATIONS)


def bootstrap(store: Store, catalog: Catalog, peppers: Peppers, root_file: Path, now: Instant, random: Random) -> bool:
    """Make an empty store usable: built-in keyspace, operator organization, one root key, written to *root_file*.

    Belongs under `Store.lock`, so that of several starters one does it. On a store that is in use, only the built-in
    keyspace is brought up to this version. Returns whether a root key was made. The key is on the disk, beside
    *root_file*, before it is in the store; a start that was killed in between, or after, is finished by the next one.
    Raises RootKeyProblem rather than write over the root key of another store.
    """
    pending = _pending(root_file)
    keyspace = built_in()
    if store.find_organization(OPERATOR) is not None:
        apply(store, catalog, BOOTSTRAP, keyspace, "", now, dry_run=False)
        return _finished(pending, root_file)
    if root_file.exists():
        raise RootKeyProblem(
            f"The store is new, but {root_file} is there already: it is another store's root key. Move it away, "
            "or give this store a place of its own (DOORWARD_STATE_DIR or DOORWARD_ROOT_KEY_FILE)."
        )
    key, text = _root_key(keyspace, peppers, now, random)
    _write_pending(pending, text)
    operator = Organization(OPERATOR, "Operator", {}, True, now, now)
    stored = StoredKeyspace(DOORWARD, keyspace.source, now, now)
    events = [
        Event(OPERATOR, now, BOOTSTRAP, "organizations:create", "organization", OPERATOR, None, {"enabled": True}),
        Event(OPERATOR, now, BOOTSTRAP, "keyspaces:apply", "keyspace", DOORWARD, None, {"source": keyspace.source}),
        key_event(BOOTSTRAP, "keys:create", None, key, now),
    ]
    if not store.add_operator(operator, stored, key, events):
        pending.unlink()
        return False
    return _finished(pending, root_file)


def recover_root(store: Store, peppers: Peppers, root_file: Path, now: Instant, random: Random) -> Key:
    """Make another root key and write it to *root_file*. Audited; older root keys stay as they are."""
    key, text = _root_key(built_in(), peppers, now, random)
    pending = _pending(root_file)
    _write_pending(pending, text)
    made = store.add_key(key, key_event(RECOVERY, "keys:create", None, key, now), Quotas()).value
    os.replace(pending, root_file)
    return made


def _pending(root_file: Path) -> Path:
    return root_file.with_name(f".{root_file.name}.new")


def _write_pending(pending: Path, text: SecretText) -> None:
    pending.parent.mkdir(parents=True, exist_ok=True)
    pending.unlink(missing_ok=True)
    write_secret(pending, text.reveal())


def _finished(pending: Path, root_file: Path) -> bool:
    """Put a root key that is in the store by now where it belongs; False if there is none to put."""
    if root_file.exists() or not pending.exists():
        pending.unlink(missing_ok=True)
        return False
    os.replace(pending, root_file)
    return True


def _root_key(keyspace: Keyspace, peppers: Peppers, now: Instant, random: Random) -> tuple[Key, SecretText]:
    text = mint(keyspace.prefix, keyspace.environments[0], random(ENTROPY_BYTES))
    secret = Secret(new_id("sec", random), text.lookup, peppers.verifier(text.secret), text.last4, now)
    key = Key(
        organization=OPERATOR,
        id=new_id("key", random),
        keyspace=DOORWARD,
        owner=None,
        name="root",
        description="Made by Doorward itself. Make keys that can do less for daily use.",
        environment=keyspace.environments[0],
        type="",
        enabled=True,
        ceiling=Ceiling.LIST,
        scopes=("root",),
        bindings=(),
        allowed_cidrs=(),
        metadata={},
        not_before=None,
        expires_at=None,
        created_at=now,
        updated_at=now,
        secrets=(secret,),
    )
    return key, text.secret
