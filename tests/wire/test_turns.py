"""Calls take their turns together, and none waits for others that do not come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from doorward_server.wire.turns import MOST, Turns


def passes_until(done: Callable[[], bool], meanwhile: Callable[[int], None] = lambda _: None) -> Awaitable[int]:
    """How many passes of the loop it takes until it is *done*; *meanwhile* happens in each."""

    async def count() -> int:
        passes = 0
        while not done():
            meanwhile(passes)
            passes += 1
            await asyncio.sleep(0)
        return passes

    return count()


def test_a_call_that_is_alone_waits_for_a_few_passes_and_no_time() -> None:
    async def scene() -> None:
        turn = Turns().next()
        assert await passes_until(turn.done) <= 4

    asyncio.run(scene())


def test_calls_that_come_one_by_one_have_their_turn_together() -> None:
    async def scene() -> None:
        turns, waiting = Turns(), list[asyncio.Future[None]]()

        def come(number: int) -> None:
            if number < 5:
                waiting.append(turns.next())
                assert not any(turn.done() for turn in waiting)

        await passes_until(lambda: bool(waiting) and waiting[0].done(), come)
        assert [turn.done() for turn in waiting] == [True] * 5

    asyncio.run(scene())


def test_where_there_is_no_end_of_calls_none_waits_for_more_than_there_are_in_a_turn() -> None:
    async def scene() -> None:
        turns, waiting = Turns(), list[asyncio.Future[None]]()
        passes = await passes_until(lambda: bool(waiting) and waiting[0].done(), lambda _: waiting.append(turns.next()))
        assert passes <= MOST + 1
        assert [turn.done() for turn in waiting[: MOST + 1]] == [True] * MOST + [False] * (len(waiting) - MOST)

    asyncio.run(scene())


def test_a_caller_who_goes_away_takes_no_turn_from_others() -> None:
    async def scene() -> None:
        turns = Turns()
        gone, here = turns.next(), turns.next()
        gone.cancel()
        await asyncio.wait_for(here, 10)
        again = turns.next()  # what is over does not count as waiting
        assert await passes_until(again.done) <= 4

    asyncio.run(scene())
