"""Questions about rights, from messages to values. InvalidField names the field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from doorward.v1 import authz_pb2 as pb
from doorward_server.core.directory import SubjectKind
from doorward_server.core.errors import InvalidField
from doorward_server.core.keytext import SecretText
from doorward_server.service.finding import HttpParts, Presented, SignedIn
from doorward_server.service.freshness import AS_PROMISED, Consistency
from doorward_server.service.questions import Ask, Item, Reference, Related
from doorward_server.wire.convert import bounded, from_attributes, from_timestamp

MAX_HEADERS = 100
MAX_COST = 1_000_000
"""Units of limits that one question takes at most."""
MAX_HTTP_TEXT = 8192
"""Characters of a header or of the query, as most HTTP servers have it: the whole text is searched for a credential."""
_SUBJECTS = {"principal": SubjectKind.PRINCIPAL, "group": SubjectKind.GROUP}


def read_ask(request: Any) -> Ask:
    """Return who asks, where and when."""
    ask = Ask(
        presented=_presented(request),
        keyspace=request.keyspace,
        environment=getattr(request, "environment", ""),
        client_ip="",
        dry_run=getattr(request, "dry_run", False),
        wanted=_consistency(request.consistency) if request.HasField("consistency") else AS_PROMISED,
    )
    if not request.HasField("context"):
        return ask
    context: pb.Context = request.context
    return ask._replace(
        client_ip=context.client_ip,
        time=from_timestamp("context.time", context, "time"),
        attributes=from_attributes("context.attributes", context.attributes),
    )


def _consistency(consistency: pb.Consistency) -> Consistency:
    if consistency.at_least_as_fresh < 0:
        raise InvalidField("consistency.at_least_as_fresh", "must be a revision that an answer has told")
    return Consistency(consistency.full, consistency.at_least_as_fresh)


def read_item(item: Any, organization: str = "") -> Item:
    """Return one question; *organization* is for one that names none. What is wrong with it becomes its `problem`."""
    resource = item.resource if item.HasField("resource") else None
    about = (resource.type, resource.id) if resource is not None else None
    return _item(item, item.action, about, item.organization or organization)


def read_listed(request: pb.ListAllowedActionsRequest) -> Item:
    """Return what the actions are asked about; the item names none."""
    resource = (request.resource.type, request.resource.id) if request.HasField("resource") else None
    return _item(request, "", resource, request.organization)


def read_selected(request: pb.ListAccessibleResourcesRequest) -> Item:
    """Return what the resources are asked for: the item is about the collection of their type."""
    resource = (request.type, "") if request.type else None
    return Item(request.action, resource, request.organization)


def _item(message: Any, action: str, resource: Reference | None, organization: str) -> Item:
    cost = getattr(message, "cost", 0)
    if cost and not 0 < cost <= MAX_COST:
        problem = InvalidField("cost", f"must be 0 to {MAX_COST:,} units")
        return Item(action, resource, organization, problem=problem)
    if not (message.relations or (resource and (message.resource.attributes or message.resource.HasField("parent")))):
        return Item(action, resource, organization, cost=cost)
    try:
        return Item(
            action,
            resource,
            organization,
            attributes=from_attributes("resource.attributes", message.resource.attributes),
            parent=_reference(message.resource, "parent"),
            relations=tuple(_relations(message.relations)),
            cost=cost,
        )
    except InvalidField as problem:
        return Item(action, resource, organization, problem=problem)


def _relations(relations: Any) -> Iterable[Related]:
    for relation in bounded("relations", relations):
        kind = relation.WhichOneof("subject")
        yield Related(
            relation.relation,
            _reference(relation, "resource"),
            _SUBJECTS[kind] if kind else None,
            getattr(relation, kind) if kind else "",
        )


def _reference(message: Any, name: str) -> Reference | None:
    if not message.HasField(name):
        return None
    reference = getattr(message, name)
    return reference.type, reference.id


def _presented(request: Any) -> Presented:
    kind = request.WhichOneof("credential")
    if kind == "key":
        return SecretText(request.key)
    match kind:
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
