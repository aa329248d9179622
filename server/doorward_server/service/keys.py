"""The life of a key: created, read, changed, rotated, revoked, deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from doorward_server.core.errors import EtagMismatch, InvalidField, NotFound, UnknownReference
from doorward_server.core.fields import (
    Expiry,
    check_id,
    check_text,
)
from doorward_server.core.keytext import ENTROPY_BYTES, SecretText, base62, mint
from doorward_server.core.model import (
    Actor,
    Ceiling,
    Event,
    Instant,
    Key,
    KeyBinding,
    KeyFilter,
    Quotas,
    Replay,
    Secret,
)
from doorward_server.core.policy import EVERYTHING, Keyspace, Pattern
from doorward_server.core.verify import Peppers
from doorward_server.service.catalog import DOORWARD, Catalog
from doorward_server.service.changes import key_event
from doorward_server.service.guard import Caller, Clock, Grant, Guard
from doorward_server.service.paging import make_token, page_size, read_token
from doorward_server.service.settings import SETTINGS, check_filter, check_whole, checked
from doorward_server.store import LookupTaken, Store, Written

Random = Callable[[int], bytes]
"""Returns so many random bytes, fit for secrets."""


def new_id(kind: str, random: Random) -> str:
    """Return a new stable id, e.g. "key_7hQ2mB9sLx4R": 71 random bits, not secret."""
    return f"{kind}_{base62(int.from_bytes(random(16), 'big'), 12)}"


@dataclass(frozen=True, slots=True)
class NewKey:
    """What CreateKey is asked for, as it came in."""

    organization: str
    keyspace: str
    owner: str
    name: str
    description: str
    environment: str
    type: str
    ceiling: Ceiling | None
    scopes: tuple[str, ...]
    bindings: tuple[KeyBinding, ...]
    allowed_cidrs: tuple[str, ...]
    metadata: Mapping[str, str]
    not_before: Instant | None
    expiry: Expiry


@dataclass(frozen=True, slots=True)
class Repeat:
    """What a retry is recognized by: the request_id, and SHA-256 of the request without it. Empty id: none."""

    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Issued:
    """A key with the text of its newest secret, if that was made just now."""

    key: Key
    secret: SecretText | None
    replayed: bool
    revision: int


class Keys:
    """Issues, watches and ends keys. Blocking: belongs on the management pool.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the key exists.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        guard: Guard,
        peppers: Peppers,
        quotas: Quotas,
        clock: Clock,
        random: Random,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._peppers = peppers
        self._quotas = quotas
        self._clock = clock
        self._random = random

    def create(self, caller: Caller, new: NewKey, repeat: Repeat) -> Issued:
        """Make a key and its first secret. A repeat returns the key made then, without its secret.

        Raises InvalidField, UnknownReference, GrantForbidden, QuotaExceeded, RequestIdReused, NotFound (organization),
        OrganizationIsDisabled, PrincipalIsDisabled.
        """
        organization = own_or(caller, new.organization)
        check_id("keyspace", new.keyspace, "keyspace")
        resource = f"organizations/{organization}/keyspaces/{new.keyspace}/keys"
        actor = self._guard.require(caller, "keys:create", resource, owner=new.owner or None)
        now = self._clock()
        keyspace = self._catalog.get(new.keyspace)
        key, secret = self._first(replace(new, organization=organization), keyspace, now)
        self._check_grants(caller, key, keyspace, now)
        replay = _replay(caller, "CreateKey", repeat, now)
        while True:
            event = key_event(actor, "keys:create", None, key, now)
            try:
                written = self._store.add_key(key, event, self._quotas, replay)
            except LookupTaken:
                key, secret = self._first(replace(new, organization=organization), keyspace, now)
                continue
            return Issued(written.value, None if written.replayed else secret, written.replayed, written.revision)

    def get(self, caller: Caller, organization: str, id: str) -> Key:
        """Return a key that was not deleted. Use is at most one flush interval behind. Raises NotFound."""
        key, _ = self._load(caller, "keys:get", organization, id)
        return key

    def list(
        self, caller: Caller, organization: str, wanted: KeyFilter, size: int, token: str
    ) -> tuple[list[Key], str]:
        """Return a page of keys, newest first, and the token for the next. Raises PageTokenInvalid, InvalidField."""
        organization = own_or(caller, organization)
        check_filter(wanted)
        resource = f"organizations/{organization}/keyspaces/{wanted.keyspace or '-'}/keys"
        self._guard.require(caller, "keys:list", resource, owner=wanted.owner or None)
        scope = f"keys {organization} {sorted(wanted.states)} {replace(wanted, states=frozenset())}"
        position = read_token(scope, token, (int, str))
        after = None if position is None else (int(position[0]), str(position[1]))
        limit = page_size(size)
        keys = self._store.list_keys(organization, wanted, after, limit + 1, self._clock())
        more = len(keys) > limit
        return keys[:limit], make_token(scope, [keys[limit - 1].created_at, keys[limit - 1].id]) if more else ""

    def update(
        self, caller: Caller, organization: str, id: str, settings: Mapping[str, object], etag: str
    ) -> Written[Key]:
        """Change *settings*, named as in `SETTINGS`. Raises what `create` does, EtagMismatch and KeyIsRevoked."""
        key, actor = self._load(caller, "keys:update", organization, id)
        now = self._clock()
        keyspace = self._catalog.get(key.keyspace)
        wanted = checked(settings, keyspace, now)
        granting = not wanted.keys().isdisjoint({"scopes", "bindings", "expires_at"})
        if granting:
            self._check_grants(caller, replace(key, **wanted), keyspace, now)  # type: ignore[arg-type]  # names are ours

        def change(current: Key) -> tuple[Key, Event] | None:
            changed_since = granting and current.version != key.version
            if changed_since or etag not in ("", str(current.version)):
                raise EtagMismatch("key", id)
            changed = current.update(now, **wanted)
            check_whole(changed)
            return None if changed is current else (changed, key_event(actor, "keys:update", current, changed, now))

        return self._store.update_key(key.organization, id, change)

    def rotate(self, caller: Caller, organization: str, id: str, grace: int, repeat: Repeat) -> Issued:
        """Add a secret; older ones end within *grace* (µs). Raises KeyIsRevoked, KeyIsExpired, QuotaExceeded."""
        key, actor = self._load(caller, "keys:rotate", organization, id)
        now = self._clock()
        keyspace = self._catalog.get(key.keyspace)
        if keyspace.name == DOORWARD:
            self._check_grants(caller, key, keyspace, now)
        replay = _replay(caller, "RotateKey", repeat, now)
        while True:
            stored, text = self._mint(keyspace, key.environment, now)

            def change(current: Key, stored: Secret = stored) -> tuple[Key, Event]:
                changed = current.rotate(stored, now, grace)
                return changed, key_event(actor, "keys:rotate", current, changed, now)

            try:
                written = self._store.update_key(key.organization, id, change, replay)
            except LookupTaken:
                continue
            return Issued(written.value, None if written.replayed else text, written.replayed, written.revision)

    def finish_rotation(self, caller: Caller, organization: str, id: str) -> Issued:
        """End superseded secrets now. Raises KeyIsRevoked. Where none is left, nothing changes."""
        key, actor = self._load(caller, "keys:rotate", organization, id)
        now = self._clock()

        def change(current: Key) -> tuple[Key, Event] | None:
            changed = current.finish_rotation(now)
            return None if changed is current else (changed, key_event(actor, "keys:rotate", current, changed, now))

        written = self._store.update_key(key.organization, id, change)
        return Issued(written.value, None, False, written.revision)

    def revoke(self, caller: Caller, organization: str, id: str, reason: str) -> Written[Key]:
        """End a key for good. From the next Authorize on, on this store, it is denied."""
        key, actor = self._load(caller, "keys:revoke", organization, id)
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
        key, actor = self._load(caller, "keys:delete", organization, id)
        now = self._clock()

        def change(current: Key) -> tuple[Key, Event] | None:
            changed = current.delete(now)
            return None if changed is current else (changed, key_event(actor, "keys:delete", current, changed, now))

        return self._store.update_key(key.organization, id, change)

    def _load(self, caller: Caller, permission: str, organization: str, id: str) -> tuple[Key, Actor]:
        organization = own_or(caller, organization)
        check_id("id", id)
        key = self._store.find_key(organization, id)
        resource = f"organizations/{organization}/keyspaces/{key.keyspace if key else '-'}/keys/{id}"
        # Whoever may not see a key is not told its keyspace either: that would tell that it exists.
        shown = f"organizations/{organization}/keyspaces/-/keys/{id}"
        actor = self._guard.require(caller, permission, resource, owner=key.owner if key else None, shown=shown)
        if key is None:
            raise NotFound("key", id)
        return key, actor

    def _first(self, new: NewKey, keyspace: Keyspace, now: Instant) -> tuple[Key, SecretText]:
        if new.owner:
            check_id("owner", new.owner, "principal")
        environment = new.environment or keyspace.environments[0]
        if environment not in keyspace.environments:
            raise UnknownReference("environment", "environment", environment, ", ".join(keyspace.environments))
        settings = {name: getattr(new, name) for name in SETTINGS if name not in ("expires_at", "enabled")}
        given = checked({**settings, "expires_at": new.expiry}, keyspace, now)
        stored, text = self._mint(keyspace, environment, now)
        key = Key(
            organization=new.organization,
            id=new_id("key", self._random),
            keyspace=keyspace.name,
            owner=new.owner or None,
            environment=environment,
            enabled=True,
            ceiling=new.ceiling or (Ceiling.LIST if new.scopes or new.bindings else keyspace.ceilings[0]),
            not_before=new.not_before,
            created_at=now,
            updated_at=now,
            secrets=(stored,),
            **given,  # type: ignore[arg-type]  # names and types are those of `SETTINGS`
        )
        if key.ceiling not in keyspace.ceilings:
            allowed = ", ".join(keyspace.ceilings)
            raise InvalidField("ceiling", f"keys of {keyspace.name!r} can have: {allowed}")
        check_whole(key)
        return key, text

    def _mint(self, keyspace: Keyspace, environment: str, now: Instant) -> tuple[Secret, SecretText]:
        text = mint(keyspace.prefix, environment, self._random(ENTROPY_BYTES))
        verifier = self._peppers.verifier(text.secret)
        return Secret(new_id("sec", self._random), text.lookup, verifier, text.last4, now), text.secret

    def _check_grants(self, caller: Caller, key: Key, keyspace: Keyspace, now: Instant) -> None:
        """Raise GrantForbidden if handing out *key* would hand out what the caller can neither do nor grant."""
        if keyspace.name == DOORWARD:
            # Whoever gets the text of such a key can do here what it can. So the owner's rights are no limit: with
            # keys:create or keys:rotate alone, a helper could make or take itself an administrator's key.
            owned = key.ceiling is Ceiling.OWNER and key.owner is not None
            grants = self._owner_grants(key) if owned else _listed_grants(key)
        elif keyspace.inherits and key.owner is not None:
            return  # it can never do more than its owner, whatever it is granted
        else:
            grants = _listed_grants(key)
        self._guard.require_grants(caller, key.organization, keyspace, grants, now)

    def _owner_grants(self, key: Key) -> Sequence[Grant]:
        held = self._store.list_held_bindings(key.organization, key.owner or "")
        return [
            Grant(b.role, tuple(map(Pattern.parse, b.resources)), b.expires_at) for b in held if b.keyspace == DOORWARD
        ]


def _listed_grants(key: Key) -> list[Grant]:
    grants = [Grant(scope, (EVERYTHING,), key.expires_at) for scope in key.scopes]
    for binding in key.bindings:
        ends = [at for at in (key.expires_at, binding.expires_at) if at is not None]
        patterns = tuple(map(Pattern.parse, binding.resources))
        grants.append(Grant(binding.role, patterns, min(ends, default=None)))
    return grants


def own_or(caller: Caller, organization: str) -> str:
    """Return the organization that a request is about: the one it names, else the caller's own."""
    return check_id("organization", organization, "organization") if organization else caller.organization


def _replay(caller: Caller, method: str, repeat: Repeat, now: Instant) -> Replay | None:
    if not repeat.request_id:
        return None
    check_text("request_id", repeat.request_id, 64)
    key = caller.subject.key.id if caller.subject.key else ""
    acting = caller.acting_for.owner.id if caller.acting_for and caller.acting_for.owner else ""
    who = f"{caller.organization}/{key}/{acting}"
    return Replay(who, method, repeat.request_id, repeat.digest, now)
