"""Parts of `System`: the class of each, imported when a verb of it is first asked for.

What trains, audits or answers imports PyTorch, and a look at the requests does not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from hybridmu.system.capacity import Capacity
    from hybridmu.system.deletion_requests import DeletionRequests
    from hybridmu.system.forgetting_audit import ForgettingAudit
    from hybridmu.system.maintenance import Maintenance
    from hybridmu.system.model_links import ModelLinks
    from hybridmu.system.model_quality import ModelQuality
    from hybridmu.system.new_rows import NewRows
    from hybridmu.system.operations import Operations
    from hybridmu.system.predictions import Predictions
    from hybridmu.system.request_reports import RequestReports
    from hybridmu.system.suggestions import Suggestions
    from hybridmu.system.training_exclusions import TrainingExclusions
    from hybridmu.system.training_runs import TrainingRuns
    from hybridmu.system.webhook_operations import Webhooks

_Kind = TypeVar("_Kind")
_T = TypeVar("_T")
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Whole(Protocol):
    """What the parts belong to: `System`."""

    def _part(self, kind: type[_T]) -> _T: ...


class Verb(Generic[_Kind, _P, _R]):
    """A method of `System` that is a part's method: its signature and its documentation are the part's.

    Args:
        load: Returns the part's class.
        method: Returns the method of that class.
    """

    def __init__(
        self, load: Callable[[], type[_Kind]], method: Callable[[type[_Kind]], Callable[Concatenate[_Kind, _P], _R]]
    ) -> None:
        self._load, self._method = load, method

    @overload
    def __get__(self, system: None, owner: type[Whole]) -> Callable[Concatenate[Whole, _P], _R]: ...

    @overload
    def __get__(self, system: Whole, owner: type[Whole]) -> Callable[_P, _R]: ...

    def __get__(self, system: Whole | None, owner: type[Whole]) -> Any:
        return self._call if system is None else MethodType(self._call, system)

    @functools.cached_property
    def _call(self) -> Callable[Concatenate[Whole, _P], _R]:
        part = self._load()
        method = self._method(part)

        @functools.wraps(method)
        def call(system: Whole, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            return method(system._part(part), *args, **kwargs)

        return call


class Part(Generic[_Kind]):
    """A part of `System`.

    Args:
        load: Imports its class and returns it.
    """

    def __init__(self, load: Callable[[], type[_Kind]]) -> None:
        self.load = load

    def verb(self, method: Callable[[type[_Kind]], Callable[Concatenate[_Kind, _P], _R]]) -> Verb[_Kind, _P, _R]:
        """Return a method of the part as one of `System`.

        Args:
            method: Returns it, from the part's class.
        """
        return Verb(self.load, method)


@Part
def training_runs() -> type[TrainingRuns]:
    """Return the class of training runs."""
    from hybridmu.system.training_runs import TrainingRuns

    return TrainingRuns


@Part
def predictions() -> type[Predictions]:
    """Return the class of predictions."""
    from hybridmu.system.predictions import Predictions

    return Predictions


@Part
def model_quality() -> type[ModelQuality]:
    """Return the class of evaluations."""
    from hybridmu.system.model_quality import ModelQuality

    return ModelQuality


@Part
def deletion_requests() -> type[DeletionRequests]:
    """Return the class of deletion requests."""
    from hybridmu.system.deletion_requests import DeletionRequests

    return DeletionRequests


@Part
def request_reports() -> type[RequestReports]:
    """Return the class of reports of requests."""
    from hybridmu.system.request_reports import RequestReports

    return RequestReports


@Part
def training_exclusions() -> type[TrainingExclusions]:
    """Return the class of exclusion manifests."""
    from hybridmu.system.training_exclusions import TrainingExclusions

    return TrainingExclusions


@Part
def new_rows() -> type[NewRows]:
    """Return the class of new rows."""
    from hybridmu.system.new_rows import NewRows

    return NewRows


@Part
def operations() -> type[Operations]:
    """Return the class of an operator's controls."""
    from hybridmu.system.operations import Operations

    return Operations


@Part
def maintenance() -> type[Maintenance]:
    """Return the class of maintenance."""
    from hybridmu.system.maintenance import Maintenance

    return Maintenance


@Part
def forgetting_audit() -> type[ForgettingAudit]:
    """Return the class of audits."""
    from hybridmu.system.forgetting_audit import ForgettingAudit

    return ForgettingAudit


@Part
def capacity() -> type[Capacity]:
    """Return the class of simulated loads."""
    from hybridmu.system.capacity import Capacity

    return Capacity


@Part
def model_links() -> type[ModelLinks]:
    """Return the class of linked models."""
    from hybridmu.system.model_links import ModelLinks

    return ModelLinks


@Part
def suggestions() -> type[Suggestions]:
    """Return the class of the price list."""
    from hybridmu.system.suggestions import Suggestions

    return Suggestions


@Part
def webhooks() -> type[Webhooks]:
    """Return the class of webhooks."""
    from hybridmu.system.webhook_operations import Webhooks

    return Webhooks
