"""The pepper file: the secrets that live outside the database, without which no key can be proved or made.

JSON with mode 0600: `{"active": 1, "peppers": {"1": "<64 hex digits>"}}`. Every replica has the same file. The store
holds a canary for each version, so that a wrong file is noticed at the start and not by the first user.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from doorward_server.core.verify import PEPPER_BYTES, Peppers
from doorward_server.service.keys import Random
from doorward_server.store import Store


class PepperProblem(Exception):
    """The pepper file is missing, unreadable or not the right one; the message says what to do, never what is in it."""


def read_peppers(path: Path) -> Peppers | None:
    """Return the peppers in *path*; None if there is no such file. Raises PepperProblem."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise PepperProblem(f"The pepper file {path} cannot be read. Check its owner and mode (0600).") from None
    try:
        document = json.loads(text)
        versions = {int(version): bytes.fromhex(pepper) for version, pepper in document["peppers"].items()}
        peppers = Peppers(versions, int(document["active"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PepperProblem(f"The pepper file {path} is damaged. Put back the copy from your secret store.") from None
    if peppers.active not in versions or any(len(pepper) != PEPPER_BYTES for pepper in versions.values()):
        raise PepperProblem(f"The pepper file {path} is damaged. Put back the copy from your secret store.")
    return peppers


def make_peppers(path: Path, random: Random) -> Peppers:
    """Make the first pepper and write it to *path*, which must not exist. It is on the disk when this returns."""
    pepper = random(PEPPER_BYTES)
    write_secret(path, json.dumps({"active": 1, "peppers": {"1": pepper.hex()}}, indent=2))
    return Peppers({1: pepper}, 1)


def check_peppers(store: Store, peppers: Peppers, path: Path) -> None:
    """Compare with the store's canaries, and leave one for a version that has none. Raises PepperProblem."""
    known = store.pepper_canaries()
    for version, canary in known.items():
        if version not in peppers.versions:
            raise PepperProblem(f"The pepper file {path} lacks version {version}, which keys in the store need.")
        if peppers.canary(version) != canary:
            raise PepperProblem(
                f"Version {version} in the pepper file {path} is not the one the store's keys were made with."
            )
    for version in peppers.versions.keys() - known.keys():
        store.add_pepper(version, peppers.canary(version))


def write_secret(path: Path, text: str) -> None:
    """Write *text* to a new file of mode 0600, on the disk before this returns. Raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
