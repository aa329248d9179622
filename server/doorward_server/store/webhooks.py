"""Webhooks and what is on its way to them. None makes a revision: no decision reads them.

A replica delivers for a webhook while it has claimed it. What there is to tell is taken, by the sequence up to which
that has been done, into deliveries in one transaction: so each alert and event becomes one delivery, whoever is killed.
What became of an attempt is written only over the state that it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from doorward_server.core.alerts import Alert
from doorward_server.core.audit import StoredEvent
from doorward_server.core.errors import NotFound, QuotaExceeded
from doorward_server.core.model import Event, Instant, Sealed
from doorward_server.core.webhooks import Delivery, DeliveryState, Message, Webhook

from .alerts import last_sequence, list_after
from .audit import to_stored
from .audit_store import rows_after
from .rows import to_json
from .transaction import Transaction, Transactions
from .values import Written

MOST = 20
"""Webhooks of one organization."""
AT_ONCE = 200
"""Alerts, and events, that are looked at in one transaction."""
WAITING = 10_000
"""Deliveries that wait for one webhook. What comes then is taken later: it stays where it is."""
CHUNK = 500
ChangeWebhook = Callable[[Webhook], tuple[Webhook, Event] | None]
Tell = Callable[[Sequence[Alert], Sequence[StoredEvent]], Sequence[Message]]
_WEBHOOK = (
    "organization", "id", "url", "description", "events", "enabled", "secret", "secret_version", "created_at",
    "updated_at", "version", "disabled_why", "old_secret", "old_secret_version", "old_secret_until",
)  # fmt: skip
_PLACE = ("alerts_taken", "events_taken", "taken", "claimed_by", "claimed_until")
_DELIVERY = (
    "organization", "webhook", "sequence", "id", "type", "subject", "body", "state", "created_at", "attempts",
    "next_at", "last_at", "status", "problem",
)  # fmt: skip
_NAMES = ", ".join((*_WEBHOOK, *_PLACE))
_ADD = f"INSERT INTO webhook ({_NAMES}) VALUES ({', '.join('?' * len((*_WEBHOOK, *_PLACE)))})"  # noqa: S608  # ours
_ONE = f"SELECT {', '.join(_WEBHOOK)} FROM webhook WHERE organization = ? AND id = ?"  # noqa: S608  # names are ours
_PAGE = f"SELECT {', '.join(_WEBHOOK)} FROM webhook WHERE organization = ? AND id > ? ORDER BY id LIMIT ?"  # noqa: S608
_SAVE = f"UPDATE webhook SET {' = ?, '.join(_WEBHOOK[2:])} = ? WHERE organization = ? AND id = ?"  # noqa: S608  # ours
_DELIVERIES = f"SELECT {', '.join(_DELIVERY)} FROM delivery AS d"  # noqa: S608  # names are ours
# Of one subject, only the first that waits may be sent.
_NEXT = """
d.state = 'PENDING' AND d.next_at <= ? AND NOT EXISTS (
    SELECT 1 FROM delivery AS e WHERE e.organization = d.organization AND e.webhook = d.webhook
    AND e.subject = d.subject AND e.state = 'PENDING' AND e.sequence < d.sequence
)
"""
_BUSY = f"""
SELECT w.organization, w.id FROM webhook AS w LEFT OUTER JOIN tally AS t ON t.organization = w.organization
WHERE w.enabled AND w.claimed_until <= ?
AND EXISTS (SELECT 1 FROM organization AS o WHERE o.id = w.organization AND o.deleted_at IS NULL) AND (
    COALESCE(t.events, 0) > w.events_taken
    OR EXISTS (SELECT 1 FROM alert AS a WHERE a.organization = w.organization AND a.sequence > w.alerts_taken)
    OR EXISTS (SELECT 1 FROM delivery AS d WHERE d.organization = w.organization AND d.webhook = w.id AND {_NEXT})
)
ORDER BY w.claimed_until, w.organization, w.id LIMIT ?
"""  # noqa: S608  # no value is in it
_CLAIM = "UPDATE webhook SET claimed_by = ?, claimed_until = ? WHERE organization = ? AND id = ? AND claimed_until <= ?"
_RENEW = "UPDATE webhook SET claimed_until = ? WHERE organization = ? AND id = ? AND claimed_by = ? AND enabled"
_RELEASE = "UPDATE webhook SET claimed_until = ?, claimed_by = '' WHERE organization = ? AND id = ? AND claimed_by = ?"
_PLACE_OF = "SELECT alerts_taken, events_taken, taken FROM webhook WHERE organization = ? AND id = ? AND claimed_by = ?"
_TAKEN = "UPDATE webhook SET alerts_taken = ?, events_taken = ?, taken = ? WHERE organization = ? AND id = ?"
_SETTLE = """
UPDATE delivery SET state = ?, attempts = ?, next_at = ?, last_at = ?, status = ?, problem = ?
WHERE organization = ? AND webhook = ? AND sequence = ? AND state = 'PENDING' AND attempts = ?
"""
_AGAIN = """
UPDATE delivery SET state = 'PENDING', attempts = 0, next_at = ? WHERE organization = ? AND webhook = ? AND id = ?
"""
_OLD = """
DELETE FROM delivery WHERE (organization, webhook, sequence) IN (
    SELECT organization, webhook, sequence FROM delivery WHERE state <> 'PENDING' AND created_at < ? LIMIT ?
)
"""


class WebhookStore:
    """The part of `Store` that knows webhooks; like there, every public method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._write, self._look = transactions.write, transactions.look

    def add(self, webhook: Webhook, event: Event) -> Written[Webhook]:
        """Add a webhook that is told of what happens from now on. Raises QuotaExceeded."""
        return self._write(lambda tx: _add(tx, webhook, event))

    def find(self, organization: str, id: str) -> Webhook | None:
        """Return a webhook."""
        rows = self._look(lambda tx: tx.ask(_ONE, organization, id))
        return _webhook(rows[0]) if rows else None

    def list_some(self, organization: str, after: str, limit: int) -> list[Webhook]:
        """Return webhooks by id, behind the id *after*."""
        return [_webhook(row) for row in self._look(lambda tx: tx.ask(_PAGE, organization, after, limit))]

    def update(self, organization: str, id: str, change: ChangeWebhook) -> Written[Webhook]:
        """Apply *change* to a webhook. Raises NotFound, and what *change* raises."""
        return self._write(lambda tx: _update(tx, organization, id, change))

    def delete(self, organization: str, id: str, event: Event) -> Written[None]:
        """Remove a webhook with all that is on its way to it. Raises NotFound."""
        return self._write(lambda tx: _delete(tx, organization, id, event))

    def claim(self, holder: str, now: Instant, until: Instant, limit: int) -> list[Webhook]:
        """Claim for *holder*, until *until*, up to *limit* webhooks that there is something to do for at *now*."""
        busy = self._look(lambda tx: tx.ask(_BUSY, now, now, limit))
        return self._write(lambda tx: _claim(tx, busy, holder, now, until)).value if busy else []

    def renew(self, webhook: Webhook, holder: str, until: Instant) -> Webhook | None:
        """Move the end of a claim, and return the webhook as it is now; None if it is disabled, gone, or another's."""
        return self._write(lambda tx: _renew(tx, webhook, holder, until)).value

    def release(self, webhook: Webhook, holder: str, now: Instant) -> None:
        """Give a claim back. Whoever waits longest comes first."""
        self._write(lambda tx: tx.change(_RELEASE, now, webhook.organization, webhook.id, holder))

    def take(self, webhook: Webhook, holder: str, now: Instant, tell: Tell) -> bool:
        """Make deliveries of what *tell* makes of the next alerts and events; tell whether there may be more.

        Nothing, and False, if *holder* has lost its claim, or if enough is waiting.
        """
        return self._write(lambda tx: _take(tx, webhook, holder, now, tell)).value

    def list_due(self, webhook: Webhook, now: Instant, limit: int) -> list[Delivery]:
        """Return what can be sent at *now*: of each subject the first that waits."""
        sql = f"{_DELIVERIES} WHERE organization = ? AND webhook = ? AND {_NEXT} ORDER BY sequence LIMIT ?"
        rows = self._look(lambda tx: tx.ask(sql, webhook.organization, webhook.id, now, limit))
        return [_delivery(row) for row in rows]

    def settle(self, before: Delivery, after: Delivery) -> bool:
        """Write what became of an attempt; False, and nothing, if somebody else has done so since."""
        values = (after.state.value, after.attempts, after.next_at, after.last_at, after.status, after.problem)
        of = (before.organization, before.webhook, before.sequence, before.attempts)
        return bool(self._write(lambda tx: tx.change(_SETTLE, *values, *of)).value)

    def list_deliveries(
        self, organization: str, webhook: str, state: DeliveryState | None, before: int | None, limit: int
    ) -> list[Delivery]:
        """Return deliveries of a webhook, the latest first, of a lower sequence than *before*. Raises NotFound."""
        return self._look(lambda tx: _list(tx, organization, webhook, state, before, limit))

    def redeliver(self, organization: str, webhook: str, id: str, now: Instant, event: Event) -> Written[Delivery]:
        """Let a delivery be tried from the beginning, whatever became of it. Raises NotFound."""
        return self._write(lambda tx: _redeliver(tx, organization, webhook, id, now, event))

    def prune(self, before: Instant) -> int:
        """Remove up to `CHUNK` deliveries from before *before* that wait for nothing; return how many: call until 0."""
        return self._write(lambda tx: tx.change(_OLD, before, CHUNK)).value


def _add(tx: Transaction, webhook: Webhook, event: Event) -> Webhook:
    tally = tx.tally(webhook.organization)
    ((count,),) = tx.ask("SELECT COUNT(*) FROM webhook WHERE organization = ?", webhook.organization)
    if count >= MOST:
        raise QuotaExceeded("webhooks per organization", MOST)
    tx.append(event)
    place = (last_sequence(tx, webhook.organization), tally.events, 0, "", 0)
    tx.change(_ADD, *_row(webhook), *place)
    return webhook


def _get(tx: Transaction, organization: str, id: str) -> Webhook:
    rows = tx.ask(_ONE, organization, id)
    if not rows:
        raise NotFound("webhook", id)
    return _webhook(rows[0])


def _update(tx: Transaction, organization: str, id: str, change: ChangeWebhook) -> Webhook:
    tx.tally(organization)
    webhook = _get(tx, organization, id)
    changed = change(webhook)
    if changed is None:
        return webhook
    new, event = changed
    tx.change(_SAVE, *_row(new)[2:], organization, id)
    tx.append(event)
    return new


def _delete(tx: Transaction, organization: str, id: str, event: Event) -> None:
    tx.tally(organization)
    _get(tx, organization, id)
    # The webhook's row first, so that whoever is about to take something for it waits, and then finds it gone.
    tx.change("UPDATE webhook SET claimed_by = '' WHERE organization = ? AND id = ?", organization, id)
    tx.change("DELETE FROM delivery WHERE organization = ? AND webhook = ?", organization, id)
    tx.change("DELETE FROM webhook WHERE organization = ? AND id = ?", organization, id)
    tx.append(event)


def _claim(
    tx: Transaction, busy: Sequence[tuple[Any, ...]], holder: str, now: Instant, until: Instant
) -> list[Webhook]:
    claimed = []
    for organization, id in sorted(busy):
        if tx.change(_CLAIM, holder, until, organization, id, now):
            claimed.append(_get(tx, organization, id))
    return claimed


def _renew(tx: Transaction, webhook: Webhook, holder: str, until: Instant) -> Webhook | None:
    if not tx.change(_RENEW, until, webhook.organization, webhook.id, holder):
        return None
    return _get(tx, webhook.organization, webhook.id)


def _take(tx: Transaction, webhook: Webhook, holder: str, now: Instant, tell: Tell) -> bool:
    of = (webhook.organization, webhook.id)
    # An update that changes nothing holds the row: of two replicas that believe in their claim, one waits.
    if not tx.change(
        "UPDATE webhook SET taken = taken WHERE organization = ? AND id = ? AND claimed_by = ?", *of, holder
    ):
        return False
    ((waiting,),) = tx.ask(
        "SELECT COUNT(*) FROM delivery WHERE organization = ? AND webhook = ? AND state = 'PENDING'", *of
    )
    rows = tx.ask(_PLACE_OF, *of, holder)
    if not rows or waiting >= WAITING:
        return False
    alerts_taken, events_taken, taken = rows[0]
    alerts = list_after(tx, webhook.organization, alerts_taken, AT_ONCE)
    events = [to_stored(row) for row in rows_after(tx, webhook.organization, events_taken, AT_ONCE)]
    for message in tell(alerts, events):
        taken += 1
        _insert(tx, webhook, taken, message, now)
    alerts_taken = alerts[-1].sequence if alerts else alerts_taken
    events_taken = events[-1].sequence if events else events_taken
    tx.change(_TAKEN, alerts_taken, events_taken, taken, *of)
    return len(alerts) == AT_ONCE or len(events) == AT_ONCE


def _insert(tx: Transaction, webhook: Webhook, sequence: int, message: Message, now: Instant) -> None:
    values = (
        webhook.organization, webhook.id, sequence, message.id(webhook.id), message.type, message.subject,
        message.body(), DeliveryState.PENDING.value, now, 0, now, None, 0, "",
    )  # fmt: skip
    names, slots = ", ".join(_DELIVERY), ", ".join("?" * len(_DELIVERY))
    tx.change(f"INSERT INTO delivery ({names}) VALUES ({slots})", *values)  # noqa: S608  # names are ours


def _list(
    tx: Transaction, organization: str, webhook: str, state: DeliveryState | None, before: int | None, limit: int
) -> list[Delivery]:
    _get(tx, organization, webhook)
    conditions, values = ["organization = ?", "webhook = ?"], [organization, webhook]
    for condition, value in (("state = ?", state and state.value), ("sequence < ?", before)):
        if value is not None:
            conditions.append(condition)
            values.append(value)  # type: ignore[arg-type]  # a text or a number
    sql = f"{_DELIVERIES} WHERE {' AND '.join(conditions)} ORDER BY sequence DESC LIMIT ?"
    return [_delivery(row) for row in tx.ask(sql, *values, limit)]


def _redeliver(tx: Transaction, organization: str, webhook: str, id: str, now: Instant, event: Event) -> Delivery:
    tx.tally(organization)
    _get(tx, organization, webhook)
    if not tx.change(_AGAIN, now, organization, webhook, id):
        raise NotFound("delivery", id)
    tx.append(event)
    (row,) = tx.ask(f"{_DELIVERIES} WHERE organization = ? AND webhook = ? AND id = ?", organization, webhook, id)
    return _delivery(row)


def _row(it: Webhook) -> tuple[Any, ...]:
    old = it.old_secret
    return (
        it.organization, it.id, it.url, it.description, to_json(it.events), it.enabled, it.secret.ciphertext,
        it.secret.version, it.created_at, it.updated_at, it.version, it.disabled_why, old and old.ciphertext,
        old and old.version, it.old_secret_until,
    )  # fmt: skip


def _webhook(row: Sequence[Any]) -> Webhook:
    (
        organization, id, url, description, events, enabled, secret, secret_version, created_at, updated_at, version,
        disabled_why, old, old_version, old_until,
    ) = row  # fmt: skip
    return Webhook(
        organization, id, url, description, tuple(json.loads(events)), bool(enabled),
        Sealed(bytes(secret), secret_version), created_at, updated_at, version, disabled_why,
        None if old is None else Sealed(bytes(old), old_version), old_until,
    )  # fmt: skip


def _delivery(row: Sequence[Any]) -> Delivery:
    given = dict(zip(_DELIVERY, row, strict=True))
    given["state"] = DeliveryState(given["state"])
    return Delivery(**given)
