"""AuditService: what happened, and the proof that nothing was changed in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from doorward.audit import AuditActor, AuditEvent, ChainHead, ChainReport, ChainStatus, HeadStatus
from doorward.calls import Call, Pages
from doorward.calls.values import instant, timestamp, words
from doorward.v1 import audit_pb2 as pb

STATUSES = words(ChainStatus, pb.ChainStatus, "CHAIN_STATUS_")
HEADS = words(HeadStatus, pb.HeadStatus, "HEAD_STATUS_")


def list_events(
    *,
    organization: str = "",
    key: str = "",
    principal: str = "",
    actor_key: str = "",
    actor_principal: str = "",
    actions: Iterable[str] = (),
    keyspace: str = "",
    since: datetime | None = None,
    before: datetime | None = None,
    oldest_first: bool = False,
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[pb.ListEventsResponse, AuditEvent]:
    """The audit events of an organization, newest first unless told otherwise.

    `key` and `principal` are what events are about, `actor_key` and `actor_principal` who made them.
    """
    wanted = pb.EventFilter(
        key=key,
        principal=principal,
        actor_key=actor_key,
        actor_principal=actor_principal,
        actions=actions,
        keyspace=keyspace,
        since=timestamp("since", since),
        before=timestamp("before", before),
    )
    return Pages(
        pb.ListEventsRequest(organization=organization, filter=wanted, oldest_first=oldest_first, page_size=page_size),
        pb.ListEventsResponse,
        lambda answer: map(_read_event, answer.events),
        timeout,
    )


def verify_chain(
    *, organization: str = "", head: ChainHead | None = None, timeout: float | None = None
) -> Pages[pb.VerifyChainResponse, ChainReport]:
    """Verify the audit chain of an organization: how far it is verified, again and again, and the verdict at the end.

    A long chain takes several calls, one report each; only the last one is not UNFINISHED. With a `head` that was kept
    elsewhere, it also says whether the chain was cut back since. `timeout` is for one call.

        *_, report = client.verify_chain(head=kept)
        assert report.intact
    """
    return Pages(
        pb.VerifyChainRequest(organization=organization, head=None if head is None else _write_head(head)),
        pb.VerifyChainResponse,
        _read_report,
        timeout,
    )


def get_head(*, organization: str = "", timeout: float | None = None) -> Call[pb.GetHeadResponse, ChainHead]:
    """Return where the audit chain of an organization ends now. Keep it out of reach of who writes to the database."""
    return Call(
        pb.GetHeadRequest(organization=organization),
        pb.GetHeadResponse,
        lambda answer: _read_head(answer.head),
        timeout,
    )


def _read_event(event: pb.AuditEvent) -> AuditEvent:
    actor = event.actor
    return AuditEvent(
        organization=event.organization,
        sequence=event.sequence,
        at=instant(event.time),
        actor=AuditActor(
            organization=actor.organization, key=actor.key, principal=actor.principal, acting_for=actor.acting_for
        ),
        action=event.action,
        target_type=event.target_type,
        target=event.target,
        before=_read_struct(event, "before"),
        after=_read_struct(event, "after"),
        note=event.note,
        hash=event.hash.hex(),
    )


def _read_struct(event: Message, field: str) -> dict[str, Any] | None:
    if not event.HasField(field):
        return None
    return {name: _whole(value) for name, value in MessageToDict(getattr(event, field)).items()}


def _whole(value: Any) -> Any:
    """Return *value* with its whole numbers whole: the wire knows only floating-point ones."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _whole(inner) for name, inner in value.items()}
        case list():
            return [_whole(inner) for inner in value]
        case _:
            return value


def _read_report(answer: pb.VerifyChainResponse) -> Iterator[ChainReport]:
    yield ChainReport(
        status=STATUSES.get(answer.status, ChainStatus.UNKNOWN),
        verified_to=answer.verified_to,
        broken_at=answer.broken_at or None,
        first=answer.first or None,
        length=answer.length,
        head=HEADS.get(answer.head_status, HeadStatus.UNKNOWN) if answer.head_status else None,
    )


def _read_head(head: pb.ChainHead) -> ChainHead:
    return ChainHead(
        organization=head.organization,
        sequence=head.sequence,
        hash=head.hash.hex(),
        at=instant(head.time),
        pepper=head.pepper,
        seal=head.seal.hex(),
    )


def _write_head(head: ChainHead) -> pb.ChainHead:
    return pb.ChainHead(
        organization=head.organization,
        sequence=head.sequence,
        hash=bytes.fromhex(head.hash),
        time=timestamp("head.at", head.at),
        pepper=head.pepper,
        seal=bytes.fromhex(head.seal),
    )
