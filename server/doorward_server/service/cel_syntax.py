"""What a CEL expression is made of: its syntax tree, read from the library's serialized form.

The form is that of cel-spec's `cel.expr.ParsedExpr` and `CheckedExpr`, in an `Any`; of its fields this reads the few
that matter here, by number (https://github.com/google/cel-spec, proto/cel/expr/syntax.proto and checked.proto).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_DEPTH = 64
"""Levels of the syntax tree."""

_ANY_VALUE = 2
_PARSED_EXPR = 2
_CHECKED_REFERENCES = 2
_REFERENCE = 2
_REFERENCE_NAME = 1
_SELECT, _CALL, _LIST, _STRUCT, _COMPREHENSION = 5, 6, 7, 8, 9
"""Kinds of nodes, as fields of `Expr`."""
_PARTS = {_SELECT: (1,), _CALL: (1, 3), _LIST: (1,)}
"""By kind of node, the fields that hold nodes."""
_TEST_ONLY = 3
_FUNCTION, _ARGUMENTS = 2, 3
_CONST, _CONST_STRING = 3, 6
_ENTRIES, _ENTRY_NODES = 2, (3, 4)

Field = tuple[int, int | bytes]


def check_macros(parsed: bytes) -> None:
    """Raise ValueError if there is a macro in *parsed* that conditions must not use, or it nests too deep."""
    for value in _inner(parsed, _ANY_VALUE):
        for expr in _inner(value, _PARSED_EXPR):
            _check_node(expr, 1)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function, and its arguments but for what it is called on; None stands for all but texts."""

    function: str
    arguments: tuple[str | None, ...]


def calls(parsed: bytes) -> list[Call]:
    """Return every call in *parsed*, wherever it stands."""
    found = []
    waiting = [expr for value in _inner(parsed, _ANY_VALUE) for expr in _inner(value, _PARSED_EXPR)]
    while waiting:
        for kind, body in _fields(waiting.pop()):
            if not isinstance(body, bytes):
                continue
            if kind == _CALL:
                arguments = tuple(map(_text, _inner(body, _ARGUMENTS)))
                found += [Call(function.decode(), arguments) for function in _inner(body, _FUNCTION)]
            waiting += _nodes(kind, body)
    return found


def _text(node: bytes) -> str | None:
    """Return the text that *node* is, if it is one written out."""
    return next((it.decode() for const in _inner(node, _CONST) for it in _inner(const, _CONST_STRING)), None)


def regex_states(text: str) -> int:
    """Return about how many states a machine has that reads the regular expression *text* (RE2), repeats written out.

    It need not be right about one that RE2 refuses anyway.
    """
    totals, last, at = [0], 1, 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        word = token[0] if token else text[at]
        at += len(word)
        if word == "(":
            totals.append(0)
            continue
        if word == ")" and len(totals) > 1:
            last = totals.pop()
        elif token and token["least"]:
            counts = [int(it) for it in (token["least"], token["most"]) if it]
            last, more = last * max(1, *counts), last
            totals[-1] -= more
        else:
            # A class of Unicode's is hundreds of ranges of bytes, and what is quoted is not read as it looks.
            last = 1 + 100 * len(_CLASS.findall(word)) + _QUOTED * (word == "\\Q")
        totals[-1] += last
    return sum(totals)


_TOKEN = re.compile(
    r"\\[pP](?:\{\^?\w*\}|.)|\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\{(?P<least>\d+)(?:,(?P<most>\d*))?\}",
    re.ASCII | re.DOTALL,
)
_CLASS = re.compile(r"\\[pP]")
_QUOTED = 1_000_000


def references(checked: bytes) -> frozenset[str]:
    """Return all names of variables and constants in *checked*."""
    return frozenset(
        name.decode()
        for value in _inner(checked, _ANY_VALUE)
        for entry in _inner(value, _CHECKED_REFERENCES)
        for reference in _inner(entry, _REFERENCE)
        for name in _inner(reference, _REFERENCE_NAME)
    )


def _check_node(node: bytes, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"must not be nested more than {MAX_DEPTH} levels deep")
    for kind, body in _fields(node):
        if kind == _COMPREHENSION:
            raise ValueError("must not go through lists (all, exists, exists_one, map, filter): `in` finds one value")
        if not isinstance(body, bytes):
            continue
        if kind == _SELECT and any(number == _TEST_ONLY and value for number, value in _fields(body)):
            raise ValueError("must not use has(): where an attribute is missing, a condition does not hold anyway")
        for inner in _nodes(kind, body):
            _check_node(inner, depth + 1)


def _nodes(kind: int, body: bytes) -> Iterator[bytes]:
    if kind == _STRUCT:
        for entry in _inner(body, _ENTRIES):
            for number in _ENTRY_NODES:
                yield from _inner(entry, number)
    for number in _PARTS.get(kind, ()):
        yield from _inner(body, number)


def _inner(message: bytes, number: int) -> Iterator[bytes]:
    for it, value in _fields(message):
        if it == number and isinstance(value, bytes):
            yield value


def _fields(message: bytes) -> Iterator[Field]:
    """Yield the fields of a protobuf message: numbers of wire type 0, and the bytes of all others."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if wire not in _FIXED:
            size, at = _varint(message, at)
        else:
            size = _FIXED[wire]
        yield tag >> 3, message[at : at + size]
        at += size


_FIXED = {1: 8, 5: 4}


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
