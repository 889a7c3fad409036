"""ShardWorker: one shard's rows and its sub-model. Becomes a Ray actor in `cluster/actors.py`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hybridmu.config import Settings
from hybridmu.core.calibration.canary_deletions import measure
from hybridmu.core.kernel.model import State
from hybridmu.core.kernel.partition import derive
from hybridmu.core.kernel.rows import Rows, carries, concatenate
from hybridmu.core.kernel.training import Across, Recipe
from hybridmu.core.proof.lineage import Lineage, lineage
from hybridmu.core.proof.merkle import Leaves, make_leaves
from hybridmu.core.strategies import Context, calibrated, get, unavailable
from hybridmu.errors import DivergedError, StorageError, StrategyUnavailableError
from hybridmu.kinds import FALLBACK
from hybridmu.runtime.purge.row_purge import foresee_rows, purge_rows, sweep
from hybridmu.runtime.purge.survey import survey
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.evidence_builder import Prover
from hybridmu.store.storage.audit_scores import Audits
from hybridmu.types import (
    CalibrationCurve,
    CalibrationOutcome,
    ForeseenOutcome,
    KeyKind,
    Proof,
    ProofOutcome,
    PurgeOutcome,
    RequestNeed,
    ShardJob,
    ShardOutcome,
    SliceRecord,
)
from hybridmu.user_code import placed, told

# Validation rows that are enough to compare accuracies during calibration.
_UNSEEN_ROWS = 2000

Keys = Iterable[tuple[KeyKind, bytes]]


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
        self._rows: Rows | None = None
        self._rows_read = 0  # from storage, since this process began
        self._leaves: Leaves | None = None  # of the rows, in their order, once they were needed
        self._gone: set[tuple[str, bytes]] = set()
        self._generations = 0  # how many of them the rows are of
        self._across: Across | None = None  # set where several processes share this shard's work
        self._saves = True  # one of them does

    def ready(self) -> int:
        """Return the shard number; answers once the process is up."""
        return self.shard

    @placed
    def retrain(self, job: ShardJob) -> ShardOutcome:
        """Retrain exactly without the job's tombstoned rows, from the last clean checkpoint on.

        Every finished slice is published at once, so a retry after a crash goes on from there.

        Args:
            job: Names the tombstones.

        Returns:
            New weights and what they cost; `blob` is None when no row is left.
        """
        started, already = time.perf_counter(), self._rows_read
        self.site.expect(job)
        live = self._live(job)
        recipe = self.site.recipe_for(self.shard, job.generations)
        chain = self._lineage(live, recipe)
        keys = chain.keys
        if job.mend:
            self.site.blobs.mend(self.shard, keys)
        if len(live) == 0:
            self.blob = None
            return self._outcome(job, started, already, chain.head, None, 0, len(recipe.epochs) + 1, 0, (), 0)
        new: dict[int, SliceRecord] = {}
        mark = [started]

        def save(slice_: int, state: State, visits: int) -> None:
            if not self._saves:
                return
            blob = self.site.blobs.put(state, self.shard)
            self.site.blobs.record(self.shard, keys[slice_ - 1], blob)
            now = time.perf_counter()
            new[slice_] = SliceRecord(slice_, keys[slice_ - 1], blob, visits, now - mark[0])
            mark[0] = now

        result = get(FALLBACK).run(
            Context(
                shard=self.shard,
                task=self.site.task,
                recipe=recipe,
                live=live.to(self.site.device),
                revoked=live.where(carries(live.ids, live.groups, set())),
                fresh_model=lambda: self.site.fresh_model(self.shard),
                checkpoint=lambda slice_: self.site.blobs.load(self.shard, keys[slice_ - 1]),
                save=save,
                across=self._across,
                learner=self.site.learner,
            )
        )
        if not self._saves:
            none: tuple[SliceRecord, ...] = ()
            return self._outcome(job, started, already, chain.head, None, 0, result.first_slice, result.visits, none, 0)
        records = []
        for slice_, key in enumerate(keys, start=1):
            blob = new[slice_].blob if slice_ in new else self.site.blobs.find(self.shard, key)
            if blob is not None:
                records.append(new.get(slice_) or SliceRecord(slice_, key, blob))
        self.blob = records[-1].blob
        return self._outcome(
            job,
            started,
            already,
            chain.head,
            self.blob,
            len(live),
            result.first_slice,
            result.visits,
            records,
            int(result.first_slice > 1),
        )

    def adopt(self, blob: str) -> str:
        """Return the blob of a sub-model that a central updater made, after checking its bytes and taking it over.

        Raises:
            CorruptBlobError: The blob does not match its hash.
        """
        self.site.blobs.get(blob)
        self.blob = blob
        return blob

    @placed
    def calibrate(self, job: ShardJob) -> CalibrationOutcome:
        """Delete canaries among this shard's live rows, by all updates; weights and checkpoints stay as they are.

        Args:
            job: Names the rows that must not be read, the cells, and other cells' canaries.

        Returns:
            What was measured.

        Raises:
            StrategyUnavailableError: The exact run on the very rows that are live has no checkpoints here.
        """
        started = time.perf_counter()
        self.site.expect(job)
        live = self._live(job)
        settings, recipe = self.site.settings, self.site.recipe_for(self.shard, job.generations)
        keys = self._lineage(live, recipe).keys
        # By lineage, not by what the version names: rows may have been revoked since.
        trajectory = [self.site.blobs.find(self.shard, key) for key in keys]
        if not all(trajectory):
            raise StrategyUnavailableError(
                f"shard {self.shard} has no complete run on its live rows", remedy="it is retrained exactly first"
            )
        context = Context(
            shard=self.shard,
            task=self.site.task,
            recipe=recipe,
            live=live.to(self.site.device),
            revoked=live.where(carries(live.ids, live.groups, set())),
            fresh_model=lambda: self.site.fresh_model(self.shard),
            checkpoint=lambda slice_: self.site.blobs.get(trajectory[slice_ - 1] or ""),
            save=lambda *_: None,
            current=self.site.blobs.get(trajectory[-1] or ""),
            held_out=self.site.lake.rows("validation", self.shard, set(job.tombstones)).to(self.site.device),
            finetune_epochs=settings.policy.finetune_epochs,
            finetune_rate=settings.policy.finetune_lr * settings.optimizer.lr,
            learner=self.site.learner,
        )
        unseen, avoid = self._unseen(job), set(job.avoid)
        unfit = self.site.unfit_updates()
        updates = [name for name in calibrated() if name not in unfit and not unavailable(name, recipe.optimizer)]
        controlled = settings.policy.quality_noises > 0
        curves: list[CalibrationCurve] = []
        for cell in job.cells:
            begun = time.perf_counter()
            try:
                found = measure(context, cell, updates, unseen, avoid, controlled)
            except DivergedError:  # on these rows; what is not measured is not known, and is retrained
                continue
            seconds = time.perf_counter() - begun
            curves += [replace(curve, seconds=seconds) for curve in found]
            avoid.update(key for curve in found[:1] for key in curve.keys)
        return CalibrationOutcome(job.job_id, self.shard, tuple(curves), time.perf_counter() - started)

    @placed
    def prove(self, job: ShardJob) -> ProofOutcome:
        """Make the evidence that certificates need of this shard, and survey what its purge will remove.

        Args:
            job: Names tombstones that are out exactly, the shard's history, the requests, and what legal holds keep.

        Returns:
            Evidence and survey per request; both must be kept before anything is removed.
        """
        self.site.expect(job)
        proofs: tuple[Proof, ...] = ()
        if job.requests:
            prover = Prover(self.site, job, self._sampled)
            proofs = tuple(_proof(prover, need, need.request_id in job.going) for need in job.requests)
        keys: dict[str, list[tuple[KeyKind, bytes]]] = {request_id: [] for request_id in job.going}
        for stone in job.stones:
            if stone.request_id in keys:
                keys[stone.request_id].append((stone.kind, stone.key))
        surveys, held = survey(self.site.lake, self.shard, keys, job.held)
        found = tuple((request_id, survey.to_json()) for request_id, survey in surveys.items())
        return ProofOutcome(job.job_id, self.shard, proofs, found, tuple(sorted(held)))

    def foresee(self, job: ShardJob) -> ForeseenOutcome:
        """Work out what this shard's tables will hold without rows; nothing is changed.

        Args:
            job: Names the keys of the rows.

        Returns:
            The seals of its tables, now and then.
        """
        self.site.expect(job)
        seals = foresee_rows(self.site.lake, self.shard, job.tombstones)
        return ForeseenOutcome(job.job_id, self.shard, tuple((name, *both) for name, both in seals.items()))

    def purge(self, job: ShardJob) -> PurgeOutcome:
        """Remove rows from this shard's tables, and every file that the served version does not stand on.

        Args:
            job: Names the keys of the rows and the blobs and lineage entries to keep.

        Returns:
            How much was rewritten and deleted; repeating it removes nothing more.
        """
        self.site.expect(job)
        self._drop(job.tombstones)  # they leave memory too
        tables = purge_rows(self.site.lake, self.shard, job.tombstones)
        refs, keys = job.keep
        # What interrupted audits keep came from models that may have seen the rows.
        files = sweep(self.site.blobs, self.shard, refs, keys) + Audits(self.site.storage).drop(self.shard)
        return PurgeOutcome(job.job_id, self.shard, len(tables), files)

    def _sampled(self, request_id: str) -> bool:
        share = derive(f"verify/{request_id}") / 2**64
        return share < self.site.settings.policy.verify_share

    def _unseen(self, job: ShardJob) -> Rows:
        """Return validation rows of as many shards as fill the sample; they are never trained on."""
        parts: list[Rows] = []
        shards = self.site.settings.sisa.shards
        for shard in range(self.shard, self.shard + shards):
            if sum(map(len, parts)) < _UNSEEN_ROWS:
                parts.append(self.site.lake.rows("validation", shard % shards, set(job.tombstones)))
        return concatenate(parts).to(self.site.device)

    def _live(self, job: ShardJob) -> Rows:
        """Return the live rows; once a row is tombstoned it leaves memory for good."""
        if self._rows is None or self._generations != job.generations:
            gone = {(str(kind), key) for kind, key in job.tombstones}
            self._rows = self.site.lake.rows("train", self.shard, gone, generations=job.generations)
            self._rows_read += len(self._rows)
            # An id that was purged once may have come back: what is gone is known anew.
            self._leaves, self._gone, self._generations = None, gone, job.generations
        self._drop(job.tombstones)
        return self._rows

    def _drop(self, tombstones: Keys) -> None:
        fresh = set(tombstones) - self._gone
        self._gone |= fresh
        if self._rows is not None and fresh:
            kept = ~carries(self._rows.ids, self._rows.groups, {(str(kind), key) for kind, key in fresh})
            self._rows = self._rows.where(kept)
            self._leaves = None if self._leaves is None else self._leaves[kept]

    def _lineage(self, live: Rows, recipe: Recipe) -> Lineage:
        salt = self.site.lake.manifest.salt
        if self._leaves is None:
            self._leaves = make_leaves(salt, live.ids, live.content)
        return lineage(self.site.lineage_static(), live, recipe, self.shard, salt, self._leaves)

    def _outcome(
        self,
        job: ShardJob,
        started: float,
        already: int,
        head: str,
        blob: str | None,
        live: int,
        first: int,
        visits: int,
        records: Sequence[SliceRecord],
        read: int,
    ) -> ShardOutcome:
        return ShardOutcome(
            job_id=job.job_id,
            shard=self.shard,
            strategy=FALLBACK,
            blob=blob,
            exact=True,
            upto=job.upto,
            live=live,
            first_slice=first,
            visits=visits,
            seconds=time.perf_counter() - started,
            slices=tuple(records),
            checkpoints_read=read,
            head=head,
            generations=job.generations,
            rows_read=self._rows_read - already,
        )


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
