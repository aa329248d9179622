"""Runs one change over and over in processes that kill themselves around its nth statement, for every n.

`python killing.py <store url> <before|after> <add|rotate|prune>` prints, one a line, the ids of the keys whose change
was acknowledged. Every child begins with no connection of its own; it is killed as by `kill -9`: nothing is flushed,
closed or rolled back.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any

from doorward_server.core.audit import Link
from doorward_server.core.model import Event, Key
from tests import databases
from tests.store import plants
from tests.store.values import NOW, QUOTAS, event, key, replay, secret

MOST = 60


class FaultPoint:
    """Kills this process before or after the nth statement."""

    def __init__(self, database: Any, when: str, number: int) -> None:
        self._execute, self._when, self._left = database.execute_sql, when, number
        database.execute_sql = self

    def __call__(self, sql: str, params: Any = None) -> Any:
        self._left -= 1
        if self._left == 0 and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = self._execute(sql, params)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def change(url: str, when: str, what: str, number: int) -> None:
    """Make one change, or die in it."""
    id = f"{what}_{when}_{number}"
    store = databases.open_store(url)
    made = key(id, secrets=(secret(id),))
    if what != "add":
        store.add_key(made, event(target=id, action="keys:create"), QUOTAS)
    FaultPoint(store._dialect.database, when, number)
    if what == "rotate":
        store.update_key("acme", id, rotated, replay(id))
    elif what == "prune":
        store.audit.prune("acme", NOW + 1, pruned)
    else:
        store.add_key(made, event(target=id, action="keys:create"), QUOTAS, replay(id))
    os.write(1, f"{id}\n".encode())


def pruned(first: Link, last: Link) -> Event:
    """What is kept of events that go; it stays, as it is from later."""
    return event(target=f"{first.sequence} to {last.sequence}", action="events:prune", at=NOW + 2)


def rotated(it: Key) -> tuple[Key, Event]:
    """Another secret."""
    return it.rotate(secret(f"{it.id}_2", id="sec_2nd"), NOW, 0), event(target=it.id, action="keys:rotate")


def main(url: str, when: str, what: str) -> None:
    """One child for each statement, until one has lived through it all."""
    plants.plant_the_one_asked_for()
    for number in range(1, MOST):
        child = os.fork()
        if child == 0:
            try:
                change(url, when, what, number)
                os._exit(0)
            except BaseException:  # noqa: BLE001  # told, and the child must not go on as the parent
                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
    sys.exit("more statements than expected")


if __name__ == "__main__":
    main(*sys.argv[1:])
