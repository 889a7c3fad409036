"""The verbs of HybridMU as a Python object; the command line and the jobs are thin shells around it.

Example:
    >>> import hybridmu
    >>> system = hybridmu.connect("examples/digits.yaml", executor="local")  # doctest: +SKIP
    >>> system.train(); system.forget(ids=[17], wait=True); system.verify()["bitwise_equal"]  # doctest: +SKIP
    True
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from hybridmu import config
from hybridmu.config import Settings
from hybridmu.system import parts
from hybridmu.system.arguments import Configuration, Executor, Watcher, checked
from hybridmu.system.session import Session

__all__ = ["System", "Watcher", "connect"]

_T = TypeVar("_T")


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
        executor: `ray`, `local` to run everything in this process, or `auto`: on a cluster where one is there.
    """

    @checked
    def __init__(self, settings: Configuration, executor: Executor = "auto") -> None:
        self.session = Session(settings, executor)
        self._parts: dict[type[Any], Any] = {}

    @checked
    def close(self) -> None:
        """Release the lease and stop what this object started."""
        self.session.close()

    def _part(self, kind: type[_T]) -> _T:
        """Return this system's object of a part, made when it is first asked for."""
        if kind not in self._parts:
            self._parts[kind] = kind(self.session)  # type: ignore[call-arg]
        found: _T = self._parts[kind]
        return found

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

    train = parts.training_runs.verb(lambda part: part.train)
    run = parts.training_runs.verb(lambda part: part.run)
    verify = parts.training_runs.verb(lambda part: part.verify)

    feature_columns = parts.predictions.verb(lambda part: part.feature_columns)
    predict = parts.predictions.verb(lambda part: part.predict)
    predict_rows = parts.predictions.verb(lambda part: part.predict_rows)
    evaluate = parts.model_quality.verb(lambda part: part.evaluate)

    plan = parts.deletion_requests.verb(lambda part: part.plan)
    forget = parts.deletion_requests.verb(lambda part: part.forget)
    has_numbers = parts.deletion_requests.verb(lambda part: part.has_numbers)
    cancel = parts.deletion_requests.verb(lambda part: part.cancel)
    approve = parts.deletion_requests.verb(lambda part: part.approve)
    retry = parts.deletion_requests.verb(lambda part: part.retry)
    wait = parts.deletion_requests.verb(lambda part: part.wait)
    requests = parts.request_reports.verb(lambda part: part.requests)
    page = parts.request_reports.verb(lambda part: part.page)
    report = parts.request_reports.verb(lambda part: part.report)
    certificate = parts.request_reports.verb(lambda part: part.certificate)
    exclusions = parts.training_exclusions.verb(lambda part: part.exclusions)

    ingest = parts.new_rows.verb(lambda part: part.ingest)
    correct = parts.new_rows.verb(lambda part: part.correct)
    ingestion = parts.new_rows.verb(lambda part: part.ingestion)
    ingests = parts.new_rows.verb(lambda part: part.ingests)
    wait_for_rows = parts.new_rows.verb(lambda part: part.wait_for_rows)
    readmit = parts.new_rows.verb(lambda part: part.readmit)
    accept_guard_loss = parts.new_rows.verb(lambda part: part.accept_guard_loss)

    pause = parts.operations.verb(lambda part: part.pause)
    resume = parts.operations.verb(lambda part: part.resume)
    hold = parts.operations.verb(lambda part: part.hold)
    lift = parts.operations.verb(lambda part: part.lift)
    holds = parts.operations.verb(lambda part: part.holds)
    vitals = parts.operations.verb(lambda part: part.vitals)
    status = parts.operations.verb(lambda part: part.status)

    webhooks = parts.webhooks.verb(lambda part: part.webhooks)
    retry_webhooks = parts.webhooks.verb(lambda part: part.retry_webhooks)
    drop_webhooks = parts.webhooks.verb(lambda part: part.drop_webhooks)
    test_webhooks = parts.webhooks.verb(lambda part: part.test_webhooks)
    send_webhooks = parts.webhooks.verb(lambda part: part.send_webhooks)

    checkpoints = parts.maintenance.verb(lambda part: part.checkpoints)
    upgrade = parts.maintenance.verb(lambda part: part.upgrade)
    rewrite_tables = parts.maintenance.verb(lambda part: part.rewrite_tables)
    replay = parts.maintenance.verb(lambda part: part.replay)
    mend = parts.maintenance.verb(lambda part: part.mend)
    decommission = parts.maintenance.verb(lambda part: part.decommission)

    audit = parts.forgetting_audit.verb(lambda part: part.audit)

    suggest = parts.suggestions.verb(lambda part: part.suggest)
    size = parts.capacity.verb(lambda part: part.size)
    simulate = parts.capacity.verb(lambda part: part.simulate)
    arrival = parts.capacity.verb(lambda part: part.arrival)

    link = parts.model_links.verb(lambda part: part.link)
    models = parts.model_links.verb(lambda part: part.models)
    retire = parts.model_links.verb(lambda part: part.retire)
    reshard = parts.model_links.verb(lambda part: part.reshard)


@checked
def connect(settings: Settings | dict[str, Any] | str | Path, executor: Executor = "auto") -> System:
    """Open a system; the entry point for notebooks.

    Args:
        settings: Settings, a mapping of them, or the path of a YAML file.
        executor: `ray` joins or starts a cluster, `local` runs everything in this process, `auto` uses a cluster where
            one is there: `cluster.address`, a Ray job, one that this process joined or that runs on this machine.

    Returns:
        The system; use it as a context manager to release what it starts.
    """
    if isinstance(settings, dict):
        settings = Settings.parse(settings)
    elif isinstance(settings, (str, Path)):
        settings = config.load(settings)
    return System(settings, executor)
