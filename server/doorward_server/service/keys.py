"""The life of a key: created, read, changed, rotated, revoked, deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from doorward_server.core.directory import Binding
from doorward_server.core.errors import EtagMismatch, GrantForbidden, NotFound
from doorward_server.core.fields import check_id, check_text
from doorward_server.core.formats import Format
from doorward_server.core.keytext import SecretText
from doorward_server.core.model import Actor, Ceiling, Event, Instant, Key, KeyFilter, Quotas, Secret
from doorward_server.core.policy import EVERYTHING, Keyspace, Pattern
from doorward_server.core.rails import (
    ActiveLimit,
    Exceed,
    Hand,
    Rails,
    Unwise,
    check_changed,
    check_ended_by,
    check_grace,
    check_made,
    check_made_by,
    check_rotated,
    unwise,
)
from doorward_server.service.catalog import DOORWARD, Catalog
from doorward_server.service.changes import key_event
from doorward_server.service.guard import Caller, Clock, Grant, Guard
from doorward_server.service.ids import Random
from doorward_server.service.mint import Mint
from doorward_server.service.paging import fitting, make_token, page_size, read_token
from doorward_server.service.requests import Repeat, check_there, own_or, replay_of
from doorward_server.service.settings import (
    NewKey,
    check_filter,
    check_whole,
    checked,
    draft,
    loosens,
    said_expiry,
    span_of,
)
from doorward_server.store import LookupTaken, Store, Written


@dataclass(frozen=True, slots=True)
class Issued:
    """A key with the text of its newest secret, if that was made just now."""

    key: Key
    secret: SecretText | None
    replayed: bool
    revision: int
    unwise: tuple[Unwise, ...] = ()
    """What is allowed about a new key, but unwise."""
    replaced: tuple[str, ...] = ()
    """Ids of the keys that a new one replaced."""


class Keys:
    """Issues, watches and ends keys. Blocking: belongs on the management pool.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the key exists.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        guard: Guard,
        mint: Mint,
        quotas: Quotas,
        clock: Clock,
        random: Random,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._mint = mint
        self._quotas = quotas
        self._clock = clock
        self._random = random

    def create(self, caller: Caller, new: NewKey, repeat: Repeat) -> Issued:
        """Make a key and its first secret. A repeat returns the key made then, without its secret.

        Raises InvalidField, UnknownReference, GrantForbidden, TooManyActiveKeys, QuotaExceeded, RequestIdReused,
        NotFound (organization), OrganizationIsDisabled, PrincipalIsDisabled.
        """
        organization = own_or(caller, new.organization)
        check_id("keyspace", new.keyspace, "keyspace")
        resource = f"organizations/{organization}/keyspaces/{new.keyspace}/keys"
        actor = self._guard.require(caller, "keys:create", resource, owner=new.owner or None)
        now = self._clock()
        keyspace = self._catalog.get(new.keyspace)
        hand = caller.hand(organization, new.owner)
        check_made_by(keyspace.rails, hand, "keys:create", resource)
        key, secret = self._first(replace(new, organization=organization), keyspace, now)
        self.check_grants(caller, key, keyspace, now)
        if key.limits:
            self._check_may_limit(caller, key)
        replay = replay_of(caller, "CreateKey", repeat, now)
        limit = active_limit(keyspace.rails, actor, "keys:create", now, hand)
        while True:
            event = key_event(actor, "keys:create", None, key, now)
            try:
                written = self._store.add_key(key, event, self._quotas, replay, limit=limit)
            except LookupTaken:
                key, secret = self._first(replace(new, organization=organization), keyspace, now)
                continue
            text = None if written.replayed else secret
            found = unwise(keyspace.rails, written.value, keyspace.environments[0])
            return Issued(written.value, text, written.replayed, written.revision, found, written.replaced)

    def _check_may_limit(self, caller: Caller, key: Key) -> None:
        """Refuse whoever may change a key, as its owner may, but not how much of everybody's it takes."""
        self._guard.require(caller, "limits:set", f"organizations/{key.organization}/keyspaces/{key.keyspace}/limits")

    def get(self, caller: Caller, organization: str, id: str) -> Key:
        """Return a key that was not deleted. Use is at most one flush interval behind. Raises NotFound."""
        key, _ = self.load(caller, "keys:get", organization, id)
        return key

    def list(
        self, caller: Caller, organization: str, wanted: KeyFilter, size: int, token: str
    ) -> tuple[list[Key], str]:
        """Return a page of keys, newest first, and the token for the next. Raises PageTokenInvalid, InvalidField."""
        organization = own_or(caller, organization)
        check_filter(wanted)
        resource = f"organizations/{organization}/keyspaces/{wanted.keyspace or '-'}/keys"
        self._guard.require(caller, "keys:list", resource, owner=wanted.owner or None)
        check_there(self._store, caller, organization)
        scope = f"keys {organization} {sorted(wanted.states)} {replace(wanted, states=frozenset())}"
        position = read_token(scope, token, (int, str))
        after = None if position is None else (int(position[0]), str(position[1]))
        limit = page_size(size)
        found = self._store.list_keys(organization, wanted, after, limit + 1, self._clock())
        keys = fitting(found, limit)
        more = len(found) > len(keys)
        return keys, make_token(scope, [keys[-1].created_at, keys[-1].id]) if more else ""

    def update(
        self, caller: Caller, organization: str, id: str, settings: Mapping[str, object], etag: str
    ) -> Written[Key]:
        """Change *settings*, named as in `SETTINGS`. Raises what `create` does, EtagMismatch and KeyIsRevoked."""
        key, actor = self.load(caller, "keys:update", organization, id)
        if "limits" in settings:
            self._check_may_limit(caller, key)
        now = self._clock()
        keyspace = self._catalog.get(key.keyspace)
        wanted = checked(settings, keyspace, now)
        after = replace(key, **wanted)  # type: ignore[arg-type]  # names and types are those of `SETTINGS`
        granting = loosens(key, after, keyspace, self._bindings_that_count(key))
        if granting:
            self.check_grants(caller, after, keyspace, now)

        def change(current: Key) -> tuple[Key, Event] | None:
            changed_since = granting and current.version != key.version
            if changed_since or etag not in ("", str(current.version)):
                raise EtagMismatch("key", id)
            changed = current.update(now, **wanted)
            check_whole(changed)
            check_changed(keyspace.rails, current, changed, now, span_of(settings.get("expires_at")))
            return None if changed is current else (changed, key_event(actor, "keys:update", current, changed, now))

        hand = caller.hand(key.organization, key.owner)
        limit = active_limit(keyspace.rails, actor, "keys:update", now, hand)
        return self._store.update_key(key.organization, id, change, limit=limit, quotas=self._quotas)

    def rotate(self, caller: Caller, organization: str, id: str, grace: int, repeat: Repeat) -> Issued:
        """Add a secret; older ones end within *grace* (µs).

        Raises KeyIsRevoked, KeyIsExpired, QuotaExceeded, InvalidField (grace).
        """
        key, actor = self.load(caller, "keys:rotate", organization, id)
        now = self._clock()
        keyspace = self._catalog.get(key.keyspace)
        if keyspace.name == DOORWARD:
            self.check_grants(caller, key, keyspace, now)
        check_grace(keyspace.rails, grace)
        replay = replay_of(caller, "RotateKey", repeat, now)
        while True:
            stored, text = self._mint.secret(keyspace, key, now, self._told_roles(keyspace, key))

            def change(current: Key, stored: Secret = stored) -> tuple[Key, Event]:
                changed = current.rotate(stored, now, grace)
                check_rotated(keyspace.rails, changed)
                return changed, key_event(actor, "keys:rotate", current, changed, now)

            try:
                written = self._store.update_key(key.organization, id, change, replay)
            except LookupTaken:
                continue
            return Issued(written.value, None if written.replayed else text, written.replayed, written.revision)

    def finish_rotation(self, caller: Caller, organization: str, id: str) -> Issued:
        """End superseded secrets now. Raises KeyIsRevoked. Where none is left, nothing changes."""
        key, actor = self.load(caller, "keys:rotate", organization, id)
        now = self._clock()

        def change(current: Key) -> tuple[Key, Event] | None:
            changed = current.finish_rotation(now)
            return None if changed is current else (changed, key_event(actor, "keys:rotate", current, changed, now))

        written = self._store.update_key(key.organization, id, change)
        return Issued(written.value, None, False, written.revision)

    def revoke(self, caller: Caller, organization: str, id: str, reason: str) -> Written[Key]:
        """End a key for good. From the next Authorize on, on this store, it is denied."""
        key, actor = self._load_to_end(caller, "keys:revoke", organization, id)
        now = self._clock()
        check_text("reason", reason, 500)

        def change(current: Key) -> tuple[Key, Event] | None:
            changed = current.revoke(now, reason)
            if changed is current:
                return None
            return changed, replace(key_event(actor, "keys:revoke", current, changed, now), note=reason)

        return self._store.update_key(key.organization, id, change)

    def delete(self, caller: Caller, organization: str, id: str) -> Written[Key]:
        """End a key and take it off the lists; its audit trail stays."""
        key, actor = self._load_to_end(caller, "keys:delete", organization, id)
        now = self._clock()

        def change(current: Key) -> tuple[Key, Event] | None:
            changed = current.delete(now)
            return None if changed is current else (changed, key_event(actor, "keys:delete", current, changed, now))

        return self._store.update_key(key.organization, id, change)

    def load(self, caller: Caller, permission: str, organization: str, id: str) -> tuple[Key, Actor]:
        """Return a key, and who acts on it, once the guard has allowed it. Raises NotFound, CallerForbidden."""
        organization = own_or(caller, organization)
        check_id("id", id)
        key = self._store.find_key(organization, id)
        resource = f"organizations/{organization}/keyspaces/{key.keyspace if key else '-'}/keys/{id}"
        # Whoever may not see a key is not told its keyspace either: that would tell that it exists.
        shown = f"organizations/{organization}/keyspaces/-/keys/{id}"
        actor = self._guard.require(caller, permission, resource, owner=key.owner if key else None, shown=shown)
        check_there(self._store, caller, organization)
        if key is None:
            raise NotFound("key", id)
        return key, actor

    def _load_to_end(self, caller: Caller, permission: str, organization: str, id: str) -> tuple[Key, Actor]:
        key, actor = self.load(caller, permission, organization, id)
        resource = f"organizations/{key.organization}/keyspaces/{key.keyspace}/keys/{id}"
        hand = caller.hand(key.organization, key.owner)
        check_ended_by(self._catalog.get(key.keyspace).rails, key, hand, permission, resource)
        return key, actor

    def _first(self, new: NewKey, keyspace: Keyspace, now: Instant) -> tuple[Key, SecretText]:
        key = draft(new, keyspace, now, self._random)
        check_made(keyspace.rails, key, now, span_of(said_expiry(new, keyspace.rails)))
        stored, text = self._mint.secret(keyspace, key, now, self._told_roles(keyspace, key))
        return replace(key, secrets=(stored,)), text

    def _told_roles(self, keyspace: Keyspace, key: Key) -> set[str]:
        """Return the roles that the text of a new secret may tell: the key's own, or those that its owner has now."""
        if keyspace.format is not Format.JWT:
            return set()
        if key.ceiling is Ceiling.LIST:
            return {*key.scopes, *(binding.role for binding in key.bindings)}
        held = self._store.list_held_bindings(key.organization, key.owner or "")
        return {binding.role for binding in held if binding.keyspace == keyspace.name}

    def check_grants(self, caller: Caller, key: Key, keyspace: Keyspace, now: Instant) -> None:
        """Raise GrantForbidden if handing out *key* would hand out what the caller can neither do nor grant."""
        if keyspace.name == DOORWARD:
            # Whoever gets the text of such a key can do here what it can. So the owner's rights are no limit: with
            # keys:create or keys:rotate alone, a helper could make or take itself an administrator's key.
            self._guard.require_own_limits(caller, key)
            owned = key.ceiling is Ceiling.OWNER and key.owner is not None
            if owned and caller.hand(key.organization, key.owner) is Hand.ADMINISTRATOR:
                self._require_all_grants(caller, key, keyspace)
            grants = self._owner_grants(key) if owned else _listed_grants(key)
        elif keyspace.inherits and key.owner is not None:
            return  # it can never do more than its owner, whatever it is granted
        else:
            grants = _listed_grants(key)
        self._guard.require_grants(caller, key.organization, keyspace, grants, now)

    def _bindings_that_count(self, key: Key) -> Sequence[Binding]:
        """Return the owner's bindings where a change of *key* must not make more of them; see `check_grants`."""
        if key.keyspace != DOORWARD or key.owner is None:
            return ()
        return self._store.list_held_bindings(key.organization, key.owner)

    def _require_all_grants(self, caller: Caller, key: Key, keyspace: Keyspace) -> None:
        # What its owner is granted later, such a key can do too: whoever made it must be able to grant that as well.
        if not self._guard.may_grant_all(caller, key.organization, keyspace):
            resource = f"organizations/{key.organization}/keyspaces/{keyspace.name}/roles/root"
            raise GrantForbidden(keyspace.name, "root", resource)

    def _owner_grants(self, key: Key) -> Sequence[Grant]:
        held = self._store.list_held_bindings(key.organization, key.owner or "")
        return [
            Grant(b.role, tuple(map(Pattern.parse, b.resources)), b.expires_at) for b in held if b.keyspace == DOORWARD
        ]


def active_limit(
    rails: Rails, actor: Actor, action: str, now: Instant, hand: Hand = Hand.ADMINISTRATOR
) -> ActiveLimit | None:
    """Return the limit for the store to hold while *actor* makes, imports or enables keys; None: there is none.

    Where *hand* must not end keys, it ends none by making another either: that is refused.
    """
    if rails.max_active_per_owner is None:
        return None

    def revoke(old: Key, new: Key) -> tuple[Key, Event]:
        reason = f"replaced by {new.id}"
        revoked = old.revoke(now, reason)
        return revoked, replace(key_event(actor, action, old, revoked, now), note=reason)

    on_exceed = rails.on_exceed if hand in rails.ended_by else Exceed.REJECT
    return ActiveLimit(rails.max_active_per_owner, on_exceed, now, revoke)


def _listed_grants(key: Key) -> list[Grant]:
    grants = [Grant(scope, (EVERYTHING,), key.expires_at) for scope in key.scopes]
    for binding in key.bindings:
        ends = [at for at in (key.expires_at, binding.expires_at) if at is not None]
        patterns = tuple(map(Pattern.parse, binding.resources))
        grants.append(Grant(binding.role, patterns, min(ends, default=None)))
    return grants
