"""Files of keys to take in, as CSV or JSON lines: a row or a problem for each line.

What a problem says never shows the content of a cell: in a file whose columns have slipped, it may be a secret.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from doorward.cli.words import BadWord, binding, instant
from doorward.imports import ImportRow
from doorward.model import Ceiling, KeyBinding

COLUMNS = frozenset(column.name for column in dataclasses.fields(ImportRow))
_METADATA = "metadata."


class Format(StrEnum):
    """How a file is written."""

    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: a row to be sent, or what is wrong with it. `number` counts from 1, the header included."""

    number: int
    external_id: str
    row: ImportRow | None = field(default=None, repr=False)
    problem: str = ""


def format_of(file: Path, given: Format | None) -> Format:
    """Return the format that is given, else that of the file's extension. Raises BadWord."""
    word = given or file.suffix.lower().removeprefix(".")
    try:
        return Format(word)
    except ValueError:
        raise BadWord(f"{file}: --format says how it is written, where .csv or .jsonl do not") from None


def read(file: Path, kind: Format) -> Iterator[Line]:
    """Read a file, line by line. Raises BadWord where none of it can be understood, OSError."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        try:
            yield from _read_csv(opened) if kind is Format.CSV else _read_jsonl(opened)
        except UnicodeDecodeError:
            raise BadWord(f"{file} is not written in UTF-8") from None


def _read_csv(opened: TextIO) -> Iterator[Line]:
    reader = csv.reader(opened, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header)
        for cells in reader:
            if cells:
                yield _cells(reader.line_num, header, cells)
    except csv.Error as error:
        raise BadWord(f"line {reader.line_num}: {error}") from None


def _check_header(header: list[str]) -> None:
    if not header:
        raise BadWord("the first line must name the columns")
    for number, name in enumerate(header, 1):
        if not _is_column(name):  # not shown: without a header, it may be a secret
            raise BadWord(
                f"the first line must name the columns, and there is none of the name that it has for column {number}; "
                f"there are {', '.join(sorted(COLUMNS))} and metadata.NAME"
            )
        if header.count(name) > 1:
            raise BadWord(f"the column {name!r} is there twice")


def _is_column(name: str) -> bool:
    return name in COLUMNS or (name.startswith(_METADATA) and name != _METADATA)


def _cells(number: int, header: list[str], cells: list[str]) -> Line:
    values: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
    if len(cells) != len(header):
        return Line(number, values.get("external_id", ""), None, f"there are {len(cells)} cells, not {len(header)}")
    if "metadata" in values:
        try:
            values["metadata"] = json.loads(values["metadata"])
        except ValueError:
            return Line(number, values.get("external_id", ""), None, "metadata is no JSON")
    return _line(number, values)


def _read_jsonl(opened: TextIO) -> Iterator[Line]:
    for number, text in enumerate(opened, 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
            json.dumps(values, ensure_ascii=False).encode()  # half a character cannot be sent
        except (ValueError, RecursionError):
            yield Line(number, "", None, "this is no line of JSON")
            continue
        if isinstance(values, dict):
            yield _line(number, {name: value for name, value in values.items() if value is not None})
        else:
            yield Line(number, "", None, "this is no JSON object")


def _line(number: int, values: Mapping[str, Any]) -> Line:
    external_id = values.get("external_id", "")
    external_id = str(external_id) if isinstance(external_id, str | int) else ""
    try:
        return Line(number, external_id, _row(values))
    except ValueError as problem:
        return Line(number, external_id, None, str(problem))


def _row(values: Mapping[str, Any]) -> ImportRow:
    read: dict[str, Any] = {"external_id": "", "name": ""}
    metadata = dict(_metadata(values.get("metadata", {})))
    for name, value in values.items():
        if not _is_column(name):
            raise BadWord("there is a field that is none of a row's")
        if name.startswith(_METADATA):
            metadata |= _metadata({name.removeprefix(_METADATA): value})
        elif name != "metadata":
            reader: Callable[[str, Any], Any] = _READERS.get(name, _text)
            read[name] = reader(name, value)
    return ImportRow(**read, metadata=metadata)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # ids are numbers in many systems
    raise BadWord(f"{name} must be a text")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(filter(None, re.split(r"[;\s]+", value)))
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise BadWord(f"{name} must be texts")


def _metadata(value: Any) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    raise BadWord("metadata must be an object of texts")


def _instant(name: str, value: Any) -> datetime:
    try:
        return instant(value)
    except (ValueError, TypeError):
        raise BadWord(f"{name} must be an instant, e.g. 2027-03-31T12:00:00Z") from None


def _ceiling(name: str, value: Any) -> Ceiling:
    word = value.upper() if isinstance(value, str) else ""
    if word not in (Ceiling.OWNER, Ceiling.LIST):
        raise BadWord(f"{name} must be owner or list")
    return Ceiling(word)


def _bindings(name: str, value: Any) -> tuple[KeyBinding, ...]:
    return tuple(map(_binding, value if isinstance(value, list) else _texts(name, value)))


def _binding(value: Any) -> KeyBinding:
    """Read ROLE=PATTERN,… or an object with the fields of a KeyBinding."""
    if isinstance(value, str):
        return binding(value)
    if not isinstance(value, dict) or value.keys() - {"role", "resources", "not_before", "expires_at", "condition"}:
        fields = "role, resources, not_before, expires_at, condition"
        raise BadWord(f"bindings must be ROLE=PATTERN,… or objects with {fields}")
    given = [name for name in ("not_before", "expires_at") if value.get(name)]
    times = {name: _instant(f"bindings: {name}", value[name]) for name in given}
    role = _text("bindings: role", value.get("role"))
    condition = _text("bindings: condition", value.get("condition") or "")
    resources = _texts("bindings: resources", value.get("resources") or [])
    return KeyBinding(role, resources, times.get("not_before"), times.get("expires_at"), condition)


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "scopes": _texts,
    "allowed_cidrs": _texts,
    "bindings": _bindings,
    "ceiling": _ceiling,
    "created_at": _instant,
    "expires_at": _instant,
}
