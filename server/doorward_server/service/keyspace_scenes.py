"""The world that a test of a keyspace file describes, in memory: whose rights are asked about, and what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from ipaddress import ip_network
from typing import TypeVar

from doorward_server.core.directory import (
    Attribute,
    Attributes,
    Binding,
    Organization,
    Principal,
    PrincipalKind,
    SubjectKind,
)
from doorward_server.core.errors import InvalidField, KeyspaceInvalid
from doorward_server.core.facts import Facts, Sent, SentRelation, combine
from doorward_server.core.formats import Format, mint_uuid
from doorward_server.core.keytext import ENTROPY_BYTES, mint
from doorward_server.core.model import Ceiling, Instant, Key, KeyBinding, Secret
from doorward_server.core.policy import Keyspace, Path, Pattern, parse_path
from doorward_server.core.subject import Subject, key_subject, principal_subject
from doorward_server.core.verify import KIND, Verifier
from doorward_server.service.keyspace_cases import Ask, Given, GivenBinding, GivenKey, GivenPrincipal, Scalar

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Scene:
    """What one test is given, as decisions read it."""

    keyspace: Keyspace
    place: str
    """Of the test in the file, e.g. `tests[0]`."""
    given: Given
    subject: Subject
    text: str
    """Of the key; empty without one."""
    relations: tuple[SentRelation, ...]

    def facts(self, ask: Ask, path: Path) -> Facts:
        """Return what is known about *path*, stored or sent with *ask*. Raises KeyspaceInvalid."""
        stored = self.given.resources.get("/".join(path))
        sent = self._sent(ask, path)
        parent = (stored.parent if stored else "") or "/".join(sent.parent)
        above = self.given.resources.get(parent)
        # In here, what is stored is as good as sent: the subject that it names is compared all the same.
        return combine(
            path,
            Sent(sent.attributes, sent.parent, (*sent.relations, *self.relations)),
            values(stored.attributes) if stored else {},
            parent,
            values(above.attributes) if above else {},
            frozenset(),
            self.subject.owner.id if self.subject.owner else "",
            self.subject.groups,
        )

    def _sent(self, ask: Ask, path: Path) -> Sent:
        place = f"{self.place}.ask"
        parent = read_path(f"{place}.parent", ask.parent, self.keyspace) if ask.parent else ()
        if parent and parent[0] not in self.keyspace.parents.get(path[0], ()):
            raise KeyspaceInvalid(f"{place}.parent", f"{parent[0]!r} is not a parent of {path[0]!r} under parents")
        attributes = values(ask.attributes)
        check_attributes(f"{place}.attributes", attributes, partial(self.keyspace.declared.check_resource, "", path[0]))
        relations = tuple(
            self._sent_relation(f"{place}.relations[{i}]", text, path, parent) for i, text in enumerate(ask.relations)
        )
        return Sent(attributes, parent, relations)

    def _sent_relation(self, place: str, text: str, path: Path, parent: Path) -> SentRelation:
        if "#" in text:
            return read_relation(place, text, self.keyspace)
        on, _, word = text.rpartition(".")
        if on not in ("", "parent") or (on and not parent):
            form = "assigned, parent.assigned (with ask.parent) or flows/1#owner@user:ann"
            raise KeyspaceInvalid(place, f"must be like {form}")
        resource = parent if on else path
        _check_relation(place, word, resource[0], self.keyspace)
        return SentRelation(word, resource)


def build(keyspace: Keyspace, place: str, given: Given) -> Scene:
    """Return the scene of a test at *place* in its file. Raises KeyspaceInvalid."""
    builder = _Builder(keyspace, f"{place}.given", given)
    text = "" if given.key is None and given.principal is not None else _text(keyspace, builder.environment(), place)
    relations = tuple(
        read_relation(f"{place}.given.relations[{i}]", it, keyspace) for i, it in enumerate(given.relations)
    )
    builder.check_resources()
    return Scene(keyspace, place, given, builder.subject(), text, relations)


class _Builder:
    def __init__(self, keyspace: Keyspace, place: str, given: Given) -> None:
        self._keyspace = keyspace
        self._place = place
        self._given = given
        self._key = given.key or GivenKey()

    def environment(self) -> str:
        environment = self._key.environment or self._keyspace.environments[0]
        if environment not in self._keyspace.environments:
            raise KeyspaceInvalid(f"{self._place}.key.environment", f"there is no environment {environment!r}")
        return environment

    def subject(self) -> Subject:
        organization, principal = self._organization(), self._principal()
        bindings = self._bindings(self._given.principal)
        groups = tuple(self._given.principal.groups) if self._given.principal is not None else ()
        if principal is not None and self._given.key is None:
            return principal_subject(principal, organization, bindings, self._keyspace, groups)
        key = self._made_key(principal)
        return key_subject(key, key.secrets[0], organization, principal, bindings, self._keyspace, groups)

    def check_resources(self) -> None:
        for path, resource in self._given.resources.items():
            place = f"{self._place}.resources.{path}"
            type = read_path(place, path, self._keyspace)[0]
            check = partial(self._keyspace.declared.check_resource, "", type)
            check_attributes(f"{place}.attributes", values(resource.attributes), check)
            if resource.parent:
                parent = read_path(f"{place}.parent", resource.parent, self._keyspace)[0]
                if parent not in self._keyspace.parents.get(type, ()):
                    raise KeyspaceInvalid(f"{place}.parent", f"{parent!r} is not a parent of {type!r} under parents")

    def _organization(self) -> Organization:
        it = self._given.organization
        return Organization(it.id, it.id, values(it.attributes), it.enabled, 0, 0)

    def _principal(self) -> Principal | None:
        it = self._given.principal
        if it is None:
            return None
        kind = PrincipalKind(it.kind.upper())
        organization = self._given.organization.id
        return Principal(organization, it.id, kind, it.id, it.email, values(it.attributes), it.enabled, 0, 0)

    def _bindings(self, principal: GivenPrincipal | None) -> list[Binding]:
        if principal is None:
            return []
        return [
            Binding(
                organization=self._given.organization.id,
                id=f"bnd_{i}",
                subject_kind=SubjectKind.PRINCIPAL,
                subject=principal.id,
                keyspace=self._keyspace.name,
                role=bound.role,
                resources=bound.resources,
                not_before=bound.not_before,
                expires_at=bound.expires_at,
                created_at=0,
                updated_at=0,
                condition=bound.condition,
            )
            for i, it in enumerate(principal.bindings)
            for bound in [self._bound(f"{self._place}.principal.bindings[{i}]", it)]
        ]

    def _bound(self, place: str, it: GivenBinding) -> KeyBinding:
        _check_role(f"{place}.role", it.role, self._keyspace)
        for i, text in enumerate(it.resources):
            _parse(f"{place}.resources[{i}]", text, Pattern.parse)
        if it.condition:
            _parse(f"{place}.condition", it.condition, self._keyspace.conditions.compile)
        begin = maybe_instant(f"{place}.not_before", it.not_before)
        end = maybe_instant(f"{place}.expires_at", it.expires_at)
        return KeyBinding(it.role, tuple(it.resources) or ("*",), begin, end, it.condition)

    def _made_key(self, owner: Principal | None) -> Key:
        it, place = self._key, f"{self._place}.key"
        for i, scope in enumerate(it.scopes):
            _check_role(f"{place}.scopes[{i}]", scope, self._keyspace)
        for i, cidr in enumerate(it.allowed_cidrs):
            _parse(f"{place}.allowed_cidrs[{i}]", cidr, ip_network)
        bindings = tuple(self._bound(f"{place}.bindings[{i}]", bound) for i, bound in enumerate(it.bindings))
        return Key(
            organization=self._given.organization.id,
            id="key_given",
            keyspace=self._keyspace.name,
            owner=owner.id if owner else None,
            name="given",
            description="",
            environment=self.environment(),
            type=it.type,
            enabled=it.enabled,
            ceiling=self._ceiling(),
            scopes=tuple(it.scopes),
            bindings=bindings,
            allowed_cidrs=tuple(it.allowed_cidrs),
            metadata=it.metadata,
            not_before=maybe_instant(f"{place}.not_before", it.not_before),
            expires_at=maybe_instant(f"{place}.expires_at", it.expires_at),
            created_at=0,
            updated_at=0,
            secrets=(Secret("sec_given", "given", Verifier(KIND, 0, b""), "ven1", 0),),
            revoked_at=0 if it.revoked else None,
            api_version=it.api_version or self._keyspace.rails.api_version,
        )

    def _ceiling(self) -> Ceiling:
        if self._key.ceiling is None:
            listed = self._key.scopes or self._key.bindings
            return Ceiling.LIST if listed else self._keyspace.ceilings[0]
        ceiling = Ceiling(self._key.ceiling.upper())
        if ceiling not in self._keyspace.ceilings:
            raise KeyspaceInvalid(f"{self._place}.key.ceiling", f"{self._key.ceiling!r} is not among the ceilings")
        return ceiling


def instant(place: str, text: str) -> Instant:
    """Return the instant that *text* stands for, as RFC 3339 has it. Raises KeyspaceInvalid."""
    try:
        at: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise KeyspaceInvalid(place, "must be an instant like 2026-03-01T12:00:00Z")
    past = at - _EPOCH
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds


def maybe_instant(place: str, text: str | None) -> Instant | None:
    """Return the same, or None for None."""
    return None if text is None else instant(place, text)


def values(attributes: Mapping[str, Scalar]) -> Attributes:
    """Return attributes as the model has them."""
    frozen: dict[str, Attribute] = {}
    for name, value in attributes.items():
        frozen[name] = tuple(value) if isinstance(value, list) else value
    return frozen


def check_attributes(place: str, attributes: Attributes, check: Callable[[Attributes], None]) -> None:
    """Let *check* look at each attribute by itself. Raises KeyspaceInvalid for what it refuses."""
    for name, value in attributes.items():
        try:
            check({name: value})
        except InvalidField as problem:
            raise KeyspaceInvalid(f"{place}.{name}", problem.metadata["rule"]) from None


def read_relation(place: str, text: str, keyspace: Keyspace) -> SentRelation:
    """Read a relation like `assessments/42#assigned@user:ann`. Raises KeyspaceInvalid."""
    resource, sharp, rest = text.partition("#")
    word, at, subject = rest.partition("@")
    kind, colon, id = subject.partition(":")
    if not (sharp and at and colon and id) or kind not in ("user", "group"):
        raise KeyspaceInvalid(place, "must be like assessments/42#assigned@user:ann, or …@group:red-team")
    path = read_path(place, resource, keyspace)
    _check_relation(place, word, path[0], keyspace)
    return SentRelation(word, path, SubjectKind.PRINCIPAL if kind == "user" else SubjectKind.GROUP, id)


def _check_relation(place: str, word: str, type: str, keyspace: Keyspace) -> None:
    if word not in keyspace.relations.get(type, ()):
        raise KeyspaceInvalid(place, f"{word!r} is not a relation of {type!r} under relations")


def _check_role(place: str, role: str, keyspace: Keyspace) -> None:
    if role not in keyspace.roles:
        raise KeyspaceInvalid(place, f"there is no role {role!r}")


def _parse(place: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as problem:
        raise KeyspaceInvalid(place, str(problem)) from None


def read_path(place: str, text: str, keyspace: Keyspace) -> Path:
    """Return the segments of a resource whose type *keyspace* has. Raises KeyspaceInvalid."""
    path = _parse(place, text, parse_path)
    if path[0] not in keyspace.types:
        raise KeyspaceInvalid(place, f"there is no type {path[0]!r} under types")
    return path


def _text(keyspace: Keyspace, environment: str, seed: str) -> str:
    """Return a text as a key of *keyspace* could have it; the same *seed* gives the same one. It opens nothing."""
    entropy = sha256(seed.encode()).digest()
    if keyspace.format is Format.OPAQUE:
        return mint(keyspace.prefix, environment, entropy[:ENTROPY_BYTES]).secret.reveal()
    if keyspace.format is Format.UUID:
        return mint_uuid(entropy[:16]).reveal()
    return f"eyJhbGciOiJub25lIn0.{entropy.hex()}.{entropy[:16].hex()}"
