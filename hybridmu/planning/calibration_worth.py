"""Worth of canary deletions: whether any update could ever be chosen, were it without error. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hybridmu.core.strategies import asks_exact
from hybridmu.planning.cost import CostModel
from hybridmu.planning.planner import Policy, Pools, make_plan
from hybridmu.types import Calibration, CalibrationBucket, CalibrationCell, ShardStats


def needless(
    counts: Sequence[int], epochs: Sequence[int], cell: CalibrationCell, cost: CostModel, policy: Policy
) -> str | None:
    """Return why canaries for a cell could not change any decision; None when they could.

    The deletion of one row of the cell's first slice is planned as if every update were perfect. Its retrain is the
    dearest of all that the cell stands for, and its update the cheapest: where the planner retrains even then, what
    canaries say is never asked for.

    Args:
        counts: Training rows per slice 1..R of the shard, the largest one.
        epochs: e_i of these slices.
        cell: First touched slice and share of the rows.
        cost: Fitted costs.
        policy: Boundary figures.
    """
    slices = len(counts)
    gone = tuple(int(at == cell.first_slice) for at in range(1, slices + 1))
    stats = ShardStats(0, tuple(epochs), tuple(counts), gone, gone, (True,) * slices)
    perfect = Calibration(
        tuple(
            CalibrationBucket(name, cell.first_slice, cell.share, 1.0, 0.0, 0.0, canaries=1_000_000)
            for name in policy.approximate
        )
    )
    [plan] = make_plan([stats], cost, policy, Pools(1, 1), perfect).shards
    return plan.reasons[-1] if asks_exact(plan.strategy) else None
