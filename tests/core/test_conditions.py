"""Conditions in CEL: what is refused when it is written, and what comes of the rest."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from doorward_server.core.declarations import compile_declared
from doorward_server.core.directory import Attribute
from doorward_server.core.policy import Unknown
from doorward_server.service.conditions import MAX_TEXT, CelConditions

DECLARED = compile_declared(
    {
        "organization": {"plan": "string"},
        "resource": {
            "flows": {"published": "bool", "size": "int", "share": "float", "tags": "strings", "due": "timestamp"}
        },
    },
    ["flows"],
)
CONDITIONS = CelConditions(DECLARED)
NOON = 1_700_049_600_000_000
"""2023-11-15T12:00:00Z, in microseconds."""


def outcome(text: str, **told: Attribute) -> bool | Unknown:
    """Evaluate *text*; `a__b=c` tells that `a.b` is c."""
    values = {name.replace("__", "."): value for name, value in told.items()}
    return CONDITIONS.compile(text).evaluate(values.get)


@pytest.mark.parametrize(
    "text",
    [
        "resource.tags.all(t, t == 'a')",
        "resource.tags.exists(t, t == 'a')",
        "resource.tags.exists_one(t, t == 'a')",
        "resource.tags.map(t, t + t).size() > 1",
        "resource.tags.filter(t, t == 'a').size() > 1",
        "true || [1, 2].all(n, n > 0)",
        "{'a': [1].map(n, n)}.size() == 1",
        "{[1].exists(n, n == 1): 1}.size() == 1",
        "(resource.published ? [1].exists(n, n > 0) : true)",
        "size([[1].exists(n, n > 0)]) == 1",
        "has(resource.published)",
        "!has(resource.published) || resource.published",
    ],
)
def test_what_costs_too_much_or_misleads_is_refused(text: str) -> None:
    """Wherever it stands, and by the syntax tree: a text that only looks like it is fine."""
    with pytest.raises(ValueError, match=r"^must not (go through lists|use has)"):
        CONDITIONS.compile(text)


def test_a_text_that_only_looks_like_a_macro_is_fine() -> None:
    assert outcome("'tags.all(t, has(t))' in resource.tags", resource__tags=("x",)) is False


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must be a CEL expression on one line"),
        ("  ", "must be a CEL expression on one line"),
        ("true\n&& true", "must be a CEL expression on one line"),
        ("true\x00", "must be a CEL expression on one line"),
        ("true || " * (MAX_TEXT // 8) + "true", "must have at most 1,000 characters"),
        ("(" * 200 + "true" + ")" * 200, "is not a condition: it cannot be read, or is nested too deep"),
        ("resource.published &&", "is not a condition: character 22: Syntax error: mismatched input '<EOF>'"),
        ("resource.publishd", "is not a condition: character 9: undeclared reference to 'resource.publishd'"),
        ("resource", "is not a condition: character 1: undeclared reference to 'resource'"),
        ("resource['published']", "is not a condition: character 1: undeclared reference to 'resource'"),
        ("organization.plan == 3", "is not a condition: character 19: found no matching overload for '_==_'"),
        ("resource.published == 'yes'", "is not a condition: character 20: found no matching overload"),
        ("organization.plan", "must be true or false, not of the type STRING"),
        ("dyn(resource.published)", "must be true or false, not of the type DYN"),
        ("1 + 1", "must be true or false, not of the type INT"),
        ("in_network(context.client_ip)", "is not a condition: character 11: undeclared reference to 'in_network'"),
        ("in_network(context.client_ip, '10.0.0.0/33')", "is not a condition: '10.0.0.0/33' is no network"),
        ("in_network('10.0.0.256', '10.0.0.0/8')", "is not a condition: '10.0.0.256' is no address"),
        ("open('x') == 0", "is not a condition: character 5: undeclared reference to 'open'"),
    ],
)
def test_a_mistake_is_told_when_it_is_written(text: str, rule: str) -> None:
    with pytest.raises(ValueError) as refusal:
        CONDITIONS.compile(text)
    assert str(refusal.value).startswith(rule)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "told", "wanted"),
    [
        ("resource.size >= 3 && resource.share < 0.5", {"resource__size": 3, "resource__share": 0.25}, True),
        ("resource.share == 2.0", {"resource__share": 2}, True),
        ("'a' in resource.tags", {"resource__tags": ("a", "b")}, True),
        ("organization.plan in ['pro', 'max']", {"organization__plan": "max"}, True),
        ("organization.plan.startsWith('pro')", {"organization__plan": "pro-2"}, True),
        ("context.time.getHours('Europe/Berlin') == 13", {"context__time": NOON}, True),
        ("context.time < resource.due", {"context__time": NOON, "resource__due": "2023-11-15T13:30:00+01:00"}, True),
        (
            "context.time - resource.due > duration('1h')",
            {"context__time": NOON, "resource__due": "2023-11-15T10:59:59Z"},
            True,
        ),
        ("in_network(context.client_ip, '10.0.0.0/8')", {"context__client_ip": "10.9.9.9"}, True),
        ("in_network(context.client_ip, '10.0.0.0/8')", {"context__client_ip": "::ffff:10.9.9.9"}, True),
        ("in_network(context.client_ip, '10.0.0.0/8')", {"context__client_ip": "2001:db8::1"}, False),
        ("in_network(context.client_ip, '2001:db8::/32')", {"context__client_ip": "2001:db8::1"}, True),
        ("true || resource.published", {}, True),
        ("false && resource.published", {}, False),
        ("resource.published ? true : resource.size > 1", {"resource__published": True}, True),
    ],
)
def test_what_holds(text: str, told: dict[str, Attribute], wanted: bool) -> None:
    assert outcome(text, **told) is wanted


def test_what_nobody_told_is_named() -> None:
    text = "resource.published && organization.plan == 'pro' && resource.size > 1"
    assert outcome(text, resource__size=2) == Unknown(("organization.plan", "resource.published"))
    assert outcome(text, resource__published=True, resource__size=2) == Unknown(("organization.plan",))
    assert outcome(text, resource__published=False) is False
    assert CONDITIONS.compile(text).reads == {"resource.published", "organization.plan", "resource.size"}


@pytest.mark.parametrize(
    "text",
    [
        "1 / (resource.size - 1) > 0",
        "resource.size + 9223372036854775807 > 0",
        "in_network(organization.plan, '10.0.0.0/8')",
        "in_network('10.0.0.1', organization.plan)",
        "organization.plan.matches('(')",
        "timestamp(organization.plan) > timestamp('2020-01-01T00:00:00Z')",
        "{'a': 1}[organization.plan] == 1",
        "dyn(organization.plan) < dyn(resource.size)",
    ],
)
def test_what_cannot_be_evaluated_is_broken(text: str) -> None:
    assert outcome(text, resource__size=1, organization__plan="x") == Unknown()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("resource.published", "yes", "resource.published"),
        ("resource.published", 1, "resource.published"),
        ("resource.size", 1.0, "resource.size == 1"),
        ("resource.size", True, "resource.size == 1"),
        ("resource.size", 2**63, "resource.size > 1"),
        ("resource.share", True, "resource.share == 1.0"),
        ("resource.tags", "a", "'a' in resource.tags"),
        ("resource.due", "tomorrow", "resource.due > context.time"),
        ("resource.due", "2023-11-15T12:00:00", "resource.due > context.time"),
        ("organization.plan", 3, "organization.plan == 'pro'"),
        ("organization.plan", ("pro",), "organization.plan == 'pro'"),
    ],
)
def test_a_value_of_another_type_was_not_told(name: str, value: Attribute, text: str) -> None:
    """It was stored before the attribute was declared, and is no more than noise."""
    told = {name: value, "context.time": NOON}
    assert CONDITIONS.compile(text).evaluate(told.get) == Unknown((name,))


def test_an_instant_is_only_the_time_of_the_question() -> None:
    """An integer that was kept before the attribute was declared is no instant of 1970; nor is there a year 300,000."""
    assert outcome("resource.due < context.time", resource__due=5, context__time=NOON) == Unknown(("resource.due",))
    assert outcome("resource.due < context.time", resource__due=2**62, context__time=NOON) == Unknown(("resource.due",))
    assert outcome("context.time > timestamp('2020-01-01T00:00:00Z')", context__time=2**62) == Unknown(
        ("context.time",)
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("organization.plan.matches(organization.id)", "must have a regular expression written out in matches()"),
        ("matches(organization.plan, organization.id)", "must have a regular expression written out in matches()"),
        ("organization.plan.matches('a' + 'b')", "must have a regular expression written out in matches()"),
        ("context.time.getHours(organization.plan) > 9", "must have a time zone written out in getHours()"),
        *(
            (f"organization.plan.matches(r'{regex}')", "must have regular expressions of at most 256 characters in all")
            for regex in (
                "a.{900}b", "((a{7}){7}){7}", "(?:[()\\]]{9}x){30}", "\\pL{3}", "\\p{Greek}{3}", "(a\\Q)\\E){2}",
                "[\\pL\\pN]{2}", "a{999999}",
            )
        ),
        (" || ".join(["organization.plan.matches('a{99}')"] * 3), "must have regular expressions of at most 256"),
    ],
)  # fmt: skip
def test_what_would_let_a_request_say_what_an_evaluation_costs_is_refused(text: str, rule: str) -> None:
    """Each of these took from 20 ms to 2 s of the event loop, for one evaluation on 8 KiB of attributes."""
    with pytest.raises(ValueError, match=f"^{re.escape(rule)}"):
        CONDITIONS.compile(text)


def test_a_modest_regular_expression_is_fine() -> None:
    text = r"organization.plan.matches(r'^(?:pro|max)-[0-9]{1,4}[[:alpha:])]\{?(x\)){2}$')"
    assert outcome(text, organization__plan="max-2026)x)x)") is True
    assert outcome(text, organization__plan="max-x") is False
    assert outcome("context.time.getHours() == 12", context__time=NOON) is True


def test_odd_texts_are_compared_as_they_are() -> None:
    for odd in ("é", "e\u0301", "\U0001f511", "a\x00b", "'", "\ud800"):
        assert outcome("organization.plan == 'pro'", organization__plan=odd) in (False, Unknown())


def test_threads_share_conditions() -> None:
    """Compiled and evaluated at once, by several threads: each gets its own answer."""
    conditions = CelConditions(DECLARED)

    def work(number: int) -> list[bool | Unknown]:
        found = []
        for size in range(200):
            condition = conditions.compile(f"resource.size == {number} && in_network(context.client_ip, '10.0.0.0/8')")
            told: dict[str, Attribute] = {"resource.size": size % 8, "context.client_ip": "10.0.0.1"}
            found.append(condition.evaluate(told.get))
        return found

    with ThreadPoolExecutor(4) as threads:
        for number, found in zip(range(8), threads.map(work, range(8)), strict=True):
            assert found == [size % 8 == number for size in range(200)]


def test_the_same_text_is_compiled_once() -> None:
    assert CONDITIONS.compile("resource.published") is CONDITIONS.compile("resource.published")
