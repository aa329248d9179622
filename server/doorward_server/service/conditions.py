"""Conditions in CEL, the Common Expression Language, compiled and checked when they are written.

The library is Google's own (cel-expr-python; docs/decisions/0011-conditions.md), and this is its only importer. It
checks types against what the keyspace declares, so that a wrong name or type never reaches a decision. Beyond CEL's
standard functions there is `in_network(address, network)`. Two of CEL's macros are refused where they stand, found in
the syntax tree: comprehensions (`all`, `exists`, `map`, `filter`…), because what they cost grows with powers of what
is sent, and `has`, because an attribute that nobody told is never just false. Regular expressions and time zones must
be written out, the former in at most `MAX_STATES` characters.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from cel_expr_python import cel

from doorward_server.core.declarations import AttributeType, Declared
from doorward_server.core.directory import Attribute
from doorward_server.core.policy import Condition, Look, Outcome, Unknown
from doorward_server.service.cel_syntax import Call, calls, check_macros, references, regex_states

MAX_TEXT = 1000
"""Characters. With what a request may send (8 KiB of attributes), it bounds what one evaluation costs."""
KEPT = 4096
"""Compiled conditions of one keyspace; when there are more, all are compiled again as they are met."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = "context.time"
"""An Instant; all other timestamps are text."""
MAX_STATES = 256
"""Of all regular expressions of a condition: each takes that many steps for each character, at worst."""
_ZONED = (
    "getFullYear", "getMonth", "getDayOfYear", "getDate", "getDayOfMonth", "getDayOfWeek", "getHours", "getMinutes",
    "getSeconds", "getMilliseconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class CelCondition:
    """One condition, compiled. Threads may share it."""

    text: str
    reads: frozenset[str]
    types: Mapping[str, AttributeType]
    """Of what it reads."""
    program: cel.Expression

    def evaluate(self, look: Look) -> Outcome:
        """Return whether it holds, by what *look* finds; a value of another type than declared counts as not told.

        As CEL has it, `true || x` is true and `false && x` is false though x is not told.
        """
        values, missing = {}, []
        for name, type in self.types.items():
            value = look(name)
            told = None if value is None else _instant(value) if name == _TIME else _value(type, value)
            if told is None:
                missing.append(name)
            else:
                values[name] = told
        try:
            result = self.program.eval(data=values).value()
        except (RuntimeError, ValueError, TypeError, OverflowError):
            result = None
        if result is True or result is False:
            return bool(result)
        return Unknown(tuple(sorted(missing)))


class CelConditions:
    """Compiles the conditions of one keyspace against what it declares. Threads may share it."""

    def __init__(self, declared: Declared) -> None:
        self._types = declared.variables()
        variables = {name: _TYPES[type] for name, type in self._types.items()}
        self._env = cel.NewEnv(variables=variables, functions=[_IN_NETWORK])
        self._known: dict[str, Condition] = {}
        self._lock = threading.Lock()

    def compile(self, text: str) -> Condition:
        """Return the condition; the same text is compiled once. Raises ValueError with the rule that it breaks."""
        known = self._known.get(text)
        if known is None:
            known = self._compiled(text)
            with self._lock:
                if len(self._known) >= KEPT:
                    self._known.clear()
                self._known[text] = known
        return known

    def _compiled(self, text: str) -> Condition:
        if len(text) > MAX_TEXT:
            raise ValueError(f"must have at most {MAX_TEXT:,} characters")
        if not text.strip() or "\x00" in text or not text.isprintable():
            raise ValueError("must be a CEL expression on one line")
        try:
            parsed = self._env.compile(text, disable_check=True).serialize()
            check_macros(parsed)
            called = calls(parsed)
            _check_networks(called)
            _check_written(called)
            program = self._env.compile(text)
        except RuntimeError as problem:
            raise ValueError(f"is not a condition: {_what(str(problem))}") from None
        if program.return_type() != cel.Type.BOOL:
            raise ValueError(f"must be true or false, not of the type {program.return_type().name()}")
        names = {name for name in references(program.serialize()) if name in self._types}
        types = {name: self._types[name] for name in sorted(names)}
        return CelCondition(text, frozenset(types), types, program)


def _check_networks(called: list[Call]) -> None:
    """Refuse what `in_network` could never read; CEL itself would find it out at every evaluation."""
    for call in called:
        if call.function != "in_network":
            continue
        for text, kind in zip(call.arguments, ("address", "network"), strict=False):
            if text is not None:
                _check_network(text, kind)


def _check_network(text: str, kind: str) -> None:
    try:
        ip_network(text) if kind == "network" else ip_address(text)
    except ValueError:
        raise ValueError(f"is not a condition: {text!r} is no {kind}") from None


def _check_written(called: list[Call]) -> None:
    """Refuse regular expressions that are not written out, or cost too much, and time zones that are not.

    Else whoever sends attributes would say what an evaluation costs: a second for a text of 4,000 characters, or a
    time zone file looked for, and its name kept for good.
    """
    states = 0
    for call in called:
        what = (
            "a regular expression" if call.function == "matches" else "a time zone" if call.function in _ZONED else ""
        )
        if what and None in call.arguments[-1:]:
            raise ValueError(f"must have {what} written out in {call.function}()")
        if call.function == "matches":
            states += regex_states(call.arguments[-1] or "") if call.arguments else 0
    if states > MAX_STATES:
        raise ValueError(
            f"must have regular expressions of at most {MAX_STATES} characters in all, repeats written out"
        )


def _instant(value: Attribute) -> datetime | None:
    """Return an Instant as CEL takes it; None if there is no such day."""
    try:
        return _EPOCH + timedelta(microseconds=value) if isinstance(value, int) else None
    except OverflowError:
        return None


def _value(type: AttributeType, value: Attribute) -> Any:
    """Return *value* as CEL takes it, or None if it is not of *type*."""
    if not type.holds(value):
        return None
    if type is AttributeType.TIMESTAMP and isinstance(value, str):
        return datetime.fromisoformat(value)
    if isinstance(value, tuple):
        return list(value)
    return float(value) if type is AttributeType.FLOAT and isinstance(value, int) else value


def in_network(address: str, network: str) -> bool:
    """Tell whether *address* is in *network*. An IPv4 address in IPv6 clothes is the IPv4 address.

    Raises ValueError if one of them is none; a condition is then broken.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed in ip_network(network)


_TYPES = {
    AttributeType.STRING: cel.Type.STRING,
    AttributeType.INT: cel.Type.INT,
    AttributeType.FLOAT: cel.Type.DOUBLE,
    AttributeType.BOOL: cel.Type.BOOL,
    AttributeType.STRINGS: cel.Type.List(cel.Type.STRING),
    AttributeType.TIMESTAMP: cel.Type.TIMESTAMP,
}
_IN_NETWORK = cel.FunctionDecl(
    "in_network",
    [
        cel.Overload(
            "in_network_string_string",
            return_type=cel.Type.BOOL,
            parameters=[cel.Type.STRING, cel.Type.STRING],
            is_member=False,
            impl=in_network,
        )
    ],
)
_CONTAINER = " (in container '')"
_PROBLEM = re.compile(r"ERROR: <input>:\d+:(\d+): (.*)")


def _what(problem: str) -> str:
    """Say what the library found first, in its words, without its frame and picture."""
    found = _PROBLEM.search(problem)
    if found is None:
        return "it cannot be read, or is nested too deep"
    return f"character {found[1]}: {found[2].removesuffix(_CONTAINER)}"
