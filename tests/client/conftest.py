"""A door to knock on, and both clients behind one face."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from doorward import AsyncClient, Client
from doorward.cli.app import app
from tests.client.door import KEY, Door, opened


class Asyncio:
    """An AsyncClient whose methods are called like those of a Client, so that one test can ask the same of both."""

    def __init__(self, runner: asyncio.Runner, client: AsyncClient) -> None:
        self._runner, self._client = runner, client

    def __getattr__(self, name: str) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self._client, name)(*args, **kwargs)
            if isinstance(result, AsyncClient):
                return Asyncio(self._runner, result)
            if inspect.isasyncgen(result):
                return iter(self._runner.run(_collected(result)))
            return self._runner.run(result)

        return method


async def _collected(items: Any) -> list[Any]:
    return [item async for item in items]


@pytest.fixture
def door() -> Iterator[Door]:
    """A server that says what it is told to."""
    with opened() as door:
        yield door


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes a Client, then an AsyncClient behind the face of one. They are closed in the end."""
    made: list[Any] = []
    with asyncio.Runner() as runner:

        def make(*args: Any, **kwargs: Any) -> Any:
            if request.param == "sync":
                made.append(Client(*args, **kwargs))
            else:
                made.append(Asyncio(runner, AsyncClient(*args, **kwargs)))
            return made[-1]

        yield make
        for client in made:
            client.close()


@pytest.fixture
def client(make: Any, door: Door) -> Any:
    """A client of the door, of each kind."""
    return make(door.target, KEY)


@pytest.fixture
def run(door: Door) -> Callable[..., Result]:
    """Runs the command line with the door as its target."""

    def run(*args: str, stdin: str = "", **environ: str) -> Result:
        environ = {"DOORWARD_TARGET": door.target, "DOORWARD_KEY": KEY} | environ
        return CliRunner().invoke(app, args, input=stdin, env=environ)

    return run
