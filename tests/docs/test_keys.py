"""docs/keys.md tells every word of a keyspace's `keys:`, and its example files can be imported as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from doorward.calls.imports import _row
from doorward.cli.rows import Format, read
from doorward.v1 import keys_pb2
from doorward_server.core.rails import Unwise
from doorward_server.service.keyspace_shape import Keys
from tests import databases
from tests.docs.tables import DOCS, table, words
from tests.fakes import FakeClock
from tests.service.door import opened_door

TEXT = (DOCS / "keys.md").read_text("utf-8")


def block(language: str) -> str:
    """The only block in *language*."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.S | re.M)
    return str(found)


def words_of(model: type[BaseModel], before: str = "") -> set[str]:
    """Every word that a part of a keyspace file can have, dotted."""
    found = set()
    for name, field in model.model_fields.items():
        inner = [it for it in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(it, type)]
        parts = [it for it in inner if issubclass(it, BaseModel)]
        found |= words_of(parts[0], f"{before}{name}.") if parts else {before + name}
    return found


def test_every_guard_rail_is_told() -> None:
    told = set().union(*(words(row[0]) for row in table("keys.md", "`keys:`")))
    assert told == words_of(Keys)


def test_every_warning_is_told() -> None:
    assert {row[0] for row in table("keys.md", "code")} == {it.value for it in Unwise}


def test_the_example_files_can_be_imported(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "rows.csv").write_text(block("csv"))
    (tmp_path / "rows.jsonl").write_text(block("json"))
    lines = [*read(tmp_path / "rows.csv", Format.CSV), *read(tmp_path / "rows.jsonl", Format.JSONL)]
    rows = [_row(line.row) for line in lines if line.row is not None]
    aiia = (DOCS.parent / "examples/keyspaces/aiia.yaml").read_text("utf-8")
    with databases.fresh("sqlite", tmp_path) as url, opened_door(url, tmp_path, clock) as door:
        door.apply(f"{aiia}\n{block('yaml')}")
        taken = door.take_in(door.organization("acme", "alice"), "aiia", *rows)
    assert [(it.external_id, it.outcome, it.message) for it in taken.results] == [
        (f"100{n}", keys_pb2.IMPORT_OUTCOME_CREATED, "") for n in range(1, 5)
    ]
