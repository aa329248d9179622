"""Webhooks: made, changed, tried and removed. What is sent to them, `delivering` sends."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from cryptography.exceptions import InvalidTag

from doorward_server.core.errors import EtagMismatch, InvalidField, NotFound, StoreUnavailable
from doorward_server.core.fields import check_id, check_text
from doorward_server.core.keytext import SecretText
from doorward_server.core.model import Actor, Event, Instant, Sealed
from doorward_server.core.webhooks import (
    OVERLAP,
    SECRET_BYTES,
    TEST,
    Delivery,
    DeliveryState,
    Message,
    Webhook,
    check_events,
    check_url,
    secret_text,
    signature,
)
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.ids import Random, new_id
from doorward_server.service.mint import Mint
from doorward_server.service.paging import fitting, make_token, page, page_size, read_token
from doorward_server.service.posting import Posted, Poster
from doorward_server.service.requests import own_or
from doorward_server.store import Store, Written

DESCRIPTION = 200


class Signing:
    """Signing secrets: sealed in the store, and opened to sign, nowhere else."""

    def __init__(self, mint: Mint, clock: Clock, random: Random) -> None:
        self._mint = mint
        self._clock = clock
        self._random = random

    def new(self, organization: str, id: str) -> tuple[Sealed, SecretText]:
        """Make a secret for a webhook: as it is kept, and as its receiver has it."""
        text = secret_text(self._random(SECRET_BYTES))
        return self._mint.seal(_whose(organization, id), SecretText(text)), SecretText(text)

    def headers(self, webhook: Webhook, id: str, body: str) -> dict[str, str]:
        """Return what a message is sent with. Raises StoreUnavailable if this replica lacks the recovery key."""
        now = self._clock()
        secrets = [self._opened(webhook, webhook.secret)]
        if webhook.old_secret is not None and webhook.old_secret_until is not None and now < webhook.old_secret_until:
            with suppress(StoreUnavailable):  # then the new one is what helps: nothing waits for the old one to end
                secrets.append(self._opened(webhook, webhook.old_secret))
        return {
            "content-type": "application/json",
            "user-agent": "Doorward",
            "webhook-id": id,
            "webhook-timestamp": str(now // 1_000_000),
            "webhook-signature": signature(secrets, id, now, body),
        }

    def _opened(self, webhook: Webhook, sealed: Sealed) -> bytes:
        try:
            text = self._mint.unseal(_whose(webhook.organization, webhook.id), sealed)
        except (KeyError, InvalidTag):
            raise StoreUnavailable(
                f"This replica cannot open the secret of the webhook {webhook.id!r} with the recovery keys it has. "
                "Give it the current pepper file."
            ) from None
        return secret_bytes(text)


class Webhooks:
    """Keeps webhooks. Blocking: belongs on the management pool, and `test`, which waits for a receiver, on another.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the thing exists.
    """

    def __init__(
        self,
        store: Store,
        guard: Guard,
        signing: Signing,
        poster: Poster,
        clock: Clock,
        random: Random,
        *,
        allow_http: bool,
        allow_private: bool,
    ) -> None:
        self._store = store
        self._guard = guard
        self._signing = signing
        self._poster = poster
        self._clock = clock
        self._random = random
        self._allowed = {"allow_http": allow_http, "allow_private": allow_private}

    def create(
        self, caller: Caller, organization: str, url: str, description: str, events: Sequence[str]
    ) -> tuple[Written[Webhook], SecretText]:
        """Make a webhook, told of what happens from now on; its secret is shown this once.

        Raises InvalidField, NotFound (organization), QuotaExceeded.
        """
        organization, actor = self._may(caller, "webhooks:create", organization)
        checked = self._checked({"url": url, "description": description, "events": events})
        if self._store.find_organization(organization) is None:
            raise NotFound("organization", organization)
        id, now = new_id("wh", self._random), self._clock()
        sealed, text = self._signing.new(organization, id)
        made = Webhook(organization, id, enabled=True, secret=sealed, created_at=now, updated_at=now, **checked)  # type: ignore[arg-type]  # checked, by name
        return self._store.webhooks.add(made, _event(actor, "webhooks:create", made, now, None, _told(made))), text

    def list(self, caller: Caller, organization: str, size: int, token: str) -> tuple[Sequence[Webhook], str]:
        """Return a page, by id."""
        organization, _ = self._may(caller, "webhooks:list", organization)
        read = self._store.webhooks.list_some
        return page(f"webhooks {organization}", size, token, lambda *at: read(organization, *at), lambda it: it.id)

    def update(
        self, caller: Caller, organization: str, id: str, settings: Mapping[str, object], etag: str
    ) -> Written[Webhook]:
        """Change `url`, `description`, `events`, `enabled`. While it is disabled nothing is lost: it goes on after.

        Raises InvalidField, NotFound, EtagMismatch.
        """
        organization, actor = self._may(caller, "webhooks:update", organization)
        check_id("webhook.id", id)
        checked, now = self._checked(settings), self._clock()

        def change(current: Webhook) -> tuple[Webhook, Event] | None:
            if etag not in ("", str(current.version)):
                raise EtagMismatch("webhook", id)
            new = replace(current, **checked)  # type: ignore[arg-type]  # checked, by name
            if new.enabled:
                new = replace(new, disabled_why="")
            if new == current:
                return None
            new = replace(new, updated_at=now, version=current.version + 1)
            return new, _event(actor, "webhooks:update", new, now, _told(current), _told(new))

        return self._store.webhooks.update(organization, id, change)

    def rotate_secret(self, caller: Caller, organization: str, id: str) -> tuple[Written[Webhook], SecretText]:
        """Give it another secret, shown this once; the old one signs along for 24 hours. Raises NotFound."""
        organization, actor = self._may(caller, "webhooks:update", organization)
        check_id("id", id)
        now = self._clock()
        sealed, text = self._signing.new(organization, id)

        def change(current: Webhook) -> tuple[Webhook, Event]:
            new = replace(current, secret=sealed, old_secret=current.secret, old_secret_until=now + OVERLAP)
            new = replace(new, updated_at=now, version=current.version + 1)
            return new, _event(actor, "webhooks:update", new, now, None, {"secret": "rotated"})

        return self._store.webhooks.update(organization, id, change), text

    def delete(self, caller: Caller, organization: str, id: str) -> Written[None]:
        """Remove a webhook with all that is on its way to it. Raises NotFound."""
        organization, actor = self._may(caller, "webhooks:delete", organization)
        check_id("id", id)
        event = Event(organization, self._clock(), actor, "webhooks:delete", "webhook", id)
        return self._store.webhooks.delete(organization, id, event)

    def list_deliveries(
        self, caller: Caller, organization: str, id: str, state: DeliveryState | None, size: int, token: str
    ) -> tuple[Sequence[Delivery], str]:
        """Return a page of what was, or will be, sent to a webhook, the latest first. Raises NotFound."""
        organization, _ = self._may(caller, "webhooks:list", organization)
        check_id("webhook", id)
        scope, limit = f"deliveries {(organization, id, state)}", page_size(size)
        start = read_token(scope, token, (int,))
        before = int(start[0]) if start else None
        rows = self._store.webhooks.list_deliveries(organization, id, state, before, limit + 1)
        shown = fitting(rows, limit, lambda it: len(it.body.encode()) + len(repr(it)))
        return shown, make_token(scope, [shown[-1].sequence]) if len(shown) < len(rows) else ""

    def redeliver(self, caller: Caller, organization: str, webhook: str, id: str) -> Written[Delivery]:
        """Let a message be sent again, from the first attempt on, under the id that it has. Raises NotFound."""
        organization, actor = self._may(caller, "webhooks:redeliver", organization)
        check_id("webhook", webhook)
        check_id("id", id)
        now = self._clock()
        event = Event(organization, now, actor, "webhooks:redeliver", "webhook", webhook, note=id)
        return self._store.webhooks.redeliver(organization, webhook, id, now, event)

    def test(self, caller: Caller, organization: str, id: str) -> Posted:
        """Send a message that tells of nothing, once, and return what came of it. Raises NotFound, StoreUnavailable."""
        organization, _ = self._may(caller, "webhooks:test", organization)
        check_id("id", id)
        webhook = self._store.webhooks.find(organization, id)
        if webhook is None:
            raise NotFound("webhook", id)
        data: dict[str, object] = {"organization": organization, "webhook": id}
        message = Message(f"test/{self._random(16).hex()}", TEST, id, self._clock(), data)
        headers = self._signing.headers(webhook, message.id(id), message.body())
        return self._poster.post(webhook.url, headers, message.body().encode())

    def _may(self, caller: Caller, permission: str, organization: str) -> tuple[str, Actor]:
        organization = own_or(caller, organization)
        return organization, self._guard.require(caller, permission, f"organizations/{organization}/webhooks")

    def _checked(self, settings: Mapping[str, object]) -> dict[str, object]:
        checked = dict(settings)
        if "url" in settings:
            checked["url"] = check_url("webhook.url", str(settings["url"]), **self._allowed)
        if "description" in settings:
            checked["description"] = check_text("webhook.description", str(settings["description"]), DESCRIPTION)
        if "events" in settings:
            events = settings["events"]
            if not isinstance(events, list | tuple):
                raise InvalidField("webhook.events", "must be a list")
            checked["events"] = check_events("webhook.events", events)
        return checked


def secret_bytes(text: SecretText) -> bytes:
    """Return what signs, of a secret as its receiver has it."""
    return base64.b64decode(text.reveal().partition("_")[2])


def _whose(organization: str, id: str) -> tuple[str, ...]:
    return "webhook", organization, id, "secret"


def _told(webhook: Webhook) -> dict[str, object]:
    """Return what the audit log keeps of a webhook."""
    names = ("url", "description", "events", "enabled")
    return {name: getattr(webhook, name) for name in names}


def _event(
    actor: Actor,
    action: str,
    webhook: Webhook,
    now: Instant,
    before: Mapping[str, object] | None,
    after: Mapping[str, object],
) -> Event:
    return Event(webhook.organization, now, actor, action, "webhook", webhook.id, before, after)
