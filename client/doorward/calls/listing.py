"""AuthzService: why was it decided so, what may be done, and on what?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from doorward.calls import Call
from doorward.calls.asking import Consistency, context, credential, freshness, resource_of, sent
from doorward.calls.authz import authorize
from doorward.calls.decided import REASONS, http_of, identity_of, read_decision, read_rule
from doorward.calls.values import words
from doorward.decision import (
    AccessibleResources,
    AllowedActions,
    ConsideredRule,
    Effect,
    Explanation,
    HttpRequest,
    Reason,
    RequiredRelation,
    RuleOutcome,
    Selector,
    SentRelation,
    Step,
    TraceStep,
)
from doorward.model import Attribute
from doorward.secret import Secret
from doorward.v1 import authz_pb2 as pb

STEPS = words(Step, pb.DecisionStep, "DECISION_STEP_")
EFFECTS = words(Effect, pb.Effect, "EFFECT_")
RULE_OUTCOMES = words(RuleOutcome, pb.RuleOutcome, "RULE_OUTCOME_")


def explain_authorization(
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
    consistency: Consistency = None,
    timeout: float | None = None,
) -> Call[pb.ExplainAuthorizationResponse, Explanation]:
    """Ask what authorize would answer, and how it comes about: each step, and each rule that was looked at.

    Leaves no trace. Needs `decisions:explain`, which administrators have, and then nothing more for principals.
    """
    question = authorize(
        key,
        keyspace=keyspace,
        action=action,
        resource=resource,
        organization=organization,
        environment=environment,
        client_ip=client_ip,
        http=http,
        principal=principal,
        attributes=attributes,
        parent=parent,
        relations=relations,
        at=at,
        facts=facts,
        consistency=consistency,
    ).request
    return Call(
        pb.ExplainAuthorizationRequest(question=question),
        pb.ExplainAuthorizationResponse,
        lambda answer: Explanation(read_decision(answer.answer), tuple(map(_step, answer.steps))),
        timeout,
    )


def list_allowed_actions(
    key: str | Secret | None = None,
    *,
    keyspace: str,
    resource: str | None = None,
    all_types: bool = False,
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
    consistency: Consistency = None,
    timeout: float | None = None,
) -> Call[pb.ListAllowedActionsResponse, AllowedActions]:
    """Ask for all that the holder of a key may do to a resource or a collection; with no resource, to any collection.

    Asked are the actions of the resource's type, with `all_types` those of all types. Leaves no trace.
    """
    return Call(
        pb.ListAllowedActionsRequest(
            keyspace=keyspace,
            environment=environment,
            resource=resource_of(resource, attributes, parent),
            all_types=all_types,
            organization=organization,
            context=context(client_ip, at, facts),
            relations=sent(relations),
            consistency=freshness(consistency),
            **credential(key, http, principal),
        ),
        pb.ListAllowedActionsResponse,
        _actions,
        timeout,
    )


def list_accessible_resources(
    key: str | Secret | None = None,
    *,
    keyspace: str,
    action: str,
    type: str = "",
    organization: str = "",
    environment: str = "",
    client_ip: str = "",
    http: HttpRequest | None = None,
    principal: str | None = None,
    at: datetime | None = None,
    facts: Mapping[str, Attribute] | None = None,
    consistency: Consistency = None,
    timeout: float | None = None,
) -> Call[pb.ListAccessibleResourcesResponse, AccessibleResources]:
    """Ask on which resources of a type (default: the action's) the holder of a key may do this. Leaves no trace.

    The answer is selectors, never truncated: filter what you have by them.
    """
    return Call(
        pb.ListAccessibleResourcesRequest(
            keyspace=keyspace,
            environment=environment,
            action=action,
            type=type,
            organization=organization,
            context=context(client_ip, at, facts),
            consistency=freshness(consistency),
            **credential(key, http, principal),
        ),
        pb.ListAccessibleResourcesResponse,
        _resources,
        timeout,
    )


def _step(step: pb.TraceStep) -> TraceStep:
    return TraceStep(
        step=STEPS.get(step.step, Step.UNKNOWN),
        reason=REASONS.get(step.reason, Reason.UNKNOWN),
        rules=tuple(map(_considered, step.rules)),
    )


def _considered(rule: pb.ConsideredRule) -> ConsideredRule:
    return ConsideredRule(
        rule=read_rule(rule.rule),
        effect=EFFECTS.get(rule.effect, Effect.UNKNOWN),
        outcome=RULE_OUTCOMES.get(rule.outcome, RuleOutcome.UNKNOWN),
        relation=rule.relation,
        condition=rule.condition,
        missing_context=tuple(rule.missing_context),
        held=rule.held,
    )


def _actions(answer: pb.ListAllowedActionsResponse) -> AllowedActions:
    return AllowedActions(
        actions=tuple(answer.actions),
        reason=REASONS.get(answer.reason, Reason.UNKNOWN),
        message=answer.message,
        identity=identity_of(answer),
        revision=answer.revision,
        missing_context=tuple(answer.missing_context),
        http=http_of(answer),
    )


def _resources(answer: pb.ListAccessibleResourcesResponse) -> AccessibleResources:
    return AccessibleResources(
        allowed=_selectors(answer.allowed),
        denied=_selectors(answer.denied),
        reason=REASONS.get(answer.reason, Reason.UNKNOWN),
        message=answer.message,
        identity=identity_of(answer),
        groups=tuple(answer.groups),
        revision=answer.revision,
        missing_context=tuple(answer.missing_context),
        http=http_of(answer),
    )


def _selectors(selectors: Iterable[pb.ResourceSelector]) -> tuple[Selector, ...]:
    return tuple(
        Selector(
            it.pattern,
            tuple(RequiredRelation(each.relation, each.on_parent) for each in it.relations),
            tuple(it.conditions),
        )
        for it in selectors
    )
