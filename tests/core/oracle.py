"""The decision once more, as dull as can be: design.md sections 2 and 4, steps 5 to 9, read out loud.

It shares no code with the product. A world is plain dictionaries, lists, strings and numbers, as `worlds.generate`
makes them; roles are read from the keyspace document itself, every time, as slowly as it takes.
"""

from __future__ import annotations

import ipaddress
from typing import Any

World = dict[str, Any]
Question = dict[str, Any]
Answer = dict[str, Any]


def decide(world: World, question: Question, now: int) -> Answer:
    """Return {"reason", "missing", "rules"}; rules are all (role, index, binding) that may be named as deciding."""
    key = world["key"]
    owner = world["owner"]
    organization = world["organization"]
    document = world["document"]

    # Step 5: the state of key, secret, owner, organization.
    if key is not None:
        if key["revoked_at"] is not None or key["deleted_at"] is not None:
            return deny("KEY_REVOKED")
        if key["expires_at"] is not None and now >= key["expires_at"]:
            return deny("KEY_EXPIRED")
        if not key["enabled"]:
            return deny("KEY_DISABLED")
        if key["not_before"] is not None and now < key["not_before"]:
            return deny("KEY_NOT_YET_VALID")
        if key["secret_expires_at"] is not None and now >= key["secret_expires_at"]:
            return deny("SECRET_SUPERSEDED")
    if owner is not None and (not owner["enabled"] or owner["deleted_at"] is not None):
        return deny("OWNER_DISABLED")
    if not organization["enabled"] or organization["deleted_at"] is not None:
        return deny("ORGANIZATION_DISABLED")

    # Step 6: the resource's organization is the key's. Only keys of the operator organization cross, only in the
    # keyspace that has an operator.
    if question["organization"] is not None and question["organization"] != organization["id"]:
        if world["operator"] == "":
            return deny("ORGANIZATION_MISMATCH")
        if world["operator"] != organization["id"]:
            return deny("ORGANIZATION_MISMATCH")

    # Step 7: environment and network of the key.
    if key is not None:
        if question["environment"] != key["environment"]:
            return deny("ENVIRONMENT_MISMATCH")
        if len(key["allowed_cidrs"]) > 0:
            inside = False
            for cidr in key["allowed_cidrs"]:
                if address_in(question["client_ip"], cidr):
                    inside = True
            if not inside:
                return deny("NETWORK_NOT_ALLOWED")

    # Actions that are `authenticated` need only the steps so far.
    if question["action"] in document["authenticated"]:
        return {"reason": "ALLOWED", "missing": [], "rules": []}

    # Step 8: the ceiling.
    answer = None
    if key is not None and key["ceiling"] == "LIST":
        held = []
        for scope in key["scopes"]:
            held.append({"id": "", "role": scope, "resources": ["*"], "not_before": None, "expires_at": None})
        for binding in key["bindings"]:
            held.append({**binding, "id": ""})
        answer = judge(held, question, document, now, "SCOPE_INSUFFICIENT")
        if answer["reason"] != "ALLOWED":
            return answer

    # Step 9: the owner, as of now: its own bindings and those of its groups, in this keyspace.
    if key is None or key["ceiling"] == "OWNER":
        asked = True
    else:
        asked = document["inherit"] and owner is not None
    if asked:
        held = []
        if owner is not None:
            for binding in world["bindings"]:
                if binding["keyspace"] == document["keyspace"]:
                    held.append(binding)
        answer = judge(held, question, document, now, "OWNER_PERMISSION_INSUFFICIENT")
    assert answer is not None
    return answer


def deny(reason: str) -> Answer:
    """Return a denial that misses no permission and names no rule."""
    return {"reason": reason, "missing": [], "rules": []}


def judge(held: list[Any], question: Question, document: Any, now: int, lacking: str) -> Answer:
    """Deny beats allow; the default is deny."""
    allowing = []
    denying = []
    only_relation_missing = False
    only_resource_missing = False
    for binding in held:
        if binding["role"] not in document["roles"]:
            continue
        if binding["not_before"] is not None and now < binding["not_before"]:
            continue
        if binding["expires_at"] is not None and now >= binding["expires_at"]:
            continue
        for role in roles_within(document, binding["role"]):
            for index, rule in enumerate(document["roles"][role]["rules"]):
                if not rule_has_action(document, rule, question["action"]):
                    continue
                on_resource = fits_one(binding["resources"], question["resource"]) and fits_one(
                    rule["resources"], question["resource"]
                )
                relation = rule["relation"] == "" or rule["relation"] in question["relations"]
                named = (role, index, binding["id"])
                if rule["effect"] == "DENY":
                    if on_resource and relation:
                        denying.append(named)
                elif on_resource and relation:
                    allowing.append(named)
                elif on_resource:
                    only_relation_missing = True
                else:
                    only_resource_missing = True
    if len(denying) > 0:
        return {"reason": "DENIED_BY_RULE", "missing": [], "rules": denying}
    if len(allowing) > 0:
        return {"reason": "ALLOWED", "missing": [], "rules": allowing}
    if only_relation_missing:
        return deny("RELATION_MISSING")
    if only_resource_missing:
        return deny("RESOURCE_NOT_GRANTED")
    return {"reason": lacking, "missing": [question["action"]], "rules": []}


def roles_within(document: Any, name: str) -> list[str]:
    """Return *name* and all roles that it includes, each once."""
    found: list[str] = []
    waiting = [name]
    while len(waiting) > 0:
        role = waiting.pop()
        if role not in found:
            found.append(role)
            waiting.extend(document["roles"][role]["includes"])
    return found


def rule_has_action(document: Any, rule: Any, action: str) -> bool:
    """A `*` in a rule's action stands for the types or the verbs that the keyspace declares."""
    asked_type, asked_verb = action.split(":")
    if asked_type not in document["types"]:
        return False
    if asked_verb not in document["types"][asked_type]:
        return False
    for wanted in rule["actions"]:
        wanted_type, wanted_verb = wanted.split(":")
        if wanted_type != "*" and wanted_type != asked_type:
            continue
        if wanted_verb != "*" and wanted_verb != asked_verb:
            continue
        return True
    return False


def fits_one(patterns: list[str], resource: str) -> bool:
    """Whether one of *patterns* stands for *resource*."""
    return any(fits(pattern.split("/"), resource.split("/")) for pattern in patterns)


def fits(pattern: list[str], path: list[str]) -> bool:
    """A `*` is exactly one segment, a final `*` is one or more."""
    if len(pattern) == 0:
        return len(path) == 0
    if len(path) == 0:
        return False
    if pattern == ["*"]:
        return True
    if pattern[0] == "*" or pattern[0] == path[0]:
        return fits(pattern[1:], path[1:])
    return False


def address_in(address: str | None, cidr: str) -> bool:
    """Whether *address* has the first bits of *cidr*, of the same IP version. One that was not given is nowhere."""
    if address is None:
        return False
    start, length = cidr.split("/")
    mine, first = ipaddress.ip_address(address), ipaddress.ip_address(start)
    if mine.version != first.version:
        return False
    bits = 32 if mine.version == 4 else 128
    return bits_of(int(mine), bits)[: int(length)] == bits_of(int(first), bits)[: int(length)]


def bits_of(number: int, bits: int) -> str:
    """Return *number* in *bits* binary digits."""
    return bin(number)[2:].rjust(bits, "0")
