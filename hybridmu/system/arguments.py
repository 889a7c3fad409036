"""Checks of what callers pass to the verbs in Python: types, bounds, and text that can be stored and shown.

A verb names a check in the annotation of each argument, and `checked` applies them before anything is read or written.
Python lets any value through otherwise: the string "17" is an iterable of the ids "1" and "7", and a deletion can't be
undone. What an argument holds is never shown where it may be an id.

Arguments that a verb, `System` or `connect` does not take are a `RequestError` under its public name, too, with the
nearest known one. `load`, `Settings` and what is no verb leave such slips to Python, whose `TypeError` names them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from hybridmu.config import Settings
from hybridmu.errors import ConfigError, HybridMUError, RequestError
from hybridmu.kinds import choices
from hybridmu.planning.simulator import Arrival
from hybridmu.runtime.coordinator.coordinator import Snapshot
from hybridmu.types import KeyKind, RequestState, StrategyChoice
from hybridmu.types.text import is_plain

_P = ParamSpec("_P")
_R = TypeVar("_R")
# Beyond 64 bits no column of a table has numbers.
_LEAST_ID, _MOST_ID = -(2**63), 2**64 - 1
_LONGEST = {"caller": 80, "key": 200, "reason": 2000}  # characters; the database's columns
_INSTANT, _DECADES = 1e-6, 1e9  # seconds
_MOST = 1_000_000  # rows, models, workers, epochs: more would only fill the machine
# Python and NumPy count them among the integers: a span of five days is no 5.
_NO_NUMBERS = (bool, np.bool_, np.timedelta64)
_WORDS = {list: "a list", tuple: "a tuple", dict: "a dict", str: "a string", bytes: "bytes", type(None): "None"}


@dataclass(frozen=True)
class Check:
    """What an argument must be.

    Attributes:
        of: Returns the checked value, from the argument's name and value; raises when it is refused.
    """

    of: Callable[[str, Any], Any]


def checked(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a verb whose arguments are checked and normalised first, by the checks that its annotations name."""
    signature = inspect.signature(verb)

    @functools.cache  # late: annotations name classes that are defined after the verb
    def checks() -> dict[str, Check]:
        hints = get_type_hints(verb, include_extras=True)
        return {name: check for name, hint in hints.items() if (check := check_of(hint)) is not None}

    @functools.wraps(verb)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            name = "System" if verb.__name__ == "__init__" else verb.__name__
            raise _misfit(name, signature, kwargs, error) from None
        for name, value in bound.arguments.items():
            if (check := checks().get(name)) is None:
                continue
            if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(check.of(name, each) for each in value)
            else:
                bound.arguments[name] = check.of(name, value)
        return verb(*bound.args, **bound.kwargs)

    return call


def check_of(hint: object) -> Check | None:
    """Return the check that an annotation names; None where it names none."""
    if get_origin(hint) is not Annotated:
        return None
    return next((extra for extra in get_args(hint) if isinstance(extra, Check)), None)


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
        raise RequestError(f"{name} is no list", expected=expected, got=_kind(value), remedy=remedy)
    if hasattr(value, "to_pylist"):  # Arrow
        return list(value.to_pylist())
    if hasattr(value, "to_numpy"):  # pandas
        value = value.to_numpy()
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype.kind not in "iuUTO":  # moments would turn into integers, for one
            got = f"an array of {value.dtype} with {value.ndim} dimension(s)"
            remedy = "cast the column to integers or strings; pandas turns integers with gaps into floats"
            raise RequestError(f"{name} is no list of integers or strings", expected=expected, got=got, remedy=remedy)
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


def _strategy(name: str, value: Any) -> Any:
    if not isinstance(value, str) or str.__str__(value) not in choices():
        expected = f"one of {', '.join(choices())}"
        raise ConfigError(f"unknown {name} {_shown(value)}", expected=expected)
    return str.__str__(value)


def _text(name: str, value: Any, least: int, most: int) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name} is no text", expected="a string", got=_kind(value))
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


def _number(name: str, value: Any, low: float, high: float, whole: bool) -> Any:
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, _NO_NUMBERS) or not isinstance(value, kind):
        expected = "a whole number" if whole else "a number"
        raise RequestError(f"{name} is no {expected[2:]}", expected=expected, got=_kind(value))
    # Of a subclass too, whatever that says of its order.
    number: Any = int.__index__(value) if isinstance(value, int) else value
    if not low <= number <= high:  # NaN is neither
        raise RequestError(f"{name} is out of range", expected=f"{low:g} to {high:g}", got=_shown(value))
    return operator.index(number) if whole else float(number)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"{name} is neither True nor False", expected="True or False", got=_kind(value))
    return bool(value)


def _kind_of_key(name: str, value: Any) -> Any:
    if not isinstance(value, str) or str.__str__(value) not in get_args(KeyKind):
        raise RequestError(f"{name} is no kind of key", expected="id, or group", got=_shown(value))
    return str.__str__(value)


def _callback(name: str, value: Any) -> Any:
    if not callable(value):
        raise RequestError(f"{name} can't be called", expected="a function", got=_kind(value))
    return value


def _executor(name: str, value: Any) -> Any:
    if not isinstance(value, str) or str.__str__(value) not in {"ray", "local"}:
        raise ConfigError(f"unknown {name} {_shown(value)}", expected="ray, or local")
    return str.__str__(value)


def _settings(name: str, value: Any) -> Settings:
    if not isinstance(value, Settings):
        raise ConfigError(f"{name} is no configuration", expected="what hybridmu.load(PATH) returns", got=_kind(value))
    return value


def _source(name: str, value: Any) -> str | Path:
    if not isinstance(value, (str, Path)) or not str(value).strip() or not is_plain(str(value)):
        raise RequestError(f"{name} is no place of a table", expected="a path or a URI", got=_shown(value))
    return value


def _states(name: str, value: Any) -> tuple[RequestState, ...]:
    known = {str(state): state for state in RequestState}
    found = tuple(known.get(str(each)) if isinstance(each, str) else None for each in _several(name, value, "states"))
    if None in found:
        raise RequestError(f"{name} names an unknown state", expected=", ".join(known))
    return tuple(state for state in found if state is not None)


def _numbers(name: str, value: Any, least: int = 0) -> tuple[int, ...]:
    found = _several(name, value, "whole numbers")
    return tuple(_number(f"{name}[{place}]", each, least, _MOST, whole=True) for place, each in enumerate(found))


def _counts(name: str, value: Any) -> tuple[int, ...]:
    return _numbers(name, value, least=1)


def _arrivals(name: str, value: Any) -> tuple[Arrival, ...]:
    found = _several(name, value, "what System.arrival returns")
    return tuple(_arrival(f"{name}[{place}]", each) for place, each in enumerate(found))


def _arrival(name: str, value: Any) -> Arrival:
    if not isinstance(value, Arrival):
        raise RequestError(f"{name} is something else", expected="what System.arrival returns", got=_kind(value))
    at = _number(f"{name}.at", value.at, 0, _DECADES, whole=False)
    if not isinstance(value.rows, Mapping):
        raise RequestError(f"{name}.rows is no mapping", expected="(shard, slice) → rows", got=_kind(value.rows))
    rows: dict[tuple[int, int], int] = {}
    for where, count in _plain_dict(f"{name}.rows", value.rows).items():
        if not isinstance(where, tuple) or len(where) != 2:
            raise RequestError(f"{name}.rows names no place", expected="(shard, slice)", got=_kind(where))
        shard = _number(f"a shard of {name}.rows", where[0], 0, _MOST, whole=True)
        slice_ = _number(f"a slice of {name}.rows", where[1], 1, _MOST, whole=True)
        rows[shard, slice_] = _number(f"a count of {name}.rows", count, 1, _MOST, whole=True)
    return Arrival(at, rows)


def _several(name: str, value: Any, what: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise RequestError(f"{name} is no list", expected=f"a list of {what}", got=_kind(value))
    return _items(name, value)


def _rows(name: str, value: Any) -> list[dict[str, Any]]:
    if isinstance(value, (str, bytes, Mapping)) or hasattr(value, "columns") or not isinstance(value, Iterable):
        remedy = "of a pandas table: table.to_dict('records')" if hasattr(value, "columns") else ""
        raise RequestError(f"{name} is no list of rows", expected="a list of dicts", got=_kind(value), remedy=remedy)
    found = _items(name, value)
    for place, row in enumerate(found):
        if not isinstance(row, Mapping) or not all(isinstance(column, str) for column in row):
            expected = "a dict from column to value"
            raise RequestError(f"{name}[{place}] is no row", expected=expected, got=_kind(row))
    return [_plain_dict(f"{name}[{place}]", row) for place, row in enumerate(found)]


def _versions(name: str, value: Any) -> dict[str, str]:
    found: dict[Any, Any] = _plain_dict(name, value) if isinstance(value, Mapping) else {None: None}
    if not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise RequestError(f"{name} is no list of packages", expected="a dict from package to version")
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


def _misfit(verb: str, signature: inspect.Signature, given: Mapping[str, object], error: TypeError) -> HybridMUError:
    known = [name for name in signature.parameters if name != "self"]
    unknown = next((name for name in given if name not in known), None)
    near = difflib.get_close_matches(unknown, known, n=1) if unknown else []
    return RequestError(
        f"{verb} does not take these arguments",
        expected=", ".join(known) or "none",
        got=str(error).removeprefix("got "),
        remedy=f"write {near[0]}" if near else "",
    )


def _optional(check: Callable[[str, Any], Any]) -> Check:
    return Check(lambda name, value: None if value is None else check(name, value))


def _texts(what: str, least: int) -> Callable[[str, Any], str]:
    return lambda name, value: _text(name, value, least, _LONGEST[what])


def _between(low: float, high: float, *, whole: bool) -> Callable[[str, Any], Any]:
    return lambda name, value: _number(name, value, low, high, whole)


Watcher = Callable[[Snapshot], None]
Callback = _optional(_callback)

Keys = Annotated[Iterable[object], Check(keys_of)]
Strategy = Annotated[StrategyChoice, Check(_strategy)]
AnyStrategy = Annotated[StrategyChoice | None, _optional(_strategy)]
Caller = Annotated[str, Check(_texts("caller", 0))]
AnyCaller = Annotated[str | None, _optional(_texts("caller", 0))]
IdempotencyKey = Annotated[str | None, _optional(_texts("key", 1))]
Reason = Annotated[str, Check(_texts("reason", 1))]
Kind = Annotated[KeyKind, Check(_kind_of_key)]
Name = Annotated[str, Check(_texts("key", 1))]
AnyName = Annotated[str | None, _optional(_texts("key", 1))]
Deadline = Annotated[float | None, _optional(_between(_INSTANT, _DECADES, whole=False))]
Figure = Annotated[float, Check(_between(_INSTANT, _DECADES, whole=False))]
Moment = Annotated[float, Check(_between(0, _DECADES, whole=False))]
Share = Annotated[float, Check(_between(0, 1, whole=False))]
Count = Annotated[int, Check(_between(1, _MOST, whole=True))]
AnyCount = Annotated[int | None, _optional(_between(1, _MOST, whole=True))]
Slices = Annotated[int, Check(_between(1, 1000, whole=True))]
Number = Annotated[int, Check(_between(0, 2**63 - 1, whole=True))]
Shards = Annotated[Sequence[int] | None, _optional(_numbers)]
Counts = Annotated[Sequence[int] | None, _optional(_counts)]
Flag = Annotated[bool, Check(_flag)]
Watch = Annotated[Watcher | None, Callback]
Executor = Annotated[Literal["ray", "local"], Check(_executor)]
Configuration = Annotated[Settings, Check(_settings)]
Source = Annotated[str | Path, Check(_source)]
States = Annotated[Iterable[RequestState], Check(_states)]
RowList = Annotated[Sequence[dict[str, Any]], Check(_rows)]
Versions = Annotated[Mapping[str, str] | None, _optional(_versions)]
Arrivals = Annotated[Sequence[Arrival], Check(_arrivals)]
