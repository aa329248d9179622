"""What is known about resources: relations to them, their attributes, what they are parts of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from doorward_server.core.directory import Relation, Resource, SubjectKind
from doorward_server.core.errors import EtagMismatch, InvalidField, UnknownReference
from doorward_server.core.fields import check_attributes, check_id
from doorward_server.core.model import Actor, Event, Instant, Quotas
from doorward_server.core.policy import Keyspace, Path, parse_path
from doorward_server.core.words import RELATION, WORD
from doorward_server.service.catalog import Catalog
from doorward_server.service.changes import event, found
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.paging import fitting, make_token, page_size, read_token
from doorward_server.service.requests import own_or
from doorward_server.store import Store, Written

MOST = 100
"""Relations that one call writes or deletes."""
DROP_CHUNK = 1000
"""Relations that one transaction removes at most when their subject is deleted."""
_WORDS = {SubjectKind.PRINCIPAL: "user", SubjectKind.GROUP: "group"}


class Facts:
    """Keeps relations and resources. Blocking: belongs on the management pool.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the thing exists. Rights are
    per keyspace: on `organizations/<organization>/keyspaces/<keyspace>/relations`, and on `…/resources`.
    """

    def __init__(self, store: Store, catalog: Catalog, guard: Guard, quotas: Quotas, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._quotas = quotas
        self._clock = clock

    def write_relations(
        self, caller: Caller, organization: str, keyspace: str, relations: Sequence[Relation]
    ) -> Written[int]:
        """Keep relations, all or none; returns how many were not there.

        Raises InvalidField, UnknownReference (keyspace, type, relation, subject), QuotaExceeded, NotFound
        (organization).
        """
        organization, actor = self._may(caller, "relations:write", organization, keyspace, "relations")
        _check_number(relations)
        compiled, now = self._catalog.get(keyspace), self._clock()
        for i, relation in enumerate(relations):
            _check_declared(f"relations[{i}]", relation, compiled)
        wanted = [_placed(it, organization, keyspace, now) for it in relations]

        def told(new: Sequence[Relation]) -> Event:
            return _relations_event(actor, "relations:write", organization, keyspace, now, None, new)

        return self._store.facts.write_relations(organization, keyspace, wanted, told, self._quotas)

    def delete_relations(
        self, caller: Caller, organization: str, keyspace: str, relations: Sequence[Relation]
    ) -> Written[int]:
        """Forget relations, all or none; returns how many were there. What the keyspace no longer declares can go."""
        organization, actor = self._may(caller, "relations:delete", organization, keyspace, "relations")
        _check_number(relations)
        for i, relation in enumerate(relations):
            _check_shape(f"relations[{i}]", relation)
        now = self._clock()
        gone = [_placed(it, organization, keyspace, now) for it in relations]

        def told(deleted: Sequence[Relation]) -> Event:
            return _relations_event(actor, "relations:delete", organization, keyspace, now, deleted, None)

        return self._store.facts.delete_relations(organization, gone, told)

    def list_relations(
        self,
        caller: Caller,
        organization: str,
        keyspace: str,
        resource: str,
        relation: str,
        subject: tuple[SubjectKind, str] | None,
        size: int,
        token: str,
    ) -> tuple[list[Relation], str]:
        """Return a page, by resource, then subject; each filter narrows it unless it is empty."""
        organization, _ = self._may(caller, "relations:list", organization, keyspace, "relations")
        if resource:
            _path("resource", resource)
        if relation:
            _word("relation", relation)
        if subject is not None:
            check_id(subject[0].value.lower(), subject[1], subject[0].value.lower())
        scope, limit = f"relations {(organization, keyspace, resource, relation, subject)}", page_size(size)
        start = read_token(scope, token, (str, str, str, str))
        after = (str(start[0]), str(start[1]), str(start[2]), str(start[3])) if start else None
        rows = self._store.facts.list_relations(organization, keyspace, resource, relation, subject, after, limit + 1)
        if len(rows) <= limit:
            return rows, ""
        last = rows[limit - 1]
        return rows[:limit], make_token(scope, [last.resource, last.subject_kind.value, last.subject, last.relation])

    def put_resource(self, caller: Caller, wanted: Resource, etag: str) -> Written[Resource]:
        """Keep what *wanted* says about a resource, in place of what was kept.

        Raises InvalidField, UnknownReference (keyspace, type), EtagMismatch, QuotaExceeded, NotFound (organization).
        """
        keyspace = wanted.keyspace
        organization, actor = self._may(
            caller, "resources:write", wanted.organization, keyspace, "resources", "resource.keyspace"
        )
        compiled, now = self._catalog.get(keyspace, "resource.keyspace"), self._clock()
        type, *_ = _declared_path("resource.resource", wanted.resource, compiled)
        attributes = check_attributes("resource.attributes", wanted.attributes)
        compiled.declared.check_resource("resource.attributes", type, attributes)
        if wanted.parent:
            _check_parent("resource.parent", wanted.parent, type, compiled)
        new = replace(wanted, organization=organization, attributes=attributes, created_at=now, updated_at=now)

        def change(current: Resource | None) -> tuple[Resource, Event] | None:
            if etag and (current is None or etag != str(current.version)):
                raise EtagMismatch("resource", new.resource)
            if current is not None and _same(current, new):
                return None
            kept = replace(new, created_at=current.created_at, version=current.version + 1) if current else new
            target = ("resource", f"{keyspace}/{new.resource}")
            before = None if current is None else _content(current)
            return kept, event(actor, "resources:write", organization, target, now, before, _content(kept))

        return self._store.facts.put_resource(organization, keyspace, new.resource, change, self._quotas)

    def get_resource(self, caller: Caller, organization: str, keyspace: str, resource: str) -> Resource:
        """Return what is kept about a resource. Raises NotFound."""
        organization, _ = self._may(caller, "resources:get", organization, keyspace, "resources")
        _path("resource", resource)
        return found(self._store.facts.find_resource(organization, keyspace, resource), "resource", resource)

    def list_resources(
        self, caller: Caller, organization: str, keyspace: str, type: str, parent: str, size: int, token: str
    ) -> tuple[list[Resource], str]:
        """Return a page, by resource; each of *type* and *parent* narrows it unless it is empty."""
        organization, _ = self._may(caller, "resources:list", organization, keyspace, "resources")
        if type and not WORD.fullmatch(type):
            raise InvalidField("type", f"must be of the form {WORD.pattern}")
        if parent:
            _path("parent", parent)
        scope, limit = f"resources {(organization, keyspace, type, parent)}", page_size(size)
        start = read_token(scope, token, (str,))
        after = str(start[0]) if start else ""
        rows = self._store.facts.list_resources(organization, keyspace, type, parent, after, limit + 1)
        shown = fitting(rows, limit)
        return shown, make_token(scope, [shown[-1].resource]) if len(shown) < len(rows) else ""

    def delete_resource(self, caller: Caller, organization: str, keyspace: str, resource: str) -> Written[int]:
        """Forget what is kept about a resource, and all relations to it; returns how many. Raises NotFound."""
        organization, actor = self._may(caller, "resources:delete", organization, keyspace, "resources")
        _path("resource", resource)
        now = self._clock()

        def told(current: Resource | None, relations: Sequence[Relation]) -> Event:
            before = (_content(current) if current else {}) | {"relations": list(map(text_of, relations))}
            target = ("resource", f"{keyspace}/{resource}")
            return event(actor, "resources:delete", organization, target, now, before, None)

        return self._store.facts.delete_resource(organization, keyspace, resource, told)

    def _may(
        self, caller: Caller, permission: str, organization: str, keyspace: str, what: str, field: str = "keyspace"
    ) -> tuple[str, Actor]:
        organization = own_or(caller, organization)
        check_id(field, keyspace, "keyspace")
        resource = f"organizations/{organization}/keyspaces/{keyspace}/{what}"
        return organization, self._guard.require(caller, permission, resource)


def drop_relations(
    store: Store, actor: Actor, action: str, organization: str, kind: SubjectKind, subject: str, now: Instant
) -> tuple[int, int]:
    """Remove all relations of a subject that is gone; returns how many, and the last revision (0: there were none)."""

    def told(dropped: Sequence[Relation]) -> Event:
        before = {"relations": [f"{it.keyspace}: {text_of(it)}" for it in dropped]}
        target = (kind.value.lower(), subject)
        return event(actor, action, organization, target, now, before, None, f"{len(dropped)} relations went with it")

    count, revision = 0, 0
    while (chunk := store.facts.drop_relations_of(organization, kind, subject, told, DROP_CHUNK)).value:
        count, revision = count + chunk.value, chunk.revision
    return count, revision


def text_of(relation: Relation) -> str:
    """Write a relation as design and audit log do: `assessments/42#assigned@user:alice`."""
    return f"{relation.resource}#{relation.relation}@{_WORDS[relation.subject_kind]}:{relation.subject}"


def _placed(relation: Relation, organization: str, keyspace: str, now: Instant) -> Relation:
    return replace(relation, organization=organization, keyspace=keyspace, created_at=now)


def _relations_event(
    actor: Actor,
    action: str,
    organization: str,
    keyspace: str,
    now: Instant,
    before: Sequence[Relation] | None,
    after: Sequence[Relation] | None,
) -> Event:
    old, new = (None if it is None else {"relations": list(map(text_of, it))} for it in (before, after))
    return event(actor, action, organization, ("relations", keyspace), now, old, new)


def _check_number(relations: Sequence[Relation]) -> None:
    if not 1 <= len(relations) <= MOST:
        raise InvalidField("relations", f"must have 1 to {MOST} entries")


def _check_shape(field: str, relation: Relation) -> Path:
    kind = relation.subject_kind.value.lower()
    check_id(f"{field}.{kind}", relation.subject, kind)
    _word(f"{field}.relation", relation.relation)
    return _path(f"{field}.resource", relation.resource)


def _check_declared(field: str, relation: Relation, keyspace: Keyspace) -> None:
    type, *_ = _check_shape(field, relation)
    _check_type(f"{field}.resource", type, keyspace)
    known = keyspace.relations.get(type, frozenset())
    if relation.relation not in known:
        raise UnknownReference(f"{field}.relation", "relation", relation.relation, ", ".join(sorted(known)))


def _word(field: str, relation: str) -> None:
    if not RELATION.fullmatch(relation):
        raise InvalidField(field, f"must be of the form {RELATION.pattern}")


def _path(field: str, text: str) -> Path:
    """Return the segments of a resource, which a collection is not."""
    try:
        path = parse_path(text)
    except ValueError as problem:
        raise InvalidField(field, str(problem)) from None
    if len(path) == 1:
        raise InvalidField(field, "must be a type and an id, e.g. 'assessments/42': facts are about single resources")
    return path


def _declared_path(field: str, text: str, keyspace: Keyspace) -> Path:
    path = _path(field, text)
    _check_type(field, path[0], keyspace)
    return path


def _check_type(field: str, type: str, keyspace: Keyspace) -> None:
    if type not in keyspace.types:
        raise UnknownReference(field, "type", type[:128], ", ".join(sorted(keyspace.types)))


def _check_parent(field: str, parent: str, type: str, keyspace: Keyspace) -> None:
    above, *_ = _path(field, parent)
    known = keyspace.parents.get(type, ())
    if above not in known:
        rule = f"must be one of {', '.join(known)}" if known else "must be empty: the keyspace declares none"
        raise InvalidField(field, f"{rule} (parents of {type!r})")


def _content(resource: Resource) -> dict[str, object]:
    """Return what was said about a resource."""
    return {"attributes": dict(resource.attributes), "parent": resource.parent}


def _same(one: Resource, other: Resource) -> bool:
    """Tell whether the same was said about both. 1, 1.0 and true are three things."""
    return one.parent == other.parent and repr(sorted(one.attributes.items())) == repr(sorted(other.attributes.items()))
