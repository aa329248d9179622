"""One chaos run: a fleet of replicas over one store, callers, mutators and faults; then the checker's verdict."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import doorward
from doorward.v1 import authz_pb2
from tests.chaos import history
from tests.chaos.checker import check
from tests.chaos.faults import CALLERS, DATABASE, Faults
from tests.chaos.fleet import TIMEOUT, Program, Replica
from tests.chaos.report import Report, spread
from tests.chaos.stores import Database, Postgresql, database

CLIENTS, MUTATORS, REPLICAS = 8, 3, 3
BACKENDS = ("sqlite", "postgresql")
KNOWN = 0.9
"""So much, at least, of what the mutators call changed turns out to be of known outcome when the records are read."""


@dataclass(frozen=True)
class Settings:
    """How long and how hard. A run goes on for `seconds`, then until it has done enough, but not beyond `longest`."""

    seconds: float
    questions: int
    longest: float
    seed: int
    changes: int = 30
    faults: int = 8
    pace: float = 0.01
    """Seconds that a caller rests between two questions, at most."""
    plant: str = ""
    with_faults: bool = True
    only: tuple[str, ...] = ()
    """Kinds of faults; none: all."""

    def lacking(self, report: Report) -> list[str]:
        """Say where a run did less than these settings ask for."""
        return report.lacking(self.questions, self.changes, self.faults if self.with_faults else 0)


@dataclass
class Fleet:
    """Everything that runs."""

    folder: Path
    replicas: list[Replica]
    proxy: Program
    ports: Mapping[str, int]
    key: str = ""
    programs: list[Program] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    """Answers from caches in callers."""
    changed: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def near(self) -> list[tuple[str, int]]:
        """Every replica, as it listens."""
        return [(it.name, it.port) for it in self.replicas]

    @property
    def far(self) -> list[tuple[str, int]]:
        """Every replica, behind its link."""
        return [(it.name, self.ports[f"{CALLERS} {it.name}"]) for it in self.replicas]

    def add(self, module: str, first: Mapping[str, Any]) -> Program:
        """Start a program, and pass on what it says."""
        told = {**first, "key": self.key, "history": str(self.folder / f"{first['name']}.jsonl")}
        program = Program(module, told, self.folder)
        self.programs.append(program)
        threading.Thread(target=self._relay, args=(program,), daemon=True).start()
        return program

    def kill(self) -> None:
        """See that no program of ours goes on."""
        for program in self.programs:
            program.kill()

    def _relay(self, program: Program) -> None:
        for said in program.said():
            if "asked" in said:
                self.asked[program.name] = said["asked"]
                self.hits[program.name] = said["hits"]
            elif "changed" in said:
                self.changed[program.name] = said["changed"]
            elif "counts" in said:
                self.counts.update(said["counts"])
            else:
                for client in self.programs[:CLIENTS]:
                    client.tell(said)


def run(backend: str, settings: Settings) -> Report:
    """Run once on a new store."""
    with tempfile.TemporaryDirectory(prefix="doorward-chaos-", ignore_cleanup_errors=True) as path:
        folder = Path(path)
        with database(backend, folder) as store, _fleet(folder, store, settings) as fleet:
            started = time.monotonic()
            faults = _work(fleet, store, settings)
            seconds = time.monotonic() - started
            versions = store.version
        read = history.read(sorted(folder.glob("*.jsonl")))
        return _report(versions, settings, read, fleet, faults, seconds)


def _work(fleet: Fleet, store: Database, settings: Settings) -> Faults:
    consistency = "consistency" in authz_pb2.AuthorizeRequest.DESCRIPTOR.fields_by_name
    common = {"targets": fleet.near, "pace": settings.pace}
    for number in range(CLIENTS):
        far = {"targets": fleet.far} if number % 4 == 3 else {}
        first = {"name": f"client{number}", "seed": settings.seed * 100 + number, "full": consistency}
        first |= {"cache": number % 2 == 1, "plant": settings.plant}
        fleet.add("tests.chaos.client", {**common, **first, **far})
    for number in range(MUTATORS):
        first = {"name": f"m{number}", "seed": settings.seed * 100 + 50 + number, "fresh": consistency}
        hands = {"store": store.url, "by_hand": number == 0, "far": fleet.far if number == 1 else []}
        fleet.add("tests.chaos.mutator", {**common, **first, **hands, "pace": 0.1})
    faults = Faults(fleet.replicas, store, fleet.proxy, settings.seed, settings.only)
    if settings.with_faults:
        faults.start()
    _until(fleet, faults, settings)
    faults.stop()
    for mutator in fleet.programs[CLIENTS:]:
        mutator.end()
    time.sleep(1.5)  # callers go on: nothing rises from the dead once all is quiet
    for client in fleet.programs[:CLIENTS]:
        client.end()
    return faults


def _until(fleet: Fleet, faults: Faults, settings: Settings) -> None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < settings.longest and not faults.failed:
        changed = fleet.changed.total() * KNOWN
        enough = fleet.asked.total() >= settings.questions and changed >= settings.changes
        if (
            passed > settings.seconds
            and enough
            and (faults.counts.total() >= settings.faults or not settings.with_faults)
        ):
            return
        ended = [it.name for it in fleet.programs if it.process.poll() is not None]
        assert not ended, f"{ended} ended: {[(fleet.folder / f'{it}.log').read_text()[-2000:] for it in ended]}"
        time.sleep(0.2)


@contextmanager
def _fleet(folder: Path, store: Database, settings: Settings) -> Iterator[Fleet]:
    """Start the proxy and the replicas; stop everything at the end."""
    names = [f"r{number}" for number in range(REPLICAS)]
    replicas = [Replica(name, {}, folder, plant=settings.plant) for name in names]
    links: dict[str, Any] = {f"{CALLERS} {it.name}": ["tcp", "127.0.0.1", it.port] for it in replicas}
    if isinstance(store, Postgresql):
        links |= {f"{DATABASE} {name}": store.link for name in names}
    with ExitStack() as stack:
        proxy = Program("tests.chaos.proxy", {"links": links}, folder)
        stack.callback(proxy.kill)
        ports = next(proxy.said())["ports"]
        for replica in replicas:
            port = ports.get(f"{DATABASE} {replica.name}")
            replica.settings = _environment(folder, store.through(port) if isinstance(store, Postgresql) else store.url)
            stack.callback(replica.stop)
        replicas[0].start()
        fleet = Fleet(folder, replicas, proxy, ports)
        stack.callback(fleet.kill)
        fleet.key = _key(folder, replicas[0])
        starting = [threading.Thread(target=it.keep_starting) for it in replicas[1:]]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        yield fleet


def _environment(folder: Path, url: str) -> dict[str, str]:
    own = {"store": url, "state_dir": str(folder / "var"), "metrics_listen": "", "drain_seconds": "2"}
    return {f"DOORWARD_{name.upper()}": value for name, value in own.items()}


def _key(folder: Path, replica: Replica) -> str:
    """Return a key that may do everything, which callers and mutators share."""
    root = (folder / "var" / "root-key").read_text("utf-8").strip()
    with doorward.Client(f"127.0.0.1:{replica.port}", root) as client:
        client.wait_until_ready(TIMEOUT)
        made = client.create_key(keyspace="doorward", name="chaos", scopes=["root"], timeout=TIMEOUT)
    assert made.secret is not None
    return made.secret.reveal()


def _report(
    store: str, settings: Settings, read: history.History, fleet: Fleet, faults: Faults, seconds: float
) -> Report:
    known = Counter(it.kind for it in read.changes if it.end is not None and it.kind != "initial")
    fell = [problem for replica in fleet.replicas for problem in replica.fell]
    defects = [f"{it.name} logged {it.events['defect']} defects" for it in fleet.replicas if it.events["defect"]]
    waits: dict[str, list[int]] = {}
    for outcome, nanoseconds in read.waits:
        waits.setdefault(outcome, []).append(nanoseconds)
    return Report(
        store=store,
        seed=settings.seed,
        verdict=check(read),
        seconds=seconds,
        allowed=sum(it.allowed for it in read.questions),
        unanswered=read.unanswered,
        hits=fleet.hits.total(),
        full=sum(it.consistency != history.DEFAULT for it in read.questions),
        changes=dict(sorted(known.items())),
        unknown=sum(it.end is None for it in read.changes),
        manners=dict(sorted(fleet.counts.items())),
        faults=dict(sorted(faults.counts.items())),
        waits={outcome: spread(times) for outcome, times in sorted(waits.items())},
        problems=[*faults.failed, *fell, *defects],
    )
