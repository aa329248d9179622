"""`make chaos`: a long run on both stores, a table of what came of it, and build/chaos.json."""

from __future__ import annotations

import argparse
import json
import platform
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version

from tests.chaos.fleet import ROOT
from tests.chaos.report import Report, table, told
from tests.chaos.run import BACKENDS, Settings, run


def main() -> None:
    """Run on both stores. Exits with 1 at a violation, or if a run did too little."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=BACKENDS, action="append")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--longest", type=float, default=900)
    parser.add_argument("--questions", type=int, default=55_000)
    parser.add_argument("--plant", default="")
    parser.add_argument("--without-faults", action="store_true")
    given = parser.parse_args()
    settings = Settings(
        given.seconds, given.questions, given.longest, given.seed, changes=300, faults=30, pace=0.002,
        plant=given.plant, with_faults=not given.without_faults,
    )  # fmt: skip
    reports, lacking = [], []
    for backend in given.store or BACKENDS:
        report = run(backend, settings)
        reports.append(report)
        lacking += [f"{report.store}: {it}" for it in (*settings.lacking(report), *report.problems)]
        print(told(report), flush=True)
    print(table(reports), *lacking, sep="\n")
    _write(reports)
    sys.exit(1 if lacking or any(it.verdict.violations for it in reports) else 0)


def _write(reports: Sequence[Report]) -> None:
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    said = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "doorward": version("doorward"),
        "grpcio": version("grpcio"),
        "python": platform.python_version(),
        "runs": [asdict(it) for it in reports],
    }
    (build / "chaos.json").write_text(json.dumps(said, indent=2), "utf-8")


if __name__ == "__main__":
    main()
