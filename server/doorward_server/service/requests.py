"""What requests to all services have in common: whose organization they are about, and how a repeat is recognized."""

from __future__ import annotations

from dataclasses import dataclass

from doorward_server.core.errors import NotFound
from doorward_server.core.fields import check_id, check_text
from doorward_server.core.model import Instant, Replay
from doorward_server.service.guard import Caller
from doorward_server.store import Store


@dataclass(frozen=True, slots=True)
class Repeat:
    """What a retry is recognized by: the request_id, and SHA-256 of the request without it. Empty id: none."""

    request_id: str = ""
    digest: bytes = b""


def own_or(caller: Caller, organization: str) -> str:
    """Return the organization that a request is about: the one it names, else the caller's own. Raises InvalidField."""
    return check_id("organization", organization, "organization") if organization else caller.organization


def check_there(store: Store, caller: Caller, organization: str) -> None:
    """Raise NotFound for an organization that is not there (any more); the caller's own is. Asks the store."""
    if organization != caller.organization and store.find_organization(organization) is None:
        raise NotFound("organization", organization)


def replay_of(caller: Caller, method: str, repeat: Repeat, now: Instant) -> Replay | None:
    """Return what makes a repeat of *method* by *caller* safe; None: it need not be. Raises InvalidField."""
    if not repeat.request_id:
        return None
    check_text("request_id", repeat.request_id, 64)
    key = caller.subject.key.id if caller.subject.key else ""
    acting = caller.acting_for.owner.id if caller.acting_for and caller.acting_for.owner else ""
    who = f"{caller.organization}/{key}/{acting}"
    return Replay(who, method, repeat.request_id, repeat.digest, now)
