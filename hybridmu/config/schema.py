"""JSON schema of the configuration, for editors and for the reference of its keys."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from hybridmu.config.settings import Settings


class _Untitled(GenerateJsonSchema):
    """Without titles, which would repeat the names of keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def settings_schema() -> dict[str, Any]:
    """Return the schema of the whole configuration, with the names of kinds that are registered now.

    It refuses nothing that `Settings.parse` accepts in YAML, and accepts more: bounds between keys, oddities of YAML
    and what lies on the machine are checked when the file is read.
    """
    schema = Settings.model_json_schema(schema_generator=_Untitled)
    schema["required"] = ["data"]  # storage_url may be in the environment
    for key in schema["properties"].values():
        if "$ref" in key:
            key.pop("default", None)  # of a section; its own keys have theirs
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "HybridMU configuration"}
