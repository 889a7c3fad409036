"""Checks of the arguments of public methods: types, bounds, and text that can be stored and shown.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from hybridmu.config import Settings
from hybridmu.errors import HybridMUError, RequestError
from hybridmu.planning.arrivals import Arrival
from hybridmu.runtime.coordinator.snapshot import Snapshot
from hybridmu.system.argument_values import (
    LEAST_SECONDS,
    LONGEST,
    MOST,
    MOST_SECONDS,
    arrivals_of,
    callback_of,
    counts_of,
    executor_of,
    flag_of,
    keys_of,
    kind_of_key,
    names_of,
    number_of,
    numbers_of,
    rows_of,
    settings_of,
    source_of,
    states_of,
    strategy_of,
    text_of,
    versions_of,
)
from hybridmu.system.frame_kinds import is_frame
from hybridmu.types import KeyKind, RequestState, StrategyChoice

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Check:
    """A check of one argument.

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
    return lambda name, value: text_of(name, value, least, LONGEST[what])


def _between(low: float, high: float, *, whole: bool) -> Callable[[str, Any], Any]:
    return lambda name, value: number_of(name, value, low, high, whole)


Watcher = Callable[[Snapshot], None]
Callback = _optional(callback_of)

Keys = Annotated[Iterable[object], Check(keys_of)]
Strategy = Annotated[StrategyChoice, Check(strategy_of)]
AnyStrategy = Annotated[StrategyChoice | None, _optional(strategy_of)]
Caller = Annotated[str, Check(_texts("caller", 0))]
AnyCaller = Annotated[str | None, _optional(_texts("caller", 0))]
IdempotencyKey = Annotated[str | None, _optional(_texts("key", 1))]
Reason = Annotated[str, Check(_texts("reason", 1))]
Kind = Annotated[KeyKind, Check(kind_of_key)]
Name = Annotated[str, Check(_texts("key", 1))]
AnyName = Annotated[str | None, _optional(_texts("key", 1))]
AnyNames = Annotated[str | Sequence[str] | None, _optional(lambda name, value: names_of(name, value, LONGEST["key"]))]
Deadline = Annotated[float | None, _optional(_between(LEAST_SECONDS, MOST_SECONDS, whole=False))]
Figure = Annotated[float, Check(_between(LEAST_SECONDS, MOST_SECONDS, whole=False))]
Moment = Annotated[float, Check(_between(0, MOST_SECONDS, whole=False))]
Share = Annotated[float, Check(_between(0, 1, whole=False))]
Count = Annotated[int, Check(_between(1, MOST, whole=True))]
AnyCount = Annotated[int | None, _optional(_between(1, MOST, whole=True))]
Slices = Annotated[int, Check(_between(1, 1000, whole=True))]
Number = Annotated[int, Check(_between(0, 2**63 - 1, whole=True))]
Shards = Annotated[Sequence[int] | None, _optional(numbers_of)]
Counts = Annotated[Sequence[int] | None, _optional(counts_of)]
Flag = Annotated[bool, Check(flag_of)]
Watch = Annotated[Watcher | None, Callback]
Executor = Annotated[Literal["auto", "ray", "local"], Check(executor_of)]
Configuration = Annotated[Settings, Check(settings_of)]
Source = Annotated[str | Path, Check(source_of)]
States = Annotated[Iterable[RequestState], Check(states_of)]
RowsOrFrame = Annotated[Any, Check(lambda name, value: value if is_frame(value) else rows_of(name, value))]
Versions = Annotated[Mapping[str, str] | None, _optional(versions_of)]
Arrivals = Annotated[Sequence[Arrival], Check(arrivals_of)]
