"""Requirements of updates on a model: gradients of its loss, and for some second derivatives of its logits."""

from __future__ import annotations

import torch

from hybridmu.core.kernel.gradients import gradients_of
from hybridmu.core.kernel.model import SubModel
from hybridmu.core.kernel.training import trained
from hybridmu.core.strategies.curvature import gauss_newton
from hybridmu.core.tasks.base import Task
from hybridmu.types import StrategyName
from hybridmu.user_code import contained, told

_BY_GRADIENTS: tuple[StrategyName, ...] = ("dpus", "dpus-optimised", "dpus-newton")


def unfit_updates(model: SubModel, task: Task, features: int) -> dict[StrategyName, str]:
    """Try what updates need on two rows of zeros.

    Args:
        model: Untrained, on the CPU; it is left in evaluation mode.
        task: Supplies the loss.
        features: Encoded width.

    Returns:
        Update → why it can't be used with this model; nothing where the model can't tell, since it does not take zeros.
    """
    parameters = trained(model)
    if not parameters:
        return dict.fromkeys(_BY_GRADIENTS, "the model has no parameter that is trained")
    x, y = torch.zeros(2, features), torch.zeros(2, dtype=torch.int64)
    try:
        with torch.random.fork_rng(devices=[]), contained():
            task.loss(model.eval()(x), y)
    except Exception:  # of the user's code, which no real row may raise
        return {}
    try:
        with contained():
            gradients_of(model, task, parameters)(x, y)
    except Exception as error:
        return dict.fromkeys(_BY_GRADIENTS, f"the model's loss has no gradient in evaluation mode: {told(error)}")
    try:
        with contained():
            gauss_newton(model, x)([torch.zeros_like(parameter) for parameter in parameters])
    except Exception as error:
        return {"dpus-newton": f"a layer of the model has no second derivative: {told(error)}"}
    return {}
