"""doorward explain, doorward allowed-actions, doorward accessible-resources."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from doorward.cli.decisions import (
    At,
    ClientIp,
    Environment,
    Facts,
    InKeyspace,
    OfResource,
    Parent,
    Presented,
    Relations,
    SignedIn,
    presented,
    verdict,
)
from doorward.cli.output import show
from doorward.cli.session import Session, plain
from doorward.cli.words import facts, instant_or_none
from doorward.decision import ConsideredRule, Explanation, Reason, Selector, SentRelation


def explain(
    ctx: typer.Context,
    action: Annotated[str, typer.Argument(help="What is to be done, e.g. findings:read.")],
    keyspace: InKeyspace,
    resource: Annotated[str | None, typer.Argument(help="What to, e.g. findings/42. Default: the collection.")] = None,
    presented_key: Presented = "-",
    principal: SignedIn = None,
    environment: Environment = "",
    client_ip: ClientIp = "",
    attribute: OfResource = None,
    parent: Parent = None,
    relation: Relations = None,
    at: At = None,
    context: Facts = None,
) -> None:
    """Show what authorize would answer, and why: each step, and each rule that was looked at."""
    session: Session = ctx.obj
    explanation = session.client.explain_authorization(
        presented(presented_key, principal),
        keyspace=keyspace,
        action=action,
        resource=resource,
        organization=session.organization,
        environment=environment,
        client_ip=client_ip,
        principal=principal,
        attributes=facts(attribute),
        parent=parent,
        relations=list(map(SentRelation.parse, relation or ())),
        at=instant_or_none(at),
        facts=facts(context),
    )
    if session.json:
        show(session, explanation)
    else:
        print("\n".join(map(plain, _told(explanation))))


def allowed_actions(
    ctx: typer.Context,
    keyspace: InKeyspace,
    resource: Annotated[str | None, typer.Argument(help="What to, e.g. findings/42. Default: all collections.")] = None,
    all_types: Annotated[bool, typer.Option("--all-types", help="Also the actions of other types on it.")] = False,
    presented_key: Presented = "-",
    principal: SignedIn = None,
    environment: Environment = "",
    client_ip: ClientIp = "",
    attribute: OfResource = None,
    parent: Parent = None,
    relation: Relations = None,
    at: At = None,
    context: Facts = None,
) -> None:
    """List all that the holder of a key may do to a resource."""
    session: Session = ctx.obj
    listed = session.client.list_allowed_actions(
        presented(presented_key, principal),
        keyspace=keyspace,
        resource=resource,
        all_types=all_types,
        organization=session.organization,
        environment=environment,
        client_ip=client_ip,
        principal=principal,
        attributes=facts(attribute),
        parent=parent,
        relations=list(map(SentRelation.parse, relation or ())),
        at=instant_or_none(at),
        facts=facts(context),
    )
    if session.json:
        show(session, listed)
    else:
        _write(listed.actions, listed.reason, listed.message, listed.missing_context)


def accessible_resources(
    ctx: typer.Context,
    action: Annotated[str, typer.Argument(help="What is to be done, e.g. findings:read.")],
    keyspace: InKeyspace,
    type: Annotated[str, typer.Option(help="The type of the resources. Default: the action's.")] = "",
    presented_key: Presented = "-",
    principal: SignedIn = None,
    environment: Environment = "",
    client_ip: ClientIp = "",
    at: At = None,
    context: Facts = None,
) -> None:
    """List on which resources the holder of a key may do something, as patterns; "not" begins the exceptions."""
    session: Session = ctx.obj
    listed = session.client.list_accessible_resources(
        presented(presented_key, principal),
        keyspace=keyspace,
        action=action,
        type=type,
        organization=session.organization,
        environment=environment,
        client_ip=client_ip,
        principal=principal,
        at=instant_or_none(at),
        facts=facts(context),
    )
    if session.json:
        show(session, listed)
        return
    lines = [*map(_selected, listed.allowed), *(f"not {_selected(it)}" for it in listed.denied if listed.allowed)]
    _write(lines, listed.reason, listed.message, listed.missing_context)


def _write(lines: Iterable[str], reason: Reason, message: str, missing: Iterable[str]) -> None:
    written = list(map(plain, lines))
    if reason is not Reason.ALLOWED:
        written.append(verdict(False, reason, message))
    if missing := ", ".join(missing):
        written.append(plain(f"There might be more, were this known: {missing}"))
    print("\n".join(written))


def _told(explanation: Explanation) -> Iterable[str]:
    for step in explanation.steps:
        yield f"{step.step.lower():14} {'passed' if step.reason is Reason.ALLOWED else step.reason}"
        yield from (f"  {_considered(rule)}" for rule in step.rules)
    decision = explanation.decision
    yield verdict(bool(decision), decision.reason, decision.message)
    if decision.missing_context:
        yield f"Nobody gave: {', '.join(decision.missing_context)}"


def _considered(rule: ConsideredRule) -> str:
    outcome = rule.outcome.lower().replace("_", " ")
    by = f" by binding {rule.rule.binding}" if rule.rule.binding else ""
    of = f", held as {rule.held}" if rule.held not in ("", rule.rule.role) else ""
    why = next(filter(None, [", ".join(rule.missing_context), rule.condition, rule.relation]), "")
    named = f" ({why})" if why and rule.outcome != "MATCHED" else ""
    return f"{rule.effect} rule {rule.rule.position} of {rule.rule.role}{of}{by}: {outcome}{named}"


def _selected(selector: Selector) -> str:
    relations = [f"{'parent.' if it.on_parent else ''}{it.relation}" for it in selector.relations]
    wanted = [*(f"if {it}" for it in relations), *(f"where {it}" for it in selector.conditions)]
    return " ".join([selector.pattern, *wanted])
