"""WebhookService as callers see it. What is sent is in tests/service/test_delivering.py."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import webhooks_pb2 as pb
from doorward_server.store.webhooks import MOST
from tests.wire.serving import refused
from tests.wire.tenants import Tenant, ids

URL = "http://127.0.0.1:1/hook"


def create(**fields: Any) -> pb.CreateWebhookRequest:
    return pb.CreateWebhookRequest(webhook=pb.Webhook(**{"url": URL, **fields}))


def update(*paths: str, **fields: Any) -> pb.UpdateWebhookRequest:
    return pb.UpdateWebhookRequest(webhook=pb.Webhook(**fields), update_mask=FieldMask(paths=paths))


UNHEARD_OF: Any = 99


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (create(url=""), "webhook.url"),
        (create(url="ftp://example.com/"), "webhook.url"),
        (create(url="https://user:password@example.com/"), "webhook.url"),
        (create(events=["key.exploded"]), "webhook.events"),
        (create(events=["key.*"] * 101), "webhook.events"),
        (create(description="x" * 201), "webhook.description"),
        (create(organization="NO"), "organization"),
        (update(id="wh_1"), "update_mask"),
        (update("secret", id="wh_1"), "update_mask"),
        (update("url", id="wh_1", url="nowhere"), "webhook.url"),
        (update("enabled"), "webhook.id"),
        (pb.DeleteWebhookRequest(), "id"),
        (pb.RotateWebhookSecretRequest(id="a b"), "id"),
        (pb.TestWebhookRequest(), "id"),
        (pb.RedeliverWebhookRequest(id="msg_1"), "webhook"),
        (pb.RedeliverWebhookRequest(webhook="wh_1"), "id"),
        (pb.ListWebhooksRequest(page_size=-1), "page_size"),
        (pb.ListWebhookDeliveriesRequest(webhook="wh_1", state=UNHEARD_OF), "state"),
    ],
)
def test_a_bad_field_is_named(acme: Tenant, request_: Any, field: str) -> None:
    api = acme.caller("admin").webhooks
    refusal = refused(lambda: getattr(api, type(request_).__name__.removesuffix("Request"))(request_))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", field)


def test_a_webhook_is_made_changed_and_removed_with_its_events(acme: Tenant) -> None:
    api = acme.caller("admin").webhooks
    made = api.CreateWebhook(create(events=["key.revoked", "alert.*"], description="pager")).webhook
    assert (made.organization, list(made.events), made.enabled) == (acme.id, ["alert.*", "key.revoked"], True)
    changed = api.UpdateWebhook(update("events", "enabled", id=made.id, etag=made.etag)).webhook
    assert (list(changed.events), changed.enabled, changed.description) == ([], False, "pager")
    stale = refused(lambda: api.UpdateWebhook(update("enabled", id=made.id, enabled=True, etag=made.etag)))
    assert (stale.code, stale.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert ids(api.ListWebhooks(pb.ListWebhooksRequest()).webhooks) == [made.id]
    api.DeleteWebhook(pb.DeleteWebhookRequest(id=made.id))
    assert not api.ListWebhooks(pb.ListWebhooksRequest()).webhooks
    assert refused(lambda: api.DeleteWebhook(pb.DeleteWebhookRequest(id=made.id))).reason == "NOT_FOUND"
    assert [it.action for it in acme.events(target=made.id)] == [
        "webhooks:create",
        "webhooks:update",
        "webhooks:delete",
    ]


def test_an_update_that_changes_nothing_is_no_change(acme: Tenant) -> None:
    id = acme.webhook(URL)
    same = acme.root.webhooks.UpdateWebhook(update("url", organization=acme.id, id=id, url=URL)).webhook
    assert same.etag == "1"
    assert not acme.events("webhooks:update")


def test_webhooks_are_paged_and_there_are_only_so_many(acme: Tenant) -> None:
    api = acme.caller("admin").webhooks
    made = sorted(api.CreateWebhook(create(url=f"{URL}{n}")).webhook.id for n in range(MOST))
    refusal = refused(lambda: api.CreateWebhook(create()))
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    first = api.ListWebhooks(pb.ListWebhooksRequest(page_size=15))
    second = api.ListWebhooks(pb.ListWebhooksRequest(page_size=15, page_token=first.next_page_token))
    assert ids([*first.webhooks, *second.webhooks]) == made
    assert not second.next_page_token


def test_a_webhook_of_another_organization_is_not_there(acme: Tenant, globex: Tenant) -> None:
    id, stranger = acme.webhook(URL), globex.caller("admin").webhooks
    for call in (
        lambda: stranger.DeleteWebhook(pb.DeleteWebhookRequest(id=id)),
        lambda: stranger.UpdateWebhook(update("enabled", id=id)),
        lambda: stranger.RotateWebhookSecret(pb.RotateWebhookSecretRequest(id=id)),
        lambda: stranger.ListWebhookDeliveries(pb.ListWebhookDeliveriesRequest(webhook=id)),
        lambda: stranger.TestWebhook(pb.TestWebhookRequest(id=id)),
        lambda: stranger.RedeliverWebhook(pb.RedeliverWebhookRequest(webhook=id, id="msg_1")),
    ):
        assert refused(call).reason == "NOT_FOUND"


def test_what_was_sent_is_listed_and_nobody_there_is_told(acme: Tenant) -> None:
    webhook = acme.webhook(URL)
    id = acme.delivery(webhook)
    api = acme.caller("viewer").webhooks
    (delivery,) = api.ListWebhookDeliveries(pb.ListWebhookDeliveriesRequest(webhook=webhook)).deliveries
    assert (delivery.id, delivery.type) == (id, "alert.leaked")
    tested = acme.root.webhooks.TestWebhook(pb.TestWebhookRequest(organization=acme.id, id=webhook))
    assert (tested.status, tested.problem) == (0, "No answer: ConnectionRefusedError.")
