"""The decision log: one record for each decision that a keyspace wants recorded, under its owner's identity.

`record: all`: the record is kept, everywhere that the keyspace names, before the answer leaves; where it cannot be kept
there is no answer. A kill can leave a record of an answer that never left, but no answer without a record. Records that
come at the same time share a write. `record: sampled`: every denial, and a sample of what was allowed, written with the
next flush.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from doorward_server.core.errors import Overloaded, StoreUnavailable
from doorward_server.core.reasons import Reason
from doorward_server.core.sections import DecisionLog
from doorward_server.core.usage import DecisionRecord
from doorward_server.service.pool import Pool
from doorward_server.store import Store

MOST_WAITING = 10_000
"""Answers that wait at most for records that go to the same places, and sampled records until the next flush."""
BATCH = 500
PATIENCE = 5.0
"""Seconds for which a full standard output is waited for."""
_STDOUT = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Write = Callable[[bytes], object]
Targets = frozenset[str]
"""Where records go, in any order."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and where it goes: `store`, `file`, `stdout`."""

    record: DecisionRecord
    targets: tuple[str, ...]


class Recorder:
    """Keeps records. Belongs to the event loop.

    *writes*, *prints* for what also goes to standard output, which nobody may read, with a thread for each such set of
    places, and *sampling*, of one thread, for what no answer waits for, are pools of their own.
    """

    def __init__(
        self,
        store: Store,
        file: LogFile,
        stdout: Write,
        writes: Pool,
        prints: Pool,
        sampling: Pool,
        chance: Callable[[], float],
    ) -> None:
        self.dropped = 0
        """Sampled records that there was no room for."""
        self._store = store
        self._targets: dict[str, Write] = {"file": file.write, "stdout": stdout}
        self._sync = file.sync
        self._writes = writes
        self._prints = prints
        self._sampling = sampling
        self._chance = chance
        self._waiting: dict[Targets, deque[tuple[list[Entry], asyncio.Future[None]]]] = {}
        self._count: Counter[Targets] = Counter()
        self._writing: dict[Targets, asyncio.Task[None]] = {}
        self._sampled: list[Entry] = []

    async def record(self, records: Sequence[DecisionRecord], log: DecisionLog) -> None:
        """Take note of decisions that are about to be handed out.

        Where all are recorded, return when they are kept: raises StoreUnavailable and Overloaded if they are not.
        """
        if log.everything:
            await self._keep([Entry(record, log.targets) for record in records])
        else:
            self._sample(records, log)

    async def flush(self) -> None:
        """Write what was sampled. What cannot be written stays. Raises StoreUnavailable, Overloaded."""
        taken, self._sampled = self._sampled, []
        try:
            # One kind of target after the other: what one has is not written to it again because another one fails.
            for target in self._targets:
                part = [Entry(it.record, (target,)) for it in taken if target in it.targets]
                if part:
                    await self._sampling.run(self._write, part)
                taken = [it for it in (_without(target, it) for it in taken) if it.targets]
        except BaseException:
            self._put_back(taken)
            raise

    def _put_back(self, entries: list[Entry]) -> None:
        kept = entries + self._sampled
        self.dropped += max(0, len(kept) - MOST_WAITING)
        self._sampled = kept[:MOST_WAITING]

    def _sample(self, records: Sequence[DecisionRecord], log: DecisionLog) -> None:
        for record in records:
            if record.reason == Reason.ALLOWED and not (log.sample and self._chance() < log.sample):
                continue
            if len(self._sampled) >= MOST_WAITING:
                self.dropped += 1
            else:
                self._sampled.append(Entry(record, log.targets))

    async def _keep(self, entries: list[Entry]) -> None:
        # Only what goes to the same places shares a write: one that fails, or hangs, is nothing to the others.
        targets = frozenset(entries[0].targets)
        if self._count[targets] >= MOST_WAITING:
            raise Overloaded
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count[targets] += 1
        kept.add_done_callback(lambda _: self._left(targets))
        self._waiting.setdefault(targets, deque()).append((entries, kept))
        if targets not in self._writing:
            self._writing[targets] = asyncio.create_task(self._keep_all(targets))
        await kept

    def _left(self, targets: Targets) -> None:
        self._count[targets] -= 1

    async def _keep_all(self, targets: Targets) -> None:
        waiting, pool = self._waiting[targets], self._prints if "stdout" in targets else self._writes
        while waiting:
            batch = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
            batch = [it for it in batch if not it[1].done()]  # who has given up is told nothing
            if not batch:
                continue
            failure: Exception | None = None
            try:
                await pool.run(self._write, [entry for entries, _ in batch for entry in entries], sync=True)
            except Exception as problem:  # noqa: BLE001  # it is for those who wait
                failure = problem
            for _, kept in batch:
                if kept.done():
                    continue
                if failure is None:
                    kept.set_result(None)
                else:
                    kept.set_exception(failure)
        del self._writing[targets], self._waiting[targets]

    def _write(self, entries: Sequence[Entry], sync: bool = False) -> None:
        for target, write in self._targets.items():
            lines = [line_of(entry.record) for entry in entries if target in entry.targets]
            if lines:
                write(b"".join(lines))
                if sync and target == "file":
                    self._sync()
        records = [entry.record for entry in entries if "store" in entry.targets]
        for start in range(0, len(records), BATCH):
            self._store.usage.record(records[start : start + BATCH])


def _without(target: str, entry: Entry) -> Entry:
    return Entry(entry.record, tuple(it for it in entry.targets if it != target))


def line_of(record: DecisionRecord) -> bytes:
    """Return a record as a line of JSON."""
    at = (_EPOCH + timedelta(microseconds=record.at)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    told = {"event": "decision", **asdict(record), "at": at}
    return json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


class LogFile:
    """A file that lines are added to, by any number of processes; whoever moves it away gets a new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._lock = threading.Lock()
        self._torn = False
        self._named = True
        """Whether the file's name outlives the machine as well."""

    def write(self, lines: bytes) -> None:
        """Add *lines*, all in one piece. Raises StoreUnavailable."""
        with self._lock:
            try:
                handle = self._open()
                rest = b"\n" + lines if self._torn else lines
                self._torn = True  # until all of it is written, what follows begins a line of its own
                while rest:
                    rest = rest[os.write(handle, rest) :]
                self._torn = False
            except OSError as problem:
                raise self._failed(problem) from problem

    def sync(self) -> None:
        """Return when what was written outlives the machine. Raises StoreUnavailable."""
        with self._lock:
            try:
                if self._handle is not None:
                    os.fdatasync(self._handle)
                    self._keep_name()
            except OSError as problem:
                raise self._failed(problem) from problem

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _open(self) -> int:
        if self._handle is not None and not self._is_there(self._handle):
            moved, self._handle = self._handle, None
            try:
                os.fdatasync(moved)  # somebody may be about to `sync` what is in it
            finally:
                os.close(moved)
        if self._handle is None:
            self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._named = False
        return self._handle

    def _keep_name(self) -> None:
        if not self._named:
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._named = True

    def _is_there(self, handle: int) -> bool:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(handle))

    def _failed(self, problem: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"The decision log {self._path} cannot be written ({problem.strerror}), and its keyspace records all "
            "decisions: make room, or see to its permissions. Nothing was decided."
        )


def to_stdout(lines: bytes) -> None:
    """Write to this process's standard output. Raises StoreUnavailable, also if nobody reads it for a while."""
    try:
        for part in _in_parts(lines):
            while part:
                if not select.select([], [_STDOUT], [], PATIENCE)[1]:
                    raise TimeoutError(0, "nobody reads it")
                part = part[os.write(_STDOUT, part) :]  # what is left of it
    except OSError as problem:
        raise StoreUnavailable(
            f"The decision log cannot be written to standard output ({problem.strerror}). Nothing was decided."
        ) from problem


def _in_parts(lines: bytes) -> Iterator[bytes]:
    """Cut into whole lines of together at most what a pipe takes in one piece, so that workers can share it."""
    part = b""
    for line in lines.splitlines(keepends=True):
        if part and len(part) + len(line) > select.PIPE_BUF:
            yield part
            part = b""
        part += line
    yield part
