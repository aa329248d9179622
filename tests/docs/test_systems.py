"""docs/systems/ accounts for every line of the five documents, and each proof that it names is a test that exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.tally import NAMES, system_of
from tests.docs.tables import DOCS, table

ROOT = DOCS.parent
TESTS = ROOT / "tests" / "conformance"
HEADER = re.compile(r"^Seed document: `([^`]+)`, (\d+) lines\.$", re.M)
NAMED = re.compile(r"`tests/conformance/(test_\w+\.py)::(test_\w+)`")
ROW = re.compile(r"^\| (\d+)(?:–(\d+))? \|")
LATER = "issue 7"
SYSTEMS = sorted(NAMES)
each_system = pytest.mark.parametrize("system", SYSTEMS)


@dataclass(frozen=True)
class Row:
    """One row of a system's table: lines of its document, and what becomes of them."""

    lines: range
    says: str
    does: str
    proof: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        return NAMED.findall(self.proof)


def text_of(system: str) -> str:
    return (DOCS / "systems" / f"{system}.md").read_text("utf-8")


def rows_of(system: str) -> list[Row]:
    rows = []
    for line in text_of(system).splitlines():
        if match := ROW.match(line):
            _, _, says, does, proof, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line))
            rows.append(Row(range(int(match[1]), int(match[2] or match[1]) + 1), says, does, proof))
    return rows


def length_of(system: str) -> int:
    """How many lines the system's document has."""
    ((_, lines),) = HEADER.findall(text_of(system))
    return int(lines)


def defined_in(file: Path) -> set[tuple[str, str]]:
    tree = ast.parse(file.read_text("utf-8"))
    return {(file.name, it.name) for it in tree.body if isinstance(it, ast.FunctionDef) and it.name.startswith("test_")}


@each_system
def test_every_line_of_the_document_is_accounted_for_once(system: str) -> None:
    counted = Counter(line for row in rows_of(system) for line in row.lines)
    assert not [line for line, times in counted.items() if times > 1]
    assert sorted(counted) == list(range(1, length_of(system) + 1))


@each_system
def test_every_row_has_a_proof_or_says_why_it_needs_none(system: str) -> None:
    for row in rows_of(system):
        rest = NAMED.sub("", row.proof).replace(LATER, "")
        assert rest.strip(" ,") in ("", "–"), row
        assert row.tests or LATER in row.proof or row.proof == "–", row
        assert row.does, row


@each_system
def test_every_test_that_is_named_exists(system: str) -> None:
    there = set().union(*(defined_in(file) for file in TESTS.glob("test_*.py")))
    assert not set(NAMED.findall(text_of(system))) - there


@each_system
def test_every_test_of_the_system_is_named(system: str) -> None:
    files = [file for file in TESTS.glob("test_*.py") if system_of(str(file)) == NAMES[system]]
    assert files
    assert not set().union(*map(defined_in, files)) - set(NAMED.findall(text_of(system)))


def test_the_overview_counts_right() -> None:
    told = {row[0]: tuple(map(int, row[2:])) for row in table("systems.md", "system")}
    counted: dict[str, tuple[int, ...]] = {}
    for system in SYSTEMS:
        rows = rows_of(system)
        proved, later = sum(bool(row.tests) for row in rows), sum(LATER in row.proof for row in rows)
        counted[f"[{NAMES[system]}](systems/{system}.md)"] = (length_of(system), proved, later)
    counted["total"] = tuple(map(sum, zip(*counted.values(), strict=True)))
    assert told == counted


def test_the_overview_names_each_keyspace_file() -> None:
    files = {row[1].partition("(")[2].rstrip(")") for row in table("systems.md", "system")[:-1]}
    assert files == {f"../examples/keyspaces/{system}.yaml" for system in SYSTEMS}
