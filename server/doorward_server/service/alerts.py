"""Reading alerts, watching them come, and saying that they were seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from doorward_server.core.alerts import Acknowledgement, Alert, AlertFilter
from doorward_server.core.fields import check_id, check_text
from doorward_server.core.model import Event
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.paging import fitting, make_token, page_size, read_token
from doorward_server.service.pool import Pool
from doorward_server.service.requests import own_or
from doorward_server.store import Store, Written

POLL_SECONDS = 1.0
"""How often who watches is looked after."""
REFRESH = 10
"""Looks after which a caller who is told nothing is looked up again."""
AT_ONCE = 200
"""Alerts of one look."""
NOTE = 500
"""Characters."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One answer to who watches: the next alert, or only where the watch has come to."""

    alert: Alert | None
    sequence: int


class Alerts:
    """Tells of alerts. Blocking, but for `watch`: belongs on the management pool.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the thing exists.
    """

    def __init__(self, store: Store, guard: Guard, clock: Clock) -> None:
        self._store = store
        self._guard = guard
        self._clock = clock
        self._closed = asyncio.Event()

    def list(
        self, caller: Caller, organization: str, filter: AlertFilter, size: int, token: str
    ) -> tuple[Sequence[Alert], str]:
        """Return a page, the latest first. Raises InvalidField, PageTokenInvalid."""
        organization = own_or(caller, organization)
        self._guard.require(caller, "alerts:list", _on(organization))
        for field, id, kind in (("keyspace", filter.keyspace, "keyspace"), ("key", filter.key, "")):
            if id:
                check_id(field, id, kind)
        scope, limit = f"alerts {organization} {filter}", page_size(size)
        start = read_token(scope, token, (int,))
        rows = self._store.alerts.list_some(organization, filter, int(start[0]) if start else None, limit + 1)
        shown = fitting(rows, limit)
        return shown, make_token(scope, [shown[-1].sequence]) if len(shown) < len(rows) else ""

    def acknowledge(self, caller: Caller, organization: str, id: str, note: str) -> Written[Alert]:
        """Say that *caller* has seen an alert. Raises InvalidField, NotFound."""
        organization = own_or(caller, organization)
        actor = self._guard.require(caller, "alerts:acknowledge", _on(organization))
        check_id("id", id)
        check_text("note", note, NOTE)
        now = self._clock()
        by = actor.acting_for or f"{actor.organization}/{actor.principal or actor.key}"
        event = Event(organization, now, actor, "alerts:acknowledge", "alert", id, note=note)
        return self._store.alerts.acknowledge(organization, id, Acknowledgement(now, by, note), event)

    async def watch(
        self, caller: Caller, organization: str, after: int | None, reads: Pool
    ) -> AsyncGenerator[Watched, None]:
        """Yield alerts behind the sequence *after* (None: that come from now on) until the server stops.

        The first answer comes at once. *caller* is looked up again before it is told anything, and every `REFRESH`
        looks: raises CallerUnauthenticated and CallerForbidden once it may no longer.
        """
        organization = own_or(caller, organization)
        self._guard.require(caller, "alerts:watch", _on(organization))
        reached = after
        if reached is None:
            reached = await reads.run(self._store.alerts.last_sequence, organization)
        told, looks = False, 0
        while not self._closed.is_set():
            alerts = await reads.run(self._look, caller, organization, reached, looks % REFRESH == 0)
            looks += 1
            for alert in alerts:
                reached = alert.sequence
                yield Watched(alert, reached)
            if not (alerts or told):
                yield Watched(None, reached)
            told = True
            if len(alerts) < AT_ONCE:
                await self._pause()

    def close(self) -> None:
        """End all watches: their callers go to another server, and on from where they are."""
        self._closed.set()

    def _look(self, caller: Caller, organization: str, after: int, refresh: bool) -> Sequence[Alert]:
        alerts = self._store.alerts.list_after(organization, after, AT_ONCE)
        if alerts or refresh:
            self._guard.require(self._guard.refreshed(caller), "alerts:watch", _on(organization))
        return alerts

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._closed.wait()
        except TimeoutError:
            pass


def _on(organization: str) -> str:
    return f"organizations/{organization}/alerts"
