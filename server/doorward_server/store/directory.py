"""Organizations, principals, groups, their members, and bindings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from peewee import fn

from doorward_server.core.directory import Binding, Group, Organization, Principal, SubjectKind
from doorward_server.core.errors import NotFound, QuotaExceeded, UnknownReference
from doorward_server.core.model import Event, Quotas

from . import alert_rules, bulk, nesting
from .entities import BINDINGS, GROUPS, KEYSPACES, ORGANIZATIONS, PRINCIPALS, Kind, add, find, get, page, update
from .rows import BINDING, MEMBERSHIP, to_binding
from .transaction import Transaction

T = TypeVar("T")
_CHUNK = 1000
CountKeys = Callable[[], int]
ChangeOrganization = Callable[[Organization, CountKeys], tuple[Organization, Event] | None]
ChangePrincipal = Callable[[Principal, CountKeys], tuple[Principal, Event] | None]
ChangeGroup = Callable[[Group], tuple[Group, Event] | None]
ChangeBinding = Callable[[Binding], tuple[Binding, Event] | None]


def add_organization(tx: Transaction, organization: Organization, event: Event) -> Organization:
    """Add an organization, in whoever's chain the event is."""
    for id in sorted({organization.id, event.organization}):
        tx.tally(id)
    add(tx, ORGANIZATIONS, organization)
    tx.append(event)
    return organization


def change_organization(tx: Transaction, id: str, change: ChangeOrganization) -> Organization:
    """Update or end an organization."""
    return update(tx, ORGANIZATIONS, (id,), lambda it: change(it, lambda: bulk.count(tx, id, None)))[0]


def delete_organization(tx: Transaction, id: str, change: ChangeOrganization) -> Organization:
    """End an organization: its alert rules go, as every server keeps all there are."""
    organization = change_organization(tx, id, change)
    alert_rules.drop(tx, id)
    return organization


def add_principal(tx: Transaction, principal: Principal, event: Event) -> Principal:
    """Add a principal to a live organization."""
    return _add_in(tx, PRINCIPALS, principal.organization, principal, event)


def update_principal(tx: Transaction, organization: str, id: str, change: ChangePrincipal) -> tuple[Principal, bool]:
    """Update a principal."""
    counting = lambda it: change(it, lambda: bulk.count(tx, organization, id))  # noqa: E731  # shorter than its name
    return update(tx, PRINCIPALS, (organization, id), counting)


def delete_principal(tx: Transaction, organization: str, id: str, change: ChangePrincipal) -> Principal:
    """End a principal: its bindings and memberships go."""
    told = _telling(tx, organization, SubjectKind.PRINCIPAL, id)
    principal, changed = update_principal(tx, organization, id, lambda it, count: told(change(it, count)))
    if changed:
        _drop_bindings(tx, organization, SubjectKind.PRINCIPAL, id)
        tx.run(MEMBERSHIP.delete().where((MEMBERSHIP.organization == organization) & (MEMBERSHIP.principal == id)))
    return principal


def add_group(tx: Transaction, group: Group, event: Event) -> Group:
    """Add a group to a live organization."""
    return _add_in(tx, GROUPS, group.organization, group, event)


def _add_in(tx: Transaction, kind: Kind[T], organization: str, value: T, event: Event) -> T:
    tx.tally(organization)
    get(tx, ORGANIZATIONS, organization)
    add(tx, kind, value)
    tx.append(event)
    return value


def update_group(tx: Transaction, organization: str, id: str, change: ChangeGroup) -> Group:
    """Update a group."""
    return update(tx, GROUPS, (organization, id), change)[0]


def delete_group(tx: Transaction, organization: str, id: str, change: ChangeGroup) -> Group:
    """End a group: its bindings, members and memberships go."""
    told = _telling(tx, organization, SubjectKind.GROUP, id)
    group, changed = update(tx, GROUPS, (organization, id), lambda it: told(change(it)))
    if changed:
        _drop_bindings(tx, organization, SubjectKind.GROUP, id)
        nesting.drop(tx, organization, id)
        tx.run(MEMBERSHIP.delete().where((MEMBERSHIP.organization == organization) & (MEMBERSHIP.group_id == id)))
    return group


def add_member(tx: Transaction, organization: str, group: str, kind: SubjectKind, member: str, event: Event) -> bool:
    """Put a principal or a group into a group; False if it was in it."""
    tx.tally(organization)
    get(tx, GROUPS, organization, group, lock=True)
    added = _nest if kind is SubjectKind.GROUP else _enlist
    if not added(tx, organization, group, member):
        return False
    tx.append(event)
    return True


def _nest(tx: Transaction, organization: str, group: str, member: str) -> bool:
    if find(tx, GROUPS, organization, member) is None:
        raise UnknownReference("member_group", "group", member)
    return nesting.nest(tx, organization, group, member)


def _enlist(tx: Transaction, organization: str, group: str, principal: str) -> bool:
    if find(tx, PRINCIPALS, organization, principal) is None:
        raise UnknownReference("principal", "principal", principal)
    row = {"organization": organization, "group_id": group, "principal": principal}
    if tx.row(MEMBERSHIP.where_all(MEMBERSHIP.select(MEMBERSHIP.principal), row)) is not None:
        return False
    tx.run(MEMBERSHIP.insert(row))
    return True


def remove_member(tx: Transaction, organization: str, group: str, kind: SubjectKind, member: str, event: Event) -> bool:
    """Take a principal or a group out of a group; False if it was not in it."""
    tx.tally(organization)
    get(tx, GROUPS, organization, group, lock=True)
    if kind is SubjectKind.GROUP:
        removed = nesting.unnest(tx, organization, group, member)
    else:
        row = {"organization": organization, "group_id": group, "principal": member}
        removed = bool(tx.run(MEMBERSHIP.where_all(MEMBERSHIP.delete(), row)))
    if removed:
        tx.append(event)
    return removed


def list_members(
    tx: Transaction, organization: str, group: str, after: tuple[str, str], limit: int
) -> list[tuple[SubjectKind, str]]:
    """Return groups, then principals, of a group, each by id, behind *after* = (kind, id)."""
    kind, id = after
    found = []
    if kind <= SubjectKind.GROUP:
        found = [(SubjectKind.GROUP, it) for it in nesting.list_nested(tx, organization, group, id, limit)]
    if len(found) < limit and kind <= SubjectKind.PRINCIPAL:
        behind = id if kind == SubjectKind.PRINCIPAL else ""
        query = MEMBERSHIP.where_all(
            MEMBERSHIP.select(MEMBERSHIP.principal), {"organization": organization, "group_id": group}
        ).where(MEMBERSHIP.principal > behind)
        rows = tx.rows(query.order_by(MEMBERSHIP.principal).limit(limit - len(found)))
        found += [(SubjectKind.PRINCIPAL, it) for (it,) in rows]
    return found


def add_binding(tx: Transaction, binding: Binding, event: Event, quotas: Quotas) -> Binding:
    """Add a binding, if its subject and keyspace exist and the quota allows it."""
    tally = tx.tally(binding.organization)
    get(tx, ORGANIZATIONS, binding.organization)
    _require_subject(tx, binding)
    if find(tx, KEYSPACES, binding.keyspace) is None:
        raise UnknownReference("keyspace", "keyspace", binding.keyspace)
    if tally.bindings >= quotas.bindings:
        raise QuotaExceeded("bindings per organization", quotas.bindings)
    _check_subject(tx, binding, quotas)
    add(tx, BINDINGS, binding)
    tally.bindings += 1
    tx.append(event)
    return binding


def _check_subject(tx: Transaction, binding: Binding, quotas: Quotas) -> None:
    where = {"organization": binding.organization, "subject_kind": binding.subject_kind.value}
    query = BINDING.where_all(BINDING.select(fn.COUNT(BINDING.id)), {**where, "subject": binding.subject})
    ((held,),) = tx.rows(query)
    if held >= quotas.bindings_per_subject:
        raise QuotaExceeded("bindings per principal or group", quotas.bindings_per_subject)


def _require_subject(tx: Transaction, binding: Binding) -> None:
    if binding.subject_kind is SubjectKind.PRINCIPAL:
        word, found = "principal", find(tx, PRINCIPALS, binding.organization, binding.subject) is not None
    else:
        word, found = "group", find(tx, GROUPS, binding.organization, binding.subject) is not None
    if not found:
        raise UnknownReference(word, word, binding.subject)


def list_bindings(
    tx: Transaction, organization: str, principal: str, group: str, keyspace: str, after: str, limit: int
) -> list[Binding]:
    """Return bindings, by id, behind *after*; an empty filter selects nothing away."""
    if principal and group:
        return []
    where: dict[str, Any] = {"organization": organization}
    if principal or group:
        where["subject_kind"] = (SubjectKind.PRINCIPAL if principal else SubjectKind.GROUP).value
        where["subject"] = principal or group
    if keyspace:
        where["keyspace"] = keyspace
    return page(tx, BINDINGS, where, after, limit)


def update_binding(tx: Transaction, organization: str, id: str, change: ChangeBinding) -> Binding:
    """Update a binding."""
    return update(tx, BINDINGS, (organization, id), change)[0]


def delete_binding(tx: Transaction, organization: str, id: str, event: Event) -> None:
    """Remove a binding. Raises NotFound."""
    tx.tally(organization).bindings -= 1
    if not tx.run(BINDING.where_all(BINDING.delete(), {"organization": organization, "id": id})):
        raise NotFound("binding", id)
    tx.append(event)


def held_bindings(tx: Transaction, organization: str, principal: str) -> list[Binding]:
    """Return what a principal holds in all keyspaces, itself and by its live groups, by id."""
    groups = nesting.groups_of(tx, organization, principal)
    rows = tx.rows(_of_subject(organization, SubjectKind.PRINCIPAL).where(BINDING.subject == principal))
    for start in range(0, len(groups), _CHUNK):
        some = groups[start : start + _CHUNK]
        rows += tx.rows(_of_subject(organization, SubjectKind.GROUP).where(BINDING.subject.in_(some)))
    return sorted(map(to_binding, rows), key=lambda it: it.id)


def _of_subject(organization: str, kind: SubjectKind) -> Any:
    query = BINDING.select(*BINDING.all_columns())
    return query.where((BINDING.organization == organization) & (BINDING.subject_kind == kind.value))


def _telling(
    tx: Transaction, organization: str, kind: SubjectKind, subject: str
) -> Callable[[tuple[T, Event] | None], tuple[T, Event] | None]:
    """Return what adds to the event of an end which bindings and memberships end with it."""

    def told(changed: tuple[T, Event] | None) -> tuple[T, Event] | None:
        if changed is None:
            return None
        value, event = changed
        return value, replace(event, before={**(event.before or {}), **_lost(tx, organization, kind, subject)})

    return told


def _lost(tx: Transaction, organization: str, kind: SubjectKind, subject: str) -> dict[str, object]:
    bindings = tx.rows(_of_subject(organization, kind).where(BINDING.subject == subject).order_by(BINDING.id))
    held = [to_binding(row) for row in bindings]
    of_group = kind is SubjectKind.GROUP
    mine, other = ("group_id", "principal") if of_group else ("principal", "group_id")
    query = MEMBERSHIP.select(getattr(MEMBERSHIP, other))
    rows = tx.rows(MEMBERSHIP.where_all(query, {"organization": organization, mine: subject}))
    named = sorted(id for (id,) in rows)
    return {
        "bindings": [{"id": b.id, "keyspace": b.keyspace, "role": b.role, "resources": b.resources} for b in held],
        "members" if of_group else "groups": named,
        **(nesting.neighbours(tx, organization, subject) if of_group else {}),
    }


def _drop_bindings(tx: Transaction, organization: str, kind: SubjectKind, subject: str) -> None:
    where = {"organization": organization, "subject_kind": kind.value, "subject": subject}
    tx.tally(organization).bindings -= tx.run(BINDING.where_all(BINDING.delete(), where))
