"""The defaults against scikit-learn: `python benchmarks/run_suite.py [--tables adult digits] [--out CSV]`.

Each table is learned with no option set, on the same rows as scikit-learn's models, in one process and one thread. Then
single rows are forgotten exactly. `--set sisa.epochs=20` tries another value than the default.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.study import csvfile
from benchmarks.study.records import environment
from benchmarks.suite.records import RIVALS, Result
from benchmarks.suite.rivals import Score, rivals
from benchmarks.suite.tables import SOURCES, Source, cuts

_FORGOTTEN = 4  # rows, one after the other


def main() -> None:
    """Run the suite; one line per table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=sorted(SOURCES), default=[*SOURCES], metavar="TABLE")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="in place of a default")
    parser.add_argument("--alone", action="store_true", help="without scikit-learn")
    parser.add_argument("--out", type=Path, help="a CSV file that lines are appended to")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")  # so many epochs need not be enough
    with threadpool_limits(1):
        for name in asked.tables:
            found = compared(SOURCES[name], asked.set, alone=asked.alone)
            print(found, flush=True)
            if asked.out:
                csvfile.append(asked.out, [found], Result)


def compared(source: Source, changes: Sequence[str] = (), *, alone: bool = False) -> Result:
    """Return the result of one table: means over all cuts.

    Args:
        source: The table.
        changes: `SECTION.KEY=VALUE`, in place of defaults.
        alone: Leave scikit-learn out.
    """
    ours: list[tuple[Score, float]] = []
    theirs: list[dict[str, Score]] = []
    parts = cuts(source)
    used: dict[str, Any] = {}
    for train, test in parts:
        score, forgetting, used = _ours(source, train, test, _sections(changes))
        ours.append((score, forgetting))
        if not alone:
            roles = {"id", source.outcome, source.group or "id"}
            theirs.append(rivals(train, test, source.outcome, roles, numbers=source.numbers))
    spread = (
        statistics.fmean(float(np.std(test[source.outcome].to_numpy())) for _, test in parts)
        if source.numbers
        else None
    )
    means: dict[str, Any] = {}
    for name in RIVALS:
        found = [each[name] for each in theirs if name in each]
        means[name] = statistics.fmean(score.value for score in found) if found else None
        means[f"{name}_seconds"] = statistics.fmean(score.seconds for score in found) if found else None
    return Result(
        run=datetime.now(UTC).isoformat(timespec="seconds"),
        table=source.name,
        changes=" ".join(changes),
        rows=len(parts[0][0]),
        cuts=len(parts),
        deviation=spread,
        ours=statistics.fmean(score.value for score, _ in ours),
        train_seconds=statistics.fmean(score.seconds for score, _ in ours),
        forget_seconds=statistics.fmean(forgetting for _, forgetting in ours),
        **{name: used[name] for name in ("shards", "slices", "epochs", "batch_size")},
        **means,
        **environment(),
    )


def _ours(
    source: Source, train: pa.Table, test: pa.Table, changes: Mapping[str, Mapping[str, Any]]
) -> tuple[Score, float, dict[str, Any]]:
    """Return how good our model is, the seconds of a deletion, and the settings that were chosen."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(train, f"{folder}/train.parquet")
        pq.write_table(test, f"{folder}/test.parquet")
        files = {"train": f"{folder}/train.parquet", "test": f"{folder}/test.parquet"}
        data = {"name": source.name} if source.read is None else {**source.roles, **files}
        document = {**changes, "data": {**data, **changes.get("data", {})}, "storage_url": f"{folder}/system"}
        with closing(hybridmu.connect(document, executor="local")) as system:
            found = system.train()
            places = np.linspace(0, len(train) - 1, _FORGOTTEN, dtype=int)
            started = time.perf_counter()
            for place in places:  # of shards and slices by chance
                system.forget(ids=[train["id"][int(place)].as_py()], wait=True)  # exactly: no update is calibrated
            seconds = (time.perf_counter() - started) / len(places)
    quality = found["quality"]["test"]["ensemble"]
    value = quality["rmse"] if source.numbers else 100 * quality["accuracy"]
    return Score(value, found["seconds"]), seconds, found["settings"]


def _sections(changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for item in changes:
        name, _, value = item.partition("=")
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = yaml.safe_load(value)
    return found


if __name__ == "__main__":
    main()
