"""The claim `roles` of JWT keys: what it tells, and that it never makes a text too long to be one."""

from __future__ import annotations

from typing import Any

import jwt

from doorward.v1 import directory_pb2, keys_pb2
from tests.service.door import Door

NAMES = [f"role-{n:02}-{'x' * 100}" for n in range(60)]
FILE = """
keyspace: tokens
format: jwt
credentials: [{header: x-api-key}]
inherit: true
ceilings: [owner, list]
types: {things: [read]}
roles:
"""
RULES = "  {name}: {{rules: [{{actions: ['things:read']}}]}}\n"


def claims(text: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(text, options={"verify_signature": False})
    return found


def tokens(door: Door, *roles: str) -> None:
    door.apply(FILE + "".join(RULES.format(name=name) for name in roles))


def give(door: Door, organization: str, principal: str, *roles: str) -> None:
    for role in roles:
        binding = directory_pb2.Binding(organization=organization, principal=principal, keyspace="tokens", role=role)
        door.run(door.directory.CreateBinding(directory_pb2.CreateBindingRequest(binding=binding), door.caller()))


def test_a_key_tells_its_own_roles_or_its_owners(door: Door) -> None:
    tokens(door, "a", "b", "c")
    acme = door.organization("acme", "alice")
    give(door, acme, "alice", "b", "a")
    inheriting = door.create(acme, "tokens", owner="alice", scopes=[])
    assert inheriting.key.ceiling == keys_pb2.CEILING_OWNER
    assert claims(inheriting.secret)["roles"] == ["a", "b"]
    assert claims(door.create(acme, "tokens", owner="alice", scopes=["c"]).secret)["roles"] == ["c"]
    give(door, acme, "alice", "c")
    rotated = door.run(
        door.keys.RotateKey(keys_pb2.RotateKeyRequest(organization=acme, id=inheriting.key.id), door.caller())
    )
    assert claims(rotated.secret)["roles"] == ["a", "b", "c"]


def test_many_roles_do_not_make_a_text_that_is_refused(door: Door) -> None:
    tokens(door, *NAMES)
    acme = door.organization("acme", "alice")
    give(door, acme, "alice", *NAMES)
    for made in (door.create(acme, "tokens", owner="alice", scopes=[]), door.create(acme, "tokens", scopes=NAMES)):
        told = claims(made.secret)["roles"]
        assert told
        assert told == NAMES[: len(told)]
        assert door.verdict("tokens", made.secret) == "ALLOWED"
