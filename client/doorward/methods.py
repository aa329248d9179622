"""From the description of an RPC to a method of the clients: same name, same arguments, same docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from doorward.calls import A, Call, Feed, Pages, Streams, T
from doorward.calls.authz import Check, Deciding, as_it_is
from doorward.decision import Decision

if TYPE_CHECKING:
    from doorward.aio import AsyncClient
    from doorward.client import Client

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])
_HOME, _AIO = "doorward.client", "doorward.aio"


def _dressed(method: F, describe: Callable[..., Any], answer: str, home: str = _HOME) -> F:
    """Give a method the name, the docstring and, for people and tools that ask, the signature of its description."""
    described = inspect.signature(describe)
    told = re.sub(r"^(Call|Feed|Pages|Streams)\[[\w.]+, (.+)\]$", r"\2", str(described.return_annotation))
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__name__, method.__doc__, method.__module__ = describe.__name__, describe.__doc__, home
    method.__signature__ = described.replace(  # type: ignore[attr-defined]  # what inspect looks for
        parameters=[me, *described.parameters.values()], return_annotation=answer.format(told)
    )
    return method


def call(describe: Callable[P, Call[A, T]]) -> Callable[Concatenate[Client, P], T]:
    """A method that makes one call."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(describe(*args, **kwargs))

    return _dressed(method, describe, "{}")


def decided(describe: Callable[P, Deciding], check: Check = as_it_is) -> Callable[Concatenate[Client, P], Decision]:
    """A method that asks whether somebody may. *check* is that of what *describe* returns."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Decision:
        found, words = self._recall(args, kwargs)
        return self._decide(describe(*args, **kwargs), words) if found is None else check(found)

    return _dressed(method, describe, "Decision")


def listed(describe: Callable[P, Pages[A, T]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """A method that turns pages as they are read."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._turn(describe(*args, **kwargs))

    return _dressed(method, describe, "Iterator[{}]")


def stream(describe: Callable[P, Streams[A, list[T]]]) -> Callable[Concatenate[Client, P], list[T]]:
    """A method that makes one call after the other, each with many messages."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return [result for stream in describe(*args, **kwargs) for result in self._ask(stream)]

    return _dressed(method, describe, "{}")


def feed(describe: Callable[P, Feed[A, T]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """A method that makes one call, and gives its answers as they come."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._follow(describe(*args, **kwargs))

    return _dressed(method, describe, "Iterator[{}]")


def acall(describe: Callable[P, Call[A, T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """`call` for AsyncClient."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(describe(*args, **kwargs))

    return _dressed(method, describe, "{}", _AIO)


def adecided(
    describe: Callable[P, Deciding], check: Check = as_it_is
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Decision]]:
    """`decided` for AsyncClient."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Decision:
        found, words = self._recall(args, kwargs)
        return await self._decide(describe(*args, **kwargs), words) if found is None else check(found)

    return _dressed(method, describe, "Decision", _AIO)


def alisted(describe: Callable[P, Pages[A, T]]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    """`listed` for AsyncClient."""

    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._turn(describe(*args, **kwargs))

    return _dressed(method, describe, "AsyncIterator[{}]", _AIO)


def astream(
    describe: Callable[P, Streams[A, list[T]]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, list[T]]]:
    """`stream` for AsyncClient."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return [result for stream in describe(*args, **kwargs) for result in await self._ask(stream)]

    return _dressed(method, describe, "{}", _AIO)


def afeed(describe: Callable[P, Feed[A, T]]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    """`feed` for AsyncClient."""

    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._follow(describe(*args, **kwargs))

    return _dressed(method, describe, "AsyncIterator[{}]", _AIO)
