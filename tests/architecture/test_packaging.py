"""What a caller installs stays small, what is pinned stays pinned, and no file knows the machine it was written on."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("build.txt", "run.txt", "dev.txt")

# Refuses every import that the standard library, grpcio and protobuf do not explain. typing_extensions is grpcio's.
ONLY_THE_BASE = """
import sys

class OnlyTheBase:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in {"doorward", "grpc", "typing_extensions"}:
            return None
        if name == "google" or name.split(".")[:2] in (["google", "protobuf"], ["google", "_upb"]):
            return None
        if top in ALSO:
            return None
        raise ImportError(f"{name} is no part of the base")

sys.meta_path.insert(0, OnlyTheBase())
"""


def run_on_the_base(code: str, also: set[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `code` where only the base dependencies, and the top-level packages in `also`, can be imported."""
    program = f"ALSO = {also or set()!r}\n{ONLY_THE_BASE}\n{code}"
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60)


def test_the_blocker_blocks() -> None:
    for name in ("peewee", "doorward_server", "typer", "rich", "pydantic", "yaml", "google.rpc.status_pb2"):
        assert "no part of the base" in run_on_the_base(f"import {name}").stderr, name


def test_everything_but_the_cli_imports_on_the_base_alone() -> None:
    done = run_on_the_base("""
import importlib, pkgutil
import doorward

def walk(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name == "doorward.cli":
            continue
        print(module.name)
        found = importlib.import_module(module.name)
        if module.ispkg:
            walk(found)

walk(doorward)
doorward.Client, doorward.AsyncClient
""")
    assert done.returncode == 0, done.stderr
    assert "doorward.client" in done.stdout


@pytest.mark.parametrize(
    ("command", "also", "extra"),
    [
        ("from doorward.cli import main", set(), "doorward[cli]"),
        ("from doorward_server.__main__ import main", {"doorward_server"}, "doorward[server]"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(command: str, also: set[str], extra: str) -> None:
    done = run_on_the_base(f"{command}\nimport sys; sys.argv = ['command', '--help']; sys.exit(main())", also)
    assert done.returncode != 0
    assert extra in done.stderr
    assert "Traceback" not in done.stderr


def test_the_base_is_grpcio_and_protobuf() -> None:
    assert PROJECT["dependencies"] == ["grpcio>=1.76,!=1.78.1", "protobuf>=6.31.1,<8"]
    assert set(PROJECT["optional-dependencies"]) == {"server", "native", "cli", "dev"}


def locked(name: str) -> dict[str, str]:
    """The packages of a lock file, by name and marker: the pinned version. Every line must be a pin or a hash."""
    pins: dict[str, str] = {}
    entries = (ROOT / "requirements" / name).read_text().replace("\\\n", " ").splitlines()
    for entry in entries:
        if entry.startswith("#"):
            continue
        pin = re.fullmatch(
            r"([a-z0-9-]+(?:\[[a-z,]+\])?)==(\S+)( ; [^#]*?)?((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", entry
        )
        assert pin, f"requirements/{name}: not a pin with its hashes: {entry[:120]}"
        pins[pin[1]] = pin[2]
    return pins


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_holds_pins_with_hashes_and_nothing_else(name: str) -> None:
    assert locked(name)


def test_the_lock_files_agree() -> None:
    """The Makefile takes a venv made from dev.txt for one made from run.txt, and build.txt shares both."""
    dev = locked("dev.txt").items()
    assert locked("run.txt").items() <= dev
    assert locked("build.txt").items() <= dev
    # Peewee ships its stubs in the folder that this package would overwrite.
    assert "types-peewee" not in dict(dev)


@pytest.mark.parametrize(
    ("name", "extras"), [("run.txt", ("server", "cli")), ("dev.txt", ("server", "native", "cli", "dev"))]
)
def test_the_lock_files_hold_all_that_is_asked_for(name: str, extras: tuple[str, ...]) -> None:
    """Our own package is installed without its dependencies: what is missing here would be missing everywhere."""
    asked = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("_", "-") for line in asked} - {"doorward"}
    assert names <= set(locked(name)), "run 'make lock'"


def test_no_file_names_a_registry_or_the_machine_it_was_written_on() -> None:
    # Spelt in parts, so that this file is not among those found.
    registries = ("pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "deb.debian" + ".org")
    places = tuple(
        f"/{top}/{below}" for top, below in (("work", "main"), ("work", "shared"), ("root", ""), ("opt", "pypi"))
    )
    unwanted = re.compile("|".join(map(re.escape, registries + places)))
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert "pyproject.toml" in names
    found = {
        f"{name}: {match[0]}"
        for name in names
        if (match := unwanted.search((ROOT / name).read_text(encoding="utf-8", errors="replace")))
    }
    assert not found
