"""`make bench`: what Doorward costs on this machine, against an empty RPC, against itself and against other systems.

Real server processes on one core, load from h2load (or from `load.py`) on another, all rows in turn in every round, so
that whatever else the machine does hits all of them alike. Ratios of medians are what counts: they can be compared.
Those "by CPU" hold the CPU of the servers' processes against each other; a machine that does other things blurs them
less than throughput.
`--quick` takes less than a minute; `--also` adds floods of wrong proofs, imports and the timing of denials.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import costs, goals, latency, peers  # noqa: E402
from tests.bench.calls import Load, Row, go_round, measure  # noqa: E402
from tests.bench.machine import SERVERS, NotThere, Server, doorward, facts, nothing, pinned, root_of  # noqa: E402
from tests.bench.million import furnished  # noqa: E402
from tests.bench.proofs import Proofs, deciding, timing  # noqa: E402
from tests.bench.remembered import bytes_per_key  # noqa: E402
from tests.bench.waits import Waits  # noqa: E402
from tests.bench.world import World, rows, seeder  # noqa: E402

PARTS = ("stores", "in-process", "waits", "streams", "curves", "workers", "alone")
ALSO = ("floods", "imports", "timing")
"""Parts that take longer, and are done only where they are named."""
PER_AUTHORIZE = (
    "limited", "paid", "denied", "unknown_key", "malformed_key", "conditional", "stored_relation", "introspect"
)  # fmt: skip
"""Rows that are held against the plain one."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    keys: int = 1000
    rounds: int = 5
    seconds: float = 1.5
    """How long one row takes in one round, about."""
    many: int = 1_000_000
    lookups: int = 1000
    starts: int = 3
    streams: int = 1000
    beside: float = 4.0
    """Seconds of one measurement beside the streams."""
    revokes: int = 100
    remembered: int = 10_000
    checks: int = 20_000
    point: float = 2.0
    """Seconds of one point of the curves."""


FULL = Sizes()
QUICK = Sizes(keys=50, rounds=3, seconds=1.0)
TINY = Sizes(10, 1, 0.05, 300, 8, 1, 3, 0.2, 2, 60, 50, 0.05)


@dataclass
class Bench:
    """One run: its servers and what has been found so far."""

    sizes: Sizes
    folder: Path
    build: Path
    load: Load
    servers: dict[str, Server] = field(default_factory=dict)
    table: dict[str, Row] = field(default_factory=dict)
    found: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """Decisions (or calls that decide nothing) in a second."""
        row = self.table[name]
        return row.median(row.rates) * row.decisions

    def cost(self, name: str) -> float:
        """Seconds of CPU for one of those."""
        row = self.table[name]
        return row.median(row.costs) / row.decisions

    def do(self, what: str, work: Callable[[], dict[str, float]]) -> None:
        """Do one part and keep what it found, or why there is nothing."""
        began = time.monotonic()
        try:
            self.found |= work()
        except NotThere as why:
            self.missing[what] = str(why)
        print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def start(bench: Bench, stack: contextlib.ExitStack, *, with_peers: bool) -> World:
    """Start the servers that everything else is measured on, and fill their store."""
    small = bench.folder / "small"
    bench.servers["empty"] = stack.enter_context(nothing(bench.folder, "grpcio"))
    bench.servers["native_empty"] = stack.enter_context(nothing(bench.folder, "native"))
    bench.servers["doorward"] = stack.enter_context(doorward(small))
    with seeder(bench.servers["doorward"].target, root_of(small)) as seeding:
        world = seeding.seed(bench.sizes.keys)
    # Another process on the same store: a replica like any other.
    bench.servers["native"] = stack.enter_context(doorward(small, "--transport", "native"))
    bench.servers["uncounted"] = stack.enter_context(doorward(small, program="tests.bench.uncounted"))
    try:
        if not with_peers:
            raise NotThere("this run leaves peers out")
        bench.servers["cerbos"] = stack.enter_context(peers.cerbos(bench.folder))
    except NotThere as why:
        for name in ("authorize_per_cerbos", "authorize_p99_per_cerbos_p99", "native_authorize_per_cerbos"):
            bench.missing[name] = str(why)
    return world


def main_rows(bench: Bench, world: World, *, all_of_them: bool) -> dict[str, float]:
    """Go round, and return throughput and CPU against an empty RPC, and the kinds of questions against each other."""
    sizes, some = bench.sizes, rows(world, all_of_them=all_of_them)
    if "cerbos" in bench.servers:
        some.append(peers.cerbos_row())
    bench.table = {row.name: row for row in some}
    go_round(some, bench.servers, bench.load, sizes.rounds, sizes.seconds)
    found = {f"{row.name}_per_second": row.median(row.rates) for row in some}
    found |= {f"{row.name}_p99_ms": row.median(row.p99s) for row in some}
    found |= {f"{row.name}_cpu_us": row.median(row.costs) * 1e6 for row in some}
    found |= {
        "authorize_per_empty_rpc": bench.rate("authorize") / bench.rate("empty_rpc"),
        "authorize_per_empty_rpc_by_cpu": bench.cost("empty_rpc") / bench.cost("authorize"),
        "batch_decision_per_authorize": bench.rate("batch_authorize") / bench.rate("authorize"),
        "native_authorize_per_authorize": bench.rate("native_authorize") / bench.rate("authorize"),
        "native_authorize_per_native_empty_rpc": bench.rate("native_authorize") / bench.rate("native_empty_rpc"),
    }
    if "uncounted" in bench.table:
        found["limited_and_counted_per_uncounted"] = bench.rate("limited") / bench.rate("uncounted")
        found["limited_and_counted_per_uncounted_by_cpu"] = bench.cost("uncounted") / bench.cost("limited")
    for name in PER_AUTHORIZE:
        if name in bench.table:
            found[f"{name}_per_authorize"] = bench.rate(name) / bench.rate("authorize")
    each = [a / e for a, e in zip(bench.table["authorize"].rates, bench.table["empty_rpc"].rates, strict=True)]
    found |= {"authorize_per_empty_rpc_lowest": min(each), "authorize_per_empty_rpc_highest": max(each)}
    if "cerbos" in bench.table:
        authorize, cerbos = bench.table["authorize"], bench.table["cerbos"]
        found |= {
            "authorize_per_cerbos": bench.rate("authorize") / bench.rate("cerbos"),
            "authorize_p99_per_cerbos_p99": authorize.median(authorize.p99s) / cerbos.median(cerbos.p99s),
            "native_authorize_per_cerbos": bench.rate("native_authorize") / bench.rate("cerbos"),
            "authorize_per_cerbos_by_cpu": bench.cost("cerbos") / bench.cost("authorize"),
            "native_authorize_per_cerbos_by_cpu": bench.cost("cerbos") / bench.cost("native_authorize"),
        }
    return found


def stores(bench: Bench, world: World) -> dict[str, float]:
    """Few keys against many, cold against warm, and how long a start takes."""
    sizes = bench.sizes
    many = furnished(sizes.many, bench.build)
    found = costs.starts(many, sizes.starts)
    with doorward(many.folder) as large:
        return found | costs.lookups(bench.servers["doorward"], world, large, many, sizes.lookups)


def in_process(bench: Bench, *, with_peers: bool) -> dict[str, float]:
    """A decision inside the caller's process: a hit of the client's cache, and SpiceDB embedded."""
    found: dict[str, float] = {}
    if find_spec("tests.bench.hits"):
        from tests.bench.hits import measured  # type: ignore[import-not-found,unused-ignore]  # comes with the cache

        cost = measured()
        found |= {"client_cache_hit_us": cost.hit_us, "rpc_per_client_cache_hit": cost.ratio}
    else:
        for name in ("client_cache_hit_us", "rpc_per_client_cache_hit"):
            bench.missing[name] = "tests/bench/hits.py is not there"
    try:
        if not with_peers:
            raise NotThere("this run leaves peers out")
        found |= peers.spicedb(bench.sizes.checks)
    except NotThere as why:
        bench.missing["spicedb_check_us"] = str(why)
    return found


def curves(bench: Bench) -> dict[str, float]:
    """Measure and draw how latency grows with load."""
    if not bench.load.h2load:
        bench.missing["latency.svg"] = "only h2load can call at a given rate"
        return {}
    names = ["authorize", "native_authorize", "cerbos"]
    drawn = {
        name: latency.curve(bench.table[name], bench.servers[bench.table[name].server], bench.load, bench.sizes.point)
        for name in names
        if name in bench.table
    }
    latency.draw(drawn, "Authorize: time of a call by load, server on one core", bench.build / "latency.svg")
    half = {name: min(each, key=lambda it: abs(it.rate - each[-1].rate / 2)) for name, each in drawn.items()}
    return {f"{name}_p99_ms_at_half_load": point.p99 for name, point in half.items()}


def waits(bench: Bench) -> dict[str, float]:
    """How long RevokeKey takes until nobody answers from before it."""
    asked = Waits(bench.servers["doorward"].port, root_of(bench.folder / "small"))
    found = asked.revoked(bench.sizes.revokes)
    asked.close()
    return found


def also(bench: Bench, chosen: list[str]) -> dict[str, float]:
    """What a flood of wrong slow proofs leaves of Authorize, how fast keys are imported, and what denials tell."""
    server, row, found = bench.servers["doorward"], bench.table["authorize"], dict[str, float]()
    root = root_of(bench.folder / "small")

    def rate() -> float:
        return row.calls / measure(row, server, bench.load, row.calls, alone=False).seconds

    asked, flooded = Proofs(server.port, root), Waits(server.port, root)
    if "floods" in chosen:
        found |= asked.flooded(rate) | flooded.flooded(rate)
    if "imports" in chosen:
        found |= asked.imported(bench.rate("empty_rpc"))
    if "timing" in chosen:
        with pinned({SERVERS}):
            found |= timing()
    asked.close()
    flooded.close()
    return found


def alone(bench: Bench) -> dict[str, float]:
    """What needs no server: one decision, and the memory of one key."""
    with pinned({SERVERS}):
        size = bytes_per_key(bench.sizes.remembered, max(1, bench.sizes.remembered // 10))
        return {"bytes_per_cached_key": size} | (deciding() if bench.sizes is FULL else {})


def run(bench: Bench, parts: list[str], *, with_peers: bool) -> None:
    """Do the rows, which the rest is compared with, and all *parts*."""
    sizes, chosen = bench.sizes, [part for part in parts if part in ALSO]
    with contextlib.ExitStack() as stack:
        world = start(bench, stack, with_peers=with_peers)
        bench.do("rows", lambda: main_rows(bench, world, all_of_them=bool(parts)))
        server, row = bench.servers["doorward"], bench.table["authorize"]
        beside: dict[str, Callable[[], dict[str, float]]] = {
            "stores": lambda: stores(bench, world),
            "in-process": lambda: in_process(bench, with_peers=with_peers),
            "waits": lambda: waits(bench),
            "streams": lambda: costs.idle_streams(server, row, bench.load, bench.folder, sizes.streams, sizes.beside),
            "curves": lambda: curves(bench),
        }
        for part, work in beside.items():
            if part in parts:
                bench.do(part, work)
        if chosen:
            bench.do(", ".join(chosen), lambda: also(bench, chosen))
    if "workers" in parts:
        bench.do("workers", lambda: costs.workers(bench.folder, bench.load, sizes.rounds, sizes.seconds))
    if "alone" in parts:
        bench.do("alone", lambda: alone(bench))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the main rows, in less than a minute")
    parser.add_argument("--tiny", action="store_true", help="every part with so little that no figure means anything")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS + ALSO, help=f"besides the rows; default: {', '.join(PARTS)}"
    )
    parser.add_argument("--also", nargs="+", choices=ALSO, default=[], help="parts that take longer")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave other systems out")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where the results go")
    return parser.parse_args()


def main() -> None:
    """Measure. Exits with 1 if something was not served, or not decided, as it should have been."""
    began, arguments = time.monotonic(), parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives it
    sizes = TINY if arguments.tiny else QUICK if arguments.quick else FULL
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="doorward-bench-"))
        bench = Bench(sizes, Path(name), arguments.build, stack.enter_context(Load(Path(name))))
        parts = [] if arguments.quick else [*(arguments.parts or PARTS), *arguments.also]
        run(bench, parts, with_peers=arguments.peers)
        known = facts() | peers.versions() | {"load": bench.load.name}
    if not bench.load.h2load:
        print("h2load is missing (Debian: nghttp2-client); the load is made by Python, which slows cheap calls down.")
    goals.report(bench.found, bench.missing, known, arguments.build)
    print(f"{sizes.rounds} rounds, medians, {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
