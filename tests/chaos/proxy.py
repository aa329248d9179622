"""A network that can be spoilt: TCP links, each of which passes, delays, stalls, swallows or cuts. A program.

What it is told: `{"links": {name: [kind, …]}}`, where a link leads to ["tcp", host, port] or ["unix", path]; it says
the ports that it listens on. Then `{"link": name, "mode": mode, "seconds": s}`:

    pass   everything, at once
    delay  everything, each piece `seconds` later
    stall  nothing until the mode ends, then all that was held back
    hold   nothing, ever: what is sent is swallowed, and the connection stays open, as when the other machine is gone
    deaf   requests get through, their answers are swallowed
    cut    what is there is broken off, and what comes is refused

Connections of which something was swallowed are broken off when the mode ends: a stream with a hole is of no use.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Any

import uvloop

from tests.chaos.actors import first_order, in_background, orders, tell

SWALLOWING = {"hold", "deaf"}


class Link:
    """One listening port and where it leads."""

    def __init__(self, upstream: list[Any]) -> None:
        self._upstream = upstream
        self._mode, self._seconds = "pass", 0.0
        self._changed = asyncio.Event()
        self._connections: set[Connection] = set()

    async def listen(self) -> int:
        """Open the port and return it."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def turn(self, mode: str, seconds: float) -> None:
        """Be otherwise from now on."""
        self._mode, self._seconds = mode, seconds
        for connection in list(self._connections):
            if mode == "cut" or (connection.torn and mode not in SWALLOWING):
                connection.abort()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        self._connections.add(connection)
        try:
            if self._mode == "cut":
                return
            if self._mode == "hold":
                connection.torn = True
                await self._changed.wait()
                return
            kind, *where = self._upstream
            opened = asyncio.open_unix_connection(*where) if kind == "unix" else asyncio.open_connection(*where)
            far_reader, far_writer = await opened
            connection.writers.append(far_writer)
            await self._both(connection, (reader, far_writer), (far_reader, writer))
        except OSError:
            pass
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _both(self, connection: Connection, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        up, down = (asyncio.create_task(self._pump(connection, *way, way is ways[1])) for way in ways)
        connection.tasks += [up, down]
        _, pending = await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await asyncio.gather(up, down)

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool
    ) -> None:
        while piece := await reader.read(1 << 16):
            while self._mode == "stall":
                await self._changed.wait()
            if self._mode == "delay":
                await asyncio.sleep(self._seconds)
            if self._mode == "hold" or (self._mode == "deaf" and back):
                connection.torn = True
            if not connection.torn:
                writer.write(piece)
                await writer.drain()


class Connection:
    """One connection through a link: both of its ends."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.writers = [near]
        self.tasks: list[asyncio.Task[None]] = []
        self.torn = False

    def abort(self) -> None:
        """Break it off, without a goodbye."""
        for writer in self.writers:
            writer.transport.abort()
        for task in self.tasks:
            task.cancel()


async def _main() -> None:
    links = {name: Link(upstream) for name, upstream in first_order()["links"].items()}
    tell(ports={name: await link.listen() for name, link in links.items()})
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        for order in orders():
            loop.call_soon_threadsafe(links[order["link"]].turn, order["mode"], order.get("seconds", 0.0))
        loop.call_soon_threadsafe(ended.set)

    in_background(listen)
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(_main())
    sys.exit(0)
