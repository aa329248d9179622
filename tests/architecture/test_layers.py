"""Imports point one way, and nothing grows without end. The checker itself is checked on copies with planted faults."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = "doorward.v1"
LONGEST_FUNCTION = 45
LONGEST_FILE = 400
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")

SERVER = "doorward_server"
SQL = {"peewee", "playhouse", "psycopg", "pysqlite3"}
# gRPC, what speaks it, its messages, and what is generated from the contract.
WIRE = {"grpc", "grpc_health", "grpc_reflection", "grpc_status", "google.protobuf", "google.rpc", "doorward"}
COMPOSITION = f"{SERVER}.app"


@dataclass(frozen=True)
class Import:
    """One import statement: who imports what. For `from a import b`, `a.b` is what is imported."""

    module: str
    imported: str
    line: int


@dataclass(frozen=True)
class Layer:
    """What the modules under `name` may import, but for those under `exempt`."""

    name: str
    only: Set[str] = frozenset()
    """Nothing else, but for the standard library."""
    never: Set[str] = frozenset()
    exempt: Set[str] = frozenset()


LAYERS = (
    Layer(f"{SERVER}.core", only={f"{SERVER}.core"}),
    Layer(f"{SERVER}.store", only={f"{SERVER}.core", f"{SERVER}.store", *SQL}),
    Layer(f"{SERVER}.service", never={f"{SERVER}.wire"}),
    Layer(f"{SERVER}.wire", never={f"{SERVER}.store"}),
    Layer(SERVER, never={*SQL, "sqlite3"}, exempt={f"{SERVER}.store"}),
    # gRPC is the wire's; app and command start it.
    Layer(SERVER, never=WIRE, exempt={f"{SERVER}.wire", COMPOSITION, f"{SERVER}.command"}),
    # One place puts the parts together; the command and the demo are given what it made.
    Layer(SERVER, never={COMPOSITION}, exempt={f"{SERVER}.serving", f"{SERVER}.command", f"{SERVER}.demo"}),
    # What reads a keyspace file without a server has its parts all the same, where they are installed.
    Layer("doorward", never={SERVER}, exempt={"doorward.cli.keyspace_files"}),
)


def within(name: str, package: str) -> bool:
    """Whether *name* is *package* or below it."""
    return name == package or name.startswith(package + ".")


def modules(source: Path) -> Iterator[tuple[str, Path]]:
    """Every hand-written module below a source root, by its name."""
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not within(name, GENERATED):
            yield name, file


@cache
def nodes(text: str) -> tuple[ast.AST, ...]:
    """Everything in a module's syntax tree; the same text is parsed once."""
    return tuple(ast.walk(ast.parse(text)))


def imports(name: str, file: Path) -> Iterator[Import]:
    """What a module imports, wherever in it: functions and TYPE_CHECKING blocks count, too."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes(file.read_text("utf-8")):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                yield Import(name, f"{base}.{alias.name}", node.lineno)


def crossings(root: Path) -> list[str]:
    """Every import that crosses a layer, in words."""
    found = []
    for source in ("server", "client"):
        for name, file in modules(root / source):
            for imported in imports(name, file):
                found += [f"{imported.module}:{imported.line} imports {imported.imported}: {rule}"
                          for rule in broken(imported)]  # fmt: skip
    return found


def broken(imported: Import) -> Iterator[str]:
    """The rules that one import breaks."""
    name = imported.imported
    for layer in LAYERS:
        if not within(imported.module, layer.name) or any(within(imported.module, place) for place in layer.exempt):
            continue
        allowed = layer.only | (sys.stdlib_module_names - {"sqlite3"})
        if layer.only and not any(within(name, package) for package in allowed):
            yield f"{layer.name} may import only {', '.join(sorted(layer.only))}"
        for package in layer.never:
            if within(name, package):
                yield f"{layer.name} may not import {package}"
    if within(imported.module, SERVER) and within(name, "doorward") and not within(name, GENERATED):
        yield "the server knows nothing of the client but doorward.v1"


def too_long(root: Path) -> list[str]:
    """Files and functions that have grown too long. A function is counted from behind its signature: its parameters are
    what its callers read, not what it does.
    """
    found = []
    for source in ("server", "client"):
        for name, file in modules(root / source):
            text = file.read_text("utf-8")
            lines = len(text.splitlines())
            if lines > LONGEST_FILE:
                found.append(f"{name} has {lines} lines")
            for node in nodes(text):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
                    if length > LONGEST_FUNCTION:
                        found.append(f"{name}.{node.name} has {length} lines")
    return found


def unfinished(root: Path) -> list[str]:
    """Lines that say that something is left to do."""
    return [
        f"{name}:{number}"
        for source in ("server", "client")
        for name, file in modules(root / source)
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]


def test_imports_point_one_way() -> None:
    assert crossings(ROOT) == []


def test_no_function_and_no_file_is_too_long() -> None:
    assert too_long(ROOT) == []


def test_nothing_is_left_to_do_in_the_code() -> None:
    assert unfinished(ROOT) == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, to plant faults in."""
    root = tmp_path_factory.mktemp("planted")
    for source in ("server", "client"):
        shutil.copytree(ROOT / source, root / source, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return root


PLANTS = {
    "core imports what is not standard": ("server/doorward_server/core/decide.py", "import yaml"),
    "core imports a driver of the standard library": ("server/doorward_server/core/model.py", "import sqlite3"),
    "core imports the store": ("server/doorward_server/core/model.py", "from doorward_server.store import Store"),
    "core imports up, relatively": ("server/doorward_server/core/model.py", "from ..service import guard"),
    "store imports a service": ("server/doorward_server/store/store.py", "from doorward_server.service import guard"),
    "store imports gRPC": ("server/doorward_server/store/keys.py", "import grpc"),
    "service imports gRPC": ("server/doorward_server/service/keys.py", "from grpc import StatusCode"),
    "service imports Peewee": ("server/doorward_server/service/keys.py", "from peewee import fn"),
    "service imports a driver": ("server/doorward_server/service/keys.py", "import psycopg"),
    "service imports the wire": ("server/doorward_server/service/guard.py", "import doorward_server.wire.errors"),
    "service imports messages": ("server/doorward_server/service/guard.py", "from doorward.v1 import keys_pb2"),
    "wire imports the store": ("server/doorward_server/wire/keys.py", "from doorward_server.store import Written"),
    "wire imports Peewee": ("server/doorward_server/wire/keys.py", "import playhouse.pool"),
    "config imports gRPC": ("server/doorward_server/config.py", "import grpc.aio"),
    "config imports protobuf": ("server/doorward_server/config.py", "from google.protobuf import message"),
    "app imports Peewee": ("server/doorward_server/app.py", "import peewee"),
    "wire imports the client": ("server/doorward_server/wire/errors.py", "from doorward.errors import CallFailed"),
    "app imports the client": ("server/doorward_server/app.py", "import doorward"),
    "client imports the server": ("client/doorward/client.py", "from doorward_server.core import errors"),
    "config composes": ("server/doorward_server/config.py", "from doorward_server.app import build"),
    "an import hides in a function": ("server/doorward_server/core/policy.py", "def _f():\n    import grpc"),
}


def planted(copy: Path, place: str, text: str, check: Callable[[Path], list[str]]) -> list[str]:
    """What *check* finds in the copy with *text* at the end of a file; the file is as before afterwards."""
    file = copy / place
    before = file.read_text("utf-8")
    try:
        file.write_text(f"{before}\n{text}\n", "utf-8")
        return check(copy)
    finally:
        file.write_text(before, "utf-8")


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_import_is_found(copy: Path, plant: str) -> None:
    place, text = PLANTS[plant]
    assert crossings(copy) == []
    found = planted(copy, place, text, crossings)
    assert found, plant
    module = place.partition("/")[2].removesuffix(".py").replace("/", ".")
    assert all(line.startswith(f"{module}:") for line in found)


def test_a_long_function_a_long_file_and_a_note_to_self_are_found(copy: Path) -> None:
    place = "server/doorward_server/core/model.py"
    function = "def f() -> None:\n" + "    pass\n" * (LONGEST_FUNCTION + 1)
    assert any("model.f has" in line for line in planted(copy, place, function, too_long))
    assert any("model has" in line for line in planted(copy, place, "# so\n" * LONGEST_FILE, too_long))
    assert planted(copy, place, "# TO" + "DO: later", unfinished)
