"""Who holds which role: groups, their members, and bindings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from doorward_server.core.directory import Binding, Group, SubjectKind
from doorward_server.core.errors import EtagMismatch, InvalidField, NotFound
from doorward_server.core.fields import check_id, check_window
from doorward_server.core.model import Actor, Event, Instant, Quotas
from doorward_server.core.policy import Pattern
from doorward_server.service.catalog import Catalog
from doorward_server.service.changes import check_etag, checked, event, found, updated
from doorward_server.service.facts import drop_relations
from doorward_server.service.guard import Caller, Clock, Grant, Guard
from doorward_server.service.ids import Random, new_id
from doorward_server.service.paging import page
from doorward_server.service.requests import own_or
from doorward_server.service.settings import check_condition, check_resources, check_role
from doorward_server.store import Store, Written

GROUP_SETTINGS = ("display_name",)
_CHUNK = 1000


Member = tuple[SubjectKind, str]
"""Who is in a group: a principal or another group, by id."""


class Roles:
    """Keeps groups, members and bindings. Blocking: belongs on the management pool.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the thing exists. Updates
    raise EtagMismatch if an etag is given and is not the current one. Handing out a role, also by membership or by
    widening a binding, raises GrantForbidden unless the caller holds it so or may grant it.
    """

    def __init__(
        self, store: Store, catalog: Catalog, guard: Guard, quotas: Quotas, clock: Clock, random: Random
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._quotas = quotas
        self._clock = clock
        self._random = random

    def create_group(self, caller: Caller, new: Group) -> Written[Group]:
        """Make a group. Raises AlreadyExists, InvalidField, NotFound (organization)."""
        organization, actor = self._group(caller, "groups:create", new.organization, new.id)
        now = self._clock()
        settings = checked({name: getattr(new, name) for name in GROUP_SETTINGS})
        new = replace(new, **settings, organization=organization, created_at=now, updated_at=now)
        target = ("group", new.id)
        return self._store.add_group(new, event(actor, "groups:create", organization, target, now, None, new))

    def get_group(self, caller: Caller, organization: str, id: str) -> Group:
        """Return a group. Raises NotFound."""
        organization, _ = self._group(caller, "groups:get", organization, id)
        return found(self._store.find_group(organization, id), "group", id)

    def list_groups(self, caller: Caller, organization: str, size: int, token: str) -> tuple[list[Group], str]:
        """Return a page, by id."""
        organization = own_or(caller, organization)
        self._guard.require(caller, "groups:list", f"organizations/{organization}/groups")

        def read(after: str, limit: int) -> list[Group]:
            return self._store.list_groups(organization, after, limit)

        return page(f"groups {organization}", size, token, read, lambda g: g.id)

    def update_group(
        self, caller: Caller, organization: str, id: str, settings: Mapping[str, object], etag: str
    ) -> Written[Group]:
        """Change settings. Raises NotFound."""
        organization, actor = self._group(caller, "groups:update", organization, id)
        now, wanted = self._clock(), checked(settings)

        def change(current: Group) -> tuple[Group, Event] | None:
            check_etag(etag, current, "group")
            changed = updated(current, wanted, now)
            if changed is current:
                return None
            return changed, event(actor, "groups:update", organization, ("group", id), now, current, changed)

        return self._store.update_group(organization, id, change)

    def delete_group(self, caller: Caller, organization: str, id: str) -> tuple[int, int]:
        """End a group for good, its bindings, members and memberships with it, and then, in chunks, its relations.

        Returns how many relations it had, and the revision. After a crash in between, the same call goes on. Raises
        NotFound.
        """
        organization, actor = self._group(caller, "groups:delete", organization, id)
        now = self._clock()

        def change(current: Group) -> tuple[Group, Event]:
            deleted = replace(current, deleted_at=now, updated_at=now, version=current.version + 1)
            return deleted, event(actor, "groups:delete", organization, ("group", id), now, current, None)

        try:
            revision = self._store.delete_group(organization, id, change).revision
        except NotFound:
            dropped, revision = self._drop_relations_of(actor, organization, id, now)
            if not dropped:
                raise
            return dropped, revision
        dropped, last = self._drop_relations_of(actor, organization, id, now)
        return dropped, last if dropped else revision

    def _drop_relations_of(self, actor: Actor, organization: str, id: str, now: Instant) -> tuple[int, int]:
        return drop_relations(self._store, actor, "groups:delete", organization, SubjectKind.GROUP, id, now)

    def add_group_member(self, caller: Caller, organization: str, id: str, member: Member) -> Written[bool]:
        """Put a principal or a group into a group; the caller must be able to grant each role that the group holds,
        itself or by being in others. Raises GrantForbidden, UnknownReference, GroupCycle, QuotaExceeded, NotFound.
        """
        organization, actor = self._group(caller, "groups:update", organization, id)
        described, now = _checked(member), self._clock()
        for group in self._store.list_groups_around(organization, id):
            self._check_grants_of(caller, organization, group, now)
        added = event(actor, "groups:update", organization, ("group", id), now, None, described)
        return self._store.add_group_member(organization, id, *member, added)

    def _check_grants_of(self, caller: Caller, organization: str, group: str, now: Instant) -> None:
        after = ""
        while bindings := self._store.list_bindings(organization, group=group, after=after, limit=_CHUNK):
            for binding in bindings:
                self._check_grant(caller, binding, now)
            after = bindings[-1].id

    def remove_group_member(self, caller: Caller, organization: str, id: str, member: Member) -> Written[bool]:
        """Take a principal or a group out of a group. Raises NotFound."""
        organization, actor = self._group(caller, "groups:update", organization, id)
        described, now = _checked(member), self._clock()
        removed = event(actor, "groups:update", organization, ("group", id), now, described, None)
        return self._store.remove_group_member(organization, id, *member, removed)

    def list_group_members(
        self, caller: Caller, organization: str, id: str, size: int, token: str
    ) -> tuple[list[Member], str]:
        """Return a page of those who are in the group themselves: groups, then principals. Raises NotFound."""
        organization, _ = self._group(caller, "groups:get", organization, id)
        found(self._store.find_group(organization, id), "group", id)

        def read(after: str, limit: int) -> list[Member]:
            kind, _, member = after.partition(":")
            return self._store.list_group_members(organization, id, (kind, member), limit)

        return page(f"members {organization} {id}", size, token, read, ":".join)

    def create_binding(self, caller: Caller, new: Binding) -> Written[Binding]:
        """Give a role, perhaps under a condition.

        Raises GrantForbidden, InvalidField, UnknownReference (keyspace, role, subject), QuotaExceeded.
        """
        organization = own_or(caller, new.organization)
        actor = self._guard.require(caller, "bindings:create", f"organizations/{organization}/bindings")
        check_id("binding.keyspace", new.keyspace, "keyspace")
        kind = new.subject_kind.value.lower()
        check_id(f"binding.{kind}", new.subject, kind)
        keyspace = self._catalog.get(new.keyspace, "binding.keyspace")
        check_role("binding.role", new.role, keyspace)
        check_window(new.not_before, new.expires_at, "binding.not_before")
        check_condition("binding.condition", new.condition, keyspace)
        now, resources = self._clock(), check_resources("binding.resources", new.resources, keyspace)
        id = new_id("bnd", self._random)
        new = replace(new, organization=organization, id=id, resources=resources, created_at=now, updated_at=now)
        self._check_grant(caller, new, now)
        target = ("binding", id)
        created = event(actor, "bindings:create", organization, target, now, None, new)
        return self._store.add_binding(new, created, self._quotas)

    def get_binding(self, caller: Caller, organization: str, id: str) -> Binding:
        """Return a binding. Raises NotFound."""
        binding, _ = self._binding(caller, "bindings:get", organization, id)
        return binding

    def list_bindings(
        self, caller: Caller, organization: str, principal: str, group: str, keyspace: str, size: int, token: str
    ) -> tuple[list[Binding], str]:
        """Return a page, by id; each of *principal*, *group* and *keyspace* narrows it unless empty."""
        organization = own_or(caller, organization)
        for kind, id in (("principal", principal), ("group", group), ("keyspace", keyspace)):
            if id:
                check_id(kind, id, kind)
        self._guard.require(caller, "bindings:list", f"organizations/{organization}/bindings", owner=principal or None)

        def read(after: str, limit: int) -> list[Binding]:
            return self._store.list_bindings(
                organization, principal=principal, group=group, keyspace=keyspace, after=after, limit=limit
            )

        return page(f"bindings {(organization, principal, group, keyspace)}", size, token, read, lambda b: b.id)

    def update_binding(
        self, caller: Caller, organization: str, id: str, settings: Mapping[str, Any], etag: str
    ) -> Written[Binding]:
        """Change resources, window or condition."""
        binding, actor = self._binding(caller, "bindings:update", organization, id)
        now, wanted = self._clock(), dict(settings)
        keyspace = self._catalog.get(binding.keyspace)
        if "condition" in wanted:
            check_condition("binding.condition", wanted["condition"], keyspace)
        if "resources" in wanted:
            if not wanted["resources"]:
                raise InvalidField("binding.resources", "must not be empty here: say '*' for every resource")
            wanted["resources"] = check_resources("binding.resources", wanted["resources"], keyspace)
        after = replace(binding, **wanted)
        check_window(after.not_before, after.expires_at, "binding.not_before")
        self._check_grant(caller, after, now)

        def change(current: Binding) -> tuple[Binding, Event] | None:
            check_etag(etag, current, "binding")
            if current.version != binding.version:  # what was checked above is not what would be written
                raise EtagMismatch("binding", id)
            changed = updated(current, wanted, now)
            if changed is current:
                return None
            target = ("binding", id)
            return changed, event(actor, "bindings:update", binding.organization, target, now, current, changed)

        return self._store.update_binding(binding.organization, id, change)

    def delete_binding(self, caller: Caller, organization: str, id: str) -> Written[None]:
        """Take a role away. Raises NotFound."""
        binding, actor = self._binding(caller, "bindings:delete", organization, id)
        target, now = ("binding", id), self._clock()
        deleted = event(actor, "bindings:delete", binding.organization, target, now, binding, None)
        return self._store.delete_binding(binding.organization, id, deleted)

    def _check_grant(self, caller: Caller, binding: Binding, now: Instant) -> None:
        keyspace = self._catalog.find(binding.keyspace)
        if keyspace is not None:
            grant = Grant(binding.role, tuple(map(Pattern.parse, binding.resources)), binding.expires_at)
            self._guard.require_grants(caller, binding.organization, keyspace, [grant], now)

    def _group(self, caller: Caller, permission: str, organization: str, id: str) -> tuple[str, Actor]:
        organization = own_or(caller, organization)
        check_id("group", id, "group")
        return organization, self._guard.require(caller, permission, f"organizations/{organization}/groups/{id}")

    def _binding(self, caller: Caller, permission: str, organization: str, id: str) -> tuple[Binding, Actor]:
        organization = own_or(caller, organization)
        check_id("id", id)
        actor = self._guard.require(caller, permission, f"organizations/{organization}/bindings/{id}")
        return found(self._store.find_binding(organization, id), "binding", id), actor


def _checked(member: Member) -> dict[str, str]:
    """Return what the audit log says of *member*. Raises InvalidField if it cannot be the id of one."""
    kind, id = member
    if kind is SubjectKind.GROUP:
        return {"member_group": check_id("member_group", id, "group")}
    return {"member": check_id("principal", id, "principal")}
