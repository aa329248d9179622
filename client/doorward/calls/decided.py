"""What was decided, as values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from doorward.calls.directory import read_principal
from doorward.calls.keys import CEILINGS
from doorward.calls.values import Unchanging, instant_or_none, words
from doorward.decision import CreditStatus, Decision, HttpAnswer, Identity, LimitStatus, Reason, Rule
from doorward.errors import CODES, CallFailed, failure
from doorward.model import Ceiling
from doorward.v1 import authz_pb2 as pb

REASONS = words(Reason, pb.Reason, "REASON_")


def read_decision(answer: pb.AuthorizeResponse) -> Decision:
    """Read the answer of Authorize."""
    return _decided(
        answer,
        identity_of(answer),
        answer.revision,
        rule=_rule(answer),
        missing=answer.missing_permissions,
        missing_context=answer.missing_context,
        limits=answer.limits,
        credits=_credits(answer),
    )


def read_introspection(answer: pb.IntrospectResponse) -> Decision:
    """Read the answer of Introspect."""
    return _decided(answer, identity_of(answer), answer.revision)


def read_decisions(answer: pb.BatchAuthorizeResponse) -> list[Decision]:
    """Read the answer of BatchAuthorize."""
    identity = identity_of(answer)
    return [
        _decided(
            result,
            identity,
            answer.revision,
            rule=_rule(result),
            missing=result.missing_permissions,
            missing_context=result.missing_context,
            limits=result.limits,
            credits=_credits(result),
            error=_error(result.error) if result.HasField("error") else None,
        )
        for result in answer.results
    ]


def _decided(
    outcome: pb.AuthorizeResponse | pb.BatchAuthorizeResult | pb.IntrospectResponse,
    identity: Identity | None,
    revision: int,
    *,
    rule: Rule | None = None,
    missing: Iterable[str] = (),
    missing_context: Iterable[str] = (),
    limits: Iterable[pb.LimitStatus] = (),
    credits: CreditStatus | None = None,  # the contract's word
    error: CallFailed | None = None,
) -> Decision:
    return Decision(
        allowed=outcome.decision == pb.DECISION_ALLOW and error is None,
        reason=REASONS.get(outcome.reason, Reason.UNKNOWN),
        message=outcome.message,
        identity=identity,
        rule=rule,
        missing_permissions=tuple(missing),
        revision=revision,
        missing_context=tuple(missing_context),
        http=http_of(outcome),
        limits=tuple(map(_limit, limits)),
        credits=credits,
        error=error,
        id=outcome.decision_id,
    )


def _limit(it: pb.LimitStatus) -> LimitStatus:
    return LimitStatus(
        name=it.name,
        limit=it.limit,
        window=it.window.ToTimedelta(),
        remaining=it.remaining,
        reset_after=it.reset_after.ToTimedelta(),
        retry_after=it.retry_after.ToTimedelta() if it.HasField("retry_after") else None,
    )


def _credits(answer: pb.AuthorizeResponse | pb.BatchAuthorizeResult) -> CreditStatus | None:
    if not answer.HasField("credits"):
        return None
    it = answer.credits
    return CreditStatus(
        balance=it.balance,
        refill_after=it.refill_after.ToTimedelta() if it.HasField("refill_after") else None,
        retry_after=it.retry_after.ToTimedelta() if it.HasField("retry_after") else None,
    )


def http_of(answer: Any) -> HttpAnswer | None:
    """Read what to send on to an HTTP client, if the answer has it."""
    if not answer.HasField("http"):
        return None
    headers = tuple((header.name, header.value) for header in answer.http.headers)
    return HttpAnswer(answer.http.status, headers, answer.http.body)


def identity_of(answer: Any) -> Identity | None:
    """Read who it was, if the answer has it."""
    return read_identity(answer.identity) if answer.HasField("identity") else None


def _rule(outcome: pb.AuthorizeResponse | pb.BatchAuthorizeResult) -> Rule | None:
    return read_rule(outcome.rule) if outcome.HasField("rule") else None


def read_rule(rule: pb.MatchedRule) -> Rule:
    """Read which rule it was."""
    return Rule(role=rule.role, binding=rule.binding, position=rule.rule)


def _error(error: pb.ItemError) -> CallFailed:
    return failure(CODES.get(error.code, "UNKNOWN"), error.message, error.reason, dict(error.metadata))


def read_identity(identity: pb.Identity) -> Identity:
    """Read who it was."""
    return Identity(
        key_id=identity.key_id,
        key_name=identity.key_name,
        masked_key=identity.masked_key,
        organization=identity.organization,
        owner=read_principal(identity.owner) if identity.HasField("owner") else None,
        environment=identity.environment,
        key_type=identity.key_type,
        ceiling=CEILINGS.get(identity.ceiling, Ceiling.UNKNOWN),
        scopes=tuple(identity.scopes),
        roles=tuple(identity.roles),
        metadata=Unchanging(identity.metadata),
        expires_at=instant_or_none(identity, "expires_at"),
        api_version=identity.api_version,
        secret_id=identity.secret_id,
    )
