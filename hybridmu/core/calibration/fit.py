"""Fitting α and its error from canary deletions, and what the fit says of another deletion.

Each calibrating shard deletes canaries for one cell, a first touched slice and a share of rows, and measures the
forget-loss gap of an update along a grid of steps (`core.canaries`). Merging the curves of several shards, α is where
the mean gap crosses zero. The gaps that are left there are taken as draws from one distribution per update, whose
prediction interval gives the error: nine of ten deletions stay below `error + spread`, the fewer curves the wider.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hybridmu.core import strategies
from hybridmu.types import (
    ALPHAS,
    Calibration,
    CalibrationBucket,
    CalibrationCell,
    CalibrationCurve,
    CalibrationEstimate,
    RetrainNoise,
)

# Student's t, two-sided 90 %, by degrees of freedom 1, 2, …; for more of them the last one, which is a little too wide.
_T90 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
# Nine of ten draws from a bell curve lie within so many of its deviations.
NINE_OF_TEN = 1.645
# A deletion of exactly a calibrated share may come out a row larger or smaller.
_ROUNDING = 1.2


def usable(curve: CalibrationCurve) -> bool:
    """Return whether everything in a curve was measured; a gap that is no number counts as unknown."""
    along = (curve.gaps, curve.deviations, curve.accuracy_changes)
    controls = () if curve.controls is None else astuple(curve.controls)
    numbers = (curve.cell.share, curve.seconds, *controls, *(value for values in along for value in values))
    whole = all(len(values) == len(ALPHAS) for values in along) and curve.canaries > 0 and curve.cell.share > 0
    return whole and curve.seconds >= 0 and all(map(math.isfinite, numbers)) and _is_calibrated(curve.strategy)


def _is_calibrated(strategy: str) -> bool:
    return strategy in strategies.names() and strategies.get(strategy).calibrated


def fit(curves: Iterable[CalibrationCurve]) -> Calibration:
    """Merge the curves of several shards.

    Args:
        curves: Of any shards.

    Returns:
        One bucket per (update, cell). α is where the mean gap, weighted by canaries, crosses zero (the step of the
        smallest mean gap if it does not). Its error is the root mean square of the gaps at α over all cells of the
        update, but at least the cell's own and that of so many canaries, plus what accuracy is lost; a single curve
        has nothing but its canaries to tell the spread from.
    """
    by_update: dict[str, dict[CalibrationCell, list[CalibrationCurve]]] = {}
    canaries: dict[tuple[int, CalibrationCell], CalibrationCurve] = {}
    for curve in curves:
        by_update.setdefault(curve.strategy, {}).setdefault(curve.cell, []).append(curve)
        canaries[curve.shard, curve.cell] = curve
    buckets = (bucket for _, cells in sorted(by_update.items()) for bucket in _fit(cells))
    return Calibration(tuple(buckets), noise=noise_of(canaries.values()))


def noise_of(curves: Iterable[CalibrationCurve]) -> RetrainNoise | None:
    """Return what two exact trainings differ by, when the order of the rows differs.

    Args:
        curves: One per set of canaries.

    Returns:
        The mean gap of n rows has a variance of common² + single²/n: `single` is what the rows of each set show, and
        `common` what is left of the squared means, of which those of many rows tell more. None where no set of canaries
        was trained without twice.
    """
    known = [(curve.controls, curve.canaries) for curve in curves if curve.controls]
    if not known:
        return None
    rows = [canaries for _, canaries in known]
    single = float(np.average([control.again_deviation**2 for control, _ in known], weights=rows))
    common = float(np.average([control.again**2 - single / canaries for control, canaries in known], weights=rows))
    return RetrainNoise(math.sqrt(max(0.0, common)), math.sqrt(single), len(known), min(rows))


def _fit(cells: dict[CalibrationCell, list[CalibrationCurve]]) -> list[CalibrationBucket]:
    """Return the buckets of one update."""
    merged = {cell: _Merged(group) for cell, group in sorted(cells.items())}
    freedom = sum(cell.freedom for cell in merged.values())
    squares = sum(float(np.square(cell.gaps).sum()) for cell in merged.values())
    pooled = math.sqrt(squares / freedom) if freedom else 0.0
    t = _T90[min(max(freedom, 1), len(_T90)) - 1]
    return [one.bucket(cell, pooled, t) for cell, one in merged.items()]


class _Merged:
    """The curves of one cell.

    Args:
        group: One per shard.
    """

    def __init__(self, group: Sequence[CalibrationCurve]) -> None:
        self.group = group
        self.strategy = group[0].strategy
        weights = [curve.canaries for curve in group]
        self.mean = np.average([curve.gaps for curve in group], axis=0, weights=weights)
        # An update that takes no step has only its error to be learned.
        self.stepless = not strategies.get(self.strategy).steps
        self.alpha = 1.0 if self.stepless else _zero(self.mean)
        self.gaps = self._at([curve.gaps for curve in group])
        self.freedom = len(group) - (not self.stepless)  # a fitted step takes one

    def bucket(self, cell: CalibrationCell, pooled: float, t: float) -> CalibrationBucket:
        """Return the bucket.

        Args:
            cell: What the canaries stood for.
            pooled: Root mean square of the gaps at α, over all cells.
            t: Quantile that goes with it.
        """
        group, shards = self.group, len(self.group)
        deviations = self._at([curve.deviations for curve in group])
        deviation = float(np.sqrt(np.mean(np.square(deviations))))
        canaries = sum(curve.canaries for curve in group)
        own = float(np.sqrt(np.mean(np.square(self.gaps))))
        sigma = max(pooled, own, deviation / math.sqrt(canaries / shards))
        change = float(np.mean(self._at([curve.accuracy_changes for curve in group])))
        around = t * sigma / math.sqrt(shards)
        idle = [curve.controls.nothing for curve in group if curve.controls]
        return CalibrationBucket(
            strategy=self.strategy,
            first_slice=cell.first_slice,
            share=cell.share,
            alpha=self.alpha,
            error=sigma + max(0.0, -change),
            accuracy_change=change,
            canaries=canaries,
            spread=sigma * (t * math.sqrt(1 + 1 / shards) - 1),
            alpha_range=(1.0, 1.0) if self.stepless else (_zero(self.mean + around), _zero(self.mean - around)),
            shards=shards,
            deviation=deviation,
            nothing=float(np.sqrt(np.mean(np.square(idle)))) if idle else None,
        )

    def _at(self, values: Sequence[Sequence[float]]) -> list[float]:
        return [float(np.interp(self.alpha, ALPHAS, along)) for along in values]


def estimate(
    calibration: Calibration, strategy: str, first_slice: int, share: float, rows: int
) -> CalibrationEstimate | None:
    """Return what the buckets around a deletion say of it.

    Args:
        calibration: Fitted buckets.
        strategy: The update.
        first_slice: First touched slice.
        share: Revoked rows over the rows of the shard.
        rows: Revoked rows.

    Returns:
        α, interpolated between first slices and between logarithms of shares, and the largest error of the buckets
        used. Outside of the calibrated range the nearest bucket is used, and a larger share takes its error in
        proportion. Fewer rows than there were canaries in a shard spread more, more rows less. None without any bucket,
        or where the error is beyond every number.
    """
    known = {(b.first_slice, b.share): b for b in calibration.buckets if b.strategy == strategy}
    if not known:
        return None
    share = max(share, 1e-9)
    used: list[tuple[CalibrationBucket, float]] = []
    slices = sorted({at for at, _ in known})
    for n, weight in _between(slices, first_slice):
        shares = sorted(each for at, each in known if at == slices[n])
        logs = [math.log(each) for each in shares]
        used += [(known[slices[n], shares[k]], weight * part) for k, part in _between(logs, math.log(share))]
    beyond = max(1.0, share / max(bucket.share for bucket, _ in used))
    error, spread = max((_of_rows(bucket, rows) for bucket, _ in used), key=sum)
    if not math.isfinite((error + spread) * beyond):
        return None
    low, high = (sum(weight * bucket.alpha_range[end] for bucket, weight in used) for end in (0, 1))
    return CalibrationEstimate(
        alpha=sum(weight * bucket.alpha for bucket, weight in used),
        alpha_range=(low, high),
        error=error * beyond,
        spread=spread * beyond,
        canaries=sum(bucket.canaries for bucket, _ in used),
        shards=min(bucket.shards for bucket, _ in used),
        cells=tuple(sorted(CalibrationCell(bucket.first_slice, bucket.share) for bucket, _ in used)),
        outside=_outside([bucket for bucket, _ in used], first_slice, share),
        helps=all(bucket.nothing is not None and bucket.error < bucket.nothing for bucket, _ in used),
    )


def _of_rows(bucket: CalibrationBucket, rows: int) -> tuple[float, float]:
    """Return (error, spread) for a deletion of so many rows: the mean of fewer gaps varies more, that of more less.

    Of more rows than there were canaries, what single rows are known to vary less is taken out of the squares of the
    error and of the bound. What canaries left unsure of the rest stays.
    """
    own = bucket.deviation / math.sqrt(max(1, bucket.canaries) / bucket.shards)
    now = bucket.deviation / math.sqrt(max(1, rows))
    error, bound = bucket.error, bucket.error + bucket.spread
    if now > own:
        more = now**2 - own**2
        error, bound = math.sqrt(error**2 + more), math.sqrt(bound**2 + 4 * more)
    else:
        less = own**2 - now**2
        error = math.sqrt(max(min(now, error) ** 2, error**2 - less))
        bound = math.sqrt(max(error**2, bound**2 - NINE_OF_TEN**2 * less))
    return error, bound - error


def _outside(used: Sequence[CalibrationBucket], first_slice: int, share: float) -> tuple[str, ...]:
    """Return how a deletion lies outside of the range that buckets span."""
    found = []
    if first_slice > (last := max(bucket.first_slice for bucket in used)):
        found.append(f"it begins in slice {first_slice}, calibrated up to {last}")
    if first_slice < (first := min(bucket.first_slice for bucket in used)):
        found.append(f"it begins in slice {first_slice}, calibrated from {first} on")
    if share > (most := max(bucket.share for bucket in used)) * _ROUNDING:
        found.append(f"{share:.1%} of rows, calibrated up to {most:.1%}: the error grows in proportion")
    if share * _ROUNDING < (least := min(bucket.share for bucket in used)):
        found.append(f"{share:.2%} of rows, calibrated from {least:.2%} on")
    return tuple(found)


def _between(points: Sequence[float], at: float) -> list[tuple[int, float]]:
    """Return the positions of the neighbours of `at` in a rising sequence with their weights; beyond it, its end."""
    above = bisect.bisect_left(points, at)
    if above == len(points) or above == 0 or points[above] == at:
        return [(min(above, len(points) - 1), 1.0)]
    part = (at - points[above - 1]) / (points[above] - points[above - 1])
    return [(above - 1, 1 - part), (above, part)]


def _zero(gaps: npt.NDArray[np.float64]) -> float:
    for (low, a), (high, b) in pairwise(zip(ALPHAS, gaps, strict=True)):
        if a <= 0 < b:
            return float(low + (high - low) * -a / (b - a))
    return ALPHAS[int(np.argmin(np.abs(gaps)))]
