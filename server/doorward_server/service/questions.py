"""Questions about rights, as they come in and as they are asked: checked once, against what the keyspace declares."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from doorward_server.core.decide import Question
from doorward_server.core.directory import Attributes, SubjectKind
from doorward_server.core.errors import InvalidField, UnknownReference
from doorward_server.core.facts import NO_CONTEXT, NOTHING_SENT, Context, Sent, SentRelation
from doorward_server.core.fields import check_address, check_id, check_path
from doorward_server.core.model import Instant
from doorward_server.core.policy import Keyspace, Path
from doorward_server.service.finding import Presented
from doorward_server.service.freshness import AS_PROMISED, Consistency
from doorward_server.service.guard import Caller

Reference = tuple[str, str]
"""Type and id of a resource."""
NO_ATTRIBUTES: Attributes = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Related:
    """A relation that the caller says there is."""

    relation: str
    resource: Reference | None
    """None: the resource that is asked about."""
    subject_kind: SubjectKind | None
    """None: whoever is asked about has it."""
    subject: str


class Item(NamedTuple):
    """One question, as it came in."""

    action: str
    resource: Reference | None
    """None: the collection of the action's type."""
    organization: str
    attributes: Attributes = NO_ATTRIBUTES
    parent: Reference | None = None
    relations: tuple[Related, ...] = ()
    cost: int = 0
    """Units of limits that it takes; 0: what the keyspace says."""
    problem: InvalidField | None = None
    """What is wrong with the item itself. It is raised once the caller is known to be allowed to ask."""


class Ask(NamedTuple):
    """Who asks, where and when; the questions come apart."""

    presented: Presented
    keyspace: str
    environment: str
    client_ip: str
    dry_run: bool
    time: Instant | None = None
    attributes: Attributes = NO_ATTRIBUTES
    """Of the context."""
    wanted: Consistency = AS_PROMISED


class Asked(NamedTuple):
    """A question that makes sense in its keyspace, and what the caller sent of facts; stored ones come later."""

    question: Question
    sent: Sent


def read_question(caller: Caller, ask: Ask, item: Item, keyspace: Keyspace) -> Asked:
    """Return *item* as a question in *keyspace*. Raises InvalidField and UnknownReference, naming the field."""
    if item.problem is not None:
        raise item.problem
    if item.action not in keyspace.permissions:
        raise UnknownReference("action", "permission", item.action[:128])
    type, id = item.resource or (item.action.partition(":")[0], "")
    if type not in keyspace.types:
        raise UnknownReference("resource.type", "type", type[:128], ", ".join(sorted(keyspace.types)))
    path = check_path("resource.id" if id else "resource.type", type, id)
    question = Question(
        action=item.action,
        path=path,
        organization=_owner_of(caller, item, keyspace),
        environment=_environment(ask, keyspace),
        client_ip=check_address("context.client_ip", ask.client_ip),
        context=_context(ask, keyspace),
    )
    return Asked(question, _sent(item, type, keyspace))


def _owner_of(caller: Caller, item: Item, keyspace: Keyspace) -> str | None:
    """Return the organization that owns the resource; None: the subject's own."""
    if item.organization:
        return check_id("organization", item.organization, "organization")
    if keyspace.requires_organization:
        raise InvalidField("organization", f"is required by the keyspace {keyspace.name!r}: say who owns the resource")
    return None if caller.crosses else caller.organization


def _environment(ask: Ask, keyspace: Keyspace) -> str:
    environment = ask.environment or keyspace.environments[0]
    if environment not in keyspace.environments:
        raise UnknownReference("environment", "environment", environment[:128], ", ".join(keyspace.environments))
    return environment


def _context(ask: Ask, keyspace: Keyspace) -> Context:
    if ask.time is None and not ask.attributes:
        return NO_CONTEXT
    keyspace.declared.check_context("context.attributes", ask.attributes)
    return Context(ask.time, ask.attributes)


def _sent(item: Item, type: str, keyspace: Keyspace) -> Sent:
    if not item.attributes and item.parent is None and not item.relations:
        return NOTHING_SENT
    keyspace.declared.check_resource("resource.attributes", type, item.attributes)
    parent = _parent(item.parent, type, keyspace) if item.parent is not None else ()
    relations = tuple(_relation(f"relations[{i}]", it, type, keyspace) for i, it in enumerate(item.relations))
    return Sent(item.attributes, parent, relations)


def _parent(parent: Reference, type: str, keyspace: Keyspace) -> Path:
    known = keyspace.parents.get(type, ())
    if parent[0] not in known:
        raise UnknownReference("resource.parent.type", "parent type", parent[0][:128], ", ".join(known))
    return _named("resource.parent", parent)


def _relation(place: str, related: Related, type: str, keyspace: Keyspace) -> SentRelation:
    on = type if related.resource is None else related.resource[0]
    known = keyspace.relations.get(on, frozenset())
    if related.relation not in known:
        raise UnknownReference(f"{place}.relation", "relation", related.relation[:128], ", ".join(sorted(known)))
    resource = _named(f"{place}.resource", related.resource) if related.resource is not None else ()
    if related.subject_kind is not None:
        kind = related.subject_kind.lower()
        check_id(f"{place}.{kind}", related.subject, kind)
    return SentRelation(related.relation, resource, related.subject_kind, related.subject)


def _named(place: str, reference: Reference) -> Path:
    type, id = reference
    if not id:
        raise InvalidField(f"{place}.id", "is required")
    return check_path(f"{place}.id", type, id)
