"""What can be done with a keyspace file where no server runs: its tests, and the schema for editors.

It is the one module of the client that uses the server's parts, and imports them only when they are asked for: they
come with the extra `server`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from doorward.cli.session import tell
from doorward.model import KeyspaceTestResult


def run_tests(source: str, file: str) -> tuple[KeyspaceTestResult, ...]:
    """Run the tests in *source*, the text of *file*. Raises Exit, having said what is wrong with it."""
    with _server_parts():
        from doorward_server.core.errors import KeyspaceInvalid
        from doorward_server.service.keyspace_file import load_file
        from doorward_server.service.keyspace_tests import run_cases
    try:
        results = run_cases(load_file(source))
    except KeyspaceInvalid as problem:
        tell(f"{file}: {problem.message}")
        raise typer.Exit(2) from None
    return tuple(
        KeyspaceTestResult(name=it.name, asked=it.asked, line=it.line, passed=it.passed, problem=it.problem)
        for it in results
    )


def schema() -> str:
    """Return the JSON Schema of keyspace files, as text."""
    with _server_parts():
        from doorward_server.service.keyspace_schema import keyspace_schema
    return json.dumps(keyspace_schema(), indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _server_parts() -> Iterator[None]:
    try:
        yield
    except ImportError as missing:
        tell(
            f"This reads the file as the server does, and needs the module {missing.name!r}. Install the server's "
            "parts: pip install 'doorward[server]'"
        )
        raise typer.Exit(2) from None
