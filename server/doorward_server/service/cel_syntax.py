"""What a CEL expression is made of: its syntax tree, read from the library's serialized form.

The form is that of cel-spec's `cel.expr.ParsedExpr` and `CheckedExpr`, in an `Any`; of its fields this reads the few
that matter here, by number (https://github.com/google/cel-spec, proto/cel/expr/syntax.proto and checked.proto).
"""

from __future__ import annotations

from collections.abc import Iterator

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


def constants(parsed: bytes, function: str) -> list[tuple[int, str]]:
    """Return the texts that are arguments of *function* in *parsed*, each with its place, from 0."""
    return [
        (place, text.decode())
        for node in _every(parsed)
        for call in _inner(node, _CALL)
        if function.encode() in _inner(call, _FUNCTION)
        for place, argument in enumerate(_inner(call, _ARGUMENTS))
        for const in _inner(argument, _CONST)
        for text in _inner(const, _CONST_STRING)
    ]


def _every(parsed: bytes) -> Iterator[bytes]:
    waiting = [expr for value in _inner(parsed, _ANY_VALUE) for expr in _inner(value, _PARSED_EXPR)]
    while waiting:
        node = waiting.pop()
        yield node
        for kind, body in _fields(node):
            if isinstance(body, bytes):
                waiting += _nodes(kind, body)


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
