"""The JSON Schema of policy files, for editors that complete and check while one types."""

from __future__ import annotations

import json
import os
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from safeedit.policy.model import Policy
from safeedit.tensors.atomic import atomic_write

SCHEMA_FILE = "policy.schema.json"


class _Schema(GenerateJsonSchema):
    """Without null: the loader refuses an empty value, so an editor shall not offer it."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def get_title_from_name(self, name: str) -> str:
        return name

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        return {key: value for key, value in made.items() if key != "default" or value is not None}


def policy_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a policy file; what it accepts may still break a rule between values."""
    schema = Policy.model_json_schema(schema_generator=_Schema)
    return {"$schema": _Schema.schema_dialect, **schema, "title": "safeedit policy"}


def schema_text() -> str:
    """The schema as the text of the file that ships."""
    return json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n"


def write_policy_schema(path: str | os.PathLike[str]) -> None:
    """`path` holds the schema afterwards, or, on any error, what it held before."""
    atomic_write(path, schema_text())
