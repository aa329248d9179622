"""The decision once more, as dull as can be: design.md sections 2 and 4, steps 5 to 9, read out loud.

It shares no code with the product. A world is plain dictionaries, lists, strings and numbers, as `worlds.generate`
makes them; roles are read from the keyspace document itself, every time, as slowly as it takes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

World = dict[str, Any]
Question = dict[str, Any]
Answer = dict[str, Any]


def decide(world: World, question: Question, now: int) -> Answer:
    """Return {"reason", "missing", "lacked", "rules"}.

    Rules are all (role, index, binding, lacked) that may be named as deciding; what conditions lacked goes with the
    rule that denies for it, else with the answer.
    """
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
        return {"reason": "ALLOWED", "missing": [], "lacked": [], "rules": []}

    # Step 8: the ceiling.
    answer = None
    if key is not None and key["ceiling"] == "LIST":
        held = []
        for scope in key["scopes"]:
            always = {"not_before": None, "expires_at": None, "condition": ""}
            held.append({"id": "", "role": scope, "resources": ["*"], **always})
        for binding in key["bindings"]:
            held.append({**binding, "id": ""})
        answer = judge(held, world, question, now, "SCOPE_INSUFFICIENT")
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
        answer = judge(held, world, question, now, "OWNER_PERMISSION_INSUFFICIENT")
    assert answer is not None
    return answer


def deny(reason: str) -> Answer:
    """Return a denial that misses no permission and names no rule."""
    return {"reason": reason, "missing": [], "lacked": [], "rules": []}


def judge(held: list[Any], world: World, question: Question, now: int, lacking: str) -> Answer:
    """Deny beats allow; the default is deny."""
    document = world["document"]
    told = what_is_told(world, question, now)
    relations = relations_held(world, question)
    allowing: list[Any] = []
    denying: list[Any] = []
    lacked: list[str] = []
    nearest = 0
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
                related = rule["relation"] == "" or rule["relation"] in relations
                one = weigh(binding["condition"], told)
                other = weigh(rule["condition"], told)
                names = sorted(set(one["lacked"] + other["lacked"]))
                false = one["is"] == "false" or other["is"] == "false"
                true = one["is"] == "true" and other["is"] == "true"
                if rule["effect"] == "DENY":
                    if on_resource and related and not false:
                        denying.append((role, index, binding["id"], names))
                elif not on_resource:
                    nearest = max(nearest, 1)
                elif not related:
                    nearest = max(nearest, 2)
                elif true:
                    allowing.append((role, index, binding["id"], []))
                elif false or names == []:
                    nearest = max(nearest, 3)
                else:
                    nearest = max(nearest, 4)
                    lacked = sorted(set(lacked + names))
    if len(denying) > 0:
        return {"reason": "DENIED_BY_RULE", "missing": [], "lacked": [], "rules": denying}
    if len(allowing) > 0:
        return {"reason": "ALLOWED", "missing": [], "lacked": [], "rules": allowing}
    if nearest == 4:
        return {"reason": "CONTEXT_MISSING", "missing": [], "lacked": lacked, "rules": []}
    if nearest == 3:
        return deny("CONDITION_FALSE")
    if nearest == 2:
        return deny("RELATION_MISSING")
    if nearest == 1:
        return deny("RESOURCE_NOT_GRANTED")
    return {"reason": lacking, "missing": [question["action"]], "lacked": [], "rules": []}


def parent_of(question: Question) -> str:
    """The stored parent, else the sent one, else none."""
    if question["stored"]["parent"] != "":
        return str(question["stored"]["parent"])
    return str(question["sent"]["parent"])


def relations_held(world: World, question: Question) -> list[str]:
    """What whoever is asked about has: to the resource, or, with `parent.` before it, to its parent."""
    parent = parent_of(question)
    found = []
    for on, word in question["stored"]["relations"]:
        if on == "resource":
            found.append(word)
        elif parent != "":
            found.append("parent." + word)
    for one in question["sent"]["relations"]:
        if one["kind"] == "PRINCIPAL" and (world["owner"] is None or one["subject"] != world["owner"]["id"]):
            continue
        if one["kind"] == "GROUP" and (world["owner"] is None or one["subject"] not in world["groups"]):
            continue
        if one["resource"] == "" or one["resource"] == question["resource"]:
            found.append(one["relation"])
        elif one["resource"] == parent:
            found.append("parent." + one["relation"])
    return found


def what_is_told(world: World, question: Question, now: int) -> dict[str, Any]:
    """All that conditions may read, of the declared type; what is not in here nobody told."""
    told: dict[str, Any] = {}
    stored, sent, parent = question["stored"], question["sent"], parent_of(question)
    resource = dict(sent["attributes"])
    for name in stored["attributes"]:
        resource[name] = stored["attributes"][name]
    above = stored["parent_attributes"] if parent != "" else {}
    for whose, attributes in (("resource", resource), ("parent", above)):
        if "published" in attributes and attributes["published"] in (True, False):
            told[whose + ".published"] = attributes["published"]
        if "by" in attributes:
            told[whose + ".by"] = attributes["by"]
    told["resource.type"] = question["resource"].split("/")[0]
    if "/" in question["resource"]:
        told["resource.id"] = question["resource"].split("/", 1)[1]
    if parent != "":
        told["parent.type"] = parent.split("/")[0]
    if world["organization"]["attributes"].get("plan") in ("pro", "free"):
        told["organization.plan"] = world["organization"]["attributes"]["plan"]
    if world["owner"] is not None:
        told["principal.id"] = world["owner"]["id"]
        told["principal.groups"] = world["groups"]
        if world["owner"]["email"] != "":
            told["principal.email"] = world["owner"]["email"]
        if world["owner"]["attributes"].get("level") in (1, 3, 5):
            told["principal.level"] = world["owner"]["attributes"]["level"]
    if world["key"] is not None and "tier" in world["key"]["metadata"]:
        told["key.tier"] = world["key"]["metadata"]["tier"]
    if question["context"].get("mfa") in (True, False):
        told["context.mfa"] = question["context"]["mfa"]
    if question["client_ip"] is not None:
        told["context.client_ip"] = question["client_ip"]
    told["context.time"] = now if question["time"] is None else question["time"]
    return told


def weigh(text: str, told: dict[str, Any]) -> dict[str, Any]:
    """Evaluate one of the conditions that worlds have, each by hand."""
    if text == "":
        return {"is": "true", "lacked": []}
    if text == 'resource.gone == "x"':
        return {"is": "unknown", "lacked": []}
    if text == 'key.tier == "gold" || context.mfa':
        if told.get("key.tier") == "gold" or told.get("context.mfa") is True:
            return {"is": "true", "lacked": []}
        return needing(["key.tier", "context.mfa"], told, lambda: False)
    if text == 'resource.type == "flows" && resource.id != "a"':
        if told["resource.type"] != "flows":
            return {"is": "false", "lacked": []}
        return needing(["resource.id"], told, lambda: told["resource.id"] != "a")
    if text == "principal.level / (principal.level - 3) > 0":
        if told.get("principal.level") == 3:
            return {"is": "unknown", "lacked": []}
        return needing(["principal.level"], told, lambda: told["principal.level"] == 5)
    if text == 'in_network(context.client_ip, "10.0.0.0/8")':
        plain = str(told.get("context.client_ip", "")).removeprefix("::ffff:")
        return needing(["context.client_ip"], told, lambda: address_in(plain, "10.0.0.0/8"))
    if text == 'context.time < timestamp("2023-11-14T22:13:20Z")':
        return needing(["context.time"], told, lambda: told["context.time"] < 1_700_000_000_000_000)
    simple = {
        "resource.published": (["resource.published"], lambda: told["resource.published"]),
        "!resource.published": (["resource.published"], lambda: not told["resource.published"]),
        "parent.published": (["parent.published"], lambda: told["parent.published"]),
        "resource.by == principal.id": (
            ["resource.by", "principal.id"],
            lambda: told["resource.by"] == told["principal.id"],
        ),
        "resource.by == principal.email": (
            ["resource.by", "principal.email"],
            lambda: told["resource.by"] == told["principal.email"],
        ),
        'organization.plan == "pro"': (["organization.plan"], lambda: told["organization.plan"] == "pro"),
        "principal.level > 2": (["principal.level"], lambda: told["principal.level"] > 2),
        '"guild" in principal.groups': (["principal.groups"], lambda: "guild" in told["principal.groups"]),
        'parent.type == "users"': (["parent.type"], lambda: told["parent.type"] == "users"),
    }
    names, holds = simple[text]
    return needing(names, told, holds)


def needing(names: list[str], told: dict[str, Any], holds: Callable[[], bool]) -> dict[str, Any]:
    """Unknown if one of *names* is not told; else true or false."""
    lacked = [name for name in names if name not in told]
    if len(lacked) > 0:
        return {"is": "unknown", "lacked": sorted(lacked)}
    return {"is": "true" if holds() else "false", "lacked": []}


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
