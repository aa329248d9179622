"""docs/keyspaces.md shows every word of a keyspace file, tells what is there, and its schema is the one of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from doorward_server.core.http_profile import WORDS
from doorward_server.core.sections import ALERTS
from doorward_server.service.keyspace_cases import (
    Ask,
    Expected,
    Given,
    GivenKey,
    GivenOrganization,
    GivenPrincipal,
    Http,
)
from doorward_server.service.keyspace_schema import keyspace_schema
from doorward_server.service.keyspace_shape import Alert, DecisionLog, Document, Route, Usage
from tests.docs.tables import DOCS, table
from tests.service.keyspace_mistakes import PRESS

EXAMPLES = Path(__file__).parents[2] / "examples" / "keyspaces"
SCHEMA_LINE = "# yaml-language-server: $schema="


def told(first: str, row: str, column: int = 1) -> set[str]:
    """The words in backticks in one row of a table."""
    text = (DOCS / "keyspaces.md").read_text("utf-8")
    start = text.index(f"| {first} |")
    line = next(line for line in text[start:].splitlines() if line.startswith(f"| `{row}`"))
    return set(re.findall(r"`(\w+)`", line.split("|")[column + 1]))


def test_the_file_in_the_docs_has_every_word() -> None:
    assert set(yaml.safe_load(PRESS)) == Document.model_fields.keys()


def test_every_entry_of_http_is_told() -> None:
    entries = {row[0] for row in table("keyspaces.md", "entry")} - {"a reason"}
    assert entries == {word for word in WORDS if word.islower()}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("alerts", {"when"}),
        ("usage", Usage.model_fields.keys()),
        ("decision_log", DecisionLog.model_fields.keys()),
        ("routes", Route.model_fields.keys()),
    ],
)
def test_every_word_that_is_kept_for_later_is_told(section: str, words: set[str]) -> None:
    assert told("section", section) == words


def test_every_alert_is_told_with_what_it_takes() -> None:
    assert {row[0] for row in table("keyspaces.md", "`when`")} == ALERTS.keys()
    for when, (needed, possible) in ALERTS.items():
        assert told("`when`", when, 1) == needed
        assert told("`when`", when, 2) == possible
    assert {"when"}.union(*(needed | possible for needed, possible in ALERTS.values())) == Alert.model_fields.keys()


def test_every_word_of_a_test_is_told() -> None:
    assert told("word", "given.key") == GivenKey.model_fields.keys()
    assert told("word", "given.principal") == GivenPrincipal.model_fields.keys()
    assert told("word", "given.organization") == GivenOrganization.model_fields.keys()
    assert told("word", "given.resources") == {"attributes", "parent"}
    assert told("word", "ask") == Ask.model_fields.keys() | Http.model_fields.keys()
    assert told("word", "expect") == Expected.model_fields.keys()
    rows = {row[0] for row in table("keyspaces.md", "word")}
    assert rows == {f"given.{word}" for word in Given.model_fields} | {"ask", "expect", "table"}


def test_the_schema_is_current() -> None:
    """If not: `doorward keyspaces schema > docs/keyspace.schema.json`."""
    assert json.loads((DOCS / "keyspace.schema.json").read_text("utf-8")) == keyspace_schema()


def test_the_schema_knows_every_word_and_refuses_others() -> None:
    schema: Any = keyspace_schema()
    assert schema["properties"].keys() == Document.model_fields.keys()
    assert schema["required"] == ["keyspace", "credentials", "types"]
    assert schema["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_examples_name_the_schema(file: Path) -> None:
    first = file.read_text("utf-8").splitlines()[0]
    assert first.startswith(SCHEMA_LINE)
    assert (file.parent / first.removeprefix(SCHEMA_LINE)).resolve() == DOCS / "keyspace.schema.json"
