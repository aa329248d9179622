"""Values for the store's tests: plausible, short to ask for."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from doorward_server.core.alerts import Alert, AlertKind
from doorward_server.core.directory import (
    Attributes,
    Binding,
    Group,
    Organization,
    Principal,
    PrincipalKind,
    SubjectKind,
)
from doorward_server.core.model import Actor, Ceiling, Event, Key, KeyBinding, Quotas, Replay, Secret, StoredKeyspace
from doorward_server.core.verify import Verifier
from doorward_server.store import Store
from tests.fakes import SECOND

NOW = 1_800_000_000 * SECOND
QUOTAS = Quotas()
_numbers = itertools.count(1)


def event(organization: str = "acme", action: str = "tests:write", target: str = "x", **changes: Any) -> Event:
    made = Event(organization, NOW, Actor("acme", "key_root", "alice", "acme/bob"), action, "thing", target)
    return replace(made, **changes)


def organization(id: str = "acme", **changes: Any) -> Organization:
    made = Organization(id, "Acme Ltd", {"plan": "enterprise", "seats": 3, "tags": ("a", "b")}, True, NOW, NOW)
    return replace(made, **changes)


def principal(id: str = "alice", organization: str = "acme", **changes: Any) -> Principal:
    attributes: Attributes = {"level": 1.0, "count": 1, "admin": False, "teams": ("x", "y")}
    made = Principal(
        organization, id, PrincipalKind.USER, "Alice Ä 🚪", "alice@acme.example", attributes, True, NOW, NOW
    )
    return replace(made, **changes)


def group(id: str = "staff", organization: str = "acme", **changes: Any) -> Group:
    return replace(Group(organization, id, "Staff", NOW, NOW), **changes)


def binding(id: str, subject: str = "alice", organization: str = "acme", **changes: Any) -> Binding:
    made = Binding(
        organization, id, SubjectKind.PRINCIPAL, subject, "aiia", "reader", ("flows/*", "*"), None, NOW + 9, NOW, NOW
    )
    return replace(made, **changes)


def keyspace(name: str = "aiia", **changes: Any) -> StoredKeyspace:
    return replace(StoredKeyspace(name, f"name: {name}\n", NOW, NOW), **changes)


def secret(lookup: str = "", **changes: Any) -> Secret:
    number = next(_numbers)
    made = Secret(
        f"sec_{number}", lookup or f"look{number:06}", Verifier("hmac-sha256", 1, bytes(range(32))), "9xQz", NOW
    )
    return replace(made, **changes)


def key(id: str = "", organization: str = "acme", **changes: Any) -> Key:
    made = Key(
        organization=organization,
        id=id or f"key_{next(_numbers):06}",
        keyspace="aiia",
        owner=None,
        name="ServiceNow",
        description="for tickets",
        environment="live",
        type="production",
        enabled=True,
        ceiling=Ceiling.LIST,
        scopes=("read:findings", "write"),
        bindings=(KeyBinding("runner", ("flows/abc", "flows/*"), NOW - 5, None),),
        allowed_cidrs=("10.0.0.0/8",),
        metadata={"team": "ops", "ärger": "🚪"},
        not_before=None,
        expires_at=None,
        created_at=NOW,
        updated_at=NOW,
        secrets=(secret(),),
    )
    return replace(made, **changes)


def alert(organization: str = "acme", topic: str = "", **changes: Any) -> Alert:
    made = Alert(
        organization=organization,
        keyspace="aiia",
        rule="leak",
        kind=AlertKind.LEAKED,
        subject="key_1",
        key="key_1",
        at=NOW,
        message="The text of the key 'key_1' was found.",
        topic=topic or f"topic{next(_numbers)}",
        quiet=0,
    )
    return replace(made, **changes)


def replay(request_id: str = "r1", digest: bytes = b"d" * 32, at: int = NOW, method: str = "CreateKey") -> Replay:
    return Replay("acme/key_root", method, request_id, digest, at)


def add_keyspace(store: Store, name: str = "aiia") -> None:
    store.apply_keyspace(name, lambda _: (keyspace(name), event(target=name)))


def populate(store: Store, *organizations: str) -> None:
    """The keyspace aiia, and organizations (acme) with the principals alice and bob and the group staff."""
    for id in organizations or ("acme",):
        store.add_organization(organization(id), event(id))
        for name in ("alice", "bob"):
            store.add_principal(principal(name, id), event(id))
        store.add_group(group("staff", id), event(id))
    add_keyspace(store)


def add_key(store: Store, **changes: Any) -> Key:
    made = key(**changes)
    return store.add_key(made, event(made.organization, "keys:create", made.id), QUOTAS).value


def the_key(store: Store, id: str, organization: str = "acme") -> Key:
    found = store.find_key(organization, id)
    assert found is not None, id
    return found
