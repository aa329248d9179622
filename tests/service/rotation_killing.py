"""Runs one step of a rotation over and over in processes that kill themselves before their nth touch of anything.

`python rotation_killing.py <store url> <state directory> <step> [version]` runs until one has lived through it all, and
prints how many did not. A touch is a statement of the database, or a call that changes a file. Between two children the
whole store is looked at: every key whose text is in `<state directory>/texts` must be proved, by the files as they are.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doorward_server.app import opened
from doorward_server.config import Config
from doorward_server.core.keytext import SecretText
from doorward_server.service import rotation
from doorward_server.service.rotation import Rotation

MOST = 80
TOUCHES = ("open", "write", "fsync", "replace", "unlink", "chown")


class FaultPoint:
    """Kills this process before the nth touch."""

    def __init__(self, database: Any, number: int) -> None:
        self._left = number
        database.execute_sql = self._before(database.execute_sql)
        for name in TOUCHES:
            setattr(os, name, self._before(getattr(os, name)))

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def touch(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return touch


def now() -> int:
    """The real clock."""
    return time.time_ns() // 1000


def step(config: Config, name: str, version: str, number: int) -> None:
    """Make one step, or die in it."""
    rotation.CHUNK = 2
    with opened(config, now, secrets.token_bytes) as (store, keyring, _):
        steps = Rotation(store, keyring, config.peppers, now, secrets.token_bytes, lambda _: None, lambda _: None)
        FaultPoint(store._dialect.database, number)
        getattr(steps, name)(*([int(version)] if version else []))


def look(config: Config, texts: list[str]) -> None:
    """Prove every text by what is on the disk."""
    with opened(config, now, secrets.token_bytes) as (store, keyring, _):
        for text in texts:
            record = store.find_record("doorward", text[-40:-30]).record
            assert record is not None
            assert keyring.current.peppers.proves(SecretText(text), record.key.secrets[0].verifier)


def in_a_child(work: Callable[[], None]) -> bool:
    """Run *work* in a process of its own; False if that was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # told, and the child must not go on as the parent
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit(os.WEXITSTATUS(status))
    return os.WIFEXITED(status)


def main(url: str, folder: str, name: str, version: str = "") -> None:
    """One child for each touch, until one has lived through it all."""
    settings: dict[str, Any] = {"store": url, "state_dir": Path(folder)}
    config = Config(**settings)
    texts = (Path(folder) / "texts").read_text("utf-8").split()
    for number in range(1, MOST):
        lived = in_a_child(lambda number=number: step(config, name, version, number))  # type: ignore[misc]  # bound
        in_a_child(lambda: look(config, texts))
        if lived:
            print(number - 1)
            return
    sys.exit("more touches than expected")


if __name__ == "__main__":
    main(*sys.argv[1:])
