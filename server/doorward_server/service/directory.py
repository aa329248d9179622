"""Who there is: organizations and their principals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from doorward_server.core.directory import Organization, Principal, SubjectKind
from doorward_server.core.errors import BuiltIn, NotFound
from doorward_server.core.fields import check_id
from doorward_server.core.model import Actor, Event, Instant, Key
from doorward_server.service.catalog import OPERATOR
from doorward_server.service.changes import check_etag, checked, event, found, key_event, updated
from doorward_server.service.facts import drop_relations
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.paging import page
from doorward_server.service.requests import own_or
from doorward_server.store import Store, Written

ORGANIZATION_SETTINGS = ("display_name", "attributes", "enabled")
PRINCIPAL_SETTINGS = ("display_name", "email", "attributes", "enabled")
REVOKE_CHUNK = 1000
"""Keys that one transaction revokes at most when their owner is deleted."""

T = TypeVar("T", Organization, Principal)


@dataclass(frozen=True, slots=True)
class Ended:
    """What a deletion ended: so many keys that were not yet revoked, and so many relations."""

    keys: int
    relations: int
    revision: int


class Directory:
    """Keeps organizations and principals. Blocking: belongs on the management pool.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the thing exists. Updates
    raise EtagMismatch if an etag is given and is not the current one.
    """

    def __init__(self, store: Store, guard: Guard, clock: Clock) -> None:
        self._store = store
        self._guard = guard
        self._clock = clock

    def create_organization(self, caller: Caller, new: Organization) -> Written[Organization]:
        """Make an organization. Raises AlreadyExists, InvalidField."""
        actor = self._guard.require(caller, "organizations:create", "organizations")
        check_id("organization.id", new.id, "organization")
        new = _begin(new, ORGANIZATION_SETTINGS, self._clock())
        target = ("organization", new.id)
        return self._store.add_organization(
            new, event(actor, "organizations:create", new.id, target, new.created_at, None, new)
        )

    def get_organization(self, caller: Caller, id: str) -> Organization:
        """Return an organization. Raises NotFound."""
        id = own_or(caller, id)
        self._guard.require(caller, "organizations:get", f"organizations/{id}")
        return found(self._store.find_organization(id), "organization", id)

    def list_organizations(self, caller: Caller, size: int, token: str) -> tuple[list[Organization], str]:
        """Return a page, by id."""
        self._guard.require(caller, "organizations:list", "organizations")
        return page("organizations", size, token, self._store.list_organizations, lambda o: o.id)

    def update_organization(
        self, caller: Caller, id: str, settings: Mapping[str, object], etag: str
    ) -> tuple[Written[Organization], int]:
        """Change settings; returns also how many keys that stopped or freed (0 if `enabled` did not change)."""
        id = own_or(caller, id)
        actor = self._guard.require(caller, "organizations:update", f"organizations/{id}")
        if "attributes" in settings:  # conditions read them: what an organization has bought is not for it to say
            self._guard.require(caller, "organizations:set-attributes", f"organizations/{id}")
        if id == OPERATOR and settings.get("enabled") is False:
            raise BuiltIn("organization", id)
        change = _Update[Organization](actor, "organization", id, settings, etag, self._clock())
        return self._store.update_organization(id, change), change.keys

    def delete_organization(self, caller: Caller, id: str) -> tuple[Written[Organization], int]:
        """End an organization for good; its keys stop at once. Returns how many unrevoked ones it had."""
        check_id("id", id, "organization")
        actor = self._guard.require(caller, "organizations:delete", "organizations")
        if id == OPERATOR:
            raise BuiltIn("organization", id)
        change = _Delete[Organization](actor, "organization", id, self._clock())
        return self._store.delete_organization(id, change), change.keys

    def create_principal(self, caller: Caller, new: Principal) -> Written[Principal]:
        """Make a principal. Raises AlreadyExists, InvalidField, NotFound (organization)."""
        new = replace(new, organization=own_or(caller, new.organization))
        check_id("principal.id", new.id, "principal")
        resource = f"organizations/{new.organization}/principals/{new.id}"
        actor = self._guard.require(caller, "principals:create", resource)
        new = _begin(new, PRINCIPAL_SETTINGS, self._clock())
        target = ("principal", new.id)
        return self._store.add_principal(
            new, event(actor, "principals:create", new.organization, target, new.created_at, None, new)
        )

    def get_principal(self, caller: Caller, organization: str, id: str) -> Principal:
        """Return a principal; whoever calls with its own key has the relation `owner`. Raises NotFound."""
        organization = own_or(caller, organization)
        check_id("id", id, "principal")
        self._guard.require(caller, "principals:get", f"organizations/{organization}/principals/{id}", owner=id)
        return found(self._store.find_principal(organization, id), "principal", id)

    def list_principals(self, caller: Caller, organization: str, size: int, token: str) -> tuple[list[Principal], str]:
        """Return a page, by id."""
        organization = own_or(caller, organization)
        self._guard.require(caller, "principals:list", f"organizations/{organization}/principals")

        def read(after: str, limit: int) -> list[Principal]:
            return self._store.list_principals(organization, after, limit)

        return page(f"principals {organization}", size, token, read, lambda p: p.id)

    def update_principal(
        self, caller: Caller, organization: str, id: str, settings: Mapping[str, object], etag: str
    ) -> tuple[Written[Principal], int]:
        """Change settings; returns also how many keys that stopped or freed (0 if `enabled` did not change)."""
        organization = own_or(caller, organization)
        check_id("principal.id", id, "principal")
        actor = self._guard.require(caller, "principals:update", f"organizations/{organization}/principals/{id}")
        change = _Update[Principal](actor, "principal", organization, settings, etag, self._clock())
        return self._store.update_principal(organization, id, change), change.keys

    def delete_principal(self, caller: Caller, organization: str, id: str) -> Ended:
        """End a principal for good: its keys stop with the first commit, and are revoked in chunks after it; then its
        relations go. After a crash in between, the same call goes on. Raises NotFound.
        """
        organization = own_or(caller, organization)
        check_id("id", id, "principal")
        actor = self._guard.require(caller, "principals:delete", f"organizations/{organization}/principals/{id}")
        now = self._clock()
        change = _Delete[Principal](actor, "principal", organization, now)
        try:
            revision = self._store.delete_principal(organization, id, change).revision
        except NotFound:
            ended = self._end_what_is_left(actor, organization, id, now)
            if not ended.revision:
                raise
            return ended
        ended = self._end_what_is_left(actor, organization, id, now)
        return replace(ended, keys=change.keys, revision=ended.revision or revision)

    def _end_what_is_left(self, actor: Actor, organization: str, id: str, now: Instant) -> Ended:
        """End the keys and relations of a principal who is gone; revision 0: there was nothing."""
        keys, revoked = self._revoke_keys_of(actor, organization, id, now)
        kind = SubjectKind.PRINCIPAL
        relations, dropped = drop_relations(self._store, actor, "principals:delete", organization, kind, id, now)
        return Ended(keys, relations, max(revoked, dropped))

    def _revoke_keys_of(self, actor: Actor, organization: str, owner: str, now: Instant) -> tuple[int, int]:
        """Revoke the keys of an owner who is gone; returns how many, and the last revision."""
        if self._store.find_principal(organization, owner) is not None:
            return 0, 0

        def revoke(key: Key) -> tuple[Key, Event] | None:
            revoked = key.revoke(now, "its owner was deleted")
            return None if revoked is key else (revoked, key_event(actor, "principals:delete", key, revoked, now))

        count, revision = 0, 0
        while (chunk := self._store.revoke_keys_of(organization, owner, revoke, REVOKE_CHUNK)).value:
            count, revision = count + chunk.value, chunk.revision
        return count, revision


def _begin(new: T, settings: tuple[str, ...], now: Instant) -> T:
    given = checked({name: getattr(new, name) for name in settings})
    return replace(new, **{**given, "enabled": True}, created_at=now, updated_at=now)


class _Update(Generic[T]):
    """A change of settings, for the store to apply; afterwards `keys` tells how many keys it stopped or freed."""

    def __init__(
        self, actor: Actor, type: str, organization: str, settings: Mapping[str, object], etag: str, now: Instant
    ) -> None:
        self._actor = actor
        self._type = type
        self._organization = organization
        self._settings = checked(settings)
        self._etag = etag
        self._now = now
        self.keys = 0

    def __call__(self, current: T, count: Callable[[], int]) -> tuple[T, Event] | None:
        check_etag(self._etag, current, self._type)
        changed = updated(current, self._settings, self._now)
        if changed is current:
            return None
        switched = changed.enabled != current.enabled
        self.keys = count() if switched else 0
        note = f"{self.keys} keys {'work again' if changed.enabled else 'stopped'}" if switched else ""
        action, target = f"{self._type}s:update", (self._type, current.id)
        return changed, event(self._actor, action, self._organization, target, self._now, current, changed, note)


class _Delete(Generic[T]):
    """The end of an organization or principal, for the store to apply; `keys` tells how many keys it stopped."""

    def __init__(self, actor: Actor, type: str, organization: str, now: Instant) -> None:
        self._actor = actor
        self._type = type
        self._organization = organization
        self._now = now
        self.keys = 0

    def __call__(self, current: T, count: Callable[[], int]) -> tuple[T, Event] | None:
        self.keys = count()
        deleted = replace(current, deleted_at=self._now, updated_at=self._now, version=current.version + 1)
        action, target = f"{self._type}s:delete", (self._type, current.id)
        note = f"{self.keys} keys stopped"
        return deleted, event(self._actor, action, self._organization, target, self._now, current, None, note)
