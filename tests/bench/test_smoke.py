"""The benchmark starts, measures, checks what was served, and writes what it found. Its figures here mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.calls import Row, Took, checked
from tests.bench.goals import GOALS, table, verdicts
from tests.bench.latency import Point, picture
from tests.bench.machine import BenchFailed, Server

RUN = Path(__file__).with_name("run.py")
MEASURED = (
    "authorize_per_empty_rpc",
    "native_authorize_per_authorize",
    "batch_decision_per_authorize",
    "stored_relation_per_authorize",
    "cold_p50_per_warm",
    "p50_million_keys_per_thousand",
    "start_seconds_million_keys",
    "authorize_p99_beside_lease_streams",
)


def test_it_measures_and_writes_what_it_found(tmp_path: Path) -> None:
    """Without h2load, which not every machine has: then the calls are made by the load generator of the house."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = [sys.executable, str(RUN), "--tiny", "--no-peers", "--build", str(tmp_path)]
    done = subprocess.run(
        [*command, "--parts", "stores", "streams"],
        env={**os.environ, "PATH": str(folder)}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "bench.json").read_text("utf-8"))
    assert all(found[name] > 0 for name in MEASURED)
    assert found["authorize_per_cerbos_missing"] == "this run leaves peers out"
    assert {"grpcio", "protobuf", "python", "machine", "load"} <= found.keys()
    assert (tmp_path / "bench.md").read_text("utf-8").count("\n| ") == len(GOALS)


class Answering(Server):
    """A server whose counters say what they are told to."""

    def __init__(self, *counts: float) -> None:
        self._counts = list(counts)

    def counted(self) -> dict[str, float]:
        return {"handled": self._counts.pop(0)}


@pytest.mark.parametrize(("after", "alone", "good"), [(17, True, True), (16, True, False), (18, True, False)])
def test_calls_that_the_server_has_not_counted_end_the_run(after: float, alone: bool, good: bool) -> None:
    row = Row("any", "/any", "any", expected=lambda calls: {"handled": calls})
    took = Took(1.0, [1.0])
    if good:
        assert checked(row, Answering(7, after), 10, lambda: took, alone) is took
    else:
        with pytest.raises(BenchFailed, match="any: handled rose by"):
            checked(row, Answering(7, after), 10, lambda: took, alone)


def test_a_goal_is_met_at_its_bound_and_missed_beyond_it() -> None:
    found = {goal.name: goal.least if goal.least is not None else goal.most or 0.0 for goal in GOALS}
    assert {verdict for *_, verdict in verdicts(found, {})} == {"met"}
    worse = {goal.name: found[goal.name] * (0.99 if goal.least is not None else 1.01) for goal in GOALS}
    assert {verdict for *_, verdict in verdicts(worse, {})} == {"**not met**"}
    told = verdicts({}, {GOALS[0].name: "no such thing here"})
    assert told[0][2:] == ("not there", "no such thing here")
    assert "| not there | no such thing here |" in table(told, {})


def test_the_picture_is_whole(tmp_path: Path) -> None:
    points = [Point(rate, rate / 100, rate / 10) for rate in (100.0, 900.0, 3500.0)]
    drawn = ElementTree.fromstring(picture({"authorize": points, "cerbos": points[:2]}, "A caption"))
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3, 2, 2]
