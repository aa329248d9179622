"""What a keyspace declares about its world: attributes with their types, relations, and parents.

Conditions are checked against the attributes when they are written, and what a request sends when it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from .directory import Attribute, Attributes
from .errors import InvalidField, KeyspaceInvalid
from .words import IDENTIFIER, RELATION, check_each, check_known, matching

_RESERVED = frozenset(
    [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    ]
)
"""Words that CEL keeps for itself."""


class AttributeType(StrEnum):
    """What an attribute holds; the words of the file."""

    STRING = "string"
    INT = "int"
    """64 bits, signed."""
    FLOAT = "float"
    BOOL = "bool"
    STRINGS = "strings"
    TIMESTAMP = "timestamp"
    """Kept and sent as text, as RFC 3339 has it, e.g. "2027-03-31T09:00:00Z"; an instant in conditions."""

    def holds(self, value: Attribute) -> bool:
        """Tell whether *value* is of this type. A whole number is a float, too."""
        if self is AttributeType.TIMESTAMP:
            return isinstance(value, str) and _is_timestamp(value)
        if isinstance(value, bool):
            return self is AttributeType.BOOL
        if isinstance(value, int):
            return self is AttributeType.FLOAT or (self is AttributeType.INT and -(2**63) <= value < 2**63)
        return isinstance(value, _PYTHON[self])


_PYTHON = {
    AttributeType.STRING: str,
    AttributeType.INT: int,
    AttributeType.FLOAT: float,
    AttributeType.BOOL: bool,
    AttributeType.STRINGS: tuple,
}


def _is_timestamp(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


Types = Mapping[str, AttributeType]

_TEXT = AttributeType.STRING
BUILT_IN: Mapping[str, Types] = {
    "organization": {"id": _TEXT, "display_name": _TEXT},
    "principal": {
        "id": _TEXT,
        "kind": _TEXT,
        "display_name": _TEXT,
        "email": _TEXT,
        "groups": AttributeType.STRINGS,
    },
    "key": {"id": _TEXT, "name": _TEXT, "environment": _TEXT, "type": _TEXT},
    "resource": {"id": _TEXT, "type": _TEXT},
    "parent": {"id": _TEXT, "type": _TEXT},
    "context": {"time": AttributeType.TIMESTAMP, "client_ip": _TEXT},
}
"""What every condition may read, by whose it is; declared attributes come to it."""


@dataclass(frozen=True, slots=True)
class Declared:
    """The attributes that a keyspace declares, by whose they are."""

    organization: Types = field(default_factory=dict)
    principal: Types = field(default_factory=dict)
    key: Types = field(default_factory=dict)
    """Of its metadata, which are texts."""
    resource: Mapping[str, Types] = field(default_factory=dict)
    """By resource type."""
    context: Types = field(default_factory=dict)

    def variables(self) -> dict[str, AttributeType]:
        """Return the type of everything that a condition may read, by name: "resource.published"."""
        every = {name: type for types in self.resource.values() for name, type in types.items()}
        declared: dict[str, Types] = {
            "organization": self.organization,
            "principal": self.principal,
            "key": self.key,
            "resource": every,
            "parent": every,
            "context": self.context,
        }
        return {
            f"{whose}.{name}": type
            for whose, built_in in BUILT_IN.items()
            for name, type in {**declared[whose], **built_in}.items()
        }

    def check_resource(self, field: str, type: str, attributes: Attributes) -> None:
        """Raise InvalidField unless each of *attributes* is declared for resources of *type*, and of its type."""
        _check_attributes(field, self.resource.get(type, {}), attributes, f"for {type!r} in the keyspace")

    def check_context(self, field: str, attributes: Attributes) -> None:
        """Raise InvalidField unless each of *attributes* is declared for contexts, and of its type."""
        _check_attributes(field, self.context, attributes, "for the context in the keyspace")


def _check_attributes(field: str, types: Types, attributes: Attributes, where: str) -> None:
    for name, value in attributes.items():
        place = f"{field}[{name[:64]}]"
        type = types.get(name)
        if type is None:
            known = f"; declared: {', '.join(sorted(types))}" if types else ""
            raise InvalidField(place, f"is not declared {where}{known}")
        if not type.holds(value):
            raise InvalidField(place, f"must be of the type {type}, as the keyspace declares it")


def compile_declared(document: Mapping[str, Any], types: Iterable[str]) -> Declared:
    """Compile the part `attributes` of a keyspace document. Raises KeyspaceInvalid."""
    resource = {}
    for type, names in (document.get("resource") or {}).items():
        place = f"attributes.resource.{type}"
        check_known(place, "type", type, types)
        resource[type] = _types(place, "resource", names)
    _check_one_type_each(resource)
    declared = Declared(
        organization=_types("attributes.organization", "organization", document.get("organization")),
        principal=_types("attributes.principal", "principal", document.get("principal")),
        key=_types("attributes.key", "key", document.get("key")),
        resource=resource,
        context=_types("attributes.context", "context", document.get("context")),
    )
    for name, kind in declared.key.items():
        if kind not in (AttributeType.STRING, AttributeType.TIMESTAMP):
            raise KeyspaceInvalid(f"attributes.key.{name}", "must be string or timestamp: a key's metadata are texts")
    return declared


def _types(place: str, whose: str, document: Mapping[str, str] | None) -> Types:
    types = {}
    for name, word in (document or {}).items():
        matching(f"{place}.{name}", name, IDENTIFIER)
        if name in _RESERVED:
            raise KeyspaceInvalid(f"{place}.{name}", f"{name!r} is a word of CEL")
        if name in BUILT_IN[whose]:
            raise KeyspaceInvalid(f"{place}.{name}", f"every {whose} has it already")
        if word not in tuple(AttributeType):
            raise KeyspaceInvalid(f"{place}.{name}", f"{word!r} must be one of {', '.join(AttributeType)}")
        types[name] = AttributeType(word)
    return types


def _check_one_type_each(resource: Mapping[str, Types]) -> None:
    """Refuse one name with two types: a condition says `resource.x` whatever the resource is."""
    first: dict[str, tuple[str, AttributeType]] = {}
    for type, types in resource.items():
        for name, kind in types.items():
            other, known = first.setdefault(name, (type, kind))
            if known is not kind:
                raise KeyspaceInvalid(
                    f"attributes.resource.{type}.{name}", f"is {known} of {other!r}: one name has one type"
                )


def compile_relations(document: Mapping[str, Iterable[str]], types: Iterable[str]) -> dict[str, frozenset[str]]:
    """Compile the part `relations` of a keyspace document. Raises KeyspaceInvalid."""
    relations = {}
    for type, words in document.items():
        check_known(f"relations.{type}", "type", type, types)
        check_each(f"relations.{type}", words, RELATION)
        relations[type] = frozenset(words)
    return relations


def compile_parents(document: Mapping[str, str | list[str]], types: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Compile the part `parents` of a keyspace document. Raises KeyspaceInvalid."""
    parents = {}
    for type, given in document.items():
        check_known(f"parents.{type}", "type", type, types)
        listed = [given] if isinstance(given, str) else given
        for i, parent in enumerate(listed):
            check_known(f"parents.{type}" if given is parent else f"parents.{type}[{i}]", "type", parent, types)
        parents[type] = tuple(dict.fromkeys(listed))
    return parents
