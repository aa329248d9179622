"""Reading a keyspace file: YAML to a document of the right shape, every problem with its line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from doorward_server.core.errors import KeyspaceInvalid
from doorward_server.core.keyspace import compile_keyspace
from doorward_server.core.policy import Keyspace

MAX_BYTES = 128 * 1024
MAX_DEPTH = 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Text = Annotated[str, Field(max_length=2000)]
Words = Annotated[list[Text], Field(max_length=1000)]


class _Credential(_Strict):
    header: Text = ""
    scheme: Text = ""
    query: Text = ""


class _Rule(_Strict):
    effect: Literal["ALLOW", "DENY"] = "ALLOW"
    actions: Annotated[list[Text], Field(min_length=1, max_length=1000)]
    resources: Annotated[list[Text], Field(max_length=100)] = []
    relation: Text = ""


class _Role(_Strict):
    description: Text = ""
    includes: Words = []
    rules: Annotated[list[_Rule], Field(max_length=1000)] = []


class _Legacy(_Strict):
    name: Text
    prefix: Text = ""
    alphabet: Literal["digits", "hex", "base32", "base62", "base64url", "print"]
    length: int | Annotated[list[int], Field(min_length=2, max_length=2)]
    entropy_bits: int
    lookup: Annotated[int, Field(ge=0, le=64)] = 0


Span = Annotated[str, Field(max_length=8)]
Hands = Annotated[list[Literal["owner", "administrator"]], Field(min_length=1, max_length=2)]


class _Name(_Strict):
    pattern: Annotated[str, Field(min_length=1, max_length=200)]


class _Scopes(_Strict):
    min: Annotated[int, Field(ge=0, le=200)] = 0
    max: Annotated[int, Field(ge=0, le=200)] | None = None
    environments: Annotated[dict[str, Words], Field(max_length=20)] = {}


class _Expiry(_Strict):
    need: Literal["required", "optional", "forbidden"] = "optional"
    default: Span | None = None
    maximum: Span | None = None
    allowed: Annotated[list[Span], Field(min_length=1, max_length=20)] | None = None
    custom: bool = True


class _ActivePerOwner(_Strict):
    maximum: Annotated[int, Field(ge=1, le=1000)]
    on_exceed: Literal["reject", "revoke_oldest"] = "reject"


class _Rotation(_Strict):
    every: Span | None = None
    types: Annotated[dict[str, Span], Field(max_length=100)] = {}


class _Keys(_Strict):
    owner: Literal["required", "optional", "none"] = "optional"
    made_by: Hands | None = None
    ended_by: Hands | None = None
    name: _Name | None = None
    types: Annotated[list[Text], Field(max_length=100)] = []
    default_type: Annotated[dict[str, Text], Field(max_length=20)] = {}
    scopes: _Scopes = _Scopes()
    expiry: _Expiry = _Expiry()
    active_per_owner: _ActivePerOwner | None = None
    rotation: _Rotation = _Rotation()
    api_version: Text = ""


class _Document(_Strict):
    """The shape of a keyspace file; its meaning is documented and checked in `core.keyspace`."""

    keyspace: Text
    display_name: Text = ""
    description: Text = ""
    prefix: Text = ""
    environments: Annotated[list[Text], Field(min_length=1, max_length=20)] = ["live"]
    credentials: Annotated[list[_Credential], Field(min_length=1, max_length=20)]
    organization: Literal["required", "key"] = "key"
    inherit: bool = False
    ceilings: Annotated[list[Literal["list", "owner"]], Field(min_length=1, max_length=2)] = ["list"]
    mask: Text = ""
    format: Literal["opaque", "uuid", "jwt"] = "opaque"
    algorithm: Literal["EdDSA", "HS256"] = "EdDSA"
    verifier: Literal["hmac-sha256", "bcrypt-sha256"] = "hmac-sha256"
    recoverable: bool = False
    serve_stale: bool = True
    legacy: Annotated[list[_Legacy], Field(max_length=20)] = []
    keys: _Keys = _Keys()
    types: Annotated[dict[str, Words], Field(min_length=1, max_length=200)]
    authenticated: Words = []
    roles: Annotated[dict[str, _Role], Field(max_length=500)] = {}


def load_keyspace(source: str, *, operator: str = "", relations: frozenset[str] = frozenset()) -> Keyspace:
    """Read and compile a keyspace file's text. Raises KeyspaceInvalid with the field, the rule and the line."""
    data, lines = _parse(source)
    try:
        document = _Document.model_validate(data)
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        place = _place(first["loc"])
        raise KeyspaceInvalid(place or "file", first["msg"].rstrip("."), _line(lines, place)) from None
    try:
        return compile_keyspace(document.model_dump(), source=source, operator=operator, relations=relations)
    except KeyspaceInvalid as problem:
        raise KeyspaceInvalid(problem.field, problem.rule, _line(lines, problem.field)) from None


def _parse(source: str) -> tuple[Any, dict[str, int]]:
    if len(source.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise KeyspaceInvalid("file", f"must have at most {MAX_BYTES // 1024} KiB")
    try:
        _check_events(source)
        root = yaml.compose(source, yaml.SafeLoader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        raise KeyspaceInvalid("file", "is not valid YAML", mark.line + 1 if mark else 0) from None
    except (yaml.YAMLError, RecursionError):
        raise KeyspaceInvalid("file", "is not valid YAML") from None
    lines: dict[str, int] = {}
    return _value(root, "", lines), lines


def _check_events(source: str) -> None:
    """Refuse what would cost too much to read on: aliases multiply, and PyYAML's time grows with depth squared."""
    depth = 0
    for event in yaml.parse(source, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise KeyspaceInvalid("file", "must not use YAML aliases (*name)")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            mark = event.start_mark
            raise KeyspaceInvalid("file", f"is nested more than {MAX_DEPTH} levels deep", mark.line + 1 if mark else 0)


def _value(node: yaml.Node | None, place: str, lines: dict[str, int]) -> Any:
    if node is None:
        return None
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, f"{place}[{i}]", lines) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place, lines)
    # BaseConstructor.construct_object knows the tags that SafeLoader resolved; any other tag is an error.
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        raise KeyspaceInvalid(place, "is not a plain YAML value", node.start_mark.line + 1) from None


def _mapping(node: yaml.MappingNode, place: str, lines: dict[str, int]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise KeyspaceInvalid(place or "file", "has a key that is no plain text", line)
        key = key_node.value
        inner = f"{place}.{key}" if place else key
        if key in mapping:
            raise KeyspaceInvalid(inner, "stands here twice", line)
        mapping[key] = _value(value_node, inner, lines)
        lines[inner] = line
    return mapping


def _place(location: tuple[int | str, ...]) -> str:
    place = ""
    for step in location:
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    return place.lstrip(".")


def _line(lines: Mapping[str, int], place: str) -> int:
    """The line of *place*, or of the nearest thing around it that is in the file."""
    while place and place not in lines:
        place = place[: max(place.rfind("."), place.rfind("["))] if max(place.rfind("."), place.rfind("[")) > 0 else ""
    return lines.get(place, 0)
