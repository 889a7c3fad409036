"""One worker of the study: runs the product's own shard worker and updater, one job at a time, and measures them.

A plain class; `pool.py` makes it a Ray actor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.study import baselines
from benchmarks.study.mixes import Keys
from hybridmu.config import Settings
from hybridmu.core import evaluation
from hybridmu.core.calibration.canary_deletions import other_order
from hybridmu.core.kernel.model import State, SubModel
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.core.kernel.rows import Rows, concatenate
from hybridmu.core.strategies import Context, get
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.runtime.workers.update_worker import Updater
from hybridmu.store.dataset.layout import Split
from hybridmu.store.storage.blobs import Blobs, weights_hash
from hybridmu.store.storage.storage import Storage
from hybridmu.types import (
    NO_KEYS,
    CalibrateJob,
    CalibrationCell,
    CalibrationOutcome,
    KeySet,
    RetrainJob,
    ShardOutcome,
    UpdateJob,
)

# Live rows of one shard beyond about these change its accuracy by less than half a point.
LIVE_ROWS = 5_000


@dataclass(frozen=True)
class Job:
    """One strategy on one shard.

    Attributes:
        shard: Shard number.
        runs: Name in the registry, or `scratch`.
        keys: What is revoked, and the current weights still hold.
        trajectory: Blobs of the exact run that saw the rows, slice 1 first.
        current: Blob of the model that is live.
        alpha: Step of the subtraction.
        again: Of a `scratch`: in another order of the data.
        removed: What was revoked before, and the current weights hold no more.
    """

    shard: int
    runs: str
    keys: Keys
    trajectory: tuple[str, ...] = ()
    current: str = ""
    alpha: float = 0.0
    again: bool = False
    removed: Keys = ()


@dataclass(frozen=True)
class Made:
    """What a job made, and what it cost.

    Attributes:
        shard: Shard number.
        blob: Where the weights are; None for an emptied shard.
        side: Whether they lie beside the system's own storage.
        seconds: Wall time on the worker, I/O included.
        cpu_seconds: Processor time of the worker's process.
        visits: Sample visits.
        first_slice: First slice trained or corrected.
        checkpoints: Checkpoints read and written.
        written: (blob, lineage key) of every new checkpoint.
        trajectory: Blobs of an exact run, slice 1 first.
    """

    shard: int
    blob: str | None
    side: bool
    seconds: float
    cpu_seconds: float
    visits: int
    first_slice: int
    checkpoints: int
    written: tuple[tuple[str, str], ...] = ()
    trajectory: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Scores:
    """A sub-model, measured.

    Attributes:
        shard: Shard number.
        weights: Hash of its bits.
        test_logits: float32 [test rows, classes]; None for an emptied shard.
        forget_loss: Mean loss on the revoked rows.
        forget_accuracy: Accuracy on them.
        retain_accuracy: Accuracy on the live training rows of the shard.
        revoked: How many rows are revoked.
        live: How many are live.
    """

    shard: int
    weights: str
    test_logits: npt.NDArray[np.float32] | None
    forget_loss: float
    forget_accuracy: float
    retain_accuracy: float
    revoked: int
    live: int


class StudyWorker:
    """Holds one system at a time; another one replaces it."""

    def __init__(self) -> None:
        self._settings: Settings | None = None

    def call(self, settings: Settings, method: str, *arguments: Any) -> Any:
        """Return what a method of this class returns, on the system of `settings`."""
        if settings != self._settings:
            self._open(settings)
        return getattr(self, method)(*arguments)

    def _open(self, settings: Settings) -> None:
        self._settings = settings
        self.site = Site(settings)
        self.site.configure_torch()
        self.side = Blobs(Storage(settings.storage_url + "-side"))
        self._updater = Updater(settings)
        self._shards: dict[int, ShardWorker] = {}
        self._rows: dict[int, Rows] = {}
        self._scored: dict[tuple[int, Keys], dict[str, Scores]] = {}
        self._test: Rows | None = None

    # ------------------------------------------------------------------ the system

    def train(self, shard: int) -> ShardOutcome:
        """Train a shard for the first time; finished checkpoints are found again."""
        return ShardWorker(self.site.settings, shard).retrain(RetrainJob(job_id="train", shard=shard))

    def probe(self, shard: int) -> tuple[float, float]:
        """Return the processor seconds that a row of the first slice costs, in training and in scoring."""
        rows = self._training_rows(shard)
        made = self._context(shard, rows.where(rows.slice == 1), rows.where(rows.slice == 0), lambda _: None)
        model, visit, scored = self.site.fresh_model(shard), [], []
        for _ in range(3):
            started = time.process_time()
            result = get("rewind").run(made)
            trained = time.process_time()
            evaluation.logits_of(model, made.live, 0)
            visit.append((trained - started) / max(1, result.visits))
            scored.append((time.process_time() - trained) / max(1, len(made.live)))
        return min(visit), min(scored)

    def calibrate(self, shard: int, cells: tuple[CalibrationCell, ...]) -> CalibrationOutcome:
        """Delete canaries on a shard, as the product does after the first training."""
        return ShardWorker(self.site.settings, shard).calibrate(
            CalibrateJob(job_id="calibrate", shard=shard, cells=cells)
        )

    def outline(self, shard: int) -> Rows:
        """Return a shard's training rows without their features."""
        rows = self._training_rows(shard)
        return Rows(rows.x[:, :0], rows.y, rows.slice, rows.ids, rows.groups, rows.content)

    # ------------------------------------------------------------------ jobs

    def warm(self, job: Job) -> None:
        """Prepare what a job finds ready in a running system: a shard actor has its rows in memory.

        For `amnesiac` it replays the training: what its log would hold.
        """
        if job.runs == "retrain":
            self._shards[job.shard] = ShardWorker(self.site.settings, job.shard)
            self._shards[job.shard].retrain(RetrainJob(job_id="warm", shard=job.shard))
        if job.runs == "amnesiac":
            rows = self._training_rows(job.shard)
            recipe = self.site.recipe_for(job.shard)
            baselines.LOG.replay(
                self.site.fresh_model(job.shard), rows, KeySet(job.keys), recipe, self.site.task, job.shard
            )

    def run(self, job: Job) -> Made:
        """Run one job and measure it."""
        cpu, started = time.process_time(), time.perf_counter()
        if job.runs == "scratch":
            blob, visits, first, checkpoints = self._scratch(job)
            seconds = time.perf_counter() - started
            return Made(job.shard, blob, True, seconds, time.process_time() - cpu, visits, first, checkpoints)
        gone = KeySet((*job.removed, *job.keys))
        if job.runs == "retrain":
            outcome = self._shards[job.shard].retrain(RetrainJob(job_id="study", shard=job.shard, tombstones=gone))
        else:
            outcome = self._updater.update(
                UpdateJob(
                    job_id="study",
                    shard=job.shard,
                    strategy=job.runs,
                    tombstones=gone,
                    trajectory=job.trajectory,
                    current_blob=job.current,
                    alpha=job.alpha,
                    revoked=KeySet(job.keys),
                    removed=KeySet(job.removed),
                )
            )
        new = tuple((record.blob, record.lineage_key) for record in outcome.slices if record.visits)
        if not outcome.exact and outcome.blob and outcome.blob not in job.trajectory:
            new = ((outcome.blob, ""),)
        return Made(
            job.shard,
            outcome.blob,
            False,
            time.perf_counter() - started,
            time.process_time() - cpu,
            outcome.visits,
            outcome.first_slice,
            sum(record.visits > 0 for record in outcome.slices) + outcome.checkpoints_read,
            new,
            tuple(record.blob for record in outcome.slices),
        )

    def drop(self, made: Made) -> None:
        """Delete what a job wrote, so that the next one finds nothing ready."""
        if made.side:
            self.side.drop(made.shard, *self.side.listed(made.shard))
        else:
            keys = [key for _, key in made.written if key]
            self.site.blobs.drop(made.shard, [blob for blob, _ in made.written], keys)

    def score(self, shard: int, blob: str | None, side: bool, keys: Keys, test_rows: int) -> Scores:
        """Measure a sub-model on the first test rows, and on the revoked and the live rows of its shard.

        Several strategies end in the same bits: what was measured of them on this deletion is known.
        """
        rows = self._training_rows(shard)
        mask = carries(rows.ids, rows.groups, KeySet(keys))
        if blob is None:
            nan = float("nan")
            return Scores(shard, "", None, nan, nan, nan, int(mask.sum()), int((~mask).sum()))
        state = (self.side if side else self.site.blobs).get(blob)
        weights = weights_hash(state)
        if (shard, keys) not in self._scored:
            for known in [known for known in self._scored if known[0] == shard]:
                del self._scored[known]
        scored = self._scored.setdefault((shard, keys), {})
        if weights not in scored:
            model = self.site.fresh_model(shard)
            model.load_state_dict(state)
            revoked, live = rows.where(mask), rows.where(~mask)
            scored[weights] = Scores(
                shard,
                weights,
                evaluation.logits_of(model, self._test_rows(test_rows), 0).numpy(),
                evaluation.mean_loss(model, revoked, self.site.task),
                self._accuracy(model, revoked),
                self._accuracy(model, live.where(np.arange(len(live)) % (1 + len(live) // LIVE_ROWS) == 0)),
                len(revoked),
                len(live),
            )
        return scored[weights]

    def test_labels(self, test_rows: int) -> npt.NDArray[np.int64]:
        """Return the class numbers of the first test rows, in the order of `Scores.test_logits`."""
        return np.asarray(self._test_rows(test_rows).y.numpy())

    def _test_rows(self, most: int) -> Rows:
        """Return the first test rows (of validation, when there is no test table)."""
        if self._test is None:
            split: Split = "test" if "test" in self.site.lake.manifest.rows else "validation"
            parts: list[Rows] = []
            for shard in range(self.site.settings.sisa.shards):
                if sum(map(len, parts)) < most:
                    parts.append(self.site.lake.rows(split, shard, NO_KEYS))
            found = concatenate(parts)
            self._test = found.where(np.arange(len(found)) < most)
        return self._test

    def _training_rows(self, shard: int) -> Rows:
        """Return every row of a shard, which stay in memory: what is timed reads its own."""
        if shard not in self._rows:
            self._rows[shard] = self.site.lake.rows("train", shard, NO_KEYS)
        return self._rows[shard]

    def _accuracy(self, model: SubModel, rows: Rows) -> float:
        if not len(rows):
            return float("nan")
        return float((evaluation.logits_of(model, rows, 0).argmax(dim=1) == rows.y).float().mean())

    def _scratch(self, job: Job) -> tuple[str | None, int, int, int]:
        """Return (blob, visits, first slice, checkpoints) of a training that finds nothing ready."""
        live = self.site.lake.rows("train", job.shard, KeySet(job.keys))
        if not len(live):
            return None, 0, len(self.site.recipe_for(job.shard).epochs) + 1, 0
        context = self._context(job.shard, live, live.where(np.zeros(len(live), np.bool_)), lambda _: None, job.again)
        result = get("retrain").run(context)
        return self.side.put(result.state, job.shard), result.visits, 1, len(context.recipe.epochs)

    def _context(
        self, shard: int, live: Rows, revoked: Rows, checkpoint: Callable[[int], State | None], again: bool = False
    ) -> Context:
        context = self.site.strategy_context(
            shard, live, revoked, checkpoint=checkpoint, save=lambda _, state, __: _written(self.side, shard, state)
        )
        recipe = other_order(context.recipe) if again else context.recipe
        return replace(context, recipe=recipe, finetune_epochs=1.0)


def _written(blobs: Blobs, shard: int, state: State) -> None:
    """Write a checkpoint, as a training does."""
    blobs.put(state, shard)
