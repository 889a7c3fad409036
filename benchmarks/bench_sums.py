"""Deletion by subtraction from integer sums, beside a recount.

    python benchmarks/bench_sums.py [--cases mnist:60000:512 bytes:100000:512 …] [--out CSV]

A case is a table, how many of its rows, and how many features they are projected to (0: the table's own). `bytes` is a
table of random bytes, for sizes that no real one at hand has. One shard, one thread, in this process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.study import csvfile
from benchmarks.study.records import environment
from benchmarks.suite.sums import Result
from hybridmu.config import DataSettings
from hybridmu.datasets import catalog

_SINGLE = 15  # deletions of one row, of which the median is told
_BYTES, _CLASSES = 512, 10  # columns of the random table, and its classes
_CASES = ("mnist:60000:512", "mnist:60000:2048", "bytes:10000:512", "bytes:100000:512", "bytes:1000000:512")


def main() -> None:
    """Measure the cases; one line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=_CASES, metavar="TABLE:ROWS:FEATURES")
    parser.add_argument("--out", type=Path, help="a CSV file that lines are appended to")
    asked = parser.parse_args()
    with threadpool_limits(1):
        for case in asked.cases:
            name, rows, features = case.split(":")
            found = measured(name, int(rows), int(features))
            print(found, flush=True)
            if asked.out:
                csvfile.append(asked.out, [found], Result)


def measured(name: str, rows: int, features: int) -> Result:
    """Return the figures of one case.

    Args:
        name: `bytes`, or a built-in dataset.
        rows: Of its training table, from the first one on.
        features: After the projection; 0: no projection.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, count = _table(name, rows, Path(folder) / "train.parquet")
        document: dict[str, Any] = {
            "data": {**data, "test_fraction": 0},
            "task": {"name": "lda", "levels": 255, "project": features},
            "sisa": {"shards": 1},
            "policy": {"retention_seconds": 1e9},
            "storage_url": f"{folder}/system",
        }
        with closing(hybridmu.connect(document, executor="local")) as system:
            system.train()
            ids = iter(np.random.default_rng(0).permutation(count).tolist())
            single = [_forget(system, [next(ids)], "subtract") for _ in range(_SINGLE)]
            recount = [_forget(system, [next(ids)], "retrain") for _ in range(2)][1]  # the first one reads the rows
            shares = [_forget(system, [next(ids) for _ in range(count // parts)], "subtract") for parts in (100, 10)]
            [sub] = system.registry.version().shards
            state = system.site.blobs.get(str(sub.blob))
            size = state["0.cross"].shape[0]
            used = sum(tensor.nbytes for tensor in state.values())
    return Result(
        run=datetime.now(UTC).isoformat(timespec="seconds"),
        table=name,
        rows=count,
        features=size - 1,
        classes=state["0.cross"].shape[1],
        applied_ms=1e3 * statistics.median(applied for applied, _ in single),
        job_ms=1e3 * statistics.median(job for _, job in single),
        percent_seconds=shares[0][1],
        tenth_seconds=shares[1][1],
        recount_seconds=recount[1],
        bytes_ratio=used / (size * (size + 1) // 2 * 8),
        **environment(),
    )


def _forget(system: hybridmu.System, ids: list[int], strategy: str) -> tuple[float, float]:
    """Return the seconds from acceptance to the applied version, and those of the job."""
    report = system.forget(ids=ids, strategy=strategy, wait=True)
    [shard] = report["shards"]
    assert shard["strategy"] == strategy, shard["reasons"]
    return report["seconds_to_applied"], shard["measured_seconds"]


def _table(name: str, rows: int, path: Path) -> tuple[dict[str, Any], int]:
    """Return the section `data` of a case, and how many rows there are, numbered from 0."""
    if name == "bytes":
        draw = np.random.default_rng(0)
        values = pa.array(draw.integers(0, 256, rows * _BYTES, dtype=np.uint8))
        pixels = pa.FixedSizeListArray.from_arrays(values, _BYTES)
        table = pa.table({"x": pixels, "label": draw.integers(0, _CLASSES, rows)})
        label = "label"
    else:
        found = catalog.resolve(DataSettings(name=name))
        kept = [column for column in (found.group, found.id) if column]
        table, label = pq.read_table(found.train).slice(0, rows).drop_columns(kept), str(found.label)
    pq.write_table(table.append_column("id", pa.array(np.arange(len(table)))), path)
    return {"train": str(path), "label": label}, len(table)


if __name__ == "__main__":
    main()
