"""Webhooks as Doorward tells of them: frozen values, like those of `doorward.model`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from doorward.secret import Secret


class WebhookDeliveryState(StrEnum):
    """What has become of a message to a webhook."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where an organization wants to be told of what happens."""

    id: str
    organization: str
    url: str
    description: str
    events: tuple[str, ...]
    """Types of messages, `key.*`, `alert.*`; empty: all."""
    enabled: bool
    disabled_why: str
    """Why Doorward itself has disabled it; empty: it has not."""
    created_at: datetime
    updated_at: datetime
    etag: str


@dataclass(frozen=True, slots=True)
class IssuedWebhook:
    """A webhook, and the secret that signs what is sent to it, which is shown this once."""

    webhook: Webhook
    secret: Secret


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """A message to a webhook."""

    id: str
    """Its `webhook-id`: the same whenever it is sent."""
    type: str
    subject: str
    state: WebhookDeliveryState
    created_at: datetime
    attempts: int
    next_attempt_at: datetime | None
    last_attempt_at: datetime | None
    status: int
    """HTTP status of the last answer; 0: there was none."""
    problem: str
    """What was wrong with the last attempt; empty: nothing."""
    body: str


@dataclass(frozen=True, slots=True)
class TestedWebhook:
    """What came of a test; true if the receiver has it."""

    status: int
    problem: str

    def __bool__(self) -> bool:
        return not self.problem
