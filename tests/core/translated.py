"""Generated worlds in the product's own terms."""

from __future__ import annotations

from functools import cache
from ipaddress import ip_address
from typing import Any

from doorward_server.core import decide as product
from doorward_server.core import facts as known
from doorward_server.core import subject as subjects
from doorward_server.core.declarations import Declared, compile_declared
from doorward_server.core.directory import Binding, Organization, Principal, PrincipalKind, SubjectKind
from doorward_server.core.keyspace import compile_keyspace
from doorward_server.core.model import Ceiling, Key, KeyBinding, Secret
from doorward_server.core.policy import Conditions, Keyspace, parse_path
from doorward_server.core.verify import Verifier
from doorward_server.service.conditions import CelConditions
from tests.core import worlds
from tests.core.worlds import Question, World


def compiled(world: World) -> Keyspace:
    """Compile the world's keyspace document, by the product."""
    return compile_keyspace(world["document"], operator=world["operator"], conditions=conditions)


@cache
def _compiler() -> CelConditions:
    return CelConditions(compile_declared(worlds.DECLARED, worlds.TYPES))


def conditions(declared: Declared) -> Conditions:
    """Return what compiles the conditions of every world: one, because all declare the same."""
    assert declared.variables() == compile_declared(worlds.DECLARED, worlds.TYPES).variables()
    return _compiler()


def subject(world: World, keyspace: Keyspace) -> subjects.Subject:
    """Compile whose rights the world asks about, by the product."""
    made = world["organization"]
    organization = Organization(made["id"], "", made["attributes"], made["enabled"], 0, 0, 1, made["deleted_at"])
    owner = _principal(world, world["owner"])
    bindings = [_binding(world, plain) for plain in world["bindings"]]
    if world["key"] is None:
        assert owner is not None
        return subjects.principal_subject(owner, organization, bindings, keyspace, world["groups"])
    secret = Secret("s1", "l1", Verifier("hmac-sha256", 1, b""), "1234", 0, world["key"]["secret_expires_at"])
    return subjects.key_subject(_key(world, secret), secret, organization, owner, bindings, keyspace, world["groups"])


def question(plain: Question, world: World) -> product.Question:
    """Parse a question, as the edge would, and put together what is known of its resource."""
    facts = known.combine(
        parse_path(plain["resource"]),
        _sent(plain["sent"]),
        plain["stored"]["attributes"],
        plain["stored"]["parent"],
        plain["stored"]["parent_attributes"],
        [(on, word) for on, word in plain["stored"]["relations"]],
        world["owner"]["id"] if world["owner"] else "",
        world["groups"] if world["owner"] else (),
    )
    return product.Question(
        action=plain["action"],
        path=parse_path(plain["resource"]),
        organization=plain["organization"],
        environment=plain["environment"],
        client_ip=None if plain["client_ip"] is None else ip_address(plain["client_ip"]),
        facts=facts,
        context=known.Context(plain["time"], plain["context"]),
    )


def _sent(plain: dict[str, Any]) -> known.Sent:
    relations = tuple(
        known.SentRelation(
            it["relation"],
            parse_path(it["resource"]) if it["resource"] else (),
            SubjectKind(it["kind"]) if it["kind"] else None,
            it["subject"],
        )
        for it in plain["relations"]
    )
    return known.Sent(plain["attributes"], parse_path(plain["parent"]) if plain["parent"] else (), relations)


def decide(world: World, plain: Question, now: int = worlds.NOW) -> product.Decision:
    """Decide one question in one world, by the product, from the document up."""
    keyspace = compiled(world)
    return product.decide(subject(world, keyspace), question(plain, world), keyspace, now)


def _principal(world: World, plain: dict[str, Any] | None) -> Principal | None:
    if plain is None:
        return None
    return Principal(
        organization=world["organization"]["id"],
        id=plain["id"],
        kind=PrincipalKind.USER,
        display_name="",
        email=plain["email"],
        attributes=plain["attributes"],
        enabled=plain["enabled"],
        created_at=0,
        updated_at=0,
        deleted_at=plain["deleted_at"],
    )


def _binding(world: World, plain: dict[str, Any]) -> Binding:
    return Binding(
        organization=world["organization"]["id"],
        id=plain["id"],
        subject_kind=SubjectKind.GROUP if plain["group"] else SubjectKind.PRINCIPAL,
        subject="staff" if plain["group"] else "alice",
        keyspace=plain["keyspace"],
        role=plain["role"],
        resources=tuple(plain["resources"]),
        not_before=plain["not_before"],
        expires_at=plain["expires_at"],
        created_at=0,
        updated_at=0,
        condition=plain["condition"],
    )


def _key(world: World, secret: Secret) -> Key:
    plain = world["key"]
    return Key(
        organization=world["organization"]["id"],
        id="k1",
        keyspace=world["document"]["keyspace"],
        owner=world["owner"]["id"] if world["owner"] else None,
        name="",
        description="",
        environment=plain["environment"],
        type="",
        enabled=plain["enabled"],
        ceiling=Ceiling(plain["ceiling"]),
        scopes=tuple(plain["scopes"]),
        bindings=tuple(
            KeyBinding(b["role"], tuple(b["resources"]), b["not_before"], b["expires_at"], b["condition"])
            for b in plain["bindings"]
        ),
        allowed_cidrs=tuple(plain["allowed_cidrs"]),
        metadata=plain["metadata"],
        not_before=plain["not_before"],
        expires_at=plain["expires_at"],
        created_at=0,
        updated_at=0,
        secrets=(secret,),
        revoked_at=plain["revoked_at"],
        deleted_at=plain["deleted_at"],
    )
