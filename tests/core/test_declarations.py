"""What a keyspace declares: attributes, relations, parents, and what its rules may ask of them."""

from __future__ import annotations

from typing import Any

import pytest

from doorward_server.core.declarations import AttributeType, compile_declared
from doorward_server.core.directory import Attribute
from doorward_server.core.errors import InvalidField, KeyspaceInvalid
from doorward_server.core.keyspace import compile_keyspace
from doorward_server.core.policy import Keyspace
from doorward_server.service.conditions import CelConditions

TYPES: dict[str, list[str]] = {"assessments": ["read"], "vulnerabilities": ["read"], "templates": ["read"]}


def compiled(rule: dict[str, Any] | None = None, **parts: Any) -> Keyspace:
    """Compile a keyspace with one rule."""
    document: dict[str, Any] = {
        "keyspace": "ks",
        "prefix": "ks",
        "credentials": [{"header": "X-Key"}],
        "types": TYPES,
        "relations": {"assessments": ["assigned", "contact"], "vulnerabilities": ["assigned"]},
        "parents": {"vulnerabilities": "assessments"},
        "attributes": {"resource": {"vulnerabilities": {"open": "bool"}}},
    }
    if rule is not None:
        document["roles"] = {"r": {"rules": [{"actions": ["*:read"]} | rule]}}
    return compile_keyspace(document | parts, conditions=CelConditions)


@pytest.mark.parametrize(
    ("part", "declared", "field", "rule"),
    [
        ("attributes", {"resource": {"gone": {}}}, "resource.gone", "there is no type 'gone'"),
        ("attributes", {"context": {"a-b": "bool"}}, "context.a-b", "'a-b' must be of the form"),
        ("attributes", {"context": {"in": "bool"}}, "context.in", "'in' is a word of CEL"),
        ("attributes", {"context": {"time": "int"}}, "context.time", "every context has it already"),
        ("attributes", {"principal": {"email": "int"}}, "principal.email", "every principal has it already"),
        ("attributes", {"context": {"a": "text"}}, "context.a", "'text' must be one of string, int, float"),
        ("attributes", {"key": {"tier": "int"}}, "key.tier", "must be string or timestamp"),
        (
            "attributes",
            {"resource": {"assessments": {"x": "int"}, "templates": {"x": "bool"}}},
            "resource.templates.x",
            "is int of 'assessments': one name has one type",
        ),
        ("relations", {"gone": ["a"]}, "gone", "there is no type 'gone'"),
        ("relations", {"templates": ["a.b"]}, "templates[0]", "'a.b' must be of the form"),
        ("relations", {"templates": ["a", "a"]}, "templates[1]", "'a' stands here twice"),
        ("parents", {"gone": "templates"}, "gone", "there is no type 'gone'"),
        ("parents", {"templates": "gone"}, "templates", "there is no type 'gone'"),
        ("parents", {"templates": ["assessments", "gone"]}, "templates[1]", "there is no type 'gone'"),
    ],
)
def test_a_wrong_declaration_is_named(part: str, declared: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(KeyspaceInvalid) as refusal:
        compiled(**{part: declared})
    assert refusal.value.field == f"{part}.{field}"
    assert refusal.value.rule.startswith(rule)


@pytest.mark.parametrize(
    ("relation", "resources", "rule"),
    [
        ("owner", [], "can never hold: no relation 'owner' is declared for any type"),
        ("assigned", ["templates/*"], "can never hold: no relation 'assigned' is declared for 'templates'"),
        ("contact", ["assessments/*", "vulnerabilities/*"], "can never hold: no relation 'contact' is declared for 'v"),
        ("parent.owner", [], "can never hold: no relation 'owner' is declared for a parent of any type"),
        ("parent.assigned", ["assessments/*"], "can never hold: no relation 'assigned' is declared for a parent of '"),
        ("above.assigned", [], "'above.assigned' must be a relation, or parent. and a relation"),
        ("parent.parent.assigned", [], "'parent.parent.assigned' must be a relation, or parent. and a relation"),
    ],
)
def test_a_relation_that_can_never_hold_is_refused(relation: str, resources: list[str], rule: str) -> None:
    with pytest.raises(KeyspaceInvalid) as refusal:
        compiled({"relation": relation, "resources": resources})
    assert refusal.value.field == "roles.r.rules[0].relation"
    assert refusal.value.rule.startswith(rule)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("assigned", "assigned"),
        ("parent.contact", "parent.contact"),
        ({"name": "contact", "on": "parent"}, "parent.contact"),
        ({"name": "contact", "on": "resource"}, "contact"),
        ({"name": "contact"}, "contact"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_relation_is_asked_of_the_resource_or_its_parent(given: object, wanted: str) -> None:
    (rule,) = compiled({"relation": given}).roles["r"].rules["vulnerabilities:read"]
    assert rule.relation == wanted


def test_a_condition_is_checked_where_it_stands() -> None:
    with pytest.raises(KeyspaceInvalid) as refusal:
        compiled({"condition": "resource.opn"})
    assert refusal.value.field == "roles.r.rules[0].condition"
    assert "undeclared reference to 'resource.opn'" in refusal.value.rule


def test_without_anything_that_evaluates_them_there_are_no_conditions() -> None:
    document = {"keyspace": "ks", "prefix": "ks", "credentials": [{"header": "X-Key"}], "types": TYPES}
    rules = {"r": {"rules": [{"actions": ["*:read"], "condition": "true"}]}}
    with pytest.raises(KeyspaceInvalid, match="conditions cannot be used here"):
        compile_keyspace(document | {"roles": rules})


@pytest.mark.parametrize(
    ("rule", "stored"),
    [
        ({}, False),
        ({"condition": "resource.id == 'a'"}, False),
        ({"condition": "principal.email == 'a'"}, False),
        ({"relation": "assigned"}, True),
        ({"relation": "parent.assigned"}, True),
        ({"condition": "resource.open"}, True),
        ({"condition": "parent.open"}, True),
        ({"condition": "parent.id == 'a'"}, True),
    ],
)
def test_what_needs_what_is_stored_is_known_before(rule: dict[str, str], stored: bool) -> None:
    assert ("vulnerabilities:read" in compiled(rule).roles["r"].stored) is stored


def test_a_bindings_condition_that_no_longer_compiles_is_kept_as_broken() -> None:
    keyspace = compiled()
    condition = keyspace.condition("resource.gone")
    assert condition is not None
    assert condition.text == "resource.gone"
    assert keyspace.condition("") is None


@pytest.mark.parametrize(
    ("type", "name", "value", "rule"),
    [
        ("assessments", "shut", True, "is not declared for 'assessments' in the keyspace; declared: open, year"),
        ("templates", "open", True, "is not declared for 'templates' in the keyspace"),
        ("assessments", "open", "yes", "must be of the type bool, as the keyspace declares it"),
        ("assessments", "year", True, "must be of the type int, as the keyspace declares it"),
    ],
)
def test_what_is_told_of_resources_must_be_declared(type: str, name: str, value: Attribute, rule: str) -> None:
    declared = compile_declared({"resource": {"assessments": {"open": "bool", "year": "int"}}}, TYPES)
    declared.check_resource("resource.attributes", "assessments", {"open": True, "year": 2027})
    with pytest.raises(InvalidField) as refusal:
        declared.check_resource("resource.attributes", type, {name: value})
    assert refusal.value.message == f"resource.attributes[{name}]: {rule}."


def test_what_is_told_of_the_context_must_be_declared() -> None:
    declared = compile_declared({"context": {"mfa": "bool"}}, TYPES)
    declared.check_context("context.attributes", {"mfa": False})
    with pytest.raises(InvalidField, match="is not declared for the context in the keyspace; declared: mfa"):
        declared.check_context("context.attributes", {"open": True})


def test_every_type_holds_its_own_values() -> None:
    values: dict[AttributeType, Attribute] = {
        AttributeType.STRING: "a",
        AttributeType.INT: 1,
        AttributeType.FLOAT: 0.5,
        AttributeType.BOOL: True,
        AttributeType.STRINGS: ("a",),
        AttributeType.TIMESTAMP: "2027-03-31T09:00:00Z",
    }
    held = {kind: {other for other, value in values.items() if kind.holds(value)} for kind in AttributeType}
    also = {AttributeType.FLOAT: {AttributeType.INT}, AttributeType.STRING: {AttributeType.TIMESTAMP}}
    assert held == {kind: {kind} | also.get(kind, set()) for kind in AttributeType}
