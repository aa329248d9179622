"""No page is larger than a client takes, however large its entries are; and none of them is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from doorward.v1 import webhooks_pb2 as webhooks
from doorward_server.service import paging
from tests.wire.replicas import until
from tests.wire.requests import RECEIVER, at_desk
from tests.wire.serving import unique
from tests.wire.tenants import Tenant


def _deliveries(acme: Tenant) -> Any:
    webhook = acme.webhook(RECEIVER)
    request = webhooks.ListWebhookDeliveriesRequest(organization=acme.id, webhook=webhook)
    for _ in range(3):
        acme.alert()
    acme.server.on_loop(acme.server.app.watch.deliveries.work)
    until(lambda: len(acme.root.webhooks.ListWebhookDeliveries(request).deliveries) == 3)

    def turn(page_token: str) -> Any:
        request.page_token = page_token
        return acme.root.webhooks.ListWebhookDeliveries(request)

    return turn


def _keys(acme: Tenant) -> Any:
    for _ in range(3):
        acme.key()
    return lambda **at: acme.root.keys.ListKeys(keys.ListKeysRequest(organization=acme.id, **at))


def _bindings(acme: Tenant) -> Any:
    for _ in range(3):
        acme.bind("aiia", "read:findings", principal=acme.person())
    return lambda **at: acme.root.directory.ListBindings(directory.ListBindingsRequest(organization=acme.id, **at))


def _resources(acme: Tenant) -> Any:
    for _ in range(3):
        resource = directory.StoredResource(**at_desk(acme, resource=f"tickets/{unique('t')}"))
        acme.root.directory.PutResource(directory.PutResourceRequest(resource=resource))
    return lambda **at: acme.root.directory.ListResources(directory.ListResourcesRequest(**at_desk(acme), **at))


@pytest.mark.parametrize(
    ("made", "entries"),
    [(_keys, "keys"), (_bindings, "bindings"), (_resources, "resources"), (_deliveries, "deliveries")],
)
def test_a_page_ends_early_rather_than_being_too_large(
    acme: Tenant, made: Callable[[Tenant], Any], entries: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = made(acme)
    monkeypatch.setattr(paging, "PAGE_BYTES", 1)
    seen: list[str] = []
    token = ""
    for _ in range(3):
        page = turn(page_token=token)
        (entry,) = getattr(page, entries)
        seen.append(getattr(entry, "id", "") or entry.resource)
        token = page.next_page_token
    assert (len(set(seen)), token) == (3, "")
