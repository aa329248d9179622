"""Blocking work off the event loop, bounded: what cannot be done in time is refused at once, never queued for ever."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from doorward_server.core.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A few threads for one kind of work, apart from the others', so that a flood of one kind cannot stop another.

    Belongs to one event loop.
    """

    def __init__(self, name: str, threads: int, backlog: int, nice: int = 0) -> None:
        """*nice*: how far its threads stand back, 0 to 19, when others want the CPU."""
        self._executor = ThreadPoolExecutor(
            threads, thread_name_prefix=f"doorward-{name}", initializer=_stand_back, initargs=(nice,)
        )
        self._limit = threads + backlog
        self._pending = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *work* on one of the threads. Raises Overloaded, without running it, if too much is waiting.

        A caller that gives up waiting leaves the work running: a change it made is kept and audited.
        """
        if self._pending >= self._limit:
            raise Overloaded
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))
        future.add_done_callback(self._finished)
        return await asyncio.shield(future)

    def _finished(self, future: asyncio.Future[T]) -> None:
        self._pending -= 1
        if not future.cancelled():
            future.exception()  # a caller that gave up does not fetch it, and asyncio would complain

    def close(self) -> None:
        """Finish what is running and waiting, then stop the threads."""
        self._executor.shutdown(wait=True)


def _stand_back(nice: int) -> None:
    if nice and sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
