"""Training of a system, its coordinator's loop, and the proof by retraining."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Annotated, Any

from hybridmu.config import Settings, left_out
from hybridmu.core.targets import learned
from hybridmu.errors import StateError
from hybridmu.kinds import LEARNERS
from hybridmu.runtime.audit.verification import verify
from hybridmu.runtime.coordinator.adoption import adopt
from hybridmu.runtime.coordinator.integrity import reporting
from hybridmu.runtime.coordinator.snapshot import Snapshot
from hybridmu.runtime.workers.task_checks import TaskChecks
from hybridmu.store.dataset.empty_slices import warnings_of
from hybridmu.store.dataset.ingest import ingest
from hybridmu.store.dataset.layout import Manifest
from hybridmu.store.ledger.database import Database
from hybridmu.store.ledger.file_recorder import Recorder
from hybridmu.store.ownership import bind, take
from hybridmu.system.arguments import Callback, Flag, Shards, Watch, Watcher, checked
from hybridmu.system.chosen_settings import chosen, clipped_columns
from hybridmu.system.encoding import encoding
from hybridmu.system.quality_reports import quality_of
from hybridmu.system.session import Session
from hybridmu.system.webhook_operations import sending


class TrainingRuns:
    """Training, the coordinator's loop and the oracle's proof of one system.

    Args:
        session: The open system.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @checked
    def train(self, watch: Watch = None, *, calibrate: Flag = False) -> dict[str, Any]:
        """Train every shard and publish version 1; does nothing when that was done already.

        Args:
            calibrate: Also delete canaries, within `policy.calibration_seconds`, so that updates can be chosen at once;
                otherwise a coordinator does it when nothing else is to do.
            watch: Called with a snapshot after every step, and while tables are read.

        Returns:
            JSON-able summary.

        Raises:
            StateError: Another coordinator is at work on this storage, or it is a successor without rows yet.
            ConfigError: The task can't be used: it is tried on a few rows before anything is stored; or a key can't.
        """
        started = time.perf_counter()
        session = self._session
        _ = session.site  # a task that can't be made costs nothing
        session.keyring.check()  # without them nothing could be forgotten, or certified
        self._claim_storage()
        warnings = self._read_source(watch)  # before a cluster is started: bad input costs nothing
        already = session.registry.served() is not None and not (calibrate and self._lacks_calibration())
        if not already:
            driver = session.coordination.acquire()
            snapshot = driver.begin_training(calibrate)
            while self._goes_on(snapshot, calibrate):
                snapshot = session.coordination.step(0.2)
                if watch:
                    watch(snapshot)
        version = session.registry.version()
        manifest = session.lake.manifest
        return {
            "already_trained": already,
            "version": version.version,
            "shards": len(version.shards),
            "voters": sum(sub.blob is not None for sub in version.shards),
            "rows": {split: sum(map(sum, shards)) for split, shards in manifest.rows.items()},
            "skipped": sum(generation.skipped for generation in manifest.generations),
            **_learned(manifest),
            "settings": _in_use(session.settings),
            "left_out": [f"{section}.{key}" for section, keys in left_out(session.given).items() for key in keys],
            "quality": quality_of(session, version.version).get(version.version),
            "calibrated": bool(session.measurements.calibration().buckets),
            "calibration": session.calibration_state(),
            "warnings": [*warnings, *warnings_of(session.lake)],
            "seconds": time.perf_counter() - started,
        }

    def _goes_on(self, snapshot: Snapshot, calibrate: bool) -> bool:
        """Return whether a training is not at its end: not published, not measured, or not calibrated as asked."""
        if self._session.registry.served() is None or snapshot.jobs_total or snapshot.evaluating:
            return True
        return calibrate and snapshot.calibrating

    def _claim_storage(self) -> None:
        """Make storage and database this system's; both may be already, but no other system's.

        Raises:
            StateError: It is a successor without rows yet, or its ledger lacks what storage knows.
        """
        session, settings, site = self._session, self._session.settings, self._session.site
        take(site.storage, settings)
        # The other verbs make no database.
        Database.open(settings.database, create=True, modes=site.storage.modes).close()
        if not site.lake.exists and session.database.links.predecessor():
            session.database.identity.bind(settings.identity(), create=False)  # a decommissioned one says so
            raise StateError("resharding is incomplete", remedy="repeat `hybridmu reshard`, which continues it")
        if site.lake.exists and session.database.identity.claimed() is None:
            raise StateError(
                f"{site.storage.url} has rows, but this ledger knows nothing: what was forgotten would come back",
                expected="the ledger that this storage was trained with",
                got="an empty ledger",
                remedy="correct database_url, or restore the ledger from a backup",
            )
        if not site.lake.exists:
            session.database.identity.refuse_taken()
            settings = chosen(session.given)  # what an earlier attempt chose was for the rows that it read
        else:
            settings = session.settings  # the ledger may have been of an older release until now
        bind(site.storage, session.database.identity, settings, create=True, replace=not site.lake.exists)
        session.complete_settings()
        adopt(session.site, session.database)

    def _read_source(self, watch: Callable[[Snapshot], None] | None) -> list[str]:
        """Return warnings of the source's tables, whose rows are in the lake now."""
        session, site = self._session, self._session.site
        recorder, checks = Recorder(site.lake, session.database), TaskChecks(site, self._workers_path())
        warnings: list[str] = []
        new = not site.lake.exists

        def count(rows: int) -> None:
            if watch:
                watch(Snapshot(None, jobs_total=0, jobs_done=0, open_requests=0, rows_read=rows))

        with encoding(session) as encode:
            ingest(site.lake, session.guard, recorder.begin, checks.of_table, warnings.append, count, encode)
        if new:
            warnings += clipped_columns(session.settings)
        if session.registry.served() is None:  # rows may be there already: a successor's, or of a broken training
            checks.of_lake(session.ledger.tombstones(), begins=True)
        return warnings

    @checked
    def run(self, *, until_idle: Flag = False, watch: Watch = None) -> Snapshot:
        """Be the coordinator until interrupted, or until no request is open; receivers of webhooks are told meanwhile.

        Args:
            until_idle: Return when every request is served, and what can be repaired and purged now is. Shards whose
                repair failed as often as `policy.max_attempts` says are `blocked` in the snapshot.
            watch: Called with a snapshot after every step.

        Returns:
            The last snapshot.
        """
        session = self._session
        session.check_bound()  # before a cluster is started
        with sending(session):
            return self._coordinate(until_idle, watch)

    def _coordinate(self, until_idle: bool, watch: Watcher | None) -> Snapshot:
        session, was_idle = self._session, False
        while True:
            snapshot = session.coordination.step(0.5)
            if watch:
                watch(snapshot)
            idle = snapshot.open_requests == snapshot.jobs_total == snapshot.ingestions == 0
            idle = idle and not (snapshot.purging or snapshot.repairing or snapshot.calibrating or snapshot.evaluating)
            # The step that finds nothing waiting any more is the one that starts repairs which are due by a deadline.
            if until_idle and idle and (was_idle or not session.registry.debts()):
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
        session = self._session
        processes = max(1, min(os.cpu_count() or 1, 8) // session.settings.threads)
        with reporting(session.site, session.database):
            return verify(session.settings, shards, processes, watch)

    def _workers_path(self) -> list[str] | None:
        session = self._session
        if session.executor == "local":
            return None
        from hybridmu.cluster.resources import workers_path

        return workers_path(session.settings)

    def _lacks_calibration(self) -> bool:
        session = self._session
        canaries = session.canaries()
        return not session.ledger.tombstones() and bool(canaries.lacking())


def _in_use(settings: Settings) -> dict[str, Any]:
    """Return what shaped the training, of what a configuration may leave out."""
    sisa, optimizer = settings.sisa, settings.optimizer
    return {
        **sisa.model_dump(include={"shards", "slices", "epochs", "batch_size"}),
        **optimizer.model_dump(exclude={"name", "extrapolation"}),
        "optimizer": optimizer.name,
        "standardize": settings.data.standardize,
        "scale": settings.data.scale,
        "task": settings.task.name,
        **({"learner": settings.learner.name} if settings.learner.name != LEARNERS.default else {}),
        **settings.task.options,
    }


def _learned(manifest: Manifest) -> dict[str, Any]:
    """Return what is learned: the classes, and whether they were read off the table; or the target columns."""
    found = learned(manifest.encoder)
    return {**found, "classes_inferred": manifest.classes_inferred} if "classes" in found else found
