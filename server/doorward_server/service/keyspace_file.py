"""Reading a keyspace file: YAML to a document of the right shape, every problem with its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from doorward_server.core.errors import InvalidField, KeyspaceInvalid
from doorward_server.core.keyspace import compile_keyspace
from doorward_server.core.policy import Keyspace
from doorward_server.service.conditions import CelConditions
from doorward_server.service.keyspace_cases import Case, Shape
from doorward_server.service.keyspace_shape import Alert, Document

S = TypeVar("S", bound=Shape)
MAX_BYTES = 128 * 1024
MAX_DEPTH = 20
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same language by libyaml, where PyYAML has it: ten times faster, and keyspaces are read at each start."""


@dataclass(frozen=True, slots=True)
class KeyspaceFile:
    """A file that was read: what it declares, compiled, and its tests."""

    keyspace: Keyspace
    document: Mapping[str, Any]
    """What it says, with the defaults of what it leaves out; the tests apart."""
    cases: tuple[Case, ...]
    lines: Mapping[str, int]
    """By place, e.g. `tests[0]`: the line it begins on, from 1."""


def load_keyspace(source: str, *, operator: str = "", relations: frozenset[str] = frozenset()) -> Keyspace:
    """Read and compile a keyspace file's text. Raises KeyspaceInvalid with the field, the rule and the line."""
    return load_file(source, operator=operator, relations=relations).keyspace


def load_file(source: str, *, operator: str = "", relations: frozenset[str] = frozenset()) -> KeyspaceFile:
    """Read and compile a keyspace file's text, its tests included, which are not run. Raises KeyspaceInvalid."""
    data, lines = _parse(source)
    try:
        shape = _shaped(Document, data)
    except KeyspaceInvalid as problem:
        raise KeyspaceInvalid(problem.field or "file", problem.rule, line_of(lines, problem.field)) from None
    document = shape.model_dump(exclude={"tests"})
    try:
        keyspace = compile_keyspace(
            document, source=source, operator=operator, relations=relations, conditions=CelConditions
        )
    except KeyspaceInvalid as problem:
        raise KeyspaceInvalid(problem.field, problem.rule, line_of(lines, problem.field)) from None
    return KeyspaceFile(keyspace, document, tuple(shape.tests), lines)


def read_alert(text: str) -> Mapping[str, Any]:
    """Read one alert rule, as it would stand behind its name under `alerts`.

    Raises InvalidField; the field is `rule`, or in it.
    """
    try:
        data, _ = _parse(text)
        return _shaped(Alert, data).model_dump()
    except KeyspaceInvalid as problem:
        field = "rule" if problem.field in ("", "file") else f"rule.{problem.field}"
        raise InvalidField(field, problem.rule) from None


def _shaped(shape: type[S], data: Any) -> S:
    """Return *data* in *shape*. Raises KeyspaceInvalid; its field is empty where that is the whole."""
    try:
        return shape.model_validate(data)
    except ValidationError as problem:
        errors = problem.errors(include_input=False, include_url=False)
    raise KeyspaceInvalid(*_first_problem(errors, data, shape))


# --- YAML -------------------------------------------------------------------------------------------------------------


def _parse(source: str) -> tuple[Any, dict[str, int]]:
    if len(source.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise KeyspaceInvalid("file", f"must have at most {MAX_BYTES // 1024} KiB")
    try:
        _check_events(source)
        root = yaml.compose(source, _Loader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        raise KeyspaceInvalid("file", "is not valid YAML", mark.line + 1 if mark else 0) from None
    except (yaml.YAMLError, RecursionError, UnicodeEncodeError):
        raise KeyspaceInvalid("file", "is not valid YAML") from None
    lines: dict[str, int] = {}
    return _value(root, "", lines), lines


def _check_events(source: str) -> None:
    """Refuse what would cost too much to read on: aliases multiply, and PyYAML's time grows with depth squared."""
    depth = 0
    for event in yaml.parse(source, _Loader):
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
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError):  # what its parsers fail with
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


# --- problems ---------------------------------------------------------------------------------------------------------


def _first_problem(problems: Sequence[ErrorDetails], data: Any, shape: type[Shape]) -> tuple[str, str]:
    """Return the place and the rule of the first problem; of a choice of shapes, those of the one that came nearest."""
    places = [_place(problem, data) for problem in problems]
    first = places[0]
    nearest = max((place for place in places if place.startswith(first)), key=len)
    rules = dict.fromkeys(_rule(it, shape) for it, place in zip(problems, places, strict=True) if place == nearest)
    return nearest, " or ".join([*list(rules)[:1], *(rule.removeprefix("must be ") for rule in list(rules)[1:])])


def _place(problem: ErrorDetails, data: Any) -> str:
    """Return where *problem* is, as a path through *data*: Pydantic's names the shapes that it tried, too."""
    place = ""
    location = problem["loc"]
    for i, step in enumerate(location):
        if isinstance(step, int) and isinstance(data, list) and step < len(data):
            place, data = f"{place}[{step}]", data[step]
        elif isinstance(step, str) and isinstance(data, dict) and step in data:
            place, data = f"{place}.{step}", data[step]
        elif i == len(location) - 1 and problem["type"] == "missing":
            place += f".{step}"
    return place.removeprefix(".")


_RULES = {
    "missing": "is required",
    "string_type": "must be text (in quotes, if it looks like something else)",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping, word: value",
    "model_type": "must be a mapping, word: value",
    "model_attributes_type": "must be a mapping, word: value",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a number",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
}


def _rule(problem: ErrorDetails, shape: type[Shape]) -> str:
    if problem["type"] == "extra_forbidden":
        words = ", ".join(sorted(_words_at(problem["loc"][:-1], shape)))
        return f"is not a word that can stand here; there are {words}"
    rule = _RULES.get(problem["type"])
    return rule.format(**problem.get("ctx", {})) if rule else problem["msg"].rstrip(".")


def _words_at(location: Iterable[int | str], whole: type[Shape]) -> set[str]:
    """Return the words that can stand at a place in a *whole*. Names and positions on the way lead nowhere else."""
    shapes = [whole]
    for step in location:
        inner = [shape.model_fields[step] for shape in shapes if isinstance(step, str) and step in shape.model_fields]
        if inner:
            shapes = [shape for field in inner for shape in _shapes(field.annotation)]
    return {word for shape in shapes for word in shape.model_fields}


def _shapes(annotation: Any) -> list[type[Shape]]:
    if isinstance(annotation, type) and issubclass(annotation, Shape):
        return [annotation]
    return [shape for part in get_args(annotation) for shape in _shapes(part)]


def line_of(lines: Mapping[str, int], place: str) -> int:
    """The line of *place*, or of the nearest thing around it that is in the file."""
    while place and place not in lines:
        place = place[: max(place.rfind("."), place.rfind("["))] if max(place.rfind("."), place.rfind("[")) > 0 else ""
    return lines.get(place, 0)
