"""A name that a registry knows, checked when a value is read: what is registered may grow until then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True)
class OneOf:
    """Annotation of a text that must be one of some names.

    Attributes:
        names: Returns them.
    """

    names: Callable[[], tuple[str, ...]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of a text, and the check."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema with the names that are known now."""
        return handler(schema) | {"enum": [*self.names()]}

    def _check(self, name: str) -> str:
        known = self.names()
        if name not in known:
            *most, last = map(repr, known)
            expected = f"{', '.join(most)} or {last}"  # as pydantic says it of a fixed list
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return name
