"""AuditService on the wire."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.struct_pb2 import Struct

from doorward.v1 import audit_pb2 as pb
from doorward_server.core.audit import ChainHead, EventFilter, HeadFound, StoredEvent, readable
from doorward_server.core.errors import InvalidField
from doorward_server.service.auditing import Auditing, Verified
from doorward_server.service.guard import Caller
from doorward_server.service.pool import Pool
from doorward_server.wire.convert import bounded, from_timestamp, to_timestamp

_HEADS = {found: pb.HeadStatus.Value(f"HEAD_STATUS_{found}") for found in HeadFound}


class AuditServicer:
    """Parses, calls `Auditing` on the management pool, converts."""

    def __init__(self, auditing: Auditing, management: Pool) -> None:
        self._auditing = auditing
        self._run = management.run

    async def ListEvents(self, request: pb.ListEventsRequest, caller: Caller) -> pb.ListEventsResponse:
        events, token = await self._run(
            self._auditing.list_events,
            caller,
            request.organization,
            _filter(request.filter),
            request.page_size,
            request.page_token,
            oldest_first=request.oldest_first,
        )
        return pb.ListEventsResponse(events=map(_to_event, events), next_page_token=token)

    async def VerifyChain(self, request: pb.VerifyChainRequest, caller: Caller) -> pb.VerifyChainResponse:
        head = _from_head(request.head) if request.HasField("head") else None
        verified = await self._run(self._auditing.verify_chain, caller, request.organization, head, request.page_token)
        return _to_verified(verified)

    async def GetHead(self, request: pb.GetHeadRequest, caller: Caller) -> pb.GetHeadResponse:
        head = await self._run(self._auditing.get_head, caller, request.organization)
        return pb.GetHeadResponse(
            head=pb.ChainHead(
                organization=head.organization,
                sequence=head.sequence,
                hash=head.hash,
                time=to_timestamp(head.at),
                pepper=head.pepper,
                seal=head.seal,
            )
        )


def _filter(wanted: pb.EventFilter) -> EventFilter:
    if wanted.key and wanted.principal:
        raise InvalidField("filter.principal", "must not be given together with filter.key")
    organization, slash, principal = wanted.actor_principal.rpartition("/")
    if slash and not (organization and principal):
        raise InvalidField("filter.actor_principal", "must be <principal> or <organization>/<principal>")
    return EventFilter(
        target_type="key" if wanted.key else "principal" if wanted.principal else "",
        target=wanted.key or wanted.principal,
        actor_key=wanted.actor_key,
        actor_principal=principal,
        actor_organization=organization,
        actions=frozenset(bounded("filter.actions", wanted.actions)),
        keyspace=wanted.keyspace,
        since=from_timestamp("filter.since", wanted, "since"),
        before=from_timestamp("filter.before", wanted, "before"),
    )


def _from_head(head: pb.ChainHead) -> ChainHead:
    at = from_timestamp("head.time", head, "time") or 0
    if head.sequence < 0:
        raise InvalidField("head.sequence", "must not be negative")
    return ChainHead(head.organization, head.sequence, head.hash, at, head.pepper, head.seal)


def _to_verified(verified: Verified) -> pb.VerifyChainResponse:
    report = verified.report
    answer = pb.VerifyChainResponse(verified_to=verified.verified_to, next_page_token=verified.token)
    if verified.found is not None:
        answer.head_status = _HEADS[verified.found]
    if report is None:
        answer.status = pb.CHAIN_STATUS_UNFINISHED
        return answer
    answer.status = pb.CHAIN_STATUS_INTACT if report.ok else pb.CHAIN_STATUS_BROKEN
    answer.length, answer.broken_at = report.length, report.broken_at or 0
    answer.first = report.first if report.ok else 0
    return answer


def _to_event(stored: StoredEvent) -> pb.AuditEvent:
    it = stored.event
    actor = it.actor
    return pb.AuditEvent(
        organization=it.organization,
        sequence=stored.sequence,
        time=to_timestamp(it.at),
        actor=pb.AuditActor(
            organization=actor.organization, key=actor.key, principal=actor.principal, acting_for=actor.acting_for
        ),
        action=it.action,
        target_type=it.target_type,
        target=it.target,
        before=_to_struct(it.before),
        after=_to_struct(it.after),
        note=it.note,
        hash=stored.hash,
    )


def _to_struct(value: Mapping[str, object] | None) -> Struct | None:
    if value is None:
        return None
    struct = Struct()
    struct.update(readable(value))
    return struct
