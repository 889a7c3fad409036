"""Models on frozen features of texts and pictures: how right they are, what encoding costs, and one deletion.

    python benchmarks/bench_features.py [--examples reviews cifar10-encoder] [--out CSV]

Each trains the configuration of that name in examples/ on all rows but those that are ingested afterwards. One thread,
in this process; but a training table's rows are encoded by all cores, where they are more than a few thousand.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.study import csvfile
from benchmarks.study.records import environment
from benchmarks.suite.features import Result
from hybridmu.config import load
from hybridmu.core.features.encoded_values import encoded
from hybridmu.core.kernel.rows import Rows
from hybridmu.datasets import catalog
from hybridmu.store.dataset.layout import Split

_EXAMPLES = ("reviews", "cifar10-encoder")
_LATER = 2_000  # rows that are ingested after the training
_SINGLE = 9  # deletions of one row, of which the median is told


def main() -> None:
    """Measure the examples; one line per example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", default=_EXAMPLES)
    parser.add_argument("--out", type=Path, help="a CSV file that lines are appended to")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for example in asked.examples:
            found = measured(example)
            print(found, flush=True)
            if asked.out:
                csvfile.append(asked.out, [found], Result)


def measured(example: str) -> Result:
    """Return the figures of one example."""
    settings = catalog.resolved(load(Path(__file__).resolve().parents[1] / f"examples/{example}.yaml"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = pq.read_table(settings.data.train)
        pq.write_table(table.slice(_LATER), folder / "train.parquet")
        pq.write_table(table.slice(0, _LATER), folder / "later.parquet")
        document = settings.model_dump(mode="json", exclude_unset=True)
        document["data"] |= {"train": str(folder / "train.parquet")}
        document |= {"storage_url": f"{folder}/system", "policy": {"retention_seconds": 1e9}}
        with closing(hybridmu.connect(document, executor="local")) as system:
            started = time.perf_counter()
            trained = system.train()
            train_seconds = time.perf_counter() - started
            started = time.perf_counter()
            for column in system.session.lake.derivation:
                encoded(column, column.values.cells(table.slice(0, _LATER).column(column.source)))
            bare = time.perf_counter() - started
            started = time.perf_counter()
            system.ingest(str(folder / "later.parquet"))
            ingestion = time.perf_counter() - started
            lake = system.session.lake
            rows, test = _rows(system, "train"), _rows(system, "test")
            logistic = LogisticRegression(max_iter=300).fit(rows.x.numpy(), rows.y.numpy())
            draw = np.random.default_rng(0)
            ids = draw.choice(table["id"].to_numpy()[_LATER:], _SINGLE, replace=False).tolist()
            reports = [system.forget(ids=[row], strategy="subtract", wait=True) for row in ids]
            width = lake.features.width(lake.manifest.encoder)
    return Result(
        run=datetime.now(UTC).isoformat(timespec="seconds"),
        example=example,
        rows=len(table) - _LATER,
        features=width,
        accuracy=trained["quality"]["test"]["ensemble"]["accuracy"],
        logistic=float(logistic.score(test.x.numpy(), test.y.numpy())),
        train_seconds=train_seconds,
        encode_ratio=bare / ingestion,
        values_per_second=_LATER / bare,
        applied_ms=1e3 * statistics.median(report["seconds_to_applied"] for report in reports),
        **environment(),
    )


def _rows(system: hybridmu.System, split: Split) -> Rows:
    tables = system.session.lake.shard(split, 0)
    (rows,) = tables.rows(np.arange(len(tables.outline)))
    return rows


if __name__ == "__main__":
    main()
