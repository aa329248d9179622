"""Worlds to decide in: generated from dice, as plain data for the oracle; `translated` makes them the product's.

Alphabets are small so that things collide, instants lie within a microsecond of now so that boundaries are hit, and
most worlds are in good standing so that the questions get past step 5. The dice are a `random.Random`: a seeded one,
or hypothesis' own (`st.randoms`), which then also shrinks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

World = dict[str, Any]
Question = dict[str, Any]

NOW = 1_700_000_000_000_000
INSTANTS = (NOW - 1, NOW, NOW + 1)
ORGANIZATIONS = ("acme", "blue", "root")
TYPES = {"flows": ["read", "write", "run"], "users": ["read", "write", "run"], "teams": ["read", "write"]}
ACTIONS = tuple(f"{type}:{verb}" for type, verbs in TYPES.items() for verb in verbs)
WILD_ACTIONS = ("*:read", "flows:*", "*:*", "users:*", "*:run")
RELATIONS = ("assigned", "owner")
ASKED_RELATIONS = (*RELATIONS, "parent.assigned", "parent.owner")
PARENTS = {"flows": ["teams"], "teams": ["users", "flows"], "users": ["teams"]}
GROUPS = ("staff", "guild", "guests")
PRINCIPALS = ("alice", "bob")
DECLARED = {
    "organization": {"plan": "string"},
    "principal": {"level": "int"},
    "key": {"tier": "string"},
    "resource": {"flows": {"published": "bool", "by": "string"}, "users": {"published": "bool"}},
    "context": {"mfa": "bool"},
}
CONDITIONS = (
    "resource.published",
    "!resource.published",
    "parent.published",
    "resource.by == principal.id",
    "resource.by == principal.email",
    'organization.plan == "pro"',
    "principal.level > 2",
    'key.tier == "gold" || context.mfa',
    'in_network(context.client_ip, "10.0.0.0/8")',
    'context.time < timestamp("2023-11-14T22:13:20Z")',
    '"guild" in principal.groups',
    'resource.type == "flows" && resource.id != "a"',
    'parent.type == "users"',
    "principal.level / (principal.level - 3) > 0",
)
"""What conditions can say here; the oracle evaluates each by itself. NOW is the instant that one of them names."""
BROKEN = 'resource.gone == "x"'
"""On bindings only: once it compiled, until the keyspace changed."""
ENVIRONMENTS = ("live", "test")
ROLES = ("reader", "write", "admin:sync", "read:users", "all", "deny")
CIDRS = (
    "10.0.0.0/8",
    "10.1.2.0/23",
    "10.1.2.3/32",
    "192.168.0.128/25",
    "0.0.0.0/0",
    "2001:db8::/32",
    "::1/128",
    "fe80::/10",
    "::/0",
)
ADDRESSES = (
    "10.1.2.3",
    "10.1.3.255",
    "10.1.4.0",
    "9.255.255.255",
    "11.0.0.0",
    "192.168.0.127",
    "192.168.0.255",
    "2001:db8::1",
    "2001:db9::",
    "::1",
    "febf::1",
    "::ffff:10.1.2.3",
)


PERCENT = int(os.environ.get("DOORWARD_EXAMPLES", "100"))
"""How many of the examples to run: the tests of planted bugs hurry, and need no smallest example."""


def scaled(count: int) -> int:
    """Return the part of *count* that is to be run."""
    return max(1, count * PERCENT // 100)


def examples(count: int, steps: int = 30) -> settings:
    """Return hypothesis settings: the same examples in every run, no clock, nothing written to disk."""
    return settings(
        max_examples=scaled(count),
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if PERCENT >= 100 else ())),
        suppress_health_check=list(HealthCheck),
    )


def assert_reached(counts: Mapping[str, int], kinds: Iterable[str], times: int) -> None:
    """Assert that each of *kinds* came up so often: a generator must not quietly degenerate. Not asked in a hurry."""
    rare = {kind: counts.get(kind, 0) for kind in kinds if counts.get(kind, 0) < times}
    assert not rare or PERCENT < 100, rare


def dice() -> st.SearchStrategy[Random]:
    """Return the dice that hypothesis throws, and shrinks."""
    return st.randoms(use_true_random=False)


def sometimes(dice: Random, sides: int) -> bool:
    """One time in *sides*; the highest side, because hypothesis shrinks towards the lowest."""
    return dice.randrange(sides) == sides - 1


def some(dice: Random, values: Sequence[str], most: int) -> list[str]:
    """Return up to *most* of *values*, repetitions and all."""
    return [dice.choice(values) for _ in range(dice.randrange(most + 1))]


def near(dice: Random, sides: int) -> int | None:
    """One time in *sides* an instant next to now, else none."""
    return dice.choice(INSTANTS) if sometimes(dice, sides) else None


def pattern(dice: Random, first: Sequence[str] = (*TYPES, "*")) -> str:
    """Return a resource pattern of up to three segments."""
    return "/".join([dice.choice(first), *some(dice, ("a", "b", "*", "*"), 2)])


def patterns(dice: Random) -> list[str]:
    """Return one or two patterns, often the one for everything."""
    return ["*"] if dice.randrange(2) == 0 else [pattern(dice) for _ in range(1 + dice.randrange(2))]


def rule(dice: Random) -> dict[str, Any]:
    """Return a rule of a keyspace document."""
    return {
        "actions": [dice.choice((*ACTIONS, *WILD_ACTIONS)) for _ in range(1 + dice.randrange(2))],
        "resources": patterns(dice),
        "effect": "DENY" if sometimes(dice, 6) else "ALLOW",
        "relation": dice.choice(ASKED_RELATIONS) if sometimes(dice, 3) else "",
        "condition": dice.choice(CONDITIONS) if sometimes(dice, 4) else "",
    }


def document(dice: Random) -> dict[str, Any]:
    """Return a keyspace document; a role includes only those named before it."""
    inherit = dice.randrange(2) == 1
    return {
        "keyspace": "ks",
        "prefix": "ks",
        "environments": list(ENVIRONMENTS),
        "credentials": [{"header": "Authorization", "scheme": "Bearer"}],
        "inherit": inherit,
        "ceilings": ["list", "owner"] if inherit else ["list"],
        "types": {type: list(verbs) for type, verbs in TYPES.items()},
        "authenticated": ["teams:write"] if sometimes(dice, 3) else [],
        "attributes": DECLARED,
        "relations": {type: list(RELATIONS) for type in TYPES},
        "parents": PARENTS,
        "roles": {
            name: {
                "includes": some(dice, ROLES[:i], 2) if i else [],
                "rules": [rule(dice) for _ in range(dice.randrange(3))],
            }
            for i, name in enumerate(ROLES)
        },
    }


def binding(dice: Random, id: str = "") -> dict[str, Any]:
    """Return a binding of somebody, or of a key's own list (those have no id)."""
    return {
        "id": id,
        "keyspace": "other" if id and sometimes(dice, 8) else "ks",
        "group": dice.randrange(2) == 1,
        "role": "gone" if sometimes(dice, 10) else dice.choice(ROLES),
        "resources": patterns(dice),
        "not_before": near(dice, 6),
        "expires_at": near(dice, 6),
        "condition": dice.choice((*CONDITIONS, BROKEN)) if sometimes(dice, 3) else "",
    }


def key(dice: Random, trouble: int) -> dict[str, Any]:
    """Return a key; *trouble* is which of its states is bad, if it is 1 to 5."""
    return {
        "revoked_at": NOW - 1 if trouble == 1 and dice.randrange(2) else None,
        "deleted_at": NOW - 1 if trouble == 1 and dice.randrange(2) else None,
        "expires_at": dice.choice(INSTANTS) if trouble == 2 else near(dice, 20),
        "enabled": trouble != 3,
        "not_before": dice.choice(INSTANTS) if trouble == 4 else near(dice, 20),
        "secret_expires_at": dice.choice(INSTANTS) if trouble == 5 else near(dice, 20),
        "environment": dice.choice(ENVIRONMENTS),
        "allowed_cidrs": [dice.choice(CIDRS) for _ in range(1 + dice.randrange(2))] if sometimes(dice, 6) else [],
        "ceiling": "OWNER" if sometimes(dice, 3) else "LIST",
        "scopes": some(dice, (*ROLES, "gone"), 2),
        "bindings": [binding(dice) for _ in range(dice.randrange(3))],
        "metadata": {"tier": dice.choice(("gold", "tin"))} if dice.randrange(2) else {},
    }


def somebody(dice: Random, id: str, trouble: bool) -> dict[str, Any]:
    """Return an organization or a principal."""
    dead = dice.randrange(3) if trouble else 3
    attributes = {}
    if dice.randrange(2) and id == "alice":
        attributes = {"level": dice.choice((1, 3, 5, "high"))}
    elif dice.randrange(2) and id != "alice":
        attributes = {"plan": dice.choice(("pro", "free", True))}
    return {
        "id": id,
        "enabled": dead not in (0, 2),
        "deleted_at": NOW - 1 if dead in (1, 2) else None,
        "attributes": attributes,
        "email": dice.choice(("alice", "")) if id == "alice" else "",
    }


def generate(dice: Random) -> World:
    """Return a world: whose rights are asked about, by the rules of which keyspace."""
    troubles = [dice.randrange(1, 8) for _ in range(2)] if sometimes(dice, 4) else []
    with_key = not sometimes(dice, 8)
    with_owner = not with_key or not sometimes(dice, 3)
    made = key(dice, 0) if with_key else None
    for trouble in troubles:
        if made is not None and trouble <= 5:
            made |= {name: value for name, value in key(dice, trouble).items() if value != made[name]}
    return {
        "operator": dice.choice(ORGANIZATIONS) if sometimes(dice, 3) else "",
        "organization": somebody(dice, dice.choice(ORGANIZATIONS), 7 in troubles),
        "owner": somebody(dice, "alice", 6 in troubles) if with_owner else None,
        "groups": sorted({*some(dice, GROUPS, 2)}),
        "bindings": [binding(dice, f"b{i}") for i in range(dice.randrange(5))],
        "document": document(dice),
        "key": made,
    }


ALICE = {"id": "alice", "enabled": True, "deleted_at": None, "attributes": {}, "email": "alice"}
NOTHING_SENT: dict[str, Any] = {"attributes": {}, "parent": "", "relations": []}
NOTHING_STORED: dict[str, Any] = {"attributes": {}, "parent": "", "parent_attributes": {}, "relations": []}


def plain_question(action: str, resource: str) -> Question:
    """Return a question in the key's own place, about which nothing more is known."""
    return {
        "action": action,
        "resource": resource,
        "organization": None,
        "environment": "live",
        "client_ip": None,
        "time": None,
        "context": {},
        "sent": NOTHING_SENT,
        "stored": NOTHING_STORED,
    }


def plain_rule(actions: list[str], effect: str = "ALLOW") -> dict[str, Any]:
    """Return a rule about every resource, which asks for nothing."""
    return {"actions": actions, "resources": ["*"], "effect": effect, "relation": "", "condition": ""}


def ask(dice: Random, world: World) -> Question:
    """Return a question, mostly one that is in its place: the key's organization, environment and network."""
    action = "teams:run" if sometimes(dice, 30) else dice.choice(ACTIONS)
    own = world["organization"]
    environment = world["key"]["environment"] if world["key"] else "live"
    type = dice.choice(tuple(TYPES)) if sometimes(dice, 5) else action.split(":")[0]
    return {
        "action": action,
        "resource": "/".join([type, *some(dice, ("a", "b"), 2)]),
        "organization": dice.choice(ORGANIZATIONS) if sometimes(dice, 6) else dice.choice((None, own["id"])),
        "environment": dice.choice(ENVIRONMENTS) if sometimes(dice, 12) else environment,
        "client_ip": None if sometimes(dice, 6) else dice.choice(ADDRESSES),
        "time": near(dice, 3),
        "context": {"mfa": dice.choice((True, False, "yes"))} if dice.randrange(2) else {},
        "sent": sent(dice),
        "stored": stored(dice),
    }


def attributes(dice: Random) -> dict[str, Any]:
    """Return attributes of a resource, some of a wrong type."""
    made: dict[str, Any] = {}
    if dice.randrange(2):
        made["published"] = False if dice.randrange(2) else True if not sometimes(dice, 6) else "yes"
    if dice.randrange(2):
        made["by"] = dice.choice(("alice", "bob", ""))
    return made


def sent(dice: Random) -> dict[str, Any]:
    """Return what comes with a question about its resource."""
    return {
        "attributes": attributes(dice),
        "parent": dice.choice(("users/a", "teams/a", "teams/b")) if dice.randrange(2) else "",
        "relations": [
            {
                "relation": dice.choice(RELATIONS),
                "resource": dice.choice(("", "", "flows/a", "users/a", "teams/a", "teams/b")),
                "kind": (kind := dice.choice(("", "PRINCIPAL", "GROUP"))),
                "subject": "" if not kind else dice.choice(PRINCIPALS if kind == "PRINCIPAL" else GROUPS),
            }
            for _ in range(dice.randrange(3))
        ],
    }


def stored(dice: Random) -> dict[str, Any]:
    """Return what is stored about the resource and its parent: the relations are those of whoever is asked about."""
    return {
        "attributes": attributes(dice),
        "parent": dice.choice(("users/a", "teams/a")) if sometimes(dice, 4) else "",
        "parent_attributes": attributes(dice),
        "relations": [[dice.choice(("resource", "parent")), dice.choice(RELATIONS)] for _ in range(dice.randrange(3))],
    }
