"""WebhookService on the wire."""

from __future__ import annotations

from doorward.v1 import webhooks_pb2 as pb
from doorward_server.core.webhooks import Delivery, DeliveryState, Webhook
from doorward_server.service.guard import Caller
from doorward_server.service.pool import Pool
from doorward_server.service.webhooks import Webhooks
from doorward_server.wire.convert import from_enum, from_texts, masked, to_timestamp

STATES = {state: pb.WebhookDeliveryState.Value(f"WEBHOOK_DELIVERY_STATE_{state}") for state in DeliveryState}
_SETTINGS = {
    "url": lambda it: it.url,
    "description": lambda it: it.description,
    "events": lambda it: from_texts("webhook.events", it.events),
    "enabled": lambda it: it.enabled,
}


class WebhookServicer:
    """Parses, calls `Webhooks` on the management pool, converts; who waits for a receiver does so on *posting*."""

    def __init__(self, webhooks: Webhooks, management: Pool, posting: Pool) -> None:
        self._webhooks = webhooks
        self._run = management.run
        self._post = posting.run

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, caller: Caller) -> pb.CreateWebhookResponse:
        given = request.webhook
        events = from_texts("webhook.events", given.events)
        written, secret = await self._run(
            self._webhooks.create, caller, given.organization, given.url, given.description, events
        )
        return pb.CreateWebhookResponse(webhook=_to_webhook(written.value), secret=secret.reveal())

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, caller: Caller) -> pb.ListWebhooksResponse:
        rows, token = await self._run(
            self._webhooks.list, caller, request.organization, request.page_size, request.page_token
        )
        return pb.ListWebhooksResponse(webhooks=map(_to_webhook, rows), next_page_token=token)

    async def UpdateWebhook(self, request: pb.UpdateWebhookRequest, caller: Caller) -> pb.UpdateWebhookResponse:
        given = request.webhook
        settings = masked(given, request.update_mask, _SETTINGS)
        written = await self._run(self._webhooks.update, caller, given.organization, given.id, settings, given.etag)
        return pb.UpdateWebhookResponse(webhook=_to_webhook(written.value))

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, caller: Caller
    ) -> pb.RotateWebhookSecretResponse:
        written, secret = await self._run(self._webhooks.rotate_secret, caller, request.organization, request.id)
        return pb.RotateWebhookSecretResponse(webhook=_to_webhook(written.value), secret=secret.reveal())

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, caller: Caller) -> pb.DeleteWebhookResponse:
        await self._run(self._webhooks.delete, caller, request.organization, request.id)
        return pb.DeleteWebhookResponse()

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, caller: Caller
    ) -> pb.ListWebhookDeliveriesResponse:
        state = from_enum("state", request.state, STATES, None)
        asked = (request.organization, request.webhook, state, request.page_size, request.page_token)
        rows, token = await self._run(self._webhooks.list_deliveries, caller, *asked)
        return pb.ListWebhookDeliveriesResponse(deliveries=map(_to_delivery, rows), next_page_token=token)

    async def RedeliverWebhook(
        self, request: pb.RedeliverWebhookRequest, caller: Caller
    ) -> pb.RedeliverWebhookResponse:
        written = await self._run(self._webhooks.redeliver, caller, request.organization, request.webhook, request.id)
        return pb.RedeliverWebhookResponse(delivery=_to_delivery(written.value))

    async def TestWebhook(self, request: pb.TestWebhookRequest, caller: Caller) -> pb.TestWebhookResponse:
        posted = await self._post(self._webhooks.test, caller, request.organization, request.id)
        return pb.TestWebhookResponse(status=posted.status, problem=posted.problem)


def _to_webhook(it: Webhook) -> pb.Webhook:
    return pb.Webhook(
        id=it.id,
        organization=it.organization,
        url=it.url,
        description=it.description,
        events=it.events,
        enabled=it.enabled,
        disabled_why=it.disabled_why,
        created_at=to_timestamp(it.created_at),
        updated_at=to_timestamp(it.updated_at),
        etag=str(it.version),
    )


def _to_delivery(it: Delivery) -> pb.WebhookDelivery:
    pending = it.state is DeliveryState.PENDING
    return pb.WebhookDelivery(
        id=it.id,
        type=it.type,
        subject=it.subject,
        state=STATES[it.state],
        created_at=to_timestamp(it.created_at),
        attempts=it.attempts,
        next_attempt_at=to_timestamp(it.next_at) if pending else None,
        last_attempt_at=to_timestamp(it.last_at),
        status=it.status,
        problem=it.problem,
        body=it.body,
    )
