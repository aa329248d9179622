"""What `decide` costs: the time of one decision, in microseconds, and by how many conditions make it longer.

In process, by CPU time, the least of several repeats. Every decision goes through 5 roles with 50 rules in all, of
which 10 are about the action that is asked about; `conditional` has 3 conditions among them, each of which is read.
Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
import timeit
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from doorward_server.core.decide import Question, decide  # noqa: E402
from doorward_server.core.directory import Organization, Principal, PrincipalKind  # noqa: E402
from doorward_server.core.facts import Facts  # noqa: E402
from doorward_server.core.keyspace import compile_keyspace  # noqa: E402
from doorward_server.core.policy import EVERYTHING  # noqa: E402
from doorward_server.core.subject import Held, Subject  # noqa: E402
from doorward_server.service.conditions import CelConditions  # noqa: E402

ROLES, RULES, TYPES = 5, 10, 5
CONDITIONS = (
    "resource.published && resource.by == principal.email",
    'organization.plan in ["pro", "max"] && principal.level >= 3',
    'context.time < timestamp("2030-01-01T00:00:00Z")',
)
NOW = 1_800_000_000_000_000
CALLS, REPEATS = 20_000, 7


def document(conditions: tuple[str, ...]) -> dict[str, Any]:
    """A keyspace; each of *conditions* stands on a rule of another role, and the rules before them match nothing."""
    roles = {}
    for role in range(ROLES):
        rules: list[dict[str, Any]] = [
            {"actions": [f"type{rule % TYPES}:read"], "resources": [f"type{rule % TYPES}/{role}-{rule}/*"]}
            for rule in range(RULES)
        ]
        if role < len(CONDITIONS):
            rules[0] = {"actions": ["type0:read"], "resources": ["type0/*"]}
            rules[0] |= {"condition": conditions[role]} if conditions else {}
        roles[f"role{role}"] = {"rules": rules}
    return {
        "keyspace": "bench",
        "prefix": "bench",
        "credentials": [{"header": "x-api-key"}],
        "types": {f"type{type}": ["read", "write"] for type in range(TYPES)},
        "attributes": {
            "organization": {"plan": "string"},
            "principal": {"level": "int"},
            "resource": {"type0": {"published": "bool", "by": "string"}},
        },
        "roles": roles,
    }


def microseconds(conditions: tuple[str, ...]) -> float:
    """Measure one decision, an ALLOW."""
    keyspace = compile_keyspace(document(conditions), conditions=CelConditions)
    organization = Organization("acme", "Acme", {"plan": "pro"}, True, 0, 0)
    alice = Principal("acme", "alice", PrincipalKind.USER, "Alice", "alice@acme.example", {"level": 4}, True, 0, 0)
    held = tuple(Held(role, (EVERYTHING,), None, None, name) for name, role in keyspace.roles.items())
    subject = Subject(organization, alice, None, None, (), None, held)
    facts = Facts(attributes={"published": True, "by": "alice@acme.example"})
    question = Question("type0:read", ("type0", "a"), "acme", "live", None, facts)
    if not decide(subject, question, keyspace, NOW).allowed:
        raise SystemExit("the decision that is measured is no ALLOW")
    timer = timeit.Timer(lambda: decide(subject, question, keyspace, NOW), timer=time.process_time)
    return min(timer.repeat(REPEATS, CALLS)) / CALLS * 1e6


def main() -> None:
    """Measure and print."""
    plain, conditional = microseconds(()), microseconds(CONDITIONS)
    found = {
        "decide_5_roles_50_rules_us": plain,
        "decide_5_roles_50_rules_3_conditions_us": conditional,
        "decide_3_conditions_per_none": conditional / plain,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
