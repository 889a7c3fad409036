"""Calibration of updates by canaries."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybridmu.types.names import StrategyName

# Steps that are tried. 0 is not among them: an update that does nothing is never offered as unlearning.
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)


@dataclass(frozen=True, slots=True, order=True)
class CalibrationCell:
    """Deletions that one set of canaries stands for.

    Attributes:
        first_slice: First touched slice.
        share: Revoked rows over the rows of the shard.
    """

    first_slice: int
    share: float


@dataclass(frozen=True, slots=True)
class CanaryControls:
    """What updates of one set of canaries are held against, as forget-loss gaps to the exact retrain.

    Attributes:
        nothing: Gap of the model that was left as it was.
        again: Gap of a training from scratch whose rows came in another order.
        again_deviation: Standard deviation of a single canary's gap there.
    """

    nothing: float
    again: float
    again_deviation: float


@dataclass(frozen=True, slots=True)
class CalibrationCurve:
    """What one update did to one shard's canaries, along the grid of steps `ALPHAS`.

    Attributes:
        strategy: The update.
        shard: Shard of the canaries.
        cell: What they stand for.
        slices: R when it was measured.
        gaps: Forget-loss gap of the canaries against the exact oracle, per step.
        deviations: Standard deviation of a single canary's gap, per step.
        accuracy_changes: Sub-model accuracy minus the oracle's on rows never trained on, in [−1, 1], per step.
        canaries: How many there were.
        keys: Digests of their ids and groups: the revocation of one spoils the curve.
        seconds: What measuring all updates on these canaries took.
        controls: The same for all updates of the set; None: not measured.
    """

    strategy: StrategyName
    shard: int
    cell: CalibrationCell
    slices: int
    gaps: tuple[float, ...]
    deviations: tuple[float, ...]
    accuracy_changes: tuple[float, ...]
    canaries: int
    keys: tuple[bytes, ...] = ()
    seconds: float = 0.0
    controls: CanaryControls | None = None


@dataclass(frozen=True, slots=True)
class RetrainNoise:
    """How far apart two exact trainings are on the rows that both forgot, when the order of the rest differs.

    Attributes:
        common: Root mean square of what all rows share: one model is a little better than the other.
        single: Standard deviation of a single row's gap.
        pairs: How many pairs of trainings it rests on.
        fewest: Rows of the smallest deletion among them.
    """

    common: float
    single: float
    pairs: int
    fewest: int

    def of(self, rows: int) -> float:
        """Return the root mean square of the forget-loss gap of a deletion of so many rows, or of `fewest`.

        Example:
            >>> RetrainNoise(0.03, 0.4, pairs=8, fewest=10).of(100)
            0.05
        """
        return math.hypot(self.common, self.single / math.sqrt(max(rows, self.fewest)))


@dataclass(frozen=True, slots=True)
class CalibrationBucket:
    """α and its error for one cell, fitted from the curves of the shards that deleted canaries.

    Attributes:
        strategy: Which update was calibrated.
        first_slice: First touched slice of the canaries.
        share: Canaries over rows of the shard.
        alpha: The fitted step.
        error: Predicted size of a deletion's forget-loss gap at that step (root mean square), plus accuracy lost.
        accuracy_change: Sub-model accuracy minus the oracle's on rows never trained on, in [−1, 1].
        canaries: How many rows it rests on, in all shards.
        spread: What has to be added to `error` so that nine of ten deletions stay below.
        alpha_range: Steps that the same canaries would allow as well, lowest and highest.
        shards: How many shards deleted canaries.
        deviation: Standard deviation of a single row's gap; a deletion of fewer rows than were canaries in a shard
            spreads more.
        nothing: Size of the gap that doing nothing left (root mean square); None: not measured.
    """

    strategy: StrategyName
    first_slice: int
    share: float
    alpha: float
    error: float
    accuracy_change: float
    canaries: int = 0
    spread: float = 0.0
    alpha_range: tuple[float, float] = (0.0, 0.0)
    shards: int = 1
    deviation: float = 0.0
    nothing: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """All buckets.

    Attributes:
        buckets: What was fitted.
        waiting: Cells without a bucket, since no canary was deleted yet, or those of it were revoked; they are measured
            when nothing else is to do.
        noise: What two exact trainings differ by; None: not measured.
        needless: Why no canary is deleted, where no update could be chosen however good it were; empty otherwise.
    """

    buckets: tuple[CalibrationBucket, ...] = ()
    waiting: tuple[CalibrationCell, ...] = ()
    noise: RetrainNoise | None = None
    needless: str = ""


@dataclass(frozen=True, slots=True)
class CalibrationEstimate:
    """What the buckets around a deletion say of it.

    Attributes:
        alpha: Step of the subtraction.
        alpha_range: Steps that the canaries would allow as well, lowest and highest.
        error: Predicted size of the forget-loss gap.
        spread: What is added so that nine of ten deletions stay below; the quality guard counts the sum.
        canaries: Canaries of all buckets that were used.
        shards: Shards that deleted them: the fewest of any bucket.
        cells: The buckets that were used.
        outside: How the deletion lies outside of the calibrated range; empty when it does not.
        helps: Whether canaries ended nearer to the retrain than by doing nothing, in every bucket that was used.
    """

    alpha: float
    alpha_range: tuple[float, float]
    error: float
    spread: float
    canaries: int
    shards: int
    cells: tuple[CalibrationCell, ...]
    outside: tuple[str, ...] = ()
    helps: bool = False

    @property
    def bound(self) -> float:
        """Return the error that the quality guard counts."""
        return self.error + self.spread


@dataclass(frozen=True, slots=True)
class CalibrationOutcome:
    """What a `calibrate` job measured on its shard; no curve of a cell for which the shard has too few rows."""

    job_id: str
    shard: int
    curves: tuple[CalibrationCurve, ...]
    seconds: float = 0.0
