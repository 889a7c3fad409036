"""Limits of the planner and the ledger: seconds of single steps by number of shards and of known ids."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import hybridmu
from benchmarks.study import records
from hybridmu.planning.cost import Coefficients, CostModel
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.planning.simulator import Known, Shape, poisson, simulate
from hybridmu.store.ledger.database import Database
from hybridmu.types import Calibration, CalibrationBucket, ResolvedKey, RowKey, ShardOutcome, ShardStats, SliceRecord

SLICES = 5


@dataclass(frozen=True)
class Limit:
    """One step at one size.

    Attributes:
        step: What was timed.
        shards: S.
        ids: Known ids.
        seconds: Median of three, of one call.
        hardware: Of this machine.
        versions: Of the software.
        commit: Of the code; `+` marks uncommitted changes.
    """

    step: str
    shards: int
    ids: int
    seconds: float
    hardware: str
    versions: str
    commit: str

    @property
    def key(self) -> tuple[str, ...]:
        """Return what names the measurement."""
        return self.step, str(self.shards), str(self.ids)


def planner(shards: int) -> Iterator[Limit]:
    """Yield what planning a deletion that touches every shard takes, and simulating a thousand requests."""
    draw = np.random.default_rng(0)
    rows = draw.integers(500, 1500, (shards, SLICES))
    stats = [
        ShardStats(n, (3,) * SLICES, tuple(map(int, own)), (1,) * SLICES, (1,) * SLICES, (True,) * SLICES)
        for n, own in enumerate(rows)
    ]
    cost = CostModel({name: Coefficients(1e-4, 5e-3, 0.1, 9) for name in ("retrain", "dpus", "dpus-newton")})
    known = Calibration(tuple(CalibrationBucket(name, 1, 0.01, 0.5, 0.01, 0.0) for name in ("dpus", "dpus-newton")))
    policy, pools = Policy(light_seconds=0.0), Pools(64, 4)
    yield _limit("plan", shards, int(rows.sum()), lambda: make_plan(stats, cost, policy, pools, known))
    shape = Shape(tuple(tuple(map(int, own)) for own in rows), ((3,) * SLICES,) * shards)
    load = poisson(shape, 1000, 1, 1, 0)
    yield _limit(
        "simulate a day of 1,000 requests",
        shards,
        int(rows.sum()),
        lambda: simulate(Known(shape, cost, policy, known), load, pools),
    )


def ledger(shards: int) -> Iterator[Limit]:
    """Yield what a ledger of so many shards takes to accept, count and publish a deletion that touches all."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(f"sqlite:///{folder}/ledger.db", create=True)
        log, registry = database.ledger, database.registry
        token = database.lease.acquire("scale", 3600.0)
        assert token is not None
        registry.publish_training(token, [_outcome(shard, 0) for shard in range(shards)])
        number = iter(range(10**9))

        def accept() -> None:
            digests = [next(number).to_bytes(16) for _ in range(shards)]
            log.accept([ResolvedKey("id", key, shard, 1, (RowKey(key),)) for shard, key in enumerate(digests)])

        yield _limit("accept one id of every shard", shards, shards, accept)
        yield _limit("count what is revoked", shards, shards, lambda: log.counts(range(shards)))
        yield _limit("read the served version", shards, shards, registry.version)
        database.close()


def known_ids(ids: int, folder: Path) -> Iterator[Limit]:
    """Yield what a system of so many known ids takes to train on them once, and to accept single requests."""
    draw = np.random.default_rng(0)
    table = {"id": pa.array(np.arange(ids)), "label": pa.array(draw.integers(0, 2, ids))}
    table["x"] = pa.array(draw.normal(size=ids).astype(np.float32))
    pq.write_table(pa.table(table), folder / "train.parquet", row_group_size=65_536)
    with hybridmu.connect(
        {
            "data": {"train": str(folder / "train.parquet"), "test_fraction": 0},
            "task": {"name": "linear"},
            "sisa": {"shards": 16, "slices": SLICES, "epochs": 1, "batch_size": 65_536},
            "policy": {"calibrate": False},
            "storage_url": str(folder / "storage"),
        },
        executor="local",
    ) as system:
        began = time.perf_counter()
        system.train()
        yield Limit("ingest and train", 16, ids, time.perf_counter() - began, **records.environment())
        some = iter(map(int, draw.permutation(ids)))
        system.forget(ids=[next(some)])  # the first call reads the key columns
        yield _limit("accept one id", 16, ids, lambda: system.forget(ids=[next(some)]))
        yield _limit("plan one id", 16, ids, lambda: system.plan(ids=[next(some)]))
        many = [next(some) for _ in range(30_000)]
        batches = iter([many[:10_000], many[10_000:20_000], many[20_000:]])
        yield _limit("accept 10,000 ids", 16, ids, lambda: system.forget(ids=next(batches)))


def _limit(step: str, shards: int, ids: int, call: Callable[[], object]) -> Limit:
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return Limit(step, shards, ids, statistics.median(taken), **records.environment())


def _outcome(shard: int, upto: int) -> ShardOutcome:
    slices = tuple(SliceRecord(n, f"{shard:032x}{n:032x}", f"{shard:032x}{n:032x}") for n in range(1, SLICES + 1))
    return ShardOutcome("job", shard, "retrain", slices[-1].blob, True, upto, 10, 1, 30, 0.5, slices)
