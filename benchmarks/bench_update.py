"""Seconds of updates over the exact retrain of the same shard.

    python benchmarks/bench_update.py [--json] [--out CSV]

Both as a running system does them, in one process of one thread and in turns: the shard worker has its rows in memory
and writes a checkpoint per slice; the updater reads rows and checkpoints from storage, and writes one blob. Rows are
revoked uniformly; α is fixed, since it costs nothing. The goal for updates without fine-tuning is 8 times faster, by
wall clock and by processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from benchmarks.study import benchmarks
from benchmarks.study.grid import SETUPS, Setup, settings_of
from hybridmu.runtime.workers.context import Site
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.runtime.workers.update_worker import Updater
from hybridmu.store.dataset.ingest import ingest
from hybridmu.types import KeySet, RetrainJob, ShardOutcome, StrategyName, UpdateJob

_SHARES = (0.01, 0.1)
_UPDATES: tuple[StrategyName, ...] = ("dpus", "dpus-newton", "dpus-optimised", "rewind")


@dataclass(frozen=True)
class Figure:
    """One strategy on one system.

    Attributes:
        setup: Dataset and model.
        share: Revoked rows over the rows of the shard.
        strategy: Its name.
        seconds: Median wall time of a job.
        cpu_seconds: Median processor time.
        faster: Median of the retrain's wall time over this one, in the same round on the same shard.
        faster_cpu: The same for processor time.
    """

    setup: str
    share: float
    strategy: StrategyName
    seconds: float
    cpu_seconds: float
    faster: float
    faster_cpu: float


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setups", default="mnist/mlp,adult/mlp,mnist5k/mlp")
    parser.add_argument("--shards", type=int, default=3, help="how many shards are trained and measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="a CSV file that figures are appended to")
    given = parser.parse_args()
    for name in given.setups.split(","):
        figures = list(measure(SETUPS[name], given.shards, given.rounds))
        names = ("seconds", "cpu_seconds", "faster", "faster_cpu")
        cases = {
            f"{figure.setup}, {figure.share:.0%} {figure.strategy}": {name: getattr(figure, name) for name in names}
            for figure in figures
        }
        benchmarks.write(given.out, "update", cases)
        for figure in figures:
            if given.json:
                print(json.dumps(vars(figure)), flush=True)
                continue
            late = (
                figure.strategy in {"dpus", "dpus-newton"} and min(figure.faster, figure.faster_cpu) < benchmarks.FASTER
            )
            print(
                f"{figure.setup:12} {figure.share:5.0%} {figure.strategy:15} {1000 * figure.seconds:7.1f} ms"
                f" {1000 * figure.cpu_seconds:7.1f} ms cpu {figure.faster:6.1f}x {figure.faster_cpu:6.1f}x cpu",
                end="  missed\n" if late else "\n",
                flush=True,
            )


def measure(setup: Setup, shards: int, rounds: int) -> Iterator[Figure]:
    """Train some shards of a system and yield what retraining and updating them takes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(setup, 0, Path(folder))
        site = Site(settings)
        site.configure_torch()
        ingest(site.lake)
        updater = Updater(settings)
        taken: dict[tuple[float, StrategyName], list[tuple[float, float]]] = {}
        for shard in range(shards):
            worker = ShardWorker(settings, shard)
            trained = worker.retrain(RetrainJob(job_id="train", shard=shard))
            ids = site.lake.keys("train", shard).ids
            for share in _SHARES:
                random = np.random.default_rng(shard)
                chosen = np.sort(random.choice(len(ids), max(1, round(share * len(ids))), replace=False))
                gone = KeySet(("id", ids[row].tobytes()) for row in chosen)
                ready = ShardWorker(settings, shard)
                ready.retrain(RetrainJob(job_id="warm", shard=shard))
                exact = RetrainJob(job_id="bench", shard=shard, tombstones=gone)
                runs: dict[StrategyName, Callable[[], object]] = {"retrain": partial(ready.retrain, exact)}
                runs |= {name: partial(updater.update, _update(trained, name, gone)) for name in _UPDATES}
                for number in range(rounds + 1):
                    for strategy, run in runs.items():
                        seconds = _timed(site, shard, run)
                        if number:  # the first round warms caches up
                            taken.setdefault((share, strategy), []).append(seconds)
        yield from _figures(setup.name, taken)


def _update(trained: ShardOutcome, strategy: StrategyName, gone: KeySet) -> UpdateJob:
    """Return the job of an update of a shard that was just trained."""
    return UpdateJob(
        job_id="bench",
        shard=trained.shard,
        strategy=strategy,
        tombstones=gone,
        revoked=gone,
        trajectory=tuple(record.blob for record in trained.slices),
        current_blob=trained.blob,
        alpha=0.3,
    )


def _timed(site: Site, shard: int, run: Callable[[], object]) -> tuple[float, float]:
    """Return (wall, processor) seconds of a job; what it wrote is deleted, so that the next one finds nothing ready."""
    there = site.blobs.listed(shard)
    started, cpu = time.perf_counter(), time.process_time()
    run()
    seconds = time.perf_counter() - started, time.process_time() - cpu
    refs, keys = site.blobs.listed(shard)
    site.blobs.drop(shard, refs - there[0], keys - there[1])
    return seconds


def _figures(name: str, taken: dict[tuple[float, StrategyName], list[tuple[float, float]]]) -> Iterator[Figure]:
    for (share, strategy), ours in sorted(taken.items(), key=lambda item: item[0][0]):
        pairs = list(zip(taken[share, "retrain"], ours, strict=True))
        yield Figure(
            name,
            share,
            strategy,
            statistics.median(wall for wall, _ in ours),
            statistics.median(cpu for _, cpu in ours),
            statistics.median(exact[0] / update[0] for exact, update in pairs),
            statistics.median(exact[1] / update[1] for exact, update in pairs),
        )


if __name__ == "__main__":
    main()
