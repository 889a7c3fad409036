"""Base of all sections of the configuration: frozen, no unknown key, no absurd value."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationInfo, field_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hybridmu.config.meanings import meanings

Scalar = bool | int | float | str
# No setting means anything beyond it; most fields have narrower bounds of their own.
_MOST = 10**15
# Values of columns may fill 64 bits.
_MOST_VALUE = 2**64
_DEEPEST = 50
_DOUBTFUL = re.compile(r"\s*[-+]?0[0-9]|.*_", re.DOTALL)


class Section(BaseModel):
    """A group of keys, frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema with what the docstring says of the section and of its keys."""
        found = handler(schema)
        section, says = handler.resolve_ref_schema(found), meanings(cls)
        section["description"] = says.about
        for key, meaning in says.attributes.items():
            section["properties"][key]["description"] = meaning
        return found

    @field_validator("*", mode="before")
    @classmethod
    def _sound(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            return value  # a section checks its own keys
        kinds = set(_kinds(field.annotation))
        if isinstance(value, str) and not value.strip() and value != field.default:
            raise ValueError("it is empty; leave the key out instead")
        for part in _lists(value):
            if not part and (part is not value or tuple(part) != field.default):
                raise ValueError("the list is empty; leave the key out instead")
            if strange := [each for each in part if not isinstance(each, (str, int, float))]:
                raise ValueError(f"the list holds a {type(strange[0]).__name__}, expected text and numbers")
            counted = Counter((type(each), each) for each in part)
            if twice := [each for (_, each), count in counted.items() if count > 1]:
                raise ValueError(f"the list names {twice[0]!r} twice")
        _refuse_doubtful(value, field.annotation)
        for part in _scalars(value):
            if isinstance(part, bool) and bool not in kinds and kinds & {int, float}:
                raise ValueError(f"expected a number, got {part} (YAML reads yes, no, on and off as true and false)")
            _check_scalar(part, _MOST_VALUE if str in kinds else _MOST)
        return value


def check_options(options: dict[str, Any]) -> None:
    """Check that free options are plain data, which can be stored and compared.

    Args:
        options: Key → value.

    Raises:
        ValueError: A value is none.
    """
    for name, value in options.items():
        try:
            for part in _scalars(value):
                if part is not None and not isinstance(part, Scalar):
                    raise ValueError(f"expected numbers, text, lists and mappings, got {type(part).__name__}")
                _check_scalar(part, _MOST_VALUE)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _refuse_doubtful(value: Any, annotation: Any) -> None:
    """Refuse texts in a number's place that are not the same number to everybody: `1_0` and `010`.

    Raises:
        ValueError: There is one.
    """
    held = get_args(annotation)[1] if get_origin(annotation) is dict else annotation
    kinds = set(_kinds(held))
    if str in kinds or not kinds & {int, float}:
        return
    for part in _scalars(list(value.values()) if isinstance(value, dict) else value):
        if isinstance(part, str) and _DOUBTFUL.match(part):
            raise ValueError(f"expected a number, got the text {part[:40]!r}: write no zeros before it, and no _")


def _check_scalar(value: Any, most: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    if isinstance(value, (int, float)) and abs(value) > most:
        raise ValueError(f"the number is beyond {most:.3g}")
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise ValueError("the text holds a NUL or half a character")


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield every type that an annotation is made of, and the types of literals."""
    arguments = get_args(annotation)
    for each in arguments:
        yield from _kinds(each)
    yield annotation if isinstance(annotation, type) or arguments else type(annotation)


def _lists(value: Any) -> Iterator[list[Any] | tuple[Any, ...]]:
    if isinstance(value, (list, tuple)):
        yield value
    elif isinstance(value, dict):
        yield from (each for each in value.values() if isinstance(each, (list, tuple)))


def _scalars(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield what a value holds that is no list and no mapping, keys included.

    Raises:
        ValueError: Lists and mappings lie too deep in each other, or a key is no text.
    """
    if depth > _DEEPEST and isinstance(value, (dict, list, tuple)):
        raise ValueError("lists and mappings contain themselves, or lie too deep in each other")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):  # as JSON, in which settings are stored and compared, it would be another
                raise ValueError(f"a mapping has a key of type {type(key).__name__}, expected text")
            yield key
            yield from _scalars(each, depth + 1)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _scalars(each, depth + 1)
    else:
        yield value
