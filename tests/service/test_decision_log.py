"""The decision log's targets, its sample, and what it refuses; the store's part is tests/wire/test_usage.py."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorward_server.core.errors import Overloaded, StoreUnavailable
from doorward_server.core.sections import DecisionLog
from doorward_server.core.usage import DecisionRecord, Scope
from doorward_server.service import decision_log
from doorward_server.service.decision_log import LogFile, Recorder, line_of
from doorward_server.service.pool import Pool
from doorward_server.store import Store
from tests import databases

RECORD = DecisionRecord(
    1_800_000_000_123_456,
    "d1",
    "acme",
    "aiia",
    "k1",
    "alice",
    "flows:read",
    "flows/\n1",
    "ALLOWED",
    "192.0.2.1",
    "x/k9",
)
ALL = DecisionLog(everything=True, targets=("store", "file", "stdout"))


def record(number: int, reason: str = "ALLOWED") -> DecisionRecord:
    return replace(RECORD, id=f"d{number}", reason=reason)


class Bench:
    """A recorder on a real store and file, with a standard output that is kept, and dice that a test throws."""

    def __init__(self, url: str, folder: Path) -> None:
        self.store: Store = databases.open_store(url)
        self.file = LogFile(folder / "decisions.jsonl")
        self.path = folder / "decisions.jsonl"
        self.out: list[bytes] = []
        self.chances: list[float] = []
        self.pool = Pool("recording", threads=1, backlog=64)
        self.printing = Pool("printing", threads=1, backlog=64)
        self.sampling = Pool("sampling", threads=1, backlog=8)
        pools = self.pool, self.printing, self.sampling
        self.recorder = Recorder(self.store, self.file, self.out.append, *pools, lambda: self.chances.pop(0))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with databases.fresh("sqlite", tmp_path) as url:
        bench = Bench(url, tmp_path)
        yield bench
        bench.pool.close()
        bench.printing.close()
        bench.sampling.close()
        bench.store.close()


def test_a_line_is_one_object_on_one_line() -> None:
    line = line_of(RECORD)
    assert line.count(b"\n") == 1
    told = json.loads(line)
    assert told["at"] == "2027-01-15T08:00:00.123456Z"
    assert told["resource"] == "flows/\n1"
    assert told["event"] == "decision"


def test_all_goes_everywhere_before_the_answer(bench: Bench) -> None:
    async def many() -> None:
        await asyncio.gather(*(bench.recorder.record([record(i)], ALL) for i in range(1200)))

    asyncio.run(many())
    ids = {f"d{i}" for i in range(1200)}
    assert {it["id"] for it in bench.lines()} == ids
    assert {json.loads(line)["id"] for line in b"".join(bench.out).splitlines()} == ids
    assert {it.id for it in bench.store.usage.list_decisions(Scope("acme", 0, 2**60), None, 5000)} == ids


@pytest.mark.parametrize("target", ["store", "file", "stdout"])
def test_a_target_that_fails_is_told_to_all_who_wait_and_to_nobody_after(
    bench: Bench, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreUnavailable

    async def several() -> list[object]:
        waiting = (bench.recorder.record([record(i)], ALL) for i in range(5))
        return list(await asyncio.gather(*waiting, return_exceptions=True))

    if target == "store":
        monkeypatch.setattr(bench.store.usage, "record", full)
    else:
        monkeypatch.setitem(bench.recorder._targets, target, full)
    assert [type(it) for it in asyncio.run(several())] == [StoreUnavailable] * 5
    monkeypatch.undo()
    assert asyncio.run(several()) == [None] * 5


def test_more_than_can_wait_is_refused_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "MOST_WAITING", 3)
    go_on, blocked = threading.Event(), threading.Event()

    def slow(_: bytes) -> None:
        blocked.set()
        assert go_on.wait(60)

    async def several() -> list[object]:
        tasks = [asyncio.create_task(bench.recorder.record([record(0)], ALL))]
        await asyncio.to_thread(blocked.wait, 60)
        tasks += [asyncio.create_task(bench.recorder.record([record(i)], ALL)) for i in range(1, 6)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        go_on.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    monkeypatch.setitem(bench.recorder._targets, "stdout", slow)
    assert [type(it) for it in asyncio.run(several())] == [type(None)] * 3 + [Overloaded] * 3


def test_an_output_that_nobody_reads_holds_up_nobody_who_records_elsewhere(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    printed, stored = replace(ALL, targets=("stdout",)), replace(ALL, targets=("store",))

    async def both() -> None:
        stuck = asyncio.create_task(bench.recorder.record([record(0)], printed))
        await asyncio.sleep(0)
        await asyncio.wait_for(bench.recorder.record([record(1)], stored), 60)
        assert not stuck.done()
        go_on.set()
        await stuck

    monkeypatch.setitem(bench.recorder._targets, "stdout", lambda _: go_on.wait(60))
    asyncio.run(both())


def test_a_sample_has_each_denial_and_as_many_allows_as_the_dice_say(bench: Bench) -> None:
    log = DecisionLog(sample=0.5, targets=("file",))
    bench.chances = [0.49, 0.5]
    records = [record(1), record(2, "KEY_EXPIRED"), record(3)]

    async def told() -> None:
        await bench.recorder.record(records, log)
        assert not bench.path.exists()
        await bench.recorder.flush()

    asyncio.run(told())
    assert [it["id"] for it in bench.lines()] == ["d1", "d2"]
    assert bench.out == []


def test_a_sample_that_cannot_be_written_stays_up_to_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "MOST_WAITING", 2)
    log = DecisionLog(targets=("file",))
    bench.path.mkdir()

    async def told() -> None:
        await bench.recorder.record([record(i, "KEY_EXPIRED") for i in range(3)], log)
        with pytest.raises(StoreUnavailable, match=r"decision log .* cannot be written"):
            await bench.recorder.flush()
        bench.path.rmdir()
        await bench.recorder.flush()

    asyncio.run(told())
    assert [it["id"] for it in bench.lines()] == ["d0", "d1"]
    assert bench.recorder.dropped == 1


# --- the file ---------------------------------------------------------------------------------------------------------


def test_whoever_moves_the_file_away_gets_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(path)
    file.write(b"one\n")
    path.rename(tmp_path / "log.1")
    file.write(b"two\n")
    path.unlink()
    file.write(b"three\n")
    file.close()
    file.write(b"four\n")
    assert (tmp_path / "log.1").read_bytes() == b"one\n"
    assert path.read_bytes() == b"three\nfour\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_written_before_the_file_was_moved_away_is_synced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is the name of the new one: a file without one is gone after a loss of power."""
    synced = set[int]()
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, lambda handle: synced.add(os.fstat(handle).st_ino))
    path, moved = tmp_path / "log", tmp_path / "log.1"
    file = LogFile(path)
    file.write(b"one\n")
    path.rename(moved)
    file.write(b"two\n")  # by another thread, before the first has synced its line
    file.sync()
    assert synced == {it.stat().st_ino for it in (moved, path, tmp_path)}
    synced.clear()
    file.write(b"three\n")
    file.sync()
    assert synced == {path.stat().st_ino}


def test_a_line_that_was_torn_does_not_tear_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, original, calls = LogFile(tmp_path / "log"), os.write, [0]

    def full(handle: int, text: bytes) -> int:
        calls[0] += 1
        if calls[0] == 1:
            return original(handle, text[:2])
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        return original(handle, text)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreUnavailable, match="No space left on device"):
        file.write(b"lost\n")
    file.write(b"kept\n")
    assert (tmp_path / "log").read_bytes() == b"lo\nkept\n"


WRITER = """
import sys
from pathlib import Path
from doorward_server.service.decision_log import LogFile
file = LogFile(Path(sys.argv[1]))
for i in range(300):
    file.write(b"".join(b"%s %d %s\\n" % (sys.argv[2].encode(), i * 3 + j, b"x" * 3000) for j in range(3)))
"""


def test_processes_that_share_the_file_tear_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = path.read_bytes().splitlines()
    assert sorted(lines) == sorted(b"%s %d %s" % (n.encode(), i, b"x" * 3000) for n in "abc" for i in range(900))


# --- standard output --------------------------------------------------------------------------------------------------


def test_a_standard_output_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(decision_log, "_STDOUT", writing)
    monkeypatch.setattr(decision_log, "PATIENCE", 0.05)
    lines = [b"%d %s\n" % (i, b"x" * 3000) for i in range(3)]
    decision_log.to_stdout(b"".join(lines))
    assert os.read(reading, 100_000) == b"".join(lines)
    with pytest.raises(StoreUnavailable, match="nobody reads it"):
        decision_log.to_stdout(b"".join(lines) * 100)
    held = os.read(reading, 1 << 20)
    assert held.endswith(b"x\n")  # whole lines only
    os.close(reading)
    with pytest.raises(StoreUnavailable, match="standard output"):
        decision_log.to_stdout(b"x\n")
    os.close(writing)
