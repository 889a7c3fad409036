"""The verbs of HybridMU as a Python object; the command line and the jobs are thin shells around it.

Example:
    >>> import hybridmu
    >>> system = hybridmu.connect("examples/digits.yaml", executor="local")  # doctest: +SKIP
    >>> system.train(); system.forget(ids=[17], wait=True); system.verify()["bitwise_equal"]  # doctest: +SKIP
    True
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from hybridmu import config
from hybridmu.config import Settings
from hybridmu.system.arguments import Configuration, Executor, Watcher, checked
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
from hybridmu.system.session import Session
from hybridmu.system.training_runs import TrainingRuns

__all__ = ["System", "Watcher", "connect"]

_Part = TypeVar("_Part")
_T = TypeVar("_T")
_P = ParamSpec("_P")
_R = TypeVar("_R")
PARTS = (
    TrainingRuns,
    Predictions,
    ModelQuality,
    DeletionRequests,
    RequestReports,
    NewRows,
    Operations,
    Maintenance,
    ForgettingAudit,
    Capacity,
    ModelLinks,
)


def _verb(part: type[_Part], method: Callable[Concatenate[_Part, _P], _R]) -> Callable[Concatenate[System, _P], _R]:
    """Return a method of `System` that is a part's method: its signature and its documentation are the part's."""

    @functools.wraps(method)
    def call(system: System, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return method(system._parts[part], *args, **kwargs)

    return call


class _Shared(Generic[_T]):
    """An attribute of `System` that is its session's."""

    def __init__(self, of: Callable[[Session], _T]) -> None:
        self._of = of

    def __get__(self, system: System, owner: type[System]) -> _T:
        return self._of(system.session)


class System:
    """One unlearning system: its data, model, ledger and cluster.

    Every verb is defined in one of the parts, all of which share `session`.

    Args:
        settings: The configuration.
        executor: `ray`, or `local` to run everything in this process.
    """

    @checked
    def __init__(self, settings: Configuration, executor: Executor = "ray") -> None:
        self.session = Session(settings, executor)
        self._parts: dict[type[Any], Any] = {part: part(self.session) for part in PARTS}

    @checked
    def close(self) -> None:
        """Release the lease and stop what this object started."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    settings = _Shared(lambda session: session.settings)
    executor = _Shared(lambda session: session.executor)
    site = _Shared(lambda session: session.site)
    keyring = _Shared(lambda session: session.keyring)
    guard = _Shared(lambda session: session.guard)
    ledger = _Shared(lambda session: session.ledger)
    registry = _Shared(lambda session: session.registry)
    replicas = _Shared(lambda session: session.replicas)
    lease = _Shared(lambda session: session.lease)
    ingestions = _Shared(lambda session: session.ingestions)
    measurements = _Shared(lambda session: session.measurements)
    controls = _Shared(lambda session: session.controls)
    database = _Shared(lambda session: session.database)
    linked = _Shared(lambda session: session.linked)

    train = _verb(TrainingRuns, TrainingRuns.train)
    run = _verb(TrainingRuns, TrainingRuns.run)
    verify = _verb(TrainingRuns, TrainingRuns.verify)

    feature_columns = _verb(Predictions, Predictions.feature_columns)
    predict = _verb(Predictions, Predictions.predict)
    predict_rows = _verb(Predictions, Predictions.predict_rows)
    evaluate = _verb(ModelQuality, ModelQuality.evaluate)

    plan = _verb(DeletionRequests, DeletionRequests.plan)
    forget = _verb(DeletionRequests, DeletionRequests.forget)
    has_numbers = _verb(DeletionRequests, DeletionRequests.has_numbers)
    cancel = _verb(DeletionRequests, DeletionRequests.cancel)
    retry = _verb(DeletionRequests, DeletionRequests.retry)
    wait = _verb(DeletionRequests, DeletionRequests.wait)
    requests = _verb(RequestReports, RequestReports.requests)
    page = _verb(RequestReports, RequestReports.page)
    report = _verb(RequestReports, RequestReports.report)

    ingest = _verb(NewRows, NewRows.ingest)
    correct = _verb(NewRows, NewRows.correct)
    ingestion = _verb(NewRows, NewRows.ingestion)
    ingests = _verb(NewRows, NewRows.ingests)
    wait_for_rows = _verb(NewRows, NewRows.wait_for_rows)
    readmit = _verb(NewRows, NewRows.readmit)
    accept_guard_loss = _verb(NewRows, NewRows.accept_guard_loss)

    pause = _verb(Operations, Operations.pause)
    resume = _verb(Operations, Operations.resume)
    hold = _verb(Operations, Operations.hold)
    lift = _verb(Operations, Operations.lift)
    holds = _verb(Operations, Operations.holds)
    vitals = _verb(Operations, Operations.vitals)
    status = _verb(Operations, Operations.status)

    checkpoints = _verb(Maintenance, Maintenance.checkpoints)
    upgrade = _verb(Maintenance, Maintenance.upgrade)
    rewrite_tables = _verb(Maintenance, Maintenance.rewrite_tables)
    replay = _verb(Maintenance, Maintenance.replay)
    mend = _verb(Maintenance, Maintenance.mend)
    decommission = _verb(Maintenance, Maintenance.decommission)

    audit = _verb(ForgettingAudit, ForgettingAudit.audit)

    size = _verb(Capacity, Capacity.size)
    simulate = _verb(Capacity, Capacity.simulate)
    arrival = _verb(Capacity, Capacity.arrival)

    link = _verb(ModelLinks, ModelLinks.link)
    models = _verb(ModelLinks, ModelLinks.models)
    retire = _verb(ModelLinks, ModelLinks.retire)
    reshard = _verb(ModelLinks, ModelLinks.reshard)


@checked
def connect(settings: Settings | dict[str, Any] | str | Path, executor: Executor = "ray") -> System:
    """Open a system; the entry point for notebooks.

    Args:
        settings: Settings, a mapping of them, or the path of a YAML file.
        executor: `ray`, or `local` to run in this process.

    Returns:
        The system; use it as a context manager to release what it starts.
    """
    if isinstance(settings, dict):
        settings = Settings.parse(settings)
    elif isinstance(settings, (str, Path)):
        settings = config.load(settings)
    return System(settings, executor)
