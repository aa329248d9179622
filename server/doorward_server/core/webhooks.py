"""Webhooks: what is sent, how it is signed, when it is tried again, and where it may go. Pure.

Messages and signatures are those of the Standard Webhooks specification: `webhook-id`, `webhook-timestamp`,
`webhook-signature: v1,<base64 of HMAC-SHA256>`, secrets that begin with `whsec_`.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from .alerts import Alert, AlertKind
from .audit import readable
from .errors import InvalidField
from .keytext import base62
from .leaks import LEAKED
from .model import SECOND, Event, Instant, Sealed
from .subject import Address

SECRET_BYTES = 32
PREFIX = "whsec_"
OVERLAP = 24 * 3600 * SECOND
"""Microseconds for which a secret that was rotated signs along with the new one."""
RETRIES = tuple(seconds * SECOND for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400))
"""Pauses before each further attempt, each 10% shorter or longer by chance: ten attempts within some three days."""
LONGEST_URL = 2000
TEST = "webhook.test"
ACTIONS = {
    "keys:create": "key.created",
    "keys:import": "key.imported",
    "keys:update": "key.updated",
    "keys:rotate": "key.rotated",
    "keys:reveal": "key.revealed",
    "keys:revoke": "key.revoked",
    "keys:delete": "key.deleted",
    "keys:expire": "key.expired",
}
"""What is sent of the audit log: events about keys, by their action."""
TYPES = (*ACTIONS.values(), *(f"alert.{kind.lower()}" for kind in AlertKind))
GROUPS = ("key.*", "alert.*")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")


class DeliveryState(StrEnum):
    """What has become of a message."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"
    """It was tried as often as it is; nothing happens until somebody sends it again."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where an organization wants to be told of what happens."""

    organization: str
    id: str
    url: str
    description: str
    events: tuple[str, ...]
    """Of `TYPES` and `GROUPS`; empty: all."""
    enabled: bool
    secret: Sealed
    """Signs what is sent."""
    created_at: Instant
    updated_at: Instant
    version: int = 1
    disabled_why: str = ""
    """Why Doorward itself has disabled it."""
    old_secret: Sealed | None = None
    old_secret_until: Instant | None = None
    """When the old secret no longer signs along."""

    def wants(self, type: str) -> bool:
        """Tell whether messages of *type* are sent to it."""
        return not self.events or type in self.events or f"{type.partition('.')[0]}.*" in self.events


@dataclass(frozen=True, slots=True)
class Message:
    """Something to be told, once, to every webhook that wants it."""

    source: str
    """What makes its id, with the webhook's: the same thing has the same id whenever it is sent."""
    type: str
    subject: str
    """Messages of one subject are sent in order: a key's id, or whatever an alert is about."""
    at: Instant
    data: dict[str, object] = field(repr=False)

    def id(self, webhook: str) -> str:
        """Return the `webhook-id` under which *webhook* is sent it."""
        digest = sha256(json.dumps([webhook, self.source]).encode()).digest()
        return f"msg_{base62(int.from_bytes(digest, 'big'), 22)}"

    def body(self) -> str:
        """Return what is sent."""
        at = datetime.fromtimestamp(self.at / SECOND, UTC).isoformat(timespec="milliseconds")
        what = {"type": self.type, "timestamp": at.replace("+00:00", "Z"), "data": self.data}
        return json.dumps(what, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way to a webhook."""

    organization: str
    webhook: str
    sequence: int
    id: str
    type: str
    subject: str
    body: str = field(repr=False)
    state: DeliveryState
    created_at: Instant
    attempts: int
    next_at: Instant
    last_at: Instant | None = None
    status: int = 0
    """Of the last answer; 0: there was none."""
    problem: str = ""
    """What was wrong with the last attempt."""


def of_alert(alert: Alert) -> Message:
    """Return the message that tells of *alert*."""
    numbers = {"threshold": alert.threshold, "expected": alert.expected, "observed": alert.observed}
    data: dict[str, object] = {
        "id": alert.id,
        "organization": alert.organization,
        "sequence": alert.sequence,
        "keyspace": alert.keyspace,
        "rule": alert.rule,
        "kind": alert.kind.value,
        "subject": alert.subject,
        "key": alert.key or None,
        "message": alert.message,
    }
    data |= {name: number for name, number in numbers.items() if number is not None}
    return Message(f"alert/{alert.sequence}", f"alert.{alert.kind.lower()}", alert.subject, alert.at, data)


def _type_of(event: Event) -> str | None:
    """Return what an event is called outside. A key that was ended is `key.revoked`, whatever brought that about."""
    if event.target_type != "key":
        return None
    after = event.after or {}
    if event.action != "keys:delete" and event.before is not None and after.get("revoked_at") is not None:
        return "key.revoked"
    if event.action == LEAKED:
        return "key.updated" if "enabled" in after else None
    return ACTIONS.get(event.action)


def of_event(sequence: int, event: Event) -> Message | None:
    """Return the message that tells of the audit *event* at *sequence*; None: none does. It has no secrets in it."""
    type = _type_of(event)
    if type is None:
        return None
    actor = {
        "organization": event.actor.organization,
        "key": event.actor.key or None,
        "principal": event.actor.principal or None,
        "acting_for": event.actor.acting_for or None,
    }
    data: dict[str, object] = {
        "key": event.target,
        "organization": event.organization,
        "sequence": sequence,
        "actor": actor,
        "before": readable(event.before),
        "after": readable(event.after),
        "note": event.note,
    }
    return Message(f"event/{sequence}", type, event.target, event.at, data)


def secret_text(secret: bytes) -> str:
    """Return a signing secret as receivers have it."""
    return PREFIX + base64.b64encode(secret).decode()


def signature(secrets: Iterable[bytes], id: str, at: Instant, body: str) -> str:
    """Return `webhook-signature` for a message that leaves at *at*: one for each of *secrets*."""
    signed = f"{id}.{at // SECOND}.{body}".encode()
    return " ".join("v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)


def pause_after(attempts: int, chance: float) -> int | None:
    """Return for how many microseconds to wait after so many *attempts*; None: that was the last. *chance*: 0 to 1."""
    if attempts > len(RETRIES):
        return None
    return round(RETRIES[attempts - 1] * (0.9 + 0.2 * chance))


def check_url(field: str, url: str, *, allow_http: bool, allow_private: bool) -> str:
    """Return *url* if a webhook may have it, as far as it tells itself. Raises InvalidField."""
    if not url or len(url) > LONGEST_URL or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise InvalidField(field, f"must be a URL of at most {LONGEST_URL} printable ASCII characters")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidField(field, "is no valid URL") from None
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        raise InvalidField(field, "must begin with https://")
    if not host or parts.username is not None or parts.password is not None or "#" in url:
        raise InvalidField(field, "must name a host, and have neither a user nor a fragment")
    if not allow_private and not _may_be_public(host):
        raise InvalidField(field, "must not lead into a private network")
    return url


def _may_be_public(host: str) -> bool:
    """Whether *host* is a name, which is looked up when something is sent, or a public address."""
    try:
        return is_public(ip_address(host))
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")


def is_public(address: Address) -> bool:
    """Tell whether *address*, and any IPv4 address that is wrapped up in it, is one of the public internet."""
    if isinstance(address, IPv6Address):
        if any(not is_public(inner) for inner in _wrapped(address)) or address in _LOCAL_NAT64 or address.is_site_local:
            return False
        if address.ipv4_mapped is not None or address in _NAT64:
            return True  # as the IPv4 address that it stands for is
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _wrapped(address: IPv6Address) -> list[IPv4Address]:
    found: list[IPv4Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    low = int(address) & 0xFFFFFFFF
    if address in _NAT64 or int(address) >> 32 == 0:
        found.append(IPv4Address(low))
    return [it for it in found if it is not None]


def check_events(field: str, events: Sequence[str]) -> tuple[str, ...]:
    """Return *events*, sorted and once each, if all are types of messages or groups of them. Raises InvalidField."""
    for event in events:
        if event not in TYPES and event not in GROUPS:
            raise InvalidField(field, f"must be among {', '.join((*GROUPS, *TYPES))}")
    return tuple(sorted(set(events)))
