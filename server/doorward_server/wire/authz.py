"""AuthzService on the wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from doorward.v1 import authz_pb2 as pb
from doorward_server.core.decide import ALLOWED, Decision
from doorward_server.core.errors import DoorwardError, InvalidField
from doorward_server.core.fields import check_id
from doorward_server.core.policy import Keyspace
from doorward_server.service.authorizing import MAX_ITEMS, Authorizer
from doorward_server.service.explaining import Explainer
from doorward_server.service.guard import Caller
from doorward_server.service.leasing import Hit, Invalidation, Leasing, Ping, Pong
from doorward_server.service.limiting import Charged
from doorward_server.wire.asking import read_ask, read_item, read_listed, read_selected
from doorward_server.wire.convert import from_texts, from_timestamp, to_duration
from doorward_server.wire.decided import (
    REASONS,
    to_decision,
    to_identity,
    to_response,
    to_selector,
    to_steps,
    to_verdict,
)
from doorward_server.wire.errors import code_of, message_of, metadata_of
from doorward_server.wire.metrics import Metrics

MAX_HITS = 200
MAX_COUNT = 1_000_000_000
"""More than any client can give within a lease; what is summed up stays far from the ends of a database's integers."""
LONGEST = 600
"""Characters that are kept of what a client says was asked about."""
_REASON_OF = {number: reason for reason, number in REASONS.items()}


class AuthzServicer:
    """Parses, calls `Authorizer`, `Explainer` or `Leasing` on the event loop, converts."""

    def __init__(self, authorizer: Authorizer, explainer: Explainer, leasing: Leasing, metrics: Metrics) -> None:
        self._authorizer = authorizer
        self._explainer = explainer
        self._leasing = leasing
        self._metrics = metrics

    async def Authorize(self, request: pb.AuthorizeRequest, caller: Caller) -> bytes:
        answer = await self._authorizer.authorize(caller, read_ask(request), read_item(request))
        self._metrics.decided(answer.keyspace.name, answer.decision.reason)
        return to_response(answer)

    async def BatchAuthorize(self, request: pb.BatchAuthorizeRequest, caller: Caller) -> pb.BatchAuthorizeResponse:
        if len(request.items) > MAX_ITEMS:
            raise InvalidField("items", f"must have 1 to {MAX_ITEMS} entries")
        items = [read_item(item, request.organization) for item in request.items]
        answers = await self._authorizer.batch_authorize(caller, read_ask(request), items)
        return pb.BatchAuthorizeResponse(
            results=[
                self._result(answers.keyspace, decision, id, charged)
                for decision, id, charged in zip(answers.decisions, answers.ids, answers.charged, strict=True)
            ],
            identity=to_identity(answers.subject, answers.keyspace, answers.api_version),
            revision=answers.revision,
        )

    async def Introspect(self, request: pb.IntrospectRequest, caller: Caller) -> pb.IntrospectResponse:
        ask = read_ask(request) if request.WhichOneof("credential") else None
        answer = await self._authorizer.introspect(caller, ask)
        outcome = pb.DECISION_ALLOW if answer.decision.allowed else pb.DECISION_DENY
        return pb.IntrospectResponse(decision=outcome, decision_id=answer.id, **to_verdict(answer))

    async def ExplainAuthorization(
        self, request: pb.ExplainAuthorizationRequest, caller: Caller
    ) -> pb.ExplainAuthorizationResponse:
        question = request.question
        explained = await self._explainer.explain(caller, read_ask(question), read_item(question))
        reason = REASONS[ALLOWED.reason if explained.proven else explained.answer.decision.reason]
        first = pb.TraceStep(step=pb.DECISION_STEP_CREDENTIAL, reason=reason)
        return pb.ExplainAuthorizationResponse(
            answer=pb.AuthorizeResponse.FromString(to_response(explained.answer)),
            steps=[first, *to_steps(explained.steps)],
        )

    async def ListAllowedActions(
        self, request: pb.ListAllowedActionsRequest, caller: Caller
    ) -> pb.ListAllowedActionsResponse:
        listed = await self._explainer.list_allowed_actions(
            caller, read_ask(request), read_listed(request), request.all_types
        )
        return pb.ListAllowedActionsResponse(
            actions=listed.actions, missing_context=listed.missing_context, **to_verdict(listed.answer)
        )

    async def ListAccessibleResources(
        self, request: pb.ListAccessibleResourcesRequest, caller: Caller
    ) -> pb.ListAccessibleResourcesResponse:
        listed = await self._explainer.list_accessible_resources(caller, read_ask(request), read_selected(request))
        subject = listed.answer.subject
        return pb.ListAccessibleResourcesResponse(
            allowed=map(to_selector, listed.access.allowed),
            denied=map(to_selector, listed.access.denied),
            groups=sorted(subject.groups) if subject else (),
            missing_context=listed.access.missing_context or listed.answer.decision.missing_context,
            **to_verdict(listed.answer),
        )

    async def Lease(
        self, messages: AsyncIterator[tuple[pb.LeaseRequest, Caller]]
    ) -> AsyncGenerator[pb.LeaseResponse, None]:
        async with aclosing(self._leasing.converse(_pings(messages))) as told:
            async for it in told:
                yield _told(it)

    def _result(
        self, keyspace: Keyspace, decision: Decision | DoorwardError, id: str, charged: Charged
    ) -> pb.BatchAuthorizeResult:
        if isinstance(decision, DoorwardError):
            code = code_of(decision).value[0]
            error = pb.ItemError(
                code=code, reason=decision.reason, message=message_of(decision), metadata=metadata_of(decision)
            )
            return pb.BatchAuthorizeResult(error=error)
        self._metrics.decided(keyspace.name, decision.reason)
        return pb.BatchAuthorizeResult(**to_decision(decision, keyspace, charged), decision_id=id)


async def _pings(messages: AsyncIterator[tuple[pb.LeaseRequest, Caller]]) -> AsyncIterator[tuple[Ping, Caller]]:
    async for message, caller in messages:
        if not message.HasField("ping"):
            raise InvalidField("ping", "is required")
        keyspaces = from_texts("keyspaces", message.keyspaces)
        if len(message.hits) > MAX_HITS:
            raise InvalidField("hits", f"must have at most {MAX_HITS} entries")
        hits = tuple(_hit(f"hits[{i}]", it) for i, it in enumerate(message.hits))
        yield Ping(message.ping.sequence, message.ping.applied_revision, message.organization, keyspaces, hits), caller


def _hit(field: str, it: pb.LeaseRequest.Hits) -> Hit:
    if not 1 <= it.count <= MAX_COUNT:
        raise InvalidField(f"{field}.count", f"must be 1 to {MAX_COUNT}")
    if it.reason not in _REASON_OF:
        raise InvalidField(f"{field}.reason", "must be that of the answer")
    return Hit(
        organization=check_id(f"{field}.organization", it.organization, "organization"),
        keyspace=check_id(f"{field}.keyspace", it.keyspace, "keyspace"),
        key=check_id(f"{field}.key_id", it.key_id),
        secret=check_id(f"{field}.secret_id", it.secret_id),
        action=it.action[:LONGEST],
        resource=it.resource[:LONGEST],
        reason=_REASON_OF[it.reason],
        count=it.count,
        last_at=from_timestamp(f"{field}.last_at", it, "last_at") or 0,
    )


def _told(it: Invalidation | Pong) -> pb.LeaseResponse:
    if isinstance(it, Pong):
        lasting = to_duration(it.max_staleness // 1000)
        pong = pb.LeaseResponse.Pong(sequence=it.sequence, revision=it.revision, max_staleness=lasting)
        return pb.LeaseResponse(pong=pong)
    everything = it.dropped is None
    return pb.LeaseResponse(
        invalidation=pb.LeaseResponse.Invalidation(revision=it.revision, dropped=it.dropped or (), all=everything)
    )
