"""The verbs of HybridMU as a Python object; the command line and the jobs are thin shells around it.

Example:
    >>> import hybridmu
    >>> system = hybridmu.connect("examples/digits.yaml", executor="local")  # doctest: +SKIP
    >>> system.train(); system.forget(ids=[17], wait=True); system.verify()["bitwise_equal"]  # doctest: +SKIP
    True
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from hybridmu import config
from hybridmu.config import Settings
from hybridmu.core.kernel.table_encoder import Column
from hybridmu.datasets import catalog
from hybridmu.errors import (
    RequestError,
    StateError,
)
from hybridmu.runtime.audit.verification import verify
from hybridmu.runtime.coordinator.adoption import adopt
from hybridmu.runtime.coordinator.canary_jobs import Canaries
from hybridmu.runtime.coordinator.coordinator import Snapshot
from hybridmu.runtime.coordinator.integrity import reporting
from hybridmu.runtime.linked.peer import opened
from hybridmu.runtime.linked.resharding import prepare
from hybridmu.runtime.workers.task_checks import TaskChecks
from hybridmu.serving.ensemble import Ensemble
from hybridmu.store.dataset.empty_slices import warnings_of
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.store.ownership import bind, take
from hybridmu.system.arguments import (
    Callback,
    Caller,
    Configuration,
    Executor,
    Flag,
    Name,
    Reason,
    RowList,
    Shards,
    Watch,
    Watcher,
    checked,
)
from hybridmu.system.audits import Auditing
from hybridmu.system.capacity import Sizing
from hybridmu.system.new_rows import NewRows
from hybridmu.system.operations import Operating

__all__ = ["System", "Watcher", "connect"]


class System(NewRows, Operating, Auditing, Sizing):
    """One unlearning system: its data, model, ledger and cluster.

    Args:
        settings: The configuration.
        executor: `ray`, or `local` to run everything in this process.
    """

    @checked
    def train(self, watch: Watch = None) -> dict[str, Any]:
        """Train every shard and publish version 1; does nothing when that was done already.

        Args:
            watch: Called with a snapshot after every step.

        Returns:
            JSON-able summary.

        Raises:
            StateError: Another coordinator is at work on this storage, or it is a successor without rows yet.
            ConfigError: The task can't be used: it is tried on a few rows before anything is stored; or a key can't.
        """
        started = time.perf_counter()
        self.keyring.check()  # without them nothing could be forgotten, or certified
        take(self.site.storage, self.settings)
        # The other verbs make no database.
        Database.open(self.settings.database, create=True, modes=self.site.storage.modes).close()
        # Reading the source happens here, before a cluster is started: bad input costs nothing.
        if not self.site.lake.exists and self.database.links.predecessor():
            self.database.identity.bind(self.settings.identity(), create=False)  # a decommissioned one says so
            raise StateError("this is a successor in the making", remedy="go on with `hybridmu reshard`")
        if self.site.lake.exists and self.database.identity.claimed() is None:
            raise StateError(
                f"{self.site.storage.url} has rows, but this ledger knows nothing: what was forgotten would come back",
                expected="the ledger that this storage was trained with",
                got="an empty ledger",
                remedy="correct database_url, or restore the ledger from a backup",
            )
        bind(self.site.storage, self.database.identity, self.settings, create=True, replace=not self.site.lake.exists)
        adopt(self.site, self.database)
        recorder, checks = Recorder(self.site.lake, self.database), TaskChecks(self.site, self._workers_path())
        warnings: list[str] = []
        ingest(self.site.lake, self.guard, recorder.begin, checks.of_table, warnings.append)
        if self.registry.served() is None:  # rows may be there already: a successor's, or of a training that broke off
            checks.of_lake(self.ledger.tombstones(), begins=True)
        already = self.registry.served() is not None and not self._lacks_calibration()
        if not already:
            driver = self._acquire()
            snapshot = driver.begin_training()
            while self.registry.served() is None or snapshot.jobs_total or snapshot.calibrating:
                snapshot = self._step(0.2)
                if watch:
                    watch(snapshot)
        version = self.registry.version()
        manifest = self.site.lake.manifest
        return {
            "already_trained": already,
            "version": version.version,
            "shards": len(version.shards),
            "voters": sum(sub.blob is not None for sub in version.shards),
            "rows": {split: sum(map(sum, shards)) for split, shards in manifest.rows.items()},
            "skipped": sum(generation.skipped for generation in manifest.generations),
            "classes": list(manifest.encoder.classes),
            "classes_inferred": manifest.classes_inferred,
            "calibrated": bool(self.measurements.calibration().buckets),
            "warnings": [*warnings, *warnings_of(self.site.lake)],
            "seconds": time.perf_counter() - started,
        }

    @checked
    def run(self, *, until_idle: Flag = False, watch: Watch = None) -> Snapshot:
        """Be the coordinator until interrupted, or until no request is open.

        Args:
            until_idle: Return when every request is served, and what can be repaired and purged now is. Shards whose
                repair failed as often as `policy.max_attempts` says are `blocked` in the snapshot.
            watch: Called with a snapshot after every step.

        Returns:
            The last snapshot.
        """
        self._check_bound()  # before a cluster is started
        was_idle = False
        while True:
            snapshot = self._step(0.5)
            if watch:
                watch(snapshot)
            idle = snapshot.open_requests == snapshot.jobs_total == snapshot.ingestions == 0
            idle = idle and not (snapshot.purging or snapshot.calibrating or snapshot.repairing)
            # The step that finds nothing waiting any more is the one that starts repairs which are due by a deadline.
            if until_idle and idle and (was_idle or not self.registry.debts()):
                return snapshot
            was_idle = idle

    @checked
    def verify(
        self, shards: Shards = None, watch: Annotated[Callable[[int, int], None] | None, Callback] = None
    ) -> dict[str, Any]:
        """Return a proof of the live sub-models against a from-scratch training in fresh processes.

        Args:
            shards: Which shards; all by default.
            watch: Called with (shards done, shards in all) while the oracle trains.

        Returns:
            See `runtime.audit.verification`.
        """
        processes = max(1, min(os.cpu_count() or 1, 8) // self.settings.threads)
        with reporting(self.site, self.database):
            return verify(self.settings, shards, processes, watch)

    @checked
    def feature_columns(self) -> tuple[Column, ...]:
        """Return the columns that a row to be classified has, in the order of the training table.

        Raises:
            StateError: Nothing was trained here.
        """
        self._check_bound()
        return self.site.lake.manifest.encoder.columns

    @checked
    def predict(self, rows: RowList) -> dict[str, Any]:
        """Return predictions of rows, offline, by the served version; the same answer as the HTTP endpoint.

        Args:
            rows: Each as column → value with every feature column.

        Raises:
            ConfigError: The task makes no model that the stored weights fit.
            DataError: A row can't be answered.
            StateError: Nothing was trained here, or no shard is left to vote.
        """
        self._check_bound()
        with reporting(self.site, self.database):
            ensemble = Ensemble.load(self.site, self.registry.version())
        return ensemble.answer(ensemble.encode(rows))

    @checked
    def link(self, settings: Configuration) -> list[dict[str, Any]]:
        """Link another model over the same people: from now on a deletion that one of them accepts reaches both.

        All models that either is linked with are linked with each other. What any of them has forgotten before is
        forgotten in all when this returns, or a request there. Repeated after a crash or a restore, it does what is
        missing.

        Args:
            settings: The other model's configuration.

        Returns:
            As `models`.

        Raises:
            StateError: One of them is not trained, they don't have the same keys, or rows are on their way in.
            ConfigError: A configuration holds a password.
        """
        self._check_bound()
        self.linked.link(settings.model_copy(update={"data": catalog.resolve(settings.data)}))
        return self.models()

    @checked
    def models(self) -> list[dict[str, Any]]:
        """Return this model and all that it is or was linked with, read live, as JSON-able data."""
        self._check_bound()
        return self.linked.all()

    @checked
    def retire(self, *names: Name, reason: Reason, caller: Caller = "", lost: Flag = False) -> list[dict[str, Any]]:
        """Decommission linked models, after their own requests are delivered; certificates and guards stay.

        Args:
            names: Which, as `models` names them.
            reason: Why, for the log.
            caller: Who.
            lost: They are out of reach for good: end the links only. Nothing of theirs is deleted by that.

        Returns:
            What went and what stays, per model; repeated after a crash, it finishes what was begun.

        Raises:
            StateError: There is no such model, its coordinator runs, a legal hold is in force, or it has requests that
                can't be delivered.
            RequestError: There is no reason.
        """
        self._check_bound()
        if not names:
            raise RequestError("no model is retired", expected="at least one name")
        return self.linked.retire(names, reason, caller, lost=lost)

    @checked
    def reshard(self, settings: Configuration, watch: Watch = None) -> dict[str, Any]:
        """Make a successor of this model: its live rows in other shards and slices, or for another task or optimizer.

        It is linked first, so requests that come meanwhile reach it, then trained on all live rows as one generation.
        This model goes on answering until it is retired. Repeated after a crash, it goes on.

        Args:
            settings: The successor's configuration: the same `data` section and keys, another storage and database.
            watch: Called with a snapshot after every step of its training.

        Returns:
            JSON-able summary of the training, the successor's ancestry, and all linked models.

        Raises:
            StateError: Rows are on their way in, something else is in the successor's storage, or the two read other
                data or have other keys.
        """
        self._look()
        self.close()  # its training needs what a coordinator of ours holds
        settings = settings.model_copy(update={"data": catalog.resolve(settings.data)})
        with opened(self.settings) as old:
            prepare(old, settings)
        with System(settings, self.executor) as successor:
            summary = successor.train(watch)
            ancestry = successor.site.lake.manifest.ancestry
        assert ancestry is not None
        self.linked.link(settings)  # it has rows now: nothing that was forgotten meanwhile may be among them
        delivered = self.linked.deliver()
        past = {"name": ancestry.name, "system": ancestry.system, "version": ancestry.version}
        past |= {"tombstones": ancestry.tombstones, "rows": ancestry.rows, "root": ancestry.root}
        return {**summary, "predecessor": past, "delivered": delivered, "models": self.models()}

    def _workers_path(self) -> list[str] | None:
        if self.executor == "local":
            return None
        from hybridmu.cluster.resources import workers_path

        return workers_path(self.settings)

    def _lacks_calibration(self) -> bool:
        canaries = Canaries(self.site, self.ledger, self.measurements, self.registry)
        return not self.ledger.tombstones() and bool(canaries.lacking())


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
