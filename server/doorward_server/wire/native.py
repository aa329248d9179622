"""The experimental transport: pygrpc-native, which speaks HTTP/2 in Rust, outside the GIL, and keeps the event loop for
the handlers. Unary RPCs only. Imported only where it is asked for, as its package is an extra.

It hands whatever streams to a grpcio server behind a Unix socket, where every caller has lost its address and so its
own budget of failed proofs. Those RPCs are not given to it: they are UNIMPLEMENTED here, as is health's Watch, whose
open calls would hold up every drain. docs/operating.md lists the bounds that it does not keep.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from pygrpc_native import EVENT_CANCEL
from pygrpc_native.aio import Server

NOT_KEPT = frozenset({"grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms"})
"""Options that it refuses to take. Others that it cannot keep it passes over without a word, as grpcio does."""
LOOK_AGAIN = 0.01
"""Seconds between two looks at whether all answers have been taken."""
ANSWERS_LEAVE = 0.2
"""Seconds between that and the end of the connections: what has been taken is not told to have been written."""
Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]


class NativeServer(Server):
    """Forgets a call whose caller went away before it began. Its base (0.5.0) does so in the call's own task, which
    then never runs, and would keep each with its metadata for good.
    """

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        super().__init__(options=options)
        self._front_args["metrics"] = True  # they tell of answers that their callers have not taken yet

    def _on_events(self, events: list[tuple[Any, ...]]) -> None:
        super()._on_events(events)
        for kind, id, *_ in events:
            call = self._calls.get(id) if kind == EVENT_CANCEL else None
            if call is not None and call.task is not None:
                call.task.add_done_callback(partial(self._forget, id))

    def _forget(self, id: int, _: object) -> None:
        self._calls.pop(id, None)

    async def stop(self, grace: float | None) -> None:
        """Stop as grpcio does. Its base closes every connection as soon as the last handler returned, and loses the
        answers that its threads have not written yet: all of those that a caller takes slowly.
        """
        if grace and not self._stopping:
            self._stopping = True  # refuses what comes from here on
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    if running := [call.task for call in self._calls.values() if call.task is not None]:
                        await asyncio.wait(running)
                    while self._leaving():  # noqa: ASYNC110  # nothing else tells
                        await asyncio.sleep(LOOK_AGAIN)
            await asyncio.sleep(ANSWERS_LEAVE)
            self._stopping = False
        await super().stop(None)

    def _leaving(self) -> int:
        """Count the calls whose answers are not with their callers: flow control lets go of no more than those take."""
        counts: Any = self._front.metrics() if self._front is not None else None
        methods = counts["methods"].values() if counts is not None else ()
        return sum(it["started"] - sum(ended["count"] for ended in it["status"].values()) for it in methods)


def native_server(services: Mapping[str, Handlers], options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    """Return a server that is not yet bound or started, with the unary RPCs of *services* by their full names.

    Belongs on a running event loop.
    """
    server = NativeServer(options=[option for option in options if option[0] not in NOT_KEPT])
    for name, handlers in services.items():
        unary = {rpc: it for rpc, it in handlers.items() if not (it.request_streaming or it.response_streaming)}
        server.add_registered_method_handlers(name, unary)
    return server
