"""Work that nobody waits for: done again and again as long as a server runs, whatever becomes of one attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from doorward_server.core.errors import DoorwardError
from doorward_server.wire.gate import log_defect

log = structlog.get_logger("doorward")
Work = Callable[[], Awaitable[object]]


async def keep(seconds: Callable[[], float], work: Work, complaint: str, *, at_once: bool = False) -> None:
    """Do *work* every so many *seconds*, and *at_once* if wanted, until cancelled."""
    if not at_once:
        await asyncio.sleep(seconds())
    while True:
        await attempt(work, complaint)
        await asyncio.sleep(seconds())


async def attempt(work: Work, complaint: str) -> bool:
    """Do *work*; tell whether it succeeded. However it fails, it can be attempted again."""
    try:
        await work()
    except DoorwardError as problem:
        log.warning(complaint, why=problem.message)
    except Exception as defect:  # noqa: BLE001  # nobody would miss a loop that ended until it is too late
        log_defect(complaint, defect)
    else:
        return True
    return False
