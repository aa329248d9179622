"""One furnished server process for each module and store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import databases
from tests.e2e.processes import ROOT, Process, server


@pytest.fixture(scope="module", params=databases.BACKENDS)
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server with the example keyspaces, and the organizations acme and globex."""
    folder = tmp_path_factory.mktemp("demo")
    with (
        databases.fresh(str(request.param), folder, migrated=False) as url,
        server(folder, url, "--demo", str(ROOT / "examples" / "keyspaces")) as process,
    ):
        furnished(process)
        yield process


def furnished(process: Process) -> None:
    """Wait until the demo has made everything: what it says to type comes last, after "serving"."""
    process.wait_for("doorward authorize")
