"""Results of the suite: rows of docs/study/suite.csv and shards.csv, and the tables made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study import csvfile
from benchmarks.study.benchmarks import judged
from benchmarks.study.study_tables import table

RIVALS = ("linear", "mlp", "boosting")
# Points behind the best of scikit-learn's models: of another one, and of boosting.
_GOAL, _GOAL_OF_BOOSTING = 1.0, 2.0


@dataclass(frozen=True)
class Result:
    """One table, learned with no option set but those of `changes`.

    Attributes:
        run: When it was written, in UTC.
        table: Which table.
        changes: What was set in place of defaults; empty: nothing.
        rows: Training rows.
        cuts: How many cuts into training and test rows the figures are means of.
        deviation: Standard deviation of the test rows' numbers; None where classes are learned.
        shards: Chosen, or set.
        slices: The same.
        epochs: The same.
        batch_size: The same.
        ours: Accuracy in per cent, or RMSE where numbers are learned.
        linear: Of scikit-learn's logistic or ridge regression; None: not measured.
        mlp: Of its network.
        boosting: Of its histogram boosting.
        train_seconds: Until version 1, tables read and all.
        forget_seconds: Of forgetting one row exactly, from the call to the served version; the mean of some rows.
        linear_seconds: Of fitting, which is also what forgetting costs there.
        mlp_seconds: The same.
        boosting_seconds: The same.
        hardware: As in the study's rows.
        versions: The same.
        commit: The same.
    """

    run: str
    table: str
    changes: str
    rows: int
    cuts: int
    deviation: float | None
    shards: int
    slices: int
    epochs: int
    batch_size: int
    ours: float
    linear: float | None
    mlp: float | None
    boosting: float | None
    train_seconds: float
    forget_seconds: float
    linear_seconds: float | None
    mlp_seconds: float | None
    boosting_seconds: float | None
    hardware: str
    versions: str
    commit: str

    @property
    def best(self) -> str:
        """Return the name of the best rival that was measured."""
        return max((name for name in RIVALS if getattr(self, name) is not None), key=lambda name: self.points(name))

    def points(self, name: str) -> float:
        """Return accuracy, or R², of `ours` or a rival, in per cent."""
        value = float(getattr(self, name))
        return value if self.deviation is None else 100 * (1 - (value / self.deviation) ** 2)


def newest(path: Path) -> list[Result]:
    """Return the last result of each table and setting, in the order in which they came first."""
    found: dict[tuple[str, str], Result] = {}
    for result in csvfile.read(path, Result):
        found[result.table, result.changes] = result
    return [*found.values()]


def suite(folder: Path, _: str) -> str:
    """Return every table with our figure beside those of scikit-learn, and what made them."""
    results = newest(folder / "suite.csv")
    lines = []
    for found in results:
        behind = found.points(found.best) - found.points("ours")
        goal = _GOAL_OF_BOOSTING if found.best == "boosting" else _GOAL
        lines.append((
            found.table,
            f"{found.rows:,}",
            "accuracy" if found.deviation is None else "RMSE",
            _value(found, "ours"),
            *(_value(found, name) for name in RIVALS),
            judged(f"{behind:+.1f}", round(behind, 1) <= goal),
            f"{found.shards} × {found.slices}",
            f"{found.train_seconds:.1f} s",
            f"{found.forget_seconds:.2f} s",
            f"{getattr(found, f'{found.best}_seconds'):.1f} s ({found.best})",
        ))
    head = (
        *("table", "training rows", "measure", "HybridMU", "linear", "MLP", "boosting", "points behind the best"),
        *("S × R", "training", "forget a row", "best's training"),
    )
    return table(head, lines) + _made_by(results)


def shards(folder: Path, _: str) -> str:
    """Return what more shards cost in quality, and spare in forgetting."""
    results = newest(folder / "shards.csv")
    names = dict.fromkeys(found.table for found in results)
    counts = sorted({found.shards for found in results})
    lines = []
    for name in names:
        mine = {found.shards: found for found in results if found.table == name}
        cells = [
            f"{_value(mine[count], 'ours')}, {mine[count].forget_seconds:.2f} s" if count in mine else "–"
            for count in counts
        ]
        lines.append((name, "accuracy" if next(iter(mine.values())).deviation is None else "RMSE", *cells))
    return table(("table", "measure", *(f"S = {count}" for count in counts)), lines) + _made_by(results)


def _value(found: Result, name: str) -> str:
    value = getattr(found, name)
    if value is None:
        return "–"
    return f"{value:.1f} %" if found.deviation is None else f"{value:.3g}"


def _made_by(results: Sequence[Result]) -> str:
    lines = dict.fromkeys(f"{f.hardware}; {f.versions}; commit {f.commit}; {f.run[:10]}" for f in results)
    return "".join(f"\n\nMade by: {line}." for line in lines)


def closed_form(folder: Path, _: str) -> str:
    """Return how right closed-form models are beside scikit-learn's linear models and our networks."""
    results, others = newest(folder / "closed_form.csv"), {found.table: found for found in newest(folder / "suite.csv")}
    ways = list(dict.fromkeys(found.changes for found in results))
    lines = []
    for name in dict.fromkeys(found.table for found in results):
        mine = {found.changes: found for found in results if found.table == name}
        cells = [
            f"{_value(mine[way], 'ours')}, {mine[way].train_seconds:.1f} s, {mine[way].forget_seconds:.2f} s"
            if way in mine
            else "–"
            for way in ways
        ]
        other = others[name]
        rest = (_value(other, "linear"), _value(other, "ours"), f"{other.points(other.best):.1f} % ({other.best})")
        lines.append((name, f"{other.rows:,}", *cells, *rest))
    head = (
        "table",
        "training rows",
        *(f"`{way}`" for way in ways),
        "scikit-learn's linear model",
        "our network",
        "best",
    )
    return table(head, lines) + _made_by(results)
