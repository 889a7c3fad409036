"""Speed of accepting, planning and purging requests.

    python benchmarks/bench_requests.py accept|plan|purge [--out CSV]

Prints figures beside the machine's own limit, a bare fsync. On loopback-free
local storage; two cores suffice.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.study import benchmarks
from hybridmu.planning.cost import CostModel
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.store.storage.storage import Storage
from hybridmu.types import Calibration, ResolvedKey, RowKey, ShardStats


def _fsync_ms(folder: Path) -> float:
    """Return the median time of appending a page to a file and making it durable, in milliseconds."""
    taken = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(50):
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return float(np.median(taken) * 1000)


def _system(folder: Path, rows: int, shards: int, groups: bool = False) -> hybridmu.System:
    """Return a trained system of `rows` rows that takes seconds to train."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {"id": pa.array(np.arange(rows)), "label": pa.array(random.integers(0, 2, rows))}
    if groups:
        columns["user"] = pa.array([f"user-{n}" for n in random.integers(0, rows // 4, rows)])
    columns["x"] = pa.array(random.normal(size=rows).astype(np.float32))
    pq.write_table(pa.table(columns), folder / "train.parquet", row_group_size=65_536)
    config: dict[str, Any] = {
        "data": {"train": str(folder / "train.parquet"), "test_fraction": 0, **({"group": "user"} if groups else {})},
        "task": {"name": "linear"},
        "sisa": {"shards": shards, "slices": 5, "epochs": 1, "batch_size": 4096},
        # No replay: one request in ten is drawn for it, which would make a purge of one request a lottery.
        "policy": {"calibrate": False, "verify_share": 0.0},
        "storage_url": str(folder / "storage"),
    }
    system = hybridmu.connect(config, executor="local")
    system.train()
    return system


def accept(rows: int, rate: float, seconds: float) -> dict[str, Any]:
    """Accept requests of one id each at a steady rate, and one of 10,000 ids; every call returns durable.

    Args:
        rows: Known ids.
        rate: Requests per second.
        seconds: For how long.

    Returns:
        Latencies in milliseconds.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _system(folder, rows, 8) as system:
            order = np.random.default_rng(1).permutation(rows)
            system.forget(ids=[int(order[-1])])  # the first call reads the key columns
            taken, started = [], time.perf_counter()
            for number in range(int(rate * seconds)):
                time.sleep(max(0.0, started + number / rate - time.perf_counter()))
                begun = time.perf_counter()
                system.forget(ids=[int(order[number])])
                taken.append((time.perf_counter() - begun) * 1000)
            many = [int(row) for row in order[-10_001:-1]]
            begun = time.perf_counter()
            system.forget(ids=many)
            large = time.perf_counter() - begun
            return {
                "known_ids": rows,
                "rate": rate,
                "requests": len(taken),
                "accept_p50_ms": float(np.percentile(taken, 50)),
                "accept_p99_ms": float(np.percentile(taken, 99)),
                "accept_max_ms": max(taken),
                "fsync_ms": _fsync_ms(folder),
                "ten_thousand_ids_s": large,
            }


def plan(shards: int, pending: int) -> dict[str, Any]:
    """Plan many shards with many pending ids: counting them in the database, then deciding.

    Args:
        shards: Touched shards.
        pending: Ids that are revoked and not removed, over all shards.

    Returns:
        Seconds of both parts.
    """
    from hybridmu.store.ledger.database import Database

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        ledger = Database.open(f"sqlite:///{name}/ledger.sqlite3", create=True).ledger
        keys = [
            ResolvedKey("id", n.to_bytes(16, "big"), int(s), int(i), (RowKey(n.to_bytes(16, "big")),))
            for n, (s, i) in enumerate(
                zip(random.integers(0, shards, pending), random.integers(1, 6, pending), strict=True)
            )
        ]
        ledger.accept(keys)
        counting, deciding = [], []
        for _ in range(5):
            begun = time.perf_counter()
            counts = ledger.counts()
            counting.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            stats = []
            for shard, found in counts.items():
                revoked = tuple(found.get(i, (0, 0, 0))[1] for i in range(1, 6))
                stats.append(ShardStats(shard, (4,) * 5, (20_000,) * 5, revoked, revoked, (True,) * 5))
            make_plan(stats, CostModel(), Policy(), Pools(64, 4), Calibration(), slack_seconds=60.0)
            deciding.append(time.perf_counter() - begun)
        return {
            "shards": shards,
            "pending_ids": pending,
            "count_s": float(np.median(counting)),
            "decide_s": float(np.median(deciding)),
            "total_s": float(np.median(counting) + np.median(deciding)),
        }


class _Counted:
    """A file that counts the bytes read from it.

    Args:
        file: What is read.
        name: Its name in storage.
        bytes_read: Name → bytes so far; counted on.
    """

    def __init__(self, file: Any, name: str, bytes_read: Counter[str]) -> None:
        self._file, self._name, self._bytes_read = file, name, bytes_read
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)  # seek, tell, size, close

    def read(self, size: int | None = None) -> bytes:
        """Return the next bytes."""
        return bytes(self.read_buffer(size))

    def read_buffer(self, size: int | None = None) -> pa.Buffer:
        """Return the next bytes without a copy; Arrow asks for them in this way."""
        data = self._file.read_buffer(size)
        self._bytes_read[self._name] += data.size
        return data


@contextmanager
def _counting() -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Yield (name in storage → bytes read, name → times written), counted on until the end of the block."""
    bytes_read: Counter[str] = Counter()
    written: Counter[str] = Counter()
    reading, publish = Storage.reading, Storage.publish

    @contextmanager
    def counted_reading(self: Storage, name: str, **options: Any) -> Iterator[pa.PythonFile]:
        with reading(self, name, **options) as file:
            yield pa.PythonFile(_Counted(file, name, bytes_read), mode="r")

    def counted_publish(self: Storage, source: Path, name: str) -> None:
        written[name] += 1
        publish(self, source, name)

    Storage.reading, Storage.publish = counted_reading, counted_publish  # type: ignore[method-assign]
    try:
        yield bytes_read, written
    finally:
        Storage.reading, Storage.publish = reading, publish  # type: ignore[method-assign]


def purge(rows: int) -> dict[str, Any]:
    """Purge one request that touches every shard; count how often each file of the lake is read and written.

    Args:
        rows: Rows of the table.

    Returns:
        Seconds from exact to PURGED; of the tables and index files that were rewritten, the writes per file, and the
        bytes read over the file's size (keys are read once more before and after, to find the rows and to look).
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with _system(folder, rows, 8, groups=True) as system:
            ids = list(range(0, rows, rows // 200))
            request = system.forget(ids=ids, strategy="retrain", wait=True)
            sizes = {file.name: file.size for file in system.site.storage.list("lake")}
            begun = time.perf_counter()
            with _counting() as (bytes_read, written):
                system.run(until_idle=True)
            taken = time.perf_counter() - begun
            tables = [name for name in written if name in sizes and "shard-" in name]
            final = system.ledger.request(request["request_id"])
            return {
                "rows": rows,
                "revoked": len(ids),
                "state": str(final.state),
                "purge_s": taken,
                "lake_bytes": sum(sizes.values()),
                "files_written": len(written),
                "writes_per_file": max(written.values(), default=0),
                "reads_per_table": max((bytes_read[name] / sizes[name] for name in tables), default=0.0),
                "reads_per_index": max(
                    (bytes_read[name] / sizes[name] for name in written if name in sizes and name not in tables),
                    default=0.0,
                ),
            }


def main() -> None:
    """Run one benchmark and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("accept", "plan", "purge"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="a CSV file that figures are appended to")
    given = parser.parse_args()
    if given.what == "accept":
        found = accept(given.rows, given.rate, given.seconds)
    else:
        found = plan(given.shards, given.pending) if given.what == "plan" else purge(given.rows)
    figures = {name: value for name, value in found.items() if isinstance(value, int | float)}
    benchmarks.write(given.out, given.what, {"": figures})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
