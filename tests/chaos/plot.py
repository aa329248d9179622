"""What one mutator changes: an organization with people, a group, keys, and a keyspace, which nobody else touches.

Each change is told by what it does to the facts of history.py, so the plot knows what is true now, as far as anybody
knows it, and offers what can be changed next.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import directory_pb2 as directory
from doorward.v1 import keys_pb2 as keys
from doorward.v1 import keyspaces_pb2 as keyspaces
from tests.chaos.history import Credential

KEYSPACE = """
keyspace: {name}
prefix: {name}
environments: [live]
credentials:
  - {{header: Authorization, scheme: Bearer}}
organization: key
inherit: true
ceilings: [list, owner]
types:
  things: [read, write]
roles:
  reader:
    rules:
      - actions: [things:read]
{deny}  writer:
    rules:
      - actions: [things:write]
"""
DENY = """      - effect: DENY
        actions: [things:read]
        resources: [things/1]
"""
PEOPLE = ("ann", "bob", "cid")
"""Who owns keys: ann has her role by a binding, bob by the group, cid by both."""
GROUP = "readers"
KEYS = 6
Call = Callable[[str, str, Any], Any]
"""Service, RPC and request to response; None if an earlier attempt may have been made, too."""


@dataclass(frozen=True)
class Action:
    """Something that can be changed now."""

    kind: str
    effects: tuple[Mapping[str, bool], ...]
    """The facts that each of its transactions sets."""
    service: str
    rpc: str
    request: Any
    about: tuple[str, ...] = ()
    """The credentials to look at afterwards; none: any of the plot."""
    sql: tuple[str, tuple[object, ...]] | None = None
    """The same, typed by hand."""
    done: Callable[[Any], None] = lambda _: None
    """What the plot learns from the response, or from None where it was typed by hand."""
    lost: Callable[[], None] = lambda: None
    """What becomes of it if nobody ever knows."""
    again: bool = True
    """Whether it may simply be sent once more."""

    @property
    def for_good(self) -> bool:
        """Whether nothing undoes it, so that an attempt that was lost means nothing once another one succeeded."""
        return self.again and self.kind in ("revoke", "batch revoke", "rotate", "finish rotation")


@dataclass
class PlotKey:
    """A key of a plot."""

    id: str
    owner: str
    listed: bool
    secrets: list[str] = field(default_factory=list)
    """The ids of its credentials, oldest first."""
    overlap: bool = False


class Plot:
    """One generation of what a mutator owns. `publish` is told every new text."""

    def __init__(self, name: str, dice: random.Random, publish: Callable[[Credential, str, str], None]) -> None:
        self.name = name
        self.true: set[str] = set()
        self.keys: dict[str, PlotKey] = {}
        self.texts: dict[str, str] = {}
        self.worn = False
        self._dice = dice
        self._publish = publish
        self._bindings: dict[str, str] = {}
        self._made = 0

    def build(self, call: Call, initially: Callable[[Mapping[str, bool]], None]) -> None:
        """Make everything but the keys, which `refill` makes. Raises grpc.RpcError."""
        call("keyspaces", "ApplyKeyspace", self._keyspace(deny=False))
        organization = directory.Organization(id=self.name)
        call("directory", "CreateOrganization", directory.CreateOrganizationRequest(organization=organization))
        for person in PEOPLE:
            principal = directory.Principal(organization=self.name, id=person)
            call("directory", "CreatePrincipal", directory.CreatePrincipalRequest(principal=principal))
        group = directory.Group(organization=self.name, id=GROUP)
        call("directory", "CreateGroup", directory.CreateGroupRequest(group=group))
        call("directory", "CreateBinding", self._bind(group=GROUP))
        for person in ("bob", "cid"):
            call("directory", "AddGroupMember", self._member(directory.AddGroupMemberRequest, person))
        for person in ("ann", "cid"):
            if made := call("directory", "CreateBinding", self._bind(principal=person)):
                self._bindings[person] = made.binding.id
        missing = {self._fact("ann", "ungrouped"): True, self._fact("bob", "unbound"): True}
        initially(missing)
        self._set(missing)

    def refill(self, call: Call) -> None:
        """Make keys until there are enough that live, for owners who may have some. Raises grpc.RpcError."""
        while len(self.living()) < KEYS and self._owners():
            self._made += 1
            owner, listed = self._dice.choice(self._owners()), self._made % 2 == 0
            request = keys.CreateKeyRequest(
                organization=self.name, keyspace=self.name, owner=owner, name=f"key {self._made}",
                ceiling=keys.CEILING_LIST if listed else keys.CEILING_OWNER, scopes=["reader"] if listed else (),
                request_id=str(uuid.uuid4()),
            )  # fmt: skip
            if made := call("keys", "CreateKey", request):
                key = self.keys[made.key.id] = PlotKey(made.key.id, owner, listed)
                self._new_text(key, made.secret)

    def _owners(self) -> list[str]:
        if self._true(self.name, "disabled"):
            return []
        return [person for person in PEOPLE if not self._true(self._fact(person), "disabled")]

    def living(self) -> list[PlotKey]:
        """The keys that are not ended for good."""
        return [
            it for it in self.keys.values() if not self._true(it.id, "revoked") and not self._true(it.id, "deleted")
        ]

    def forget_the_dead(self) -> list[str]:
        """Take ended keys off the plot once there are many; return their credentials."""
        dead = [it for it in self.keys.values() if it not in self.living()]
        gone = dead[: max(0, len(dead) - 4)]
        for key in gone:
            del self.keys[key.id]
        return [id for key in gone for id in key.secrets]

    def credentials(self) -> list[str]:
        """All texts of the keys on the plot."""
        return [id for key in self.keys.values() for id in key.secrets]

    def apply(self, effects: Mapping[str, bool]) -> None:
        """Take note of what is true now."""
        self._set(effects)

    def next(self) -> Action:
        """Return something that can be changed now; more often than not something that allows more again, if any does.

        Otherwise most answers would be denials, and what must not be stale is an ALLOW.
        """
        action = self._draw()
        if self._dice.random() < 0.6:
            for _ in range(6):
                if any(value is False for effect in action.effects for value in effect.values()):
                    return action
                action = self._draw()
        return action

    def _draw(self) -> Action:
        while True:
            if actions := list(self._dice.choice(list(self._offers()))):
                return self._dice.choice(actions)

    # --- what can be changed ------------------------------------------------------------------------------------------

    def _offers(self) -> Iterator[Iterator[Action]]:
        person = self._dice.choice(PEOPLE)
        if living := self.living():
            key = self._dice.choice(living)
            yield self._ending(key)
            yield self._ending(key)
            yield self._switching(key)
            yield self._rotating(key)
        yield self._of_owner(person)
        yield self._of_rights(person)
        yield self._of_rights("bob")  # whose rights are by the group alone
        yield self._of_all()

    def _ending(self, key: PlotKey) -> Iterator[Action]:
        revoked = {f"{key.id}/revoked": True}
        about = tuple(key.secrets)
        at = "UPDATE key SET revoked_at = 1, version = version + 1 WHERE organization = ? AND id = ?"
        revoke = keys.RevokeKeyRequest(organization=self.name, id=key.id)
        yield Action("revoke", (revoked,), "keys", "RevokeKey", revoke, about, (at, (self.name, key.id)))
        yield Action("revoke", (revoked,), "keys", "RevokeKey", revoke, about)
        delete = keys.DeleteKeyRequest(organization=self.name, id=key.id)
        yield Action("delete key", ({f"{key.id}/deleted": True},), "keys", "DeleteKey", delete, about, again=False)
        theirs = [it for it in self.living() if it.owner == key.owner]
        batch = keys.BatchRevokeKeysRequest(
            organization=self.name, filter=keys.KeyFilter(keyspace=self.name, owner=key.owner), reason="chaos"
        )
        all_ended = {f"{it.id}/revoked": True for it in theirs}
        yield Action("batch revoke", (all_ended,), "keys", "BatchRevokeKeys", batch, about)

    def _switching(self, key: PlotKey) -> Iterator[Action]:
        off = self._true(key.id, "disabled")
        message = keys.Key(organization=self.name, id=key.id, enabled=off)
        sql = "UPDATE key SET enabled = FALSE, version = version + 1 WHERE organization = ? AND id = ?"
        yield Action(
            "enable key" if off else "disable key", ({f"{key.id}/disabled": not off},), "keys", "UpdateKey",
            keys.UpdateKeyRequest(key=message, update_mask=FieldMask(paths=["enabled"])), tuple(key.secrets),
            None if off else (sql, (self.name, key.id)),
        )  # fmt: skip
        if key.listed:
            bare = self._true(key.id, "unscoped")
            message = keys.Key(organization=self.name, id=key.id, scopes=["reader" if bare else "writer"])
            yield Action(
                "give scope" if bare else "take scope", ({f"{key.id}/unscoped": not bare},), "keys", "UpdateKey",
                keys.UpdateKeyRequest(key=message, update_mask=FieldMask(paths=["scopes"])), tuple(key.secrets),
            )  # fmt: skip

    def _rotating(self, key: PlotKey) -> Iterator[Action]:
        old = {f"{id}/ended": True for id in key.secrets}

        def rotated(response: Any) -> None:
            if response.secret:
                self._new_text(key, response.secret)

        def request(**more: Any) -> keys.RotateKeyRequest:
            return keys.RotateKeyRequest(organization=self.name, id=key.id, request_id=str(uuid.uuid4()), **more)

        def finished(_: Any) -> None:
            key.overlap = False

        def overlapping(response: Any) -> None:
            rotated(response)
            key.overlap = True

        if key.overlap:
            earlier = {f"{id}/ended": True for id in key.secrets[:-1]}
            yield Action(
                "finish rotation", (earlier,), "keys", "RotateKey", request(finish=True), tuple(key.secrets),
                done=finished,
            )  # fmt: skip
        elif not self._true(key.secrets[-1], "ended"):
            yield Action("rotate", (old,), "keys", "RotateKey", request(), tuple(key.secrets), done=rotated)
            yield Action(
                "rotate, overlapping", (), "keys", "RotateKey", request(grace=Duration(seconds=3600)),
                tuple(key.secrets), done=overlapping, lost=self._wear,
            )  # fmt: skip

    def _of_owner(self, person: str) -> Iterator[Action]:
        off = self._true(self._fact(person), "disabled")
        principal = directory.Principal(organization=self.name, id=person, enabled=off)
        sql = "UPDATE principal SET enabled = FALSE, version = version + 1 WHERE organization = ? AND id = ?"
        yield Action(
            "enable owner" if off else "disable owner", ({self._fact(person, "disabled"): not off},), "directory",
            "UpdatePrincipal",
            directory.UpdatePrincipalRequest(principal=principal, update_mask=FieldMask(paths=["enabled"])),
            self._of(person), None if off else (sql, (self.name, person)),
        )  # fmt: skip

    def _of_rights(self, person: str) -> Iterator[Action]:
        yield self._grouping(person)
        if person in self._bindings:
            id = self._bindings[person]
            sql = "DELETE FROM binding WHERE organization = ? AND id = ?"
            yield Action(
                "delete binding", ({self._fact(person, "unbound"): True},), "directory", "DeleteBinding",
                directory.DeleteBindingRequest(organization=self.name, id=id), self._of(person),
                (sql, (self.name, id)), done=lambda _: self._unbind(person), lost=self._wear, again=False,
            )  # fmt: skip
        elif self._true(self._fact(person), "unbound"):

            def bound(response: Any) -> None:
                self._bindings[person] = response.binding.id

            yield Action(
                "create binding", ({self._fact(person, "unbound"): False},), "directory", "CreateBinding",
                self._bind(principal=person), self._of(person), done=bound, lost=self._wear, again=False,
            )  # fmt: skip

    def _grouping(self, person: str) -> Action:
        out = self._true(self._fact(person), "ungrouped")
        kind = directory.AddGroupMemberRequest if out else directory.RemoveGroupMemberRequest
        sql = "DELETE FROM membership WHERE organization = ? AND group_id = ? AND principal = ?"
        return Action(
            "join group" if out else "leave group", ({self._fact(person, "ungrouped"): not out},), "directory",
            "AddGroupMember" if out else "RemoveGroupMember", self._member(kind, person), self._of(person),
            None if out else (sql, (self.name, GROUP, person)),
        )  # fmt: skip

    def _of_all(self) -> Iterator[Action]:
        denied = self._true(self.name, "denied")
        yield Action(
            "lift DENY" if denied else "new DENY", ({f"{self.name}/denied": not denied},), "keyspaces",
            "ApplyKeyspace", self._keyspace(deny=not denied),
        )  # fmt: skip
        off = self._true(self.name, "disabled")
        organization = directory.Organization(id=self.name, enabled=off)
        sql = "UPDATE organization SET enabled = FALSE, version = version + 1 WHERE id = ?"
        yield Action(
            "enable organization" if off else "disable organization", ({f"{self.name}/disabled": not off},),
            "directory", "UpdateOrganization",
            directory.UpdateOrganizationRequest(organization=organization, update_mask=FieldMask(paths=["enabled"])),
            (), None if off else (sql, (self.name,)),
        )  # fmt: skip
        person = self._dice.choice(PEOPLE)
        theirs = [it for it in self.living() if it.owner == person]
        if self._dice.random() < 0.15:
            yield Action(
                "delete owner",
                ({self._fact(person, "deleted"): True}, {f"{it.id}/revoked": True for it in theirs}),
                "directory", "DeletePrincipal", directory.DeletePrincipalRequest(organization=self.name, id=person),
                self._of(person), done=lambda _: self._wear(), lost=self._wear, again=False,
            )  # fmt: skip

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _new_text(self, key: PlotKey, text: str) -> None:
        id = f"{key.id}.{len(key.secrets) + 1}"
        key.secrets.append(id)
        self.texts[id] = text
        self._publish(Credential(id, key.id, self._conditions(key, id)), text, self.name)

    def _conditions(self, key: PlotKey, id: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        person = key.owner
        denied = ("DENIED_BY_RULE", (f"{self.name}/denied",))
        unscoped = ("SCOPE_INSUFFICIENT", (f"{key.id}/unscoped",))
        rightless = (
            "OWNER_PERMISSION_INSUFFICIENT",
            (self._fact(person, "unbound"), self._fact(person, "ungrouped")),
        )
        return (
            ("KEY_REVOKED", (f"{key.id}/revoked",)),
            ("KEY_REVOKED", (f"{key.id}/deleted",)),
            ("KEY_DISABLED", (f"{key.id}/disabled",)),
            ("SECRET_SUPERSEDED", (f"{id}/ended",)),
            ("OWNER_DISABLED", (self._fact(person, "deleted"),)),
            ("OWNER_DISABLED", (self._fact(person, "disabled"),)),
            ("ORGANIZATION_DISABLED", (f"{self.name}/disabled",)),
            # A key with a list is judged by that first, then by its owner's rights.
            *((unscoped, denied, rightless) if key.listed else (rightless, denied)),
        )

    def _fact(self, person: str, fact: str = "") -> str:
        return f"{self.name}/{person}/{fact}" if fact else f"{self.name}/{person}"

    def _true(self, thing: str, fact: str) -> bool:
        return f"{thing}/{fact}" in self.true

    def _set(self, effects: Mapping[str, bool]) -> None:
        self.true -= effects.keys()
        self.true |= {fact for fact, value in effects.items() if value}

    def _unbind(self, person: str) -> None:
        del self._bindings[person]

    def _wear(self) -> None:
        self.worn = True

    def _of(self, person: str) -> tuple[str, ...]:
        return tuple(id for key in self.living() if key.owner == person for id in key.secrets)

    def _keyspace(self, deny: bool) -> keyspaces.ApplyKeyspaceRequest:
        return keyspaces.ApplyKeyspaceRequest(source=KEYSPACE.format(name=self.name, deny=DENY if deny else ""))

    def _member(self, kind: Any, person: str) -> Any:
        return kind(organization=self.name, group=GROUP, principal=person)

    def _bind(self, **subject: str) -> directory.CreateBindingRequest:
        binding = directory.Binding(organization=self.name, keyspace=self.name, role="reader", **subject)  # type: ignore[arg-type]  # principal= or group=
        return directory.CreateBindingRequest(binding=binding)
