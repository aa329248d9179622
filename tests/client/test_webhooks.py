"""Webhooks in the client and on its command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from doorward import Client, WebhookDeliveryState
from doorward.v1 import webhooks_pb2 as pb
from tests.client.door import Door

Run = Callable[..., Result]
SECRET = "whsec_canary0123456789"
MADE = pb.Webhook(id="wh_1", organization="acme", url="https://hooks.example.com/", enabled=True, etag="1")


def test_a_webhook_is_made_and_its_secret_does_not_print(door: Door, client: Client) -> None:
    door.will("CreateWebhook", pb.CreateWebhookResponse(webhook=MADE, secret=SECRET))
    made = client.create_webhook("https://hooks.example.com/", organization="acme", events=["key.*"])
    assert made.secret.reveal() == SECRET
    assert SECRET not in repr(made)
    assert (made.webhook.id, made.webhook.enabled) == ("wh_1", True)
    request = door.last.request.webhook
    assert (request.organization, list(request.events)) == ("acme", ["key.*"])


def test_an_update_sends_what_is_given(door: Door, client: Client) -> None:
    door.will("UpdateWebhook", pb.UpdateWebhookResponse(webhook=MADE))
    client.update_webhook("wh_1", events=(), enabled=False, etag="1")
    request = door.last.request
    assert list(request.update_mask.paths) == ["enabled", "events"]
    assert (request.webhook.id, request.webhook.enabled, request.webhook.etag) == ("wh_1", False, "1")


def test_deliveries_are_read(door: Door, client: Client) -> None:
    dead = pb.WebhookDelivery(id="msg_1", state=pb.WEBHOOK_DELIVERY_STATE_DEAD, attempts=10, status=503)
    door.will("ListWebhookDeliveries", pb.ListWebhookDeliveriesResponse(deliveries=[dead]))
    (read,) = client.list_webhook_deliveries("wh_1", state=WebhookDeliveryState.DEAD)
    assert (read.state, read.attempts, read.status) == (WebhookDeliveryState.DEAD, 10, 503)
    assert read.next_attempt_at is None
    assert door.last.request.state == pb.WEBHOOK_DELIVERY_STATE_DEAD


def test_a_test_is_true_if_the_receiver_has_it(door: Door, client: Client) -> None:
    door.will("TestWebhook", pb.TestWebhookResponse(status=200), pb.TestWebhookResponse(problem="No answer."))
    assert client.test_webhook("wh_1")
    assert not client.test_webhook("wh_1")


def test_a_new_secret_stands_alone_on_standard_output(run: Run, door: Door) -> None:
    door.will("CreateWebhook", pb.CreateWebhookResponse(webhook=MADE, secret=SECRET))
    done = run("webhooks", "create", "https://hooks.example.com/", "--event", "alert.*")
    assert (done.exit_code, done.stdout) == (0, f"{SECRET}\n")
    assert SECRET not in done.stderr
    assert list(door.last.request.webhook.events) == ["alert.*"]
    door.will("RotateWebhookSecret", pb.RotateWebhookSecretResponse(webhook=MADE, secret=SECRET))
    told = json.loads(run("webhooks", "rotate-secret", "wh_1", "--output", "json").stdout)
    assert (told["id"], told["secret"]) == ("wh_1", SECRET)


@pytest.mark.parametrize(
    ("args", "rpc", "expected"),
    [
        (["delete", "wh_1", "--yes"], "DeleteWebhook", {"id": "wh_1"}),
        (["redeliver", "wh_1", "msg_1"], "RedeliverWebhook", {"webhook": "wh_1", "id": "msg_1"}),
        (["deliveries", "wh_1", "--state", "dead"], "ListWebhookDeliveries", {"webhook": "wh_1", "state": 3}),
        (["list"], "ListWebhooks", {"organization": ""}),
        (["test", "wh_1"], "TestWebhook", {"id": "wh_1"}),
    ],
)
def test_each_command_asks_what_it_says(
    run: Run, door: Door, args: list[str], rpc: str, expected: dict[str, Any]
) -> None:
    done = run("webhooks", *args)
    assert done.exit_code == 0, done.stderr
    assert door.last.rpc == rpc
    assert {name: getattr(door.last.request, name) for name in expected} == expected


def test_an_update_on_the_command_line_can_ask_for_everything_again(run: Run, door: Door) -> None:
    run("webhooks", "update", "wh_1", "--all-events", "--disable")
    assert list(door.last.request.update_mask.paths) == ["enabled", "events"]
    assert list(door.last.request.webhook.events) == []


def test_a_test_that_failed_says_so_and_exits_with_1(run: Run, door: Door) -> None:
    door.will("TestWebhook", pb.TestWebhookResponse(status=500, problem="The answer was 500."))
    done = run("webhooks", "test", "wh_1")
    assert done.exit_code == 1
    assert "The answer was 500." in done.stderr


def test_what_is_no_state_is_refused(run: Run) -> None:
    done = run("webhooks", "deliveries", "wh_1", "--state", "lost")
    assert done.exit_code == 2
    assert "pending, delivered and dead" in done.stderr
