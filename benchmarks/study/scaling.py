"""Measurements of `jobs/scale.py`: one row per point, measured beside what the simulator said of it before."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import sqlalchemy as sa
from ray.cluster_utils import Cluster

import hybridmu
from benchmarks.study import records
from hybridmu.planning.simulator import Outcome
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.system.system import System
from hybridmu.types import KeyKind

_FEATURES, _ROWS_PER_SHARD, _BATCH = 64, 128, 16
_SINGLES = 16


@dataclass(frozen=True)
class Point:
    """One point of a scaling experiment.

    Attributes:
        experiment: `strong`, `weak` or `rate`; `nodes` is `strong` over so many nodes.
        kind: `compute`: training on the cores; `waiting`: every step waits, as for a GPU.
        shards: S.
        workers: Jobs at once.
        nodes: Raylets with CPUs.
        load: Rows of the one request (`strong`, `weak`, `nodes`), or requests per second (`rate`).
        seed: Of rows and requests.
        measured: Seconds from the first acceptance to the last request served (`rate`: 95th percentile of each).
        predicted: What the simulator said, from the costs of one worker and the overheads of single requests.
        median: `rate`: median seconds of a request; the measured makespan otherwise.
        predicted_median: The same, simulated.
        device_seconds: Sum over all jobs.
        predicted_device_seconds: The same, simulated.
        hardware: Of this machine.
        versions: Of the software.
        commit: Of the code; `+` marks uncommitted changes.
    """

    experiment: str
    kind: str
    shards: int
    workers: int
    nodes: int
    load: float
    seed: int
    measured: float
    predicted: float
    median: float
    predicted_median: float
    device_seconds: float
    predicted_device_seconds: float
    hardware: str
    versions: str
    commit: str

    @property
    def key(self) -> tuple[str, ...]:
        """Return what names the point."""
        named = (self.experiment, self.kind, self.shards, self.workers, self.nodes, f"{self.load:g}", self.seed)
        return tuple(map(str, named))


@dataclass(frozen=True)
class Wanted:
    """A point to measure; attributes as of `Point`."""

    experiment: str
    kind: str
    shards: int
    workers: int
    load: float
    seed: int
    nodes: int = 1

    @property
    def key(self) -> tuple[str, ...]:
        """Return what names the point."""
        named = (self.experiment, self.kind, self.shards, self.workers, self.nodes, f"{self.load:g}", self.seed)
        return tuple(map(str, named))


def measure(wanted: Wanted, folder: Path, database_url: str | None = None) -> Point:
    """Measure one point; Ray must be running with enough CPUs.

    Costs and overheads are learned on one worker, in this process's cluster, before the simulator is asked.

    Args:
        wanted: What to measure.
        folder: For tables and storage.
        database_url: Of a ledger that several nodes reach; a file by default.
    """
    raw = _config(wanted, folder, database_url)
    ids = _ids(wanted)
    with _opened(raw, 1) as system:
        system.train()
        spread = _per_shard(system, ids, wanted.shards)
        for number in range(_SINGLES):  # what a request costs by itself, and a retrain in a warm process
            _forget(system, [spread[number % wanted.shards].pop()])
            system.run(until_idle=True)  # on these cores the purge of one would slow the retrain of the next
    with _opened(raw, wanted.workers) as system:
        _forget(system, [shard.pop() for shard in spread])  # brings every actor up
        system.run(until_idle=True)
        run = _rate if wanted.experiment == "rate" else _burst
        measured, predicted, busy, foreseen = run(system, wanted, spread)
    return Point(
        wanted.experiment,
        wanted.kind,
        wanted.shards,
        wanted.workers,
        wanted.nodes,
        wanted.load,
        wanted.seed,
        measured=float(np.percentile(measured, 95)),
        predicted=float(np.percentile(predicted, 95)),
        median=statistics.median(measured),
        predicted_median=statistics.median(predicted),
        device_seconds=busy,
        predicted_device_seconds=foreseen,
        **records.environment(),
    )


def _burst(system: System, wanted: Wanted, spread: list[list[int]]) -> tuple[list[float], list[float], float, float]:
    """Return makespans of three requests that touch every shard, and what was predicted of each."""
    measured, predicted, busy, foreseen = [], [], [], []
    for _ in range(3):
        ids = [number for shard in spread for number in (shard.pop() for _ in range(int(wanted.load) // wanted.shards))]
        expected = system.simulate([system.arrival(0.0, ids)], wanted.workers, "retrain")
        report = _forget(system, ids)
        system.run(until_idle=True)
        measured.append(report["served_at"] - report["received_at"])
        predicted.append(expected.makespan)
        busy.append(sum(shard["measured_seconds"] for shard in report["shards"]))
        foreseen.append(expected.busy_seconds)
    middle = statistics.median(measured)
    return [middle], [statistics.median(predicted)], statistics.median(busy), statistics.median(foreseen)


def _rate(system: System, wanted: Wanted, spread: list[list[int]]) -> tuple[list[float], list[float], float, float]:
    """Return how long each request of a Poisson stream took to be served, and what was predicted."""
    draw = np.random.default_rng(wanted.seed)
    moments = np.cumsum(draw.exponential(1 / wanted.load, int(40 * wanted.load)))
    ids = [spread[int(shard)].pop() for shard in draw.integers(0, wanted.shards, len(moments))]
    arrivals = [system.arrival(float(at), [number]) for at, number in zip(moments, ids, strict=True)]
    expected: Outcome = system.simulate(arrivals, wanted.workers, "retrain")
    stop = threading.Event()
    follower = threading.Thread(target=_coordinate, args=(system, stop))
    follower.start()
    try:
        with hybridmu.connect(system.settings, executor="local") as asker:  # as a caller elsewhere
            started, names = time.monotonic(), []
            for at, number in zip(moments, ids, strict=True):
                time.sleep(max(0.0, at - (time.monotonic() - started)))
                names.append(str(asker.forget(ids=[number], strategy="retrain")["request_id"]))
            while any(asker.ledger.request(name).served_at is None for name in names):
                time.sleep(0.1)
            done = [asker.ledger.request(name) for name in names]
            rounds = {row["id"]: row["measured_seconds"] for name in names for row in asker.measurements.outcomes(name)}
    finally:
        stop.set()
        follower.join()
    took = [(request.served_at or 0.0) - request.received_at for request in done]
    return took, [one.served - one.at for one in expected.requests], sum(rounds.values()), expected.busy_seconds


def _coordinate(system: System, stop: threading.Event) -> None:
    """Be the coordinator, with the actors that are up, until told to stop."""

    def watch(_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        system.run(watch=watch)


def _forget(system: System, ids: Sequence[int]) -> dict[str, Any]:
    return system.forget(ids=ids, strategy="retrain", wait=True)


def _per_shard(system: System, ids: Sequence[int], shards: int) -> list[list[int]]:
    """Return ids of slice 1, whose removal trains all slices, by shard."""
    keys: list[tuple[KeyKind, object]] = [("id", number) for number in ids]
    found, _ = Lookup(system.site.lake).find(keys)
    spread: list[list[int]] = [[] for _ in range(shards)]
    for number, key in zip(ids, found, strict=True):
        if key.slice == 1:
            spread[key.shard].append(number)
    return spread


def _ids(wanted: Wanted) -> list[int]:
    return list(range(wanted.shards * _ROWS_PER_SHARD))


def _config(wanted: Wanted, folder: Path, database_url: str | None) -> dict[str, Any]:
    """Return the configuration of a system over random rows, of equal work per shard whatever their number."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = _ids(wanted)
    draw = np.random.default_rng(wanted.seed)
    x = draw.normal(size=(len(ids), _FEATURES)).astype(np.float32)
    columns: dict[str, Any] = {"id": pa.array(ids), "label": pa.array((x[:, 0] > 0).astype(np.int64))}
    columns |= {f"x{n}": pa.array(x[:, n]) for n in range(_FEATURES)}
    pq.write_table(pa.table(columns), folder / "train.parquet")
    waits = wanted.kind == "waiting"
    task = {"name": "benchmarks.study.waiting:Waiting", "hidden": [8], "seconds": 0.03} if waits else None
    return {
        "data": {"train": str(folder / "train.parquet"), "test_fraction": 0},
        "task": task or {"name": "mlp", "hidden": [512, 512]},
        "sisa": {
            "shards": wanted.shards,
            "slices": 2,
            "epochs": 4 if waits else 60,
            "batch_size": _BATCH,
            "seed": wanted.seed,
        },
        "policy": {"calibrate": False, "verify_share": 0.0},
        "cluster": {"live_actors": wanted.shards, "updaters": 1},
        "storage_url": str(folder / "storage"),
        "database_url": database_url,
    }


@contextmanager
def _opened(raw: dict[str, Any], workers: int) -> Iterator[System]:
    cluster = {**raw["cluster"], "max_parallel": workers}
    with hybridmu.connect({**raw, "cluster": cluster}, "ray") as system:
        yield system


@contextmanager
def database(server: str | None) -> Iterator[str | None]:
    """Make a database of its own for one point, dropped in the end.

    Args:
        server: URL of any database of a PostgreSQL where this user may make others; None: no server.

    Yields:
        Its URL; None without a server.
    """
    if server is None:
        yield None
        return
    engine = sa.create_engine(sa.make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    name = f"hybridmu_scale_{uuid.uuid4().hex[:12]}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        try:
            yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@contextmanager
def cluster(cpus: int, nodes: int = 0) -> Iterator[None]:
    """Start Ray with pretended CPUs, since waiting workers need none.

    Args:
        cpus: Of the only node.
        nodes: With one or more: so many raylets of one CPU each, beside a head without work.
    """
    made = None
    if nodes:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
        for _ in range(nodes):
            made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        made.wait_for_nodes()
    where: dict[str, Any] = {"address": made.address} if made else {"num_cpus": cpus, "include_dashboard": False}
    ray.init(namespace="hybridmu", log_to_driver=False, logging_level="error", **where)
    try:
        yield
    finally:
        ray.shutdown()
        if made:
            made.shutdown()
