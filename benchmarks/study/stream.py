"""A Poisson stream of requests of one row each: the jobs are run and timed, the clock between them is simulated.

Whatever has arrived when the workers are free is fulfilled together. Approximate results pile up on each other, and
exact retrains start from the checkpoints of the last one, as in a running system.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.study.grid import Contender
from benchmarks.study.mixes import Deletion, Keys, generator
from benchmarks.study.pool import Pool
from benchmarks.study.trial import PLANNED, Trial
from benchmarks.study.worker import Job, Made
from benchmarks.study.world import World
from hybridmu.planning.cost import schedule
from hybridmu.types import ShardStats, StrategyName

# A request arrives, on average, in this share of the time that one shard's training takes on one worker: a system that
# retrains a shard per request falls behind, and fulfils several at once.
PACE = 0.5
# Contenders that make sense one request after the other.
STREAMED = ("sisa", "hybrid", "dpus-raw", "dpus", "dpus-optimised", "dpus-newton", "fine-tune")


@dataclass(frozen=True)
class _Shard:
    """How far one shard is.

    Attributes:
        trajectory: Blobs of its last exact run.
        current: Blob of its live weights.
        exact: Keys that the last exact run had removed.
        updated: Keys that updates have removed since.
        counts: Rows per slice of the last exact run.
        open: Rows of `updated` per slice.
        spent: Predicted error of the updates.
    """

    trajectory: tuple[str, ...]
    current: str
    counts: tuple[int, ...]
    open: tuple[int, ...]
    exact: Keys = ()
    updated: Keys = ()
    spent: float = 0.0


def run(world: World, deletion: Deletion, contender: Contender, pool: Pool) -> Trial:
    """Fulfil a deletion's keys one by one, in a seeded order.

    Args:
        world: The trained system.
        deletion: Every key of the stream.
        contender: What fulfils them.
        pool: Runs the jobs.

    Returns:
        All jobs, the final sub-models, and the latency of every request.
    """
    requests, arrivals = _requests(world, deletion, pool.workers)
    slices = world.slice_of_keys()
    empty = (0,) * len(world.epochs)
    shards = {
        s: _Shard(world.trajectories[s], world.trajectories[s][-1], world.counts[s], empty) for s in deletion.keys
    }
    _all(world, pool, "warm", [(s, (Job(s, "retrain", ()),)) for s in shards])
    made: list[Made] = []
    latencies: list[float] = []
    clock = busy = 0.0
    while len(latencies) < len(requests):
        done = len(latencies)
        clock = max(clock, arrivals[done])
        batch = requests[done : int(np.searchsorted(arrivals, clock, side="right"))]
        keys: dict[int, Keys] = {}
        for shard, key in batch:
            keys[shard] = (*keys.get(shard, ()), ("id", key))
        found = _fulfil(world, contender, pool, shards, keys, slices)
        makespan = max(schedule([one.seconds for one in found], pool.workers))
        clock, busy = clock + makespan, busy + makespan
        made += found
        latencies += [clock - at for at in arrivals[done : done + len(batch)]]
    calls = [
        (s, (s, state.current or None, False, deletion.keys[s], world.setup.test_rows)) for s, state in shards.items()
    ]
    scores = {found.shard: found for found in _all(world, pool, "score", calls)}
    _all(world, pool, "drop", [(one.shard, (one,)) for one in made])
    owing = frozenset(shard for shard, state in shards.items() if state.updated)
    return Trial(tuple(made), scores, busy, owing=owing, latencies=tuple(latencies))


def _requests(world: World, deletion: Deletion, workers: int) -> tuple[list[tuple[int, bytes]], list[float]]:
    random = generator("arrivals", world.seed)
    every = [(shard, key) for shard, keys in deletion.keys.items() for _, key in keys]
    pace = PACE * float(np.mean([seconds for seconds, _ in world.training.values()])) / workers
    arrivals = np.cumsum(random.exponential(pace, len(every)))
    return [every[at] for at in random.permutation(len(every))], arrivals.tolist()


def _fulfil(
    world: World,
    contender: Contender,
    pool: Pool,
    shards: dict[int, _Shard],
    keys: Mapping[int, Keys],
    slices: Mapping[bytes, int],
) -> list[Made]:
    """Run one batch of requests; `shards` is brought up to date."""
    fresh = {s: _per_slice(new, slices, len(world.epochs)) for s, new in keys.items()}
    names: dict[int, StrategyName | str] = dict.fromkeys(keys, contender.runs)
    alphas = dict.fromkeys(keys, contender.alpha or 0.0)
    errors = dict.fromkeys(keys, 0.0)
    if contender.runs in PLANNED:
        stats = [_stats(world, s, shards[s], fresh[s]) for s in keys]
        for line in world.plan_for(stats, contender.runs, pool.workers).shards:
            names[line.shard], errors[line.shard] = line.strategy, line.predicted_error
            alphas[line.shard] = line.alpha if contender.alpha is None else contender.alpha
    jobs = []
    for s, new in keys.items():
        state = shards[s]
        job = Job(s, names[s], new, state.trajectory, state.current, alphas[s])
        jobs.append(replace(job, removed=(*state.exact, *state.updated)))
    found: list[Made] = _all(world, pool, "run", [(job.shard, (job,)) for job in jobs])
    for one in found:
        s, state = one.shard, shards[one.shard]
        out = tuple(a + b for a, b in zip(state.open, fresh[s], strict=True))
        if names[s] == "retrain":
            left = tuple(a - b for a, b in zip(state.counts, out, strict=True))
            gone = (*state.exact, *state.updated, *keys[s])
            shards[s] = _Shard(one.trajectory, one.blob or "", left, (0,) * len(out), gone)
        else:
            shards[s] = replace(
                state,
                current=one.blob or "",
                updated=(*state.updated, *keys[s]),
                open=out,
                spent=state.spent + errors[s],
            )
    return found


def _stats(world: World, shard: int, state: _Shard, fresh: tuple[int, ...]) -> ShardStats:
    revoked = tuple(a + b for a, b in zip(state.open, fresh, strict=True))
    every = (True,) * len(world.epochs)
    return ShardStats(shard, world.epochs, state.counts, revoked, fresh, every, error_spent=state.spent)


def _per_slice(keys: Keys, slices: Mapping[bytes, int], count: int) -> tuple[int, ...]:
    return tuple(np.bincount([slices[key] for _, key in keys], minlength=count + 1)[1:].tolist())


def _all(world: World, pool: Pool, method: str, calls: list[tuple[int, tuple[Any, ...]]]) -> list[Any]:
    return pool.run(world.settings, [(shard, method, arguments) for shard, arguments in calls])
