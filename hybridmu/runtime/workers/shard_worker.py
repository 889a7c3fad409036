"""ShardWorker: one shard's rows and its sub-model. Becomes a Ray actor in `cluster/actors.py`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import assert_never

from hybridmu.config import Settings
from hybridmu.core.kernel.model import State
from hybridmu.core.kernel.partition import derive
from hybridmu.core.kernel.training import Across
from hybridmu.core.strategies import get
from hybridmu.errors import StorageError
from hybridmu.kinds import FALLBACK
from hybridmu.runtime.purge.row_purge import foresee_rows, purge_rows, sweep
from hybridmu.runtime.purge.survey import survey
from hybridmu.runtime.workers import canary_trainer
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.evidence_builder import Prover
from hybridmu.runtime.workers.live_rows import LiveRows
from hybridmu.store.storage.audit_scores import Audits
from hybridmu.types import (
    CalibrateJob,
    CalibrationOutcome,
    ForeseeRowsJob,
    ForeseeRowsOutcome,
    KeySet,
    Proof,
    ProofOutcome,
    ProveJob,
    PurgeRowsJob,
    PurgeRowsOutcome,
    RequestNeed,
    RetrainJob,
    ShardJob,
    ShardOutcome,
    ShardResult,
    SliceRecord,
    Tombstone,
)
from hybridmu.user_code import placed, told


class ShardWorker:
    """Owns one shard for its whole life; everything it holds is restored from storage.

    Args:
        settings: The configuration.
        shard: Shard number.
    """

    def __init__(self, settings: Settings, shard: int) -> None:
        self.site = Site(settings)
        self.site.configure_torch()
        self.shard = shard
        self.blob: str | None = None
        self._rows = LiveRows(self.site, shard)
        self._across: Across | None = None  # set where several processes share this shard's work
        self._saves = True  # one of them does

    def ready(self) -> int:
        """Return the shard number; answers once the process is up."""
        return self.shard

    def run(self, job: ShardJob) -> ShardResult:
        """Do a job, whichever it is.

        Args:
            job: On this worker's shard.

        Returns:
            The outcome that belongs to its type.
        """
        match job:
            case RetrainJob():
                return self.retrain(job)
            case CalibrateJob():
                return self.calibrate(job)
            case ProveJob():
                return self.prove(job)
            case ForeseeRowsJob():
                return self.foresee(job)
            case PurgeRowsJob():
                return self.purge(job)
            case _:
                assert_never(job)

    @placed
    def retrain(self, job: RetrainJob) -> ShardOutcome:
        """Retrain exactly without the job's tombstoned rows, from the last clean checkpoint on.

        Every finished slice is published at once, so a retry after a crash goes on from there.

        Args:
            job: Names the tombstones.

        Returns:
            New weights and what they cost; `blob` is None when no row is left.
        """
        started, already = time.perf_counter(), self._rows.read
        made = self._train(job, started)
        return replace(made, seconds=time.perf_counter() - started, rows_read=self._rows.read - already)

    def _train(self, job: RetrainJob, started: float) -> ShardOutcome:
        """Return what a retrain makes; the caller says how long it took."""
        self.site.expect(job)
        live = self._rows.without(job.tombstones, job.generations)
        recipe = self.site.recipe_for(self.shard, job.generations)
        chain = self._rows.lineage(live, recipe)
        keys = chain.keys
        if job.mend:
            self.site.blobs.mend(self.shard, keys)
        nothing = ShardOutcome(
            job_id=job.job_id,
            shard=self.shard,
            strategy=FALLBACK,
            blob=None,
            exact=True,
            upto=job.upto,
            live=0,
            first_slice=len(recipe.epochs) + 1,
            visits=0,
            seconds=0.0,
            head=chain.head,
            generations=job.generations,
        )
        if len(live) == 0:
            self.blob = None
            return nothing
        new: dict[int, SliceRecord] = {}
        mark = started

        def save(slice_: int, state: State, visits: int) -> None:
            nonlocal mark
            if not self._saves:
                return
            blob = self.site.blobs.put(state, self.shard)
            self.site.blobs.record(self.shard, keys[slice_ - 1], blob)
            now = time.perf_counter()
            new[slice_] = SliceRecord(slice_, keys[slice_ - 1], blob, visits, now - mark)
            mark = now

        result = get(FALLBACK).run(
            self.site.strategy_context(
                self.shard,
                live.to(self.site.device),
                generations=job.generations,
                checkpoint=lambda slice_: self.site.blobs.load(self.shard, keys[slice_ - 1]),
                save=save,
                across=self._across,
            )
        )
        made = replace(nothing, first_slice=result.first_slice, visits=result.visits)
        if not self._saves:
            return made
        records = []
        for slice_, key in enumerate(keys, start=1):
            blob = new[slice_].blob if slice_ in new else self.site.blobs.find(self.shard, key)
            if blob is not None:
                records.append(new.get(slice_) or SliceRecord(slice_, key, blob))
        self.blob = records[-1].blob
        read = int(result.first_slice > 1)
        return replace(made, blob=self.blob, live=len(live), slices=tuple(records), checkpoints_read=read)

    def adopt(self, blob: str) -> str:
        """Return the blob of a sub-model that a central updater made, after checking its bytes and taking it over.

        Raises:
            CorruptBlobError: The blob does not match its hash.
        """
        self.site.blobs.get(blob)
        self.blob = blob
        return blob

    @placed
    def calibrate(self, job: CalibrateJob) -> CalibrationOutcome:
        """Delete canaries, as in `canary_trainer.py`.

        Args:
            job: Names the rows that must not be read, the cells, and other cells' canaries.

        Returns:
            What was measured.
        """
        started = time.perf_counter()
        self.site.expect(job)
        curves = canary_trainer.calibrate(self.site, self._rows, job)
        return CalibrationOutcome(job.job_id, self.shard, curves, time.perf_counter() - started)

    @placed
    def prove(self, job: ProveJob) -> ProofOutcome:
        """Make the evidence that certificates need of this shard, and survey what its purge will remove.

        Args:
            job: Names tombstones that are out exactly, the shard's history, the requests, and what legal holds keep.

        Returns:
            Evidence and survey per request; both must be kept before anything is removed.
        """
        self.site.expect(job)
        proofs: tuple[Proof, ...] = ()
        if job.needs:
            prover = Prover(self.site, job, self._sampled)
            proofs = tuple(_proof(prover, need, need.request_id in job.going) for need in job.needs)
        going: dict[str, list[Tombstone]] = {request_id: [] for request_id in job.going}
        for stone in job.tombstones:
            if stone.request_id in going:
                going[stone.request_id].append(stone)
        keys = {request_id: KeySet.of(stones) for request_id, stones in going.items()}
        surveys, held = survey(self.site.lake, self.shard, keys, job.held)
        found = tuple((request_id, survey.to_json()) for request_id, survey in surveys.items())
        return ProofOutcome(job.job_id, self.shard, proofs, found, tuple(sorted(held)))

    def foresee(self, job: ForeseeRowsJob) -> ForeseeRowsOutcome:
        """Work out what this shard's tables will hold without rows; nothing is changed.

        Args:
            job: Names the keys of the rows.

        Returns:
            The seals of its tables, now and then.
        """
        self.site.expect(job)
        seals = foresee_rows(self.site.lake, self.shard, job.keys)
        return ForeseeRowsOutcome(job.job_id, self.shard, tuple((name, *both) for name, both in seals.items()))

    def purge(self, job: PurgeRowsJob) -> PurgeRowsOutcome:
        """Remove rows from this shard's tables, and every file that the served version does not stand on.

        Args:
            job: Names the keys of the rows and the blobs and lineage entries to keep.

        Returns:
            How much was rewritten and deleted; repeating it removes nothing more.
        """
        self.site.expect(job)
        self._rows.drop(job.keys)  # they leave memory too
        tables = purge_rows(self.site.lake, self.shard, job.keys)
        # What interrupted audits keep came from models that may have seen the rows.
        files = sweep(self.site.blobs, self.shard, job.blobs, job.lineage_keys)
        files += Audits(self.site.storage).drop(self.shard)
        return PurgeRowsOutcome(job.job_id, self.shard, len(tables), files)

    def _sampled(self, request_id: str) -> bool:
        share = derive(f"verify/{request_id}") / 2**64
        return share < self.site.settings.policy.verify_share


def _proof(prover: Prover, need: RequestNeed, going: bool) -> Proof:
    """Return the evidence of one request, or why there is none.

    Once others' rows are purged its evidence may never be had again. So what goes wrong with it stops a batch that it
    belongs to, and is tried again; but others, whose turn comes alone, do not wait for it for ever.
    """
    try:
        return prover.proof(need)
    except Exception as error:
        if going or isinstance(error, StorageError):
            raise
        return Proof(need.request_id, "", told(error))
