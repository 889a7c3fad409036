"""Values that callers may pass in Python, one function a kind: it returns the normalised value, or refuses it.

Every function takes the argument's name, for the message, and its value, and raises a `RequestError` or `ConfigError`.
What an argument holds is never shown where it may be an id.
"""

# ruff: noqa: DOC501 - said once, above

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hybridmu.config import Settings
from hybridmu.errors import ConfigError, RequestError
from hybridmu.kinds import choices
from hybridmu.planning.arrivals import Arrival
from hybridmu.types import KeyKind, RequestState
from hybridmu.types.text import is_plain

# Beyond 64 bits no column of a table has numbers.
_LEAST_ID, _MOST_ID = -(2**63), 2**64 - 1
LONGEST = {"caller": 80, "key": 200, "reason": 2000}  # characters; the database's columns
LEAST_SECONDS, MOST_SECONDS = 1e-6, 1e9  # seconds
MOST = 1_000_000  # rows, models, workers, epochs: more would only fill the machine
# Python and NumPy count them among the integers: a span of five days is no 5.
_NO_NUMBERS = (bool, np.bool_, np.timedelta64)
_WORDS = {list: "a list", tuple: "a tuple", dict: "a dict", str: "a string", bytes: "bytes", type(None): "None"}


def keys_of(name: str, value: Any) -> tuple[int | str, ...]:
    """Return ids or groups as integers and strings, from any collection that keeps them one by one.

    Args:
        name: `ids` or `groups`, for the message.
        value: A list, tuple, set, generator, NumPy array, pandas Series or Arrow array.

    Returns:
        Them, in the caller's order.

    Raises:
        RequestError: It is one key and no list, a table, or holds something else than integers and strings.
    """
    return tuple(_key(name, place, each) for place, each in enumerate(_listed(name, value)))


def _listed(name: str, value: Any) -> Iterable[object]:
    expected = f"a list, such as {name}=[17, 18] or {name}=['alice']"
    whole = isinstance(value, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(value, Iterable)
    if whole or hasattr(value, "columns") or hasattr(value, "column_names"):  # iterating over a table gives columns
        remedy = f"write {name}=[…], also for a single one" if isinstance(value, (str, int)) else ""
        raise RequestError(f"{name} is not a list", expected=expected, got=_kind(value), remedy=remedy)
    if hasattr(value, "to_pylist"):  # Arrow
        return list(value.to_pylist())
    if hasattr(value, "to_numpy"):  # pandas
        value = value.to_numpy()
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype.kind not in "iuUTO":  # moments would turn into integers, for one
            got = f"an array of {value.dtype} with {value.ndim} dimension(s)"
            remedy = "cast the column to integers or strings; pandas turns integers with gaps into floats"
            raise RequestError(
                f"{name} is not a list of integers or strings", expected=expected, got=got, remedy=remedy
            )
        return list(value.tolist())
    return _items(name, value)


def _items(name: str, value: Iterable[Any]) -> list[Any]:
    try:
        return list(value)
    except Exception as error:  # whatever the caller's own iterator raises
        raise RequestError(f"{name} can't be iterated over", expected="a list", got=type(error).__name__) from error


def _key(name: str, place: int, value: object) -> int | str:
    if isinstance(value, str):
        text = str.__str__(value)  # of a subclass too, whatever it prints as
        if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text):
            return text
        what, got = "holds half a character (a lone surrogate)", "a string that is not Unicode"
    elif isinstance(value, (int, np.integer)) and not isinstance(value, _NO_NUMBERS):
        if _LEAST_ID <= (number := operator.index(value)) <= _MOST_ID:
            return number
        what, got = "is beyond 64 bits", "an integer"
    else:
        what, got = "is neither an integer nor a string", _kind(value)
    raise RequestError(
        f"entry {place} of {name} {what}",
        expected="integers and strings, as they are in the table",
        got=got,
        remedy="a number that became a float, and a date, must be cast to what the column has",
    )


def strategy_of(name: str, value: Any) -> Any:
    """Return the name of a strategy."""
    if not isinstance(value, str) or str.__str__(value) not in choices():
        expected = f"one of {', '.join(choices())}"
        raise ConfigError(f"unknown {name} {_shown(value)}", expected=expected)
    return str.__str__(value)


def text_of(name: str, value: Any, least: int, most: int) -> str:
    """Return printable text in one line, of a length within bounds."""
    if not isinstance(value, str):
        raise RequestError(f"{name} is not a text", expected="a string", got=_kind(value))
    if not least <= len(value) <= most or (least and not value.strip()):
        expected = f"{least} to {most} characters, not blank" if least else f"at most {most} characters"
        raise RequestError(f"{name} is {'too long' if len(value) > most else 'empty'}", expected=expected)
    if not is_plain(value):
        raise RequestError(
            f"{name} holds control characters, line breaks or half characters",
            expected="printable text in one line",
            got=_shown(value),
        )
    return str.__str__(value)


def number_of(name: str, value: Any, low: float, high: float, whole: bool) -> Any:
    """Return a number within bounds."""
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, _NO_NUMBERS) or not isinstance(value, kind):
        expected = "a whole number" if whole else "a number"
        raise RequestError(f"{name} is not {expected}", expected=expected, got=_kind(value))
    # Of a subclass too, whatever that says of its order.
    number: Any = int.__index__(value) if isinstance(value, int) else value
    if not low <= number <= high:  # NaN is neither
        raise RequestError(f"{name} is out of range", expected=f"{low:g} to {high:g}", got=_shown(value))
    return operator.index(number) if whole else float(number)


def flag_of(name: str, value: Any) -> bool:
    """Return a truth value."""
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"{name} is neither True nor False", expected="True or False", got=_kind(value))
    return bool(value)


def kind_of_key(name: str, value: Any) -> Any:
    """Return a kind of key: `id` or `group`."""
    if not isinstance(value, str) or str.__str__(value) not in get_args(KeyKind):
        raise RequestError(f"{name} is not a kind of key", expected="id, or group", got=_shown(value))
    return str.__str__(value)


def callback_of(name: str, value: Any) -> Any:
    """Return a function."""
    if not callable(value):
        raise RequestError(f"{name} is not callable", expected="a function", got=_kind(value))
    return value


def executor_of(name: str, value: Any) -> Any:
    """Return the name of an executor."""
    if not isinstance(value, str) or str.__str__(value) not in {"auto", "ray", "local"}:
        raise ConfigError(f"unknown {name} {_shown(value)}", expected="auto, ray, or local")
    return str.__str__(value)


def settings_of(name: str, value: Any) -> Settings:
    """Return a configuration."""
    if not isinstance(value, Settings):
        raise ConfigError(
            f"{name} is not a configuration", expected="what hybridmu.load(PATH) returns", got=_kind(value)
        )
    return value


def source_of(name: str, value: Any) -> str | Path:
    """Return the path or URI of a table."""
    if not isinstance(value, (str, Path)) or not str(value).strip() or not is_plain(str(value)):
        raise RequestError(f"{name} is not the path or URI of a table", expected="a path or a URI", got=_shown(value))
    return value


def states_of(name: str, value: Any) -> tuple[RequestState, ...]:
    """Return states of requests."""
    known = {str(state): state for state in RequestState}
    found = tuple(known.get(str(each)) if isinstance(each, str) else None for each in _several(name, value, "states"))
    if None in found:
        raise RequestError(f"{name} names an unknown state", expected=", ".join(known))
    return tuple(state for state in found if state is not None)


def names_of(name: str, value: Any, most: int) -> str | list[str]:
    """Return the name of a column, or those of several as a list."""
    if isinstance(value, str):
        return text_of(name, value, 1, most)
    found = _several(name, value, "names of columns")
    return [text_of(f"{name}[{place}]", each, 1, most) for place, each in enumerate(found)]


def numbers_of(name: str, value: Any, least: int = 0) -> tuple[int, ...]:
    """Return whole numbers."""
    found = _several(name, value, "whole numbers")
    return tuple(number_of(f"{name}[{place}]", each, least, MOST, whole=True) for place, each in enumerate(found))


def counts_of(name: str, value: Any) -> tuple[int, ...]:
    """Return whole numbers above 0."""
    return numbers_of(name, value, least=1)


def arrivals_of(name: str, value: Any) -> tuple[Arrival, ...]:
    """Return requests to simulate."""
    found = _several(name, value, "what System.arrival returns")
    return tuple(_arrival(f"{name}[{place}]", each) for place, each in enumerate(found))


def _arrival(name: str, value: Any) -> Arrival:
    if not isinstance(value, Arrival):
        raise RequestError(f"{name} is not an arrival", expected="what System.arrival returns", got=_kind(value))
    at = number_of(f"{name}.at", value.at, 0, MOST_SECONDS, whole=False)
    if not isinstance(value.rows, Mapping):
        raise RequestError(f"{name}.rows is not a mapping", expected="(shard, slice) → rows", got=_kind(value.rows))
    rows: dict[tuple[int, int], int] = {}
    for where, count in _plain_dict(f"{name}.rows", value.rows).items():
        if not isinstance(where, tuple) or len(where) != 2:
            raise RequestError(
                f"{name}.rows has a key that is not a place", expected="(shard, slice)", got=_kind(where)
            )
        shard = number_of(f"a shard of {name}.rows", where[0], 0, MOST, whole=True)
        slice_ = number_of(f"a slice of {name}.rows", where[1], 1, MOST, whole=True)
        rows[shard, slice_] = number_of(f"a count of {name}.rows", count, 1, MOST, whole=True)
    return Arrival(at, rows)


def _several(name: str, value: Any, what: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise RequestError(f"{name} is not a list", expected=f"a list of {what}", got=_kind(value))
    return _items(name, value)


def rows_of(name: str, value: Any) -> list[dict[str, Any]]:
    """Return rows as dicts from column to value."""
    if isinstance(value, (str, bytes, Mapping)) or hasattr(value, "columns") or not isinstance(value, Iterable):
        remedy = "of a pandas table: table.to_dict('records')" if hasattr(value, "columns") else ""
        raise RequestError(f"{name} is not a list of rows", expected="a list of dicts", got=_kind(value), remedy=remedy)
    found = _items(name, value)
    for place, row in enumerate(found):
        if not isinstance(row, Mapping) or not all(isinstance(column, str) for column in row):
            expected = "a dict from column to value"
            raise RequestError(f"{name}[{place}] is not a row", expected=expected, got=_kind(row))
    return [_plain_dict(f"{name}[{place}]", row) for place, row in enumerate(found)]


def iterable_of(name: str, value: Any) -> Iterable[Any]:
    """Return what gives rows one by one."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise RequestError(f"{name} gives no rows", expected="an iterable of dicts", got=_kind(value))
    return value


def versions_of(name: str, value: Any) -> dict[str, str]:
    """Return versions by package."""
    found: dict[Any, Any] = _plain_dict(name, value) if isinstance(value, Mapping) else {None: None}
    if not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise RequestError(f"{name} is not a mapping of packages", expected="a dict from package to version")
    return found


def _plain_dict(name: str, value: Mapping[Any, Any]) -> dict[Any, Any]:
    try:
        return dict(value)
    except Exception as error:  # whatever the caller's own mapping raises
        raise RequestError(f"{name} can't be read", expected="a dict", got=type(error).__name__) from error


def _kind(value: object) -> str:
    """Return what kind of value something is, without the value."""
    return _WORDS.get(type(value), f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins."))


def _shown(value: object) -> str:
    """Return a value that is no id, for a message."""
    if isinstance(value, str):
        text = str.__str__(value)
        return ascii(text[:100]) + ("…" if len(text) > 100 else "")
    if not isinstance(value, numbers.Real):
        return _kind(value)
    try:
        return ascii(value)[:100]
    except ValueError:  # Python writes out no more than 4,300 digits
        return "a number of thousands of digits"
