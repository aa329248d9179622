"""docs/errors.md and docs/authorization.md list exactly the reasons that there are, as they look on the wire."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from doorward.v1 import authz_pb2, errors_pb2
from doorward_server.core.errors import DoorwardError
from doorward_server.wire.errors import STATUS
from tests.docs.tables import DOCS, table, words


def example(error: Callable[..., DoorwardError]) -> DoorwardError:
    """An instance, made of whatever its parameters are called."""
    parameters = [it for it in inspect.signature(error).parameters.values() if it.kind is not it.KEYWORD_ONLY]
    return error(*(1 if parameter.annotation == "int" else parameter.name for parameter in parameters))


def test_every_error_is_told_as_it_looks_on_the_wire() -> None:
    told = {row[0]: (row[1], words(row[4])) for row in table("errors.md", "reason")}
    made = {error.reason: (code.name, set(example(error).metadata)) for error, code in STATUS.items()}
    assert told == made


def test_every_error_of_the_contract_is_told() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    assert {row[0] for row in table("errors.md", "reason")} == names - {"UNSPECIFIED"}


def test_every_reason_of_a_decision_is_told() -> None:
    text = "\n".join(
        cell for first in ("step", "reason") for row in table("authorization.md", first) for cell in row[:2]
    )
    told = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", text)) & set(_reasons())
    assert told == set(_reasons())
    unknown = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", (DOCS / "authorization.md").read_text("utf-8")))
    assert unknown - set(_reasons()) - {"INVALID_ARGUMENT"} == set()


def _reasons() -> list[str]:
    return [
        name.removeprefix("REASON_")
        for name in authz_pb2.Reason.DESCRIPTOR.values_by_name
        if name != "REASON_UNSPECIFIED"
    ]
