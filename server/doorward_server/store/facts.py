"""What is known about resources: relations to them, their attributes, what they are parts of. Kept, listed, forgotten.

Decisions read it by `Store.find_facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from peewee import Tuple, fn

from doorward_server.core.directory import Relation, Resource, SubjectKind
from doorward_server.core.errors import NotFound, QuotaExceeded, UnknownReference
from doorward_server.core.model import Event, Quotas

from .entities import GROUPS, KEYSPACES, ORGANIZATIONS, PRINCIPALS, Kind, find, get
from .rows import (
    RELATION,
    RESOURCE,
    Columns,
    Prepared,
    change_in,
    delete_from,
    insert_into,
    of_relation,
    of_resource,
    one_of,
    slots,
    to_relation,
    to_resource,
)
from .transaction import Transaction, Transactions
from .values import Written

ChangeResource = Callable[[Resource | None], tuple[Resource, Event] | None]
Told = Callable[[Sequence[Relation]], Event]
"""Makes the event of a change of these relations."""
Position = tuple[str, str, str, str]
"""Where a list of relations goes on: resource, subject's kind, subject, relation."""

_IDENTITY = ("organization", "keyspace", "resource")
_RELATION_IDENTITY = (*_IDENTITY, "subject_kind", "subject", "relation")
_NEW_RELATION = Prepared(RELATION.insert(slots(*RELATION.names)).on_conflict(action="IGNORE"))
_NO_RELATION = delete_from(RELATION, *_RELATION_IDENTITY)
_ONE_RESOURCE = one_of(RESOURCE, *_IDENTITY)
_NEW_RESOURCE = insert_into(RESOURCE)
_CHANGED_RESOURCE = change_in(RESOURCE, *_IDENTITY)


class FactStore:
    """Relations and resources of organizations. Every public method is one transaction; see `Store`."""

    def __init__(self, transactions: Transactions) -> None:
        self._write, self._look = transactions.write, transactions.look

    def write_relations(
        self, organization: str, keyspace: str, relations: Sequence[Relation], told: Told, quotas: Quotas
    ) -> Written[int]:
        """Add those of *relations*, all of one organization and keyspace, that are not there; return how many.

        Raises NotFound (organization), UnknownReference (keyspace, principal, group), QuotaExceeded.
        """
        return self._write(lambda tx: _write(tx, organization, keyspace, relations, told, quotas))

    def delete_relations(self, organization: str, relations: Sequence[Relation], told: Told) -> Written[int]:
        """Remove those of *relations* that are there; return how many. Raises NotFound (organization)."""
        return self._write(lambda tx: _delete(tx, organization, relations, told))

    def drop_relations_of(
        self, organization: str, kind: SubjectKind, subject: str, told: Told, limit: int
    ) -> Written[int]:
        """Remove the next *limit* relations of a subject, in all keyspaces; return how many. Call until 0."""
        return self._write(lambda tx: _drop_some(tx, organization, kind, subject, told, limit))

    def list_relations(
        self,
        organization: str,
        keyspace: str,
        resource: str = "",
        relation: str = "",
        subject: tuple[SubjectKind, str] | None = None,
        after: Position | None = None,
        limit: int = 50,
    ) -> list[Relation]:
        """Return relations by `Position`, behind *after*; an empty filter selects nothing away."""
        where: dict[str, Any] = {"organization": organization, "keyspace": keyspace}
        where |= {name: it for name, it in (("resource", resource), ("relation", relation)) if it}
        if subject is not None:
            where |= {"subject_kind": subject[0].value, "subject": subject[1]}
        return self._look(lambda tx: _list_relations(tx, where, after, limit))

    def put_resource(
        self, organization: str, keyspace: str, resource: str, change: ChangeResource, quotas: Quotas
    ) -> Written[Resource]:
        """Apply *change* to what is kept about a resource, or to None: then it must make it.

        Raises NotFound (organization), UnknownReference (keyspace), QuotaExceeded, and what *change* raises.
        """
        return self._write(lambda tx: _put(tx, (organization, keyspace, resource), change, quotas))

    def find_resource(self, organization: str, keyspace: str, resource: str) -> Resource | None:
        """Return what is kept about a resource."""
        return self._look(lambda tx: _find(tx, (organization, keyspace, resource)))

    def list_resources(
        self, organization: str, keyspace: str, type: str = "", parent: str = "", after: str = "", limit: int = 50
    ) -> list[Resource]:
        """Return resources by path, behind *after*; an empty filter selects nothing away."""
        return self._look(lambda tx: _list_resources(tx, organization, keyspace, type, parent, after, limit))

    def delete_resource(
        self,
        organization: str,
        keyspace: str,
        resource: str,
        told: Callable[[Resource | None, Sequence[Relation]], Event],
    ) -> Written[int]:
        """Remove what is kept about a resource and all relations to it; return how many. Raises NotFound."""
        return self._write(lambda tx: _delete_resource(tx, (organization, keyspace, resource), told))


def _write(
    tx: Transaction, organization: str, keyspace: str, relations: Sequence[Relation], told: Told, quotas: Quotas
) -> int:
    tally = tx.tally(organization)
    get(tx, ORGANIZATIONS, organization)
    if find(tx, KEYSPACES, keyspace) is None:
        raise UnknownReference("keyspace", "keyspace", keyspace)
    _require_subjects(tx, organization, relations)
    new = [it for it in relations if tx.run(_NEW_RELATION, **of_relation(it))]
    if not new:
        return 0
    tally.relations += len(new)
    if tally.relations > quotas.relations:
        raise QuotaExceeded("relations per organization", quotas.relations)
    _check_counts(tx, new, quotas)
    tx.append(told(new))
    return len(new)


def _check_counts(tx: Transaction, new: Sequence[Relation], quotas: Quotas) -> None:
    """Raise QuotaExceeded if there are too many to a resource, or of a subject, of *new* ones."""
    organization, keyspace = new[0].organization, new[0].keyspace
    for resource in dict.fromkeys(it.resource for it in new):
        where = {"organization": organization, "keyspace": keyspace, "resource": resource}
        if _count(tx, where) > quotas.relations_per_resource:
            raise QuotaExceeded("relations to one resource", quotas.relations_per_resource)
    for kind, subject in dict.fromkeys((it.subject_kind, it.subject) for it in new):
        where = {"organization": organization, "subject_kind": kind.value, "subject": subject}
        if _count(tx, where) > quotas.relations_per_subject:
            raise QuotaExceeded("relations per principal or group", quotas.relations_per_subject)


def _count(tx: Transaction, where: Columns) -> int:
    ((count,),) = tx.rows(RELATION.where_all(RELATION.select(fn.COUNT(RELATION.relation)), where))
    return int(count)


def _require_subjects(tx: Transaction, organization: str, relations: Iterable[Relation]) -> None:
    places: dict[tuple[SubjectKind, str], int] = {}
    for place, relation in enumerate(relations):
        places.setdefault((relation.subject_kind, relation.subject), place)
    for (kind, subject), place in places.items():
        of_kind: Kind[Any] = PRINCIPALS if kind is SubjectKind.PRINCIPAL else GROUPS
        if find(tx, of_kind, organization, subject) is None:
            raise UnknownReference(f"relations[{place}].{of_kind.type}", of_kind.type, subject)


def _delete(tx: Transaction, organization: str, relations: Sequence[Relation], told: Told) -> int:
    tx.tally(organization)
    get(tx, ORGANIZATIONS, organization)
    return _forgotten(tx, organization, [it for it in relations if _delete_one(tx, it)], told)


def _delete_one(tx: Transaction, relation: Relation) -> bool:
    row = of_relation(relation)
    return bool(tx.run(_NO_RELATION, **{name: row[name] for name in _RELATION_IDENTITY}))


def _drop_some(tx: Transaction, organization: str, kind: SubjectKind, subject: str, told: Told, limit: int) -> int:
    tx.tally(organization)
    where = {"organization": organization, "subject_kind": kind.value, "subject": subject}
    order = (RELATION.keyspace, RELATION.resource, RELATION.relation)
    query = RELATION.where_all(RELATION.select(*RELATION.all_columns()), where)
    some = [to_relation(row) for row in tx.rows(query.order_by(*order).limit(limit))]
    if some:
        last = (some[-1].keyspace, some[-1].resource, some[-1].relation)
        tx.run(RELATION.where_all(RELATION.delete(), where).where(Tuple(*order) <= last))
    return _forgotten(tx, organization, some, told)


def _forgotten(tx: Transaction, organization: str, relations: Sequence[Relation], told: Told) -> int:
    if relations:
        tx.tally(organization).relations -= len(relations)
        tx.append(told(relations))
    return len(relations)


def _list_relations(tx: Transaction, where: Columns, after: Position | None, limit: int) -> list[Relation]:
    order = (RELATION.resource, RELATION.subject_kind, RELATION.subject, RELATION.relation)
    query = RELATION.where_all(RELATION.select(*RELATION.all_columns()), where)
    if after is not None:
        query = query.where(Tuple(*order) > after)
    return [to_relation(row) for row in tx.rows(query.order_by(*order).limit(limit))]


def _find(tx: Transaction, which: tuple[str, str, str]) -> Resource | None:
    row = tx.row(_ONE_RESOURCE, **dict(zip(_IDENTITY, which, strict=True)))
    return None if row is None else to_resource(row)


def _put(tx: Transaction, which: tuple[str, str, str], change: ChangeResource, quotas: Quotas) -> Resource:
    organization, keyspace, _ = which
    tally = tx.tally(organization)
    get(tx, ORGANIZATIONS, organization)
    if find(tx, KEYSPACES, keyspace) is None:
        raise UnknownReference("resource.keyspace", "keyspace", keyspace)
    current = _find(tx, which)
    changed = change(current)
    if changed is None:
        if current is None:
            raise ValueError("a change of what is not there must make it")
        return current
    value, event = changed
    if current is None:
        if tally.resources >= quotas.resources:
            raise QuotaExceeded("resources per organization", quotas.resources)
        tally.resources += 1
    tx.run(_NEW_RESOURCE if current is None else _CHANGED_RESOURCE, **of_resource(value))
    tx.append(event)
    return value


def _list_resources(
    tx: Transaction, organization: str, keyspace: str, type: str, parent: str, after: str, limit: int
) -> list[Resource]:
    where = {"organization": organization, "keyspace": keyspace} | ({"parent": parent} if parent else {})
    query = RESOURCE.where_all(RESOURCE.select(*RESOURCE.all_columns()), where).where(RESOURCE.resource > after)
    if type:  # all that begins with "type/": "0" is what follows "/"
        query = query.where((RESOURCE.resource > f"{type}/") & (RESOURCE.resource < f"{type}0"))
    return [to_resource(row) for row in tx.rows(query.order_by(RESOURCE.resource).limit(limit))]


def _delete_resource(
    tx: Transaction,
    which: tuple[str, str, str],
    told: Callable[[Resource | None, Sequence[Relation]], Event],
) -> int:
    organization, _, resource = which
    where = dict(zip(_IDENTITY, which, strict=True))
    tally = tx.tally(organization)
    get(tx, ORGANIZATIONS, organization)
    current = _find(tx, which)
    rows = tx.rows(RELATION.where_all(RELATION.select(*RELATION.all_columns()), where))
    if current is None and not rows:
        raise NotFound("resource", resource)
    relations = [to_relation(row) for row in rows]
    tally.resources -= tx.run(RESOURCE.where_all(RESOURCE.delete(), where))
    tally.relations -= tx.run(RELATION.where_all(RELATION.delete(), where))
    tx.append(told(current, relations))
    return len(relations)
