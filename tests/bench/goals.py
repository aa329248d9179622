"""The figures that the project holds itself to, and how a run is reported: on the screen, as JSON, as a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Goal:
    """One figure: what it says, its name in bench.json, and what it must be, at least or at most."""

    text: str
    name: str
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        """The bound, for people."""
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"

    def met(self, value: float) -> bool:
        """Whether *value* is good enough."""
        if self.least is not None:
            return value >= self.least
        assert self.most is not None
        return value <= self.most


GOALS = (
    Goal("Authorize ÷ an empty RPC, throughput", "authorize_per_empty_rpc", least=0.75),
    Goal("Authorize ÷ Cerbos CheckResources, throughput on one core", "authorize_per_cerbos", least=1.3),
    Goal("the same, p99", "authorize_p99_per_cerbos_p99", most=0.6),
    Goal("Authorize on the native transport ÷ Cerbos, throughput", "native_authorize_per_cerbos", least=4),
    Goal("decisions by BatchAuthorize(100) ÷ unary, throughput", "batch_decision_per_authorize", least=10),
    Goal("Authorize with two limits and usage ÷ without, throughput", "limited_and_counted_per_uncounted", least=0.9),
    Goal("client cache hit, µs", "client_cache_hit_us", most=15),
    Goal("RPC ÷ client cache hit, time", "rpc_per_client_cache_hit", least=30),
    Goal("p50 with 1,000,000 keys ÷ with 1,000", "p50_million_keys_per_thousand", most=1.2),
    Goal("cold lookup ÷ warm, p50, SQLite", "cold_p50_per_warm", most=2.5),
    Goal("CPU of a request with 2 workers ÷ with 1", "cpu_per_request_2_workers_per_1", most=1.15),
    Goal("RevokeKey with wait, p99, ms", "revoke_key_ms_p99", most=300),
    Goal("memory of a cached key, bytes", "bytes_per_cached_key", most=4096),
    Goal("start to first answer with 1,000,000 keys, s", "start_seconds_million_keys", most=2),
)
"""Design section 12, and what counting may cost; stale ALLOWs are counted by `make chaos`, under faults."""


def verdicts(found: dict[str, float], missing: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """For each goal: what it says, what is wanted, what was measured, and whether that is enough."""
    rows = []
    for goal in GOALS:
        if goal.name in found:
            value = found[goal.name]
            rows.append((goal.text, goal.wanted, f"{value:.3g}", "met" if goal.met(value) else "**not met**"))
        else:
            rows.append((goal.text, goal.wanted, "not there", missing.get(goal.name, "not part of this run")))
    return rows


def table(rows: list[tuple[str, str, str, str]], facts: dict[str, str]) -> str:
    """Return the verdicts as Markdown, with what must be known about the run."""
    lines = ["| figure | goal | measured | |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    return "\n".join([*lines, "", f"One run of `make bench`, all over loopback: {told}.", ""])


def report(found: dict[str, float], missing: dict[str, str], facts: dict[str, str], build: Path) -> None:
    """Print everything, and write build/bench.json and build/bench.md."""
    width = max(map(len, found))
    for name, value in found.items():
        print(f"  {name:<{width}}  {value:10.3f}")
    for name, why in missing.items():
        print(f"  {name:<{width}}  not there: {why}")
    print()
    rows = verdicts(found, missing)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for text, wanted, measured, verdict in rows:
        print(f"  {text:<{widths[0]}}  {wanted:<{widths[1]}}  {measured:>{widths[2]}}  {verdict.strip('*')}")
    print("  stale ALLOWs after RevokeKey returned: 0 is wanted; `make chaos` counts them")
    build.mkdir(parents=True, exist_ok=True)
    flat = facts | {name: round(value, 4) for name, value in found.items()}
    flat |= {f"{name}_missing": why for name, why in missing.items()}
    (build / "bench.json").write_text(json.dumps(flat, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (build / "bench.md").write_text(table(rows, facts), "utf-8")
    print(f"written to {build / 'bench.json'} and {build / 'bench.md'}")
