"""AuthzService: may the holder of this key do this, here, now?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Literal, ParamSpec

from doorward.calls import A, Call
from doorward.calls.directory import read_principal
from doorward.calls.keys import CEILINGS
from doorward.calls.values import instant_or_none, words
from doorward.errors import CODES, CallFailed, Denied, failure
from doorward.model import Ceiling, Decision, HttpRequest, Identity, Question, Reason, Rule
from doorward.secret import Secret, reveal, sendable
from doorward.v1 import authz_pb2 as pb

P = ParamSpec("P")
Consistency = int | Literal["full"] | None
"""How fresh an answer must be: as of this revision at least, as the store has it (full), or (None) as is promised."""

REASONS = words(Reason, pb.Reason, "REASON_")


def authorize(
    key: str | Secret | None = None,
    *,
    keyspace: str,
    action: str,
    resource: str | None = None,
    organization: str = "",
    environment: str = "",
    client_ip: str = "",
    http: HttpRequest | None = None,
    principal: str | None = None,
    dry_run: bool = False,
    consistency: Consistency = None,
    timeout: float | None = None,
) -> Call[pb.AuthorizeResponse, Decision]:
    """Ask whether the holder of a key may do this. The answer is true exactly if it may.

    Who asks is the key's text exactly as it was presented, or the HTTP request it came in, or a principal
    ("acme/alice") that you have authenticated yourself; with none of them (a header was missing) the answer is a
    denial. `resource` is a type and an id, e.g. "findings/42", or a type alone for its collection; None is the
    collection of the action's type. With `dry_run` the question leaves no trace. A revision as `consistency`, e.g. of a
    change that was made with `no_wait`, must have been seen (RevisionNotReached if the store has not come so far);
    "full" asks the store, which is slower. Without either, every change that was waited for is seen.
    """
    return Call(
        pb.AuthorizeRequest(
            keyspace=keyspace,
            environment=environment,
            action=action,
            resource=_resource(resource),
            organization=organization,
            context=_context(client_ip),
            dry_run=dry_run,
            consistency=_consistency(consistency),
            **_credential(key, http, principal),
        ),
        pb.AuthorizeResponse,
        _decision,
        timeout,
    )


def _required(describe: Callable[P, Call[A, Decision]]) -> Callable[P, Call[A, Decision]]:
    """Return the same call with a denial raised instead of returned."""

    @wraps(describe)
    def require(*args: P.args, **kwargs: P.kwargs) -> Call[A, Decision]:
        call = describe(*args, **kwargs)
        return Call(call.request, call.answer, lambda answer: _allowed(call.read(answer)), call.timeout)

    require.__name__ = require.__qualname__ = "require"
    require.__doc__ = "As authorize, but raises Denied, which carries the decision, unless it is allowed."
    return require


require = _required(authorize)


def batch_authorize(
    key: str | Secret | None = None,
    *,
    keyspace: str,
    questions: Iterable[Question],
    organization: str = "",
    environment: str = "",
    client_ip: str = "",
    http: HttpRequest | None = None,
    principal: str | None = None,
    dry_run: bool = False,
    consistency: Consistency = None,
    timeout: float | None = None,
) -> Call[pb.BatchAuthorizeResponse, list[Decision]]:
    """Ask 1 to 100 questions about one credential; return the decisions in the same order, all as of one revision.

    A question that could not be decided has an `error`, and is not allowed. `organization` is for those without one.
    """
    items = [
        pb.BatchAuthorizeItem(
            action=question.action, resource=_resource(question.resource), organization=question.organization
        )
        for question in questions
    ]
    return Call(
        pb.BatchAuthorizeRequest(
            keyspace=keyspace,
            environment=environment,
            organization=organization,
            context=_context(client_ip),
            dry_run=dry_run,
            consistency=_consistency(consistency),
            items=items,
            **_credential(key, http, principal),
        ),
        pb.BatchAuthorizeResponse,
        _decisions,
        timeout,
    )


def introspect(
    key: str | Secret | None = None,
    *,
    keyspace: str,
    http: HttpRequest | None = None,
    client_ip: str = "",
    consistency: Consistency = None,
    timeout: float | None = None,
) -> Call[pb.IntrospectResponse, Decision]:
    """Ask whose credential this is. Allowed means good for something now; says nothing about any action."""
    return Call(
        pb.IntrospectRequest(
            keyspace=keyspace,
            context=_context(client_ip),
            consistency=_consistency(consistency),
            **_credential(key, http, None),
        ),
        pb.IntrospectResponse,
        _introspection,
        timeout,
    )


def whoami(*, timeout: float | None = None) -> Call[pb.IntrospectResponse, Identity]:
    """Return who the client's own key belongs to; needs no permission."""
    return Call(pb.IntrospectRequest(), pb.IntrospectResponse, lambda answer: _identity(answer.identity), timeout)


def _credential(key: str | Secret | None, http: HttpRequest | None, principal: str | None) -> dict[str, Any]:
    if sum(given is not None for given in (key, http, principal)) > 1:
        raise ValueError("give one of key, http and principal: two credentials are ambiguous")
    if http is not None:
        headers = http.headers.items() if isinstance(http.headers, Mapping) else http.headers
        sent = [pb.HttpHeader(name=sendable(name), value=sendable(value)) for name, value in headers]
        return {"http": pb.HttpRequest(headers=sent, query=sendable(http.query))}
    if principal is not None:
        organization, _, id = principal.partition("/")
        return {"principal": pb.PrincipalReference(organization=organization, principal=id)}
    return {"key": sendable(reveal(key or ""))}


def _resource(resource: str | None) -> pb.Resource | None:
    if resource is None:
        return None
    type, slash, id = resource.partition("/")
    if slash and not id:
        raise ValueError(f"resource: {resource!r} has an empty id; {type!r} alone is the collection")
    return pb.Resource(type=type, id=id)


def _context(client_ip: str) -> pb.Context | None:
    return pb.Context(client_ip=client_ip) if client_ip else None


def _consistency(wanted: Consistency) -> pb.Consistency | None:
    if wanted is None:
        return None
    return pb.Consistency(full=True) if wanted == "full" else pb.Consistency(at_least_as_fresh=int(wanted))


def _allowed(decision: Decision) -> Decision:
    if not decision.allowed:
        raise Denied(decision)
    return decision


def _decision(answer: pb.AuthorizeResponse) -> Decision:
    return _decided(
        answer, _identity_of(answer), answer.revision, rule=_rule(answer), missing=answer.missing_permissions
    )


def _introspection(answer: pb.IntrospectResponse) -> Decision:
    return _decided(answer, _identity_of(answer), answer.revision)


def _decisions(answer: pb.BatchAuthorizeResponse) -> list[Decision]:
    identity = _identity_of(answer)
    return [
        _decided(
            result,
            identity,
            answer.revision,
            rule=_rule(result),
            missing=result.missing_permissions,
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
        error=error,
    )


def _identity_of(answer: pb.AuthorizeResponse | pb.BatchAuthorizeResponse | pb.IntrospectResponse) -> Identity | None:
    return _identity(answer.identity) if answer.HasField("identity") else None


def _rule(outcome: pb.AuthorizeResponse | pb.BatchAuthorizeResult) -> Rule | None:
    if not outcome.HasField("rule"):
        return None
    return Rule(role=outcome.rule.role, binding=outcome.rule.binding, position=outcome.rule.rule)


def _error(error: pb.ItemError) -> CallFailed:
    return failure(CODES.get(error.code, "UNKNOWN"), error.message, error.reason, dict(error.metadata))


def _identity(identity: pb.Identity) -> Identity:
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
        metadata=dict(identity.metadata),
        expires_at=instant_or_none(identity, "expires_at"),
        api_version=identity.api_version,
    )
