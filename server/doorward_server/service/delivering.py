"""Sending to webhooks what there is to tell: signed, in order, again until it is taken, by one replica at a time.

A replica claims a webhook for a while and renews that before each attempt. If it stalls so long that another takes
over, a message may be sent twice, under the same `webhook-id`: at least once is what is promised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from doorward_server.core.alerts import Alert
from doorward_server.core.errors import DoorwardError
from doorward_server.core.model import DAY, SECOND, Actor, Event, Instant
from doorward_server.core.webhooks import (
    Delivery,
    DeliveryState,
    Message,
    Webhook,
    of_alert,
    of_event,
    pause_after,
)
from doorward_server.service.guard import Clock
from doorward_server.service.pool import Pool
from doorward_server.service.posting import Posted, Poster
from doorward_server.service.webhooks import Signing
from doorward_server.store import Store, StoredEvent

log = structlog.get_logger("doorward")
ACTOR = Actor("operator", "webhooks")
"""Nobody's hand."""
POLL_SECONDS = 1.0
AT_ONCE = 4
"""Webhooks that one process delivers for at the same time."""
CLAIM = 60 * SECOND
"""Several times what an attempt can take."""
ROUND = 50
"""Attempts for one webhook before another one's turn."""
KEPT = 30 * DAY
"""How long the store tells what became of a message."""
GONE = 410


class Deliveries:
    """Delivers. `work` belongs to the event loop; receivers are waited for on *posting*."""

    def __init__(
        self,
        store: Store,
        signing: Signing,
        poster: Poster,
        reads: Pool,
        posting: Pool,
        clock: Clock,
        chance: Callable[[], float],
        holder: str,
    ) -> None:
        """*chance* gives a number from 0 to 1, *holder* is an id of this start."""
        self._store = store
        self._signing = signing
        self._poster = poster
        self._reads = reads
        self._posting = posting
        self._clock = clock
        self._chance = chance
        self._holder = holder
        self._closed = False
        self._running: set[asyncio.Future[None]] = set()

    async def work(self) -> int:
        """Begin to deliver for webhooks that there is something to do for, and return for how many.

        As many as there are places for: nobody waits for a slow receiver but its own messages. Raises StoreUnavailable.
        """
        now, free = self._clock(), AT_ONCE - len(self._running)
        if not free or self._closed:
            return 0
        claimed = await self._reads.run(self._store.webhooks.claim, self._holder, now, now + CLAIM, free)
        for webhook in claimed:
            task = asyncio.ensure_future(self._posting.run(self._deliver, webhook))
            self._running.add(task)
            task.add_done_callback(self._finished)
        return len(claimed)

    async def settle(self) -> None:
        """Wait until what has begun is done."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _finished(self, task: asyncio.Future[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # no place on the threads after all: its claim ends by itself

    async def prune(self) -> None:
        """Forget what became of messages long ago. Raises StoreUnavailable."""
        while await self._reads.run(self._store.webhooks.prune, self._clock() - KEPT):
            pass

    def close(self) -> None:
        """Begin no further attempt."""
        self._closed = True

    def _deliver(self, webhook: Webhook) -> None:
        """Take what there is to tell, send what is due, give the claim back. Whatever fails is tried again later."""
        try:
            while not self._closed and self._store.webhooks.take(
                webhook, self._holder, self._clock(), _telling(webhook)
            ):
                pass
            left = ROUND
            while left > 0 and (sent := self._send_some(webhook, left)):
                left -= sent
            self._store.webhooks.release(webhook, self._holder, self._clock())
        except DoorwardError as problem:
            log.warning("a webhook waits", webhook=webhook.id, why=problem.message)
        except Exception as defect:  # noqa: BLE001  # its messages wait, and others' go on
            log.error("a webhook waits", webhook=webhook.id, kind=type(defect).__name__)

    def _send_some(self, webhook: Webhook, most: int) -> int:
        """Send what can be sent now, and return how much; 0 also if it should not go on from here at present."""
        due = self._store.webhooks.list_due(webhook, self._clock(), most)
        for delivery in due:
            until = self._clock() + CLAIM
            current = None if self._closed else self._store.webhooks.renew(webhook, self._holder, until)
            if current is None or not self._attempt(current, delivery).accepted:
                return 0  # who does not answer is asked again later: meanwhile others have their turn
        return len(due)

    def _attempt(self, webhook: Webhook, delivery: Delivery) -> Posted:
        headers = self._signing.headers(webhook, delivery.id, delivery.body)
        posted = self._poster.post(webhook.url, headers, delivery.body.encode())
        self._store.webhooks.settle(delivery, settled(delivery, posted, self._clock(), self._chance()))
        if posted.status == GONE:
            self._disable(webhook)
        return posted

    def _disable(self, webhook: Webhook) -> None:
        """A receiver that answers 410 Gone wants no more, as the specification has it."""
        now = self._clock()

        def change(current: Webhook) -> tuple[Webhook, Event] | None:
            if current.url != webhook.url:
                return None
            why = "The receiver answered 410 Gone."
            new = replace(current, enabled=False, disabled_why=why, updated_at=now, version=current.version + 1)
            before, after = {"enabled": True}, {"enabled": False}
            event = Event(new.organization, now, ACTOR, "webhooks:disable", "webhook", new.id, before, after, why)
            return new, event

        self._store.webhooks.update(webhook.organization, webhook.id, change)


def settled(delivery: Delivery, posted: Posted, now: Instant, chance: float) -> Delivery:
    """Return what *delivery* is after an attempt."""
    attempts = delivery.attempts + 1
    tried = replace(delivery, attempts=attempts, last_at=now, status=posted.status, problem=posted.problem)
    if posted.accepted:
        return replace(tried, state=DeliveryState.DELIVERED)
    pause = pause_after(attempts, chance)
    if pause is None:
        return replace(tried, state=DeliveryState.DEAD)
    return replace(tried, next_at=now + pause)


def _telling(webhook: Webhook) -> Callable[[Sequence[Alert], Sequence[StoredEvent]], list[Message]]:
    def tell(alerts: Sequence[Alert], events: Sequence[StoredEvent]) -> list[Message]:
        # In the order of the log, not of the times: what is noticed late is dated back.
        told = [it for stored in events if (it := of_event(stored.sequence, stored.event)) is not None]
        return [it for it in (*told, *map(of_alert, alerts)) if webhook.wants(it.type)]

    return tell
