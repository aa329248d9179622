"""An API product on a running Doorward, and its customers, through the public client alone.

    product = desk.product(EXAMPLES / "faction.yaml")    # applies the file
    acme = product.customer()                             # an organization that no other test uses
    alice = acme.person("assessor", email="alice@acme.example", team="red")
    acme.relate("assessments/42#assigned@user:" + alice)
    key = acme.key(owner=alice)
    assert acme.ask(key, "assessments:read", "assessments/42")
    assert acme.ask(key, "assessments:read", "assessments/43").reason == "RELATION_MISSING"

Questions are asked with the key of a backend (role `impersonator`), explanations with the root key.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doorward import (
    AccessibleResources,
    Alert,
    AllowedActions,
    AppliedKeyspace,
    Ceiling,
    Client,
    Decision,
    Explanation,
    HttpRequest,
    Identity,
    IssuedKey,
    Key,
    KeyBinding,
    Organization,
    Principal,
    PrincipalKind,
    Question,
    Relation,
    Secret,
    SentRelation,
    Usage,
)
from doorward_server.core.model import SECOND
from tests.wire.serving import Server, unique

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "keyspaces"
TIMEOUT = 60.0
"""Seconds: a bound for what hangs, not an expectation."""


@dataclass(frozen=True)
class SignedIn:
    """A principal that a backend has signed in, as a credential."""

    principal: str


Credential = IssuedKey | Secret | str | HttpRequest | SignedIn | None
"""A key just made, a key's text, a request that holds one, a principal; None: nothing was presented."""


class Desk:
    """A Doorward as its operator sees it. `root` may everything; `backend` may ask about every organization."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server = server
        self._stack = stack
        self.root = self.client(server.root)
        made = self.root.create_key(
            keyspace="doorward", organization="operator", name="backend", scopes=["impersonator"]
        )
        self.backend = self.client(text_of(made))

    def client(self, key: str) -> Client:
        """A client that calls with *key*, closed with the server."""
        return self._stack.enter_context(Client(self.server.target, key, authorize_timeout=TIMEOUT, timeout=TIMEOUT))

    @property
    def now(self) -> datetime:
        """The server's clock, which stands still until `advance`."""
        return datetime.fromtimestamp(self.server.clock.now / SECOND, UTC)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.server.clock.advance(seconds)

    def apply(self, source: Path | str) -> AppliedKeyspace:
        """Apply a keyspace file, by its path or its text."""
        return self.root.apply_keyspace(source.read_text("utf-8") if isinstance(source, Path) else source)

    def product(self, source: Path | str) -> Product:
        """Apply a keyspace file, and return the product that it describes."""
        return Product(self, self.apply(source).keyspace.name)


@dataclass(frozen=True)
class Product:
    """One keyspace."""

    desk: Desk = field(repr=False)
    keyspace: str

    def customer(self, id: str = "", **attributes: Any) -> Customer:
        """Make an organization with *attributes*; its id is *id* and a number."""
        made = self.desk.root.create_organization(
            unique(id or "customer"), display_name="A customer", attributes=attributes
        )
        return Customer(self, made.id)


@dataclass(frozen=True)
class Customer:
    """An organization, its people and its keys of one product."""

    product: Product
    id: str

    @property
    def desk(self) -> Desk:
        return self.product.desk

    @property
    def root(self) -> Client:
        return self.product.desk.root

    @property
    def _here(self) -> dict[str, Any]:
        return {"organization": self.id, "keyspace": self.product.keyspace}

    # --- the directory ------------------------------------------------------------------------------------------------

    def update(self, **changes: Any) -> Organization:
        """Change the organization: attributes, enabled."""
        return self.root.update_organization(self.id, **changes)

    def person(
        self, *roles: str, id: str = "", email: str = "", name: str = "", service: bool = False, **attributes: Any
    ) -> str:
        """Make a user (or a service account) who holds *roles*, and return its id."""
        person: Principal = self.root.create_principal(
            id or unique("person"),
            organization=self.id,
            kind=PrincipalKind.SERVICE_ACCOUNT if service else PrincipalKind.USER,
            email=email,
            display_name=name,
            attributes=attributes,
        )
        for role in roles:
            self.bind(role, principal=person.id)
        return person.id

    def change_person(self, id: str, **changes: Any) -> Principal:
        """Change a principal: display_name, email, attributes, enabled."""
        return self.root.update_principal(id, organization=self.id, **changes)

    def group(self, *members: str, groups: Iterable[str] = (), roles: Iterable[str] = (), id: str = "") -> str:
        """Make a group of principals and other groups, which holds *roles*; return its id."""
        made = self.root.create_group(id or unique("group"), organization=self.id).id
        for member in members:
            self.root.add_group_member(made, member, organization=self.id)
        for inner in groups:
            self.root.add_group_member(made, member_group=inner, organization=self.id)
        for role in roles:
            self.bind(role, group=made)
        return made

    def bind(
        self,
        role: str,
        *resources: str,
        principal: str | None = None,
        group: str | None = None,
        condition: str = "",
        keyspace: str = "",
        not_before: datetime | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """Give a role to a principal or a group, and return the binding's id."""
        binding = self.root.create_binding(
            organization=self.id,
            keyspace=keyspace or self.product.keyspace,
            role=role,
            resources=resources,
            principal=principal,
            group=group,
            condition=condition,
            not_before=not_before,
            expires_at=expires_at,
        )
        return binding.id

    def unbind(self, binding: str) -> None:
        """Take a role away again."""
        self.root.delete_binding(binding, organization=self.id)

    # --- facts --------------------------------------------------------------------------------------------------------

    def relate(self, *relations: str) -> None:
        """Store relations, e.g. "assessments/42#assigned@user:alice", "…@group:staff"."""
        self.root.write_relations(list(map(Relation.parse, relations)), **self._here)

    def unrelate(self, *relations: str) -> None:
        """Delete stored relations."""
        self.root.delete_relations(list(map(Relation.parse, relations)), **self._here)

    def put(self, resource: str, *, parent: str = "", **attributes: Any) -> None:
        """Store facts about a resource; what was stored about it before is replaced."""
        self.root.put_resource(resource, parent=parent, attributes=attributes, **self._here)

    def forget(self, resource: str) -> None:
        """Delete what is stored about a resource, relations included."""
        self.root.delete_resource(resource, **self._here)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def key(
        self,
        *scopes: str,
        owner: str = "",
        name: str = "a key",
        bindings: Sequence[KeyBinding] = (),
        ceiling: Ceiling | None = None,
        client: Client | None = None,
        **settings: Any,
    ) -> IssuedKey:
        """Make a key with *scopes*, as the root or by another *client*; see `Client.create_key` for *settings*."""
        return (client or self.root).create_key(
            name=name, owner=owner, scopes=scopes, bindings=bindings, ceiling=ceiling, **self._here, **settings
        )

    def used(self, key: IssuedKey, since: datetime) -> Key:
        """Read a key once its use at *since*, or a later one, is written: uses are, about once a second."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            read = self.root.get_key(key.key.id, organization=self.id)
            if read.last_used_at is not None and read.last_used_at >= since:
                return read
            time.sleep(0.02)
        raise AssertionError("the use was not written")

    def usage(self, *by: str, client: Client | None = None, **scope: Any) -> Usage:
        """Sums of this product's keys of this customer, once all that was asked is written."""
        server = self.desk.server
        server.on_loop(server.app.counting.flush)
        return (client or self.root).get_usage(by=by, **{**self._here, **scope})

    def alerts(self, rule: str) -> list[Alert]:
        """What a rule of this product has told of this customer, once all there is to see has been looked at."""
        server = self.desk.server
        watch = server.app.watch
        self.usage()
        server.on_loop(watch.noticing.flush)
        watch.sweeps.sweep(server.clock())
        return [it for it in self.root.list_alerts(organization=self.id) if it.rule == rule]

    def until_told(self, rule: str, count: int) -> list[Alert]:
        """The same, once there are *count*: another look may be under way."""
        end = time.monotonic() + TIMEOUT
        while len(told := self.alerts(rule)) < count and time.monotonic() < end:
            time.sleep(0.02)
        assert len(told) == count, told
        return told

    def member(self, principal: str, *roles: str) -> Client:
        """A client that calls Doorward as *principal*, which holds *roles* there (default: member)."""
        for role in roles or ("member",):
            self.bind(role, principal=principal, keyspace="doorward")
        made = self.root.create_key(
            keyspace="doorward", organization=self.id, name="own", owner=principal, ceiling=Ceiling.OWNER
        )
        return self.desk.client(text_of(made))

    # --- questions ----------------------------------------------------------------------------------------------------

    def ask(self, credential: Credential, action: str, resource: str | None = None, **facts: Any) -> Decision:
        """Ask for one decision, and return the whole answer.

        *facts* are those of `Client.authorize`: attributes, parent, relations (texts like "assigned" will do),
        client_ip, at, facts (of the context), environment, organization (default: this one; "" names none), dry_run.
        """
        return self.desk.backend.authorize(**self._question(credential, action, resource, facts))

    def ask_all(self, credential: Credential, questions: Iterable[Question], **facts: Any) -> list[Decision]:
        """Ask for several decisions in batches."""
        told = self._told(credential, facts)
        questions = list(questions)
        answers: list[Decision] = []
        for i in range(0, len(questions), 100):
            answers += self.desk.backend.batch_authorize(questions=questions[i : i + 100], **told)
        return answers

    def explain(self, credential: Credential, action: str, resource: str | None = None, **facts: Any) -> Explanation:
        """Ask why."""
        return self.root.explain_authorization(**self._question(credential, action, resource, facts))

    def actions(self, credential: Credential, resource: str | None = None, **facts: Any) -> AllowedActions:
        """Ask what may be done."""
        return self.desk.backend.list_allowed_actions(resource=resource, **self._told(credential, facts))

    def resources(self, credential: Credential, action: str, **facts: Any) -> AccessibleResources:
        """Ask on what something may be done."""
        return self.desk.backend.list_accessible_resources(action=action, **self._told(credential, facts))

    def whose(self, credential: Credential, client_ip: str = "") -> Decision:
        """Ask whose credential it is (Introspect)."""
        told = {"keyspace": self.product.keyspace, "client_ip": client_ip, **_presented(credential)}
        return self.desk.backend.introspect(**told)

    def _question(
        self, credential: Credential, action: str, resource: str | None, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"action": action, "resource": resource, **self._told(credential, facts)}

    def _told(self, credential: Credential, facts: Mapping[str, Any]) -> dict[str, Any]:
        told = {**self._here, **facts, **_presented(credential, self.id)}
        if "relations" in facts:
            told["relations"] = [SentRelation.parse(it) if isinstance(it, str) else it for it in facts["relations"]]
        return told


def text_of(key: IssuedKey | Secret | str) -> str:
    """The text of a key."""
    if isinstance(key, IssuedKey):
        assert key.secret is not None
        return key.secret.reveal()
    return key.reveal() if isinstance(key, Secret) else key


def identity_of(decision: Decision) -> Identity:
    """Who it was: fails if the answer does not say."""
    assert decision.identity is not None
    return decision.identity


def _presented(credential: Credential, organization: str = "") -> dict[str, Any]:
    match credential:
        case SignedIn():
            return {"principal": f"{organization}/{credential.principal}"}
        case HttpRequest():
            return {"http": credential}
        case None:
            return {"key": None}
        case _:
            return {"key": text_of(credential)}
