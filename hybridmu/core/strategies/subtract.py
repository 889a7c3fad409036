"""Subtraction: take the revoked rows out of a shard's integer sums, and solve again.

Exact for models that are functions of sums over rows (`core/closed_form/`): what is left are the sums over the live
rows, to the last bit, and so are the weights. The cost depends on the revoked rows alone, not on how many stay (the
summation form of learning: Cao & Yang 2015).
"""

from __future__ import annotations

import numpy as np

from hybridmu.core.closed_form.closed_form_model import closed_form_of
from hybridmu.core.closed_form.exact_solver import IllConditionedError
from hybridmu.core.kernel.model import state_of
from hybridmu.core.kernel.rows import Positions
from hybridmu.core.strategies.removal import Context, Extent, Removal, Result, Work
from hybridmu.errors import StrategyUnavailableError


class Subtract(Removal):
    """Exact subtraction from integer sums."""

    name = "subtract"
    exact = True
    learner = "additive"
    blind = True
    rank = 90
    colour = "#3caea3"

    def run(self, context: Context) -> Result:
        """Subtract the sums over the revoked rows, and solve for the weights.

        Args:
            context: `current` is the exact model of the live and the revoked rows.

        Returns:
            The state; bitwise what counting the live rows gives.

        Raises:
            StrategyUnavailableError: `current` is of other rows, or its sums and the penalty allow no solution.
        """
        model = context.fresh_model()
        assert context.current is not None
        model.load_state_dict(context.current)
        found = closed_form_of(model)
        held = found.held
        stays = len(context.live) if context.remaining is None else context.remaining
        if held.rows != stays + len(context.revoked):  # the rows themselves were compared by their lineage
            raise StrategyUnavailableError(
                "the current sums are of other rows",
                expected=f"{stays + len(context.revoked):,} rows",
                got=f"{held.rows:,}",
                remedy="use strategy retrain",
            )
        try:
            found.hold(held - found.sums(context.revoked.x, context.revoked.y))
        except (IllConditionedError, OverflowError) as error:
            raise StrategyUnavailableError(
                "the sums that are left have no solution", got=str(error), remedy="use strategy retrain"
            ) from None
        return Result(state_of(model), int(context.revoked.slice[0]), len(context.revoked))

    def work(self, extent: Extent) -> Work:
        """Return one visit per revoked row; one checkpoint is read, and one written."""
        revoked = sum(extent.stats.newly_revoked)
        return Work(revoked, 2, revoked)

    def reads(self, context: Context) -> Positions:
        """Return that no live row is read."""
        return np.zeros(0, np.int64)
