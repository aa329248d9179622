"""Typed facts about organizations, principals, resources and calls."""

from __future__ import annotations

from collections.abc import Mapping

from doorward.calls.values import Unchanging
from doorward.model import Attribute
from doorward.v1 import directory_pb2 as pb


def attributes(given: Mapping[str, Attribute] | None) -> dict[str, pb.AttributeValue]:
    """Return facts as the wire has them."""
    return {name: _attribute(value) for name, value in (given or {}).items()}


def read_attributes(found: Mapping[str, pb.AttributeValue]) -> Mapping[str, Attribute]:
    """Return facts as the wire had them; one without a value is empty text."""
    return Unchanging((name, _read_attribute(value)) for name, value in found.items())


def _attribute(value: Attribute) -> pb.AttributeValue:
    match value:
        case bool():
            return pb.AttributeValue(flag=value)
        case str():
            return pb.AttributeValue(text=value)
        case int():
            return pb.AttributeValue(integer=value)
        case float():
            return pb.AttributeValue(number=value)
        case _:
            return pb.AttributeValue(texts=pb.TextList(values=value))


def _read_attribute(value: pb.AttributeValue) -> Attribute:
    kind = value.WhichOneof("value")
    if kind == "texts":
        return tuple(value.texts.values)
    found: Attribute = getattr(value, kind) if kind else ""
    return found
