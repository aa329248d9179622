"""What is sent to webhooks, how it is signed, when again, and where it may go."""

from __future__ import annotations

import json
import time
from ipaddress import ip_address
from typing import Any

import pytest
import standardwebhooks

from doorward_server.core.errors import InvalidField
from doorward_server.core.model import DAY, SECOND, Actor, Event
from doorward_server.core.webhooks import (
    RETRIES,
    TYPES,
    check_events,
    check_url,
    is_public,
    of_alert,
    of_event,
    pause_after,
    secret_text,
    signature,
)
from tests.store.values import NOW, alert

SECRET = bytes(range(32))
NOT_PUBLIC = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
    "::1", "::", "fe80::1", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1",
    "2002:7f00:1::", "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]  # fmt: skip


def headers(id: str, at: int, body: str, *secrets: bytes) -> dict[str, str]:
    return {
        "webhook-id": id,
        "webhook-timestamp": str(at // SECOND),
        "webhook-signature": signature(secrets or (SECRET,), id, at, body),
    }


def test_signatures_are_those_of_the_public_library() -> None:
    now, body = int(time.time()) * SECOND, '{"type":"key.revoked","data":{"name":"Ä 🚪"}}'
    sent = headers("msg_1", now, body)
    receiver = standardwebhooks.Webhook(secret_text(SECRET))
    assert receiver.verify(body.encode(), sent) == json.loads(body)
    for spoilt in (body.replace("revoked", "created"), body + " "):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            receiver.verify(spoilt.encode(), sent)
    for other in ({"webhook-id": "msg_2"}, {"webhook-timestamp": str(now // SECOND + 1)}):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            receiver.verify(body.encode(), sent | other)


def test_while_a_secret_is_rotated_either_one_is_good() -> None:
    now, old = int(time.time()) * SECOND, bytes(32)
    sent = headers("msg_1", now, "{}", SECRET, old)
    for secret in (SECRET, old):
        standardwebhooks.Webhook(secret_text(secret)).verify(b"{}", sent)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret_text(b"x" * 32)).verify(b"{}", sent)


def test_the_pauses_grow_and_end() -> None:
    pauses = [pause_after(attempt, 0.5) for attempt in range(1, 12)]
    assert pauses[: len(RETRIES)] == list(RETRIES)
    assert pauses[len(RETRIES) :] == [None, None]
    assert 2 * DAY < sum(RETRIES) < 4 * DAY
    assert pause_after(1, 0.0) == 4_500_000
    assert pause_after(1, 1.0) == 5_500_000


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_no_address_of_a_private_network_is_public_however_it_is_wrapped(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "http://example.com/", "ftp://example.com/", "https://", "https:///x", "https://u:p@example.com",
        "https://u@example.com", "https://example.com/#part", "https://example.com/ x", "https://exa\nmple.com/",
        "https://example.com:99999/", "https://[::1/", "https://127.0.0.1/", "https://[::1]/", "https://localhost/",
        "https://169.254.169.254/latest", "https://[::ffff:10.0.0.1]/", "https://x.localhost/", "https://é.example/",
        "https://example.com/" + "x" * 2000, "file:///etc/passwd", "https://example.com\x00/",
    ],
)  # fmt: skip
def test_a_url_that_leads_nowhere_or_inside_is_refused(url: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        check_url("url", url, allow_http=False, allow_private=False)
    assert refusal.value.metadata["field"] == "url"


def test_what_the_operator_allows_is_allowed() -> None:
    assert check_url("url", "https://hooks.example.com:8443/a?b=c", allow_http=False, allow_private=False)
    assert check_url("url", "http://10.0.0.1:8080/", allow_http=True, allow_private=True)
    with pytest.raises(InvalidField):
        check_url("url", "http://10.0.0.1/", allow_http=True, allow_private=False)
    with pytest.raises(InvalidField):
        check_url("url", "http://10.0.0.1/", allow_http=False, allow_private=True)


def test_events_are_types_or_groups() -> None:
    assert check_events("events", ["key.revoked", "alert.*", "key.revoked"]) == ("alert.*", "key.revoked")
    assert check_events("events", TYPES) == tuple(sorted(TYPES))
    for wrong in ("key", "*", "key.exploded", "alert.", "Key.revoked"):
        with pytest.raises(InvalidField):
            check_events("events", [wrong])


def test_a_message_says_what_happened_and_always_has_the_same_id() -> None:
    event = Event(
        "acme", NOW, Actor("acme", "key_root", "alice"), "keys:revoke", "key", "key_1", {"a": 1}, {"a": 2}, "x"
    )
    message = of_event(7, event)
    assert message is not None
    told: dict[str, Any] = json.loads(message.body())
    assert (told["type"], told["timestamp"]) == ("key.revoked", "2027-01-15T08:00:00.000Z")
    assert told["data"]["actor"] == {
        "organization": "acme",
        "key": "key_root",
        "principal": "alice",
        "acting_for": None,
    }
    assert (told["data"]["key"], told["data"]["before"], told["data"]["after"]) == ("key_1", {"a": 1}, {"a": 2})
    again = of_event(7, event)
    assert again is not None
    assert message.id("wh_1") == again.id("wh_1") != message.id("wh_2")
    assert message.id("wh_1") != of_alert(alert(sequence=7)).id("wh_1")


def test_moments_are_told_as_people_read_them() -> None:
    secrets = [{"id": "sec_1", "created_at": NOW, "expires_at": None}]
    after = {
        "expires_at": NOW + 1,
        "not_before": NOW,
        "secrets": secrets,
        "metadata": {"sold_at": 5},
        "limits": {"sold_at": 5},
    }
    message = of_event(1, Event("acme", NOW, Actor("acme", "k"), "keys:create", "key", "key_1", None, after))
    assert message is not None
    assert json.loads(message.body())["data"]["after"] == {
        "expires_at": "2027-01-15T08:00:00.000001Z",
        "not_before": "2027-01-15T08:00:00Z",
        "secrets": [{"id": "sec_1", "created_at": "2027-01-15T08:00:00Z", "expires_at": None}],
        "metadata": {"sold_at": 5},
        "limits": {"sold_at": 5},
    }


@pytest.mark.parametrize(
    ("action", "before", "after", "told"),
    [
        ("keys:revoke", {"revoked_at": None}, {"revoked_at": NOW}, "key.revoked"),
        ("keys:leaked", {"revoked_at": None}, {"revoked_at": NOW}, "key.revoked"),
        ("principals:delete", {"revoked_at": None}, {"revoked_at": NOW}, "key.revoked"),
        ("keys:create", {"revoked_at": None}, {"revoked_at": NOW}, "key.revoked"),  # that made place for another
        ("keys:create", None, {"revoked_at": None}, "key.created"),
        ("keys:delete", {"revoked_at": NOW}, {"revoked_at": NOW}, "key.deleted"),
        ("keys:leaked", {"enabled": True}, {"enabled": False}, "key.updated"),
        ("keys:leaked", None, None, None),  # reported, and the keyspace only alerts
    ],
)
def test_a_key_that_ends_is_told_as_revoked_whatever_ended_it(
    action: str, before: dict[str, object] | None, after: dict[str, object] | None, told: str | None
) -> None:
    message = of_event(1, Event("acme", NOW, Actor("acme", "k"), action, "key", "key_1", before, after))
    assert (message and message.type) == told


def test_events_that_are_not_about_keys_tell_nothing() -> None:
    for action, target in (("keyspaces:apply", "keyspace"), ("webhooks:create", "webhook"), ("keys:revoke", "thing")):
        assert of_event(1, Event("acme", NOW, Actor("acme", "k"), action, target, "x")) is None


def test_an_alert_is_sent_with_the_numbers_that_it_has() -> None:
    told = json.loads(of_alert(alert(expected=0, observed=5, sequence=3)).body())
    assert told["type"] == "alert.leaked"
    assert (told["data"]["expected"], told["data"]["observed"], told["data"]["sequence"]) == (0, 5, 3)
    assert "threshold" not in told["data"]
