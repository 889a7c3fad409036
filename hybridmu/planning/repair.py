"""Time of the exact retrain of a shard that an update changed. Pure.

An approximate removal owes an exact one (the pattern of certified removal, Guo et al., arXiv 1911.03030: accumulate an
error, retrain when it passes its budget).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Repair = Literal["idle", "deadline"]


@dataclass(frozen=True)
class Debt:
    """Exact retrain that one shard owes.

    Attributes:
        shard: Shard number.
        error_spent: Predicted forget-loss error since its last exact run.
        slack: Seconds until the earliest deadline of a request that waits for the exact removal; None without one.
        estimated_seconds: Predicted seconds of the exact retrain.
    """

    shard: int
    error_spent: float
    slack: float | None
    estimated_seconds: float


def repair_due(debt: Debt, when: Repair, idle: bool, quality_budget: float, margin: float) -> str | None:
    """Return why a shard is repaired now, or None while it may wait.

    Args:
        debt: What the shard owes.
        when: `idle`: as soon as no request waits; `deadline`: only when the deadline comes near.
        idle: Whether no request waits.
        quality_budget: Error that a shard may owe.
        margin: Safety factor on the estimate.

    Returns:
        A reason, or None.

    Example:
        >>> repair_due(Debt(0, 0.01, 30.0, 2.0), "deadline", True, 0.1, 2.0) is None
        True
        >>> repair_due(Debt(0, 0.01, 3.0, 2.0), "deadline", False, 0.1, 2.0)
        'deadline: 3.0 s left for about 2.0 s of work'
    """
    if debt.slack is not None and debt.slack <= margin * debt.estimated_seconds:
        return f"deadline: {debt.slack:.1f} s left for about {debt.estimated_seconds:.1f} s of work"
    if debt.error_spent > quality_budget:
        return f"quality: owed forget-loss error {debt.error_spent:.3f} > budget {quality_budget:g}"
    return "idle: no request waits" if idle and when == "idle" else None
