"""A trained system of the study: made once per (dataset, model, S, R, seed), shared by all mixes and strategies."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.study.grid import Setup, settings_of
from benchmarks.study.mixes import Deletion, Keys, Outline, choose
from benchmarks.study.pool import Pool
from benchmarks.study.shards import FIRST, TRAINING, ShardRecord
from benchmarks.study.trial import PRICED
from benchmarks.study.worker import Job, Scores
from hybridmu.config import Settings
from hybridmu.core.calibration import canary_deletions as canaries
from hybridmu.core.calibration import fit
from hybridmu.core.kernel.revoked_keys import carries
from hybridmu.planning import cost
from hybridmu.planning.canary_schedule import Candidate, class_excess, lacking
from hybridmu.planning.planner import Pools, make_plan
from hybridmu.runtime.coordinator.planner_policy import policy_of
from hybridmu.runtime.workers.context import Site
from hybridmu.store.dataset.empty_slices import warnings_of
from hybridmu.store.dataset.ingest import ingest
from hybridmu.types import (
    NO_KEYS,
    Calibration,
    CalibrationBucket,
    CalibrationCell,
    KeySet,
    Plan,
    RetrainNoise,
    ShardOutcome,
    ShardStats,
    StrategyChoice,
)

_FILE = "trained.json"


@dataclass(frozen=True, eq=False)
class World:
    """What every measurement on a system needs.

    Attributes:
        setup: Dataset and model.
        seed: Its seed.
        settings: The configuration.
        trajectories: Shard → blobs of its checkpoints, slice 1 first; empty for an empty shard.
        training: Shard → (seconds, visits) of its first training.
        calibration: α fitted by canaries. No bucket is dropped when a mix revokes one of its canaries.
        observed: What the cost model knows: the training, and two deletions.
        parameters: Of a sub-model.
        epochs: e_i.
        counts: Shard → rows per slice.
        outline: Every training row.
        labels: Class of every test row.
        scores: Shard → the trained sub-model.
    """

    setup: Setup
    seed: int
    settings: Settings
    trajectories: dict[int, tuple[str, ...]]
    training: dict[int, tuple[float, int]]
    calibration: Calibration
    observed: tuple[ShardRecord, ...]
    parameters: int
    epochs: tuple[int, ...]
    counts: dict[int, tuple[int, ...]]
    outline: Outline
    labels: npt.NDArray[np.int64]
    scores: dict[int, Scores]

    def choose(self, mix: str) -> Deletion | None:
        """Return what a mix revokes here, or None where it can't be had."""
        return choose(mix, self.outline, self.setup.shards, self.setup.slices, self.seed)

    def slice_of_keys(self) -> dict[bytes, int]:
        """Return id digest → slice of every training row."""
        ids, slices = self.outline.ids, self.outline.slice
        return {key.tobytes(): int(slice_) for key, slice_ in zip(ids, slices, strict=True)}

    def plan(self, deletion: Deletion, strategy: StrategyChoice, workers: int) -> Plan:
        """Return the product's plan for a deletion, with every checkpoint there and nothing owed."""
        every, excess = (True,) * len(self.epochs), self.class_excess(deletion)
        stats = [
            ShardStats(s, self.epochs, self.counts[s], gone, gone, every, class_excess=excess[s])
            for s, gone in deletion.revoked.items()
        ]
        return self.plan_for(stats, strategy, workers)

    def class_excess(self, deletion: Deletion) -> dict[int, float]:
        """Return by how much one class loses more of its rows than all together, per touched shard."""
        classes, found = int(self.outline.label.max()) + 1, {}
        for shard, keys in deletion.keys.items():
            mine = self.outline.shard == shard
            labels = self.outline.label[mine]
            gone = labels[carries(self.outline.ids[mine], self.outline.groups[mine], KeySet(keys))]
            counts = (np.bincount(labels, minlength=classes), np.bincount(gone, minlength=classes))
            found[shard] = class_excess(*counts, len(deletion.keys))
        return found

    def plan_for(self, stats: Sequence[ShardStats], strategy: StrategyChoice, workers: int) -> Plan:
        """Return the product's plan for shards in any state."""
        policy, known = policy_of(self.settings), cost.fit(record.observation() for record in self.observed)
        return make_plan(stats, known, policy, Pools(workers, workers), self.calibration, strategy)


@dataclass(frozen=True)
class _Observed:
    """What one job cost before the first deletion that is measured; as in `ShardRecord`."""

    mix: str
    strategy: str
    shard: int
    revoked: Sequence[int]
    seconds: float
    cpu_seconds: float
    visits: int
    checkpoints: int


def open_site(setup: Setup, seed: int, folder: Path) -> Site:
    """Return a system whose rows are in its lake; it may not be trained yet."""
    settings = settings_of(setup, seed, folder)
    site = Site(settings)
    ingest(site.lake)
    for warning in warnings_of(site.lake):
        print(f"{setup.name}: warning: {warning}", file=sys.stderr, flush=True)
    return site


def prepare(setup: Setup, seed: int, folder: Path, pool: Pool) -> World:
    """Return a trained and calibrated system; what was done before is found again.

    Args:
        setup: Dataset and model.
        seed: Its seed.
        folder: Where systems are kept.
        pool: Trains.

    Returns:
        The world. A system that other code trained or calibrated is made again.
    """
    site = open_site(setup, seed, folder)
    settings, storage, made_by = site.settings, site.storage, [site.head(0), _calibration_code()]
    known = json.loads(storage.read(_FILE)) if storage.exists(_FILE) else {}
    if known.get("made_by") != made_by:
        known = {"made_by": made_by, **_train(site, settings, pool)}
        storage.write(_FILE, json.dumps(known).encode())
    trajectories = {int(shard): tuple(blobs) for shard, blobs in known["trajectories"].items()}
    shards = range(setup.shards)
    parts = pool.run(settings, [(shard, "outline", (shard,)) for shard in shards])
    outline = Outline(
        np.concatenate([np.full(len(part), shard, np.int32) for shard, part in zip(shards, parts, strict=True)]),
        np.concatenate([part.slice for part in parts]),
        np.concatenate([part.y.numpy() for part in parts]),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.groups for part in parts]),
    )
    calls = [
        (shard, "score", (shard, blobs[-1], False, (), setup.test_rows))
        for shard, blobs in trajectories.items()
        if blobs
    ]
    manifest = site.lake.manifest
    parameters = sum(parameter.numel() for parameter in site.fresh_model(0).parameters())
    counts = dict(enumerate(manifest.rows["train"]))
    named = (setup.dataset, setup.model, setup.shards, setup.slices, setup.epochs)
    observed = [
        ShardRecord(
            *named,
            mix=one.mix,
            strategy=one.strategy,
            seed=seed,
            shard=one.shard,
            parameters=parameters,
            slice_epochs=manifest.epochs,
            rows=counts[one.shard],
            revoked=tuple(one.revoked),
            seconds=one.seconds,
            cpu_seconds=one.cpu_seconds,
            visits=one.visits,
            checkpoints=one.checkpoints,
            gap=float("nan"),
            alpha=0.0,
            predicted_error=0.0,
            class_excess=0.0,
            workers=pool.workers,
        )
        for one in (_Observed(**found) for found in known["observed"])
    ]
    return World(
        setup,
        seed,
        settings,
        trajectories,
        {int(shard): (seconds, visits) for shard, (seconds, visits) in known["training"].items()},
        Calibration(
            tuple(CalibrationBucket(**bucket) for bucket in known["calibration"]),
            noise=RetrainNoise(**known["noise"]) if known["noise"] else None,
        ),
        tuple(observed),
        parameters,
        manifest.epochs,
        counts,
        outline,
        pool.run(settings, [(0, "test_labels", (setup.test_rows,))])[0],
        {scores.shard: scores for scores in pool.run(settings, calls)},
    )


def _calibration_code() -> str:
    """Return a digest of the code that calibrates, which shapes no weights and so no lineage."""
    return hashlib.sha256("".join(map(inspect.getsource, (fit, canaries))).encode()).hexdigest()


def _train(site: Site, settings: Settings, pool: Pool) -> dict[str, object]:
    shards = range(settings.sisa.shards)
    outcomes: list[ShardOutcome] = pool.run(settings, [(shard, "train", (shard,)) for shard in shards])
    trajectories = {made.shard: tuple(record.blob for record in made.slices) for made in outcomes}
    voters = sorted((made for made in outcomes if made.blob), key=lambda made: (-made.live, made.shard))
    chosen = [made.shard for made in voters]
    rows, policy = site.lake.manifest.rows["train"], settings.policy
    asked: dict[int, list[CalibrationCell]] = {}
    candidates = [Candidate(shard, rows[shard]) for shard in chosen]
    for shard, cell in lacking(candidates, (), policy.calibration_shares, policy.calibration_shards):
        asked.setdefault(shard, []).append(cell)
    curves = pool.run(settings, [(shard, "calibrate", (shard, tuple(cells))) for shard, cells in asked.items()])
    fitted = fit.fit([curve for found in curves for curve in found.curves])
    none = (0,) * len(rows[0])
    observed = [
        _Observed(TRAINING, "retrain", made.shard, none, made.seconds, math.nan, made.visits, len(made.slices))
        for made in outcomes
        if made.visits
    ]
    observed += _first_deletions(site, settings, pool, chosen[0], trajectories[chosen[0]])
    return {
        "trajectories": trajectories,
        "training": {made.shard: (made.seconds, made.visits) for made in outcomes},
        "calibration": [asdict(bucket) for bucket in fitted.buckets],
        "noise": asdict(fitted.noise) if fitted.noise else None,
        "observed": [asdict(one) for one in observed],
    }


def _first_deletions(
    site: Site, settings: Settings, pool: Pool, shard: int, trajectory: Sequence[str]
) -> list[_Observed]:
    """Return what deletions of one row and of a fiftieth cost, by every strategy that the planner prices.

    A running system has such outcomes. It warms the workers up too.
    """
    rows = site.lake.rows("train", shard, NO_KEYS)
    order = np.random.default_rng(0).permutation(len(rows))
    slices = len(site.lake.manifest.epochs)
    found = []
    for count in (1, max(2, len(rows) // 50)):
        chosen = sorted(order[:count])
        keys: Keys = tuple(("id", rows.ids[at].tobytes()) for at in chosen)
        revoked = tuple(np.bincount(rows.slice[chosen], minlength=slices + 1)[1:].tolist())
        for runs in PRICED:
            job = Job(shard, runs, keys, tuple(trajectory), trajectory[-1], 0.1)
            for observed in (False, True):  # the first time is no measure
                _, made = pool.run(settings, [(shard, "warm", (job,)), (shard, "run", (job,))])
                pool.run(settings, [(shard, "drop", (made,))])
                if observed:
                    costs = made.seconds, made.cpu_seconds, made.visits, made.checkpoints
                    found.append(_Observed(f"{FIRST}:{count}", runs, shard, revoked, *costs))
    return found
