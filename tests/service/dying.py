"""Dies by SIGKILL at a chosen statement of CreateKey. A program: `python -m tests.service.dying URL FOLDER`.

For N = 1, 2, … a child makes a key and dies just before its Nth statement, or, with one N more than there are
statements, between the commit and the answer; the last child lives. Writes one line of JSON for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

from doorward_server.app import build, opened
from doorward_server.config import Config
from doorward_server.service.requests import Repeat
from doorward_server.service.settings import NewKey
from doorward_server.serving import now
from doorward_server.store import Store, dialect


class Fuse:
    """Counts steps once it is lit, and kills at the last one."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self.lit = False

    def step(self) -> None:
        if self.lit:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def set_fuse(fuse: Fuse) -> None:
    """Make every statement of a new key, and the moment after the commit, a step."""
    execute, add = dialect._Texts.execute_sql, Store.add_key

    def execute_sql(self: Any, sql: str, params: Any = None) -> Any:
        fuse.step()
        return execute(self, sql, params)

    def add_key(self: Store, *arguments: Any, **named: Any) -> Any:
        fuse.lit = True
        written = add(self, *arguments, **named)
        fuse.step()
        fuse.lit = False
        return written

    dialect._Texts.execute_sql = execute_sql  # type: ignore[method-assign]  # the fault
    Store.add_key = add_key  # type: ignore[method-assign]  # the fault


def child(config: Config, number: int) -> None:
    """Make a key that is called by *number*, and die at that step."""
    with opened(config, now, secrets.token_bytes) as (store, peppers, _):
        app = build(config, store, peppers, now, secrets.token_bytes)
        header = f"Bearer {config.root_key.read_text('utf-8').strip()}"
        caller = asyncio.run(app.authorizer.authenticate([("authorization", header)], None))
        set_fuse(Fuse(number))
        new = NewKey("", "doorward", "", f"{number}", "", "", "", None, ("backend",), (), (), {}, None, None)
        app.keys.create(caller, new, Repeat(f"request {number}", bytes(32)))
        for pool in app.pools:
            pool.close()


def main(url: str, folder: str) -> None:
    """Fork a child for each step until one lives."""
    config = Config.model_validate({"store": url, "state_dir": Path(folder)})
    number, died = 0, True
    while died:
        number += 1
        pid = os.fork()
        if pid == 0:
            child(config, number)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert died or status == 0, status
        print(json.dumps({"number": number, "died": died}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
