"""Several worker processes on one port: started, watched, started again when they die, drained together.

Each worker is a whole Doorward, a replica of its own: the kernel spreads connections over them (SO_REUSEPORT), and the
freshness protocol keeps them in step as it does replicas on other hosts. The supervisor serves no call and opens no
store. A socket pair to each worker carries two things: lines about it, and, by its end, that the other side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from doorward_server.config import split_address

STEADY = 10.0
"""Seconds after which a worker that dies is replaced at once; one that dies sooner waits, each time twice as long."""
SHORTEST_WAIT, LONGEST_WAIT = 0.5, 10.0
LAST_WORDS = 15.0
"""Seconds that a worker has, beyond the drain, before it is killed."""
SCRAPE_TIMEOUT = 2.0
_LINE = 16 * 1024 * 1024
log = structlog.get_logger("doorward")


class PortTaken(Exception):
    """Somebody listens there, or the address is not this machine's."""


def reserve(listen: str) -> tuple[socket.socket, str]:
    """Take the port of "host:port", for workers of this process only; return what holds it, and the address.

    With SO_REUSEPORT alone a second Doorward would quietly get half of the calls. Raises PortTaken.
    """
    host, port = split_address(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        holder = socket.socket(family, kind, protocol)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)  # never listens, so it gets no connection
    except OSError as error:
        raise PortTaken(f"Cannot listen on {listen}: {error.strerror}.") from None
    return holder, f"{listen.rpartition(':')[0]}:{address[1]}"


@dataclass(slots=True)
class Worker:
    """One process and the line to it."""

    number: int
    process: Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    started: float
    serving: bool = False
    dumps: asyncio.Queue[str] = field(default_factory=asyncio.Queue)


class Supervisor:
    """Keeps *count* workers running until it is told to stop. Belongs to one event loop, whose signals it takes."""

    def __init__(self, count: int, command: Callable[[int, int], list[str]], drain_seconds: float) -> None:
        """*command* returns a worker's command line, for its number and the file descriptor of the line to it."""
        self._count = count
        self._command = command
        self._patience = drain_seconds + LAST_WORDS
        self._workers: dict[int, Worker] = {}
        self._stopping = asyncio.Event()
        self._failed = 0
        self.ready = asyncio.Event()
        """Set once all workers have served, for the first time."""
        self.on_end: Callable[[int], None] = lambda number: None
        """Called with a worker's number when its process is gone."""

    def stop(self) -> None:
        """Drain all workers; `run` returns when they are gone."""
        self._stopping.set()

    async def run(self) -> int:
        """Run until `stop`, or until a worker cannot even start for the first time: then return its exit status."""
        keepers = [asyncio.create_task(self._keep(number)) for number in range(self._count)]
        await asyncio.gather(*keepers)
        return self._failed

    async def scrape(self) -> dict[int, str]:
        """Return what each serving worker has counted; one that does not answer in time is left out."""
        answers = await asyncio.gather(*(self._ask(worker) for worker in list(self._workers.values())))
        return {number: dumped for number, dumped in answers if dumped}

    async def _ask(self, worker: Worker) -> tuple[int, str]:
        with contextlib.suppress(TimeoutError, ConnectionError):
            while not worker.dumps.empty():  # of a scrape that gave up
                worker.dumps.get_nowait()
            worker.writer.write(b"dump\n")
            async with asyncio.timeout(SCRAPE_TIMEOUT):
                return worker.number, await worker.dumps.get()
        return worker.number, ""

    async def _keep(self, number: int) -> None:
        loop, wait = asyncio.get_running_loop(), SHORTEST_WAIT
        while not self._stopping.is_set():
            worker = await self._start(number)
            status = await self._watch(worker)
            if self._stopping.is_set():
                return
            if not worker.serving and not self.ready.is_set():
                self._failed = status or 1  # what is wrong is wrong for all of them, and it has said what
                self._stopping.set()
                return
            steady = loop.time() - worker.started >= STEADY
            wait = SHORTEST_WAIT if steady else min(wait * 2, LONGEST_WAIT)
            log.error(
                "a worker died; another takes its place", worker=number, status=status, wait=0 if steady else wait
            )
            if not steady:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._stopping.wait()

    async def _start(self, number: int) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command(number, theirs.fileno()), pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LINE)
        worker = Worker(number, process, reader, writer, asyncio.get_running_loop().time())
        self._workers[number] = worker
        return worker

    async def _watch(self, worker: Worker) -> int:
        """Listen to *worker* until its process is gone, and return its exit status."""
        listening = asyncio.create_task(self._listen(worker))
        ended = asyncio.create_task(worker.process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end(worker, ended)
            return await ended
        finally:
            for task in (listening, stopping):
                task.cancel()
            worker.writer.close()
            del self._workers[worker.number]
            self.on_end(worker.number)

    async def _end(self, worker: Worker, ended: asyncio.Task[int]) -> None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(signal.SIGTERM)
            done, _ = await asyncio.wait((ended,), timeout=self._patience)
            if not done:
                log.error("a worker did not drain in time and is killed", worker=worker.number)
                worker.process.kill()

    async def _listen(self, worker: Worker) -> None:
        while line := await worker.reader.readline():
            kind, _, rest = line.decode().rstrip("\n").partition(" ")
            if kind == "dump":
                worker.dumps.put_nowait(rest)
            elif kind == "serving":
                worker.serving = True
                if len(self._workers) == self._count and all(it.serving for it in self._workers.values()):
                    self.ready.set()


class Line:
    """A worker's side of the line to its supervisor. Belongs to one event loop."""

    def __init__(self, descriptor: int, dump: Callable[[], str]) -> None:
        """*dump* returns what the worker has counted, in one line of text."""
        self._socket = socket.socket(fileno=descriptor)
        self._dump = dump

    async def follow(self, serving: asyncio.Event) -> None:
        """Say when *serving* is set, answer each question, and return when the supervisor is gone."""
        reader, writer = await asyncio.open_unix_connection(sock=self._socket, limit=_LINE)
        saying = asyncio.create_task(_say_when(serving, writer))
        try:
            while await reader.readline():
                writer.write(f"dump {self._dump()}\n".encode())
        except ConnectionError:
            pass
        finally:
            saying.cancel()
            writer.close()


async def _say_when(serving: asyncio.Event, writer: asyncio.StreamWriter) -> None:
    await serving.wait()
    writer.write(b"serving\n")


def worker_command(address: str, demo: str, transport: str) -> Callable[[int, int], list[str]]:
    """Return the command lines of workers at *address*; the first one furnishes the store from the folder *demo*."""

    def command(number: int, descriptor: int) -> list[str]:
        line = [sys.executable, "-m", "doorward_server", "worker", str(descriptor), "--listen", address]
        line += ["--transport", transport]
        return [*line, "--demo", demo] if demo and number == 0 else line

    return command
