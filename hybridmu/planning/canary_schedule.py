"""Schedule of canary deletions within a budget, and the cells that they do not stand for. Pure.

A cell (first touched slice, share of rows) is measured on several shards, and cells on different ones as far as there
are enough: a revoked row then costs one cell of one shard, and another shard's measurement is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybridmu.types import CalibrationCell, CalibrationCurve

# Shards with less than this share of the largest one's rows are passed over: few canaries tell little.
_SMALLEST = 0.5
# What an even draw from all classes does more seldom than this, over all classes and shards, is not put down to chance.
_CHANCE = 1 / 700
# So much of a class is more than canaries stand for, even by chance.
_MUCH = 0.25


@dataclass(frozen=True)
class Candidate:
    """A shard that votes.

    Attributes:
        shard: Its number.
        counts: Its training rows per slice 1..R.
        ready: Whether canaries can be deleted there now: it is exact, and nothing works on it.
    """

    shard: int
    counts: tuple[int, ...]
    ready: bool = True

    @property
    def rows(self) -> int:
        """Return its training rows."""
        return sum(self.counts)

    def can(self, cell: CalibrationCell) -> bool:
        """Return whether it has a canary for a cell, and rows besides."""
        inside = self.counts[cell.first_slice - 1 : cell.first_slice]
        return self.ready and self.rows > 1 and any(inside)


def grid(slices: int, shares: Sequence[float]) -> tuple[CalibrationCell, ...]:
    """Return the cells that are calibrated: the first slice and the middle one, with every share.

    Example:
        >>> [(cell.first_slice, cell.share) for cell in grid(5, (0.1,))]
        [(1, 0.1), (3, 0.1)]
    """
    return tuple(CalibrationCell(first, share) for first in sorted({1, (slices + 2) // 2}) for share in shares)


def lacking(
    candidates: Sequence[Candidate], curves: Iterable[CalibrationCurve], shares: Sequence[float], per_cell: int
) -> tuple[tuple[int, CalibrationCell], ...]:
    """Return what is to be measured, most urgent first.

    Args:
        candidates: Every shard that votes.
        curves: What is there and can be used.
        shares: Canaries over rows of a shard.
        per_cell: How many shards delete canaries for one cell.

    Returns:
        (shard, cell) pairs, cells without any curve first; never more for a cell than there are shards large enough. A
        curve of a shard that has more slices by now is to be measured again.
    """
    largest = max((candidate.rows for candidate in candidates), default=0)
    fitting = [c for c in candidates if c.rows and c.rows >= _SMALLEST * largest]
    slices = {c.shard: len(c.counts) for c in candidates}
    have: dict[CalibrationCell, set[int]] = {}
    for curve in curves:
        if slices.get(curve.shard, curve.slices) == curve.slices:
            have.setdefault(curve.cell, set()).add(curve.shard)
    load = Counter(shard for shards in have.values() for shard in shards)
    asked: list[tuple[int, int, CalibrationCell]] = []
    for cell in grid(max(len(c.counts) for c in fitting), shares) if fitting else ():
        mine = have.setdefault(cell, set())
        while len(mine) < per_cell:
            free = [c for c in fitting if c.can(cell) and c.shard not in mine]
            if not free:
                break
            chosen = min(free, key=lambda c: (load[c.shard], -c.rows, c.shard)).shard
            asked.append((len(mine), chosen, cell))
            mine.add(chosen)
            load[chosen] += 1
    return tuple((shard, cell) for _, shard, cell in sorted(asked, key=lambda one: one[0]))


def without(curves: Iterable[CalibrationCurve], revoked: Collection[bytes]) -> list[CalibrationCurve]:
    """Return the curves none of whose canaries is revoked."""
    gone = frozenset(revoked)
    return [curve for curve in curves if gone.isdisjoint(curve.keys)]


def affordable(work: float, spent: float, share: float) -> bool:
    """Return whether canaries may be deleted again.

    Args:
        work: Seconds that training and removals took.
        spent: Seconds that deleting canaries again took; the first calibration is not among them.
        share: What may be spent, as a share of the work; what is under way when it is reached is finished.

    Example:
        >>> affordable(100.0, 24.0, 0.25), affordable(100.0, 25.0, 0.25)
        (True, False)
    """
    return spent < share * work


def class_excess(rows: npt.NDArray[np.int64], revoked: npt.NDArray[np.int64], shards: int = 1) -> float:
    """Return by how much the share of a class's rows that is revoked exceeds that of all rows, for the worst class.

    Canaries are drawn evenly: a removal that takes many rows of one class is a larger change of the model than the
    same number of all classes, and neither α nor error hold for it.

    Args:
        rows: int64 [classes], rows that the model holds.
        revoked: int64 [classes], those of them that it has to lose.
        shards: How many are looked at: with ten classes in each of eight, one of the eighty soon stands out by chance.

    Returns:
        In [0, 1]; 0 where no class loses more than chance explains, and none a quarter of itself.

    Example:
        >>> class_excess(np.array([50, 50]), np.array([25, 0])), class_excess(np.array([50, 50]), np.array([6, 4]))
        (0.25, 0.0)
    """
    total, gone = int(rows.sum()), int(revoked.sum())
    if not gone:
        return 0.0
    excess = revoked / np.maximum(rows, 1) - gone / total
    tries = shards * np.count_nonzero(rows)
    rare = even_tail(rows, revoked) * tries < _CHANCE
    return float(np.where(rare | (excess > _MUCH), excess, 0.0).max(initial=0.0))


def even_tail(rows: npt.NDArray[np.int64], revoked: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return how likely an even draw takes at least so many rows of each class.

    Exactly, by the tail of the hypergeometric distribution, since a handful of rows is far from any bell curve;
    `scipy.stats` has it too, and takes a second to load.

    Args:
        rows: int64 [classes], rows that there are.
        revoked: int64 [classes], those that are drawn, without replacement.

    Returns:
        float64 [classes].

    Example:
        >>> even_tail(np.array([5, 5]), np.array([2, 0])).round(4).tolist()
        [0.2222, 1.0]
    """
    total, gone = int(rows.sum()), int(revoked.sum())
    factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, total + 1)))))  # of 0..total, as logarithms

    def ways(of: int, taken: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float64]:
        return np.asarray(factorial[of] - factorial[taken] - factorial[of - taken])

    tails = []
    for held, least in zip(rows.tolist(), revoked.tolist(), strict=True):
        taken = np.arange(max(least, gone - (total - held)), min(held, gone) + 1)
        tails.append(np.exp(ways(held, taken) + ways(total - held, gone - taken) - ways(total, gone)).sum())
    return np.array(tails)
