"""AuthzService on the wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from doorward.v1 import authz_pb2 as pb
from doorward_server.core.decide import Decision, Match, Reason, Subject
from doorward_server.core.errors import DoorwardError, InvalidField
from doorward_server.core.keytext import SecretText
from doorward_server.core.policy import Keyspace
from doorward_server.service.authorizing import (
    MAX_ITEMS,
    MESSAGES,
    Ask,
    Authorizer,
    Item,
)
from doorward_server.service.finding import HttpParts, Presented, SignedIn
from doorward_server.service.freshness import AS_PROMISED, Consistency
from doorward_server.service.guard import Caller
from doorward_server.service.leasing import Invalidation, Leasing, Ping, Pong
from doorward_server.wire.convert import (
    CEILINGS,
    bounded,
    from_texts,
    masked_text,
    to_duration,
    to_principal,
    to_timestamp,
)
from doorward_server.wire.errors import code_of, message_of, metadata_of
from doorward_server.wire.metrics import Metrics

REASONS = {reason: pb.Reason.Value(f"REASON_{reason}") for reason in Reason}
MAX_HEADERS = 100
MAX_HTTP_TEXT = 8192
"""Characters of a header or of the query, as most HTTP servers have it: the whole text is searched for a credential."""


class AuthzServicer:
    """Parses, calls `Authorizer` and `Leasing` on the event loop, converts."""

    def __init__(self, authorizer: Authorizer, leasing: Leasing, metrics: Metrics) -> None:
        self._authorizer = authorizer
        self._leasing = leasing
        self._metrics = metrics

    async def Authorize(self, request: pb.AuthorizeRequest, caller: Caller) -> pb.AuthorizeResponse:
        answer = await self._authorizer.authorize(caller, _ask(request), _item(request))
        decision = answer.decision
        self._metrics.decided(answer.keyspace.name, decision.reason)
        return pb.AuthorizeResponse(
            **_decided(decision),
            identity=_identity(answer.subject, answer.keyspace),
            revision=answer.revision,
            lease_cacheable_for=to_duration(answer.cacheable_for) if answer.cacheable_for else None,
            depends_on=answer.depends_on,
        )

    async def BatchAuthorize(self, request: pb.BatchAuthorizeRequest, caller: Caller) -> pb.BatchAuthorizeResponse:
        if len(request.items) > MAX_ITEMS:
            raise InvalidField("items", f"must have 1 to {MAX_ITEMS} entries")
        items = [_item(item, request.organization) for item in request.items]
        answers = await self._authorizer.batch_authorize(caller, _ask(request), items)
        return pb.BatchAuthorizeResponse(
            results=[self._result(answers.keyspace, decision) for decision in answers.decisions],
            identity=_identity(answers.subject, answers.keyspace),
            revision=answers.revision,
        )

    async def Introspect(self, request: pb.IntrospectRequest, caller: Caller) -> pb.IntrospectResponse:
        ask = _ask(request) if request.WhichOneof("credential") else None
        answer = await self._authorizer.introspect(caller, ask)
        decided = _decided(answer.decision)
        return pb.IntrospectResponse(
            decision=decided["decision"],
            reason=decided["reason"],
            message=decided["message"],
            identity=_identity(answer.subject, answer.keyspace),
            revision=answer.revision,
        )

    async def Lease(
        self, messages: AsyncIterator[tuple[pb.LeaseRequest, Caller]]
    ) -> AsyncGenerator[pb.LeaseResponse, None]:
        async with aclosing(self._leasing.converse(_pings(messages))) as told:
            async for it in told:
                yield _told(it)

    def _result(self, keyspace: Keyspace, decision: Decision | DoorwardError) -> pb.BatchAuthorizeResult:
        if isinstance(decision, DoorwardError):
            code = code_of(decision).value[0]
            error = pb.ItemError(
                code=code, reason=decision.reason, message=message_of(decision), metadata=metadata_of(decision)
            )
            return pb.BatchAuthorizeResult(error=error)
        self._metrics.decided(keyspace.name, decision.reason)
        return pb.BatchAuthorizeResult(**_decided(decision))


def _ask(request: Any) -> Ask:
    return Ask(
        presented=_presented(request),
        keyspace=request.keyspace,
        environment=getattr(request, "environment", ""),
        client_ip=request.context.client_ip,
        dry_run=getattr(request, "dry_run", False),
        wanted=_consistency(request.consistency) if request.HasField("consistency") else AS_PROMISED,
    )


def _consistency(consistency: pb.Consistency) -> Consistency:
    if consistency.at_least_as_fresh < 0:
        raise InvalidField("consistency.at_least_as_fresh", "must be a revision that an answer has told")
    return Consistency(consistency.full, consistency.at_least_as_fresh)


async def _pings(messages: AsyncIterator[tuple[pb.LeaseRequest, Caller]]) -> AsyncIterator[tuple[Ping, Caller]]:
    async for message, caller in messages:
        if not message.HasField("ping"):
            raise InvalidField("ping", "is required")
        keyspaces = from_texts("keyspaces", message.keyspaces)
        yield Ping(message.ping.sequence, message.ping.applied_revision, message.organization, keyspaces), caller


def _told(it: Invalidation | Pong) -> pb.LeaseResponse:
    if isinstance(it, Pong):
        lasting = to_duration(it.max_staleness // 1000)
        pong = pb.LeaseResponse.Pong(sequence=it.sequence, revision=it.revision, max_staleness=lasting)
        return pb.LeaseResponse(pong=pong)
    everything = it.dropped is None
    return pb.LeaseResponse(
        invalidation=pb.LeaseResponse.Invalidation(revision=it.revision, dropped=it.dropped or (), all=everything)
    )


def _presented(request: Any) -> Presented:
    match request.WhichOneof("credential"):
        case "key":
            return SecretText(request.key)
        case "http":
            return _http(request.http)
        case "principal":
            return SignedIn(request.principal.organization, request.principal.principal)
        case _:
            raise InvalidField("credential", "is required: one of key, http or principal")


def _http(http: pb.HttpRequest) -> HttpParts:
    headers = tuple((header.name, header.value) for header in bounded("http.headers", http.headers, MAX_HEADERS))
    if any(len(name) > MAX_HTTP_TEXT or len(value) > MAX_HTTP_TEXT for name, value in headers):
        raise InvalidField("http.headers", f"each name and value must have at most {MAX_HTTP_TEXT:,} characters")
    if len(http.query) > MAX_HTTP_TEXT:
        raise InvalidField("http.query", f"must have at most {MAX_HTTP_TEXT:,} characters")
    return HttpParts(headers, http.query)


def _item(item: Any, organization: str = "") -> Item:
    resource = (item.resource.type, item.resource.id) if item.HasField("resource") else None
    return Item(item.action, resource, item.organization or organization)


def _decided(decision: Decision) -> dict[str, Any]:
    return {
        "decision": pb.DECISION_ALLOW if decision.allowed else pb.DECISION_DENY,
        "reason": REASONS[decision.reason],
        "message": MESSAGES[decision.reason],
        "rule": _rule(decision.match),
        "missing_permissions": decision.missing,
    }


def _rule(match: Match | None) -> pb.MatchedRule | None:
    if match is None:
        return None
    return pb.MatchedRule(role=match.rule.role, binding=match.binding, rule=match.rule.index)


def _identity(subject: Subject | None, keyspace: Keyspace) -> pb.Identity | None:
    if subject is None:
        return None
    identity = pb.Identity(
        organization=subject.organization.id,
        owner=to_principal(subject.owner) if subject.owner else None,
        roles=sorted({held.role.name for held in subject.roles or ()}),
    )
    key, secret = subject.key, subject.secret
    if key is not None and secret is not None:
        identity.MergeFrom(
            pb.Identity(
                key_id=key.id,
                key_name=key.name,
                masked_key=masked_text(key, secret, keyspace),
                environment=key.environment,
                key_type=key.type,
                ceiling=CEILINGS[key.ceiling],
                scopes=key.scopes,
                metadata=key.metadata,
                expires_at=to_timestamp(key.expires_at),
                api_version=key.api_version,
            )
        )
    return identity
