"""The pepper file: the secrets that live outside the database, without which no key can be proved or made.

JSON with mode 0600, the same on every replica; every value is 64 hexadecimal digits:

    {"peppers":  {"active": 1, "keys": {"1": "…"}, "retired": []},     what stored proofs are made with
     "recovery": {"active": 1, "keys": {"1": "…"}},     what the texts of recoverable keys are sealed with
     "signing":  {"active": 1, "keys": {"1": "…"}},     what JWT keys are signed with
     "lookup":   "…"}                                   what texts without a public part are found by

The store holds a canary for each pepper, so that a wrong file is noticed at the start and not by the first user. The
lookup key never changes: every stored lookup would have to be made anew, from texts that nobody has.

Which pepper new secrets are made with is said by the store, so that all replicas change at the same moment; the file's
"active" is only what a store without any pepper begins with. What is retired is said by both: a version that either of
them calls retired proves nothing by itself, so whoever can write to the database cannot bring one back
(docs/decisions/0008-pepper-rotation.md).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from doorward_server.core.model import Actor, Event, Instant
from doorward_server.core.verify import PEPPER_BYTES, KnownPepper, Peppers, PepperState
from doorward_server.service.catalog import OPERATOR
from doorward_server.service.ids import Random
from doorward_server.store import Store

log = structlog.get_logger("doorward")


class PepperProblem(Exception):
    """The pepper file is missing, unreadable or not the right one; the message says what to do, never what is in it."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """Keys by version, and the version for what is new. Never printed."""

    keys: Mapping[int, bytes] = field(repr=False)
    active: int


@dataclass(frozen=True, slots=True)
class Ring:
    """What the pepper file holds. Never printed."""

    peppers: Peppers
    recovery: Versioned
    signing: Versioned
    lookup: bytes = field(repr=False)


class Keyring:
    """Where this process keeps the ring it goes by. Whoever needs one reads `current` each time, and once per use."""

    __slots__ = ("current",)

    def __init__(self, ring: Ring) -> None:
        self.current = ring


def read_ring(path: Path) -> Ring | None:
    """Return what is in *path*; None if there is no such file. Raises PepperProblem."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise PepperProblem(f"The pepper file {path} cannot be read. Check its owner and mode (0600).") from None
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PepperProblem(f"The pepper file {path} is damaged. Put back the copy from your secret store.") from None


def _parsed(document: dict[str, Any]) -> Ring:
    peppers = _versioned(document["peppers"])
    retired = frozenset(map(int, document["peppers"].get("retired", ())))
    if peppers.active in retired:
        _damaged()
    return Ring(
        peppers=Peppers(peppers.keys, peppers.active, retired),
        recovery=_versioned(document["recovery"]),
        signing=_versioned(document["signing"]),
        lookup=_key(document["lookup"]),
    )


def _versioned(part: dict[str, Any]) -> Versioned:
    keys = {int(version): _key(text) for version, text in part["keys"].items()}
    return Versioned(keys, int(part["active"])) if int(part["active"]) in keys else _damaged()


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    return key if len(key) == PEPPER_BYTES else _damaged()


def _damaged() -> Any:
    raise ValueError("a version is missing or retired, or a key has the wrong length")


def make_ring(path: Path, random: Random) -> Ring:
    """Make the first keys and write them to *path*, which must not exist. They are on the disk when this returns."""
    first = [random(PEPPER_BYTES) for _ in range(4)]
    ring = Ring(Peppers({1: first[0]}, 1), Versioned({1: first[1]}, 1), Versioned({1: first[2]}, 1), first[3])
    write_secret(path, written(ring))
    return ring


def written(ring: Ring) -> str:
    """Return the text of the file. For the file only."""
    peppers = ring.peppers
    parts = {
        "peppers": Versioned(peppers.versions, peppers.active),
        "recovery": ring.recovery,
        "signing": ring.signing,
    }
    document: dict[str, Any] = {
        name: {"active": part.active, "keys": {str(version): key.hex() for version, key in part.keys.items()}}
        for name, part in parts.items()
    }
    document["peppers"]["retired"] = sorted(peppers.retired)
    return json.dumps({**document, "lookup": ring.lookup.hex()}, indent=2)


def check_peppers(store: Store, keyring: Keyring, path: Path, now: Instant) -> None:
    """Compare what was read from *path* with the store, leave a canary of what has none, and go by what is right.

    Belongs under `Store.lock`. Raises PepperProblem.
    """
    file = keyring.current
    known = {it.version: it for it in store.peppers.list_all()}
    if known:
        keyring.current = vouched(store, file, list(known.values()), path)
    for version in sorted(file.peppers.versions.keys() - known.keys()):
        new = KnownPepper(version, file.peppers.canary(version), _first_state(version, file.peppers, bool(known)))
        note = "found in the pepper file at a start"
        store.peppers.add(new, pepper_event("peppers:add", str(version), now, note=note) if known else None)
    keyring.current = vouched(store, file, store.peppers.list_all(), path)


def _first_state(version: int, peppers: Peppers, in_use: bool) -> PepperState:
    if version in peppers.retired:
        return PepperState.RETIRED
    if version == peppers.active and not in_use:
        return PepperState.ACTIVE
    return PepperState.ADDED if in_use or version > peppers.active else PepperState.REPLACED


def vouched(store: Store, ring: Ring, known: Sequence[KnownPepper], path: Path) -> Ring:
    """Return *ring* as the store knows it: only versions whose canary it has, with its active and retired ones.

    Raises PepperProblem if a version is another one than the store's, or one is missing that stored proofs need.
    """
    versions, retired, active = {}, set(ring.peppers.retired), 0
    for it in known:
        if it.state is PepperState.RETIRED:
            retired.add(it.version)
        elif it.version in retired:
            raise PepperProblem(_REVIVED.format(path=path, version=it.version, state=it.state.value))
        if it.state is PepperState.ACTIVE:
            active = it.version
        if it.version not in ring.peppers.versions:
            _check_dispensable(store, it, path)
        elif ring.peppers.canary(it.version) != it.canary:
            raise PepperProblem(
                f"Version {it.version} in the pepper file {path} is not the one the store's keys were made with. "
                "Put back the file that all replicas have."
            )
        else:
            versions[it.version] = ring.peppers.versions[it.version]
    if active not in versions:
        raise PepperProblem("The store has no active pepper. Somebody changed its table by hand: restore a backup.")
    return replace(ring, peppers=Peppers(versions, active, frozenset(retired)))


_REVIVED = (
    "The pepper file {path} says that version {version} is retired, and the store that it is {state}. Either an old "
    "backup of the store is back, or somebody who must not changed its table. Find out which. For a backup: take "
    '{version} out of "retired" in the file on every replica, start, and rotate again.'
)


def _check_dispensable(store: Store, it: KnownPepper, path: Path) -> None:
    """Raise PepperProblem if the file cannot do without version *it*."""
    if it.state is PepperState.ADDED:
        log.warning("the pepper file lacks a version that is to be activated: copy it here", version=it.version)
    elif it.state is not PepperState.RETIRED or store.peppers.is_inner(it.version):
        raise PepperProblem(
            f"The pepper file {path} lacks version {it.version}, which keys in the store need. "
            "Put back the file that all replicas have."
        )


PEPPER_COMMAND = Actor(OPERATOR, "pepper")


def pepper_event(
    action: str,
    target: str,
    now: Instant,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
    note: str = "",
) -> Event:
    """Return the audit event of a step, in the operator's chain."""
    return Event(OPERATOR, now, PEPPER_COMMAND, action, "pepper", target, before, after, note)


def write_secret(path: Path, text: str) -> None:
    """Write *text* to a new file of mode 0600, on the disk before this returns. Raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def replace_ring(path: Path, ring: Ring) -> None:
    """Write *ring* over *path*, whole or not at all, on the disk before this returns; it keeps its owner."""
    target = path.resolve()
    owner = target.stat()
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    write_secret(temporary, written(ring))
    if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(temporary, owner.st_uid, owner.st_gid)  # or the server could not read it any more
    os.replace(temporary, target)
    _sync_folder(target)
