"""The JSON Schema of keyspace files, with which editors check and complete them as they are written.

It is made from the shape that files are checked against, so it cannot say otherwise. What only the whole file shows,
e.g. that a role is declared, it cannot say at all: `keyspaces test` and `keyspaces apply` do.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from doorward_server.core.http_profile import WORDS
from doorward_server.core.words import NAME, PREFIX, SPAN
from doorward_server.service.keyspace_shape import Document


class _Untitled(GenerateJsonSchema):
    """Without the titles that Pydantic derives from names: they tell nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def keyspace_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12)."""
    schema = Document.model_json_schema(schema_generator=_Untitled)
    for definition in schema["$defs"].values():
        definition.pop("title", None)
    properties = schema["properties"]
    properties["keyspace"]["pattern"] = _whole(NAME.pattern)
    properties["prefix"]["pattern"] = _whole(PREFIX.pattern)
    properties["http"]["propertyNames"] = {"enum": list(WORDS)}
    for span in ("default", "maximum"):
        schema["$defs"]["Expiry"]["properties"][span]["anyOf"][0]["pattern"] = _whole(SPAN.pattern)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Doorward keyspace",
    }


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"
