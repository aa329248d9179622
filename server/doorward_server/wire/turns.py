"""Calls take their turns together, so that what they have in common is met in the processor's caches.

grpc.aio hands over one call in a pass of the event loop. Between two of them gRPC, asyncio and the kernel push our code
and data out of the caches, and each call pays for having them brought back. So a call waits while more come: under
load several are answered in a row, and their answers leave together. docs/performance.md has what that is worth.
"""

from __future__ import annotations

import asyncio

MOST = 16
"""Calls that have a turn together. The first of them waits for twice as many passes of the loop at most."""


class Turns:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def next(self) -> asyncio.Future[None]:
        """Return what is done once two passes of the loop in a row brought no other call, or `MOST` wait."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._look, loop, 0, True)
        return turn

    def _look(self, loop: asyncio.AbstractEventLoop, before: int, patient: bool) -> None:
        waiting = self._waiting
        more = len(waiting) > before
        if len(waiting) < MOST and (more or patient):
            loop.call_soon(self._look, loop, len(waiting), more)
            return
        self._waiting = []
        for turn in waiting:
            if not turn.done():  # else its caller went away
                turn.set_result(None)
