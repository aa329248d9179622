"""Webhooks, from what happens to a real receiver that checks the signatures with the public library."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import keys_pb2
from doorward.v1 import webhooks_pb2 as pb
from doorward_server.core.model import SECOND
from doorward_server.core.webhooks import RETRIES
from doorward_server.service.delivering import CLAIM, _telling
from doorward_server.store import webhooks as stored
from doorward_server.wire.webhooks import WebhookServicer
from tests.fakes import FakeClock
from tests.service.door import Door, keyspace, opened_door, unique
from tests.service.receivers import Receiver, receiving
from tests.store.values import alert

ALLOWED = {"webhook_allow_http": True, "webhook_allow_private": True}
DAY = 86_400


@pytest.fixture
def clock() -> FakeClock:
    """Begins now: who checks a signature looks at the real time."""
    return FakeClock(int(time.time()) * SECOND)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@dataclass
class Place:
    """An organization with a webhook, and keys that things happen to."""

    door: Door
    receiver: Receiver
    id: str
    keyspace: str
    webhook: str
    secret: str

    @property
    def api(self) -> WebhookServicer:
        return cast(WebhookServicer, self.door.app.servicers.webhooks)

    def key(self) -> str:
        return str(self.door.create(self.id, self.keyspace).key.id)

    def revoke(self, key: str) -> None:
        request = keys_pb2.RevokeKeyRequest(organization=self.id, id=key)
        self.door.run(self.door.keys.RevokeKey(request, self.door.caller()))

    def deliver(self, *doors: Door) -> None:
        for door in doors or (self.door,):
            door.run(_delivered(door))

    def update(self, **settings: Any) -> pb.Webhook:
        webhook = pb.Webhook(organization=self.id, id=self.webhook, **settings)
        request = pb.UpdateWebhookRequest(webhook=webhook, update_mask=FieldMask(paths=list(settings)))
        return self.door.run(self.api.UpdateWebhook(request, self.door.caller())).webhook

    def deliveries(self, state: str = "UNSPECIFIED") -> list[pb.WebhookDelivery]:
        """The latest first."""
        wanted = pb.WebhookDeliveryState.Value(f"WEBHOOK_DELIVERY_STATE_{state}")
        request = pb.ListWebhookDeliveriesRequest(organization=self.id, webhook=self.webhook, state=wanted)
        return list(self.door.run(self.api.ListWebhookDeliveries(request, self.door.caller())).deliveries)

    @property
    def came(self) -> list[tuple[str, str]]:
        return [it.what for it in self.receiver.received]


async def _delivered(door: Door) -> None:
    while await door.app.watch.deliveries.work():
        await door.app.watch.deliveries.settle()


def created(door: Door, url: str, organization: str, *events: str) -> pb.CreateWebhookResponse:
    api = cast(WebhookServicer, door.app.servicers.webhooks)
    webhook = pb.Webhook(organization=organization, url=url, events=events)
    return door.run(api.CreateWebhook(pb.CreateWebhookRequest(webhook=webhook), door.caller()))


def placed(door: Door, receiver: Receiver, *events: str) -> Place:
    name, organization = unique("shop"), door.organization()
    door.apply(keyspace(name, f"prefix: {name}"))
    made = created(door, receiver.url(), organization, *events)
    return Place(door, receiver, organization, name, made.webhook.id, made.secret)


@pytest.fixture
def door(store_url: str, tmp_path: Path, clock: FakeClock) -> Iterator[Door]:
    with opened_door(store_url, tmp_path, clock, **ALLOWED) as door:
        yield door


@pytest.fixture
def place(door: Door, receiver: Receiver) -> Place:
    return placed(door, receiver)


# --- what is told -----------------------------------------------------------------------------------------------------


def test_what_becomes_of_a_key_is_told_signed_and_in_order(place: Place) -> None:
    key = place.key()
    place.door.run(
        place.door.keys.RotateKey(keys_pb2.RotateKeyRequest(organization=place.id, id=key), place.door.caller())
    )
    place.revoke(key)
    place.deliver()
    told = [it.verified(place.secret) for it in place.receiver.received]
    assert [(it["type"], it["data"]["key"]) for it in told] == [
        ("key.created", key), ("key.rotated", key), ("key.revoked", key),
    ]  # fmt: skip
    assert len({it.id for it in place.receiver.received}) == 3
    place.deliver()
    assert len(place.receiver.received) == 3


def test_an_alert_is_told_as_it_is_listed(place: Place) -> None:
    (made,) = place.door.app.store.alerts.add([alert(place.id, at=place.door.clock.now, threshold=20, observed=23)])
    place.deliver()
    (told,) = (it.verified(place.secret) for it in place.receiver.received)
    assert told["type"] == "alert.leaked"
    assert told["data"]["id"] == made.id
    assert (told["data"]["threshold"], told["data"]["observed"]) == (20, 23)


def test_what_was_before_and_what_is_another_organizations_is_not_told(place: Place, receiver: Receiver) -> None:
    before = place.key()
    placed(place.door, receiver)
    created(place.door, receiver.url(path="/late"), place.id)
    mine = place.key()
    place.deliver()
    late = [it.what for it in receiver.received if it.path == "/late"]
    assert late == [("key.created", mine)]
    assert sorted(key for _, key in place.came) == sorted([before, mine, mine])


def test_only_what_it_wants_is_sent_to_it(door: Door, receiver: Receiver) -> None:
    place = placed(door, receiver, "key.revoked", "alert.*")
    key = place.key()
    place.revoke(key)
    door.app.store.alerts.add([alert(place.id, at=door.clock.now)])
    place.deliver()
    assert sorted(type for type, _ in place.came) == ["alert.leaked", "key.revoked"]


def test_the_secret_is_shown_once_and_kept_sealed(place: Place, store_url: str, tmp_path: Path) -> None:
    request = pb.ListWebhooksRequest(organization=place.id)
    (listed,) = place.door.run(place.api.ListWebhooks(request, place.door.caller())).webhooks
    assert place.secret.startswith("whsec_")
    assert place.secret not in str(listed)
    kept = place.door.app.store.webhooks.find(place.id, place.webhook)
    assert kept is not None
    assert place.secret.encode() not in kept.secret.ciphertext
    assert place.secret not in repr(kept)
    events = place.door.app.store.list_events(place.id, 0, 1000)
    assert place.secret not in repr(events)
    if store_url.startswith("sqlite"):
        pages = b"".join(file.read_bytes() for file in tmp_path.glob("*.db*") if file.is_file())
        assert place.webhook.encode() in pages
        assert place.secret.removeprefix("whsec_").encode() not in pages


def test_a_rotated_secret_signs_along_for_a_day(place: Place) -> None:
    request = pb.RotateWebhookSecretRequest(organization=place.id, id=place.webhook)
    new = place.door.run(place.api.RotateWebhookSecret(request, place.door.caller())).secret
    assert new != place.secret
    place.key()
    place.deliver()
    (request_,) = place.receiver.received
    for secret in (place.secret, new):
        assert request_.verified(secret)["type"] == "key.created"
    place.door.clock.advance(DAY)
    place.key()
    place.deliver()
    assert place.receiver.received[-1].headers["webhook-signature"].count("v1,") == 1


# --- again, and in order ----------------------------------------------------------------------------------------------


def check_a_key_is_told_of_in_order(place: Place) -> None:
    one, other = place.key(), place.key()
    place.deliver()
    place.receiver.received.clear()
    place.receiver.statuses = [500, 204]
    place.revoke(one)
    place.deliver()
    place.door.run(
        place.door.keys.DeleteKey(keys_pb2.DeleteKeyRequest(organization=place.id, id=one), place.door.caller())
    )
    place.revoke(other)
    place.deliver()
    assert place.came == [("key.revoked", one), ("key.revoked", other)], "one's next message waits, another's does not"
    place.door.clock.advance(6)
    place.deliver()
    assert place.came[2:] == [("key.revoked", one), ("key.deleted", one)]
    first, _, again, _ = place.receiver.received
    assert first.id == again.id
    assert again.verified(place.secret) == first.verified(place.secret)


def test_a_key_is_told_of_in_order_and_again_until_it_is_received(place: Place) -> None:
    check_a_key_is_told_of_in_order(place)


def test_what_is_never_received_ends_on_the_dead_letter_list_and_can_be_sent_again(place: Place) -> None:
    place.receiver.statuses = [503]
    place.key()
    for pause in (0, *RETRIES):
        place.door.clock.advance(pause * 1.2 / SECOND)
        place.deliver()
    place.door.clock.advance(30 * DAY)
    place.deliver()
    assert len(place.receiver.received) == 1 + len(RETRIES) == 10
    (dead,) = place.deliveries("DEAD")
    assert (dead.attempts, dead.status, dead.problem) == (10, 503, "The answer was 503.")
    assert not dead.HasField("next_attempt_at")
    place.receiver.statuses = [200]
    request = pb.RedeliverWebhookRequest(organization=place.id, webhook=place.webhook, id=dead.id)
    place.door.run(place.api.RedeliverWebhook(request, place.door.caller()))
    place.deliver()
    assert {it.id for it in place.receiver.received} == {dead.id}
    assert [it.id for it in place.deliveries("DELIVERED")] == [dead.id]
    assert len(place.door.events(place.id, "webhooks:redeliver")) == 1


def test_a_receiver_that_is_gone_is_sent_nothing_more(place: Place) -> None:
    place.receiver.statuses = [410]
    place.key()
    place.deliver()
    place.key()
    place.deliver()
    assert len(place.receiver.received) == 1
    request = pb.ListWebhooksRequest(organization=place.id)
    (listed,) = place.door.run(place.api.ListWebhooks(request, place.door.caller())).webhooks
    assert (listed.enabled, listed.disabled_why) == (False, "The receiver answered 410 Gone.")
    assert len(place.door.events(place.id, "webhooks:disable")) == 1
    place.receiver.statuses = [204]
    assert place.update(enabled=True).disabled_why == ""
    place.door.clock.advance(6)
    place.deliver()
    assert len(place.receiver.received) == 3, "nothing was lost meanwhile"


def test_a_disabled_webhook_goes_on_where_it_was(place: Place) -> None:
    place.update(enabled=False)
    key = place.key()
    place.deliver()
    assert place.came == []
    place.update(enabled=True)
    place.revoke(key)
    place.deliver()
    assert place.came == [("key.created", key), ("key.revoked", key)]


def test_a_webhook_that_is_deleted_is_sent_nothing_more(place: Place) -> None:
    place.receiver.statuses = [500]
    place.key()
    place.deliver()
    request = pb.DeleteWebhookRequest(organization=place.id, id=place.webhook)
    place.door.run(place.api.DeleteWebhook(request, place.door.caller()))
    place.door.clock.advance(6)
    place.key()
    place.deliver()
    assert len(place.receiver.received) == 1


def test_a_test_says_at_once_what_came_of_it(place: Place) -> None:
    request = pb.TestWebhookRequest(organization=place.id, id=place.webhook)
    place.receiver.statuses = [200, 403]
    good, bad = (place.door.run(place.api.TestWebhook(request, place.door.caller())) for _ in range(2))
    assert (good.status, good.problem) == (200, "")
    assert (bad.status, bad.problem) == (403, "The answer was 403.")
    assert place.receiver.received[0].verified(place.secret)["type"] == "webhook.test"


# --- several replicas -------------------------------------------------------------------------------------------------


def check_replicas_send_each_message_once(one: Door, other: Door, receiver: Receiver) -> None:
    place = placed(one, receiver)
    keys = [place.key() for _ in range(8)]
    claimed = [door.run(_begun(door)) for door in (one, other)]
    for door in (one, other):
        door.run(door.app.watch.deliveries.settle())
    assert claimed == [1, 0]
    assert sorted(place.came) == sorted(("key.created", key) for key in keys)


async def _begun(door: Door) -> int:
    return await door.app.watch.deliveries.work()


@pytest.fixture
def two(store_url: str, tmp_path: Path, clock: FakeClock) -> Iterator[tuple[Door, Door]]:
    with (
        opened_door(store_url, tmp_path, clock, **ALLOWED) as one,
        opened_door(store_url, tmp_path, clock, **ALLOWED) as other,
    ):
        yield one, other


def test_replicas_send_each_message_once(two: tuple[Door, Door], receiver: Receiver) -> None:
    check_replicas_send_each_message_once(*two, receiver)


def check_nothing_is_lost_with_a_replica(door: Door, receiver: Receiver) -> None:
    """One that is killed after it has claimed, and after it has taken what there is to tell."""
    place = placed(door, receiver)
    keys = [place.key() for _ in range(3)]
    now = door.clock.now
    (webhook,) = door.app.store.webhooks.claim("dead", now, now + CLAIM, 5)
    door.app.store.webhooks.take(webhook, "dead", now, _telling(webhook))
    keys += [place.key() for _ in range(3)]
    place.deliver()
    assert place.came == [], "it may still be sending"
    door.clock.advance(CLAIM / SECOND)
    place.deliver()
    assert sorted(place.came) == sorted(("key.created", key) for key in keys)


def test_nothing_is_lost_with_a_replica_and_nothing_is_made_up(door: Door, receiver: Receiver) -> None:
    check_nothing_is_lost_with_a_replica(door, receiver)


def test_a_replica_that_lost_its_claim_sends_and_takes_nothing(place: Place) -> None:
    store, now = place.door.app.store.webhooks, place.door.clock.now
    place.key()
    (webhook,) = store.claim("slow", now, now + CLAIM, 5)
    assert store.claim("other", now + CLAIM, now + 2 * CLAIM, 5)
    assert store.renew(webhook, "slow", now + 9 * CLAIM) is None
    assert not store.take(webhook, "slow", now, lambda alerts, events: [])
    assert store.renew(webhook, "other", now + 3 * CLAIM) is not None


# --- planted bugs -----------------------------------------------------------------------------------------------------


def no_order(patch: pytest.MonkeyPatch) -> None:
    """Messages of one key overtake each other."""
    for name in ("_NEXT", "_BUSY"):
        patch.setattr(stored, name, getattr(stored, name).replace("e.sequence < d.sequence", "e.sequence < 0"))


def no_claim(patch: pytest.MonkeyPatch) -> None:
    """Each replica believes that a webhook is its own."""
    patch.setattr(stored, "_BUSY", stored._BUSY.replace("w.claimed_until <= ?", "w.claimed_until <= ? + 9000000000"))
    patch.setattr(stored, "_CLAIM", stored._CLAIM.replace("claimed_until <= ?", "claimed_until <= ? + 9000000000"))


def taken_before_it_is_kept(patch: pytest.MonkeyPatch) -> None:
    """What was taken counts as told although it was not kept."""
    patch.setattr(stored, "_insert", lambda *_: None)


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (no_order, lambda one, other, receiver: check_a_key_is_told_of_in_order(placed(one, receiver))),
        (no_claim, check_replicas_send_each_message_once),
        (taken_before_it_is_kept, lambda one, other, receiver: check_nothing_is_lost_with_a_replica(one, receiver)),
    ],
)
def test_a_planted_bug_is_noticed(
    two: tuple[Door, Door],
    receiver: Receiver,
    plant: Callable[[pytest.MonkeyPatch], None],
    check: Callable[[Door, Door, Receiver], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(*two, receiver)


def test_what_came_is_what_was_kept(place: Place) -> None:
    place.key()
    place.deliver()
    (request,) = place.receiver.received
    (kept,) = place.deliveries()
    assert (request.id, request.body.decode()) == (kept.id, kept.body)
