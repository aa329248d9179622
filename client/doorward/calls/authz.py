"""AuthzService: may the holder of this key do this, here, now?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import wraps
from typing import Literal, ParamSpec

from doorward.calls import Call
from doorward.calls.asking import Consistency, context, credential, freshness, resource_of, sent
from doorward.calls.decided import read_decisions, read_identity, read_introspection
from doorward.decision import Decision, HttpRequest, Identity, Question, SentRelation
from doorward.errors import Denied
from doorward.model import Attribute
from doorward.secret import Secret
from doorward.v1 import authz_pb2 as pb

P = ParamSpec("P")
OnUnavailable = Literal["raise", "deny", "allow"]
"""What to take for an answer where no server can be asked."""


Check = Callable[[Decision], Decision]


def as_it_is(decision: Decision) -> Decision:
    """Return a decision, whatever it is."""
    return decision


@dataclass(frozen=True, slots=True)
class Deciding:
    """A question that may be answered from a cache, or without an answer."""

    request: pb.AuthorizeRequest = field(repr=False)  # it holds a credential
    timeout: float | None
    on_unavailable: OnUnavailable
    check: Check = as_it_is
    """What is done to the decision wherever it comes from; it may raise."""

    @property
    def call(self) -> Call[pb.AuthorizeResponse, pb.AuthorizeResponse]:
        """The call that asks a server."""
        return Call(self.request, pb.AuthorizeResponse, lambda answer: answer, self.timeout)


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
    attributes: Mapping[str, Attribute] | None = None,
    parent: str | None = None,
    relations: Sequence[SentRelation] = (),
    at: datetime | None = None,
    facts: Mapping[str, Attribute] | None = None,
    dry_run: bool = False,
    consistency: Consistency = None,
    cost: int = 0,
    on_unavailable: OnUnavailable = "raise",
    timeout: float | None = None,
) -> Deciding:
    """Ask whether the holder of a key may do this. The answer is true exactly if it may.

    Who asks is the key's text exactly as it was presented, or the HTTP request it came in, or a principal
    ("acme/alice") that you have authenticated yourself; with none of them (a header was missing) the answer is a
    denial. `resource` is a type and an id, e.g. "findings/42", or a type alone for its collection; None is the
    collection of the action's type. What you know of it goes along: its `attributes`, its `parent` ("assessments/7"),
    and `relations` to it or its parent. `at` is the moment for conditions that ask for one, `facts` are the other
    attributes of the context. With `dry_run` the question leaves no trace. A revision as `consistency`, e.g. of a
    change that was made with `no_wait`, must have been seen (RevisionNotReached if the store has not come so far);
    "full" asks the store, which is slower. Without either, every change that was waited for is seen. `cost` is how many
    units it takes of the keyspace's limits; 0: what the keyspace says.

    Where no server answers, Unavailable or DeadlineExceeded is raised. `on_unavailable="deny"` returns a denial
    instead, "allow" consent, but that only if the keyspace was heard to permit it (`fail_open`); both are logged and
    counted (`assumed`), and carry the `error`.
    """
    if on_unavailable not in ("raise", "deny", "allow"):
        raise ValueError('on_unavailable: must be "raise", "deny" or "allow"')
    return Deciding(
        pb.AuthorizeRequest(
            keyspace=keyspace,
            environment=environment,
            action=action,
            resource=resource_of(resource, attributes, parent),
            organization=organization,
            context=context(client_ip, at, facts),
            relations=sent(relations),
            dry_run=dry_run,
            consistency=freshness(consistency),
            cost=cost,
            **credential(key, http, principal),
        ),
        timeout,
        on_unavailable,
    )


def _required(describe: Callable[P, Deciding]) -> Callable[P, Deciding]:
    """Return the same question with a denial raised instead of returned."""

    @wraps(describe)
    def require(*args: P.args, **kwargs: P.kwargs) -> Deciding:
        return replace(describe(*args, **kwargs), check=allowed)

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
    at: datetime | None = None,
    facts: Mapping[str, Attribute] | None = None,
    dry_run: bool = False,
    consistency: Consistency = None,
    timeout: float | None = None,
) -> Call[pb.BatchAuthorizeResponse, list[Decision]]:
    """Ask 1 to 100 questions about one credential; return the decisions in the same order, all as of one revision.

    A question that could not be decided has an `error`, and is not allowed. `organization` is for those without one.
    """
    items = [
        pb.BatchAuthorizeItem(
            action=question.action,
            resource=resource_of(question.resource, question.attributes, question.parent),
            organization=question.organization,
            relations=sent(question.relations),
            cost=question.cost,
        )
        for question in questions
    ]
    return Call(
        pb.BatchAuthorizeRequest(
            keyspace=keyspace,
            environment=environment,
            organization=organization,
            context=context(client_ip, at, facts),
            dry_run=dry_run,
            consistency=freshness(consistency),
            items=items,
            **credential(key, http, principal),
        ),
        pb.BatchAuthorizeResponse,
        read_decisions,
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
            context=context(client_ip),
            consistency=freshness(consistency),
            **credential(key, http, None),
        ),
        pb.IntrospectResponse,
        read_introspection,
        timeout,
    )


def whoami(*, timeout: float | None = None) -> Call[pb.IntrospectResponse, Identity]:
    """Return who the client's own key belongs to; needs no permission."""
    return Call(pb.IntrospectRequest(), pb.IntrospectResponse, lambda answer: read_identity(answer.identity), timeout)


def allowed(decision: Decision) -> Decision:
    """Return a decision that allows. Raises Denied for any other."""
    if not decision.allowed:
        raise Denied(decision)
    return decision
