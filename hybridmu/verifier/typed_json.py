"""Typed JSON: frozen dataclasses out of plain data, of exactly their fields and types, or an error that says where."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Part = TypeVar("Part")
Reader = Callable[[Any], Any]


@dataclass(frozen=True)
class Rule:
    """What a value has to be beside its type; the second part of an `Annotated`.

    Attributes:
        says: What is expected, in words.
        holds: Whether a value of the type is that.
    """

    says: str
    holds: Callable[[Any], object]


class MalformedError(ValueError):
    """Data that is no document: where, and what was expected there.

    Args:
        says: What was expected.
        where: Names and indices that lead there, from the outermost.
    """

    def __init__(self, says: str, where: tuple[str, ...] = ()) -> None:
        self.says, self.where = says, where
        super().__init__(f"{'.'.join(where) or 'document'}: {says}")


def read(kind: type[Part], data: object) -> Part:
    """Return a dataclass made of JSON data.

    Args:
        kind: A dataclass whose fields are scalars, literals, unions with None, tuples, dictionaries by name, and
            dataclasses like it. A field with a default may be missing.
        data: From `json.loads`.

    Raises:
        MalformedError: A field is missing, unknown, of another type, or not what its rule says. 1 is no boolean, True
            is no number, and 1.0 is no integer.

    Example:
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     x: int
        ...     y: Annotated[int, Rule("an even number", lambda y: y % 2 == 0)] = 0
        >>> read(Point, {"x": 3})
        Point(x=3, y=0)
        >>> read(Point, {"x": 3, "y": 1})
        Traceback (most recent call last):
        ...
        hybridmu.verifier.typed_json.MalformedError: y: an even number expected
    """
    found: Part = _reader(cast(Any, kind))(data)
    return found


@cache
def _reader(kind: Any) -> Reader:
    """Return what reads a type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _ruled(_reader(inner[0]), inner[1:])
    if origin in {Union, types.UnionType}:
        some = _reader(next(each for each in inner if each is not type(None)))
        return lambda data: None if data is None else some(data)
    if origin is Literal:
        return lambda data: data if _among(data, inner) else _refuse(" or ".join(map(repr, inner)))
    if origin is tuple:
        return _list(_reader(inner[0]))
    if origin is dict:
        return _named(_reader(inner[1]))
    return _object(kind) if is_dataclass(kind) else _SCALARS[kind]


def _among(data: object, values: tuple[object, ...]) -> bool:
    return any(type(data) is type(value) and data == value for value in values)


def _refuse(expected: str) -> Any:
    raise MalformedError(f"{expected} expected")


def _ruled(some: Reader, rules: tuple[Rule, ...]) -> Reader:
    def ruled(data: Any) -> Any:
        found = some(data)
        for rule in rules:
            if not rule.holds(found):
                _refuse(rule.says)
        return found

    return ruled


def _at(name: object, some: Reader, data: Any) -> Any:
    try:
        return some(data)
    except MalformedError as error:
        raise MalformedError(error.says, (str(name), *error.where)) from None


def _list(some: Reader) -> Reader:
    def listed(data: Any) -> Any:
        if not isinstance(data, (list, tuple)):
            return _refuse("a list")
        return tuple(_at(number, some, each) for number, each in enumerate(data))

    return listed


def _named(some: Reader) -> Reader:
    def named(data: Any) -> Any:
        if not isinstance(data, Mapping):
            return _refuse("an object")
        return {name: _at(name, some, each) for name, each in data.items()}

    return named


def _object(kind: Any) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}
    needed = [field.name for field in fields(kind) if field.default is MISSING]

    def made(data: Any) -> Any:
        if not isinstance(data, Mapping):
            return _refuse("an object")
        for name in needed:
            if name not in data:
                raise MalformedError("it is missing", (name,))
        for name in data:
            if name not in readers:
                raise MalformedError("there is no such field", (ascii(name)[:40],))
        return kind(**{name: _at(name, some, data[name]) for name, some in readers.items() if name in data})

    return made


def _number(data: Any) -> float:
    if type(data) not in {int, float} or (type(data) is float and not math.isfinite(data)):
        _refuse("a number")
    try:
        return float(data)
    except OverflowError:
        raise MalformedError("a smaller number expected") from None


_SCALARS: dict[type, Reader] = {
    bool: lambda data: data if type(data) is bool else _refuse("true or false"),
    int: lambda data: data if type(data) is int else _refuse("an integer"),
    float: _number,
    str: lambda data: data if type(data) is str else _refuse("a text"),
}
