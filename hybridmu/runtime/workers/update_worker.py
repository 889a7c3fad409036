"""Updater: the centralized approximate update, on a small pool apart from the shard actors."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from typing import assert_never

import numpy as np

from hybridmu.config import Settings
from hybridmu.core.kernel.model import State, finite
from hybridmu.core.proof.lineage import Lineage, head
from hybridmu.core.strategies import get
from hybridmu.errors import CorruptBlobError, StrategyUnavailableError
from hybridmu.runtime.purge.row_purge import foresee_indexes, purge_indexes
from hybridmu.runtime.purge.storage_scan import Look, drop_old_versions
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.shadow_trainer import score_shadow_models
from hybridmu.runtime.workers.slice_roots import Mask, SliceRoots
from hybridmu.runtime.workers.version_evaluator import VersionEvaluator
from hybridmu.store.dataset.shard_reader import ShardTables
from hybridmu.types import (
    AuditJob,
    AuditOutcome,
    EvaluateJob,
    EvaluationOutcome,
    ForeseeIndexJob,
    ForeseeIndexOutcome,
    PurgeIndexJob,
    PurgeIndexOutcome,
    SearchJob,
    SearchOutcome,
    ShardOutcome,
    SliceRecord,
    UpdateJob,
    UpdaterJob,
    UpdaterResult,
)
from hybridmu.user_code import placed

# An update asks for some checkpoints twice, soon after each other; one that is not needed any more should go.
_STATES = 3


class Updater:
    """Changes the current parameters of any shard directly; keeps keyed hashes of a shard's rows, and no row.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self.site = Site(settings)
        self.site.configure_torch()
        self._evaluator = VersionEvaluator(self.site)
        # Shard → the seals of its tables, and what names the sub-models of their rows.
        self._roots: dict[int, tuple[tuple[str, ...], SliceRoots]] = {}

    def ready(self) -> bool:
        """Return True once the process is up."""
        return True

    def run(self, job: UpdaterJob) -> UpdaterResult:
        """Do a job, whichever it is.

        Args:
            job: On any shard, or on what all shards share.

        Returns:
            The outcome that belongs to its type.
        """
        match job:
            case UpdateJob():
                return self.update(job)
            case AuditJob():
                return self.audit(job)
            case EvaluateJob():
                return self.evaluate(job)
            case ForeseeIndexJob():
                return self.foresee_index(job)
            case PurgeIndexJob():
                return self.purge_index(job)
            case SearchJob():
                return self.search(job)
            case _:
                assert_never(job)

    @placed
    def update(self, job: UpdateJob) -> ShardOutcome:
        """Run the job's strategy.

        The revoked rows are read here because the plan names this removal. Only the result of an exact strategy, which
        changes the exact sub-model of the rows that were live before, enters the lineage map.

        Args:
            job: Names shard, strategy, rows and α.

        Returns:
            New weights; not exact unless the strategy is.

        Raises:
            StrategyUnavailableError: A checkpoint is missing or corrupt, the strategy does not fit the optimizer, or it
                gave weights that are not finite.
        """
        started = time.perf_counter()
        site, shard = self.site, job.shard
        site.expect(job)
        tables = site.lake.shard("train", shard, job.generations)
        keys = tables.outline
        stays, out = ~tables.carrying(job.tombstones), tables.carrying(job.removed)
        goes = tables.carrying(job.revoked) & ~out  # only what the current weights still contain is subtracted
        live, revoked = np.flatnonzero(stays), np.flatnonzero(goes)
        current = self._state(job.current_blob or "")
        state = lru_cache(_STATES)(self._state)
        read = 0
        strategy = get(job.strategy)
        chain = self._chain(job, tables, stays, goes, ~out) if strategy.exact else None

        def checkpoint(slice_: int) -> State:
            nonlocal read
            read += 1
            blob = self._checkpoint(job, slice_)
            return current if blob == job.current_blob else state(blob)

        held_out = site.lake.rows("validation", shard, job.tombstones) if strategy.validates else None
        context = site.strategy_context(
            shard,
            keys.take(live[:0] if strategy.blind else live),
            keys.take(revoked),
            generations=job.generations,
            checkpoint=checkpoint,
            current=current,
            held_out=None if held_out is None else held_out.to(site.device),
            alpha=job.alpha,
        )
        going, part = tables.rows(revoked, live[strategy.reads(context)])
        result = strategy.run(
            replace(context, revoked=going.to(site.device), part=part.to(site.device), remaining=len(live))
        )
        if not finite(result.state):  # a loss that is no number for one of the rows is enough
            raise StrategyUnavailableError(
                f"{job.strategy} gave weights that are not finite", expected="numbers", remedy="use strategy retrain"
            )
        blob = site.blobs.put(result.state, shard)
        made = ShardOutcome(
            job_id=job.job_id,
            shard=shard,
            strategy=job.strategy,
            blob=blob,
            exact=False,
            upto=job.upto,
            live=len(live),
            first_slice=result.first_slice,
            visits=result.visits,
            seconds=time.perf_counter() - started,
            checkpoints_read=read,
            rows_read=len(live),
        )
        if chain is None:
            return made
        site.blobs.record(shard, chain.keys[-1], blob)
        seconds = time.perf_counter() - started
        record = SliceRecord(len(chain.keys), chain.keys[-1], blob, result.visits, seconds)
        return replace(
            made,
            exact=True,
            head=chain.head,
            slices=(record,),
            generations=job.generations,
            seconds=seconds,
            checkpoints_read=1,
            rows_read=len(revoked),
        )

    def _chain(self, job: UpdateJob, tables: ShardTables, stays: Mask, goes: Mask, held: Mask) -> Lineage:
        """Return the lineage of the live rows, once the current sub-model is known to be the exact one of those before.

        Args:
            job: Names the current sub-model.
            tables: All rows.
            stays: Those that are live, bool [n].
            goes: Those that are subtracted.
            held: Those that the current sub-model is said to be of.

        Raises:
            StrategyUnavailableError: The current sub-model is another one: of other rows, or made by other code.
        """
        if (stays & goes).any() or not np.array_equal(stays | goes, held):
            raise StrategyUnavailableError(
                "the rows that go and those that stay are not all that the current sub-model is of",
                remedy="use strategy retrain",
            )
        site, shard = self.site, job.shard
        recipe = site.recipe_for(shard, job.generations)
        shaping = head(site.lineage_static(), recipe, shard)
        seals, roots = self._roots.get(shard, ((), None))
        if roots is None or seals != tables.seals:
            roots = SliceRoots(tables.outline, site.lake.manifest.salt)
            self._roots[shard] = tables.seals, roots
        name = roots.lineage(shaping, held, recipe.epochs).keys[-1]
        if job.current_blob is None or site.blobs.find(shard, name) != job.current_blob:
            raise StrategyUnavailableError(
                "the current sub-model is not the exact one of the rows that were live",
                remedy="use strategy retrain",
            )
        return roots.lineage(shaping, stays, recipe.epochs)

    @placed
    def audit(self, job: AuditJob) -> AuditOutcome:
        """Make shadow models of a shard, and measure them; nothing is written.

        Args:
            job: As in `shadow_trainer.py`.

        Returns:
            Their scores.
        """
        return score_shadow_models(self.site, job)

    @placed
    def evaluate(self, job: EvaluateJob) -> EvaluationOutcome:
        """Measure the quality of a version on held-out rows; nothing is written.

        Args:
            job: As in `version_evaluator.py`.

        Returns:
            Its metrics.
        """
        return self._evaluator.evaluate(job)

    def purge_index(self, job: PurgeIndexJob) -> PurgeIndexOutcome:
        """Remove rows from the index files, which all shards share.

        Args:
            job: Names shard and id of the rows, and the content of those in the training table.

        Returns:
            How many index files were rewritten, and how many training rows of the same content are left.
        """
        self.site.expect(job)
        self._roots.clear()  # hashes of rows that are going too
        done, twins = purge_indexes(self.site.lake, job.rows, job.content)
        return PurgeIndexOutcome(job.job_id, len(done), twins)

    def foresee_index(self, job: ForeseeIndexJob) -> ForeseeIndexOutcome:
        """Work out what the index files will hold without rows; nothing is changed.

        Args:
            job: As for `purge_index`.

        Returns:
            The seals of the files, now and then.
        """
        self.site.expect(job)
        seals = foresee_indexes(self.site.lake, job.rows, job.content)
        return ForeseeIndexOutcome(job.job_id, tuple((name, *both) for name, both in seals.items()))

    def search(self, job: SearchJob) -> SearchOutcome:
        """Search storage for what was purged, after deleting what a versioned bucket keeps of it.

        Args:
            job: Names the needles, and the shards whose files were purged.

        Returns:
            The files that still hold one.
        """
        self.site.expect(job)
        versions = drop_old_versions(self.site.lake, job.purged_shards)
        found, looked = Look(self.site.lake, job.needles, job.database, job.waiting).run()
        names = tuple((name, tuple(sorted(held))) for name, held in found.items())
        return SearchOutcome(job.job_id, names, tuple({**looked, "old_versions": versions}.items()))

    def _checkpoint(self, job: UpdateJob, slice_: int) -> str:
        if len(job.trajectory) < slice_:
            raise StrategyUnavailableError(f"no checkpoint after slice {slice_}", remedy="use strategy retrain")
        return job.trajectory[slice_ - 1]

    def _state(self, blob: str) -> State:
        try:
            return self.site.blobs.get(blob)
        except CorruptBlobError as error:
            raise StrategyUnavailableError(
                "a checkpoint that the update needs can't be read", got=error.what, remedy="use strategy retrain"
            ) from None
