"""Decisions, from values to messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration

from doorward.v1 import authz_pb2 as pb
from doorward_server.core.decide import Decision, Match
from doorward_server.core.explain import Considered, Step
from doorward_server.core.http_profile import HttpAnswer
from doorward_server.core.model import SECOND
from doorward_server.core.policy import Effect, Keyspace
from doorward_server.core.reasons import Reason
from doorward_server.core.selectors import Selector
from doorward_server.core.subject import Subject
from doorward_server.service.authorizing import Answer
from doorward_server.service.limiting import FREE, Charged, Standing, Status
from doorward_server.service.messages import MESSAGES
from doorward_server.wire.convert import CEILINGS, masked_text, to_duration, to_principal, to_timestamp

REASONS = {reason: pb.Reason.Value(f"REASON_{reason}") for reason in Reason}
_EFFECTS = {effect: pb.Effect.Value(f"EFFECT_{effect}") for effect in Effect}


def to_response(answer: Answer) -> bytes:
    """Return the AuthorizeResponse of a decision, serialized.

    Messages that are written one after the other are one message. So what is the same in thousands of answers is
    written once: what a reason means in a keyspace, and who somebody is.
    """
    decision, keyspace, match = answer.decision, answer.keyspace, answer.decision.match
    reason = decision.reason
    http = keyspace.http.answer(reason, MESSAGES[reason], decision.missing)
    return b"".join((
        _verdict(reason, http, keyspace.fail_open),
        _identity(answer),
        _matched(match.rule.role, match.binding, match.rule.index) if match is not None else b"",
        _as_of(answer.revision, answer.cacheable_for),
        _rest(answer, http),
    ))  # fmt: skip


def _rest(answer: Answer, http: HttpAnswer) -> bytes:
    """Return the part of an AuthorizeResponse that differs from one answer to the next."""
    decision, charged = answer.decision, answer.charged
    if charged.limits and decision.allowed and not (charged.credits or answer.depends_on or decision.missing_context):
        return _fits(answer.id, charged.limits, http.headers)
    rest = pb.AuthorizeResponse(decision_id=answer.id, depends_on=answer.depends_on)
    if charged is not FREE:
        rest.limits.extend(map(_to_status, charged.limits))
        if charged.credits is not None:
            rest.credits.CopyFrom(_to_credits(charged.credits))
        for name, value in count_headers(charged, http.headers):
            rest.http.headers.add(name=name, value=value)
    if decision.missing or decision.missing_context:
        rest.missing_permissions.extend(decision.missing)
        rest.missing_context.extend(decision.missing_context)
    return rest.SerializeToString()


class _Fitting(NamedTuple):
    """A part of an AuthorizeResponse, and what of it differs from one answer to the next."""

    part: pb.AuthorizeResponse
    statuses: tuple[tuple[pb.LimitStatus, Duration], ...]
    """Each limit's, and in it how long until all is back."""
    headers: tuple[pb.HttpHeader, ...]
    """RateLimit, unless the keyspace gives it itself."""


def _fits(id: str, limits: Sequence[Status], given: tuple[tuple[str, str], ...]) -> bytes:
    """Return the rest of the answer to an allowed call that fits into *limits*: which one it is, and how they stand.

    It is kept, and written into again for each answer: making messages takes longer. Belongs to the event loop.
    """
    part, statuses, headers = _fitting(tuple([it[:3] for it in limits]), given)
    part.decision_id = id
    for it, (status, reset) in zip(limits, statuses, strict=True):
        status.remaining = it.remaining
        reset.seconds, reset.nanos = it.reset_after // SECOND, it.reset_after % SECOND * 1000
    for header in headers:
        header.value = _rate_limit(limits)
    return part.SerializeToString()


@lru_cache(maxsize=1024)
def _fitting(limits: tuple[tuple[str, int, int], ...], given: tuple[tuple[str, str], ...]) -> _Fitting:
    as_new = [Status(name, limit, window, limit, 0) for name, limit, window in limits]
    part = pb.AuthorizeResponse(limits=map(_to_status, as_new))
    for name, value in count_headers(Charged(None, tuple(as_new)), given):
        part.http.headers.add(name=name, value=value)
    changing = [header for header in part.http.headers if header.name == "RateLimit"]
    return _Fitting(part, tuple((it, it.reset_after) for it in part.limits), tuple(changing))


@lru_cache(maxsize=1024)
def _verdict(reason: Reason, http: HttpAnswer, fail_open: bool) -> bytes:
    """Return the part of an AuthorizeResponse that follows from the reason and the keyspace."""
    allowed = pb.DECISION_ALLOW if reason is Reason.ALLOWED else pb.DECISION_DENY
    return pb.AuthorizeResponse(
        decision=allowed, reason=REASONS[reason], message=MESSAGES[reason], http=_http(http), fail_open=fail_open
    ).SerializeToString()


@lru_cache(maxsize=4096)
def _matched(role: str, binding: str, index: int) -> bytes:
    """Return the part of an AuthorizeResponse that names the rule."""
    return pb.AuthorizeResponse(rule=pb.MatchedRule(role=role, binding=binding, rule=index)).SerializeToString()


@lru_cache(maxsize=64)
def _as_of(revision: int, cacheable_for: int) -> bytes:
    """Return the part of an AuthorizeResponse that says what it saw, and for how long it may be kept."""
    kept = to_duration(cacheable_for) if cacheable_for else None
    return pb.AuthorizeResponse(revision=revision, lease_cacheable_for=kept).SerializeToString()


def _identity(answer: Answer) -> bytes:
    """Return the part of an AuthorizeResponse that says who it was."""
    memo, version = answer.memo, answer.api_version
    if memo is not None and memo.shown is not None and memo.shown[0] == version:
        return memo.shown[1]
    identity = to_identity(answer.subject, answer.keyspace, version)
    written = pb.AuthorizeResponse(identity=identity).SerializeToString()
    if memo is not None:
        memo.shown = (version, written)
    return written


def to_decision(decision: Decision, keyspace: Keyspace, charged: Charged = FREE) -> dict[str, Any]:
    """Return the fields that a decision has wherever it stands."""
    reason = decision.reason
    return {
        "decision": pb.DECISION_ALLOW if decision.allowed else pb.DECISION_DENY,
        "reason": REASONS[reason],
        "message": MESSAGES[reason],
        "rule": _rule(decision.match),
        "missing_permissions": decision.missing,
        "missing_context": decision.missing_context,
        "http": to_http(decision, keyspace) if charged is FREE else _counted(decision, keyspace, charged),
        "limits": list(map(_to_status, charged.limits)),
        "credits": _to_credits(charged.credits) if charged.credits is not None else None,
    }


def to_verdict(answer: Answer) -> dict[str, Any]:
    """Return the fields that every answer has whose verdict is about more than one thing."""
    decision = answer.decision
    return {
        "reason": REASONS[decision.reason],
        "message": MESSAGES[decision.reason],
        "identity": to_identity(answer.subject, answer.keyspace, answer.api_version),
        "revision": answer.revision,
        "http": to_http(decision, answer.keyspace),
    }


def to_http(decision: Decision, keyspace: Keyspace) -> pb.HttpAnswer:
    """Return what to send to an HTTP client, by the keyspace's profile."""
    reason = decision.reason
    return _http(keyspace.http.answer(reason, MESSAGES[reason], decision.missing))


def _counted(decision: Decision, keyspace: Keyspace, charged: Charged) -> pb.HttpAnswer:
    """Return what to send to an HTTP client, with how its limits stand."""
    http = keyspace.http.answer(decision.reason, MESSAGES[decision.reason], decision.missing)
    answer = pb.HttpAnswer()
    answer.CopyFrom(_http(http))
    for name, value in count_headers(charged, http.headers):
        answer.headers.add(name=name, value=value)
    return answer


def count_headers(charged: Charged, headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Yield RateLimit-Policy and RateLimit, where limits count it, and, if the call has to wait, Retry-After; but none
    of *headers*, which the keyspace gives itself: HTTP allows each of them once.

    As in draft-ietf-httpapi-ratelimit-headers: q is the quota, w its window, r what is left and t when it is reset, in
    seconds. Whoever comes back exactly then must find it so, so all are rounded up.
    """
    limits = charged.limits
    given = {name.lower() for name, _ in headers}
    if limits and "ratelimit-policy" not in given:
        yield "RateLimit-Policy", ", ".join([_policy(it.name, it.limit, it.window) for it in limits])
    if limits and "ratelimit" not in given:
        yield "RateLimit", _rate_limit(limits)
    waits = [it.retry_after for it in (*limits, charged.credits) if it and it.retry_after is not None]
    if waits and "retry-after" not in given:
        yield "Retry-After", str(max(1, _seconds(max(waits))))


def _rate_limit(limits: Iterable[Status]) -> str:
    return ", ".join([f'"{it.name}";r={it.remaining};t={_seconds(it.reset_after)}' for it in limits])


def _seconds(microseconds: int) -> int:
    return -(-microseconds // SECOND)


def _to_status(it: Status) -> pb.LimitStatus:
    return pb.LimitStatus(
        name=it.name,
        limit=it.limit,
        window=to_duration(it.window),
        remaining=it.remaining,
        reset_after=to_duration(it.reset_after),
        retry_after=to_duration(it.retry_after) if it.retry_after is not None else None,
    )


@lru_cache(maxsize=1024)
def _policy(name: str, limit: int, window: int) -> str:
    return f'"{name}";q={limit};w={_seconds(window)}'


def _to_credits(it: Standing) -> pb.CreditStatus:
    return pb.CreditStatus(
        balance=it.balance,
        refill_after=to_duration(it.refill_after) if it.refill_after is not None else None,
        retry_after=to_duration(it.retry_after) if it.retry_after is not None else None,
    )


@lru_cache(maxsize=1024)
def _http(answer: HttpAnswer) -> pb.HttpAnswer:
    headers = [pb.HttpHeader(name=name, value=value) for name, value in answer.headers]
    return pb.HttpAnswer(status=answer.status, headers=headers, body=answer.body)


def to_steps(steps: Iterable[Step]) -> list[pb.TraceStep]:
    """Return how a decision came about."""
    return [
        pb.TraceStep(
            step=pb.DecisionStep.Value(f"DECISION_STEP_{step.name.upper()}"),
            reason=REASONS[step.reason],
            rules=map(_considered, step.considered),
        )
        for step in steps
    ]


def _considered(rule: Considered) -> pb.ConsideredRule:
    return pb.ConsideredRule(
        rule=pb.MatchedRule(role=rule.role, binding=rule.binding, rule=rule.index),
        effect=_EFFECTS[rule.effect],
        outcome=pb.RuleOutcome.Value(f"RULE_OUTCOME_{rule.outcome.upper()}"),
        relation=rule.relation,
        condition=rule.condition,
        missing_context=rule.missing,
        held=rule.held,
    )


def to_selector(selector: Selector) -> pb.ResourceSelector:
    """Return which resources are meant."""
    relations = [
        pb.RequiredRelation(relation=it.removeprefix("parent."), on_parent=it.startswith("parent."))
        for it in selector.relations
    ]
    return pb.ResourceSelector(
        pattern=selector.pattern.text, relations=relations, conditions=[it.text for it in selector.conditions]
    )


def _rule(match: Match | None) -> pb.MatchedRule | None:
    if match is None:
        return None
    return pb.MatchedRule(role=match.rule.role, binding=match.binding, rule=match.rule.index)


def to_identity(subject: Subject | None, keyspace: Keyspace, api_version: str) -> pb.Identity | None:
    """Return who it was, if anybody may know."""
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
                api_version=api_version,
                secret_id=secret.id,
            )
        )
    return identity
