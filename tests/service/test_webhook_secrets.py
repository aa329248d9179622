"""Signing secrets of webhooks that nobody can open any more."""

from __future__ import annotations

from dataclasses import replace

from doorward.v1 import webhooks_pb2 as pb
from doorward_server.core.model import Event
from doorward_server.core.webhooks import Webhook
from doorward_server.service.delivering import ACTOR
from tests.service.test_delivering import Place, clock, door, place, receiver  # noqa: F401  # fixtures


def test_a_new_secret_signs_although_nobody_can_open_the_old_one(place: Place) -> None:  # noqa: F811
    """Whose recovery key is lost rotates secrets, and then messages go out."""

    def lost(current: Webhook) -> tuple[Webhook, Event]:
        sealed = replace(current.secret, version=99)
        event = Event(place.id, place.door.clock.now, ACTOR, "webhooks:update", "webhook", current.id)
        return replace(current, secret=sealed), event

    place.door.app.store.webhooks.update(place.id, place.webhook, lost)
    key = place.key()
    place.deliver()
    assert place.came == []
    request = pb.RotateWebhookSecretRequest(organization=place.id, id=place.webhook)
    secret = place.door.run(place.api.RotateWebhookSecret(request, place.door.caller())).secret
    place.door.clock.advance(61)
    place.deliver()
    assert [it.verified(secret)["data"]["key"] for it in place.receiver.received] == [key]
