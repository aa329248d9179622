"""WebhookService: alerts, and what becomes of keys, sent to whoever wants to be told."""

from __future__ import annotations

from collections.abc import Iterable

from doorward.calls import Call, Pages
from doorward.calls.values import KEEP, Keep, given, instant, instant_or_none, mask, numbers, words
from doorward.secret import Secret
from doorward.v1 import webhooks_pb2 as pb
from doorward.webhooks import IssuedWebhook, TestedWebhook, Webhook, WebhookDelivery, WebhookDeliveryState

DELIVERY_STATES = words(WebhookDeliveryState, pb.WebhookDeliveryState, "WEBHOOK_DELIVERY_STATE_")


def create_webhook(
    url: str,
    *,
    organization: str = "",
    description: str = "",
    events: Iterable[str] = (),
    timeout: float | None = None,
) -> Call[pb.CreateWebhookResponse, IssuedWebhook]:
    """Make a webhook, told of what happens from now on: of types like "key.revoked" and "alert.*", without any, of all.

    The secret in the answer is shown this once. No organization means the caller's own, here as below.
    """
    webhook = pb.Webhook(organization=organization, url=url, description=description, events=events)
    return Call(pb.CreateWebhookRequest(webhook=webhook), pb.CreateWebhookResponse, _issued, timeout)


def list_webhooks(
    *, organization: str = "", page_size: int = 0, timeout: float | None = None
) -> Pages[pb.ListWebhooksResponse, Webhook]:
    """All webhooks of an organization, by id."""
    return Pages(
        pb.ListWebhooksRequest(organization=organization, page_size=page_size),
        pb.ListWebhooksResponse,
        lambda answer: map(_read, answer.webhooks),
        timeout,
    )


def update_webhook(
    id: str,
    *,
    organization: str = "",
    url: str | Keep = KEEP,
    description: str | Keep = KEEP,
    events: Iterable[str] | Keep = KEEP,
    enabled: bool | Keep = KEEP,
    etag: str = "",
    timeout: float | None = None,
) -> Call[pb.UpdateWebhookResponse, Webhook]:
    """Change a webhook. While it is disabled nothing is sent, and nothing is lost: it goes on where it was."""
    changes = given(url=url, description=description, events=events, enabled=enabled)
    webhook = pb.Webhook(organization=organization, id=id, etag=etag, **changes)
    return Call(
        pb.UpdateWebhookRequest(webhook=webhook, update_mask=mask(changes)),
        pb.UpdateWebhookResponse,
        lambda answer: _read(answer.webhook),
        timeout,
    )


def rotate_webhook_secret(
    id: str, *, organization: str = "", timeout: float | None = None
) -> Call[pb.RotateWebhookSecretResponse, IssuedWebhook]:
    """Give a webhook another secret, shown this once; for 24 hours the old one signs along."""
    request = pb.RotateWebhookSecretRequest(organization=organization, id=id)
    return Call(request, pb.RotateWebhookSecretResponse, _issued, timeout)


def delete_webhook(
    id: str, *, organization: str = "", timeout: float | None = None
) -> Call[pb.DeleteWebhookResponse, None]:
    """Remove a webhook, with all that is on its way to it."""
    request = pb.DeleteWebhookRequest(organization=organization, id=id)
    return Call(request, pb.DeleteWebhookResponse, lambda answer: None, timeout)


def list_webhook_deliveries(
    webhook: str,
    *,
    organization: str = "",
    state: WebhookDeliveryState | None = None,
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[pb.ListWebhookDeliveriesResponse, WebhookDelivery]:
    """What was sent to a webhook in the last 30 days, what waits, and what is dead; the latest first."""
    return Pages(
        pb.ListWebhookDeliveriesRequest(
            organization=organization,
            webhook=webhook,
            state=numbers(DELIVERY_STATES)[state] if state is not None else None,  # type: ignore[arg-type]  # a number
            page_size=page_size,
        ),
        pb.ListWebhookDeliveriesResponse,
        lambda answer: map(_delivery, answer.deliveries),
        timeout,
    )


def redeliver_webhook(
    webhook: str, id: str, *, organization: str = "", timeout: float | None = None
) -> Call[pb.RedeliverWebhookResponse, WebhookDelivery]:
    """Send a message again, from the first attempt on, whatever became of it."""
    return Call(
        pb.RedeliverWebhookRequest(organization=organization, webhook=webhook, id=id),
        pb.RedeliverWebhookResponse,
        lambda answer: _delivery(answer.delivery),
        timeout,
    )


def test_webhook(
    id: str,
    *,
    organization: str = "",  # noqa: PT028  # no test: the RPC has this name
    timeout: float | None = 20.0,  # noqa: PT028
) -> Call[pb.TestWebhookResponse, TestedWebhook]:
    """Send a message of type `webhook.test` once, and return what came of it. Takes as long as the receiver does."""
    return Call(
        pb.TestWebhookRequest(organization=organization, id=id),
        pb.TestWebhookResponse,
        lambda answer: TestedWebhook(answer.status, answer.problem),
        timeout,
    )


def _issued(answer: pb.CreateWebhookResponse | pb.RotateWebhookSecretResponse) -> IssuedWebhook:
    return IssuedWebhook(_read(answer.webhook), Secret(answer.secret))


def _read(webhook: pb.Webhook) -> Webhook:
    return Webhook(
        id=webhook.id,
        organization=webhook.organization,
        url=webhook.url,
        description=webhook.description,
        events=tuple(webhook.events),
        enabled=webhook.enabled,
        disabled_why=webhook.disabled_why,
        created_at=instant(webhook.created_at),
        updated_at=instant(webhook.updated_at),
        etag=webhook.etag,
    )


def _delivery(it: pb.WebhookDelivery) -> WebhookDelivery:
    return WebhookDelivery(
        id=it.id,
        type=it.type,
        subject=it.subject,
        state=DELIVERY_STATES.get(it.state, WebhookDeliveryState.UNKNOWN),
        created_at=instant(it.created_at),
        attempts=it.attempts,
        next_attempt_at=instant_or_none(it, "next_attempt_at"),
        last_attempt_at=instant_or_none(it, "last_attempt_at"),
        status=it.status,
        problem=it.problem,
        body=it.body,
    )
