"""The defaults against scikit-learn: `python benchmarks/run_suite.py [--tables adult digits] [--out CSV]`.

Each table is trained on with no option set, on the same rows as scikit-learn's models, in one process and one thread.
Then one row is forgotten exactly. `--set sisa.epochs=20` tries other values than the defaults.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

import hybridmu
from benchmarks.suite.rivals import Score, rivals
from benchmarks.suite.tables import SOURCES, Source, cuts
from hybridmu.datasets import catalog

_COLUMNS = (
    *("table", "rows", "cuts", "measure", "hybridmu", "linear", "mlp", "boosting", "behind"),
    *("shards", "slices", "epochs", "batch_size", "train_s", "forget_s"),
    *("linear_s", "mlp_s", "boosting_s"),
)


def main() -> None:
    """Run the suite; one line of CSV per table."""
    warnings.filterwarnings("ignore", module="sklearn")  # 100 rounds need not converge
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=sorted(SOURCES), default=[*SOURCES])
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="in place of a default")
    parser.add_argument("--alone", action="store_true", help="without scikit-learn")
    parser.add_argument("--out", type=Path, help="a CSV file that lines are appended to")
    asked = parser.parse_args()
    changes: dict[str, Any] = {}
    for item in asked.set:
        name, _, value = item.partition("=")
        section, _, key = name.partition(".")
        changes.setdefault(section, {})[key] = yaml.safe_load(value)
    writer = csv.DictWriter(sys.stdout, _COLUMNS)
    writer.writeheader()
    for name in asked.tables:
        line = compared(SOURCES[name], changes, alone=asked.alone)
        writer.writerow(line)
        sys.stdout.flush()
        if asked.out:
            _append(asked.out, line)


def compared(source: Source, changes: dict[str, Any], *, alone: bool = False) -> dict[str, Any]:
    """Return one line of the table: means over all cuts.

    Args:
        source: The table.
        changes: Section → key → value, in place of defaults.
        alone: Leave scikit-learn out.
    """
    if source.read is None:
        catalog.get(source.name)
    ours: list[Score] = []
    theirs: list[dict[str, Score]] = []
    forgetting: list[float] = []
    used: Any = None
    parts = cuts(source)
    for train, test in parts:
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(train, f"{folder}/train.parquet")
            pq.write_table(test, f"{folder}/test.parquet")
            files = {"train": f"{folder}/train.parquet", "test": f"{folder}/test.parquet"}
            data = {"name": source.name} if source.read is None else {**source.roles, **files}
            document = {**changes, "data": {**data, **changes.get("data", {})}}
            with closing(hybridmu.connect({**document, "storage_url": f"{folder}/system"}, executor="local")) as system:
                ours.append(_trained(system, numbers=source.numbers))
                started = time.perf_counter()
                system.forget(ids=[train["id"][0].as_py()], strategy="retrain", wait=True)
                forgetting.append(time.perf_counter() - started)
                used = system.settings.sisa
        if not alone:
            roles = {"id", source.outcome, source.group or "id"}
            theirs.append(rivals(train, test, source.outcome, roles, numbers=source.numbers))
    value = statistics.fmean(score.value for score in ours)
    digits = 3 if source.numbers else 1
    line: dict[str, Any] = {
        "table": source.name,
        "rows": len(parts[0][0]),
        "cuts": len(parts),
        "measure": "RMSE" if source.numbers else "accuracy",
        "hybridmu": round(value, digits),
        "shards": used.shards,
        "slices": used.slices,
        "epochs": used.epochs,
        "batch_size": used.batch_size,
        "train_s": round(statistics.fmean(score.seconds for score in ours), 2),
        "forget_s": round(statistics.fmean(forgetting), 2),
    }
    means = {}
    for name in theirs[0] if theirs else ():
        means[name] = statistics.fmean(found[name].value for found in theirs)
        line[name] = round(means[name], digits)
        line[f"{name}_s"] = round(statistics.fmean(found[name].seconds for found in theirs), 2)
    if means:
        best = min(means.values()) if source.numbers else max(means.values())
        # In points of accuracy; in per cent of the RMSE.
        line["behind"] = round(100 * (value - best) / best if source.numbers else best - value, 1)
    return line


def _trained(system: hybridmu.System, *, numbers: bool) -> Score:
    found = system.train()
    quality = found["quality"]["test"]["ensemble"]
    return Score(quality["rmse"] if numbers else 100 * quality["accuracy"], found["seconds"])


def _append(path: Path, line: dict[str, Any]) -> None:
    begins = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        if begins:
            writer.writeheader()
        writer.writerow(line)


if __name__ == "__main__":
    main()
