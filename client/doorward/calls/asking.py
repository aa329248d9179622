"""What questions about rights are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from doorward.calls.attributes import attributes as _attributes
from doorward.calls.values import timestamp
from doorward.decision import HttpRequest, SentRelation
from doorward.model import Attribute
from doorward.secret import Secret, reveal, sendable
from doorward.v1 import authz_pb2 as pb

Consistency = int | Literal["full"] | None
"""How fresh an answer must be: as of this revision at least, as the store has it (full), or (None) as is promised."""


def credential(key: str | Secret | None, http: HttpRequest | None, principal: str | None) -> dict[str, Any]:
    """Return the one credential of a question; without any, an empty key, which is missing."""
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


def resource_of(
    resource: str | None, attributes: Mapping[str, Attribute] | None = None, parent: str | None = None
) -> pb.Resource | None:
    """Return what a question is about; None stays None, the collection of the action's type."""
    if resource is None:
        if attributes or parent:
            raise ValueError("attributes and parent are those of a resource: say of which")
        return None
    type, slash, id = resource.partition("/")
    if slash and not id:
        raise ValueError(f"resource: {resource!r} has an empty id; {type!r} alone is the collection")
    above = _reference("parent", parent) if parent else None
    return pb.Resource(type=type, id=id, attributes=_attributes(attributes), parent=above)


def sent(relations: Iterable[SentRelation]) -> list[pb.SentRelation]:
    """Return relations that the caller knows of."""
    return list(map(_sent, relations))


def _sent(relation: SentRelation) -> pb.SentRelation:
    resource = _reference("relations", relation.resource) if relation.resource else None
    made = pb.SentRelation(relation=relation.relation, resource=resource)
    if relation.principal is not None and relation.group is not None:
        raise ValueError("relations: each is one principal's or one group's")
    if relation.principal is not None:
        made.principal = relation.principal
    if relation.group is not None:
        made.group = relation.group
    return made


def context(
    client_ip: str, at: datetime | None = None, facts: Mapping[str, Attribute] | None = None
) -> pb.Context | None:
    """Return what is known about the call, if anything is."""
    if not (client_ip or at or facts):
        return None
    return pb.Context(client_ip=client_ip, time=timestamp("at", at), attributes=_attributes(facts))


def _reference(argument: str, resource: str) -> pb.ResourceReference:
    type, _, id = resource.partition("/")
    if not id:
        raise ValueError(f"{argument}: {resource!r} has no id; write e.g. assessments/42")
    return pb.ResourceReference(type=type, id=id)


def freshness(wanted: Consistency) -> pb.Consistency | None:
    """Return how fresh the answer must be at least."""
    if wanted is None:
        return None
    return pb.Consistency(full=True) if wanted == "full" else pb.Consistency(at_least_as_fresh=int(wanted))
