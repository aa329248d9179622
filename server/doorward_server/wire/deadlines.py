"""How long a call may take that brought no deadline of its own."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar, cast

import grpc

T = TypeVar("T")
NEVER = float(sys.maxsize)
"""Seconds left that the native transport tells of a call without a deadline."""


class TooLate(Exception):
    """A call without a deadline took as long as such a call may."""


async def bounded(work: Coroutine[Any, Any, T], context: grpc.aio.ServicerContext[Any, Any], seconds: float) -> T:
    """Return what *work* returns. Raises TooLate if a call without a deadline takes more than *seconds*.

    Setting a timer costs more than a decision. So *work* is begun without one: most of it finds all that it needs in
    memory and never waits.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    left = cast("float | None", context.time_remaining())  # None without a deadline, whatever the stubs say
    deadline = asyncio.timeout(seconds if left is None or left >= NEVER else None)
    try:
        async with deadline:
            return await _resumed(work, waits_for)
    except TimeoutError:
        if deadline.expired():
            raise TooLate from None
        raise


async def unbounded(work: Awaitable[T], _context: object, _seconds: float) -> T:
    """Return what *work* returns, whenever that is."""
    return await work


@types.coroutine
def _resumed(work: Coroutine[Any, Any, T], waits_for: object) -> Generator[object, Any, T]:
    """Go on with *work*, which was begun by hand and waits for something, until it returns."""
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as raised:  # noqa: BLE001  # a cancellation, too, is for the work
                waits_for = work.throw(raised)
            else:
                waits_for = work.send(sent)
    except StopIteration as done:
        return cast(T, done.value)
