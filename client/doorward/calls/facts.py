"""DirectoryService: what is known about resources. Relations to them, attributes of them, what they are parts of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Unpack

from doorward.calls import Call, Pages
from doorward.calls.attributes import attributes as facts
from doorward.calls.attributes import read_attributes
from doorward.calls.groups import subject
from doorward.calls.values import Effect, effect, instant, instant_or_none
from doorward.model import Attribute, ChangedRelations, Relation, StoredResource
from doorward.v1 import directory_pb2 as pb


def write_relations(
    relations: Iterable[Relation],
    *,
    keyspace: str,
    organization: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.WriteRelationsResponse, ChangedRelations]:
    """Keep 1 to 100 relations, all or none; those that are there already stay. No organization means the caller's own,
    here as below.
    """
    return Call(
        pb.WriteRelationsRequest(
            organization=organization, keyspace=keyspace, relations=map(_relation, relations), no_wait=no_wait
        ),
        pb.WriteRelationsResponse,
        lambda answer: ChangedRelations(answer.written, **effect(answer)),
        timeout,
    )


def delete_relations(
    relations: Iterable[Relation],
    *,
    keyspace: str,
    organization: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.DeleteRelationsResponse, ChangedRelations]:
    """Forget 1 to 100 relations, all or none; those that are not there are passed over."""
    return Call(
        pb.DeleteRelationsRequest(
            organization=organization, keyspace=keyspace, relations=map(_relation, relations), no_wait=no_wait
        ),
        pb.DeleteRelationsResponse,
        lambda answer: ChangedRelations(answer.deleted, **effect(answer)),
        timeout,
    )


def list_relations(
    *,
    keyspace: str,
    organization: str = "",
    resource: str = "",
    relation: str = "",
    principal: str = "",
    group: str = "",
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[pb.ListRelationsResponse, Relation]:
    """The relations of a keyspace for which everything given holds, by resource, then subject."""
    return Pages(
        pb.ListRelationsRequest(
            organization=organization,
            keyspace=keyspace,
            resource=resource,
            relation=relation,
            principal=principal,
            group=group,
            page_size=page_size,
        ),
        pb.ListRelationsResponse,
        lambda answer: map(_read_relation, answer.relations),
        timeout,
    )


def put_resource(
    resource: str,
    *,
    keyspace: str,
    organization: str = "",
    attributes: Mapping[str, Attribute] | None = None,
    parent: str = "",
    etag: str = "",
    no_wait: bool = False,
    timeout: float | None = None,
) -> Call[pb.PutResourceResponse, StoredResource]:
    """Keep facts about a resource, e.g. "vulnerabilities/7", and what it is a part of, e.g. "assessments/42".

    What was kept about it before is replaced as a whole. An etag, if given, is the one that it must have now.
    """
    stored = pb.StoredResource(
        organization=organization,
        keyspace=keyspace,
        resource=resource,
        attributes=facts(attributes),
        parent=parent,
        etag=etag,
    )
    return Call(
        pb.PutResourceRequest(resource=stored, no_wait=no_wait),
        pb.PutResourceResponse,
        lambda answer: _read_resource(answer.resource, **effect(answer)),
        timeout,
    )


def get_resource(
    resource: str, *, keyspace: str, organization: str = "", timeout: float | None = None
) -> Call[pb.GetResourceResponse, StoredResource]:
    """Return what is kept about a resource."""
    return Call(
        pb.GetResourceRequest(organization=organization, keyspace=keyspace, resource=resource),
        pb.GetResourceResponse,
        lambda answer: _read_resource(answer.resource),
        timeout,
    )


def list_resources(
    *,
    keyspace: str,
    organization: str = "",
    type: str = "",
    parent: str = "",
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[pb.ListResourcesResponse, StoredResource]:
    """What is kept about the resources for which everything given holds, by resource."""
    return Pages(
        pb.ListResourcesRequest(
            organization=organization, keyspace=keyspace, type=type, parent=parent, page_size=page_size
        ),
        pb.ListResourcesResponse,
        lambda answer: map(_read_resource, answer.resources),
        timeout,
    )


def delete_resource(
    resource: str, *, keyspace: str, organization: str = "", no_wait: bool = False, timeout: float | None = None
) -> Call[pb.DeleteResourceResponse, ChangedRelations]:
    """Forget all that is kept about a resource, and every relation to it; return how many relations that were."""
    return Call(
        pb.DeleteResourceRequest(organization=organization, keyspace=keyspace, resource=resource, no_wait=no_wait),
        pb.DeleteResourceResponse,
        lambda answer: ChangedRelations(answer.relations, **effect(answer)),
        timeout,
    )


def _relation(relation: Relation) -> pb.Relation:
    return pb.Relation(
        resource=relation.resource, relation=relation.relation, **subject(relation.principal, relation.group)
    )


def _read_relation(relation: pb.Relation) -> Relation:
    return Relation(
        resource=relation.resource,
        relation=relation.relation,
        principal=relation.principal if relation.HasField("principal") else None,
        group=relation.group if relation.HasField("group") else None,
        created_at=instant_or_none(relation, "created_at"),
    )


def _read_resource(stored: pb.StoredResource, **written: Unpack[Effect]) -> StoredResource:
    return StoredResource(
        organization=stored.organization,
        keyspace=stored.keyspace,
        resource=stored.resource,
        attributes=read_attributes(stored.attributes),
        parent=stored.parent,
        created_at=instant(stored.created_at),
        updated_at=instant(stored.updated_at),
        etag=stored.etag,
        **written,
    )
