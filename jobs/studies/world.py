"""A trained system of the study: made once per (dataset, model, S, R, seed), shared by all mixes and strategies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybridmu.config import Settings
from hybridmu.core import calibration as alphas
from hybridmu.planning import cost
from hybridmu.planning.planner import Pools, make_plan
from hybridmu.runtime.removal import policy_of
from hybridmu.runtime.site import Site
from hybridmu.store.lake.ingest import ingest
from hybridmu.types import (
    Calibration,
    CalibrationBucket,
    CostObservation,
    Plan,
    ShardOutcome,
    ShardStats,
    StrategyChoice,
)
from jobs.studies.grid import Setup, settings_of
from jobs.studies.mixes import Deletion, Keys, Outline, choose
from jobs.studies.pool import Pool
from jobs.studies.worker import Job, Scores

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
        costs: What the cost model knows: the training, and two deletions.
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
    costs: tuple[CostObservation, ...]
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
        every = (True,) * len(self.epochs)
        return self.plan_for(
            [ShardStats(s, self.epochs, self.counts[s], gone, gone, every) for s, gone in deletion.revoked.items()],
            strategy,
            workers,
        )

    def plan_for(self, stats: Sequence[ShardStats], strategy: StrategyChoice, workers: int) -> Plan:
        """Return the product's plan for shards in any state."""
        policy, known = policy_of(self.settings), cost.fit(self.costs)
        return make_plan(stats, known, policy, Pools(workers, workers), self.calibration, strategy)


def open_site(setup: Setup, seed: int, folder: Path) -> Site:
    """Return a system whose rows are in its lake; it may not be trained yet."""
    settings = settings_of(setup, seed, folder)
    site = Site(settings)
    ingest(site.lake)
    return site


def prepare(setup: Setup, seed: int, folder: Path, pool: Pool) -> World:
    """Return a trained and calibrated system; what was done before is found again.

    Args:
        setup: Dataset and model.
        seed: Its seed.
        folder: Where systems are kept.
        pool: Trains.

    Returns:
        The world. A system that other code trained is trained anew.
    """
    site = open_site(setup, seed, folder)
    settings, storage, head = site.settings, site.storage, site.head(0)
    known = json.loads(storage.read(_FILE)) if storage.exists(_FILE) else {}
    if known.get("head") != head:
        known = {"head": head, **_train(site, settings, pool)}
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
    calls = [(shard, "score", (shard, blobs[-1], False, ())) for shard, blobs in trajectories.items() if blobs]
    manifest = site.lake.manifest
    return World(
        setup,
        seed,
        settings,
        trajectories,
        {int(shard): (seconds, visits) for shard, (seconds, visits) in known["training"].items()},
        Calibration(tuple(CalibrationBucket(**bucket) for bucket in known["calibration"])),
        tuple(CostObservation(**observation) for observation in known["costs"]),
        manifest.epochs,
        dict(enumerate(manifest.rows["train"])),
        outline,
        pool.run(settings, [(0, "test_labels", ())])[0],
        {scores.shard: scores for scores in pool.run(settings, calls)},
    )


def _train(site: Site, settings: Settings, pool: Pool) -> dict[str, object]:
    shards = range(settings.sisa.shards)
    outcomes: list[ShardOutcome] = pool.run(settings, [(shard, "train", (shard,)) for shard in shards])
    trajectories = {made.shard: tuple(record.blob for record in made.slices) for made in outcomes}
    voters = sorted((made for made in outcomes if made.blob), key=lambda made: (-made.live, made.shard))
    chosen = [made.shard for made in voters[: settings.policy.calibration_shards]]
    curves = pool.run(settings, [(shard, "calibrate", (shard, trajectories[shard])) for shard in chosen])
    fitted = alphas.fit([curve for found in curves for curve in found.curves])
    costs = [
        CostObservation("retrain", made.visits, len(made.slices), made.seconds) for made in outcomes if made.visits
    ]
    costs += _first_deletions(site, settings, pool, chosen[0], trajectories[chosen[0]])
    return {
        "trajectories": trajectories,
        "training": {made.shard: (made.seconds, made.visits) for made in outcomes},
        # Canaries are not named here: the study revokes rows on paper only, and calibrates once.
        "calibration": [asdict(replace(bucket, keys=())) for bucket in fitted.buckets],
        "costs": [asdict(observation) for observation in costs],
    }


def _first_deletions(
    site: Site, settings: Settings, pool: Pool, shard: int, trajectory: Sequence[str]
) -> list[CostObservation]:
    """Return what deletions of one row and of a fiftieth cost, by every strategy that the planner prices.

    A running system has such outcomes. It warms the workers up too.
    """
    rows = site.lake.rows("train", shard, set())
    order = np.random.default_rng(0).permutation(len(rows))
    found = []
    for count in (1, max(2, len(rows) // 50)):
        keys: Keys = tuple(("id", rows.ids[at].tobytes()) for at in sorted(order[:count]))
        for runs in ("retrain", "dpus", "dpus-optimised", "rewind"):
            job = Job(shard, runs, keys, tuple(trajectory), trajectory[-1], 0.1)
            for observed in (False, True):  # the first time is no measure
                _, made = pool.run(settings, [(shard, "warm", (job,)), (shard, "run", (job,))])
                pool.run(settings, [(shard, "drop", (made,))])
                if observed:
                    found.append(CostObservation(runs, made.visits, made.checkpoints, made.seconds))
    return found
