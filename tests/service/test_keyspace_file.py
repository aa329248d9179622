"""Keyspace files: what is wrong with one is said with its line, its field and the rule that it breaks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import doorward_server
from doorward_server.core.errors import InvalidField, KeyspaceInvalid
from doorward_server.service.keyspace_file import load_file, read_alert
from doorward_server.service.keyspace_tests import run_cases
from tests.service.keyspace_mistakes import MISTAKES, PRESS

EXAMPLES = Path(__file__).parents[2] / "examples" / "keyspaces"
SERVER = Path(doorward_server.__file__).parent
OUTSIDE = {"keyspaces.py"}
"""What raises KeyspaceInvalid without reading a file."""
SHAPED = "must be one of {', '.join(AttributeType)}"
"""A rule that the shape of files holds before."""


def broken(source: str) -> KeyspaceInvalid:
    with pytest.raises(KeyspaceInvalid) as refused:
        run_cases(load_file(source))
    return refused.value


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_line_its_field_and_its_rule(name: str) -> None:
    mistake = MISTAKES[name]
    problem = broken(mistake.source)
    assert (problem.field, problem.line) == (mistake.field, mistake.line), problem
    assert mistake.rule in problem.rule
    assert problem.metadata == {"field": problem.field, "rule": problem.rule, "line": str(problem.line)}


def test_there_is_a_mistake_for_every_rule() -> None:
    """Every place in the code that finds something wrong with a file is reached by one of the mistakes."""
    reached = {place for mistake in MISTAKES.values() for place in origins(broken(mistake.source))}
    missed = {f"{file}:{first}" for file, first, last in raises() if not any(
        (file, line) in reached for line in range(first, last + 1)
    )}  # fmt: skip
    assert missed == set()


def origins(problem: BaseException | None) -> Iterator[tuple[str, int]]:
    """Where *problem*, and all that it stands for, was raised."""
    while problem is not None:
        trace = problem.__traceback__
        while trace is not None:
            yield Path(trace.tb_frame.f_code.co_filename).name, trace.tb_lineno
            trace = trace.tb_next
        problem = problem.__context__


def raises() -> Iterator[tuple[str, int, int]]:
    """Every `raise KeyspaceInvalid(…)` of the server: file, first and last line."""
    for file in (*SERVER.glob("core/*.py"), *SERVER.glob("service/*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                told = ast.unparse(node.exc)
                if told.startswith("KeyspaceInvalid(") and SHAPED not in told and file.name not in OUTSIDE:
                    yield file.name, node.lineno, node.end_lineno or node.lineno


def test_the_file_without_mistakes_is_fine_and_so_are_its_tests() -> None:
    results = run_cases(load_file(PRESS))
    assert len(results) == 7
    assert all(it.passed for it in results)


@pytest.mark.parametrize(
    "value",
    ['!!bool "x"', '!!int ""', '!!float ""', '!!timestamp "x"', f"1{':1' * 900}.0", '!!binary "é"', '!!python/none ""'],
    ids=lambda value: value[:15],
)
def test_a_value_that_is_not_of_its_tag_is_a_mistake_in_a_file_and_in_a_rule(value: str) -> None:
    problem = broken(PRESS.replace("\nalerts:\n", f"\nalerts:\n  odd: {{when: unusual_activity, factor: {value}}}\n"))
    assert (problem.field, problem.rule) == ("alerts.odd.factor", "is not a plain YAML value")
    assert problem.line == PRESS[: PRESS.index("\nalerts:\n")].count("\n") + 3
    with pytest.raises(InvalidField) as refused:
        read_alert(f"{{when: unusual_activity, factor: {value}}}")
    assert refused.value.metadata == {"field": "rule.factor", "rule": "is not a plain YAML value"}


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_examples_are_fine_and_so_are_their_tests(file: Path) -> None:
    assert [it for it in run_cases(load_file(file.read_text("utf-8"))) if not it.passed] == []
