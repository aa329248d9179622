"""Calls that are sent again: what the same request of the same caller did within a day."""

from __future__ import annotations

from doorward_server.core.errors import RequestIdReused
from doorward_server.core.model import DAY, Replay

from .rows import REPLAY, Prepared, Slot, insert_into, one_of
from .transaction import Transaction

_ONE = one_of(REPLAY, "caller", "method", "request_id")
_NEW = insert_into(REPLAY)
_OLD = Prepared(REPLAY.delete().where((REPLAY.caller == Slot("caller")) & (REPLAY.at <= Slot("at"))))


def find(tx: Transaction, replay: Replay | None) -> tuple[str, str] | None:
    """Return the organization and the id of what the same request made or changed within a day; None: it is new.

    The transaction counts as a replay then. Raises RequestIdReused if the request was another one.
    """
    row = tx.row(_ONE, **_who(replay)) if replay is not None else None
    if replay is None or row is None:
        return None
    *_, digest, at, organization, id = row
    if replay.at - at >= DAY:
        return None
    if bytes(digest) != replay.digest:
        raise RequestIdReused
    tx.replayed = True
    return organization, id


def remember(tx: Transaction, replay: Replay | None, organization: str, id: str) -> None:
    """Keep the request for a day, and forget this caller's older ones."""
    if replay is None:
        return
    tx.run(_OLD, caller=replay.caller, at=replay.at - DAY)
    tx.run(_NEW, **_who(replay), digest=replay.digest, at=replay.at, organization=organization, key=id)


def _who(replay: Replay) -> dict[str, str]:
    return {"caller": replay.caller, "method": replay.method, "request_id": replay.request_id}
