"""Words for JSON schemas: the type, the default and the bounds of a value, as cells of a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "object": "mapping",
    "array": "list",
}
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "pattern": "as `{}`",
}


def named(schema: Mapping[str, Any]) -> str | None:
    """Return the name of the definition that a schema refers to."""
    return str(schema["$ref"]).rpartition("/")[2] if "$ref" in schema else None


def type_of(schema: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """Return what kind of value a schema takes.

    Args:
        schema: Of the value.
        links: Name of a definition → what stands for it.
    """
    if name := named(schema):
        return links.get(name, name)
    if "enum" in schema:
        return _either([f"`{value}`" for value in schema["enum"]])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return _either(dict.fromkeys(type_of(each, links) for each in schema["anyOf"]))
    kind = schema.get("type", "any value")
    if kind == "array" and "items" in schema:
        return f"list of {type_of(schema['items'], links)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"mapping of text to {type_of(schema['additionalProperties'], links)}"
    return _TYPES.get(kind, str(kind))


def bounds_of(schema: Mapping[str, Any]) -> str:
    """Return the bounds of a value, and of the entries where it is a list or a mapping."""
    return ", ".join(dict.fromkeys(_bounds(schema, "")))


def default_of(schema: Mapping[str, Any], *, required: bool) -> str:
    """Return the default as JSON, or that there is none."""
    if required:
        return "required"
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`" if "default" in schema else "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _bounds(schema: Mapping[str, Any], each: str) -> Iterator[str]:
    for key, text in _BOUNDS.items():
        if key in schema:
            yield each + text.format(_number(schema[key]))
    for branch in schema.get("anyOf", ()):
        yield from _bounds(branch, each)
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, Mapping):
            yield from _bounds(inner, "each ")


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
