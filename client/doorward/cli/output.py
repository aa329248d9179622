"""Results as tables for people or JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from doorward.cli.session import Session, plain, tell
from doorward.model import IssuedKey, Propagation

_SPREAD = {
    Propagation.ACKNOWLEDGED: "every replica has confirmed",
    Propagation.EXPIRED: "some replicas did not answer, but none can still hold the old answer",
    Propagation.NOT_AWAITED: "not awaited: old answers may be given for up to a second",
}
Columns = Mapping[str, str]
"""Headings, and the field that stands below each; the value itself below one without."""


def show(session: Session, value: Any, *, hide: Iterable[str] = ()) -> None:
    """Write one value: every field on its line."""
    if session.json:
        write_json(jsonable(value))
        return
    labelled({name.replace("_", " "): content for name, content in _fields(value) if name not in hide})


def changed(what: str, propagation: Propagation | None) -> None:
    """Tell, as a sentence, *what* was done, and how far it has come."""
    spread = _SPREAD.get(propagation) if propagation else None
    tell(f"{what}; {spread}." if spread else f"{what}.")


def labelled(lines: Mapping[str, Any]) -> None:
    """Write a line for each value that is not None, with its label."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for label, content in lines.items():
        if content is not None:
            table.add_row(label, _cell(content))
    _write_table(table)


def listed(session: Session, values: Iterable[Any], columns: Columns, *, rare: Columns | None = None) -> None:
    """Write a list: a row for each value. *rare* columns are those that are left out if nothing stands in them."""
    if session.json:
        write_json([jsonable(value) for value in values])
        return
    values = list(values)
    found = {head: field for head, field in (rare or {}).items() if any(getattr(value, field) for value in values)}
    columns = {**columns, **found}
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for value in values:
        table.add_row(*(_cell(getattr(value, field) if field else value) for field in columns.values()))
    _write_table(table)


def issued(session: Session, key: IssuedKey, done: str, **more: Any) -> None:
    """Write a new secret: it alone on standard output, or with --output json the object that holds it and *more*."""
    if session.json:
        write_json(jsonable(key) | {"secret": key.secret.reveal() if key.secret else None} | jsonable(more))
    elif key.secret:
        print(key.secret.reveal())
    changed(f"Key {key.key.id} ({key.key.name}) {done}", key.propagation)
    if key.secret:
        tell("Its secret is shown this once: unless its keyspace is recoverable, Doorward does not keep it.")
    elif key.replayed:
        tell("An earlier call with this request id did that already. If its secret was lost, rotate the key.")
    for id in key.replaced_keys:
        tell(f"It took the place of key {id}, which is revoked now.")
    for warning in key.warnings:
        tell(f"Warning {warning.code}: {warning.message}")


def jsonable(value: Any) -> Any:
    """Return a value as JSON has it: names as in `doorward.model`, instants in ISO 8601. Secrets are left out."""
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case str() | int() | float() | None:
            return value
        case Mapping():
            return {name: jsonable(item) for name, item in value.items()}
        case Sequence():
            return [jsonable(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return {name: jsonable(item) for name, item in _fields(value)}
        case _:
            return None


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]


def _cell(value: Any) -> str:
    match value:
        case None | "" | () | []:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.isoformat(" ", "seconds").replace("+00:00", "Z")
        case str():
            return plain(value).replace("\n", " ")
        case Mapping():
            return ", ".join(f"{plain(name)}={_cell(item)}" for name, item in value.items()) or "-"
        case Sequence():
            return ", ".join(map(_cell, value))
        case _ if dataclasses.is_dataclass(value):
            told = [_cell(item) for _, item in _fields(value) if item not in (None, "", ())]
            return " ".join(told)
        case _:
            return str(value)


def write_json(value: Any) -> None:
    """Write what `jsonable` gave."""
    print(json.dumps(value, indent=2))


def write_line(session: Session, value: Any, text: str) -> None:
    """Write one of many, as it comes: *value*, as `jsonable` gave it, or *text*, on a line of its own."""
    print(json.dumps(value) if session.json else plain(text).replace("\n", " "), flush=True)


def _write_table(table: Table) -> None:
    # A terminal wraps as it can; anything else gets whole lines.
    width = None if sys.stdout.isatty() else 100_000
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as written:
        console.print(table)
    print("\n".join(line.rstrip() for line in written.get().splitlines()))
