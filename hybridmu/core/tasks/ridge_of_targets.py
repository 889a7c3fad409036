"""Task `ridge` where several numbers of a row are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from hybridmu.core.closed_form.linear_models import RidgeRegressor
from hybridmu.core.closed_form.several_targets import RidgeOfSeveral
from hybridmu.core.tasks.closed_form_tasks import LinearTask, RidgeOfNumbers
from hybridmu.core.tasks.regressions import Regressions
from hybridmu.errors import ConfigError


class RidgeOfTargets(RidgeOfNumbers):
    """Ridge regression of several numbers at once.

    Args:
        targets: Their columns, at least two.
        target_scale: Target → factor: times it, a target is a number from −1 to 1; what is beyond counts as −1 or 1.
            One number is the factor of all.
        options: As of `LinearTask`.
    """

    kind: ClassVar[type[RidgeRegressor]] = RidgeOfSeveral

    def __init__(self, targets: Sequence[str], target_scale: float | Mapping[str, float] = 1.0, **options: Any) -> None:
        LinearTask.__init__(self, **options)
        scales = dict(target_scale) if isinstance(target_scale, Mapping) else dict.fromkeys(targets, target_scale)
        if {*scales} != {*targets}:
            raise ConfigError(
                "task.target_scale does not say the factor of every target, and of nothing else",
                expected=f"one number, or one of each: {', '.join(targets)}",
                got=", ".join(scales) or "none",
            )
        self.judgement = Regressions(targets)  # type: ignore[misc]  # of their names, not of the class
        self.target_scales = tuple(RidgeOfNumbers(scales[target]).target_scale for target in targets)

    @property
    def _more(self) -> dict[str, Any]:
        return {"scales": self.target_scales}

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared residual, each in its target's unit.

        Args:
            answers: Value and unit of each target in turn, float32 [batch, 2 · targets].
            targets: float32 [batch, targets].
        """
        return ((answers[:, 0::2] - targets) / answers[:, 1::2]).square().mean()
