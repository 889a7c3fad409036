"""Exact count of the sample visits that a removal causes (ours, after arXiv 2412.14505's "retraining workload").

W_s(U) = Σ_{i=r..R} e_i · Σ_{j≤i} (n_{s,j} − |U_{s,j}|), with r the first touched slice, lowered to the slice after
the last clean checkpoint that still exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybridmu.types import ShardStats


@dataclass(frozen=True)
class Workload:
    """Work of each strategy on one shard.

    Attributes:
        first_touched: First slice with a revoked row; R + 1 when none.
        first_trained: Where a retrain starts; R + 1 when nothing is to be trained.
        retrain_visits: W_s(U).
        full_visits: W_s of training the whole shard without U.
        first_new: First slice with a newly revoked row, where an update starts; R + 1 when none.
        gradient_visits: Σ_{i ≥ first_new} |new U up to i| + |new U|, gradients of the update.
    """

    first_touched: int
    first_trained: int
    retrain_visits: int
    full_visits: int
    first_new: int
    gradient_visits: int

    @property
    def ratio(self) -> float:
        """Return ρ = retrain_visits / full_visits; 0 for an emptied shard."""
        return self.retrain_visits / self.full_visits if self.full_visits else 0.0


def count(stats: ShardStats) -> Workload:
    """Count the visits of one shard.

    Args:
        stats: Rows and revocations per slice, existing clean checkpoints.

    Returns:
        Exact integers.

    Example:
        >>> stats = ShardStats(0, (2, 2), (10, 10), (0, 1), (0, 1), (True, False))
        >>> count(stats)
        Workload(first_touched=2, first_trained=2, retrain_visits=38, full_visits=58, first_new=2, gradient_visits=2)
    """
    slices = len(stats.epochs)
    epochs = np.asarray(stats.epochs, dtype=np.int64)
    revoked = np.asarray(stats.revoked, dtype=np.int64)
    seen = np.cumsum(np.asarray(stats.rows, dtype=np.int64) - revoked)
    fresh = np.asarray(stats.newly_revoked, dtype=np.int64)
    first_touched, first_new = _first(revoked), _first(fresh)
    clean = max((i for i in range(1, slices + 1) if stats.clean[i - 1] and i < first_touched), default=0)
    return Workload(
        first_touched=first_touched,
        first_trained=clean + 1,
        retrain_visits=int((epochs * seen)[clean:].sum()),
        full_visits=int((epochs * seen).sum()),
        first_new=first_new,
        gradient_visits=int(np.cumsum(fresh)[first_new - 1 :].sum() + fresh.sum()),
    )


def _first(per_slice: npt.NDArray[np.int64]) -> int:
    touched = np.flatnonzero(per_slice)
    return int(touched[0]) + 1 if len(touched) else len(per_slice) + 1
