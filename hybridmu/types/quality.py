"""Quality of a version: how right its answers are on rows that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class SplitQuality:
    """Quality on one table.

    Attributes:
        split: `test` or `validation`.
        rows: Live rows that were asked about.
        ensemble: Metric → figure of the combined answers; None where it is undefined.
        sub_models: Shard → the same of its sub-model alone; shards without rows are absent.
    """

    split: str
    rows: int
    ensemble: Figures
    sub_models: dict[int, Figures]


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of one version; aggregates alone, nothing of a row.

    Attributes:
        version: Which.
        evaluated_at: When, seconds since the epoch; None while it is not stored.
        seconds: Wall time on the worker.
        splits: One per held-out table; none when it could not be evaluated.
    """

    version: int
    evaluated_at: float | None
    seconds: float
    splits: tuple[SplitQuality, ...] = ()

    def on(self, split: str) -> SplitQuality | None:
        """Return the quality on one table."""
        return next((one for one in self.splits if one.split == split), None)

    @property
    def first(self) -> SplitQuality | None:
        """Return the quality on the test table, or else on validation rows."""
        return self.on("test") or self.on("validation")


@dataclass(frozen=True, slots=True)
class ExpectedQuality:
    """Accuracy before a deletion, and what earlier ones changed; every figure is measured.

    Attributes:
        version: The evaluated version.
        split: `test` or `validation`.
        accuracy: Of its ensemble.
        changes: Accuracy of a version minus that of the one before it, of the last versions, oldest first.
    """

    version: int
    split: str
    accuracy: float
    changes: tuple[float, ...]

    def explain(self) -> str:
        """Return it as one sentence.

        Example:
            >>> ExpectedQuality(3, "test", 0.95, (-0.02, 0.01)).explain()
            'accuracy 95.0 % on test rows now; the last 2 versions changed it by -2.0 to +1.0 points, -0.5 on average'
        """
        return _explained(
            f"accuracy {100 * self.accuracy:.1f} %",
            self.split,
            self.changes,
            lambda one: f"{100 * one:+.1f}",
            " points",
        )


@dataclass(frozen=True, slots=True)
class ExpectedFit:
    """R² before a deletion, and what earlier ones changed; every figure is measured.

    Attributes:
        version: The evaluated version.
        split: `test` or `validation`.
        r2: Of its ensemble; the mean of the targets' where they are several.
        changes: R² of a version minus that of the one before it, of the last versions, oldest first.
        targets: (name, R²) of each where they are several; None where it is undefined.
    """

    version: int
    split: str
    r2: float
    changes: tuple[float, ...]
    targets: tuple[tuple[str, float | None], ...] = ()

    def explain(self) -> str:
        """Return it as one sentence.

        Example:
            >>> ExpectedFit(3, "test", 0.61, (-0.02, 0.01)).explain()
            'R² 0.610 on test rows now; the last 2 versions changed it by -0.020 to +0.010, -0.005 on average'
            >>> ExpectedFit(3, "test", 0.6, (), (("price", 0.8), ("rent", 0.4))).explain()
            'mean R² 0.600 (price 0.800, rent 0.400) on test rows now; no deletion was measured yet'
        """
        said = f"R² {self.r2:.3f}"
        if self.targets:
            each = (f"{name} {'undefined' if one is None else f'{one:.3f}'}" for name, one in self.targets)
            said = f"mean {said} ({', '.join(each)})"
        return _explained(said, self.split, self.changes, lambda one: f"{one:+.3f}", "")


def _explained(figure: str, split: str, changes: Sequence[float], said: Callable[[float], str], unit: str) -> str:
    now = f"{figure} on {split} rows now"
    if not changes:
        return f"{now}; no deletion was measured yet"
    versions = f"the last {len(changes)} versions" if len(changes) > 1 else "the last version"
    between = f"{said(min(changes))} to {said(max(changes))}{unit}"
    return f"{now}; {versions} changed it by {between}, {said(sum(changes) / len(changes))} on average"
