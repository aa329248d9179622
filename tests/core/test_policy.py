"""Patterns and paths: what is refused, what matches, and what covers what."""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest

from doorward_server.core.policy import EVERYTHING, Pattern, all_covered, any_matches, parse_path

LONGEST = 512
"""Bytes that a pattern or a path may have."""

NEVER = (
    "",
    "/",
    "//",
    "a//b",
    "/a",
    "a/",
    "flows/*/",
    "fl*ws/x",
    "flows/a*",
    "*flows",
    "**",
    "flows/**",
    "**/x",
    ".",
    "..",
    "flows/.",
    "flows/../users",
    "a b",
    " flows",
    "flows ",
    "flows/a\tb",
    "flows/a\n",
    "flows\n",
    "flows/\x00",
    "\x00",
    "flows/\x7f",
    "flows/\x1b[2J",
    "flows/\x85",
    "flows/\x9b31m",
    "flows/\ud800",
    "flows/" + "a" * (LONGEST - 5),
    "flows/" + "é" * (LONGEST // 2 - 2),
    "a" * 1_000_000,
    "/" * 1_000_000,
    "*/" * 1_000_000,
)

SEGMENTS = ("a", "b", "*")
PATTERNS = tuple("/".join(p) for size in (1, 2, 3) for p in itertools.product(SEGMENTS, repeat=size))
# One segment that no pattern names, and one more segment than any pattern has: what more could tell two apart?
PATHS = tuple(p for size in (1, 2, 3, 4, 5) for p in itertools.product("abc", repeat=size))


def as_regex(pattern: str) -> re.Pattern[str]:
    """Return the model: `*` is exactly one segment, a final `*` is one or more."""
    inner = [("[^/]+" if segment == "*" else re.escape(segment)) for segment in pattern.split("/")]
    if pattern.rsplit("/", maxsplit=1)[-1] == "*":
        inner[-1] = "[^/]+(?:/[^/]+)*"
    return re.compile("/".join(inner))


@cache
def matched(pattern: str) -> frozenset[tuple[str, ...]]:
    """Return the paths that *pattern* matches, by the product."""
    parsed = Pattern.parse(pattern)
    return frozenset(path for path in PATHS if parsed.matches(path))


@pytest.mark.parametrize("text", NEVER, ids=lambda text: repr(text[:20]))
def test_a_pattern_that_cannot_match_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|can never)"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", [*NEVER, "*", "flows/*", "*/a", "flows/*/a"], ids=lambda text: repr(text[:20]))
def test_a_path_that_is_not_one_resource_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must"):
        parse_path(text)


@pytest.mark.parametrize("control", [*range(0x21), *range(0x7F, 0xA0)], ids=hex)
def test_no_control_character_is_part_of_anything(control: int) -> None:
    for text in (f"flows/a{chr(control)}b", f"{chr(control)}flows", f"flows/x{chr(control)}"):
        with pytest.raises(ValueError):
            Pattern.parse(text)
        with pytest.raises(ValueError):
            parse_path(text)


@pytest.mark.parametrize("text", ["*", "flows/*", "*/a", "flows/a*"])
def test_a_star_in_a_request_is_told_what_it_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"must not have '\*': a request is about one resource"):
        parse_path(text)


@pytest.mark.parametrize("text", ["fl*ws/x", "flows/a*", "**", "*/**"])
def test_a_star_in_a_pattern_is_told_what_it_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"can never match: '\*' stands for a whole segment"):
        Pattern.parse(text)


def test_what_a_refusal_says_does_not_repeat_the_text() -> None:
    with pytest.raises(ValueError) as refusal:
        Pattern.parse("x" * 600)
    assert "xxx" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["flows", "flows/abc123", "a/b/c", "Ünï/çø∂é", "a.b", "...", "f:l@o+w-s/%2F", "*", "*/*/a"]
)
def test_what_could_match_is_taken(text: str) -> None:
    assert Pattern.parse(text).text == text


def test_the_longest_is_taken() -> None:
    longest = "a/" + "b" * (LONGEST - 2)
    assert Pattern.parse(longest).matches(parse_path(longest))


def test_every_path_that_is_taken_matches_itself_as_a_pattern() -> None:
    for path in PATHS:
        text = "/".join(path)
        assert parse_path(text) == path
        assert matched(text) == {path} if len(path) <= 3 else Pattern.parse(text).matches(path)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_matches_what_the_model_matches(pattern: str) -> None:
    model = as_regex(pattern)
    assert matched(pattern) == {path for path in PATHS if model.fullmatch("/".join(path))}


def test_covers_if_and_only_if_all_is_matched() -> None:
    """Sound and complete for single patterns: every pair of all patterns of up to three segments."""
    covering = 0
    for wide, narrow in itertools.product(PATTERNS, repeat=2):
        covers = Pattern.parse(wide).covers(Pattern.parse(narrow))
        assert covers is (matched(narrow) <= matched(wide)), (wide, narrow)
        covering += covers
    assert covering > len(PATTERNS)


def test_covers_is_an_order() -> None:
    parsed = [Pattern.parse(text) for text in PATTERNS]
    for one in parsed:
        assert one.covers(one)
        assert EVERYTHING.covers(one)
    for one, two in itertools.combinations(parsed, 2):
        assert not (one.covers(two) and two.covers(one)), (one, two)
    for one, two, three in itertools.product(parsed[:12], repeat=3):
        assert not (one.covers(two) and two.covers(three)) or one.covers(three)


def test_both_match_exactly_what_each_matches() -> None:
    """The intersection of any two patterns is one pattern, or nothing."""
    for one, two in itertools.product(PATTERNS, repeat=2):
        both = Pattern.parse(one).both(Pattern.parse(two))
        wanted = matched(one) & matched(two)
        assert (both is None) is (not wanted), (one, two, both)
        if both is not None:
            assert matched(both.text) == wanted, (one, two, both)


def test_case_and_form_are_compared_byte_for_byte() -> None:
    assert not Pattern.parse("flows/abc").matches(("flows", "ABC"))
    assert not Pattern.parse("flows/é").matches(("flows", "e\u0301"))
    assert not Pattern.parse("flows/a").covers(Pattern.parse("flows/A"))


def test_lists_of_patterns() -> None:
    held = (Pattern.parse("flows/*"), Pattern.parse("users/a"))
    assert any_matches(held, ("users", "a"))
    assert not any_matches(held, ("users", "b"))
    assert not any_matches((), ("users", "a"))
    assert all_covered([Pattern.parse("flows/*/x"), Pattern.parse("users/a")], held)
    assert not all_covered([Pattern.parse("flows/x"), Pattern.parse("users/*")], held)
    assert not all_covered([EVERYTHING], held)
    assert all_covered([], ())
    assert not all_covered([Pattern.parse("flows/a")], ())


def test_lists_cover_soundly() -> None:
    """Each of *granted* within a single one of *held*: then nothing is granted that is not held."""
    for one, two, granted in itertools.product(PATTERNS[:12], PATTERNS[3:12], PATTERNS):
        if all_covered([Pattern.parse(granted)], (Pattern.parse(one), Pattern.parse(two))):
            assert matched(granted) <= matched(one) | matched(two)
